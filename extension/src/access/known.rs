//! What a backend keeps of the indexes it used, from one statement to the next.
//!
//! The state of an index is refreshed from its first page before every use. It belongs to a file: a new
//! file (REINDEX, TRUNCATE) starts anew. Hints are checked by themselves. Invariant: what is kept of all indexes never takes
//! more than `MOST_BYTES` for long; the least recently used go first.

use super::ahead::Ahead;
use super::columns;
use super::errors::or_raise;
use super::hints::Hints;
use super::store::BufferStore;
use lookbook_ann::Index;
use lru::LruCache;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::rc::Rc;

/// Enough for the hints of 64 GiB of indexes and their tables.
const MOST_BYTES: usize = 64 << 20;
/// An entry without what it points to, roughly.
const ENTRY_BYTES: usize = 1024;

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::new(Kept {
        indexes: LruCache::unbounded(),
        bytes: 0,
    });
}

/// All that is kept.
struct Kept {
    /// By the OID of the index; with the bytes that it took when it was opened last.
    indexes: LruCache<pg_sys::Oid, (Rc<Known>, usize)>,
    /// Of all of them.
    bytes: usize,
}

impl Kept {
    /// Weighs an index again, and makes room if there is too much.
    fn weigh(&mut self, index: pg_sys::Oid) {
        let Some((known, bytes)) = self.indexes.get_mut(&index) else {
            return;
        };
        let before = std::mem::replace(bytes, known.bytes());
        self.bytes = self.bytes + *bytes - before;
        while self.bytes > MOST_BYTES && self.indexes.len() > 1 {
            let oldest = self.indexes.pop_lru();
            self.bytes -= oldest.map_or(0, |(_, (_, bytes))| bytes);
        }
    }
}

/// What is kept of one index.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) hints: Hints,
    /// The pages of its table.
    pub(super) ahead: Ahead,
    /// With the number of its file.
    opened: RefCell<Option<(u32, Index)>>,
}

impl Known {
    pub(super) fn of(index: pg_sys::Oid) -> Rc<Known> {
        KEPT.with_borrow_mut(|kept| {
            let (known, _) = kept.indexes.get_or_insert(index, Default::default);
            Rc::clone(known)
        })
    }

    fn bytes(&self) -> usize {
        let opened = self.opened.borrow();
        let index = opened.as_ref().map_or(0, |(_, index)| index.kept_bytes());
        ENTRY_BYTES + self.hints.bytes() + self.ahead.bytes() + index
    }
}

/// Forgets an index that is built anew: maybe in the same file, where a table is truncated by the
/// transaction that made it.
pub(super) fn forget(index: pg_sys::Oid) {
    KEPT.with_borrow_mut(|kept| {
        let forgotten = kept.indexes.pop(&index);
        kept.bytes -= forgotten.map_or(0, |(_, bytes)| bytes);
    });
}

/// The index as it is now: what copies of it learn is shared.
pub(super) fn open(store: &BufferStore) -> Index {
    let relation = store.relation();
    // SAFETY: the relation is open.
    let file = unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        let file = (*relation).rd_node.relNode;
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        let file = (*relation).rd_locator.relNumber;
        file.to_u32()
    };
    let kept = store.known().opened.take();
    let kept = kept
        .filter(|(of, _)| *of == file)
        .and_then(|(_, mut index)| {
            let options = *index.options();
            or_raise(index.refresh(store), relation);
            // They never change.
            (*index.options() == options).then_some(index)
        });
    let index = kept.unwrap_or_else(|| or_raise(columns::open(store), relation));
    store.known().opened.replace(Some((file, index.clone())));
    // SAFETY: the relation is open.
    KEPT.with_borrow_mut(|kept| kept.weigh(unsafe { (*relation).rd_id }));
    index
}
