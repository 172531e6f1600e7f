//! The directory: a chain whose rows are the lists, coded by their centroids like rows of a list around
//! the frame.
//!
//! A directory entry's heap TID is the block of the list's head, its words are the head's incarnation, the
//! list's radius, typical distance and slop. The decoded refinement code *is* the centroid. Invariants:
//! entries are only appended or made dead, so that a reader that walks the chain while a list is replaced
//! sees the old list, the new ones, or (old, then new) both, but never neither; entries are changed
//! under the latch only.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::chain::{self, Appended, ChainKind, Place};
use crate::code::{self, Label, RowRecord, decode, encode};
use crate::error::{Error, Result};
use crate::page::leaf::{self, Leaf};
use crate::page::{Kind, PageRef, put_f32, put_u48};
use crate::query::{Query, Shape};
use crate::space::Space;
use crate::store::{BlockId, PageStore, PageTxn};

/// Word of an entry.
const INCARNATION: usize = 0;
const RADIUS: usize = 1;
const TYPICAL: usize = 2;
const SLOP: usize = 3;
/// A radius that must grow grows by this factor, so that it grows seldom.
const HEADROOM: f32 = 1.05;

/// A live list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListEntry {
    pub head: PageRef,
    pub shape: Shape,
    pub place: Place,
}

pub(crate) fn lists(space: &Space) -> ChainKind<'_> {
    ChainKind {
        kind: Kind::List,
        layout: &space.layout,
    }
}

pub(crate) fn entries(space: &Space) -> ChainKind<'_> {
    ChainKind {
        kind: Kind::Directory,
        layout: &space.directory_layout,
    }
}

/// The list in a slot; `None`: the entry is dead (or not yet alive).
pub(crate) fn entry(leaf: &Leaf<'_>, name: PageRef, slot: usize) -> Result<Option<ListEntry>> {
    let Some(tid) = leaf.tid(slot) else {
        return Ok(None);
    };
    let block = u32::try_from(tid.0).map_err(|_| Error::Corrupt {
        block: name.block,
        offset: 0,
        what: "the head of a list",
        found: tid.0,
        expected: "a block number",
    })?;
    let number = |word| f32::from_bits(leaf.word(slot, word));
    Ok(Some(ListEntry {
        head: PageRef {
            block: BlockId(block),
            incarnation: leaf.word(slot, INCARNATION),
        },
        shape: Shape {
            radius: number(RADIUS),
            typical: number(TYPICAL),
            slop: number(SLOP),
        },
        place: Place { leaf: name, slot },
    }))
}

/// The directory record of a list.
pub(crate) fn record(space: &Space, head: PageRef, shape: Shape, centroid: &[f32]) -> RowRecord {
    let words = [
        head.incarnation,
        shape.radius.to_bits(),
        shape.typical.to_bits(),
        shape.slop.to_bits(),
    ];
    let origin = vec![0.0; space.dims()];
    let label = Label {
        tid: u64::from(head.block.0),
        words: &words,
    };
    let mut record = encode(&space.directory_layout, label, centroid, 0.0, &origin);
    // The sign code describes the centroid as it is decoded, so that its bounds hold for that.
    let exact = centroid_of(space, &record);
    code::put_sign_code(&space.directory_layout, &exact, 0.0, &origin, &mut record);
    record
}

/// The centroid as every reader decodes it.
pub(crate) fn centroid_of(space: &Space, record: &[u8]) -> Vec<f32> {
    let layout = &space.directory_layout;
    decode(layout, &record[layout.row().refinement..])
}

/// Reads a list's centroid. `None`: the directory was replaced.
pub(crate) fn centroid<S: PageStore>(
    store: &S,
    space: &Space,
    place: Place,
) -> Result<Option<Vec<f32>>> {
    let layout = &space.directory_layout;
    let links = chain::with_leaf(store, place.leaf, entries(space), |leaf, _| {
        Ok((0..layout.refinement_pages)
            .map(|link| leaf.link(link))
            .collect::<Vec<_>>())
    })?;
    let Some(links) = links else { return Ok(None) };
    let mut bytes = vec![0; layout.refinement_bytes];
    let found = chain::copy_refinement(store, layout, place.leaf, &links, place.slot, &mut bytes)?;
    Ok(found.then(|| decode(layout, &bytes)))
}

/// All live lists in the order of the chain. `None`: the directory was replaced.
pub(crate) fn all<S: PageStore>(
    store: &S,
    space: &Space,
    directory: PageRef,
) -> Result<Option<Vec<ListEntry>>> {
    let mut found = Vec::new();
    let end = chain::walk(store, directory, entries(space), |name, leaf, _| {
        for slot in 0..leaf.count() {
            found.extend(entry(&leaf, name, slot)?);
        }
        Ok(())
    })?;
    Ok(end.map(|_| found))
}

/// A list by the bound of its distance; the heap gives the nearest first.
struct Near(f32, ListEntry, [BlockId; 8]);

impl PartialEq for Near {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Near {}
impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Near {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.total_cmp(&self.0)
    }
}

/// What a search for the nearest list found.
#[derive(Debug)]
pub(crate) enum Nearest {
    List(ListEntry, Vec<f32>),
    /// There is no live list.
    Empty,
    /// The directory was replaced.
    Gone,
}

