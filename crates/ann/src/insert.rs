//! Adding a row: to the list around the nearest centroid, or to a chain without order.
//!
//! One record of the log for a row (at most four pages), one before it when a leaf is added or a radius
//! grows. The list may be replaced between choosing it and writing to it: then the row's list is
//! chosen again.

use crate::chain::{self, Appended, LockedTail};
use crate::code::{Label, encode, reach};
use crate::directory::{self, ListEntry, Near};
use crate::error::{Error, Result};
use crate::index::{ATTEMPTS, Index};
use crate::page::meta::{META, Meta};
use crate::page::{self, PageRef, tids};
use crate::query::Shape;
use crate::space::Placed;
use crate::step::Step;
use crate::store::{HeapTid, PageStore, PageTxn};
use crate::{founding, split};

/// A list of more than so many times the rows that lists are split at is left to VACUUM: whoever adds a row does not pay for
/// dividing what others made.
const LEFT_TO_VACUUM: usize = 4;

/// A row to be added.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Where it lies.
    pub tid: HeapTid,
    /// Its vector; `None`: NULL.
    pub vector: Option<&'a [f32]>,
    /// One hash for each filter column.
    pub words: &'a [u32],
}

/// Which chain of rows without codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aside {
    Nulls,
    Unordered,
    Boundless,
}

impl Aside {
    pub const ALL: [Aside; 3] = [Aside::Nulls, Aside::Unordered, Aside::Boundless];

    pub fn head(self, meta: &Meta) -> Option<PageRef> {
        match self {
            Aside::Nulls => meta.nulls,
            Aside::Unordered => meta.unordered,
            Aside::Boundless => meta.boundless,
        }
    }

    pub fn head_mut(self, meta: &mut Meta) -> &mut Option<PageRef> {
        match self {
            Aside::Nulls => &mut meta.nulls,
            Aside::Unordered => &mut meta.unordered,
            Aside::Boundless => &mut meta.boundless,
        }
    }
}

impl Index {
    /// Adds a row, and splits its list if that became too long and nobody else changes the structure.
    ///
    /// # Errors
    /// [`Error::Dimensions`] and [`Error::FilterColumns`] before anything is written; [`Error::Corrupt`],
    /// [`Error::Interrupted`], [`Error::Contended`].
    pub fn insert<S: PageStore>(&mut self, store: &S, row: Row<'_>) -> Result<()> {
        for _ in 0..ATTEMPTS {
            store.check_interrupts()?;
            self.refresh(store)?;
            self.space.check_words(row.words)?;
            if let Some(vector) = row.vector {
                self.space.check_dimensions(vector)?;
            }
            let placed = match row.vector {
                None => return self.insert_aside(store, row, Aside::Nulls),
                Some(vector) => self.space.place(vector)?,
            };
            let (y, slop) = match placed {
                Placed::Unordered => return self.insert_aside(store, row, Aside::Unordered),
                Placed::Boundless => return self.insert_aside(store, row, Aside::Boundless),
                Placed::Point { y, slop } => (y, slop),
            };
            let Some(directory) = self.meta.directory else {
                founding::first_list(store, self, &y)?;
                continue;
            };
            // `None`: the directory was replaced meanwhile.
            let Some(near) = directory::nearest(store, &self.space, directory, &y, 1)? else {
                continue;
            };
            let Some(Near { list, centroid, .. }) = near.first() else {
                founding::first_list(store, self, &y)?;
                continue;
            };
            let label = Label {
                tid: row.tid.0,
                words: row.words,
            };
            let record = encode(&self.space.layout, label, &y, slop, centroid);
            if self.append(store, directory, list, reach(&y, slop, centroid), &record)? {
                return Ok(());
            }
        }
        Err(Error::Contended {
            operation: "adding a row",
            attempts: ATTEMPTS,
        })
    }

