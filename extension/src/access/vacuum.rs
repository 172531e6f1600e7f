//! Vacuum: dead rows out, then pages back.

use super::columns::{self, item_pointer};
use super::errors::or_raise;
use super::store::BufferStore;
use pgrx::prelude::*;
use pgrx::{PgRelation, PgSqlErrorCode, pg_guard, pg_sys};
use std::ffi::c_void;

/// Codes have lost two bits.
const MUCH_DRIFT: f64 = 3.0;

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn ambulkdelete(
    info: *mut pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
    callback: pg_sys::IndexBulkDeleteCallback,
    state: *mut c_void,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: PostgreSQL's contract of ambulkdelete: the index is open, the callback may be called
    // with any TID and this state, and statistics are null or what an earlier call returned.
    unsafe {
        let relation = (*info).index;
        let store = BufferStore::new(relation);
        let mut index = or_raise(columns::open(&store), relation);
        let removed = or_raise(
            index.bulk_delete(&store, &mut |tid| {
                pg_sys::vacuum_delay_point(
                    #[cfg(feature = "pg18")]
                    false,
                );
                callback.is_some_and(|is_dead| {
                    // An error that is raised in there unwinds our frames.
                    pg_sys::ffi::pg_guard_ffi_boundary(|| is_dead(&mut item_pointer(tid), state))
                })
            }),
            relation,
        );
        let stats = or_new(stats);
        (*stats).tuples_removed += removed.removed as f64;
        (*stats).num_index_tuples = removed.kept as f64;
        (*stats).estimated_count = false;
        stats
    }
}

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn amvacuumcleanup(
    info: *mut pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: PostgreSQL's contract of amvacuumcleanup, as above.
    unsafe {
        if (*info).analyze_only {
            return stats;
        }
        let relation = (*info).index;
        let store = BufferStore::new(relation);
        let mut index = or_raise(columns::open(&store), relation);
        let found = or_raise(index.cleanup(&store), relation);
        pg_sys::IndexFreeSpaceMapVacuum(relation);
        if found.drift > MUCH_DRIFT {
            let index = PgRelation::from_pg(relation);
            ereport!(
                WARNING,
                PgSqlErrorCode::ERRCODE_WARNING,
                format!(
                    "the vectors of index \"{}\" are others than those that its codes were made for, and searches miss more of them",
                    index.name()
                ),
                format!(
                    "REINDEX INDEX CONCURRENTLY {} makes them anew.",
                    spi::quote_qualified_identifier(index.namespace(), index.name())
                )
            );
        }
        let had_stats = !stats.is_null();
        let stats = or_new(stats);
        if !had_stats {
            (*stats).num_index_tuples = (found.rows + found.aside_rows) as f64;
        }
        (*stats).num_pages = found.pages as u32;
        (*stats).pages_free = found.free_pages as u32;
        stats
    }
}

/// # Safety
/// `stats` is null or statistics.
unsafe fn or_new(stats: *mut pg_sys::IndexBulkDeleteResult) -> *mut pg_sys::IndexBulkDeleteResult {
    if !stats.is_null() {
        return stats;
    }
    // SAFETY: palloc0 returns zeroed memory of the current context, or raises.
    unsafe { pg_sys::palloc0(size_of::<pg_sys::IndexBulkDeleteResult>()).cast() }
}