/// The list whose centroid is nearest to `y` in Euclidean distance, whatever the metric: lists are
/// neighbourhoods.
pub(crate) fn nearest<S: PageStore>(
    store: &S,
    space: &Space,
    directory: PageRef,
    y: &[f32],
) -> Result<Nearest> {
    let query = Query::neighbour(y);
    let (tables, terms) = (query.tables(), query.directory_terms());
    let layout = &space.directory_layout;
    let (mut heap, mut chosen, mut bounds) = (Vec::new(), Vec::new(), Vec::new());
    let end = chain::walk(store, directory, entries(space), |name, leaf, _| {
        let mut links = [BlockId(0); 8];
        for (index, link) in links.iter_mut().enumerate().take(layout.refinement_pages) {
            *link = leaf.link(index);
        }
        leaf.choose_all(&mut chosen);
        let far = f32::INFINITY;
        leaf.bounds(
            space.kernels,
            &tables,
            &terms,
            far,
            &mut chosen,
            &mut bounds,
        );
        for slot in 0..leaf.count() {
            if let Some(entry) = entry(&leaf, name, slot)? {
                let bound = bounds[slot / layout.lanes][slot % layout.lanes];
                heap.push(Near(bound, entry, links));
            }
        }
        Ok(())
    })?;
    if end.is_none() {
        return Ok(Nearest::Gone);
    }
    let mut heap = BinaryHeap::from(heap);
    let mut best: Option<(f32, ListEntry, Vec<f32>)> = None;
    let mut bytes = vec![0; layout.refinement_bytes];
    while let Some(Near(bound, entry, links)) = heap.pop() {
        if best
            .as_ref()
            .is_some_and(|(distance, ..)| *distance <= bound)
        {
            break;
        }
        let Place { leaf, slot } = entry.place;
        if !chain::copy_refinement(store, layout, leaf, &links, slot, &mut bytes)? {
            return Ok(Nearest::Gone);
        }
        let centroid = decode(layout, &bytes);
        let distance: f32 = y
            .iter()
            .zip(&centroid)
            .map(|(y, c)| (y - c) * (y - c))
            .sum();
        if best.as_ref().is_none_or(|(least, ..)| distance < *least) {
            best = Some((distance, entry, centroid));
        }
    }
    Ok(best.map_or(Nearest::Empty, |(_, entry, centroid)| {
        Nearest::List(entry, centroid)
    }))
}

/// Appends an entry that nobody sees yet. Under the latch.
pub(crate) fn reserve<S: PageStore>(
    store: &S,
    space: &Space,
    directory: PageRef,
    record: &[u8],
) -> Result<Place> {
    let mut hidden = record.to_vec();
    put_f32(&mut hidden, space.directory_layout.row().constant, f32::NAN);
    put_u48(&mut hidden, 0, (1 << 48) - 1);
    match chain::append(store, directory, entries(space), &hidden)? {
        Appended::At { place, .. } => Ok(place),
        Appended::Gone => Err(Error::Contended {
            operation: "adding a list",
            attempts: 1,
        }),
    }
}

/// Makes a reserved entry live, inside a transaction.
pub(crate) fn reveal<T: PageTxn>(
    txn: &mut T,
    space: &Space,
    place: Place,
    record: &[u8],
) -> Result<()> {
    let handle = txn.lock(place.leaf.block)?;
    leaf::put_row(
        txn.page_mut(handle),
        &space.directory_layout,
        place.slot,
        record,
    );
    Ok(())
}

/// Makes an entry dead, inside a transaction.
pub(crate) fn remove<T: PageTxn>(txn: &mut T, space: &Space, place: Place) -> Result<()> {
    let handle = txn.lock(place.leaf.block)?;
    leaf::bury(txn.page_mut(handle), &space.directory_layout, place.slot);
    Ok(())
}

/// Makes sure that the list's radius is at least `reach` before a row that far away is added. Takes the latch
/// if it must grow. `false`: the list was replaced.
pub(crate) fn raise_radius<S: PageStore>(
    store: &S,
    space: &Space,
    list: &ListEntry,
    reach: f32,
) -> Result<bool> {
    // False for NaN: a damaged radius is replaced.
    if list.shape.radius >= reach {
        return Ok(true);
    }
    let _latch = store.latch()?;
    let mut txn = store.begin();
    let handle = txn.lock(list.place.leaf.block)?;
    let page = txn.page(handle);
    if !crate::page::opened(page, list.place.leaf) {
        return Ok(false);
    }
    let chain = entries(space);
    let leaf = Leaf::new(page, list.place.leaf.block, chain.kind, chain.layout)?;
    let current = entry(&leaf, list.place.leaf, list.place.slot)?;
    let Some(current) = current.filter(|current| current.head == list.head) else {
        return Ok(false);
    };
    if current.shape.radius >= reach {
        return Ok(true);
    }
    let radius = reach * HEADROOM;
    let page = txn.page_mut(handle);
    leaf::put_word(
        page,
        &space.directory_layout,
        list.place.slot,
        RADIUS,
        radius.to_bits(),
    );
    txn.commit()?;
    Ok(true)
}
