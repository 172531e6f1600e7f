//! `avg` and `sum`. The state is a `double precision[]`: the number of values, then the sum of each
//! element, as in pgvector; it starts as `{0}`, before the dimensions are known. Sums stay in double
//! precision to the end, so that order and parallel workers matter little.

use super::arrays::{NewArray, SqlArray};
use super::errors::{OrReport, raise};
use super::{Embedding, NewEmbedding};
use lookbook_vecmath::{check_dimensions, sums};
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, pg_sys};
use std::ptr;

#[pg_extern]
fn embedding_accum<'a>(
    mut state: SqlArray<'a>,
    value: Embedding<'a>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> SqlArray<'a> {
    let (count, sums) = expect_state(&state, "embedding_accum");
    if !sums.is_empty() && is_aggregate(fcinfo) {
        // SAFETY: PostgreSQL lets an aggregate change its transition state in place.
        if let Some([count, sums @ ..]) = unsafe { state.elements_mut::<f64>() } {
            *count += 1.0;
            sums::accumulate(sums, &value).or_report();
        }
        return state;
    }
    let dimensions = if sums.is_empty() {
        value.len()
    } else {
        sums.len()
    };
    let mut new = NewArray::zeroed(1 + dimensions);
    let (new_count, new_sums) = split(new.elements_mut());
    *new_count = count + 1.0;
    if !sums.is_empty() {
        sums::add(new_sums, sums).or_report();
    }
    sums::accumulate(new_sums, &value).or_report();
    new.into()
}

#[pg_extern]
fn embedding_combine<'a>(a: SqlArray<'a>, b: SqlArray<'a>) -> SqlArray<'a> {
    let (count_a, sums_a) = expect_state(&a, "embedding_combine");
    let (count_b, sums_b) = expect_state(&b, "embedding_combine");
    let longer = sums_a.len().max(sums_b.len());
    if longer > 0 {
        check_dimensions(longer).or_report();
    }
    let mut new = NewArray::zeroed(
        1 + if sums_a.is_empty() {
            sums_b.len()
        } else {
            sums_a.len()
        },
    );
    let (new_count, new_sums) = split(new.elements_mut());
    *new_count = count_a + count_b;
    for sums in [sums_a, sums_b].into_iter().filter(|sums| !sums.is_empty()) {
        sums::add(new_sums, sums).or_report();
    }
    new.into()
}

#[pg_extern]
fn embedding_avg<'a>(state: SqlArray<'a>) -> Option<NewEmbedding<'a>> {
    let (count, sums) = expect_state(&state, "embedding_avg");
    finish(count, sums, count)
}

#[pg_extern]
fn embedding_sum<'a>(state: SqlArray<'a>) -> Option<NewEmbedding<'a>> {
    let (count, sums) = expect_state(&state, "embedding_sum");
    finish(count, sums, 1.0)
}

/// SQL defines both aggregates of no values to be NULL.
fn finish<'a>(count: f64, sums: &[f64], divisor: f64) -> Option<NewEmbedding<'a>> {
    (count != 0.0).then(|| {
        let mut result = NewEmbedding::zeroed(sums.len());
        sums::divide(sums, divisor, result.elements_mut()).or_report();
        result
    })
}

/// Number of values and sums of elements. The functions are callable from SQL, with any array.
fn expect_state<'a>(state: &'a SqlArray<'_>, caller: &str) -> (f64, &'a [f64]) {
    match state.elements() {
        Some([count, sums @ ..]) if state.axes() == 1 => (*count, sums),
        _ => raise(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("{caller}: expected state array"),
        ),
    }
}

fn split(state: &mut [f64]) -> (&mut f64, &mut [f64]) {
    state
        .split_first_mut()
        .unwrap_or_else(|| unreachable!("a state array is never empty"))
}

fn is_aggregate(fcinfo: pg_sys::FunctionCallInfo) -> bool {
    // SAFETY: the call that is being answered.
    unsafe { pg_sys::AggCheckCallContext(fcinfo, ptr::null_mut()) != 0 }
}
