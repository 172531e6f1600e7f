//! Leaves: pages of columnar entries, of a list or of the directory.
//!
//! Entries lie in groups of 16, as the sign-code kernel takes them; their words lie before all groups, column by column, so
//! that a filter reads nothing else. A leaf names its refinement pages by block; entry `s` has its refinement record there at `s`. The head leaf of a chain
//! keeps a hint to the tail and how many leaves there are; the tail keeps a count of edits.
//!
//! Invariant: slots only fill up. A dead entry keeps its slot, its heap TID becomes all ones and its
//! constant NaN, which makes every bound NaN: it is never a candidate.

use lookbook_vecmath::kernel::codes::{BoundTerms, Kernels, LANES, SignGroups, Tables};

use super::header::{HEADER_BYTES, Kind, PageRef, expect, expect_bound, format, set_count};
use super::layout::LEAF_LINKS;
use super::{Layout, f32_at, put_f32, put_u16, put_u32, put_u48, u16_at, u32_at, u48_at};
use crate::error::Result;
use crate::store::{BlockId, HeapTid, PageBytes};

const TAIL: usize = HEADER_BYTES;
const LEAVES: usize = HEADER_BYTES + 8;
const EDITS: usize = HEADER_BYTES + 12;
/// With more values than this a binary search for each word is faster than comparing all.
const FEW_VALUES: usize = 32;
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

    /// About the squared distance of the entry from its centroid: with `A = 2‖r‖²/‖r‖₁` and `E = 2‖r − A/2·b‖` it is
    /// `(A²·D − E²)/4`.
    pub fn squared_residual(&self, slot: usize) -> f32 {
        let [_, factors, radii, _] = self.layout.columns();
        let (group, lane) = (self.group_of(slot), self.lane(slot));
        let factor = crate::rounding::bf16(u16_at(self.page, group + factors + 2 * lane));
        let radius = crate::rounding::bf16(u16_at(self.page, group + radii + 2 * lane));
        (factor * factor * self.layout.dims as f32 - radius * radius) / 4.0
    }

    /// Word `word` of the entry.
    pub fn word(&self, slot: usize, word: usize) -> u32 {
        u32_at(self.page, self.layout.words_at(word) + 4 * slot)
    }

    /// Copies the entry, without its refinement record, to the front of a row record.
    pub fn copy_row(&self, slot: usize, record: &mut [u8]) {
        let (layout, fields) = (self.layout, self.layout.row());
        let [constants, factors, radii, tids] = layout.columns();
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
            record[fields.code + byte] = self.page[group + layout.sign_byte(byte, lane)];
        }
    }

    /// All slots in use, a mask for each group.
    pub fn choose_all(&self, chosen: &mut Vec<u16>) {
        let lanes = self.layout.lanes;
        chosen.clear();
        chosen.resize(self.groups(), u16::MAX >> (16 - lanes));
        if let (Some(last), rest @ 1..) = (chosen.last_mut(), self.count() % lanes) {
            *last = u16::MAX >> (16 - rest);
        }
    }

    /// Keeps those of the chosen slots whose word of column `word` is one of `values`.
    pub fn keep_matching(
        &self,
        word: usize,
        values: &[u32],
        kernels: &Kernels,
        chosen: &mut [u16],
    ) {
        let (layout, at) = (self.layout, self.layout.words_at(word));
        let words = &self.page[at..at + 4 * layout.lanes * chosen.len()];
        if layout.lanes == LANES && values.len() <= FEW_VALUES {
            kernels.matching(words, values, chosen);
            return;
        }
        for (words, chosen) in words.chunks_exact(4 * layout.lanes).zip(chosen) {
            let (words, _) = words.as_chunks::<4>();
            for (lane, word) in words.iter().enumerate() {
                if values.binary_search(&u32::from_le_bytes(*word)).is_err() {
                    *chosen &= !(1 << lane);
                }
            }
        }
    }

    /// The bounds of the chosen slots; then `chosen` keeps those that are not above `threshold`, and the least of the others
    /// is the result. NaN, which is neither, for dead ones.
    pub fn bounds(
        &self,
        kernels: &Kernels,
        tables: &Tables<'_>,
        terms: &BoundTerms,
        threshold: f32,
        chosen: &mut [u16],
        bounds: &mut Vec<[f32; LANES]>,
    ) -> f32 {
        let layout = self.layout;
        bounds.resize(chosen.len(), [0.0; LANES]);
        let (from, to) = (layout.group(0), layout.group(chosen.len()));
        let groups = SignGroups {
            bytes: &self.page[from..to],
            stride: layout.group_bytes,
            columns: layout.sign_bytes,
        };
        if layout.lanes == LANES {
            return kernels.sign_bounds(&groups, tables, terms, threshold, chosen, bounds);
        }
        let mut least = f32::INFINITY;
        let slots = groups.bytes.chunks_exact(layout.group_bytes);
        for (group, (chosen, bounds)) in slots.zip(chosen.iter_mut().zip(bounds)) {
            for (lane, bound) in bounds.iter_mut().enumerate().take(layout.lanes) {
                *bound = self.bound(group, lane, tables, terms);
                if *chosen >> lane & 1 == 1 && *bound > threshold {
                    least = least.min(*bound);
                }
                *chosen &= !(u16::from(*bound > threshold || bound.is_nan()) << lane);
            }
        }
        least
    }

    /// The bound of an entry of thousands of dimensions: too few fit a page for a group of 16.
    fn bound(&self, group: &[u8], lane: usize, tables: &Tables<'_>, terms: &BoundTerms) -> f32 {
        let [constants, factors, radii, _] = self.layout.columns();
        let sum: u32 = (0..self.layout.sign_bytes)
            .map(|byte| {
                let code = usize::from(group[self.layout.sign_byte(byte, lane)]);
                let low = tables.low[byte * LANES + (code & 15)];
                let high = tables.high[byte * LANES + (code >> 4)];
                u32::from(low) + u32::from(high)
            })
            .sum();
        f32_at(group, constants + 4 * lane) * terms.constant_weight + terms.base
            - crate::rounding::bf16(u16_at(group, factors + 2 * lane))
                * (sum as f32 * terms.gain + terms.offset)
            - crate::rounding::bf16(u16_at(group, radii + 2 * lane)) * terms.spread
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
    let [constants, factors, radii, tids] = layout.columns();
    let (group, lane) = (layout.group(slot / layout.lanes), slot % layout.lanes);
    for byte in 0..layout.code_bytes {
        page[group + layout.sign_byte(byte, lane)] = record[fields.code + byte];
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
        let value = u32_at(record, fields.words + 4 * word);
        put_word(page, layout, slot, word, value);
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
    put_u32(page, layout.words_at(word) + 4 * slot, value);
}

/// Makes an entry dead.
pub(crate) fn bury(page: &mut PageBytes, layout: &Layout, slot: usize) {
    let [constants, .., tids] = layout.columns();
    let (group, lane) = (layout.group(slot / layout.lanes), slot % layout.lanes);
    put_f32(page, group + constants + 4 * lane, f32::NAN);
    put_u48(page, group + tids + 6 * lane, DEAD);
}
