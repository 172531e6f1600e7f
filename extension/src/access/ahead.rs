//! Rows of the table that the executor is going to ask for, brought near while it works on others.
//!
//! A hint and nothing more: where a page of the table was last seen in the buffer pool is remembered and never trusted. What
//! lies there is read without lock or pin, by prefetch instructions and for a line pointer, which decides nothing but
//! what to prefetch; the page of the row given out is pinned there for the executor if it still is that page. Only for tables of
//! PostgreSQL's own kind: others may not keep rows where a TID says.

use super::hints::{prefetch_descriptor, read_recent};
use super::store::BLOCK_BYTES;
use lookbook_vecmath::kernel;
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};

/// Pages of a table that are remembered: 4 MiB for 8 GiB.
const MOST_PAGES: usize = 1 << 20;
/// What is remembered of a page is looked up again once in so many times.
const USUAL_SHARE: u32 = 32;
/// Line pointers begin behind the page header.
const LINE_POINTERS: usize = size_of::<pg_sys::PageHeaderData>();
const LINE_POINTER_BYTES: usize = size_of::<pg_sys::ItemIdData>();
const CACHE_LINE: usize = 64;

/// Where the pages of one table were last seen: a buffer for each block, 0 where nothing is known.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    buffers: RefCell<Vec<pg_sys::Buffer>>,
    looks: Cell<u32>,
}

impl Ahead {
    pub(super) fn bytes(&self) -> usize {
        size_of::<pg_sys::Buffer>() * self.buffers.borrow().capacity()
    }

    /// Brings the descriptor and the header of a row's page near if the page was seen before.
    pub(super) fn approach(&self, tid: pg_sys::ItemPointerData) {
        if let Some(buffer) = self.hint(block_of(tid)) {
            let page = page_of(buffer);
            prefetch_descriptor(buffer);
            kernel::prefetch(page, LINE_POINTERS);
            kernel::prefetch(line_pointer(page, tid).cast(), LINE_POINTER_BYTES);
        }
    }

    /// Brings a row near; if its page lies on disk, asks the kernel for it.
    ///
    /// # Safety
    /// `table` is an open table that has a page for the row, for which [`is_plain`] holds; these hints are of it.
    pub(super) unsafe fn bring(&self, table: pg_sys::Relation, tid: pg_sys::ItemPointerData) {
        let block = block_of(tid);
        self.looks.set(self.looks.get().wrapping_add(1));
        let known = match self.looks.get().is_multiple_of(USUAL_SHARE) {
            true => None,
            false => self.hint(block).map(page_of),
        };
        // SAFETY: the caller's promise.
        let page = known.or_else(|| unsafe { self.look_up(table, block) });
        let Some(page) = page else { return };
        // SAFETY: shared buffers lie one behind another for as long as the server runs, so the line pointer's four bytes
        // are there, whatever they say: another process may write to them just now.
        let bits = unsafe { line_pointer(page, tid).read_volatile() };
        // `ItemIdData` of `itemid.h`: 15 bits of offset, 2 of flags, 15 of length.
        let (offset, flags, length) = (bits & 0x7fff, bits >> 15 & 3, bits >> 17);
        let (offset, length) = (offset as usize, length as usize);
        if flags == pg_sys::LP_NORMAL && offset + length <= BLOCK_BYTES {
            let from = offset / CACHE_LINE * CACHE_LINE;
            kernel::prefetch(page.wrapping_add(from), offset + length - from);
        }
    }

    /// Pins the page of a row for the executor, which asks for it next, where it was last seen: that skips the hash table of
    /// the buffer pool, as `ReleaseAndReadBuffer` (`bufmgr.c`) does for rows of one page.
    ///
    /// # Safety
    /// As [`Ahead::bring`]; `fetch` is of a scan of that table.
    pub(super) unsafe fn hold(
        &self,
        table: pg_sys::Relation,
        fetch: *mut pg_sys::IndexFetchTableData,
        tid: pg_sys::ItemPointerData,
    ) {
        let block = block_of(tid);
        let Some(hint) = self.hint(block) else {
            return;
        };
        // A page that is pinned by a hint does not count as used for the clock sweep: now and then one goes the usual way.
        if fetch.is_null() || self.looks.get().is_multiple_of(USUAL_SHARE) {
            return;
        }
        // SAFETY: the caller's promise; a table of PostgreSQL's own kind is fetched from by `IndexFetchHeapData`
        // (`heapam.h`), which holds a pin on its buffer, if it has one.
        unsafe {
            let held = &raw mut (*fetch.cast::<pg_sys::IndexFetchHeapData>()).xs_cbuf;
            let before = *held;
            if before == hint || !read_recent(table, block, hint) {
                return;
            }
            *held = hint;
            if before > 0 {
                pg_sys::ReleaseBuffer(before);
            }
            // What `heapam_index_fetch_tuple` does on a page that is another than before.
            pg_sys::heap_page_prune_opt(table, hint);
        }
    }

    /// The shared buffer that a page was seen in; local ones are negative, and few.
    fn hint(&self, block: pg_sys::BlockNumber) -> Option<pg_sys::Buffer> {
        let hint = self.buffers.borrow().get(block as usize).copied();
        hint.filter(|hint| *hint > 0)
    }

    /// # Safety
    /// As [`Ahead::bring`].
    unsafe fn look_up(
        &self,
        table: pg_sys::Relation,
        block: pg_sys::BlockNumber,
    ) -> Option<*const u8> {
        // SAFETY: a setting, read by the one thread there is.
        if unsafe { pg_sys::effective_io_concurrency } == 0 {
            return None;
        }
        // SAFETY: the caller's promise: the block exists.
        let found =
            unsafe { pg_sys::PrefetchBuffer(table, pg_sys::ForkNumber::MAIN_FORKNUM, block) };
        let at = block as usize;
        if at < MOST_PAGES {
            let mut buffers = self.buffers.borrow_mut();
            if buffers.len() <= at {
                buffers.resize((at + 1).next_power_of_two(), 0);
            }
            buffers[at] = found.recent_buffer;
        }
        (found.recent_buffer > 0).then(|| page_of(found.recent_buffer))
    }
}

/// Does PostgreSQL keep the rows of this table where their TIDs say?
///
/// # Safety
/// `table` is open.
pub(super) unsafe fn is_plain(table: pg_sys::Relation) -> bool {
    // SAFETY: the caller's promise; the function returns a constant.
    unsafe { std::ptr::eq((*table).rd_tableam, pg_sys::GetHeapamTableAmRoutine()) }
}

/// The page in a shared buffer.
fn page_of(buffer: pg_sys::Buffer) -> *const u8 {
    // SAFETY: only the address is computed (`BufferGetBlock` in `bufmgr.h`).
    let first = unsafe { pg_sys::BufferBlocks }.cast::<u8>().cast_const();
    first.wrapping_add((buffer as usize - 1) * BLOCK_BYTES)
}

fn line_pointer(page: *const u8, tid: pg_sys::ItemPointerData) -> *const u32 {
    // A page has fewer; whatever a TID says, this stays inside.
    let number = usize::from(tid.ip_posid).clamp(1, BLOCK_BYTES / LINE_POINTER_BYTES / 2);
    page.wrapping_add(LINE_POINTERS + LINE_POINTER_BYTES * (number - 1))
        .cast()
}

fn block_of(tid: pg_sys::ItemPointerData) -> pg_sys::BlockNumber {
    u32::from(tid.ip_blkid.bi_hi) << 16 | u32::from(tid.ip_blkid.bi_lo)
}
