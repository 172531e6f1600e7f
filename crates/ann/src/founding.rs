//! The first list, the frame, and replacing the directory.
//!
//! The split of an only list also gives the index its frame, which changes all codes: the same protocol as any
//! other split, with a new directory.

use crate::chain::{self, LockedTail};
use crate::code::{Label, RowRecord, encode};
use crate::directory::{self, ListEntry};
use crate::error::{Error, Result};
use crate::index::Index;
use crate::insert::EMPTY_SHAPE;
use crate::page::meta::{META, Meta};
use crate::page::{self, PageRef, frame, u48_at};
use crate::rounding::{U, norm};
use crate::space::{Space, middle};
use crate::split::halves;
use crate::store::{PageStore, PageTxn};
use crate::structure::{Copy, Founding, Since, Swing, point, since};

/// Makes the first list of an index without lists, around `y`.
pub(crate) fn first_list<S: PageStore>(store: &S, index: &mut Index, y: &[f32]) -> Result<()> {
    let _latch = store.latch()?;
    index.refresh(store)?;
    let space = index.space.clone();
    if let Some(directory) = index.meta.directory {
        let live = directory::all(store, &space, directory)?;
        if live.is_none_or(|live| !live.is_empty()) {
            return Ok(());
        }
    }
    let none: [RowRecord; 0] = [];
    let head = chain::write(store, directory::lists(&space), &none)?;
    let entry = directory::record(&space, head, EMPTY_SHAPE, y);
    let directory = chain::write(store, directory::entries(&space), &[entry])?;
    let old = index.meta.directory;
    swap_directory(store, index, directory, None)?;
    match old {
        Some(old) => chain::discard(store, old, directory::entries(&space)),
        None => Ok(()),
    }
}

/// The split of an only list: the frame becomes the middle of the rows, and everything is coded anew around it.
pub(crate) fn found<S: PageStore>(
    store: &S,
    old: &Space,
    old_directory: PageRef,
    list: ListEntry,
    copied: Copy,
) -> Result<bool> {
    let points: Vec<f32> = copied
        .rows
        .iter()
        .flat_map(|row| point(old, row).0)
        .collect();
    let moved = middle(&points, old.dims());
    let frame = frame_of(old).zip(moved).map(|(m, by)| m + by).collect();
    let space = old.with_frame(frame);
    let rows: Vec<RowRecord> = copied
        .rows
        .iter()
        .map(|row| recode(old, &space, row))
        .collect();
    let parts = halves(&space, &rows, space.options.seed);
    let none: [RowRecord; 0] = [];
    let directory = chain::write(store, directory::entries(&space), &none)?;
    let frame = write_frame(store, &space.frame)?;
    let founding = Some(Founding {
        old_space: old,
        old_directory,
        frame,
    });
    let swing = Swing {
        space: &space,
        directory,
        list,
        founding,
    };
    let done = swing.run(store, copied, parts)?.is_some();
    let unused = if done { old_directory } else { directory };
    chain::discard(store, unused, directory::entries(&space))?;
    Ok(done)
}

/// The point that codes are taken around; the origin before there is one.
fn frame_of(space: &Space) -> impl Iterator<Item = f32> {
    let frame = space.frame.iter().copied();
    frame.chain(std::iter::repeat(0.0))
}

/// A row coded around another frame; what its old code lost is lost.
pub(crate) fn recode(old: &Space, new: &Space, row: &[u8]) -> RowRecord {
    let layout = &new.layout;
    let words: Vec<u32> = (0..layout.words)
        .map(|word| page::u32_at(row, layout.row().words + 4 * word))
        .collect();
    let label = Label {
        tid: u48_at(row, 0),
        words: &words,
    };
    let (mut y, error) = point(old, row);
    for (y, (m, before)) in y.iter_mut().zip(new.frame.iter().zip(frame_of(old))) {
        *y -= m - before;
    }
    let slop = error + 2.0 * U * (norm(&y) + norm(&new.frame) + norm(&old.frame));
    encode(layout, label, &y, slop, &vec![0.0; layout.dims])
}

/// Writes the frame, last page first.
pub(crate) fn write_frame<S: PageStore>(store: &S, elements: &[f32]) -> Result<PageRef> {
    let mut next = None;
    for chunk in elements.chunks(frame::PER_PAGE).rev() {
        let mut txn = store.begin();
        let (block, handle) = txn.allocate(page::is_free)?;
        let name = frame::format_page(txn.page_mut(handle), block, chunk);
        page::set_next(txn.page_mut(handle), next);
        txn.commit()?;
        next = Some(name);
    }
    next.ok_or(Error::Contended {
        operation: "writing the frame",
        attempts: 0,
    })
}

/// Puts a new directory in the place of the old one, which is retired. Under the latch. `false`: the old one was
/// changed since it was copied.
pub(crate) fn swap_directory<S: PageStore>(
    store: &S,
    index: &mut Index,
    directory: PageRef,
    copied: Option<&Copy>,
) -> Result<bool> {
    let entries = directory::entries(&index.space);
    let mut txn = match index.meta.directory {
        Some(head) => match chain::lock_tail(store, head, entries)? {
            Some(tail) => {
                if let Some(copied) = copied
                    && !matches!(since(&tail, copied, entries)?, Since::Nothing)
                {
                    return Ok(false);
                }
                let LockedTail {
                    mut txn, handle, ..
                } = tail;
                page::retire(txn.page_mut(handle));
                txn
            }
            None => {
                return Err(Error::Contended {
                    operation: "changing the directory",
                    attempts: 1,
                });
            }
        },
        None => store.begin(),
    };
    let handle = txn.lock(META)?;
    let mut meta = Meta::read(txn.page(handle))?;
    meta.directory = Some(directory);
    meta.write(txn.page_mut(handle));
    txn.commit()?;
    index.refresh(store)?;
    Ok(true)
}
