//! Chains of leaves: a list, or the directory.
//!
//! Owns how leaves are read, appended to, written anew and freed. Must not know what rows mean.
//! Invariants: a chain only grows at its tail; slots never change but to die; a chain is replaced as a
//! whole, and the record that replaces it also marks its tail retired, so nobody appends to it later and a
//! reader that comes to the tail knows. Lock order: tail, head, refinement pages, new pages.

use crate::error::{Error, Result};
use crate::page::leaf::{self, Leaf};
use crate::page::{self, Kind, Layout, PageRef, refinement};
use crate::step::Step;
use crate::store::{BlockId, PageBytes, PageHandle, PageStore, PageTxn, TXN_PAGES};

/// What is prefetched of a leaf before it is read: from there on the processor sees for itself where the reading goes. Whole
/// pages are too much: their lines wait for each other, and the tail of a chain is seldom full.
pub(crate) const AHEAD_BYTES: usize = 2048;

/// What tells a list from the directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChainKind<'a> {
    pub kind: Kind,
    pub layout: &'a Layout,
}

/// A slot of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub leaf: PageRef,
    pub slot: usize,
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    /// It is there, and the chain has about so many rows, dead ones included.
    At { place: Place, rows: usize },
    /// The chain was replaced.
    Gone,
}

