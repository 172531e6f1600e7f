//! `ORDER BY embedding <-> $1, id`: the index gives the first key, an incremental sort the rest.
//!
//! Before PostgreSQL 17 the planner matches an index that orders by an operator only if it gives every
//! key of the order (`match_pathkeys_to_index`, `indxpath.c`). A hook lets it look once more, with the
//! first key alone; later versions do so by themselves.

use pgrx::{pg_guard, pg_sys};
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::null_mut;

const DONE_BY_POSTGRESQL: bool = cfg!(any(feature = "pg17", feature = "pg18"));

thread_local! {
    /// Who was called before we came.
    static PREVIOUS: Cell<pg_sys::set_rel_pathlist_hook_type> = const { Cell::new(None) };
}

/// Called once, from `_PG_init`.
pub(super) fn register() {
    if DONE_BY_POSTGRESQL {
        return;
    }
    // SAFETY: a backend has one thread while it loads a library.
    unsafe {
        PREVIOUS.set(pg_sys::set_rel_pathlist_hook);
        pg_sys::set_rel_pathlist_hook = Some(add_paths);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn add_paths(
    root: *mut pg_sys::PlannerInfo,
    relation: *mut pg_sys::RelOptInfo,
    number: pg_sys::Index,
    entry: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: PostgreSQL's contract of the hook; the list of pathkeys is put back.
    unsafe {
        if let Some(previous) = PREVIOUS.get() {
            previous(root, relation, number, entry);
        }
        let wanted = (*root).query_pathkeys;
        if wanted.is_null()
            || (*wanted).length < 2
            || !may_be_scanned(relation, entry)
            || !has_index_of_ours(relation)
        {
            return;
        }
        let first = (*(*wanted).elements).ptr_value;
        (*root).query_pathkeys = pg_sys::lappend(null_mut(), first.cast::<c_void>());
        pg_sys::create_index_paths(root, relation);
        (*root).query_pathkeys = wanted;
    }
}

/// Whether PostgreSQL looked for index scans itself: not where a sample is wanted, nor where no row can be
/// (`set_rel_pathlist`, `allpaths.c`).
///
/// # Safety
/// As [`add_paths`].
unsafe fn may_be_scanned(
    relation: *mut pg_sys::RelOptInfo,
    entry: *mut pg_sys::RangeTblEntry,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
            && (*entry).tablesample.is_null()
            && !pg_sys::is_dummy_rel(relation)
    }
}

/// # Safety
/// `relation` is being planned.
unsafe fn has_index_of_ours(relation: *mut pg_sys::RelOptInfo) -> bool {
    // SAFETY: the caller's promise; a plain relation's list holds its indexes.
    unsafe {
        super::items::<pg_sys::IndexOptInfo>((*relation).indexlist).any(|index| {
            (*index)
                .amcostestimate
                .is_some_and(|estimate| std::ptr::fn_addr_eq(estimate, COST_ESTIMATE))
        })
    }
}

const COST_ESTIMATE: unsafe extern "C-unwind" fn(
    *mut pg_sys::PlannerInfo,
    *mut pg_sys::IndexPath,
    f64,
    *mut pg_sys::Cost,
    *mut pg_sys::Cost,
    *mut pg_sys::Selectivity,
    *mut f64,
    *mut f64,
) = super::cost::amcostestimate;
