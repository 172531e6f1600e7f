//! How many entries fit which page, and where their columns lie.
//!
//! Derived from (dimensions, filter words, bits) alone, so it is never stored. A *row record* is one
//! entry in one piece: what the bulk build sorts and what moves between lists.

use lookbook_vecmath::kernel::codes::{LANES, quad};

use super::header::HEADER_BYTES;
use crate::store::PAGE_BYTES;

/// Where the numbers of the links to refinement pages begin in a leaf.
pub(super) const LEAF_LINKS: usize = HEADER_BYTES + 16;
/// No leaf has more refinement pages.
const MOST_REFINEMENT_PAGES: usize = 8;
/// Step and error of a refinement code, bf16 each.
pub(super) const REFINEMENT_FACTORS: usize = 4;
/// Bytes of a refinement page for codes.
pub(super) const REFINEMENT_SPACE: usize = PAGE_BYTES - HEADER_BYTES;

/// Shapes of the pages of one index (or of its directory).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Dimensions of the rotated space: a multiple of 16.
    pub dims: usize,
    /// 32-bit words per entry beside code and factors.
    pub words: usize,
    /// Bits of a refinement code per dimension.
    pub bits: u32,
    /// Entries in a group: 16 where the fast kernel works, else 4 or 1.
    pub lanes: usize,
    /// Bytes of the sign code of an entry.
    pub code_bytes: usize,
    /// Bytes a sign code takes in a group: the kernel takes four at a time.
    pub sign_bytes: usize,
    /// Bytes of a group: everything of its entries but the words.
    pub group_bytes: usize,
    /// Bytes of a refinement record: factors and packed codes.
    pub refinement_bytes: usize,
    /// Pages one refinement record is spread over: 1, or 2 for very many dimensions.
    pub spans: usize,
    /// Refinement records on a page (of `spans` pages).
    pub per_refinement: usize,
    /// Refinement pages of a full leaf.
    pub refinement_pages: usize,
    /// Entries of a full leaf.
    pub rows: usize,
}

/// Offsets in a row record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowFields {
    pub words: usize,
    pub constant: usize,
    pub factor: usize,
    pub radius: usize,
    pub code: usize,
    pub refinement: usize,
    pub end: usize,
}

impl Layout {
    /// For vectors of `dims` dimensions after padding, `words` words and `bits` refinement bits.
    pub fn new(dims: usize, words: usize, bits: u32) -> Layout {
        let code_bytes = dims / 8;
        let sign_bytes = code_bytes.next_multiple_of(4);
        let grouped_bytes = sign_bytes + 4 + 2 + 2 + 6;
        let entry_bytes = grouped_bytes + 4 * words;
        let refinement_bytes = REFINEMENT_FACTORS + code_bytes * bits as usize;
        let spans = refinement_bytes.div_ceil(REFINEMENT_SPACE);
        let per_refinement = REFINEMENT_SPACE / refinement_bytes.div_ceil(spans);
        let mut best = Layout {
            dims,
            words,
            bits,
            lanes: 1,
            code_bytes,
            sign_bytes,
            group_bytes: grouped_bytes,
            refinement_bytes,
            spans,
            per_refinement,
            refinement_pages: 0,
            rows: 0,
        };
        let space = |pages: usize| PAGE_BYTES - LEAF_LINKS - 4 * pages;
        // The fast kernel wherever a page has room for one of its groups.
        let fits = |lanes: &usize| entry_bytes * lanes <= space(MOST_REFINEMENT_PAGES);
        best.lanes = [LANES, 4].into_iter().find(fits).unwrap_or(1);
        best.group_bytes = grouped_bytes * best.lanes;
        for pages in (spans..=MOST_REFINEMENT_PAGES).step_by(spans) {
            let slots = space(pages) / (entry_bytes * best.lanes) * best.lanes;
            let rows = slots.min(pages / spans * per_refinement);
            // More rows per page, the leaf counted.
            if rows * (1 + best.refinement_pages) > best.rows * (1 + pages) {
                (best.refinement_pages, best.rows) = (pages, rows);
            }
        }
        best
    }

