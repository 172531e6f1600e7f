//! Conditions on filter columns, tested before any distance is computed.
//!
//! The index sees 32-bit hashes only, so a row that passes may still fail the condition itself: the caller
//! rechecks. A row that does not pass certainly fails.

use lookbook_vecmath::kernel::codes::Kernels;

use crate::error::{Error, Result};
use crate::page::leaf::Leaf;
use crate::page::tids;
use crate::store::PageBytes;

/// A column equals one of some values.
#[derive(Clone, Debug)]
pub struct Filter {
    column: usize,
    any_of: Vec<u32>,
}

impl Filter {
    /// `column` counts from 0; `any_of` are the hashes that pass, none of them: no row does.
    pub fn new(column: usize, mut any_of: Vec<u32>) -> Filter {
        any_of.sort_unstable();
        any_of.dedup();
        Filter { column, any_of }
    }

    pub(crate) fn check(&self, columns: usize) -> Result<()> {
        if self.column < columns {
            return Ok(());
        }
        Err(Error::FilterColumns {
            expected: columns,
            found: self.column + 1,
        })
    }

    fn passes(&self, word: u32) -> bool {
        match self.any_of[..] {
            [only] => only == word,
            _ => self.any_of.binary_search(&word).is_ok(),
        }
    }
}

/// Keeps the chosen slots that pass all filters. `false`: none does.
pub(crate) fn keep_passing(
    filters: &[Filter],
    leaf: &Leaf<'_>,
    kernels: &Kernels,
    chosen: &mut [u16],
) -> bool {
    for filter in filters {
        leaf.keep_matching(filter.column, &filter.any_of, kernels, chosen);
    }
    chosen.iter().any(|&mask| mask != 0)
}

/// Does an entry of a page of rows without vector pass?
pub(crate) fn passes(filters: &[Filter], page: &PageBytes, words: usize, slot: usize) -> bool {
    filters
        .iter()
        .all(|filter| filter.passes(tids::word(page, words, slot, filter.column)))
}
