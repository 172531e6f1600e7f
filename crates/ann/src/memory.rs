//! A store in memory that keeps a log of every committed record.
//!
//! For tests and benchmarks: [`MemoryStore::replay`] gives the pages as a crash after any prefix of the
//! log would leave them. One thread; locks are checked, not waited for: whatever would dead-lock in a
//! server panics or fails here. So does a transaction that locks pages in another order than
//! `docs/locking-and-wal.md` says, and two that lock the same pages in opposite orders, whenever each runs
//! (only in builds with debug assertions).

use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::ops::{Deref, Range};

use crate::error::{Error, Result};
use crate::page::{self, Kind, PageRef};
use crate::store::{
    AppendPages, BlockId, PAGE_BYTES, PageBytes, PageHandle, PageStore, PageTxn, TXN_PAGES,
};

/// More questions whether to stop than any walk over the few pages of a damaged index asks.
const MOST_STEPS: u64 = 100_000;

/// One committed record: the pages it changed, as they were afterwards.
type Record = Vec<(BlockId, Box<PageBytes>)>;

type Action = Box<dyn FnOnce(&MemoryStore)>;

struct Hook(u64, Action);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "an action at read {}", self.0)
    }
}

/// Pages in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    pages: RefCell<Vec<Box<PageBytes>>>,
    free: RefCell<BTreeSet<BlockId>>,
    log: RefCell<Vec<Record>>,
    keeps_log: bool,
    latched: Cell<bool>,
    locks: Cell<usize>,
    reads: Cell<u64>,
    fuel: Cell<Option<u64>>,
    hook: RefCell<Option<Hook>>,
    /// Records and bytes changed, if they are counted.
    changes: Cell<Option<(u64, u64)>>,
    /// Pages that one transaction waited for while it held the other, and whether all who did held the latch.
    orders: RefCell<HashMap<(PageRef, PageRef), bool>>,
}

impl MemoryStore {
    /// An empty store without a log.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that remembers every record.
    pub fn with_log() -> Self {
        Self {
            keeps_log: true,
            ..Self::default()
        }
    }

    /// How many records were committed.
    pub fn log_len(&self) -> usize {
        self.log.borrow().len()
    }

    /// How many pages were read.
    pub fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// Applies one record of another store's log, as recovery and replicas do.
    pub fn apply(&self, primary: &MemoryStore, record: usize) {
        let mut pages = self.pages.borrow_mut();
        for (block, page) in &primary.log.borrow()[record] {
            let at = block.0 as usize;
            if at >= pages.len() {
                pages.resize_with(at + 1, || Box::new([0; PAGE_BYTES]));
            }
            pages[at] = page.clone();
        }
    }

    /// The store as it would be found after a crash that kept the first `records` of the log.
    pub fn replay(&self, records: usize) -> MemoryStore {
        let store = MemoryStore::new();
        (0..records).for_each(|record| store.apply(self, record));
        store
    }

    /// Another store with the same pages, for another history; its log, if it keeps one, begins here.
    pub fn fork(&self, keeps_log: bool) -> MemoryStore {
        MemoryStore {
            pages: self.pages.clone(),
            free: self.free.clone(),
            keeps_log,
            ..MemoryStore::default()
        }
    }

    /// Runs `action` just before the read that makes [`MemoryStore::reads`] exceed `reads`: what another process
    /// does between two pages of this one.
    pub fn at_read(&self, reads: u64, action: impl FnOnce(&MemoryStore) + 'static) {
        *self.hook.borrow_mut() = Some(Hook(reads, Box::new(action)));
    }

    /// Forgets an action that is still to come.
    pub fn forget_action(&self) {
        self.hook.borrow_mut().take();
    }

    /// Does somebody change the structure?
    pub fn is_latched(&self) -> bool {
        self.latched.get()
    }

