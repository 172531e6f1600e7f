//! Replacing a list: by two (split), by a compact copy, or by nothing.
//!
//! The protocol, under the latch: copy the rows of the list; write the new chains, which nobody knows yet,
//! and reserve their directory entries; then, with the old tail locked and found unchanged since it was copied,
//! one record retires the tail, buries the old entry and brings the new ones to life. Rows appended while
//! we wrote are carried over first. The old pages are freed afterwards; readers notice by their names.
//!
//! Invariant: at every record of the log each row is in exactly one live list.

use crate::chain::{self, Appended, ChainKind, LockedTail, Place};
use crate::cluster;
use crate::code::{Label, RowRecord, decode, encode, put_sign_code, reach};
use crate::directory::{self, ListEntry};
use crate::error::{Error, Result};
use crate::index::Index;
use crate::insert::EMPTY_SHAPE;
use crate::page::leaf::Leaf;
use crate::page::meta::{META, Meta};
use crate::page::{self, PageRef, frame, u16_at, u48_at};
use crate::query::Shape;
use crate::rounding::{U, bf16, norm, up};
use crate::space::Space;
use crate::store::{PageStore, PageTxn};

/// How often rows that were added meanwhile are carried over before a split is left to somebody else.
const CATCH_UPS: usize = 50;

/// The rows of a list as they were copied, and how to tell whether it changed since.
#[derive(Debug)]
pub(crate) struct Copy {
    pub rows: Vec<RowRecord>,
    /// The tail and how many of its slots were copied.
    tail: PageRef,
    slots: usize,
    edits: u32,
}

/// Rows around a centroid, to become a list.
struct Part {
    centroid: Vec<f32>,
    rows: Vec<RowRecord>,
}

/// A list written but not yet known.
struct Written {
    head: PageRef,
    place: Place,
    centroid: Vec<f32>,
    shape: Shape,
}

/// Copies the live rows of a list from `after` (a tail and its slots copied before) on. `None`: the list was
/// replaced.
pub(crate) fn copy<S: PageStore>(
    store: &S,
    chain: ChainKind<'_>,
    head: PageRef,
    after: Option<(PageRef, usize)>,
) -> Result<Option<Copy>> {
    let layout = chain.layout;
    let (start, mut skip) = after.unwrap_or((head, 0));
    let mut rows = Vec::new();
    let mut next = Some(start);
    let mut last = None;
    while let Some(name) = next {
        store.check_interrupts()?;
        let mut found: Vec<(usize, RowRecord)> = Vec::new();
        let mut links = Vec::new();
        let read = chain::with_leaf(store, name, chain, |leaf, page| {
            links.extend((0..layout.refinement_pages).map(|index| leaf.link(index)));
            for slot in skip..leaf.count() {
                if leaf.tid(slot).is_some() {
                    let mut record = vec![0; layout.row().end];
                    leaf.copy_row(slot, &mut record);
                    found.push((slot, record));
                }
            }
            Ok((
                page::next(page),
                page::is_retired(page),
                leaf.count(),
                leaf.edits(),
            ))
        })?;
        let Some((following, false, slots, edits)) = read else {
            return Ok(None);
        };
        for (slot, mut record) in found {
            let bytes = &mut record[layout.row().refinement..];
            if !chain::copy_refinement(store, layout, name, &links, slot, bytes)? {
                return Ok(None);
            }
            rows.push(record);
        }
        skip = 0;
        last = Some((name, slots, edits));
        next = following;
    }
    let (tail, slots, edits) = last.unwrap_or((head, 0, 0));
    Ok(Some(Copy {
        rows,
        tail,
        slots,
        edits,
    }))
}

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
    swap_directory(store, index, directory)?;
    match old {
        Some(old) => chain::discard(store, old, directory::entries(&space)),
        None => Ok(()),
    }
}

