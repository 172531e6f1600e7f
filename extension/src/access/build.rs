//! Building: the first page, then every row of the table.

use super::columns::{self, heap_tid, options_of};
use super::errors::or_raise;
use super::store::{BufferStore, prepare_header};
use lookbook_ann::{Index, PageBytes, PageStore, PageTxn, Row, empty_index};
use pgrx::{PgBox, PgMemoryContexts, pg_guard, pg_sys};
use std::ffi::c_void;

/// What the heap scan hands its rows to.
struct Build<'a> {
    store: &'a BufferStore,
    index: Index,
    context: PgMemoryContexts,
    rows: f64,
}

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn ambuild(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
) -> *mut pg_sys::IndexBuildResult {
    // SAFETY: PostgreSQL's contract of ambuild: both relations are open, the index has no pages.
    let (store, options) = unsafe { (BufferStore::new(index), options_of(index)) };
    let first = or_raise(empty_index(&options), index);
    or_raise(write_first(&store, &first), index);
    let mut build = Build {
        store: &store,
        index: or_raise(Index::open(&store), index),
        context: PgMemoryContexts::new("lookbook build"),
        rows: 0.0,
    };
    // SAFETY: as above; the callback gets `build` back and runs before this returns.
    let mut result = unsafe {
        let scan = (*(*heap).rd_tableam).index_build_range_scan;
        let heap_rows = scan.map_or(0.0, |scan| {
            scan(
                heap,
                index,
                info,
                true,
                false,
                true,
                0,
                pg_sys::InvalidBlockNumber,
                Some(add_row),
                (&raw mut build).cast(),
                std::ptr::null_mut(),
            )
        });
        let mut result = PgBox::<pg_sys::IndexBuildResult>::alloc0();
        result.heap_tuples = heap_rows;
        result
    };
    result.index_tuples = build.rows;
    result.into_pg()
}

/// Called for each row of the table.
#[pg_guard]
unsafe extern "C-unwind" fn add_row(
    index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
    _is_alive: bool,
    state: *mut c_void,
) {
    // SAFETY: the state is the `Build` of `ambuild`, which nobody else uses meanwhile.
    let build = unsafe { &mut *state.cast::<Build<'_>>() };
    let Build {
        store,
        index: state,
        context,
        rows,
    } = build;
    // SAFETY: the arguments are those of the heap scan and live for this call.
    unsafe {
        context.switch_to(|_| {
            let filter_columns = state.options().filter_columns;
            let row = columns::row(index, values, is_null, filter_columns);
            let row = Row {
                tid: heap_tid(&*tid),
                vector: row.vector.as_deref(),
                words: &row.words,
            };
            or_raise(state.insert(*store, row), index);
        });
        context.reset();
    }
    *rows += 1.0;
}

fn write_first(store: &BufferStore, first: &PageBytes) -> lookbook_ann::Result<()> {
    let mut txn = store.begin();
    let (_, handle) = txn.allocate(|_| false)?;
    txn.page_mut(handle).copy_from_slice(first);
    txn.commit()
}

/// The initialisation fork of an unlogged index: what it is after a crash.
#[pg_guard]
pub(super) unsafe extern "C-unwind" fn ambuildempty(index: pg_sys::Relation) {
    // SAFETY: PostgreSQL's contract of ambuildempty. The fork is logged although the index is not:
    // the page is logged whole, and the buffer is locked and dirty before that (`xloginsert.c`).
    unsafe {
        let first = or_raise(empty_index(&options_of(index)), index);
        let buffer = pg_sys::ReadBufferExtended(
            index,
            pg_sys::ForkNumber::INIT_FORKNUM,
            pg_sys::InvalidBlockNumber,
            pg_sys::ReadBufferMode::RBM_NORMAL,
            std::ptr::null_mut(),
        );
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32);
        let page = pg_sys::BufferGetPage(buffer);
        prepare_header(page);
        let body = page.cast::<u8>().add(size_of::<pg_sys::PageHeaderData>());
        body.copy_from_nonoverlapping(first.as_ptr(), first.len());
        // What START_CRIT_SECTION does: nothing between the change and its record may fail.
        pg_sys::CritSectionCount += 1;
        pg_sys::MarkBufferDirty(buffer);
        pg_sys::log_newpage_buffer(buffer, false);
        pg_sys::CritSectionCount -= 1;
        pg_sys::UnlockReleaseBuffer(buffer);
    }
}
