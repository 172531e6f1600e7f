//! `lookbook_is_new`: which rows of a scan, nearest first, are the first of their product and no
//! near-duplicate of one before. A window aggregate, so that the scan goes no further than its reader.

use super::Embedding;
use super::errors::{OrReport, raise};
use lookbook_vecmath::distance;
use pgrx::prelude::*;
use pgrx::{Internal, PgMemoryContexts, PgSqlErrorCode, pg_sys};
use std::collections::{HashSet, VecDeque};
use std::ptr;

/// What the rows so far have shown.
#[derive(Default)]
struct Seen {
    products: HashSet<Box<str>>,
    /// Distances to the query and vectors of the rows that a later one may duplicate.
    looks: VecDeque<(f64, Box<[f32]>)>,
    is_new: bool,
}

impl Seen {
    fn see(&mut self, product: &str, look: &[f32], distance: f64, fold: Option<f64>) -> bool {
        if !self.products.insert(product.into()) {
            return false;
        }
        let Some(fold) = fold else {
            return true;
        };
        // Triangle inequality: what is more than fold nearer to the query than this row is no
        // duplicate of it, nor of any row behind it.
        while self
            .looks
            .front()
            .is_some_and(|(nearer, _)| *nearer < distance - fold)
        {
            self.looks.pop_front();
        }
        let is_duplicate = self
            .looks
            .iter()
            .any(|(_, kept)| distance::l2(kept, look).or_report() <= fold);
        if !is_duplicate {
            self.looks.push_back((distance, look.into()));
        }
        !is_duplicate
    }
}

#[pg_extern]
fn lookbook_see(
    mut seen: Internal,
    product: Option<&str>,
    look: Option<Embedding<'_>>,
    distance: Option<f64>,
    fold: Option<f64>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Internal {
    if !seen.initialized() {
        let mut context = PgMemoryContexts::For(state_context(fcinfo));
        // SAFETY: PostgreSQL's own context, which outlives the call.
        seen = unsafe { context.switch_to(|_| Internal::new(Seen::default())) };
    }
    // SAFETY: a state of this aggregate, which is only ever made here.
    if let Some(seen) = unsafe { seen.get_mut::<Seen>() } {
        seen.is_new = match (product, look, distance) {
            (Some(product), Some(look), Some(distance)) => seen.see(product, &look, distance, fold),
            _ => false,
        };
    }
    seen
}

#[pg_extern]
fn lookbook_seen_is_new(seen: Internal) -> bool {
    // SAFETY: as above.
    unsafe { seen.get::<Seen>() }.is_some_and(|seen| seen.is_new)
}

/// The memory that lives as long as the aggregate's state.
fn state_context(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::MemoryContext {
    let mut context = ptr::null_mut();
    // SAFETY: the call that is being answered.
    if unsafe { pg_sys::AggCheckCallContext(fcinfo, &mut context) } == 0 {
        raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "lookbook_see is a part of the aggregate lookbook_is_new".to_owned(),
        );
    }
    context
}
