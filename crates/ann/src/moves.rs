//! Moving rows between live lists, so that each stays where the nearest centroid is.
//!
//! A split leaves rows behind that a neighbour's centroid is nearer to than either new one, and rows of
//! neighbours that a new centroid is nearer to than their own (LIRE of SPFresh, arXiv 2410.14452). They move one
//! record at a time: `[old tail, old leaf, new tail, refinement page]`, so at every record each row is in exactly
//! one list.
//!
//! Who reads lists one after the other could miss a row that moves behind its back, or see it twice, so every move
//! leaves a *stamp* in both tails. Invariant: a stamp is later than the `moves` of the meta page for as long as
//! rows are moving, and `moves` is raised to the last stamp when that is done. So a reader that began when `moves` was
//! `m` and finds a stamp later than `m`, or a later `moves` when it starts again, may have missed a row or have seen one already.
//! After a crash stamps may be ahead of `moves`: `is_moving` says so, and the next moves begin far beyond them.
//!
//! Under the latch, and never while a vacuum walks the lists: a dead row could move behind it.

use crate::chain::{self, LockedTail, Place};
use crate::cluster::squared_distance;
use crate::code::{RowRecord, put_sign_code, reach};
use crate::directory::{self, ListEntry};
use crate::error::Result;
use crate::index::change_meta;
use crate::page::leaf::{self, Leaf};
use crate::page::{self, PageRef, refinement};
use crate::query::Query;
use crate::rounding::up;
use crate::space::Space;
use crate::store::{BlockId, HeapTid, PageStore, PageTxn};
use crate::structure::point;

/// More rows than move at once.
const FAR_BEYOND: u64 = 1 << 20;

/// A row that is to move.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stray {
    pub place: Place,
    pub tid: HeapTid,
}

/// Rows moving, from the first to [`Moves::finish`].
pub(crate) struct Moves<'a, S> {
    store: &'a S,
    space: &'a Space,
    directory: PageRef,
    /// The last stamp; `None`: nothing moved yet.
    stamp: Option<u64>,
}

impl<'a, S: PageStore> Moves<'a, S> {
    pub fn new(store: &'a S, space: &'a Space, directory: PageRef) -> Self {
        Moves {
            store,
            space,
            directory,
            stamp: None,
        }
    }

    /// Does a record of one move have room for all its pages?
    pub fn are_possible(space: &Space) -> bool {
        space.layout.spans == 1
    }