/// Splits the list if nobody else changes the structure now. It is no failure if it is not split.
pub(crate) fn split<S: PageStore>(store: &S, index: &mut Index, head: PageRef) -> Result<()> {
    match store.try_latch()? {
        Some(_latch) => {
            let done = replace(store, index, head, Into::Two)?;
            index.refresh(store)?;
            let Some(directory) = index.meta.directory.filter(|_| done) else {
                return Ok(());
            };
            let lists = directory::all(store, &index.space, directory)?.unwrap_or_default();
            // A grown index keeps its promises as a built one does: measured at every doubling.
            if index.has_outgrown(lists.len()) {
                index.calibrate_latched(store)
            } else {
                Ok(())
            }
        }
        None => Ok(()),
    }
}

/// What a list is replaced by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Into {
    /// Two lists; the first split of an index also gives it its frame.
    Two,
    /// A list without the dead entries.
    One,
    /// Nothing, if it is empty.
    Nothing,
}

/// Replaces a list. Under the latch. `false`: it was not done, because the list is gone or changes too fast.
pub(crate) fn replace<S: PageStore>(
    store: &S,
    index: &mut Index,
    head: PageRef,
    into: Into,
) -> Result<bool> {
    index.refresh(store)?;
    let Some(directory) = index.meta.directory else {
        return Ok(false);
    };
    let Some(live) = directory::all(store, &index.space, directory)? else {
        return Ok(false);
    };
    let Some(list) = live.iter().copied().find(|list| list.head == head) else {
        return Ok(false);
    };
    let space = index.space.clone();
    let Some(centroid) = directory::centroid(store, &space, list.place)? else {
        return Ok(false);
    };
    let Some(copy) = copy(store, directory::lists(&space), head, None)? else {
        return Ok(false);
    };
    match into {
        Into::Two if live.len() == 1 && index.meta.frame.is_none() => {
            found(store, &space, directory, list, copy)
        }
        Into::Two => {
            let parts = halves(
                &space,
                &copy.rows,
                space.options.seed ^ u64::from(head.block.0),
            );
            Swing {
                space: &space,
                directory,
                list,
                founding: None,
            }
            .run(store, copy, parts)
        }
        Into::One => {
            let parts = vec![Part {
                centroid,
                rows: copy.rows.clone(),
            }];
            Swing {
                space: &space,
                directory,
                list,
                founding: None,
            }
            .run(store, copy, parts)
        }
        Into::Nothing if copy.rows.is_empty() && live.len() > 1 => Swing {
            space: &space,
            directory,
            list,
            founding: None,
        }
        .run(store, copy, Vec::new()),
        Into::Nothing => Ok(false),
    }
}

/// The point of a row and how far the row can be from it.
pub(crate) fn point(space: &Space, record: &[u8]) -> (Vec<f32>, f64) {
    let bytes = &record[space.layout.row().refinement..];
    (
        decode(&space.layout, bytes),
        f64::from(bf16(u16_at(bytes, 2))),
    )
}

/// Divides rows by two-means.
fn halves(space: &Space, rows: &[RowRecord], seed: u64) -> Vec<Part> {
    let dims = space.dims();
    let points: Vec<f32> = rows.iter().flat_map(|row| point(space, row).0).collect();
    let (centroids, sides) = cluster::two_means(&points, dims, seed);
    centroids
        .into_iter()
        .enumerate()
        .map(|(side, centroid)| {
            let rows = rows
                .iter()
                .zip(&sides)
                .filter(|(_, s)| usize::from(**s) == side);
            Part {
                centroid,
                rows: rows.map(|(row, _)| row.clone()).collect(),
            }
        })
        .collect()
}

/// Gives each row its sign code around the centroid as it is decoded, and the list its shape.
fn settle(space: &Space, part: Part) -> (Part, Shape) {
    let centroid = {
        let entry = directory::record(space, NOWHERE, EMPTY_SHAPE, &part.centroid);
        directory::centroid_of(space, &entry)
    };
    let mut part = Part {
        centroid,
        rows: part.rows,
    };
    let mut shape = EMPTY_SHAPE;
    let mut squares = 0f64;
    for row in &mut part.rows {
        let (reach, error) = resettle(space, row, &part.centroid);
        shape.radius = shape.radius.max(reach);
        shape.slop = shape.slop.max(up(error));
        squares += f64::from(reach).powi(2);
    }
    shape.typical = (squares / part.rows.len().max(1) as f64).sqrt() as f32;
    (part, shape)
}

