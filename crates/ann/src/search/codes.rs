//! The sign codes that a search queued, and how they become rows.

use lookbook_vecmath::kernel::codes::LANES;

use super::{BlockId, Found, HeapTid, Item, PageRef, PageStore, Result, Search};
use crate::chain;
use crate::error::Error;
use crate::page::leaf::Leaf;
use crate::page::{Layout, refinement};
use crate::queue::MOST_ITEMS;

/// What most searches for a few rows come by at the most: nothing grows then.
const USUAL_CODES: usize = 256;
const USUAL_LEAVES: usize = 32;

/// What was copied from a leaf that codes were queued of.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeafCopy {
    pub name: PageRef,
    pub links: [BlockId; 8],
    /// Of the list among those read.
    pub list: usize,
    /// Which frame its codes belong to.
    generation: u32,
}

#[derive(Clone, Copy, Debug)]
struct Code {
    tid: HeapTid,
    leaf: u32,
    slot: u32,
}

/// A code of the list being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Staged {
    pub bound: f32,
    code: Code,
}

/// Codes queued, and those of the list being read.
#[derive(Debug)]
pub(super) struct Codes {
    leaves: Vec<LeafCopy>,
    codes: Vec<Code>,
    pub staged: Vec<Staged>,
    /// Of the leaf being read: slots, one bit each, and their bounds.
    pub chosen: Vec<u16>,
    pub bounds: Vec<[f32; LANES]>,
    list: usize,
    generation: u32,
    leaves_before: usize,
}

impl Codes {
    pub fn new() -> Codes {
        Codes {
            leaves: Vec::with_capacity(USUAL_LEAVES),
            codes: Vec::with_capacity(USUAL_CODES),
            staged: Vec::with_capacity(USUAL_CODES),
            chosen: Vec::new(),
            bounds: Vec::new(),
            list: 0,
            generation: 0,
            leaves_before: 0,
        }
    }

    /// Slot and leaf of a code.
    pub fn place(&self, code: usize) -> (usize, LeafCopy) {
        let Code { leaf, slot, .. } = self.codes[code];
        (slot as usize, self.leaves[leaf as usize])
    }

    pub fn tids(&self) -> impl Iterator<Item = HeapTid> {
        self.codes.iter().map(|code| code.tid)
    }

    /// Begins with a list.
    pub fn begin(&mut self, list: usize, generation: u32) {
        (self.list, self.generation) = (list, generation);
        self.leaves_before = self.leaves.len();
    }

    /// Forgets what was staged of the list.
    pub fn forget_staged(&mut self) {
        self.leaves.truncate(self.leaves_before);
        self.staged.clear();
    }

    /// Stages the chosen slots of a leaf whose bound is beyond `reached` (NaN: all).
    pub fn stage(&mut self, name: PageRef, leaf: &Leaf<'_>, layout: &Layout, reached: f32) {
        let before = self.staged.len();
        let number = self.leaves.len() as u32;
        for (group, &chosen) in self.chosen.iter().enumerate() {
            let mut chosen = chosen;
            while chosen != 0 {
                let lane = chosen.trailing_zeros() as usize;
                chosen &= chosen - 1;
                let (bound, slot) = (self.bounds[group][lane], group * layout.lanes + lane);
                if bound <= reached {
                    continue;
                }
                if let Some(tid) = leaf.tid(slot) {
                    let (leaf, slot) = (number, slot as u32);
                    let code = Code { tid, leaf, slot };
                    self.staged.push(Staged { bound, code });
                }
            }
        }
        if self.staged.len() > before {
            self.leaves.push(LeafCopy {
                name,
                links: chain::links(leaf, layout),
                list: self.list,
                generation: self.generation,
            });
        }
    }
}

impl<S: PageStore> Search<'_, S> {
    /// Queues what is staged up to `horizon`; gives the least bound of the rest.
    pub(super) fn queue_staged(&mut self, horizon: f32) -> Result<f32> {
        let mut rest = f32::INFINITY;
        for &Staged { bound, code } in &self.codes.staged {
            if bound > horizon {
                rest = if bound < rest { bound } else { rest };
                continue;
            }
            let seen = &mut self.seen;
            if seen.as_mut().is_some_and(|seen| !seen.insert(code.tid)) {
                continue;
            }
            self.queue.push(bound, Item::Code(self.codes.codes.len()));
            self.codes.codes.push(code);
        }
        self.codes.staged.clear();
        self.stats.queued = self.codes.codes.len();
        if self.stats.queued > MOST_ITEMS {
            return Err(Error::Option {
                option: "rows of one search",
                found: self.stats.queued as u64,
                least: 0,
                most: MOST_ITEMS as u64,
            });
        }
        Ok(rest)
    }

    /// Brings the refinement code near that is likely to be read next.
    pub(super) fn prefetch_next(&self) {
        let Some(Item::Code(code)) = self.queue.peek() else {
            return;
        };
        let layout = &self.index.space.layout;
        let (slot, leaf) = self.codes.place(code);
        let (at, length) = refinement::place(layout, slot, 0);
        let block = leaf.links[slot / layout.per_refinement * layout.spans];
        self.store.prefetch(block, at..at + length);
    }

    /// Reads the refinement code of a row and queues the row by its certain bound.
    pub(super) fn refine(&mut self, code: usize) -> Result<()> {
        let layout = &self.index.space.layout;
        let (slot, leaf) = self.codes.place(code);
        // The row moved to another page since: nothing is known of it any more but that it exists.
        let (mut key, mut least) = (f32::NEG_INFINITY, self.query.least());
        let (mut head, mut sum, mut from) = ([0; 4], 0.0, 0);
        let mut there = leaf.generation == self.generation;
        for span in 0..if there { layout.spans } else { 0 } {
            let block = leaf.links[slot / layout.per_refinement * layout.spans + span];
            let page = self.store.read(block)?;
            if !refinement::belongs(&page, block, leaf.name)? {
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
        match there {
            true => {
                self.query.note_error(&head);
                (key, least) = self.query.row(&head, layout.bits, sum);
            }
            false => self.moved.push(self.rows.len()),
        }
        self.rows.push(Found {
            tid: self.codes.codes[code].tid,
            bound: self.bound(least),
        });
        self.origins.push(code);
        self.queue.push(key, Item::Row(self.rows.len() - 1));
        Ok(())
    }
}
