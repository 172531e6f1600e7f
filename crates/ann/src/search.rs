//! Best-first search: rows by lower bounds of their distance, as many as are asked for.
//!
//! One queue holds centroids, lists, sign codes and rows. The smallest is taken: a centroid is measured, a
//! list is read, a code is refined, a row is given out. The search never ends by itself before every row
//! that passes the filters was given out: first come the (very rare) rows that no bound can be given for, last those
//! without order, then NULL rows.
//!
//! What is promised: every bound is certain (never above the distance the operator computes), each row
//! comes once, and with [`Trust::Certain`] bounds never fall by more than rounding. Otherwise a row of a list that was opened
//! late comes late, with its own certain bound; how often is what the calibration is about.
//!
//! Concurrency: one page is locked at a time and copied from. A list that is replaced while it is read is
//! read again in its new form, without the rows that were seen before.

use std::collections::HashSet;

use crate::chain;
use crate::directory::{self, ListEntry};
use crate::error::{Error, Result};
use crate::filter::{self, Filter};
use crate::index::{ATTEMPTS, Index};
use crate::page::{self, PageRef, refinement, tids, u48_at};
use crate::query::{Nature, Query, Shape, Trust};
use crate::queue::{Item, MOST_ITEMS, Queue};
use crate::store::{BlockId, HeapTid, PageStore};

/// What a row's distance is known to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// At least this, rounding of the operator included.
    AtLeast(f64),
    /// Not a number: after all numbers.
    Unordered,
    /// NULL: after everything.
    Null,
}

/// A row given out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Where it lies.
    pub tid: HeapTid,
    /// Its distance.
    pub bound: Bound,
}

/// How to search.
#[derive(Clone, Debug)]
pub struct SearchOptions {
    /// The share of the true nearest rows to be found; from 1 on: all of them, certainly.
    pub recall: f32,
    /// Conditions; all must pass.
    pub filters: Vec<Filter>,
}

impl Default for SearchOptions {
    fn default() -> Self {
        SearchOptions {
            recall: 0.98,
            filters: Vec::new(),
        }
    }
}

/// How much a search did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchStats {
    /// Centroids measured.
    pub centroids: usize,
    /// Lists read.
    pub lists: usize,
    /// Sign codes scanned.
    pub codes: usize,
    /// Refinement codes read.
    pub refined: usize,
    /// Rows given out.
    pub rows: usize,
}

/// What was copied from a leaf.
#[derive(Clone, Copy, Debug)]
struct Copied {
    leaf: PageRef,
    links: [BlockId; 8],
    /// Of the first TID of the leaf in the arena.
    tids: usize,
    /// Which reading of the meta page it belongs to.
    generation: u32,
    /// Of the list in `lists`; not of a leaf of the directory.
    list: usize,
}

/// Where a row given out was found: for the calibration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trace {
    pub centroid: f32,
    pub shape: Shape,
    pub leaf: PageRef,
    pub links: [BlockId; 8],
    pub slot: usize,
}

#[derive(Clone, Copy, Debug)]
struct KnownList {
    entry: ListEntry,
    /// Of the leaf of the directory in `directory`.
    leaf: usize,
    /// The centroid's *v*, once it was measured.
    centroid: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Boundless(Option<PageRef>),
    Ordered,
    Unordered(Option<PageRef>),
    Nulls(Option<PageRef>),
    Done,
}

/// A running search. Holds no page between calls.
#[derive(Debug)]
pub struct Search<'s, S: PageStore> {
    store: &'s S,
    index: Index,
    vector: Option<Vec<f32>>,
    filters: Vec<Filter>,
    trust: Trust,
    query: Query,
    phase: Phase,
    generation: u32,
    queue: Queue,
    lists: Vec<KnownList>,
    directory: Vec<Copied>,
    opened: HashSet<PageRef>,
    /// Rows that moved between lists with a later stamp may have been missed in the lists read so far.
    moves: u64,
    leaves: Vec<Copied>,
    /// Heap TIDs of the leaves, six bytes each.
    arena: Vec<u8>,
    /// Sign codes of the list being read.
    staged: Vec<(f32, usize)>,
    rows: Vec<Found>,
    /// The sign code that each row was found by, and which row was given out last.
    codes: Vec<usize>,
    last: usize,
    /// Once the index changed under us: rows seen before.
    seen: Option<HashSet<HeapTid>>,
    /// Rows of a page without vectors, to be given out.
    pending: Vec<HeapTid>,
    stats: SearchStats,
}