/// A head for records that are only measured.
const NOWHERE: PageRef = PageRef {
    block: META,
    incarnation: 0,
};

/// New sign code for a row that keeps its refinement code; gives its reach and error.
fn resettle(space: &Space, row: &mut [u8], centroid: &[f32]) -> (f32, f64) {
    let (y, error) = point(space, row);
    put_sign_code(&space.layout, &y, 0.0, centroid, row);
    (reach(&y, error, centroid), error)
}

/// A list about to be replaced.
struct Swing<'a> {
    /// Of the new lists.
    space: &'a Space,
    /// Where the new lists are entered.
    directory: PageRef,
    list: ListEntry,
    /// The new lists are the first of a new directory, around a new frame.
    founding: Option<Founding<'a>>,
}

struct Founding<'a> {
    old_space: &'a Space,
    old_directory: PageRef,
    frame: PageRef,
}

impl Swing<'_> {
    /// Writes the parts as lists and puts them in the place of the old one.
    fn run<S: PageStore>(self, store: &S, mut copied: Copy, parts: Vec<Part>) -> Result<bool> {
        let chain = directory::lists(self.space);
        let mut written = Vec::new();
        for part in parts {
            let (part, shape) = settle(self.space, part);
            let head = chain::write(store, chain, &part.rows)?;
            let entry = directory::record(self.space, head, shape, &part.centroid);
            let place = directory::reserve(store, self.space, self.directory, &entry)?;
            written.push(Written {
                head,
                place,
                centroid: part.centroid,
                shape,
            });
        }
        for _ in 0..CATCH_UPS {
            store.check_interrupts()?;
            // Under the latch nobody else appends to the directory: its tail stays where it is.
            let old_directory = match &self.founding {
                Some(founding) => chain::walk(
                    store,
                    founding.old_directory,
                    directory::entries(self.space),
                    |_, _, _| Ok(()),
                )?,
                None => None,
            };
            let Some(tail) = chain::lock_tail(store, self.list.head, chain)? else {
                break;
            };
            match since(&tail, &copied, chain)? {
                Since::Nothing => {
                    self.commit(tail, old_directory, &written)?;
                    chain::discard(store, self.list.head, chain)?;
                    return Ok(true);
                }
                Since::Edited => break,
                Since::Appended if written.is_empty() => break,
                Since::Appended => {
                    drop(tail);
                    if !self.catch_up(store, &mut copied, &mut written)? {
                        break;
                    }
                }
            }
        }
        for new in written {
            chain::discard(store, new.head, chain)?;
        }
        Ok(false)
    }

    /// The one record that makes the change: at most the old tail, the old directory entry (or the meta page
    /// and the old directory's tail), and two new entries.
    fn commit<T: PageTxn>(
        &self,
        tail: LockedTail<T>,
        old_directory: Option<PageRef>,
        written: &[Written],
    ) -> Result<()> {
        let LockedTail {
            mut txn, handle, ..
        } = tail;
        page::retire(txn.page_mut(handle));
        match old_directory {
            None => directory::remove(&mut txn, self.space, self.list.place)?,
            Some(name) => {
                let handle = txn.lock(name.block)?;
                page::retire(txn.page_mut(handle));
            }
        }
        for new in written {
            let record = directory::record(self.space, new.head, new.shape, &new.centroid);
            directory::reveal(&mut txn, self.space, new.place, &record)?;
        }
        if let Some(founding) = &self.founding {
            let handle = txn.lock(META)?;
            let mut meta = Meta::read(txn.page(handle))?;
            meta.directory = Some(self.directory);
            meta.frame = Some(founding.frame);
            meta.write(txn.page_mut(handle));
        }
        txn.commit()
    }

    /// Carries rows over that were appended to the old list. `false`: it was replaced or edited.
    fn catch_up<S: PageStore>(
        &self,
        store: &S,
        copied: &mut Copy,
        written: &mut [Written],
    ) -> Result<bool> {
        let chain = directory::lists(self.space);
        let after = Some((copied.tail, copied.slots));
        let Some(more) = copy(store, chain, self.list.head, after)? else {
            return Ok(false);
        };
        if more.edits != copied.edits {
            return Ok(false);
        }
        for mut row in more.rows {
            if let Some(founding) = &self.founding {
                row = recode(founding.old_space, self.space, &row);
            }
            let (y, _) = point(self.space, &row);
            let far = |new: &Written| cluster::squared_distance(&y, &new.centroid);
            let Some(new) = written.iter_mut().min_by(|a, b| far(a).total_cmp(&far(b))) else {
                return Ok(false);
            };
            let (reach, error) = resettle(self.space, &mut row, &new.centroid);
            new.shape.radius = new.shape.radius.max(reach);
            new.shape.slop = new.shape.slop.max(up(error));
            if chain::append(store, new.head, chain, &row)? == Appended::Gone {
                return Ok(false);
            }
        }
        (copied.tail, copied.slots) = (more.tail, more.slots);
        Ok(true)
    }
}

