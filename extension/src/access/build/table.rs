//! The rows of the table, as PostgreSQL hands them to a build.

use super::super::columns::{self, IndexedRow, heap_tid};
use lookbook_ann::HeapTid;
use pgrx::{PgMemoryContexts, pg_guard, pg_sys};
use std::ffi::c_void;

/// The table of a build; `ambuild`'s arguments.
pub(super) struct Table {
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
    /// What a row leaves behind: detoasted values.
    row_memory: PgMemoryContexts,
}

/// Which blocks to read.
pub(super) enum Blocks {
    /// All of them, reporting progress.
    All,
    /// Some, for a sample.
    Run { first: u32, count: u32 },
}

struct Callback<'a, 'f> {
    table: &'a mut Table,
    each: &'a mut (dyn FnMut(HeapTid, IndexedRow<'_>) + 'f),
}

impl Table {
    /// # Safety
    /// The arguments are those of `ambuild`, which returns after the table is dropped.
    pub(super) unsafe fn new(
        heap: pg_sys::Relation,
        index: pg_sys::Relation,
        info: *mut pg_sys::IndexInfo,
    ) -> Self {
        Self {
            heap,
            index,
            info,
            row_memory: PgMemoryContexts::new("lookbook build row"),
        }
    }

    /// Blocks of the table.
    pub(super) fn blocks(&self) -> u32 {
        // SAFETY: the relation is open (`new`).
        unsafe {
            pg_sys::RelationGetNumberOfBlocksInFork(self.heap, pg_sys::ForkNumber::MAIN_FORKNUM)
        }
    }

    /// Calls `each` for every row that the index holds, and gives the number of rows of the table.
    pub(super) fn scan(
        &mut self,
        blocks: Blocks,
        each: &mut dyn FnMut(HeapTid, IndexedRow<'_>),
    ) -> f64 {
        let (heap, index, info) = (self.heap, self.index, self.info);
        let (is_whole, first, count) = match blocks {
            Blocks::All => (true, 0, pg_sys::InvalidBlockNumber),
            Blocks::Run { first, count } => (false, first, count),
        };
        let mut callback = Callback { table: self, each };
        // SAFETY: `new`; the callback gets its state back and runs before this returns. A scan that
        // may begin anywhere cannot be limited, nor the other way round (`heapam_handler.c`).
        unsafe {
            let scan = (*(*heap).rd_tableam).index_build_range_scan;
            scan.map_or(0.0, |scan| {
                // An error that is raised in there unwinds our frames.
                pg_sys::ffi::pg_guard_ffi_boundary(|| {
                    scan(
                        heap,
                        index,
                        info,
                        is_whole,
                        false,
                        is_whole,
                        first,
                        count,
                        Some(take_row),
                        (&raw mut callback).cast(),
                        std::ptr::null_mut(),
                    )
                })
            })
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn take_row(
    index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
    _is_alive: bool,
    state: *mut c_void,
) {
    // SAFETY: the state is the `Callback` of `scan`, which nobody else uses meanwhile; the values are
    // those of the index's columns and live for this call.
    unsafe {
        let Callback { table, each } = &mut *state.cast::<Callback<'_, '_>>();
        table.row_memory.switch_to(|_| {
            let row = columns::row(index, values, is_null);
            each(heap_tid(&*tid), row);
        });
        table.row_memory.reset();
    }
}
