//! Pages of the frame: the point that codes are relative to, in the rotated space, as plain `f32`.

use super::header::{HEADER_BYTES, Kind, PageRef, expect, expect_bound, format, set_count};
use super::{count, f32_at, put_f32};
use crate::error::Result;
use crate::store::{BlockId, PAGE_BYTES, PageBytes};

/// Elements on a page.
pub(crate) const PER_PAGE: usize = (PAGE_BYTES - HEADER_BYTES) / 4;

/// Writes a page of elements (at most [`PER_PAGE`]).
pub(crate) fn format_page(page: &mut PageBytes, block: BlockId, elements: &[f32]) -> PageRef {
    let name = format(page, block, Kind::Frame, None);
    for (i, &element) in elements.iter().enumerate() {
        put_f32(page, HEADER_BYTES + 4 * i, element);
    }
    set_count(page, elements.len());
    name
}

/// Appends the elements of a page; not more than `room`.
pub(crate) fn read(
    page: &PageBytes,
    block: BlockId,
    room: usize,
    elements: &mut Vec<f32>,
) -> Result<()> {
    expect(page, block, Kind::Frame, PER_PAGE.min(room))?;
    for i in 0..count(page) {
        let element = f32_at(page, HEADER_BYTES + 4 * i);
        let at = HEADER_BYTES + 4 * i;
        let finite = u64::from(!element.is_finite());
        expect_bound(
            block,
            at,
            "an element of the frame",
            finite,
            0..=0,
            "a finite number",
        )?;
        elements.push(element);
    }
    Ok(())
}
