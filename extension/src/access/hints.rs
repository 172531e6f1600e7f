//! Where pages were last seen in the buffer pool, so that most reads skip its hash table.
//!
//! A hint is never trusted: `ReadRecentBuffer` (`bufmgr.c`) compares the page's name under the buffer's
//! own lock, and a stale hint costs one failed comparison. It does not count as a use of the page for
//! the clock sweep, so every few reads of an index go through the table as usual.

use super::store::{BLOCK_BYTES, HEADER_BYTES};
use lookbook_vecmath::kernel;
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::ops::Range;

/// One read of so many goes through the hash table.
const USUAL_SHARE: u32 = 32;
/// Pages of an index that are remembered: 4 MiB of hints for 8 GiB of index.
const MOST_PAGES: usize = 1 << 20;

/// `BUFFERDESC_PAD_TO_SIZE` of `buf_internals.h` where pointers have eight bytes.
const DESCRIPTOR_BYTES: usize = 64;

unsafe extern "C" {
    /// The descriptors of the buffers, one behind another (`buf_internals.h`); pgrx has no declaration of it.
    static BufferDescriptors: *const u8;
}

/// Brings the descriptor of a shared buffer near: pin and lock of its page begin there.
pub(super) fn prefetch_descriptor(buffer: pg_sys::Buffer) {
    // SAFETY: a variable of the server, set before any backend starts; only the address is computed.
    let descriptors = unsafe { BufferDescriptors };
    let at = (buffer as usize - 1) * DESCRIPTOR_BYTES;
    kernel::prefetch(descriptors.wrapping_add(at), DESCRIPTOR_BYTES);
}

/// Pins the page of a block if it still lies in this buffer.
///
/// # Safety
/// `relation` is open; `hint` is not 0 and was the number of a buffer.
pub(super) unsafe fn read_recent(
    relation: pg_sys::Relation,
    block: pg_sys::BlockNumber,
    hint: pg_sys::Buffer,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::ReadRecentBuffer(
            #[cfg(any(feature = "pg14", feature = "pg15"))]
            (*relation).rd_node,
            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
            (*relation).rd_locator,
            pg_sys::ForkNumber::MAIN_FORKNUM,
            block,
            hint,
        )
    }
}

/// The hints of one index: a buffer for each block, 0 where nothing is known.
#[derive(Debug, Default)]
pub(super) struct Hints {
    buffers: RefCell<Vec<pg_sys::Buffer>>,
    reads: Cell<u32>,
}

impl Hints {
    pub(super) fn bytes(&self) -> usize {
        size_of::<pg_sys::Buffer>() * self.buffers.borrow().capacity()
    }

    /// Brings bytes of a page's body near, if it was seen before. What lies there now may be another page: then it
    /// was for nothing.
    pub(super) fn prefetch(&self, block: pg_sys::BlockNumber, bytes: Range<usize>) {
        let hint = self.buffers.borrow().get(block as usize).copied();
        // Local buffers are negative, and few.
        if let Some(hint) = hint.filter(|hint| *hint > 0) {
            // SAFETY: only the address is computed: shared buffers lie one behind another for as long as
            // the server runs (`BufferGetBlock` in `bufmgr.h`).
            let page = unsafe {
                pg_sys::BufferBlocks
                    .cast::<u8>()
                    .wrapping_add((hint as usize - 1) * BLOCK_BYTES)
            };
            prefetch_descriptor(hint);
            kernel::prefetch(page.wrapping_add(HEADER_BYTES + bytes.start), bytes.len());
        }
    }

    /// Reads and pins a page that exists.
    ///
    /// # Safety
    /// `relation` is the open index that these hints are of; the block exists.
    pub(super) unsafe fn read(
        &self,
        relation: pg_sys::Relation,
        block: pg_sys::BlockNumber,
    ) -> pg_sys::Buffer {
        let at = block as usize;
        let mut buffers = self.buffers.borrow_mut();
        let reads = self.reads.get().wrapping_add(1);
        self.reads.set(reads);
        let hint = buffers.get(at).copied().unwrap_or(0);
        // SAFETY: the caller's promise; a hint was the number of a buffer, which there is for as long
        // as the server runs. Local buffers are negative, and are allocated before one is returned.
        unsafe {
            if hint != 0 && !reads.is_multiple_of(USUAL_SHARE) && read_recent(relation, block, hint)
            {
                return hint;
            }
            let buffer = pg_sys::ReadBuffer(relation, block);
            if at < MOST_PAGES {
                if buffers.len() <= at {
                    buffers.resize((at + 1).next_power_of_two(), 0);
                }
                buffers[at] = buffer;
            }
            buffer
        }
    }
}
