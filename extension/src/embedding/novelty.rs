//! `lookbook_is_new`: which rows of a scan, nearest first, are the first of their product and no
//! near-duplicate of one before. A window aggregate, so that the scan goes no further than its reader.

use super::Embedding;
use super::errors::{OrReport, raise};
use lookbook_vecmath::distance;
use pgrx::prelude::*;
use pgrx::{Internal, PgMemoryContexts, PgSqlErrorCode, pg_sys};
use std::collections::{HashSet, VecDeque};
use std::ptr;

/// Dimensions that are compared first.
const GLANCE: usize = 32;

/// What the rows so far have shown.
#[derive(Default)]
struct Seen {
    products: HashSet<Box<str>>,
    /// Of the rows that a later one may duplicate.
    looks: VecDeque<Look>,
    is_new: bool,
}

struct Look {
    /// To the query.
    distance: f64,
    /// Of the look, lying together with those of others: they tell most looks apart.
    glance: [f32; GLANCE],
    look: Box<[f32]>,
}

impl Seen {
    fn see(&mut self, product: &str, look: &[f32], distance: f64, fold: Option<f64>) -> bool {
        if !self.products.insert(product.into()) {
            return false;
        }
        let Some(fold) = fold else {
            return true;
        };
        if !(0.0..f64::INFINITY).contains(&fold) {
            raise(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("fold must be a distance of 0 or more, and it is {fold}"),
            );
        }
        // Triangle inequality: what is more than fold nearer to the query than this row is no
        // duplicate of it, nor of any row behind it.
        while self
            .looks
            .front()
            .is_some_and(|kept| kept.distance < distance - fold)
        {
            self.looks.pop_front();
        }
        let within = |kept: &[f32], look: &[f32]| distance::l2(kept, look).or_report() <= fold;
        let mut glance = [0.0; GLANCE];
        let some = look.len().min(GLANCE);
        glance[..some].copy_from_slice(&look[..some]);
        let is_duplicate = self
            .looks
            .iter()
            .any(|kept| within(&kept.glance, &glance) && within(&kept.look, look));
        if !is_duplicate {
            self.looks.push_back(Look {
                distance,
                glance,
                look: look.into(),
            });
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
