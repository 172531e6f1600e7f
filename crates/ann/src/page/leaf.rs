//! Leaves: pages of columnar entries, of a list or of the directory.
//!
//! Entries lie in groups so that the sign codes of a group are one kernel call. A leaf names its
//! refinement pages by block; entry `s` has its refinement record there at `s`. The head leaf of a chain
//! keeps a hint to the tail and how many leaves there are; the tail keeps a count of edits.
//!
//! Invariant: slots only fill up. A dead entry keeps its slot, its heap TID becomes all ones and its
//! constant NaN, which makes every bound NaN: it is never a candidate.

use lookbook_vecmath::kernel::codes::{BoundTerms, Kernels, LANES, SignGroup, Tables};

use super::header::{HEADER_BYTES, Kind, PageRef, expect, expect_bound, format, set_count};
use super::layout::LEAF_LINKS;
use super::{Layout, f32_at, put_f32, put_u16, put_u32, put_u48, u16_at, u32_at, u48_at};
use crate::error::Result;
use crate::store::{BlockId, HeapTid, PageBytes};

const TAIL: usize = HEADER_BYTES;
const LEAVES: usize = HEADER_BYTES + 8;
const EDITS: usize = HEADER_BYTES + 12;
/// The heap TID of a dead entry.
const DEAD: u64 = (1 << 48) - 1;

/// A leaf whose header was checked.
#[derive(Clone, Copy)]
pub(crate) struct Leaf<'a> {
    page: &'a PageBytes,
    layout: &'a Layout,
}

impl<'a> Leaf<'a> {
    /// Checks kind and numbers of `page`.
    pub fn new(
        page: &'a PageBytes,
        block: BlockId,
        kind: Kind,
        layout: &'a Layout,
    ) -> Result<Leaf<'a>> {
        expect(page, block, kind, layout.rows)?;
        let leaf = Leaf { page, layout };
        let needed = leaf.count().div_ceil(layout.per_refinement) * layout.spans;
        for link in 0..needed {
            let found = u64::from(leaf.link(link).0);
            let at = LEAF_LINKS + 4 * link;
            expect_bound(
                block,
                at,
                "a refinement page",
                found,
                1..=0xffff_fffe,
                "a block",
            )?;
        }
        Ok(leaf)
    }

    pub fn count(&self) -> usize {
        super::count(self.page)
    }

    pub fn groups(&self) -> usize {
        self.count().div_ceil(self.layout.lanes)
    }

    /// In the head leaf: a leaf from which the tail can be walked to.
    pub fn tail(&self) -> Option<PageRef> {
        PageRef::read(self.page, TAIL)
    }

    /// In the head leaf: how many leaves the chain has.
    pub fn leaves(&self) -> usize {
        u32_at(self.page, LEAVES) as usize
    }

    /// In the tail leaf: how often entries of the chain were changed in place.
    pub fn edits(&self) -> u32 {
        u32_at(self.page, EDITS)
    }

    /// Refinement page `index`.
    pub fn link(&self, index: usize) -> BlockId {
        BlockId(u32_at(self.page, LEAF_LINKS + 4 * index))
    }

    /// The entry's row; `None`: dead.
    pub fn tid(&self, slot: usize) -> Option<HeapTid> {
        let [.., tids] = self.layout.columns();
        let tid = u48_at(self.page, self.group_of(slot) + tids + 6 * self.lane(slot));
        (tid != DEAD).then_some(HeapTid(tid))
    }

    /// Word `word` of the entry.
    pub fn word(&self, slot: usize, word: usize) -> u32 {
        let [.., words, _] = self.layout.columns();
        let lane = word * self.layout.lanes + self.lane(slot);
        u32_at(self.page, self.group_of(slot) + words + 4 * lane)
    }

    /// Copies the entry, without its refinement record, to the front of a row record.
    pub fn copy_row(&self, slot: usize, record: &mut [u8]) {
        let (layout, fields) = (self.layout, self.layout.row());
        let [constants, factors, radii, _, tids] = layout.columns();
        let (group, lane) = (self.group_of(slot), self.lane(slot));
        put_u48(record, 0, u48_at(self.page, group + tids + 6 * lane));
        for word in 0..layout.words {
            put_u32(record, fields.words + 4 * word, self.word(slot, word));
        }
        put_f32(
            record,
            fields.constant,
            f32_at(self.page, group + constants + 4 * lane),
        );
        put_u16(
            record,
            fields.factor,
            u16_at(self.page, group + factors + 2 * lane),
        );
        put_u16(
            record,
            fields.radius,
            u16_at(self.page, group + radii + 2 * lane),
        );
        for byte in 0..layout.code_bytes {
            record[fields.code + byte] = self.page[group + byte * layout.lanes + lane];
        }
    }

    /// Which of the entries of `group` pass `test`, given the words of column `word`.
    pub fn select(&self, group: usize, word: usize, test: impl Fn(u32) -> bool) -> u16 {
        let [.., words, _] = self.layout.columns();
        let at = self.layout.group(group) + words + 4 * word * self.layout.lanes;
        (0..self.layout.lanes).fold(0, |mask, lane| {
            mask | u16::from(test(u32_at(self.page, at + 4 * lane))) << lane
        })
    }

    /// The bounds of the entries of `group`; NaN for dead ones. Slots past the count give anything.
    pub fn bounds(
        &self,
        group: usize,
        kernels: &Kernels,
        tables: &Tables<'_>,
        terms: &BoundTerms,
        bounds: &mut [f32; LANES],
    ) {
        let layout = self.layout;
        let [constants, factors, radii, words, _] = layout.columns();
        let at = layout.group(group);
        let group = &self.page[at..at + layout.group_bytes];
        if layout.lanes == LANES {
            let group = SignGroup {
                codes: &group[..constants],
                constants: &group[constants..factors],
                factors: &group[factors..radii],
                radii: &group[radii..words],
            };
            kernels.sign_bounds(&group, tables, terms, bounds);
            return;
        }
        // Entries of thousands of dimensions: too few on a page for a group of 16.
        for (lane, bound) in bounds.iter_mut().enumerate().take(layout.lanes) {
            let sum: u32 = group[..constants]
                .chunks_exact(layout.lanes)
                .enumerate()
                .map(|(byte, column)| {
                    let code = column[lane];
                    let low = tables.low[byte * LANES + usize::from(code & 15)];
                    let high = tables.high[byte * LANES + usize::from(code >> 4)];
                    u32::from(low) + u32::from(high)
                })
                .sum();
            *bound = f32_at(group, constants + 4 * lane) * terms.constant_weight + terms.base
                - crate::rounding::bf16(u16_at(group, factors + 2 * lane))
                    * (sum as f32 * terms.gain + terms.offset)
                - crate::rounding::bf16(u16_at(group, radii + 2 * lane)) * terms.spread;
        }
    }

    /// The heap TIDs of `group`, six bytes each.
    pub fn tids(&self, group: usize) -> &'a [u8] {
        let [.., tids] = self.layout.columns();
        let at = self.layout.group(group) + tids;
        &self.page[at..at + 6 * self.layout.lanes]
    }

    fn group_of(&self, slot: usize) -> usize {
        self.layout.group(slot / self.layout.lanes)
    }

    fn lane(&self, slot: usize) -> usize {
        slot % self.layout.lanes
    }
}

