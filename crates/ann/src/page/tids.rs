//! Pages of rows without a vector to search by: NULL, or without a direction.
//!
//! A page of the chain holds `(heap TID, filter words)` entries in no order. Entries never move to
//! another page, so a reader that copies each page once sees each row once.

use super::header::{HEADER_BYTES, Kind, PageRef, expect, format, set_count};
use super::{count, put_u32, put_u48, u32_at, u48_at};
use crate::error::Result;
use crate::store::{BlockId, HeapTid, PAGE_BYTES, PageBytes};

const TAIL: usize = HEADER_BYTES;
const ENTRIES: usize = HEADER_BYTES + 8;

/// Entries of a full page.
pub(crate) fn capacity(words: usize) -> usize {
    (PAGE_BYTES - ENTRIES) / entry_bytes(words)
}

fn entry_bytes(words: usize) -> usize {
    6 + 4 * words
}

/// Makes `page` an empty page of the chain that begins at `head`; `None`: here.
pub(crate) fn format_page(page: &mut PageBytes, block: BlockId, head: Option<PageRef>) -> PageRef {
    let name = format(page, block, Kind::Tids, head);
    PageRef::write(head.is_none().then_some(name), page, TAIL);
    name
}

pub(crate) fn check(page: &PageBytes, block: BlockId, words: usize) -> Result<()> {
    expect(page, block, Kind::Tids, capacity(words))
}

/// In the head: a page from which the tail can be walked to.
pub(crate) fn tail(page: &PageBytes) -> Option<PageRef> {
    PageRef::read(page, TAIL)
}

pub(crate) fn set_tail(page: &mut PageBytes, tail: PageRef) {
    PageRef::write(Some(tail), page, TAIL);
}

pub(crate) fn tid(page: &PageBytes, words: usize, slot: usize) -> HeapTid {
    HeapTid(u48_at(page, ENTRIES + slot * entry_bytes(words)))
}

pub(crate) fn word(page: &PageBytes, words: usize, slot: usize, word: usize) -> u32 {
    u32_at(page, ENTRIES + slot * entry_bytes(words) + 6 + 4 * word)
}

/// Appends an entry; the page has room.
pub(crate) fn push(page: &mut PageBytes, tid: HeapTid, words: &[u32]) {
    let slot = count(page);
    let at = ENTRIES + slot * entry_bytes(words.len());
    put_u48(page, at, tid.0);
    for (i, &word) in words.iter().enumerate() {
        put_u32(page, at + 6 + 4 * i, word);
    }
    set_count(page, slot + 1);
}

/// Removes an entry by moving the last one into its place.
pub(crate) fn remove(page: &mut PageBytes, words: usize, slot: usize) {
    let (size, last) = (entry_bytes(words), count(page) - 1);
    page.copy_within(
        ENTRIES + last * size..ENTRIES + (last + 1) * size,
        ENTRIES + slot * size,
    );
    set_count(page, last);
}
