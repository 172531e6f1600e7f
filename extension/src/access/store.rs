//! [`PageStore`] over PostgreSQL's buffers, with Generic XLog (`access/generic_xlog.h`).
//!
//! The body of a page is everything behind PostgreSQL's page header; `pd_lower` is set to the end of
//! the page, so that Generic XLog sees no hole in it. The latch is the heavyweight lock on page 0, as
//! GIN's clean-up lock is: it queues, is seen by the deadlock detector, and goes with the transaction.
//!
//! An ERROR raised under our feet unwinds: destructors then do nothing, because PostgreSQL's own
//! error recovery releases buffers, their locks and the latch.

use super::known::Known;
use lookbook_ann::{
    AppendPages, BlockId, Error, PAGE_BYTES, PageBytes, PageHandle, PageStore, PageTxn, Result,
    TXN_PAGES,
};
use pgrx::{check_for_interrupts, pg_sys};
use std::cell::Cell;
use std::ffi::c_int;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::rc::Rc;
use std::thread;

pub(super) const HEADER_BYTES: usize = size_of::<pg_sys::PageHeaderData>();
pub(super) const BLOCK_BYTES: usize = pg_sys::BLCKSZ as usize;
const _: () = assert!(HEADER_BYTES == 24 && BLOCK_BYTES == PAGE_BYTES + HEADER_BYTES);
const _: () = assert!(TXN_PAGES == pg_sys::MAX_GENERIC_XLOG_PAGES as usize);

const LATCH_PAGE: pg_sys::BlockNumber = 0;
const LATCH_MODE: pg_sys::LOCKMODE = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;

// pgrx's own declarations set a handler for errors around every call, and a search reads a hundred pages. These two take and
// give back a lightweight lock and a pin (`bufmgr.c`): they raise no error for a buffer that is pinned by us.
#[allow(non_snake_case, reason = "PostgreSQL's names")]
unsafe extern "C-unwind" {
    fn LockBuffer(buffer: pg_sys::Buffer, mode: c_int);
    fn UnlockReleaseBuffer(buffer: pg_sys::Buffer);
}

/// The pages of an index that PostgreSQL keeps open for as long as this lives.
#[derive(Debug)]
pub(super) struct BufferStore {
    relation: pg_sys::Relation,
    /// As many blocks as there were when we last looked; an index never shrinks.
    known_blocks: Cell<u32>,
    known: Rc<Known>,
}

impl BufferStore {
    /// # Safety
    /// `relation` is an open index, locked at least for reading, and stays so while the store or
    /// anything made from it lives.
    pub(super) unsafe fn new(relation: pg_sys::Relation) -> Self {
        Self {
            relation,
            known_blocks: Cell::new(0),
            // SAFETY: the relation is open.
            known: Known::of(unsafe { (*relation).rd_id }),
        }
    }

    pub(super) fn relation(&self) -> pg_sys::Relation {
        self.relation
    }

    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    fn check_block(&self, block: BlockId) -> Result<()> {
        if block.0 < self.known_blocks.get() || block.0 < self.block_count()? {
            return Ok(());
        }
        Err(Error::Corrupt {
            block,
            offset: 0,
            what: "block number",
            found: u64::from(block.0),
            expected: "a block of the index",
        })
    }

    fn read_buffer(&self, block: BlockId) -> Result<pg_sys::Buffer> {
        self.check_block(block)?;
        // SAFETY: the relation is open (`new`); the block exists.
        Ok(unsafe { self.known.hints.read(self.relation, block.0) })
    }

    /// A new page at the end, pinned and locked.
    fn extend(&self) -> (BlockId, pg_sys::Buffer) {
        // SAFETY: the relation is open; P_NEW under the extension lock (`bufmgr.c`, ReadBuffer).
        unsafe {
            let mode = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
            pg_sys::LockRelationForExtension(self.relation, mode);
            let buffer = pg_sys::ReadBuffer(self.relation, pg_sys::InvalidBlockNumber);
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32);
            pg_sys::UnlockRelationForExtension(self.relation, mode);
            (BlockId(pg_sys::BufferGetBlockNumber(buffer)), buffer)
        }
    }

    /// Writes a page at the end, as a record of its own.
    fn append_page(&self, page: &PageBytes) -> Result<BlockId> {
        let mut txn = self.begin();
        let (block, buffer) = self.extend();
        let handle = txn.register(block, buffer, true);
        txn.page_mut(handle).copy_from_slice(page);
        txn.commit()?;
        Ok(block)
    }
}

/// Pages of an index that nobody else sees yet (`ambuild`).
pub(super) struct BufferAppender<'a> {
    store: &'a BufferStore,
    next: BlockId,
}

impl<'a> BufferAppender<'a> {
    pub(super) fn new(store: &'a BufferStore) -> Result<Self> {
        Ok(Self {
            store,
            next: BlockId(store.block_count()?),
        })
    }
}