/// Makes `page` an empty leaf. `head`: the first leaf of the chain; `None`: this is it.
pub(crate) fn format_leaf(
    page: &mut PageBytes,
    block: BlockId,
    kind: Kind,
    head: Option<PageRef>,
) -> PageRef {
    let name = format(page, block, kind, head);
    PageRef::write(head.is_none().then_some(name), page, TAIL);
    put_u32(page, LEAVES, u32::from(head.is_none()));
    name
}

/// In the head leaf: where the tail is now, and how many leaves there are.
pub(crate) fn set_tail(page: &mut PageBytes, tail: PageRef, leaves: usize) {
    PageRef::write(Some(tail), page, TAIL);
    put_u32(page, LEAVES, leaves as u32);
}

/// In the tail leaf: entries of the chain were changed in place.
pub(crate) fn note_edit(page: &mut PageBytes) {
    let edits = u32_at(page, EDITS).wrapping_add(1);
    put_u32(page, EDITS, edits);
}

/// Carries the count of edits over to a new tail.
pub(crate) fn set_edits(page: &mut PageBytes, edits: u32) {
    put_u32(page, EDITS, edits);
}

pub(crate) fn set_link(page: &mut PageBytes, index: usize, block: BlockId) {
    put_u32(page, LEAF_LINKS + 4 * index, block.0);
}

/// Writes a row record, without its refinement record, into a slot.
pub(crate) fn put_row(page: &mut PageBytes, layout: &Layout, slot: usize, record: &[u8]) {
    let fields = layout.row();
    let [constants, factors, radii, words, tids] = layout.columns();
    let (group, lane) = (layout.group(slot / layout.lanes), slot % layout.lanes);
    for byte in 0..layout.code_bytes {
        page[group + byte * layout.lanes + lane] = record[fields.code + byte];
    }
    put_f32(
        page,
        group + constants + 4 * lane,
        f32_at(record, fields.constant),
    );
    put_u16(
        page,
        group + factors + 2 * lane,
        u16_at(record, fields.factor),
    );
    put_u16(
        page,
        group + radii + 2 * lane,
        u16_at(record, fields.radius),
    );
    for word in 0..layout.words {
        let at = group + words + 4 * (word * layout.lanes + lane);
        put_u32(page, at, u32_at(record, fields.words + 4 * word));
    }
    put_u48(page, group + tids + 6 * lane, u48_at(record, 0));
}

/// Appends a row record, without its refinement record; the leaf has room.
pub(crate) fn push_row(page: &mut PageBytes, layout: &Layout, record: &[u8]) {
    let slot = super::count(page);
    put_row(page, layout, slot, record);
    set_count(page, slot + 1);
}

/// Overwrites one word of an entry.
pub(crate) fn put_word(
    page: &mut PageBytes,
    layout: &Layout,
    slot: usize,
    word: usize,
    value: u32,
) {
    let [.., words, _] = layout.columns();
    let lane = word * layout.lanes + slot % layout.lanes;
    put_u32(
        page,
        layout.group(slot / layout.lanes) + words + 4 * lane,
        value,
    );
}

/// Makes an entry dead.
pub(crate) fn bury(page: &mut PageBytes, layout: &Layout, slot: usize) {
    let [constants, .., tids] = layout.columns();
    let (group, lane) = (layout.group(slot / layout.lanes), slot % layout.lanes);
    put_f32(page, group + constants + 4 * lane, f32::NAN);
    put_u48(page, group + tids + 6 * lane, DEAD);
}
