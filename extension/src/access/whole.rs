//! Scans that are likely to be read to their end: there each row has to come in its place.
//!
//! Below recall 1 a search finds a few rows late, and gives them out last (`lookbook-ann`, `search/order.rs`). Who takes the
//! nearest of many never sees these; who reads all sees them out of order. So where the planner expects that, the
//! path gets the condition `embedding <<->> 'Infinity'`, and the scan searches as at recall 1.

use super::{items, limit, paths};
use pgrx::{IntoDatum, pg_sys};

/// So few rows are worth the certainty where no LIMIT is known, as it may be hidden in a subquery.
const FEW_ROWS: f64 = 128.0;
/// Estimates of rows err: a LIMIT of this share of them may be beyond all.
const NEARLY_ALL: f64 = 0.5;
/// A LIMIT above is a way to write none.
const MOST_LIMITED: f64 = (1_u64 << 60) as f64;

/// Tells the scan of an ordered path that it is likely to be read to its end, of `rows` rows that the index gives out,
/// those within a distance if the query limits it.
///
/// # Safety
/// `path` is complete, and its list of conditions may be replaced: the planner calls from `cost_index`.
pub(super) unsafe fn push_down(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
    rows: f64,
    is_within_distance: bool,
) {
    // SAFETY: the caller's promise; `cost_index` has set the rows of the path.
    unsafe {
        let limit = (*root).limit_tuples;
        let is_limited = (0.0..MOST_LIMITED).contains(&limit);
        let is_unlimited = (*(*root).parse).limitCount.is_null() && (*root).tuple_fraction == 0.0;
        // A subquery may be read as far as the query around it wants; up to a distance, it is meant as a whole.
        let is_a_whole = (*root).parent_root.is_null() || is_within_distance;
        let is_read = match is_limited {
            true => limit >= NEARLY_ALL * (*path).path.rows,
            false => rows <= FEW_ROWS || is_unlimited && is_a_whole,
        };
        if !is_read {
            return;
        }
        let Some(clause) = limit::condition(path, infinity()) else {
            return;
        };
        let is_same = |known: *mut pg_sys::IndexClause| {
            pg_sys::equal((*(*known).rinfo).clause.cast(), clause.cast())
        };
        // A path that is made from another is estimated anew.
        if !items((*path).indexclauses).any(is_same) {
            let condition = paths::of_ours(clause);
            paths::add(path, condition, condition, limit::FIRST_COLUMN, true);
        }
    }
}

unsafe fn infinity() -> *mut pg_sys::Expr {
    let none = pg_sys::InvalidOid;
    let value = f64::INFINITY.into_datum().unwrap_or(pg_sys::Datum::null());
    // SAFETY: a constant of float8, which is passed by value on the 64-bit platforms that lookbook is built for.
    unsafe { pg_sys::makeConst(pg_sys::FLOAT8OID, -1, none, 8, value, false, true).cast() }
}
