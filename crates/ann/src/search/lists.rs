//! The lists of a search: which is nearest, what was read of it.
//!
//! Few lists are read and few of their codes refined, so little is sorted: the nearest lists, and of a list that is read
//! the codes up to a horizon. What lies beyond is one item of the queue, with the key of the first of it; when its turn
//! comes, more lists are sorted, or the list is read again. So memory does not grow with what is scanned, only with what
//! is near.

use std::collections::HashSet;
use std::sync::Arc;

use super::codes::Staged;
use super::{
    BlockId, Centre, Item, PageRef, PageStore, Query, Queue, Result, Search, filter, page,
};
use crate::catalogue::Catalogue;
use crate::chain;
use crate::directory;
use crate::error::Error;
use crate::index::ATTEMPTS;
use crate::query::Measured;
use crate::space::Space;

/// Lists sorted at first; twice as many each time after.
const FIRST_LISTS: usize = 32;
/// Codes up to the first horizon; twice as many in a list that moves it later.
const FIRST_CODES: usize = 48;

/// A list that was read.
#[derive(Clone, Copy, Debug)]
struct Opened {
    head: PageRef,
    centre: Centre,
    /// Codes up to this bound were queued; NaN: none yet.
    reached: f32,
    /// The least bound of the others, ∞: there are none.
    rest: f32,
}

/// The lists as far as a search has come.
#[derive(Debug)]
pub(super) struct Lists {
    catalogue: Option<Arc<Catalogue>>,
    measured: Measured,
    /// The key of every list; ∞: read already.
    keys: Vec<f32>,
    /// The lists with keys up to `reached` (NaN: none yet) that were not read, nearest first, and which is next.
    order: Vec<(f32, u32)>,
    next: usize,
    reached: f32,
    batch: usize,
    opened: Vec<Opened>,
    /// The first of those opened that count; the others are to be read again.
    valid_from: usize,
    /// Codes up to this bound are queued when a list is read; NaN: all, until there are enough to tell.
    horizon: f32,
    codes: usize,
    scratch: Vec<f32>,
}

impl Lists {
    pub fn new() -> Lists {
        Lists {
            catalogue: None,
            measured: Measured::default(),
            keys: Vec::new(),
            order: Vec::new(),
            next: 0,
            reached: f32::NAN,
            batch: FIRST_LISTS,
            opened: Vec::new(),
            valid_from: 0,
            horizon: f32::NAN,
            codes: FIRST_CODES,
            scratch: Vec::new(),
        }
    }

    pub fn centre(&self, opened: usize) -> Centre {
        self.opened[opened].centre
    }

    /// Begins with what `catalogue` says, but for lists that were read already; what is left of those is queued again.
    fn begin(
        &mut self,
        catalogue: Arc<Catalogue>,
        space: &Space,
        query: &Query,
        queue: &mut Queue,
    ) {
        self.measured = query.measure_lists(space, &catalogue);
        self.keys = query.list_keys(&catalogue, &self.measured);
        (self.reached, self.batch) = (f32::NAN, FIRST_LISTS);
        let opened = &mut self.opened[self.valid_from..];
        if !opened.is_empty() {
            let known: HashSet<PageRef> = opened.iter().map(|opened| opened.head).collect();
            let mut live = HashSet::new();
            for (list, key) in catalogue.lists.iter().zip(&mut self.keys) {
                if known.contains(&list.head) {
                    *key = f32::INFINITY;
                    live.insert(list.head);
                }
            }
            for (number, opened) in opened.iter_mut().enumerate() {
                if !live.contains(&opened.head) {
                    opened.rest = f32::INFINITY;
                }
                queue_rest(queue, self.valid_from + number, opened.rest);
            }
        }
        self.catalogue = Some(catalogue);
        self.sort_more(queue);
    }

    /// A list was found to be replaced, and the lists were read anew since: if it is still among them, that is damage.
    fn expect_gone(&self, head: PageRef) -> Result<()> {
        let lists = self.catalogue.iter().flat_map(|catalogue| &catalogue.lists);
        if lists.into_iter().all(|list| list.head != head) {
            return Ok(());
        }
        Err(Error::Corrupt {
            block: head.block,
            offset: 4,
            what: "a list that the directory names",
            found: u64::from(head.incarnation),
            expected: "pages of that list",
        })
    }

    /// Sorts the next lists and queues the first of them.
    fn sort_more(&mut self, queue: &mut Queue) {
        (self.next, self.reached) = (0, self.sort(self.reached, self.batch));
        self.batch = self.batch.saturating_mul(2);
        if let Some(&(key, _)) = self.order.first() {
            queue.push(key, Item::List);
        }
    }