    /// `false`: the list was replaced, and nothing was added.
    fn append<S: PageStore>(
        &mut self,
        store: &S,
        directory: PageRef,
        list: &ListEntry,
        reach: f32,
        record: &[u8],
    ) -> Result<bool> {
        if !directory::widen(store, &self.space, directory, list, reach, 0.0)? {
            return Ok(false);
        }
        match chain::append(store, list.head, directory::lists(&self.space), record)? {
            Appended::Gone => Ok(false),
            Appended::At { rows, .. } => {
                // Every 16th row only, so that a list that cannot be split does not cost each insert.
                let long = self.meta.options.split_rows();
                if (long..=LEFT_TO_VACUUM * long).contains(&rows) && rows.is_multiple_of(16) {
                    split::split(store, self, list)?;
                }
                Ok(true)
            }
        }
    }

    fn insert_aside<S: PageStore>(&mut self, store: &S, row: Row<'_>, aside: Aside) -> Result<()> {
        for _ in 0..ATTEMPTS {
            store.check_interrupts()?;
            let done = match aside.head(&self.meta) {
                None => begin_aside(store, row, aside)?,
                Some(head) => append_aside(store, head, row)?,
            };
            if done {
                return Ok(());
            }
            self.refresh(store)?;
        }
        Err(Error::Contended {
            operation: "adding a row",
            attempts: ATTEMPTS,
        })
    }
}

/// Begins a chain with its first row; `false`: somebody else did.
fn begin_aside<S: PageStore>(store: &S, row: Row<'_>, aside: Aside) -> Result<bool> {
    let mut txn = store.begin();
    let handle = txn.lock(META)?;
    let mut meta = Meta::read(txn.page(handle))?;
    if aside.head(&meta).is_some() {
        return Ok(false);
    }
    let (block, page) = txn.allocate(page::is_free)?;
    let name = tids::format_page(txn.page_mut(page), block, None);
    tids::push(txn.page_mut(page), row.tid, row.words);
    *aside.head_mut(&mut meta) = Some(name);
    meta.write(txn.page_mut(handle));
    txn.commit()?;
    Ok(true)
}

/// `false`: the chain was given up.
fn append_aside<S: PageStore>(store: &S, head: PageRef, row: Row<'_>) -> Result<bool> {
    let words = row.words.len();
    let Some(LockedTail {
        mut txn,
        handle,
        name,
        ..
    }) = lock_aside_tail(store, head, words)?
    else {
        return Ok(false);
    };
    if page::count(txn.page(handle)) < tids::capacity(words) {
        tids::push(txn.page_mut(handle), row.tid, row.words);
        txn.commit()?;
        return Ok(true);
    }
    let first = txn.lock(head.block)?;
    let (block, added) = txn.allocate(page::is_free)?;
    let added_name = tids::format_page(txn.page_mut(added), block, Some(head));
    tids::push(txn.page_mut(added), row.tid, row.words);
    page::set_next(txn.page_mut(handle), Some(added_name));
    tids::set_tail(txn.page_mut(first), added_name);
    debug_assert_ne!(name, added_name);
    txn.commit()?;
    Ok(true)
}

/// Locks the last page of a chain without order. `None`: the chain was given up.
fn lock_aside_tail<'s, S: PageStore>(
    store: &'s S,
    head: PageRef,
    words: usize,
) -> Result<Option<LockedTail<S::Txn<'s>>>> {
    let page = store.read(head.block)?;
    if !page::opened(&page, head) {
        return Ok(None);
    }
    tids::check(&page, head.block, words)?;
    let mut here = Step::within(head, tids::tail(&page).unwrap_or(head));
    drop(page);
    loop {
        store.check_interrupts()?;
        let name = here.name;
        let mut txn = store.begin();
        let handle = txn.lock(name.block)?;
        let page = txn.page(handle);
        if !page::opened(page, name) {
            return Ok(None);
        }
        tids::check(page, name.block, words)?;
        match here.next(page)? {
            None => {
                return Ok(Some(LockedTail {
                    txn,
                    handle,
                    name,
                    leaves: 0,
                }));
            }
            Some(next) => here = next,
        }
    }
}

/// What a list without rows looks like.
pub(crate) const EMPTY_SHAPE: Shape = Shape {
    radius: 0.0,
    typical: 0.0,
    slop: 0.0,
};