    /// Moves rows from one list to another, those that are still there. `false`: one of the lists was replaced.
    pub fn transfer(
        &mut self,
        from: PageRef,
        to: &ListEntry,
        centroid: &[f32],
        strays: &[Stray],
    ) -> Result<bool> {
        let mut rows = Vec::with_capacity(strays.len());
        for stray in strays {
            rows.extend(self.row(stray, centroid)?);
        }
        let radius = rows.iter().map(|row| row.reach).fold(0.0, f32::max);
        let slop = rows.iter().map(|row| row.error).fold(0.0, f32::max);
        // First the shape, then the rows.
        if !directory::widen(self.store, self.space, self.directory, to, radius, slop)? {
            return Ok(false);
        }
        let mut rest = &rows[..];
        while let Some(first) = rest.first() {
            let leaf = first.stray.place.leaf;
            let same = rest
                .iter()
                .take_while(|row| row.stray.place.leaf == leaf)
                .count();
            match self.move_some(from, leaf, to.head, &rest[..same])? {
                Some(done) => rest = &rest[done..],
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Copies a row and codes it for its new list. `None`: it died, or its list was replaced.
    fn row(&self, stray: &Stray, centroid: &[f32]) -> Result<Option<Row>> {
        let (space, layout) = (self.space, &self.space.layout);
        let Place { leaf: name, slot } = stray.place;
        let mut record = vec![0; layout.row().end];
        let chain = directory::lists(space);
        let links = chain::with_leaf(self.store, name, chain, |leaf, _| {
            leaf.copy_row(slot, &mut record);
            Ok(leaf.tid(slot).map(|_| chain::links(&leaf, layout)))
        })?;
        let Some(links) = links.flatten() else {
            return Ok(None);
        };
        let bytes = &mut record[layout.row().refinement..];
        if !chain::copy_refinement(self.store, layout, name, &links, slot, bytes)? {
            return Ok(None);
        }
        let (y, error) = point(space, &record);
        put_sign_code(layout, &y, 0.0, centroid, &mut record);
        Ok(Some(Row {
            stray: *stray,
            reach: reach(&y, error, centroid),
            error: up(error),
            record,
        }))
    }

    /// Moves some of the rows of one leaf in one record; gives how many are dealt with. `None`: a list was replaced.
    fn move_some(
        &mut self,
        from: PageRef,
        leaf: PageRef,
        to: PageRef,
        rows: &[Row],
    ) -> Result<Option<usize>> {
        let (store, chain) = (self.store, directory::lists(self.space));
        let layout = chain.layout;
        store.check_interrupts()?;
        let stamp = self.next_stamp()?;
        let Some((new_tail, _)) = chain::tail(store, to, chain)? else {
            return Ok(None);
        };
        let Some(LockedTail {
            mut txn, handle, ..
        }) = chain::lock_tail(store, from, chain)?
        else {
            return Ok(None);
        };
        let source = txn.lock(leaf.block)?;
        if !page::opened(txn.page(source), leaf) {
            return Ok(None);
        }
        Leaf::new(txn.page(source), leaf.block, chain.kind, layout)?;
        // Others hold pages of one list only, so waiting for a second tail ends.
        let target = txn.lock(new_tail.block)?;
        let page = txn.page(target);
        if !page::opened(page, new_tail) || page::is_retired(page) {
            return Ok(None);
        }
        let slot = page::count(page);
        if page::next(page).is_some() || slot >= layout.rows {
            drop(txn);
            let grown = chain::grow(store, to, chain)?;
            return Ok(grown.then_some(0));
        }
        // As many as have their refinement records on one page.
        let room = (layout.per_refinement - slot % layout.per_refinement).min(layout.rows - slot);
        let (mut done, mut moved) = (0, 0);
        for row in rows {
            if moved == room {
                break;
            }
            done += 1;
            let Place { slot: old, .. } = row.stray.place;
            let there = Leaf::new(txn.page(source), leaf.block, chain.kind, layout)?.tid(old);
            if there != Some(row.stray.tid) {
                continue;
            }
            let place = Place {
                leaf: new_tail,
                slot: slot + moved,
            };
            chain::put_refinement(&mut txn, target, place, chain, &row.record)?;
            leaf::push_row(txn.page_mut(target), layout, &row.record);
            leaf::bury(txn.page_mut(source), layout, old);
            moved += 1;
        }
        if moved > 0 {
            leaf::note_edit(txn.page_mut(handle));
            page::set_moved(txn.page_mut(handle), stamp);
            page::set_moved(txn.page_mut(target), stamp);
            txn.commit()?;
        }
        Ok(Some(done))
    }

    fn next_stamp(&mut self) -> Result<u64> {
        let last = match self.stamp {
            Some(last) => last,
            None => change_meta(self.store, |meta| {
                if meta.is_moving {
                    meta.moves += FAR_BEYOND;
                }
                meta.is_moving = true;
                meta.moves
            })?,
        };
        self.stamp = Some(last + 1);
        Ok(last + 1)
    }

    /// Lets readers know that all rows arrived.
    pub fn finish(self) -> Result<()> {
        let Some(stamp) = self.stamp else {
            return Ok(());
        };
        change_meta(self.store, |meta| {
            (meta.moves, meta.is_moving) = (stamp, false);
        })
    }
}

struct Row {
    stray: Stray,
    reach: f32,
    error: f32,
    record: RowRecord,
}

/// Standard deviations that a sign code's estimate may be off for a row to be looked at: fewer than one in ten strays
/// are passed over.
const LOOK_SLACK: f32 = 1.5;
/// Factors are rounded to eight bits.
const RESIDUAL_ERROR: f32 = 1.02;

/// Centroids that rows may be nearer to than to their own.
pub(crate) struct Targets<'a> {
    centroids: Vec<&'a [f32]>,
    queries: Vec<Query>,
}

impl<'a> Targets<'a> {
    pub fn new(centroids: Vec<&'a [f32]>) -> Self {
        let queries = centroids.iter().map(|c| Query::neighbour(c)).collect();
        Targets { centroids, queries }
    }

    /// The rows of a list that a centroid is nearer to than `own`, by at least the factor `nearer` of the squared
    /// distance; with the number of that centroid. Sign codes say which rows to look at. `None`: the list was
    /// replaced.
    pub fn strays<S: PageStore>(
        &self,
        store: &S,
        space: &Space,
        head: PageRef,
        own: &[f32],
        nearer: f32,
    ) -> Result<Option<Vec<(usize, Stray)>>> {
        let (chain, layout) = (directory::lists(space), &space.layout);
        let terms: Vec<_> = self
            .queries
            .iter()
            .zip(&self.centroids)
            .map(|(query, c)| query.terms_around(squared_distance(own, c), LOOK_SLACK))
            .collect();
        let (mut chosen, mut bounds) = (Vec::new(), Vec::new());
        let mut leaves: Vec<(PageRef, [BlockId; 8], Vec<Stray>)> = Vec::new();
        let end = chain::walk(store, head, chain, |name, leaf, _| {
            let mut least = vec![f32::INFINITY; leaf.count()];
            for (query, terms) in self.queries.iter().zip(&terms) {
                leaf.choose_all(&mut chosen);
                let (tables, far) = (query.tables(), f32::INFINITY);
                leaf.bounds(space.kernels, &tables, terms, far, &mut chosen, &mut bounds);
                for (slot, least) in least.iter_mut().enumerate() {
                    *least = least.min(bounds[slot / layout.lanes][slot % layout.lanes]);
                }
            }
            let likely = least.iter().enumerate().filter_map(|(slot, least)| {
                let limit = leaf.squared_residual(slot) * RESIDUAL_ERROR * nearer;
                let place = Place { leaf: name, slot };
                (*least < limit).then_some(Stray {
                    place,
                    tid: leaf.tid(slot)?,
                })
            });
            leaves.push((name, chain::links(&leaf, layout), likely.collect()));
            Ok(())
        })?;
        if end.is_none() {
            return Ok(None);
        }
        let mut found = Vec::new();
        for (name, links, likely) in leaves {
            let page_of = |stray: &Stray| stray.place.slot / layout.per_refinement;
            for rows in likely.chunk_by(|a, b| page_of(a) == page_of(b)) {
                store.check_interrupts()?;
                let block = links[page_of(&rows[0])];
                let page = store.read(block)?;
                if !refinement::belongs(&page, block, name)? {
                    return Ok(None);
                }
                for stray in rows {
                    let record = refinement::record(&page, layout, stray.place.slot, 0);
                    let (step, _, packed) = refinement::factors(record);
                    let far = |c: &[f32]| {
                        let kernels = space.kernels;
                        kernels.squared_distance(c, packed, layout.bits, step)
                    };
                    let limit = far(own) * nearer;
                    let distances = self.centroids.iter().map(|c| far(c)).enumerate();
                    let nearest = distances.min_by(|a, b| a.1.total_cmp(&b.1));
                    if let Some((target, _)) = nearest.filter(|(_, distance)| *distance < limit) {
                        found.push((target, *stray));
                    }
                }
            }
        }
        Ok(Some(found))
    }
}
