//! What a backend keeps of the indexes it used, from one statement to the next.
//!
//! The state of an index is refreshed from its first page before every use. It belongs to a file: a new
//! file (REINDEX, TRUNCATE) starts anew. Hints are checked by themselves.

use super::ahead::Ahead;
use super::errors::or_raise;
use super::hints::Hints;
use super::store::BufferStore;
use lookbook_ann::Index;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Indexes that a backend remembers.
const MOST_INDEXES: usize = 8;

thread_local! {
    /// By the OID of the index.
    static KNOWN: RefCell<HashMap<pg_sys::Oid, Rc<Known>>> = RefCell::default();
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
        KNOWN.with_borrow_mut(|known| {
            if known.len() >= MOST_INDEXES && !known.contains_key(&index) {
                known.clear();
            }
            Rc::clone(known.entry(index).or_default())
        })
    }
}

/// Forgets an index that is built anew: maybe in the same file, where a table is truncated by the
/// transaction that made it.
pub(super) fn forget(index: pg_sys::Oid) {
    KNOWN.with_borrow_mut(|known| known.remove(&index));
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
    let index = match kept {
        Some((of, mut index)) if of == file => {
            or_raise(index.refresh(store), relation);
            index
        }
        _ => or_raise(Index::open(store), relation),
    };
    store.known().opened.replace(Some((file, index.clone())));
    index
}