    /// Puts some `wanted` of the lists with keys beyond `reached` (NaN: of all) in order, nearest first: all if there are few,
    /// at least one, and seldom many more than `wanted`. Gives the key that none of the others is below.
    fn sort(&mut self, reached: f32, wanted: usize) -> f32 {
        self.order.clear();
        // At least n keys are not above the n-th smallest of the minima of parts; every parts-th key belongs to one.
        let parts = self.keys.len().min(8 * wanted).max(1);
        let least = &mut self.scratch;
        least.clear();
        least.resize(parts, f32::INFINITY);
        for keys in self.keys.chunks(parts) {
            for (least, &key) in least.iter_mut().zip(keys) {
                let key = if key <= reached { f32::INFINITY } else { key };
                *least = if key < *least { key } else { *least };
            }
        }
        let mut minima = least.clone();
        let last = wanted.min(parts) - 1;
        let (_, &mut threshold, _) = minima.select_nth_unstable_by(last, f32::total_cmp);
        let threshold = threshold.min(f32::MAX);
        for (part, _) in least
            .iter()
            .enumerate()
            .filter(|least| *least.1 <= threshold)
        {
            for (at, &key) in self.keys.iter().enumerate().skip(part).step_by(parts) {
                if key <= threshold && is_beyond(key, reached) {
                    self.order.push((key, at as u32));
                }
            }
        }
        least.clear();
        self.order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        threshold
    }

    /// The nearest list not yet read, and where the one after it begins. `None`: more were sorted.
    fn take(&mut self, queue: &mut Queue) -> Option<(usize, Option<BlockId>)> {
        let &(_, list) = self.order.get(self.next)?;
        self.next += 1;
        let after = self.order.get(self.next);
        queue.push(after.map_or(self.reached, |after| after.0), Item::List);
        let catalogue = self.catalogue.as_ref()?;
        let ahead = after.map(|after| catalogue.lists[after.1 as usize].head.block);
        Some((list as usize, ahead))
    }

    /// Moves the horizon so that it takes in more of the codes staged; until enough were staged, it stays open.
    fn move_horizon(&mut self, staged: &[Staged]) {
        let is_first = self.horizon.is_nan();
        if !is_first {
            self.scratch.clear();
        }
        self.scratch
            .extend(staged.iter().map(|staged| staged.bound));
        let count = self.scratch.len();
        if count == 0 || is_first && count < self.codes {
            return;
        }
        let last = self.codes.min(count) - 1;
        let (_, &mut horizon, _) = self.scratch.select_nth_unstable_by(last, f32::total_cmp);
        self.horizon = horizon;
        self.codes = self.codes.saturating_mul(2);
    }
}

/// Is a key beyond what was reached, when NaN says that nothing was?
fn is_beyond(key: f32, reached: f32) -> bool {
    reached.is_nan() || key > reached
}

fn queue_rest(queue: &mut Queue, opened: usize, rest: f32) {
    if rest < f32::INFINITY {
        queue.push(rest, Item::Rest(opened));
    }
}