impl AppendPages for BufferAppender<'_> {
    fn next_block(&self) -> Result<BlockId> {
        Ok(self.next)
    }

    fn append(&mut self, page: &PageBytes) -> Result<()> {
        self.next = BlockId(self.store.append_page(page)?.0 + 1);
        Ok(())
    }
}

/// A pinned and share-locked buffer.
pub(super) struct BufferPage {
    buffer: pg_sys::Buffer,
    body: NonNull<PageBytes>,
}

impl Deref for BufferPage {
    type Target = PageBytes;

    fn deref(&self) -> &PageBytes {
        // SAFETY: the buffer is pinned and share-locked until drop: nobody writes to it.
        unsafe { self.body.as_ref() }
    }
}

impl Drop for BufferPage {
    fn drop(&mut self) {
        if !thread::panicking() {
            // SAFETY: pinned and locked by `PageStore::read`.
            unsafe { UnlockReleaseBuffer(self.buffer) };
        }
    }
}

/// The body of a page that begins at `page`.
///
/// # Safety
/// `page` points to a whole block.
pub(super) unsafe fn body_of(page: pg_sys::Page) -> NonNull<PageBytes> {
    // SAFETY: the block has `HEADER_BYTES + PAGE_BYTES` bytes, and is not at address 0.
    unsafe { NonNull::new_unchecked(page.cast::<u8>().add(HEADER_BYTES).cast()) }
}

/// Gives a page its header if it has none yet.
///
/// # Safety
/// `page` points to a whole block that may be written.
pub(super) unsafe fn prepare_header(page: pg_sys::Page) {
    let header = page.cast::<pg_sys::PageHeaderData>();
    // SAFETY: the caller's promise. An unused page is all zeros (`PageIsNew`).
    unsafe {
        if (*header).pd_upper == 0 {
            pg_sys::PageInit(page, BLOCK_BYTES, 0);
            (*header).pd_lower = (*header).pd_upper;
        }
    }
}

impl PageStore for BufferStore {
    type Page<'a> = BufferPage;
    type Txn<'a> = BufferTxn<'a>;
    type Latch<'a> = PageLatch;

    fn read(&self, block: BlockId) -> Result<BufferPage> {
        let buffer = self.read_buffer(block)?;
        // SAFETY: just pinned; the lock lives as long as the guard.
        unsafe {
            LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as c_int);
            let body = body_of(pg_sys::BufferGetPage(buffer));
            Ok(BufferPage { buffer, body })
        }
    }

    fn prefetch(&self, block: BlockId, bytes: Range<usize>) {
        self.known.hints.prefetch(block.0, bytes);
    }

    fn begin(&self) -> BufferTxn<'_> {
        // SAFETY: the relation is open.
        let state = unsafe { pg_sys::GenericXLogStart(self.relation) };
        BufferTxn {
            store: self,
            state,
            pages: Vec::with_capacity(TXN_PAGES),
        }
    }

    fn block_count(&self) -> Result<u32> {
        // SAFETY: the relation is open.
        let blocks = unsafe {
            pg_sys::RelationGetNumberOfBlocksInFork(self.relation, pg_sys::ForkNumber::MAIN_FORKNUM)
        };
        self.known_blocks.set(blocks);
        Ok(blocks)
    }

    fn note_free(&self, block: BlockId) -> Result<()> {
        // Noted at the bottom of the map only, a page would be found by nobody before the next vacuum, and an index that
        // grows in one go would never reuse the pages of the lists that it split.
        // SAFETY: the relation is open.
        unsafe {
            pg_sys::RecordFreeIndexPage(self.relation, block.0);
            pg_sys::FreeSpaceMapVacuumRange(self.relation, block.0, block.0 + 1);
        }
        Ok(())
    }

    fn try_latch(&self) -> Result<Option<PageLatch>> {
        // SAFETY: the relation is open.
        let is_ours = unsafe { pg_sys::ConditionalLockPage(self.relation, LATCH_PAGE, LATCH_MODE) };
        Ok(is_ours.then(|| PageLatch(self.relation)))
    }

    fn latch(&self) -> Result<PageLatch> {
        // SAFETY: the relation is open. Waiting can be cancelled, and no page is locked here.
        unsafe { pg_sys::LockPage(self.relation, LATCH_PAGE, LATCH_MODE) };
        Ok(PageLatch(self.relation))
    }

    fn check_interrupts(&self) -> Result<()> {
        check_for_interrupts!();
        Ok(())
    }
}

/// The heavyweight lock on page 0.
pub(super) struct PageLatch(pg_sys::Relation);

