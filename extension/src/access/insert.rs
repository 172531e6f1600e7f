//! Adding one row.

use super::columns::{self, heap_tid};
use super::errors::or_raise;
use super::known;
use super::store::BufferStore;
use lookbook_ann::{Index, Row};
use pgrx::{PgMemoryContexts, pg_guard, pg_sys};

/// `indexUnchanged` and uniqueness are no matter here; the result is about uniqueness only.
#[pg_guard]
#[allow(clippy::too_many_arguments, reason = "PostgreSQL's signature")]
pub(super) unsafe extern "C-unwind" fn aminsert(
    index: pg_sys::Relation,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
    tid: pg_sys::ItemPointer,
    _heap: pg_sys::Relation,
    _check_unique: pg_sys::IndexUniqueCheck::Type,
    _index_unchanged: bool,
    info: *mut pg_sys::IndexInfo,
) -> bool {
    // SAFETY: PostgreSQL's contract of aminsert: everything is open and lives for the call, and
    // `info` for the statement.
    unsafe {
        let store = BufferStore::new(index);
        let state = statement_state(&store, info);
        // What detoasting and hashing leave behind goes with this context.
        PgMemoryContexts::new("lookbook insert").switch_to(|_| {
            let row = columns::row(index, values, is_null);
            let row = Row {
                tid: heap_tid(&*tid),
                vector: row.vector.as_deref(),
                words: &row.words,
            };
            or_raise(state.insert(&store, row), index);
        });
    }
    false
}

/// The index as this statement knows it: the rotation is worth keeping between rows.
///
/// # Safety
/// `info` is that of the statement, and nobody else uses its cache.
unsafe fn statement_state<'a>(store: &BufferStore, info: *mut pg_sys::IndexInfo) -> &'a mut Index {
    // SAFETY: the cache holds null or what we put there, which lives as long as `info`.
    unsafe {
        if (*info).ii_AmCache.is_null() {
            let opened = known::open(store);
            (*info).ii_AmCache = PgMemoryContexts::For((*info).ii_Context)
                .leak_and_drop_on_delete(opened)
                .cast();
        }
        &mut *(*info).ii_AmCache.cast::<Index>()
    }
}