impl<'s, S: PageStore> Search<'s, S> {
    /// Prepares a search; `None`: the query is NULL. No list is read before the first row is asked for.
    ///
    /// # Errors
    /// [`Error::Dimensions`], [`Error::FilterColumns`], [`Error::Corrupt`].
    pub fn new(
        store: &'s S,
        mut index: Index,
        vector: Option<&[f32]>,
        options: &SearchOptions,
    ) -> Result<Search<'s, S>> {
        index.refresh(store)?;
        let trust = if options.recall >= 1.0 {
            Trust::Certain
        } else {
            Trust::Slack(index.meta.calibration.slack(options.recall))
        };
        Search::with_trust(store, index, vector, options.filters.clone(), trust)
    }

    pub(crate) fn with_trust(
        store: &'s S,
        index: Index,
        vector: Option<&[f32]>,
        filters: Vec<Filter>,
        trust: Trust,
    ) -> Result<Search<'s, S>> {
        for filter in &filters {
            filter.check(index.meta.options.filter_columns)?;
        }
        let query = Query::new(&index.space, vector, trust)?;
        let mut search = Search::of(store, index, query);
        search.vector = vector.map(<[f32]>::to_vec);
        (search.filters, search.trust) = (filters, trust);
        Ok(search)
    }

    /// Every row by a query that was prepared.
    pub(crate) fn of(store: &'s S, index: Index, query: Query) -> Search<'s, S> {
        Search {
            store,
            vector: None,
            filters: Vec::new(),
            trust: Trust::Certain,
            query,
            phase: Phase::Boundless(index.meta.boundless),
            generation: 0,
            queue: Queue::new(),
            lists: Vec::new(),
            directory: Vec::new(),
            opened: HashSet::new(),
            moves: index.meta.moves,
            leaves: Vec::new(),
            arena: Vec::new(),
            staged: Vec::new(),
            rows: Vec::new(),
            codes: Vec::new(),
            last: 0,
            seen: None,
            pending: Vec::new(),
            stats: SearchStats::default(),
            index,
        }
    }

    pub(crate) fn query(&self) -> &Query {
        &self.query
    }

    /// Where the row that was given out last was found; `None`: it is one without order.
    pub(crate) fn trace(&self) -> Option<Trace> {
        let layout = &self.index.space.layout;
        let stride = layout.rows.next_multiple_of(layout.lanes);
        let code = *self
            .codes
            .get(self.last)
            .filter(|_| self.phase == Phase::Ordered)?;
        let copied = self.leaves[code / stride];
        let KnownList {
            entry, centroid, ..
        } = self.lists.get(copied.list)?;
        Some(Trace {
            centroid: *centroid,
            shape: entry.shape,
            leaf: copied.leaf,
            links: copied.links,
            slot: code % stride,
        })
    }

    /// What was done so far.
    pub fn stats(&self) -> SearchStats {
        self.stats
    }

    /// The next row; `None`: there are no more.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Interrupted`], [`Error::Contended`].
    pub fn next_row(&mut self) -> Result<Option<Found>> {
        let found = self.advance()?;
        self.stats.rows += usize::from(found.is_some());
        Ok(found)
    }

    fn advance(&mut self) -> Result<Option<Found>> {
        loop {
            match self.phase {
                Phase::Boundless(link) => match self.aside_row(link, Phase::Boundless)? {
                    Some(tid) => {
                        let bound = self.bound(f64::NEG_INFINITY);
                        return Ok(Some(Found { tid, bound }));
                    }
                    None => {
                        self.read_directory()?;
                        self.phase = Phase::Ordered;
                    }
                },
                Phase::Ordered => match self.queue.pop() {
                    Some(Item::Row(row)) => {
                        self.last = row;
                        return Ok(Some(self.rows[row]));
                    }
                    Some(Item::Code(code)) => self.refine(code)?,
                    Some(Item::Centroid(list)) => self.measure(list)?,
                    Some(Item::List(list)) => self.open(list)?,
                    None => self.phase = Phase::Unordered(self.index.meta.unordered),
                },
                Phase::Unordered(link) => match self.aside_row(link, Phase::Unordered)? {
                    Some(tid) => {
                        let bound = match self.query.nature {
                            Nature::Null => Bound::Null,
                            _ => Bound::Unordered,
                        };
                        return Ok(Some(Found { tid, bound }));
                    }
                    None => self.phase = Phase::Nulls(self.index.meta.nulls),
                },
                Phase::Nulls(link) => match self.aside_row(link, Phase::Nulls)? {
                    Some(tid) => {
                        return Ok(Some(Found {
                            tid,
                            bound: Bound::Null,
                        }));
                    }
                    None => self.phase = Phase::Done,
                },
                Phase::Done => return Ok(None),
            }
        }
    }

    /// Puts every live list that was not read yet on the queue, by its sign code.
    fn read_directory(&mut self) -> Result<()> {
        for _ in 0..ATTEMPTS {
            self.lists.clear();
            self.directory.clear();
            let Some(directory) = self.index.meta.directory else {
                return Ok(());
            };
            let mut keys = Vec::new();
            if self.scan_directory(directory, &mut keys)? {
                for (number, key) in keys.into_iter().enumerate() {
                    self.queue.push_far(key, Item::Centroid(number));
                }
                return Ok(());
            }
            self.renew()?;
        }
        Err(Error::Contended {
            operation: "a search",
            attempts: ATTEMPTS,
        })
    }

    /// `false`: the directory was replaced meanwhile.
    fn scan_directory(&mut self, directory: PageRef, keys: &mut Vec<f32>) -> Result<bool> {
        let space = &self.index.space;
        let (tables, terms) = (self.query.tables(), self.query.directory_terms());
        let lanes = space.directory_layout.lanes;
        let (mut chosen, mut bounds) = (Vec::new(), Vec::new());
        let end = chain::walk(
            self.store,
            directory,
            directory::entries(space),
            |name, leaf, _| {
                self.directory.push(Copied {
                    leaf: name,
                    links: chain::links(&leaf, &space.directory_layout),
                    tids: 0,
                    generation: self.generation,
                    list: 0,
                });
                leaf.choose_all(&mut chosen);
                let far = f32::INFINITY;
                leaf.bounds(
                    space.kernels,
                    &tables,
                    &terms,
                    far,
                    &mut chosen,
                    &mut bounds,
                );
                for slot in 0..leaf.count() {
                    let Some(entry) = directory::entry(&leaf, name, slot)? else {
                        continue;
                    };
                    if self.opened.contains(&entry.head) {
                        continue;
                    }
                    let bound = bounds[slot / lanes][slot % lanes];
                    let leaf = self.directory.len() - 1;
                    keys.push(self.query.list_key(bound, &entry.shape));
                    self.lists.push(KnownList {
                        entry,
                        leaf,
                        centroid: bound,
                    });
                }
                Ok(())
            },
        )?;
        Ok(end.is_some())
    }

    /// Measures a centroid and queues its list.
    fn measure(&mut self, list: usize) -> Result<()> {
        let KnownList { entry, leaf, .. } = self.lists[list];
        let copied = self.directory[leaf];
        let layout = &self.index.space.directory_layout;
        let (mut step, mut sum, mut from) = (0.0, 0.0, 0);
        for span in 0..layout.spans {
            let slot = entry.place.slot;
            let block = copied.links[slot / layout.per_refinement * layout.spans + span];
            let page = self.store.read(block)?;
            if !refinement::belongs(&page, block, copied.leaf)? {
                drop(page);
                return self.start_again();
            }
            let part = refinement::record(&page, layout, slot, span);
            let packed = if span == 0 {
                let (first, _, packed) = refinement::factors(part);
                step = first;
                packed
            } else {
                part
            };
            sum += self
                .query
                .partial(&self.index.space, from, packed, layout.bits, step);
            from += packed.len() / layout.bits as usize * 8;
        }
        self.stats.centroids += 1;
        let centroid = self.query.centroid(step, sum);
        self.lists[list].centroid = centroid;
        self.queue.push(
            self.query.list_key(centroid, &entry.shape),
            Item::List(list),
        );
        Ok(())
    }

    /// Reads a list and queues its sign codes.
    fn open(&mut self, list: usize) -> Result<()> {
        self.store.check_interrupts()?;
        let KnownList {
            entry, centroid, ..
        } = self.lists[list];
        let space = &self.index.space;
        let (tables, terms) = (
            self.query.tables(),
            self.query.list_terms(centroid, &entry.shape),
        );
        let stride = space.layout.rows.next_multiple_of(space.layout.lanes);
        let (leaves, arena) = (self.leaves.len(), self.arena.len());
        self.staged.clear();
        let (mut codes, mut moved, mut chosen, mut bounds) = (0, 0, Vec::new(), Vec::new());
        let end = chain::walk(
            self.store,
            entry.head,
            directory::lists(space),
            |name, leaf, page| {
                moved = page::moved(page);
                let lanes = space.layout.lanes;
                let number = self.leaves.len();
                self.leaves.push(Copied {
                    leaf: name,
                    links: chain::links(&leaf, &space.layout),
                    tids: self.arena.len(),
                    generation: self.generation,
                    list,
                });
                leaf.choose_all(&mut chosen);
                filter::keep_passing(&self.filters, &leaf, space.kernels, &mut chosen);
                leaf.bounds(
                    space.kernels,
                    &tables,
                    &terms,
                    f32::INFINITY,
                    &mut chosen,
                    &mut bounds,
                );
                for slot in 0..leaf.count() {
                    let tid = leaf.tid(slot).map_or(u64::MAX, |tid| tid.0);
                    self.arena.extend_from_slice(&tid.to_le_bytes()[..6]);
                    if chosen[slot / lanes] >> (slot % lanes) & 1 == 1 {
                        let bound = bounds[slot / lanes][slot % lanes];
                        self.staged.push((bound, number * stride + slot));
                    }
                }
                codes += leaf.count();
                Ok(())
            },
        )?;
        if end.is_none() {
            self.leaves.truncate(leaves);
            self.arena.truncate(arena);
            return self.start_again();
        }
        if self.leaves.len() * stride > MOST_ITEMS {
            return Err(Error::Option {
                option: "rows of one search",
                found: (self.leaves.len() * stride) as u64,
                least: 0,
                most: MOST_ITEMS as u64,
            });
        }
        self.opened.insert(entry.head);
        self.stats.lists += 1;
        self.stats.codes += codes;
        if moved <= self.moves || arena == 0 {
            self.queue_staged();
            return Ok(());
        }
        // A row may have come here from a list that was read before, or left for one.
        self.remember(arena);
        self.queue_staged();
        self.moves = moved;
        self.opened.clear();
        self.start_again()
    }

    fn queue_staged(&mut self) {
        let staged = std::mem::take(&mut self.staged);
        for &(bound, code) in &staged {
            if self.seen.is_some() {
                let tid = self.tid(code);
                if self.seen.as_mut().is_some_and(|seen| !seen.insert(tid)) {
                    continue;
                }
            }
            self.queue.push_far(bound, Item::Code(code));
        }
        self.staged = staged;
    }

    fn tid(&self, code: usize) -> HeapTid {
        let layout = &self.index.space.layout;
        let stride = layout.rows.next_multiple_of(layout.lanes);
        let at = self.leaves[code / stride].tids + code % stride * 6;
        HeapTid(u48_at(&self.arena, at))
    }

    /// Reads the refinement code of a row and queues the row by its certain bound.
    fn refine(&mut self, code: usize) -> Result<()> {
        let layout = &self.index.space.layout;
        let stride = layout.rows.next_multiple_of(layout.lanes);
        let (copied, slot) = (self.leaves[code / stride], code % stride);
        // The row moved to another page since: nothing is known of it any more but that it exists.
        let (mut key, mut least) = (f32::NEG_INFINITY, self.query.least());
        let (mut head, mut sum, mut from) = ([0; 4], 0.0, 0);
        let mut there = copied.generation == self.generation;
        for span in 0..if there { layout.spans } else { 0 } {
            let block = copied.links[slot / layout.per_refinement * layout.spans + span];
            let page = self.store.read(block)?;
            if !refinement::belongs(&page, block, copied.leaf)? {
                there = false;
                break;
            }
            let part = refinement::record(&page, layout, slot, span);
            let packed = if span == 0 {
                head.copy_from_slice(&part[..4]);
                &part[4..]
            } else {
                part
            };
            let (step, ..) = refinement::factors(&head);
            sum += self
                .query
                .partial(&self.index.space, from, packed, layout.bits, step);
            from += packed.len() / layout.bits as usize * 8;
        }
        self.stats.refined += 1;
        if there {
            (key, least) = self.query.row(&head, layout.bits, sum);
        }
        let bound = self.bound(least);
        self.rows.push(Found {
            tid: self.tid(code),
            bound,
        });
        self.codes.push(code);
        self.queue.push(key, Item::Row(self.rows.len() - 1));
        Ok(())
    }

    /// What is given out for a row whose distance is at least `least`.
    fn bound(&self, least: f64) -> Bound {
        match self.query.nature {
            Nature::Ordered => Bound::AtLeast(least.max(self.query.least())),
            Nature::Boundless => Bound::AtLeast(self.query.least()),
            Nature::Unordered => Bound::Unordered,
            Nature::Null => Bound::Null,
        }
    }

    /// The index changed under the search: reads meta page and directory again and goes on with the lists
    /// that were not read, leaving out rows that were.
    fn start_again(&mut self) -> Result<()> {
        self.store.check_interrupts()?;
        self.remember(self.arena.len());
        self.renew()?;
        self.read_directory()
    }

    /// From now on rows that were seen are left out; those in the first `bytes` of the arena were.
    fn remember(&mut self, bytes: usize) {
        if self.seen.is_none() {
            let tids = self.arena[..bytes].chunks_exact(6);
            self.seen = Some(tids.map(|tid| HeapTid(u48_at(tid, 0))).collect());
        }
    }

    fn renew(&mut self) -> Result<()> {
        let frame = self.index.meta.frame;
        self.index.refresh(self.store)?;
        if self.index.meta.frame != frame {
            self.generation += 1;
            self.query = Query::new(&self.index.space, self.vector.as_deref(), self.trust)?;
        }
        if self.index.meta.moves > self.moves {
            self.moves = self.index.meta.moves;
            self.opened.clear();
        }
        self.queue.forget_lists();
        Ok(())
    }

    /// The next row of a chain without vectors; moves the phase along.
    fn aside_row(
        &mut self,
        mut link: Option<PageRef>,
        phase: fn(Option<PageRef>) -> Phase,
    ) -> Result<Option<HeapTid>> {
        loop {
            if let Some(tid) = self.pending.pop() {
                return Ok(Some(tid));
            }
            let Some(name) = link else { return Ok(None) };
            self.store.check_interrupts()?;
            let words = self.index.meta.options.filter_columns;
            let page = self.store.read(name.block)?;
            if !page::opened(&page, name) {
                // Only an empty page at the end of the chain is ever freed.
                self.phase = phase(None);
                return Ok(None);
            }
            tids::check(&page, name.block, words)?;
            for slot in (0..page::count(&page)).rev() {
                if filter::passes(&self.filters, &page, words, slot) {
                    self.pending.push(tids::tid(&page, words, slot));
                }
            }
            link = page::next(&page);
            self.phase = phase(link);
        }
    }
}