/// What happened to a list since it was copied.
enum Since {
    Nothing,
    Appended,
    Edited,
}

fn since<T: PageTxn>(tail: &LockedTail<T>, copied: &Copy, chain: ChainKind<'_>) -> Result<Since> {
    let leaf = Leaf::new(
        tail.txn.page(tail.handle),
        tail.name.block,
        chain.kind,
        chain.layout,
    )?;
    Ok(if leaf.edits() != copied.edits {
        Since::Edited
    } else if tail.name == copied.tail && leaf.count() == copied.slots {
        Since::Nothing
    } else {
        Since::Appended
    })
}

/// The first split: the frame becomes the mean of the rows, and everything is coded anew around it.
fn found<S: PageStore>(
    store: &S,
    old: &Space,
    old_directory: PageRef,
    list: ListEntry,
    copied: Copy,
) -> Result<bool> {
    let mut mean = vec![0f64; old.dims()];
    for row in &copied.rows {
        let (y, _) = point(old, row);
        mean.iter_mut()
            .zip(&y)
            .for_each(|(mean, y)| *mean += f64::from(*y));
    }
    let count = copied.rows.len().max(1) as f64;
    let frame = mean.iter().map(|sum| (sum / count) as f32).collect();
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
    let done = swing.run(store, copied, parts)?;
    let unused = if done { old_directory } else { directory };
    chain::discard(store, unused, directory::entries(&space))?;
    Ok(done)
}

/// A row coded around another frame; what its old code lost is lost.
fn recode(old: &Space, new: &Space, row: &[u8]) -> RowRecord {
    let layout = &new.layout;
    let words: Vec<u32> = (0..layout.words)
        .map(|word| page::u32_at(row, layout.row().words + 4 * word))
        .collect();
    let label = Label {
        tid: u48_at(row, 0),
        words: &words,
    };
    let (mut y, error) = point(old, row);
    for (y, m) in y.iter_mut().zip(&new.frame) {
        *y -= m;
    }
    let slop = error + 2.0 * U * (norm(&y) + norm(&new.frame));
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

/// Puts a new directory in the place of the old one, which is retired. Under the latch.
pub(crate) fn swap_directory<S: PageStore>(
    store: &S,
    index: &mut Index,
    directory: PageRef,
) -> Result<()> {
    let entries = directory::entries(&index.space);
    let mut txn = match index.meta.directory {
        Some(head) => match chain::lock_tail(store, head, entries)? {
            Some(LockedTail {
                mut txn, handle, ..
            }) => {
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
    index.refresh(store)
}
