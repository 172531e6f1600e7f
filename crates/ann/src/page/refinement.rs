//! Pages of refinement records: `(step, error, packed codes)`, see [`crate::code`].
//!
//! A record lies at the slot of its entry modulo the records of a page, on the page that the leaf names.
//! Its page belongs to that leaf for life, so the leaf's name is its identity.

use super::header::{HEADER_BYTES, Kind, PageRef, expect, opened, owner};
use super::layout::REFINEMENT_FACTORS;
use super::{Layout, u16_at};
use crate::error::Result;
use crate::rounding::bf16;
use crate::store::{BlockId, PageBytes};

/// Is this still a page of the leaf `leaf`?
pub(crate) fn belongs(page: &PageBytes, block: BlockId, leaf: PageRef) -> Result<bool> {
    // The page has no name of its own in the leaf: its kind and owner are what it is known by.
    let named = PageRef {
        block,
        incarnation: super::incarnation(page),
    };
    if !opened(page, named) || owner(page) != Some(leaf) {
        return Ok(false);
    }
    expect(page, block, Kind::Refinement, usize::from(u16::MAX))?;
    Ok(true)
}

/// The bytes of a record on this page: all of it, or its share when it spans two pages.
pub(crate) fn record<'a>(
    page: &'a PageBytes,
    layout: &Layout,
    slot: usize,
    span: usize,
) -> &'a [u8] {
    let (at, length) = place(layout, slot, span);
    &page[at..at + length]
}

/// Writes a record (or the share of it that belongs on this page).
pub(crate) fn put_record(
    page: &mut PageBytes,
    layout: &Layout,
    slot: usize,
    span: usize,
    record: &[u8],
) {
    let (at, length) = place(layout, slot, span);
    page[at..at + length].copy_from_slice(&record[layout.span(span)]);
}

/// Where a record (or its share) lies on its page, and its bytes.
pub(crate) fn place(layout: &Layout, slot: usize, span: usize) -> (usize, usize) {
    let length = layout.span(span).len();
    (HEADER_BYTES + slot % layout.per_refinement * length, length)
}

/// Step and error of a record, and its packed codes.
pub(crate) fn factors(record: &[u8]) -> (f32, f32, &[u8]) {
    (
        bf16(u16_at(record, 0)),
        bf16(u16_at(record, 2)),
        &record[REFINEMENT_FACTORS..],
    )
}
