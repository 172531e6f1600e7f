//! What the planner is told: an image that does not vary by row is worked on once, not per row.
//!
//! Without this, `ORDER BY embedding <-> embed_image($1)` over a table would look as dear as an
//! inference per row, and draw in JIT compilation and parallel workers that each load the model.

use super::functions::Finished;
use pgrx::prelude::*;
use pgrx::{Internal, is_a, pg_sys};

/// What the install script says in COST.
const INFERENCE_COST: f64 = 100_000.0;
/// Cost of answering a row from the call site's cache, in units of cpu_operator_cost.
const REPEATED_CALL_COST: f64 = 10.0;

/// Planner support function of embed_image and try_embed_image (supportnodes.h). "Nothing to say" is
/// a null pointer, which is not SQL's NULL.
#[pg_extern]
fn lookbook_vision_support(request: Internal) -> Finished {
    let answer = request
        .unwrap()
        .and_then(|request| cost(request.cast_mut_ptr()));
    Finished(Some(answer.unwrap_or(pg_sys::Datum::null())))
}

/// Fills a SupportRequestCost for a call whose arguments are the same for every row.
fn cost(request: *mut pg_sys::SupportRequestCost) -> Option<pg_sys::Datum> {
    // SAFETY: the planner passes a node; its tag is checked before it is read as a cost request, and
    // the call in it before that is read as a function call.
    unsafe {
        if !is_a(request.cast(), pg_sys::NodeTag::T_SupportRequestCost) {
            return None;
        }
        let call: *mut pg_sys::FuncExpr = (*request).node.cast();
        if call.is_null() || !is_a(call.cast(), pg_sys::NodeTag::T_FuncExpr) {
            return None;
        }
        let arguments: *mut pg_sys::Node = (*call).args.cast();
        if pg_sys::contain_var_clause(arguments) || pg_sys::contain_volatile_functions(arguments) {
            return None;
        }
        let inference = INFERENCE_COST * pg_sys::cpu_operator_cost;
        (*request).startup = inference;
        (*request).per_tuple = REPEATED_CALL_COST * pg_sys::cpu_operator_cost;
        Some(pg_sys::Datum::from(request))
    }
}
