//! The storage seam: what the index asks of whoever keeps its pages.
//!
//! Owns the contract only. Two implementations: PostgreSQL's buffers (in the extension) and
//! [`crate::memory::MemoryStore`]. `docs/locking-and-wal.md` tells the whole protocol; in short:
//!
//! * A reader holds one page at a time and never waits for anything while it does.
//! * A transaction changes at most [`TXN_PAGES`] pages atomically: one record of the log. Locks are
//!   taken by [`PageTxn::lock`] and held until commit or drop. Dropping changes nothing.
//! * Structural changes (split, compaction, sweep) hold the latch; it is never waited for with a page
//!   locked.

use std::fmt;
use std::ops::{Deref, Range};

use crate::error::Result;

/// Bytes of a page that belong to the index: a PostgreSQL page of 8,192 less its header of 24.
pub const PAGE_BYTES: usize = 8168;

/// The body of one page.
pub type PageBytes = [u8; PAGE_BYTES];

/// The most pages one transaction changes: the limit of a Generic XLog record.
pub const TXN_PAGES: usize = 4;

/// The number of a page in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a row of the table lies: 48 bits that only the caller understands, never all ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeapTid(pub u64);

/// Pages of one index, shared by readers and writers.
pub trait PageStore {
    /// A page that is locked against writers for as long as this lives.
    type Page<'a>: Deref<Target = PageBytes>
    where
        Self: 'a;
    /// An atomic change.
    type Txn<'a>: PageTxn
    where
        Self: 'a;
    /// The right to change the structure; given back on drop.
    type Latch<'a>
    where
        Self: 'a;

    /// Share-locks a page. A block past the end is an error.
    fn read(&self, block: BlockId) -> Result<Self::Page<'_>>;

    /// Says that these bytes of a page are going to be read soon, so that they may be brought near: a hint.
    fn prefetch(&self, _block: BlockId, _bytes: Range<usize>) {}

    /// Begins a change.
    fn begin(&self) -> Self::Txn<'_>;

    /// How many pages there are.
    fn block_count(&self) -> Result<u32>;

    /// Notes that a page is free: a hint for [`PageTxn::allocate`], lost in a crash.
    fn note_free(&self, block: BlockId) -> Result<()>;

    /// The latch if nobody holds it.
    fn try_latch(&self) -> Result<Option<Self::Latch<'_>>>;

    /// The latch, after waiting for it.
    fn latch(&self) -> Result<Self::Latch<'_>>;

    /// Called by long loops with no page locked; an error ends the operation.
    fn check_interrupts(&self) -> Result<()>;
}

/// A change of at most [`TXN_PAGES`] pages.
pub trait PageTxn {
    /// Locks a page for writing; a page already locked here gives the same handle.
    fn lock(&mut self, block: BlockId) -> Result<PageHandle>;

    /// Locks a free page or a new one at the end. A free page keeps its bytes, a new one is all zero.
    /// `reusable` says whether the bytes of a page that was noted as free are those of a free page.
    fn allocate(&mut self, reusable: fn(&PageBytes) -> bool) -> Result<(BlockId, PageHandle)>;

    /// The page as changed so far.
    fn page(&self, handle: PageHandle) -> &PageBytes;

    /// The page, to be changed.
    fn page_mut(&mut self, handle: PageHandle) -> &mut PageBytes;

    /// Makes all changes at once, as one record of the log, and unlocks.
    fn commit(self) -> Result<()>;
}

/// A page locked by a [`PageTxn`]: valid for that transaction only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHandle(pub usize);

/// Pages written once and in order while nobody else sees the index: the bulk build.
pub trait AppendPages {
    /// The number that the next page gets.
    fn next_block(&self) -> Result<BlockId>;

    /// Writes a page at the end and logs it whole.
    fn append(&mut self, page: &PageBytes) -> Result<()>;
}
