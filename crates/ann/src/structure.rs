//! Replacing a list: by two (see [`crate::split`]), by a compact copy, or by nothing.
//!
//! The protocol, under the latch: copy the rows of the list; write the new chains, which nobody knows yet,
//! and reserve their directory entries; then, with the old tail locked and found unchanged since it was copied,
//! one record retires the tail, buries the old entry and brings the new ones to life. Rows appended while
//! we wrote are carried over first. The old pages are freed afterwards; readers notice by their names.
//!
//! Invariant: at every record of the log each row is in exactly one live list.

use crate::chain::{self, Appended, ChainKind, LockedTail, Place};
use crate::cluster;
use crate::code::{RowRecord, decode, put_sign_code, reach};
use crate::directory::{self, ListEntry};
use crate::error::Result;
use crate::founding::recode;
use crate::index::Index;
use crate::insert::EMPTY_SHAPE;
use crate::moves::Stray;
use crate::page::leaf::Leaf;
use crate::page::meta::{META, Meta};
use crate::page::{self, Layout, PageRef, refinement, u16_at};
use crate::query::Shape;
use crate::rounding::{bf16, up};
use crate::space::Space;
use crate::step::Step;
use crate::store::{BlockId, PageStore, PageTxn};

/// How often rows that were added meanwhile are carried over before a split is left to somebody else.
const CATCH_UPS: usize = 50;

/// The rows of a list as they were copied, and how to tell whether it changed since.
#[derive(Debug)]
pub(crate) struct Copy {
    pub rows: Vec<RowRecord>,
    /// Where each row is.
    pub strays: Vec<Stray>,
    /// The tail and how many of its slots were copied.
    tail: PageRef,
    slots: usize,
    /// Of the chain before its first row was copied: of an edit of a leaf copied already, the tail would tell too late.
    edits: u32,
}

/// Rows around a centroid, to become a list.
pub(crate) struct Part {
    pub centroid: Vec<f32>,
    pub rows: Vec<RowRecord>,
}

/// A list written but not yet known.
pub(crate) struct Written {
    pub head: PageRef,
    pub place: Place,
    pub centroid: Vec<f32>,
    pub shape: Shape,
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
    let Some((_, edits)) = chain::tail(store, head, chain)? else {
        return Ok(None);
    };
    let (start, mut skip) = after.unwrap_or((head, 0));
    let (mut rows, mut strays) = (Vec::new(), Vec::new());
    let mut next = Some(Step::within(head, start));
    let mut last = (head, 0);
    while let Some(here) = next {
        store.check_interrupts()?;
        let name = here.name;
        let mut found: Vec<(Stray, RowRecord)> = Vec::new();
        let mut links = [BlockId(0); 8];
        let read = chain::with_leaf(store, name, chain, |leaf, page| {
            links = chain::links(&leaf, layout);
            for slot in skip..leaf.count() {
                if let Some(tid) = leaf.tid(slot) {
                    let mut record = vec![0; layout.row().end];
                    leaf.copy_row(slot, &mut record);
                    let place = Place { leaf: name, slot };
                    found.push((Stray { place, tid }, record));
                }
            }
            Ok((here.next(page)?, page::is_retired(page), leaf.count()))
        })?;
        let Some((following, false, slots)) = read else {
            return Ok(None);
        };
        let page_of = |stray: &Stray| stray.place.slot / layout.per_refinement;
        for group in found.chunk_by_mut(|a, b| page_of(&a.0) == page_of(&b.0)) {
            if !copy_refinements(store, layout, name, &links, group)? {
                return Ok(None);
            }
        }
        for (stray, record) in found {
            strays.push(stray);
            rows.push(record);
        }
        skip = 0;
        last = (name, slots);
        next = following;
    }
    let (tail, slots) = last;
    Ok(Some(Copy {
        rows,
        strays,
        tail,
        slots,
        edits,
    }))
}

