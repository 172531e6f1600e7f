//! Vacuum: dead rows out, lists compact again, pages back.
//!
//! [`Index::bulk_delete`] marks entries dead in place. Marking counts as an edit of the chain, so a list that
//! is being replaced meanwhile is copied again: a dead row never survives in a copy. New lists are entered
//! behind all others, so the walk comes to them. [`Index::cleanup`] then rewrites what has many dead entries
//! and finds pages that a crash left without owner.

use std::collections::HashSet;

use crate::census::{Census, Info};
use crate::chain::{self, LockedTail};
use crate::directory::{self, ListEntry};
use crate::error::{Error, Result};
use crate::founding;
use crate::index::{ATTEMPTS, Index, change_meta};
use crate::insert::Aside;
use crate::page::leaf::{self, Leaf};
use crate::page::meta::{META, Meta};
use crate::page::{self, PageRef, tids};
use crate::split::{dissolve, split_latched};
use crate::step::Step;
use crate::store::{HeapTid, PageStore, PageTxn};
use crate::structure::{self, Into};

/// A list is rewritten when at least one of so many entries is dead.
const DEAD_SHARE: usize = 8;
/// A list of less than this share of what suits a list is shared out among its neighbours.
const SMALL_SHARE: usize = 8;

/// What a bulk delete did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Rows taken out.
    pub removed: usize,
    /// Rows left.
    pub kept: usize,
}

/// What became of a list.
enum Tended {
    Kept,
    Split,
    Removed,
}

impl Index {
    /// Takes out every row that `dead` says is dead. `dead` is called with no page locked.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Interrupted`], [`Error::Contended`].
    pub fn bulk_delete<S: PageStore>(
        &mut self,
        store: &S,
        dead: &mut dyn FnMut(HeapTid) -> bool,
    ) -> Result<Removed> {
        self.refresh(store)?;
        if !self.meta.is_vacuuming {
            // No rows are moving when this is had, and none will until the mark is taken off.
            let _latch = store.latch()?;
            change_meta(store, |meta| meta.is_vacuuming = true)?;
        }
        let done = self.delete_everywhere(store, dead)?;
        change_meta(store, |meta| meta.is_vacuuming = false)?;
        self.refresh(store)?;
        Ok(done)
    }

    fn delete_everywhere<S: PageStore>(
        &mut self,
        store: &S,
        dead: &mut dyn FnMut(HeapTid) -> bool,
    ) -> Result<Removed> {
        let mut done = Removed::default();
        for _ in 0..ATTEMPTS {
            self.refresh(store)?;
            let directory = self.meta.directory;
            done.kept = 0;
            let finished = match directory {
                Some(directory) => self.delete_from_lists(store, directory, dead, &mut done)?,
                None => true,
            };
            // The directory may have been replaced behind the walk.
            self.refresh(store)?;
            if !finished || self.meta.directory != directory {
                continue;
            }
            for aside in Aside::ALL {
                self.delete_aside(store, aside, dead, &mut done)?;
            }
            return Ok(done);
        }
        Err(Error::Contended {
            operation: "vacuum",
            attempts: ATTEMPTS,
        })
    }

    /// `false`: the directory was replaced.
    fn delete_from_lists<S: PageStore>(
        &self,
        store: &S,
        directory: PageRef,
        dead: &mut dyn FnMut(HeapTid) -> bool,
        done: &mut Removed,
    ) -> Result<bool> {
        let entries = directory::entries(&self.space);
        let mut visited: HashSet<PageRef> = HashSet::new();
        let mut next = Some(Step::from(directory));
        while let Some(here) = next {
            store.check_interrupts()?;
            let (name, mut lists) = (here.name, Vec::new());
            let read = chain::with_leaf(store, name, entries, |leaf, page| {
                for slot in 0..leaf.count() {
                    lists.extend(directory::entry(&leaf, name, slot)?);
                }
                Ok((here.next(page)?, page::is_retired(page)))
            })?;
            let Some((following, false)) = read else {
                return Ok(false);
            };
            lists.retain(|list| visited.insert(list.head));
            // Lists may have been entered here since: the leaf is left only when it has nothing new.
            next = if lists.is_empty() {
                following
            } else {
                Some(here)
            };
            for list in lists {
                self.delete_from_list(store, list.head, dead, done)?;
            }
        }
        Ok(true)
    }

