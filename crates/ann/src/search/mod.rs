//! Best-first search: rows by lower bounds of their distance, as many as are asked for.
//!
//! One queue holds lists, sign codes and rows. The smallest is taken: a list is read ([`lists`]), a code is refined
//! ([`codes`]), a row is given out. The search never ends by itself before every row that passes the filters was given
//! out: first come the (very rare) rows that no bound can be given for, last those without order, then NULL rows.
//!
//! What is promised: every bound is certain (never above the distance the operator computes), each row
//! comes once, and bounds do not fall but for rows that came late, which are given out at the end ([`order`]); with
//! [`Trust::Certain`] none is late.
//!
//! Concurrency: one page is locked at a time and copied from. When a list was replaced before it was read, or between two
//! readings, or rows moved between lists, lists are read anew and the rows that are queued already are left out.

mod codes;
mod lists;
mod order;

use std::collections::HashSet;

use crate::calibration::depth;
use crate::error::Result;
use crate::filter::{self, Filter};
use crate::index::Index;
use crate::page::{self, PageRef, tids};
use crate::query::{Centre, Nature, Query, Trust};
use crate::queue::{Item, Queue};
use crate::step::Step;
use crate::store::{BlockId, HeapTid, PageStore};
use codes::Codes;
use lists::Lists;
use order::Order;
pub(crate) use order::wanted;

/// Rows that most searches for a few look at, at the most.
const USUAL_ROWS: usize = 64;

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
    /// Rows certainly farther than this are not wanted, nor rows without order; in the unit of [`Bound::AtLeast`].
    pub limit: Option<f64>,
}

impl Default for SearchOptions {
    fn default() -> Self {
        SearchOptions {
            recall: 0.98,
            filters: Vec::new(),
            limit: None,
        }
    }
}

/// How much a search did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchStats {
    /// Lists known.
    pub centroids: usize,
    /// Lists read.
    pub lists: usize,
    /// Times that a list was read on, because more of its rows were wanted.
    pub read_on: usize,
    /// Entries of the lists read.
    pub codes: usize,
    /// Sign codes queued.
    pub queued: usize,
    /// Refinement codes read.
    pub refined: usize,
    /// Rows given out.
    pub rows: usize,
}

/// Where a row given out was found: for the calibration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trace {
    pub centre: Centre,
    pub leaf: PageRef,
    pub links: [BlockId; 8],
    pub slot: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Boundless(Option<Step>),
    Ordered,
    /// Nothing is queued any more: the rows that settled, or came late.
    Rest,
    Unordered(Option<Step>),
    Nulls(Option<Step>),
    Done,
}