    fn run_hook(&self) {
        let due = self
            .hook
            .borrow_mut()
            .take_if(|Hook(reads, _)| self.reads.get() >= *reads);
        if let Some(Hook(_, action)) = due {
            action(self);
        }
    }

    /// Changes one byte behind the index's back.
    pub fn corrupt(&self, block: BlockId, offset: usize, flip: u8) {
        self.pages.borrow_mut()[block.0 as usize][offset] ^= flip;
    }

    /// After `calls` more of them, [`PageStore::check_interrupts`] fails; `None`: never.
    pub fn interrupt_after(&self, calls: Option<u64>) {
        self.fuel.set(calls);
    }

    /// What an operation says of damaged pages.
    ///
    /// # Panics
    /// When it goes round in circles.
    pub fn tried<T>(&self, operation: impl FnOnce() -> Result<T>) -> Result<T> {
        self.interrupt_after(Some(MOST_STEPS));
        let result = operation();
        assert!(
            !matches!(result, Err(Error::Interrupted)),
            "a walk without end"
        );
        result
    }

    /// Records and bytes changed since they are counted, as Generic XLog would log them; from now on they are, or not.
    pub fn count_changes(&self, from_now_on: bool) -> (u64, u64) {
        self.changes
            .replace(from_now_on.then_some((0, 0)))
            .unwrap_or_default()
    }

    fn count(&self, record: &Record) {
        if let Some((records, bytes)) = self.changes.get() {
            let pages = self.pages.borrow();
            let changed = record
                .iter()
                .map(|(block, page)| changed_bytes(&pages[block.0 as usize], page));
            self.changes
                .set(Some((records + 1, bytes + changed.sum::<u64>())));
        }
    }

    fn record(&self, record: Record) {
        if self.keeps_log {
            self.log.borrow_mut().push(record);
        }
    }
}

/// Bytes that Generic XLog logs of a page: runs that differ, each with a head of four, and a head of the page. A gap of less
/// than a head is part of its run (`generic_xlog.c`).
fn changed_bytes(old: &PageBytes, new: &PageBytes) -> u64 {
    const RUN_HEAD: usize = 4;
    const PAGE_HEAD: u64 = 20;
    let differing = (0..PAGE_BYTES).filter(|&at| old[at] != new[at]);
    let (mut bytes, mut end) = (PAGE_HEAD, None);
    for at in differing {
        bytes += match end {
            Some(end) if at - end <= RUN_HEAD => (at - end + 1) as u64,
            _ => RUN_HEAD as u64 + 1,
        };
        end = Some(at + 1);
    }
    bytes
}

fn past_the_end(block: BlockId) -> Error {
    Error::Corrupt {
        block,
        offset: 0,
        what: "block number",
        found: u64::from(block.0),
        expected: "a block of the index",
    }
}

/// A page being read.
#[derive(Debug)]
pub struct MemoryPage<'a> {
    page: Ref<'a, Box<PageBytes>>,
    store: &'a MemoryStore,
}

impl Deref for MemoryPage<'_> {
    type Target = PageBytes;

    fn deref(&self) -> &PageBytes {
        &self.page
    }
}

impl Drop for MemoryPage<'_> {
    fn drop(&mut self) {
        self.store.locks.set(self.store.locks.get() - 1);
    }
}

/// The latch of a [`MemoryStore`].
#[derive(Debug)]
pub struct MemoryLatch<'a>(&'a MemoryStore);

impl Drop for MemoryLatch<'_> {
    fn drop(&mut self) {
        self.0.latched.set(false);
    }
}

/// A change to a [`MemoryStore`].
#[derive(Debug)]
pub struct MemoryTxn<'a> {
    store: &'a MemoryStore,
    pages: Vec<(BlockId, Box<PageBytes>)>,
    /// Those that a server would have waited for, in the order in which they were locked.
    waits: Vec<Locked>,
}