    fn delete_from_list<S: PageStore>(
        &self,
        store: &S,
        head: PageRef,
        dead: &mut dyn FnMut(HeapTid) -> bool,
        done: &mut Removed,
    ) -> Result<()> {
        let lists = directory::lists(&self.space);
        let mut next = Some(Step::from(head));
        while let Some(here) = next {
            store.check_interrupts()?;
            let (name, mut rows) = (here.name, Vec::new());
            let read = chain::with_leaf(store, name, lists, |leaf, page| {
                rows.extend((0..leaf.count()).filter_map(|slot| Some((slot, leaf.tid(slot)?))));
                here.next(page)
            })?;
            let Some(following) = read else { return Ok(()) };
            let before = rows.len();
            rows.retain(|&(_, tid)| dead(tid));
            done.kept += before - rows.len();
            if !rows.is_empty() && !self.bury(store, head, name, &rows)? {
                return Ok(());
            }
            done.removed += rows.len();
            next = following;
        }
        Ok(())
    }

    /// Marks entries of a leaf dead, and the chain edited, in one record. `false`: the chain was replaced.
    fn bury<S: PageStore>(
        &self,
        store: &S,
        head: PageRef,
        name: PageRef,
        rows: &[(usize, HeapTid)],
    ) -> Result<bool> {
        let lists = directory::lists(&self.space);
        let Some(LockedTail {
            mut txn,
            handle: tail,
            ..
        }) = chain::lock_tail(store, head, lists)?
        else {
            return Ok(false);
        };
        let handle = txn.lock(name.block)?;
        if !page::opened(txn.page(handle), name) {
            return Ok(false);
        }
        Leaf::new(txn.page(handle), name.block, lists.kind, lists.layout)?;
        for &(slot, _) in rows {
            leaf::bury(txn.page_mut(handle), lists.layout, slot);
        }
        leaf::note_edit(txn.page_mut(tail));
        txn.commit()?;
        Ok(true)
    }

    fn delete_aside<S: PageStore>(
        &self,
        store: &S,
        aside: Aside,
        dead: &mut dyn FnMut(HeapTid) -> bool,
        done: &mut Removed,
    ) -> Result<()> {
        let words = self.meta.options.filter_columns;
        let mut next = aside.head(&self.meta).map(Step::from);
        while let Some(here) = next {
            store.check_interrupts()?;
            let name = here.name;
            let page = store.read(name.block)?;
            if !page::opened(&page, name) {
                return Ok(());
            }
            tids::check(&page, name.block, words)?;
            let found: Vec<HeapTid> = (0..page::count(&page))
                .map(|slot| tids::tid(&page, words, slot))
                .collect();
            next = here.next(&page)?;
            drop(page);
            let gone: HashSet<HeapTid> = found.iter().copied().filter(|tid| dead(*tid)).collect();
            done.kept += found.len() - gone.len();
            done.removed += gone.len();
            if gone.is_empty() {
                continue;
            }
            let mut txn = store.begin();
            let handle = txn.lock(name.block)?;
            tids::check(txn.page(handle), name.block, words)?;
            for slot in (0..page::count(txn.page(handle))).rev() {
                if gone.contains(&tids::tid(txn.page(handle), words, slot)) {
                    tids::remove(txn.page_mut(handle), words, slot);
                }
            }
            txn.commit()?;
        }
        Ok(())
    }

    /// Rewrites lists with many dead entries, drops empty ones, splits long ones, compacts the directory, calibrates if
    /// there are many more or many fewer lists than when that was done last, and frees pages that nothing names. Holds the
    /// latch for as long as each of these takes. Gives what is left.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Interrupted`].
    pub fn cleanup<S: PageStore>(&mut self, store: &S) -> Result<Info> {
        self.refresh(store)?;
        if self.meta.is_vacuuming {
            // Of a vacuum that was broken off: there is one at a time, and this is it.
            let _latch = store.latch()?;
            change_meta(store, |meta| meta.is_vacuuming = false)?;
            self.refresh(store)?;
        }
        self.tend_all(store)?;
        let _latch = store.latch()?;
        self.refresh(store)?;
        if let Some(directory) = self.meta.directory {
            let entries = directory::entries(&self.space);
            let (live, total) = chain::occupancy(store, directory, entries)?;
            if total > 0 && (total - live) * DEAD_SHARE >= total {
                self.compact_directory(store)?;
            }
            if self.has_outgrown(live) || self.has_shrunk(live) {
                self.calibrate_latched(store)?;
            }
        }
        for aside in Aside::ALL {
            self.trim_aside(store, aside)?;
        }
        self.sweep(store)
    }