/// Reads a leaf under its lock; `None`: the page was freed since.
pub(crate) fn with_leaf<S: PageStore, T>(
    store: &S,
    name: PageRef,
    chain: ChainKind<'_>,
    read: impl FnOnce(Leaf<'_>, &PageBytes) -> Result<T>,
) -> Result<Option<T>> {
    let page = store.read(name.block)?;
    if !page::opened(&page, name) {
        return Ok(None);
    }
    let leaf = Leaf::new(&page, name.block, chain.kind, chain.layout)?;
    read(leaf, &page).map(Some)
}

/// Walks a chain, one page locked at a time. `None`: it was replaced before the end was reached. `Some`: the
/// tail's name and whatever `read` made of it.
pub(crate) fn walk<S: PageStore>(
    store: &S,
    head: PageRef,
    chain: ChainKind<'_>,
    read: impl FnMut(PageRef, Leaf<'_>, &PageBytes) -> Result<()>,
) -> Result<Option<PageRef>> {
    walk_on(store, Step::from(head), chain, read)
}

/// Walks the rest of a chain.
fn walk_on<S: PageStore>(
    store: &S,
    mut here: Step,
    chain: ChainKind<'_>,
    mut read: impl FnMut(PageRef, Leaf<'_>, &PageBytes) -> Result<()>,
) -> Result<Option<PageRef>> {
    loop {
        store.check_interrupts()?;
        let after = with_leaf(store, here.name, chain, |leaf, page| {
            let next = here.next(page)?;
            if let Some(next) = next {
                store.prefetch(next.name.block, 0..AHEAD_BYTES);
            }
            read(here.name, leaf, page)?;
            Ok((next, page::is_retired(page)))
        })?;
        match after {
            None | Some((_, true)) => return Ok(None),
            Some((None, false)) => return Ok(Some(here.name)),
            Some((Some(next), false)) => here = next,
        }
    }
}

/// Live entries of a chain and all its slots; of a chain that is replaced meanwhile, what was seen until then.
pub(crate) fn occupancy<S: PageStore>(
    store: &S,
    head: PageRef,
    chain: ChainKind<'_>,
) -> Result<(usize, usize)> {
    let (mut live, mut total) = (0, 0);
    walk(store, head, chain, |_, leaf, _| {
        total += leaf.count();
        live += (0..leaf.count())
            .filter(|&slot| leaf.tid(slot).is_some())
            .count();
        Ok(())
    })?;
    Ok((live, total))
}

/// A chain's tail, locked and not retired.
pub(crate) struct LockedTail<T> {
    pub txn: T,
    pub handle: PageHandle,
    pub name: PageRef,
    /// Leaves of the chain, as the head said before the tail was locked.
    pub leaves: usize,
}

/// Locks the tail of a chain. `None`: the chain was replaced.
pub(crate) fn lock_tail<'s, S: PageStore>(
    store: &'s S,
    head: PageRef,
    chain: ChainKind<'_>,
) -> Result<Option<LockedTail<S::Txn<'s>>>> {
    let hint = with_leaf(store, head, chain, |leaf, _| {
        Ok((leaf.tail(), leaf.leaves()))
    })?;
    let Some((tail, leaves)) = hint else {
        return Ok(None);
    };
    let mut here = Step::within(head, tail.unwrap_or(head));
    loop {
        store.check_interrupts()?;
        let name = here.name;
        let mut txn = store.begin();
        let handle = txn.lock(name.block)?;
        let page = txn.page(handle);
        if !page::opened(page, name) || page::is_retired(page) {
            return Ok(None);
        }
        Leaf::new(page, name.block, chain.kind, chain.layout)?;
        match here.next(page)? {
            None => {
                return Ok(Some(LockedTail {
                    txn,
                    handle,
                    name,
                    leaves,
                }));
            }
            Some(next) => here = next,
        }
    }
}

/// The tail of a chain, which may grow at once, and how often entries of the chain were changed in place. `None`: the
/// chain was replaced.
pub(crate) fn tail<S: PageStore>(
    store: &S,
    head: PageRef,
    chain: ChainKind<'_>,
) -> Result<Option<(PageRef, u32)>> {
    let hint = with_leaf(store, head, chain, |leaf, _| Ok(leaf.tail()))?;
    let Some(hint) = hint else { return Ok(None) };
    let mut edits = 0;
    let hint = Step::within(head, hint.unwrap_or(head));
    let tail = walk_on(store, hint, chain, |_, leaf, _| {
        edits = leaf.edits();
        Ok(())
    })?;
    Ok(tail.map(|tail| (tail, edits)))
}

/// Links an empty leaf behind the tail if that is full. `false`: the chain was replaced.
pub(crate) fn grow<S: PageStore>(store: &S, head: PageRef, chain: ChainKind<'_>) -> Result<bool> {
    let Some(tail) = lock_tail(store, head, chain)? else {
        return Ok(false);
    };
    if page::count(tail.txn.page(tail.handle)) == chain.layout.rows {
        add_leaf(tail.txn, tail.handle, tail.name, head, chain)?;
    }
    Ok(true)
}

/// Appends a row record: one record of the log, or two when a leaf is added before.
pub(crate) fn append<S: PageStore>(
    store: &S,
    head: PageRef,
    chain: ChainKind<'_>,
    record: &[u8],
) -> Result<Appended> {
    loop {
        let Some(LockedTail {
            mut txn,
            handle,
            name,
            leaves,
        }) = lock_tail(store, head, chain)?
        else {
            return Ok(Appended::Gone);
        };
        let slot = page::count(txn.page(handle));
        if slot == chain.layout.rows {
            add_leaf(txn, handle, name, head, chain)?;
            continue;
        }
        let place = Place { leaf: name, slot };
        put_refinement(&mut txn, handle, place, chain, record)?;
        leaf::push_row(txn.page_mut(handle), chain.layout, record);
        txn.commit()?;
        let rows = leaves.saturating_sub(1).saturating_mul(chain.layout.rows) + slot + 1;
        return Ok(Appended::At { place, rows });
    }
}

/// Links an empty leaf behind the full tail, which is locked.
fn add_leaf<T: PageTxn>(
    mut txn: T,
    tail: PageHandle,
    tail_name: PageRef,
    head: PageRef,
    chain: ChainKind<'_>,
) -> Result<()> {
    let first = txn.lock(head.block)?;
    let (leaves, edits) = {
        let head_leaf = Leaf::new(txn.page(first), head.block, chain.kind, chain.layout)?;
        let tail_leaf = Leaf::new(txn.page(tail), tail_name.block, chain.kind, chain.layout)?;
        (head_leaf.leaves(), tail_leaf.edits())
    };
    let (block, handle) = txn.allocate(page::is_free)?;
    let name = leaf::format_leaf(txn.page_mut(handle), block, chain.kind, Some(head));
    leaf::set_edits(txn.page_mut(handle), edits);
    let moved = page::moved(txn.page(tail));
    page::set_moved(txn.page_mut(handle), moved);
    page::set_next(txn.page_mut(tail), Some(name));
    leaf::set_tail(txn.page_mut(first), name, leaves.saturating_add(1));
    txn.commit()
}

/// Writes the refinement record of the next slot of a leaf that is locked; adds the pages if it is the first
/// there.
pub(crate) fn put_refinement<T: PageTxn>(
    txn: &mut T,
    leaf_handle: PageHandle,
    Place { leaf: name, slot }: Place,
    chain: ChainKind<'_>,
    record: &[u8],
) -> Result<()> {
    let layout = chain.layout;
    let bytes = &record[layout.row().refinement..];
    for span in 0..layout.spans {
        let index = slot / layout.per_refinement * layout.spans + span;
        let handle = if slot.is_multiple_of(layout.per_refinement) {
            let (block, handle) = txn.allocate(page::is_free)?;
            page::format(txn.page_mut(handle), block, Kind::Refinement, Some(name));
            leaf::set_link(txn.page_mut(leaf_handle), index, block);
            handle
        } else {
            let leaf = Leaf::new(txn.page(leaf_handle), name.block, chain.kind, layout)?;
            let block = leaf.link(index);
            let handle = txn.lock(block)?;
            if !refinement::belongs(txn.page(handle), block, name)? {
                return Err(foreign(block, txn.page(handle)));
            }
            handle
        };
        refinement::put_record(txn.page_mut(handle), layout, slot, span, bytes);
    }
    Ok(())
}

/// A refinement page that a live leaf names is another's.
pub(crate) fn foreign(block: BlockId, page: &PageBytes) -> Error {
    Error::Corrupt {
        block,
        offset: 24,
        what: "the owner",
        found: page::owner(page).map_or(u64::from(u32::MAX), |owner| u64::from(owner.block.0)),
        expected: "the leaf that names this page",
    }
}

/// Writes a chain that nobody knows yet, last leaf first, and gives its head.
pub(crate) fn write<S: PageStore>(
    store: &S,
    chain: ChainKind<'_>,
    rows: &[impl AsRef<[u8]>],
) -> Result<PageRef> {
    let layout = chain.layout;
    let mut chunks: Vec<&[_]> = rows.chunks(layout.rows).collect();
    if chunks.is_empty() {
        chunks.push(&[]);
    }
    // Leaves name their head, whose page must exist first.
    let mut txn = store.begin();
    let (head_block, handle) = txn.allocate(page::is_free)?;
    let head = leaf::format_leaf(txn.page_mut(handle), head_block, chain.kind, None);
    txn.commit()?;
    let (mut next, mut tail) = (None, head);
    for (index, chunk) in chunks.iter().enumerate().rev() {
        store.check_interrupts()?;
        let name = write_leaf(store, chain, head, index == 0, next, chunk)?;
        if next.is_none() {
            tail = name;
        }
        next = Some(name);
    }
    let mut txn = store.begin();
    let handle = txn.lock(head.block)?;
    leaf::set_tail(txn.page_mut(handle), tail, chunks.len());
    txn.commit()?;
    Ok(head)
}

/// One leaf and its refinement pages, as few records as the limit allows.
fn write_leaf<S: PageStore>(
    store: &S,
    chain: ChainKind<'_>,
    head: PageRef,
    is_head: bool,
    next: Option<PageRef>,
    rows: &[impl AsRef<[u8]>],
) -> Result<PageRef> {
    let layout = chain.layout;
    let mut txn = store.begin();
    let (block, mut handle) = if is_head {
        (head.block, txn.lock(head.block)?)
    } else {
        txn.allocate(page::is_free)?
    };
    let owner = (!is_head).then_some(head);
    let name = leaf::format_leaf(txn.page_mut(handle), block, chain.kind, owner);
    page::set_next(txn.page_mut(handle), next);
    for row in rows {
        leaf::push_row(txn.page_mut(handle), layout, row.as_ref());
    }
    let mut pages = 1;
    for (group, records) in rows.chunks(layout.per_refinement).enumerate() {
        if pages + layout.spans > TXN_PAGES {
            txn.commit()?;
            txn = store.begin();
            handle = txn.lock(block)?;
            pages = 1;
        }
        pages += layout.spans;
        for span in 0..layout.spans {
            let (block, page) = txn.allocate(page::is_free)?;
            page::format(txn.page_mut(page), block, Kind::Refinement, Some(name));
            leaf::set_link(txn.page_mut(handle), group * layout.spans + span, block);
            for (slot, row) in records.iter().enumerate() {
                let bytes = &row.as_ref()[layout.row().refinement..];
                refinement::put_record(txn.page_mut(page), layout, slot, span, bytes);
            }
        }
    }
    txn.commit()?;
    Ok(name)
}

/// Frees the pages of a chain that was replaced, or that never became known. Pages freed already are left
/// alone, so this may be repeated after a crash.
pub(crate) fn discard<S: PageStore>(store: &S, head: PageRef, chain: ChainKind<'_>) -> Result<()> {
    let mut pages: Vec<(BlockId, PageRef)> = Vec::new();
    let mut next = Some(Step::from(head));
    while let Some(here) = next {
        store.check_interrupts()?;
        let name = here.name;
        next = with_leaf(store, name, chain, |leaf, page| {
            pages.push((name.block, name));
            let used = leaf.count().div_ceil(chain.layout.per_refinement) * chain.layout.spans;
            pages.extend((0..used).map(|index| (leaf.link(index), name)));
            here.next(page)
        })?
        .flatten();
    }
    for batch in pages.chunks(TXN_PAGES) {
        store.check_interrupts()?;
        let mut txn = store.begin();
        for &(block, leaf_name) in batch {
            let handle = txn.lock(block)?;
            let page = txn.page(handle);
            let ours = if block == leaf_name.block {
                page::opened(page, leaf_name)
            } else {
                refinement::belongs(page, block, leaf_name)?
            };
            if ours && !page::is_free(page) {
                page::free(txn.page_mut(handle), block);
            }
        }
        txn.commit()?;
        for &(block, _) in batch {
            store.note_free(block)?;
        }
    }
    Ok(())
}

/// The refinement pages of a leaf.
pub(crate) fn links(leaf: &Leaf<'_>, layout: &Layout) -> [BlockId; 8] {
    let mut links = [BlockId(0); 8];
    for (index, link) in links.iter_mut().enumerate().take(layout.refinement_pages) {
        *link = leaf.link(index);
    }
    links
}

/// Copies the refinement record of a slot. `None`: the pages were freed since.
pub(crate) fn copy_refinement<S: PageStore>(
    store: &S,
    layout: &Layout,
    leaf: PageRef,
    links: &[BlockId],
    slot: usize,
    record: &mut [u8],
) -> Result<bool> {
    for span in 0..layout.spans {
        let block = links[slot / layout.per_refinement * layout.spans + span];
        let page = store.read(block)?;
        if !refinement::belongs(&page, block, leaf)? {
            return Ok(false);
        }
        let part = refinement::record(&page, layout, slot, span);
        record[layout.span(span)].copy_from_slice(part);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::RowRecord;
    use crate::memory::MemoryStore;

    #[test]
    fn whoever_walks_to_a_retired_tail_learns_that_the_chain_was_replaced() {
        let layout = Layout::new(16, 0, 7);
        let chain = ChainKind {
            kind: Kind::List,
            layout: &layout,
        };
        for rows in [1, layout.rows, layout.rows + 1] {
            let store = MemoryStore::new();
            let records: Vec<RowRecord> = vec![vec![0; layout.row().end]; rows];
            let head = write(&store, chain, &records).expect("memory");
            let walked = || {
                let mut seen = 0;
                let end = walk(&store, head, chain, |_, leaf, _| {
                    seen += leaf.count();
                    Ok(())
                });
                (end.expect("a sound chain"), seen)
            };
            let (end, seen) = walked();
            assert_eq!(seen, rows);
            let tail = lock_tail(&store, head, chain).expect("memory");
            let LockedTail {
                mut txn,
                handle,
                name,
                ..
            } = tail.expect("a live chain");
            assert_eq!(end, Some(name));
            page::retire(txn.page_mut(handle));
            txn.commit().expect("memory");
            assert_eq!(walked(), (None, rows));
            assert!(lock_tail(&store, head, chain).expect("memory").is_none());
        }
    }
}