/// A page as it was when it was locked.
#[derive(Clone, Copy, Debug)]
struct Locked {
    name: PageRef,
    kind: u8,
    /// Of its chain.
    head: PageRef,
    is_tail: bool,
}

impl Locked {
    fn of(block: BlockId, page: &PageBytes) -> Locked {
        let incarnation = page::incarnation(page);
        let name = PageRef { block, incarnation };
        Locked {
            name,
            kind: page::kind(page),
            head: page::owner(page).unwrap_or(name),
            is_tail: page::next(page).is_none(),
        }
    }

    /// May a transaction that holds this page wait for the other?
    fn comes_before(&self, later: &Locked) -> bool {
        let rank = |locked: &Locked| match locked.kind {
            kind if kind == Kind::List as u8 => Some(0),
            kind if kind == Kind::Directory as u8 => Some(1),
            kind if kind == Kind::Meta as u8 => Some(2),
            _ => None,
        };
        match (rank(self), rank(later)) {
            // A list and the one that its rows move to are two chains.
            (Some(mine), Some(other)) if mine == other => self.head != later.head || !later.is_tail,
            (Some(mine), Some(other)) => mine < other,
            _ => true,
        }
    }
}

impl PageStore for MemoryStore {
    type Page<'a> = MemoryPage<'a>;
    type Txn<'a> = MemoryTxn<'a>;
    type Latch<'a> = MemoryLatch<'a>;