    /// Gives every list the form it should have, and what splits leave of long ones, until none was split.
    fn tend_all<S: PageStore>(&mut self, store: &S) -> Result<()> {
        let mut tended: HashSet<PageRef> = HashSet::new();
        let mut splits = true;
        while let Some(directory) = self.meta.directory.filter(|_| splits) {
            let mut lists = directory::all(store, &self.space, directory)?.unwrap_or_default();
            let mut left = lists.len();
            lists.retain(|list| tended.insert(list.head));
            splits = false;
            for list in lists {
                match self.tend(store, &list, left > 1)? {
                    Tended::Removed => left -= 1,
                    Tended::Split => splits = true,
                    Tended::Kept => {}
                }
            }
            self.refresh(store)?;
        }
        Ok(())
    }

    /// Gives a list the form it should have.
    fn tend<S: PageStore>(
        &mut self,
        store: &S,
        list: &ListEntry,
        may_vanish: bool,
    ) -> Result<Tended> {
        let options = self.meta.options;
        let (live, total) = chain::occupancy(store, list.head, directory::lists(&self.space))?;
        let is_sparse = total > 0 && (total - live) * DEAD_SHARE >= total;
        if live >= options.split_rows() {
            let _latch = store.latch()?;
            if split_latched(store, self, list)? {
                return Ok(Tended::Split);
            }
        } else if live * SMALL_SHARE <= options.list_rows as usize && may_vanish {
            let _latch = store.latch()?;
            if dissolve(store, self, list)? {
                return Ok(Tended::Removed);
            }
        } else if is_sparse {
            let _latch = store.latch()?;
            structure::replace(store, self, list, Into::One)?;
        }
        Ok(Tended::Kept)
    }

    /// Copies the live entries of the directory to a new one. Under the latch.
    pub(crate) fn compact_directory<S: PageStore>(&mut self, store: &S) -> Result<()> {
        for _ in 0..ATTEMPTS {
            self.refresh(store)?;
            let Some(old) = self.meta.directory else {
                return Ok(());
            };
            let entries = directory::entries(&self.space);
            let Some(copy) = structure::copy(store, entries, old, None)? else {
                return Ok(());
            };
            let new = chain::write(store, entries, &copy.rows)?;
            let done = founding::swap_directory(store, self, new, Some(&copy))?;
            let unused = if done { old } else { new };
            chain::discard(store, unused, directory::entries(&self.space))?;
            if done {
                break;
            }
        }
        Ok(())
    }

    /// Frees empty pages at the end of a chain without order, and the chain when it is empty. Under the latch.
    fn trim_aside<S: PageStore>(&mut self, store: &S, aside: Aside) -> Result<()> {
        let words = self.meta.options.filter_columns;
        let Some(head) = aside.head(&self.meta) else {
            return Ok(());
        };
        let (mut names, mut next) = (Vec::new(), Some(Step::from(head)));
        while let Some(here) = next {
            store.check_interrupts()?;
            let page = store.read(here.name.block)?;
            tids::check(&page, here.name.block, words)?;
            names.push(here.name);
            next = here.next(&page)?;
        }
        while let Some(name) = names.pop() {
            store.check_interrupts()?;
            let mut txn = store.begin();
            let handle = txn.lock(name.block)?;
            let page = txn.page(handle);
            // Rows are added meanwhile: then it is not empty, or no longer the last.
            if page::count(page) > 0 || page::next(page).is_some() {
                return Ok(());
            }
            if let Some(&before) = names.last() {
                let previous = txn.lock(before.block)?;
                let first = txn.lock(head.block)?;
                page::set_next(txn.page_mut(previous), None);
                tids::set_tail(txn.page_mut(first), before);
            } else {
                let handle = txn.lock(META)?;
                let mut meta = Meta::read(txn.page(handle))?;
                *aside.head_mut(&mut meta) = None;
                meta.write(txn.page_mut(handle));
            }
            page::free(txn.page_mut(handle), name.block);
            txn.commit()?;
            store.note_free(name.block)?;
        }
        Ok(())
    }

    /// Frees every page that nothing names. Under the latch nobody writes a chain that is not yet named, but rows
    /// are added: so a page is an orphan only if it was in use before the walk, is the same page still, and the walk
    /// did not come to it.
    fn sweep<S: PageStore>(&mut self, store: &S) -> Result<Info> {
        let Census {
            mut info,
            free,
            orphans,
            is_whole,
        } = self.census(store)?;
        for block in free {
            store.note_free(block)?;
        }
        for page in orphans.into_iter().filter(|_| is_whole) {
            store.check_interrupts()?;
            let mut txn = store.begin();
            let handle = txn.lock(page.block)?;
            if page::incarnation(txn.page(handle)) == page.incarnation {
                page::free(txn.page_mut(handle), page.block);
                txn.commit()?;
                store.note_free(page.block)?;
                info.free_pages += 1;
            }
            info.orphan_pages -= 1;
        }
        Ok(info)
    }
}