/// Copies the refinement records of rows that share their pages. `false`: the pages were freed since.
fn copy_refinements<S: PageStore>(
    store: &S,
    layout: &Layout,
    leaf: PageRef,
    links: &[BlockId; 8],
    rows: &mut [(Stray, RowRecord)],
) -> Result<bool> {
    let refinement = layout.row().refinement;
    for span in 0..layout.spans {
        let index = rows[0].0.place.slot / layout.per_refinement;
        let block = links[index * layout.spans + span];
        let page = store.read(block)?;
        if !refinement::belongs(&page, block, leaf)? {
            return Ok(false);
        }
        for (stray, record) in rows.iter_mut() {
            let part = refinement::record(&page, layout, stray.place.slot, span);
            record[refinement..][layout.span(span)].copy_from_slice(part);
        }
    }
    Ok(true)
}

/// The list as it is described now; `None`: it was replaced.
pub(crate) fn still_there<S: PageStore>(
    store: &S,
    space: &Space,
    list: &ListEntry,
) -> Result<Option<ListEntry>> {
    let live = directory::live(store, space, list.place)?;
    Ok(live.filter(|live| live.head == list.head))
}

/// What a list is replaced by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Into {
    /// A list without the dead entries.
    One,
    /// Nothing, if it is empty.
    Nothing,
}

/// Replaces a list. Under the latch. `false`: it was not done, because the list is gone or changes too fast.
pub(crate) fn replace<S: PageStore>(
    store: &S,
    index: &mut Index,
    list: &ListEntry,
    into: Into,
) -> Result<bool> {
    index.refresh(store)?;
    let space = index.space.clone();
    let Some(directory) = index.meta.directory else {
        return Ok(false);
    };
    let Some(list) = still_there(store, &space, list)? else {
        return Ok(false);
    };
    let Some(centroid) = directory::centroid(store, &space, list.place)? else {
        return Ok(false);
    };
    let Some(copy) = copy(store, directory::lists(&space), list.head, None)? else {
        return Ok(false);
    };
    let parts = match into {
        Into::One => vec![Part {
            centroid,
            rows: copy.rows.clone(),
        }],
        Into::Nothing if copy.rows.is_empty() => Vec::new(),
        Into::Nothing => return Ok(false),
    };
    let swing = Swing {
        space: &space,
        directory,
        list,
        founding: None,
    };
    Ok(swing.run(store, copy, parts)?.is_some())
}

/// The point of a row and how far the row can be from it.
pub(crate) fn point(space: &Space, record: &[u8]) -> (Vec<f32>, f64) {
    let bytes = &record[space.layout.row().refinement..];
    (
        decode(&space.layout, bytes),
        f64::from(bf16(u16_at(bytes, 2))),
    )
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
pub(crate) struct Swing<'a> {
    /// Of the new lists.
    pub space: &'a Space,
    /// Where the new lists are entered.
    pub directory: PageRef,
    pub list: ListEntry,
    /// The new lists are the first of a new directory, around a new frame.
    pub founding: Option<Founding<'a>>,
}

pub(crate) struct Founding<'a> {
    pub old_space: &'a Space,
    pub old_directory: PageRef,
    pub frame: PageRef,
}

impl Swing<'_> {
    /// Writes the parts as lists and puts them in the place of the old one. `None`: it was given up.
    pub fn run<S: PageStore>(
        self,
        store: &S,
        mut copied: Copy,
        parts: Vec<Part>,
    ) -> Result<Option<Vec<Written>>> {
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
                    return Ok(Some(written));
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
        Ok(None)
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
        if let Some(name) = old_directory {
            let handle = txn.lock(name.block)?;
            page::retire(txn.page_mut(handle));
        }
        // The entry reserved last lies in the directory's tail, which is locked before other leaves.
        for new in written.iter().rev() {
            let record = directory::record(self.space, new.head, new.shape, &new.centroid);
            directory::reveal(&mut txn, self.space, new.place, &record)?;
        }
        if old_directory.is_none() {
            directory::remove(&mut txn, self.space, self.list.place)?;
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
pub(crate) enum Since {
    Nothing,
    Appended,
    Edited,
}

pub(crate) fn since<T: PageTxn>(
    tail: &LockedTail<T>,
    copied: &Copy,
    chain: ChainKind<'_>,
) -> Result<Since> {
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