/// A running search. Holds no page between calls.
#[derive(Debug)]
pub struct Search<'s, S: PageStore> {
    store: &'s S,
    index: Index,
    vector: Option<Vec<f32>>,
    filters: Vec<Filter>,
    query: Query,
    phase: Phase,
    /// How often the frame changed.
    generation: u32,
    queue: Queue,
    lists: Lists,
    codes: Codes,
    rows: Vec<Found>,
    /// Of each row: the sign code it was found by.
    origins: Vec<usize>,
    order: Order,
    /// No row farther than this is wanted.
    limit: f64,
    /// Those of which nothing is known but that they exist: they moved to another page since they were queued.
    moved: Vec<usize>,
    /// The row given out last.
    last: usize,
    /// Rows that moved between lists with a later stamp may have been missed in the lists read so far.
    moves: u64,
    /// Once the index changed under us: rows queued before.
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
            let slack = index.meta.calibration.slack(options.recall);
            Trust::Slack(slack, depth(options.recall))
        };
        let filters = options.filters.clone();
        let mut search = Search::with_trust(store, index, vector, filters, trust)?;
        search.limit = options.limit.unwrap_or(f64::INFINITY);
        Ok(search)
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
        search.filters = filters;
        Ok(search)
    }

    /// Every row by a query that was prepared.
    pub(crate) fn of(store: &'s S, index: Index, query: Query) -> Search<'s, S> {
        Search {
            store,
            vector: None,
            filters: Vec::new(),
            query,
            phase: Phase::Boundless(index.meta.boundless.map(Step::from)),
            generation: 0,
            queue: Queue::new(),
            lists: Lists::new(),
            codes: Codes::new(),
            rows: Vec::with_capacity(USUAL_ROWS),
            origins: Vec::with_capacity(USUAL_ROWS),
            order: Order::new(),
            limit: f64::INFINITY,
            moved: Vec::new(),
            last: 0,
            moves: index.meta.moves,
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
        let is_ordered = matches!(self.phase, Phase::Ordered | Phase::Rest);
        let code = *self.origins.get(self.last).filter(|_| is_ordered)?;
        let (slot, leaf) = self.codes.place(code);
        Some(Trace {
            centre: self.lists.centre(leaf.list),
            leaf: leaf.name,
            links: leaf.links,
            slot,
        })
    }

    /// What was done so far.
    pub fn stats(&self) -> SearchStats {
        self.stats
    }

    /// The row that is likely to be given out next: a hint for whoever looks rows up.
    pub fn next_tid(&self) -> Option<HeapTid> {
        self.order.peek().map(|row| self.rows[row].tid)
    }

    /// Rows that are likely to be given out soon, in no order.
    pub fn coming_tids(&self) -> impl Iterator<Item = HeapTid> {
        self.order.waiting().map(|row| self.rows[row].tid)
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
            if let Some(row) = self.order.next() {
                if !self.is_beyond(row) {
                    return Ok(Some(self.give_out(row)));
                }
                self.end_here();
            }
            match self.phase {
                Phase::Boundless(link) => match self.aside_row(link, Phase::Boundless)? {
                    Some(tid) => {
                        let bound = self.bound(f64::NEG_INFINITY);
                        return Ok(Some(Found { tid, bound }));
                    }
                    None => {
                        self.begin_lists()?;
                        self.phase = Phase::Ordered;
                    }
                },
                Phase::Ordered => match self.queue.pop() {
                    Some(Item::Row(row)) => {
                        if let Some(row) = self.settle(row) {
                            return Ok(Some(self.give_out(row)));
                        }
                    }
                    Some(Item::Code(code)) => {
                        self.prefetch_next();
                        self.refine(code)?;
                    }
                    Some(Item::List) => self.open_next()?,
                    Some(Item::Rest(list)) => self.read_on(list)?,
                    None => self.phase = Phase::Rest,
                },
                Phase::Rest => match self.order.next_of_rest() {
                    Some(row) if self.is_beyond(row) => {}
                    Some(row) => return Ok(Some(self.give_out(row))),
                    None if self.limit < f64::INFINITY => self.phase = Phase::Done,
                    None => {
                        let head = self.index.meta.unordered;
                        self.phase = Phase::Unordered(head.map(Step::from));
                    }
                },
                Phase::Unordered(link) => match self.aside_row(link, Phase::Unordered)? {
                    Some(tid) => {
                        let bound = match self.query.nature {
                            Nature::Null => Bound::Null,
                            _ => Bound::Unordered,
                        };
                        return Ok(Some(Found { tid, bound }));
                    }
                    None => self.phase = Phase::Nulls(self.index.meta.nulls.map(Step::from)),
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

    /// A row came off the queue; gives it back if it is not to wait.
    fn settle(&mut self, row: usize) -> Option<usize> {
        match self.rows[row].bound {
            // With certain keys none comes late, but by rounding.
            Bound::AtLeast(least) if !self.query.is_certain() && !self.moved.contains(&row) => {
                self.order.settle(row, least);
                None
            }
            _ if self.is_beyond(row) => {
                self.end_here();
                None
            }
            _ => Some(row),
        }
    }

    /// Is a row certainly farther than any that is wanted?
    fn is_beyond(&self, row: usize) -> bool {
        matches!(self.rows[row].bound, Bound::AtLeast(least) if least > self.limit)
    }

    /// A row beyond the limit had its turn: so is everything that is queued, as far as keys tell.
    fn end_here(&mut self) {
        self.queue = Queue::new();
    }

    fn give_out(&mut self, row: usize) -> Found {
        self.last = row;
        self.rows[row]
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

    /// The next row of a chain without vectors; moves the phase along.
    fn aside_row(
        &mut self,
        mut next: Option<Step>,
        phase: fn(Option<Step>) -> Phase,
    ) -> Result<Option<HeapTid>> {
        loop {
            if let Some(tid) = self.pending.pop() {
                return Ok(Some(tid));
            }
            let Some(here) = next else { return Ok(None) };
            self.store.check_interrupts()?;
            let name = here.name;
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
            next = here.next(&page)?;
            self.phase = phase(next);
        }
    }
}