impl Drop for PageLatch {
    fn drop(&mut self) {
        if !thread::panicking() {
            // SAFETY: locked by `latch` or `try_latch`; the relation is open.
            unsafe { pg_sys::UnlockPage(self.0, LATCH_PAGE, LATCH_MODE) };
        }
    }
}

/// A Generic XLog record in the making.
pub(super) struct BufferTxn<'a> {
    store: &'a BufferStore,
    state: *mut pg_sys::GenericXLogState,
    pages: Vec<LockedPage>,
}

struct LockedPage {
    block: BlockId,
    buffer: pg_sys::Buffer,
    /// Of the copy that Generic XLog keeps until it is finished.
    body: NonNull<PageBytes>,
}

impl BufferTxn<'_> {
    /// Registers a pinned buffer that is locked exclusively.
    fn register(&mut self, block: BlockId, buffer: pg_sys::Buffer, is_new: bool) -> PageHandle {
        let flags = if is_new {
            pg_sys::GENERIC_XLOG_FULL_IMAGE as i32
        } else {
            0
        };
        // SAFETY: the buffer is pinned and locked, there is room (`check_room`), and the copy that
        // Generic XLog returns is a whole block of our own until the record is finished.
        let body = unsafe {
            let page = pg_sys::GenericXLogRegisterBuffer(self.state, buffer, flags);
            prepare_header(page);
            body_of(page)
        };
        self.pages.push(LockedPage {
            block,
            buffer,
            body,
        });
        PageHandle(self.pages.len() - 1)
    }

    fn check_room(&self, block: BlockId) -> Result<()> {
        if self.pages.len() < TXN_PAGES {
            return Ok(());
        }
        Err(Error::TooManyPages {
            block,
            limit: TXN_PAGES,
        })
    }

    /// A page that somebody noted as free, pinned and locked, if its bytes agree.
    fn reuse(
        &mut self,
        reusable: fn(&PageBytes) -> bool,
    ) -> Result<Option<(BlockId, pg_sys::Buffer)>> {
        loop {
            // SAFETY: the relation is open. The map forgets a page when it gives it out.
            let block = unsafe { pg_sys::GetFreeIndexPage(self.store.relation) };
            if block == pg_sys::InvalidBlockNumber {
                return Ok(None);
            }
            // The map is a hint, not logged: it may name what is no page or in use.
            let block = BlockId(block);
            if block.0 == 0
                || self.store.check_block(block).is_err()
                || self.pages.iter().any(|page| page.block == block)
            {
                continue;
            }
            let buffer = self.store.read_buffer(block)?;
            // SAFETY: pinned. Somebody else may take the same page: then leave it to them.
            unsafe {
                if !pg_sys::ConditionalLockBuffer(buffer) {
                    pg_sys::ReleaseBuffer(buffer);
                    continue;
                }
                if reusable(body_of(pg_sys::BufferGetPage(buffer)).as_ref()) {
                    return Ok(Some((block, buffer)));
                }
                pg_sys::UnlockReleaseBuffer(buffer);
            }
        }
    }
}

impl PageTxn for BufferTxn<'_> {
    fn lock(&mut self, block: BlockId) -> Result<PageHandle> {
        if let Some(at) = self.pages.iter().position(|page| page.block == block) {
            return Ok(PageHandle(at));
        }
        self.check_room(block)?;
        let buffer = self.store.read_buffer(block)?;
        // SAFETY: just pinned.
        unsafe { pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32) };
        Ok(self.register(block, buffer, false))
    }

    fn allocate(&mut self, reusable: fn(&PageBytes) -> bool) -> Result<(BlockId, PageHandle)> {
        self.check_room(BlockId(pg_sys::InvalidBlockNumber))?;
        let (block, buffer) = match self.reuse(reusable)? {
            Some(found) => found,
            None => self.store.extend(),
        };
        Ok((block, self.register(block, buffer, true)))
    }

    fn page(&self, handle: PageHandle) -> &PageBytes {
        // SAFETY: our copy of the block, see `register`.
        unsafe { self.pages[handle.0].body.as_ref() }
    }

    fn page_mut(&mut self, handle: PageHandle) -> &mut PageBytes {
        // SAFETY: our copy of the block, see `register`; `self` is borrowed mutably.
        unsafe { self.pages[handle.0].body.as_mut() }
    }

    fn commit(mut self) -> Result<()> {
        // SAFETY: the state is of `begin`; the buffers are still locked.
        unsafe { pg_sys::GenericXLogFinish(self.state) };
        self.state = std::ptr::null_mut();
        Ok(())
    }
}

impl Drop for BufferTxn<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        // SAFETY: the state is unfinished unless null; every buffer is pinned and locked by us.
        unsafe {
            if !self.state.is_null() {
                pg_sys::GenericXLogAbort(self.state);
            }
            for page in &self.pages {
                pg_sys::UnlockReleaseBuffer(page.buffer);
            }
        }
    }
}
