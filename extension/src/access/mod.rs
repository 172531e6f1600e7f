//! The index access method `lookbook`: one file for each thing PostgreSQL asks of it.
//!
//! Owns the glue only: datums to rows, buffers to pages, errors to SQLSTATEs. The index itself is
//! `lookbook-ann`, which does not know PostgreSQL; locking and WAL are told in
//! `docs/locking-and-wal.md`. Callbacks keep PostgreSQL's names (`indexam.sgml`).

mod ahead;
mod build;
mod columns;
mod conditions;
mod cost;
mod errors;
mod hints;
mod insert;
mod inspect;
mod known;
mod limit;
mod options;
mod paths;
mod scan;
mod store;
mod tiebreak;
mod vacuum;
mod validate;
mod whole;

use pgrx::prelude::*;
use pgrx::{AllocatedByRust, PgBox, pg_sys};

/// Support function of a filter column's operator class: the hash of a value.
const HASH_PROC: u16 = 1;
/// Support function of the embedding's operator class: the metric.
const METRIC_PROC: u16 = 2;

#[pg_extern]
fn lookbook_handler(
    _fcinfo: pg_sys::FunctionCallInfo,
) -> PgBox<pg_sys::IndexAmRoutine, AllocatedByRust> {
    // SAFETY: the node is allocated zeroed in the current memory context, with its tag.
    let mut routine =
        unsafe { PgBox::<pg_sys::IndexAmRoutine>::alloc_node(pg_sys::NodeTag::T_IndexAmRoutine) };
    // Operators may have any strategy number; the classes use 1.
    routine.amstrategies = 0;
    routine.amsupport = METRIC_PROC;
    routine.amcanorderbyop = true;
    routine.amcanmulticol = true;
    routine.amoptionalkey = true;
    routine.amsearcharray = true;
    routine.amusemaintenanceworkmem = true;
    routine.amparallelvacuumoptions = pg_sys::VACUUM_OPTION_PARALLEL_BULKDEL as u8;
    routine.amkeytype = pg_sys::InvalidOid;

    routine.ambuild = Some(build::ambuild);
    routine.ambuildphasename = Some(build::ambuildphasename);
    routine.ambuildempty = Some(build::ambuildempty);
    routine.aminsert = Some(insert::aminsert);
    routine.ambulkdelete = Some(vacuum::ambulkdelete);
    routine.amvacuumcleanup = Some(vacuum::amvacuumcleanup);
    routine.amcostestimate = Some(cost::amcostestimate);
    routine.amoptions = Some(options::amoptions);
    routine.amvalidate = Some(validate::amvalidate);
    routine.ambeginscan = Some(scan::ambeginscan);
    routine.amrescan = Some(scan::amrescan);
    routine.amgettuple = Some(scan::amgettuple);
    routine.amendscan = Some(scan::amendscan);
    routine
}

/// Settings, options and planner hook of the access method. Called once, from `_PG_init`.
pub(crate) fn register() {
    options::register();
    tiebreak::register();
}

/// The nodes of a list of pointers; null is the empty list.
///
/// # Safety
/// The list holds such nodes.
unsafe fn items<T>(list: *mut pg_sys::List) -> impl Iterator<Item = *mut T> {
    let count = match list.is_null() {
        true => 0,
        // SAFETY: the caller's promise.
        false => unsafe { (*list).length },
    };
    // SAFETY: `elements` has `length` cells.
    (0..count as usize).map(move |at| unsafe { (*(*list).elements.add(at)).ptr_value.cast() })
}