    /// Slots of a leaf, filled or not: whole groups.
    pub fn slots(&self) -> usize {
        self.rows.next_multiple_of(self.lanes)
    }

    /// Where the words of column `word` begin in a leaf, one for each slot.
    pub fn words_at(&self, word: usize) -> usize {
        LEAF_LINKS + 4 * self.refinement_pages + 4 * self.slots() * word
    }

    /// Where group `group` of a leaf begins.
    pub fn group(&self, group: usize) -> usize {
        self.words_at(self.words) + group * self.group_bytes
    }

    /// Column offsets inside a group: constants, factors, radii, heap TIDs (codes are at 0).
    pub fn columns(&self) -> [usize; 4] {
        let constants = self.sign_bytes * self.lanes;
        let factors = constants + 4 * self.lanes;
        let radii = factors + 2 * self.lanes;
        [constants, factors, radii, radii + 2 * self.lanes]
    }

    /// Where byte `byte` of the sign code of lane `lane` lies in a group.
    pub fn sign_byte(&self, byte: usize, lane: usize) -> usize {
        if self.lanes == LANES {
            quad(byte, lane)
        } else {
            byte * self.lanes + lane
        }
    }

    /// Where the fields of a row record lie.
    pub fn row(&self) -> RowFields {
        let words = 6;
        let constant = words + 4 * self.words;
        let factor = constant + 4;
        let radius = factor + 2;
        let code = radius + 2;
        let refinement = code + self.code_bytes;
        RowFields {
            words,
            constant,
            factor,
            radius,
            code,
            refinement,
            end: refinement + self.refinement_bytes,
        }
    }

    /// Bytes of a refinement record that lie on page `span` of its pages.
    pub fn span(&self, span: usize) -> std::ops::Range<usize> {
        if self.spans == 1 {
            return 0..self.refinement_bytes;
        }
        // A whole number of 16 dimensions on each page, the factors on the first.
        let eights = (self.code_bytes / 2).next_multiple_of(2);
        let share = eights * self.bits as usize + REFINEMENT_FACTORS;
        if span == 0 {
            0..share
        } else {
            share..self.refinement_bytes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dimension_and_width_has_a_layout_that_fits_its_pages() {
        // Miri interprets, and sees nothing more in the other 970.
        let step = if cfg!(miri) { 16 * 37 } else { 16 };
        for dims in (16..=16_000).step_by(step) {
            for (words, bits) in [(0, 3), (0, 7), (4, 7), (8, 3), (8, 5), (8, 7)] {
                let layout = Layout::new(dims, words, bits);
                assert!(layout.rows >= 1, "{layout:?}");
                let groups = layout.rows.div_ceil(layout.lanes);
                assert!(layout.group(groups) <= PAGE_BYTES, "{layout:?}");
                assert!(layout.spans <= 2, "{layout:?}");
                for span in 0..layout.spans {
                    assert!(layout.span(span).len() * layout.per_refinement <= REFINEMENT_SPACE);
                }
                assert_eq!(layout.span(layout.spans - 1).end, layout.refinement_bytes);
                let first = layout.span(0).end - REFINEMENT_FACTORS;
                assert_eq!(
                    first % (2 * bits as usize),
                    0,
                    "the kernel takes 16 dimensions a step"
                );
            }
        }
    }

    #[test]
    fn the_fast_kernel_is_used_up_to_thousands_of_dimensions() {
        for dims in (16..=3_800).step_by(16) {
            assert_eq!(Layout::new(dims, 0, 7).lanes, 16, "{dims}");
        }
    }

    #[test]
    fn a_million_rows_of_256_dimensions_fit_a_quarter_of_hnsw() {
        let layout = Layout::new(256, 0, 7);
        let pages = 1.0 + layout.refinement_pages as f64;
        let full = pages * 8192.0 / layout.rows as f64;
        // pgvector's HNSW takes 1,302 bytes a row (PEERS.md); lists of some 240 rows end in half a page
        // of each kind.
        assert!(full + 8192.0 / 240.0 < 0.25 * 1302.0, "{full} bytes a row");
    }
}