impl<S: PageStore> Search<'_, S> {
    /// Queues the nearest lists.
    pub(super) fn begin_lists(&mut self) -> Result<()> {
        // What others learnt of the lists is good enough but for certainty.
        let mut fresh = self.query.is_certain() || self.seen.is_some();
        for _ in 0..ATTEMPTS {
            let Some(directory) = self.index.meta.directory else {
                return Ok(());
            };
            if let Some(catalogue) = self.index.catalogue(self.store, directory, fresh)? {
                self.stats.centroids += catalogue.lists.len();
                let space = &self.index.space;
                self.lists
                    .begin(catalogue, space, &self.query, &mut self.queue);
                return Ok(());
            }
            self.store.check_interrupts()?;
            self.renew()?;
            fresh = true;
        }
        Err(Error::Contended {
            operation: "a search",
            attempts: ATTEMPTS,
        })
    }

    /// Reads the nearest list that was not yet read.
    pub(super) fn open_next(&mut self) -> Result<()> {
        let Some((list, ahead)) = self.lists.take(&mut self.queue) else {
            self.lists.sort_more(&mut self.queue);
            return Ok(());
        };
        if let Some(block) = ahead {
            self.store.prefetch(block, 0..chain::AHEAD_BYTES);
        }
        let Some(catalogue) = &self.lists.catalogue else {
            return Ok(());
        };
        self.lists.opened.push(Opened {
            head: catalogue.lists[list].head,
            centre: self.query.centre(catalogue, &self.lists.measured, list),
            reached: f32::NAN,
            rest: f32::INFINITY,
        });
        self.lists.keys[list] = f32::INFINITY;
        self.stats.lists += 1;
        self.read(self.lists.opened.len() - 1)
    }

    /// Queues more codes of a list.
    pub(super) fn read_on(&mut self, opened: usize) -> Result<()> {
        self.stats.read_on += 1;
        self.read(opened)
    }

    /// Reads a list and queues its codes from where it was read to up to the horizon.
    fn read(&mut self, number: usize) -> Result<()> {
        self.store.check_interrupts()?;
        let Opened {
            head,
            centre,
            reached,
            ..
        } = self.lists.opened[number];
        let is_first = reached.is_nan() && number == 0;
        let space = &self.index.space;
        let (tables, terms) = (self.query.tables(), self.query.list_terms(&centre));
        // The horizon was come to, or there is none yet.
        let horizon = self.lists.horizon;
        let moves_on = horizon.is_nan() || reached >= horizon;
        let upto = if moves_on { f32::INFINITY } else { horizon };
        let (mut rest, mut moved) = (f32::INFINITY, 0);
        let (codes, count) = (&mut self.codes, &mut self.stats.codes);
        codes.begin(number, self.generation);
        let chain = directory::lists(space);
        let end = chain::walk(self.store, head, chain, |name, leaf, page| {
            moved = page::moved(page);
            *count += leaf.count();
            leaf.choose_all(&mut codes.chosen);
            if !filter::keep_passing(&self.filters, &leaf, space.kernels, &mut codes.chosen) {
                return Ok(());
            }
            let (chosen, bounds) = (&mut codes.chosen, &mut codes.bounds);
            let least = leaf.bounds(space.kernels, &tables, &terms, upto, chosen, bounds);
            rest = if least < rest { least } else { rest };
            codes.stage(name, &leaf, chain.layout, reached);
            Ok(())
        })?;
        if end.is_none() {
            self.codes.forget_staged();
            self.lists.opened[number].head = PageRef::NOWHERE;
            self.start_again()?;
            return self.lists.expect_gone(head);
        }
        if moves_on {
            self.lists.move_horizon(&self.codes.staged);
        }
        let upto = match self.lists.horizon {
            horizon if horizon.is_nan() => f32::INFINITY,
            horizon => horizon,
        };
        if moved > self.moves && !is_first {
            // A row may have come here from a list that was read before, or left for one.
            self.remember();
            self.queue_staged(upto)?;
            self.moves = moved;
            self.lists.valid_from = self.lists.opened.len();
            return self.start_again();
        }
        let beyond = self.queue_staged(upto)?;
        let rest = if beyond < rest { beyond } else { rest };
        let opened = &mut self.lists.opened[number];
        (opened.reached, opened.rest) = (upto, rest);
        queue_rest(&mut self.queue, number, rest);
        Ok(())
    }

    /// The index changed under the search: reads the lists anew and goes on with those that were not read, leaving out
    /// rows that are queued.
    fn start_again(&mut self) -> Result<()> {
        self.store.check_interrupts()?;
        self.remember();
        self.renew()?;
        self.begin_lists()
    }

    /// From now on rows that were queued are left out.
    fn remember(&mut self) {
        if self.seen.is_none() {
            self.seen = Some(self.codes.tids().collect());
        }
    }

    fn renew(&mut self) -> Result<()> {
        let frame = self.index.meta.frame;
        self.index.refresh(self.store)?;
        if self.index.meta.frame != frame {
            self.generation += 1;
            let trust = self.query.trust();
            let query = Query::new(&self.index.space, self.vector.as_deref(), trust)?;
            self.query = query.with_typical_error_of(&self.query);
        }
        if self.index.meta.moves > self.moves {
            self.moves = self.index.meta.moves;
            self.lists.valid_from = self.lists.opened.len();
        }
        self.queue.forget_lists();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn lists_are_sorted_some_at_a_time_until_all_were() {
        let mut random = Random::new(5, 5);
        for count in [0, 1, 7, 40, 300, 5_000, 70_000] {
            let mut lists = Lists::new();
            lists.keys = (0..count)
                .map(|_| random.below(1 << 24) as f32 - 1e6)
                .collect();
            for wanted in [1, 32, 1024] {
                let (mut reached, mut taken) = (f32::NAN, Vec::new());
                for _ in 0..12 {
                    reached = lists.sort(reached, wanted);
                    let (found, left) = (lists.order.len(), count - taken.len());
                    assert!(found >= left.min(1), "nothing of {left}");
                    assert!(found <= 2 * wanted + 8, "{found} for {wanted}");
                    assert!(left < 8 * wanted || found >= wanted, "{found} of {left}");
                    taken.extend(lists.order.iter().map(|list| list.0));
                }
                let mut expected = lists.keys.clone();
                expected.sort_by(f32::total_cmp);
                assert_eq!(taken, expected[..taken.len()]);
            }
        }
    }
}