    fn read(&self, block: BlockId) -> Result<MemoryPage<'_>> {
        assert_eq!(self.locks.get(), 0, "a reader holds one page at a time");
        self.run_hook();
        let pages = self.pages.borrow();
        if block.0 as usize >= pages.len() {
            return Err(past_the_end(block));
        }
        self.reads.set(self.reads.get() + 1);
        self.locks.set(1);
        Ok(MemoryPage {
            page: Ref::map(pages, |pages| &pages[block.0 as usize]),
            store: self,
        })
    }

    fn prefetch(&self, block: BlockId, bytes: Range<usize>) {
        let pages = self.pages.borrow();
        let page = pages.get(block.0 as usize);
        if let Some(bytes) = page.and_then(|page| page.get(bytes)) {
            lookbook_vecmath::kernel::prefetch(bytes.as_ptr(), bytes.len());
        }
    }

    fn begin(&self) -> MemoryTxn<'_> {
        assert_eq!(
            self.locks.get(),
            0,
            "a transaction begins with no page locked"
        );
        MemoryTxn {
            store: self,
            pages: Vec::with_capacity(TXN_PAGES),
            waits: Vec::new(),
        }
    }

    fn block_count(&self) -> Result<u32> {
        Ok(self.pages.borrow().len() as u32)
    }

    fn note_free(&self, block: BlockId) -> Result<()> {
        self.free.borrow_mut().insert(block);
        Ok(())
    }

    fn try_latch(&self) -> Result<Option<MemoryLatch<'_>>> {
        Ok((!self.latched.replace(true)).then(|| MemoryLatch(self)))
    }

    fn latch(&self) -> Result<MemoryLatch<'_>> {
        assert_eq!(
            self.locks.get(),
            0,
            "the latch is not waited for with a page locked"
        );
        // One thread cannot wait for itself; what asks for the latch leaves nothing half done.
        if self.latched.replace(true) {
            return Err(Error::Contended {
                operation: "taking the latch",
                attempts: 1,
            });
        }
        Ok(MemoryLatch(self))
    }

    fn check_interrupts(&self) -> Result<()> {
        assert_eq!(
            self.locks.get(),
            0,
            "interrupts are checked with no page locked"
        );
        match self.fuel.get() {
            Some(0) => Err(Error::Interrupted),
            Some(left) => {
                self.fuel.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl MemoryTxn<'_> {
    fn register(&mut self, block: BlockId, page: Box<PageBytes>) -> Result<PageHandle> {
        if self.pages.len() == TXN_PAGES {
            return Err(Error::TooManyPages {
                block,
                limit: TXN_PAGES,
            });
        }
        self.store.locks.set(self.store.locks.get() + 1);
        self.pages.push((block, page));
        Ok(PageHandle(self.pages.len() - 1))
    }

    /// Nobody else waits for a page that is freed here: its chain was retired, or never known.
    fn check_order(&self) {
        let is_freed = |wait: &Locked| {
            let mut pages = self.pages.iter();
            pages.any(|(block, page)| *block == wait.name.block && page::is_free(page))
        };
        let waits: Vec<&Locked> = self.waits.iter().filter(|wait| !is_freed(wait)).collect();
        let latched = self.store.latched.get();
        let mut orders = self.store.orders.borrow_mut();
        for (at, later) in waits.iter().enumerate() {
            for earlier in &waits[..at] {
                assert!(
                    earlier.comes_before(later),
                    "{earlier:?} was locked before {later:?}"
                );
                // Those who hold the latch never wait for each other's pages.
                let opposite = orders.get(&(later.name, earlier.name)).copied();
                assert!(
                    opposite.is_none_or(|theirs| theirs && latched),
                    "{earlier:?} was locked before {later:?}, and once after it"
                );
                *orders.entry((earlier.name, later.name)).or_insert(true) &= latched;
            }
        }
    }
}

impl PageTxn for MemoryTxn<'_> {
    fn lock(&mut self, block: BlockId) -> Result<PageHandle> {
        if let Some(at) = self.pages.iter().position(|(other, _)| *other == block) {
            return Ok(PageHandle(at));
        }
        let page = self.store.pages.borrow().get(block.0 as usize).cloned();
        let page = page.ok_or_else(|| past_the_end(block))?;
        if cfg!(debug_assertions) {
            self.waits.push(Locked::of(block, &page));
        }
        self.register(block, page)
    }

    fn allocate(&mut self, reusable: fn(&PageBytes) -> bool) -> Result<(BlockId, PageHandle)> {
        loop {
            let Some(block) = self.store.free.borrow_mut().pop_first() else {
                break;
            };
            let held = self.pages.iter().any(|(other, _)| *other == block);
            let page = self.store.pages.borrow().get(block.0 as usize).cloned();
            if let Some(page) = page.filter(|page| !held && reusable(page)) {
                return Ok((block, self.register(block, page)?));
            }
        }
        let block = BlockId(self.store.pages.borrow().len() as u32);
        self.store
            .pages
            .borrow_mut()
            .push(Box::new([0; PAGE_BYTES]));
        Ok((block, self.register(block, Box::new([0; PAGE_BYTES]))?))
    }

    fn page(&self, handle: PageHandle) -> &PageBytes {
        &self.pages[handle.0].1
    }

    fn page_mut(&mut self, handle: PageHandle) -> &mut PageBytes {
        &mut self.pages[handle.0].1
    }

    fn commit(mut self) -> Result<()> {
        self.check_order();
        let record = std::mem::take(&mut self.pages);
        self.store.count(&record);
        self.store.locks.set(self.store.locks.get() - record.len());
        for (block, page) in &record {
            self.store.pages.borrow_mut()[block.0 as usize] = page.clone();
        }
        self.store.record(record);
        Ok(())
    }
}

impl Drop for MemoryTxn<'_> {
    fn drop(&mut self) {
        self.store
            .locks
            .set(self.store.locks.get() - self.pages.len());
    }
}

impl AppendPages for &MemoryStore {
    fn next_block(&self) -> Result<BlockId> {
        Ok(BlockId(self.block_count()?))
    }

    fn append(&mut self, page: &PageBytes) -> Result<()> {
        let block = AppendPages::next_block(self)?;
        self.pages.borrow_mut().push(Box::new(*page));
        self.record(vec![(block, Box::new(*page))]);
        Ok(())
    }
}
