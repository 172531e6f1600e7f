//! The directory: a chain whose rows are the lists, coded by their centroids like rows of a list around
//! the frame.
//!
//! A directory entry's heap TID is the block of the list's head, its words are the head's incarnation, the
//! list's radius, typical distance and slop. The decoded refinement code *is* the centroid. Invariants:
//! entries are only appended or made dead, so that a reader that walks the chain while a list is replaced
//! sees the old list, the new ones, or (old, then new) both, but never neither. Under the latch only, except
//! that anybody may widen a list's shape.

use crate::chain::{self, Appended, ChainKind, LockedTail, Place};
use crate::code::{self, Label, RowRecord, decode, encode};
use crate::error::{Error, Result};
use crate::page::leaf::{self, Leaf};
use crate::page::{Kind, PageRef, put_f32, put_u48, refinement};
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

/// A list near a point.
#[derive(Clone, Debug)]
pub(crate) struct Near {
    pub list: ListEntry,
    pub centroid: Vec<f32>,
}

/// A leaf of the directory as a search for near lists remembers it.
struct Seen {
    name: PageRef,
    links: [BlockId; 8],
}

/// The `wanted` lists whose centroids are nearest to `y` in Euclidean distance, whatever the metric: lists are
/// neighbourhoods. Nearest first; fewer when there are fewer. `None`: the directory was replaced.
pub(crate) fn nearest<S: PageStore>(
    store: &S,
    space: &Space,
    directory: PageRef,
    y: &[f32],
    wanted: usize,
) -> Result<Option<Vec<Near>>> {
    let Some((leaves, mut bounds)) = bounds(store, space, directory, y)? else {
        return Ok(None);
    };
    let stride = space.directory_layout.rows;
    let measure = |at: u32| {
        let leaf = &leaves[at as usize / stride];
        measure(store, space, leaf, at as usize % stride, y)
    };
    // The first by their bounds, then whatever can be nearer than those.
    let mut best: Vec<(f32, u32)> = Vec::new();
    if bounds.len() > wanted {
        bounds.select_nth_unstable_by(wanted - 1, |a, b| a.0.total_cmp(&b.0));
    }
    for &(_, at) in bounds.iter().take(wanted) {
        let Some(distance) = measure(at)? else {
            return Ok(None);
        };
        best.push((distance, at));
    }
    best.sort_by(|a, b| a.0.total_cmp(&b.0));
    let farthest = best.last().map_or(f32::NEG_INFINITY, |last| last.0);
    let mut rest = bounds.split_off(best.len());
    rest.retain(|(bound, _)| *bound < farthest);
    rest.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    for (bound, at) in rest {
        if best.last().is_none_or(|last| last.0 <= bound) {
            break;
        }
        let Some(distance) = measure(at)? else {
            return Ok(None);
        };
        let place = best.partition_point(|other| other.0 <= distance);
        if place < best.len() {
            best.pop();
            best.insert(place, (distance, at));
        }
    }
    let mut near = Vec::with_capacity(best.len());
    for (_, at) in best {
        let place = Place {
            leaf: leaves[at as usize / stride].name,
            slot: at as usize % stride,
        };
        match (live(store, space, place)?, centroid(store, space, place)?) {
            (Some(list), Some(centroid)) => near.push(Near { list, centroid }),
            _ => return Ok(None),
        }
    }
    Ok(Some(near))
}

type Bounds = (Vec<Seen>, Vec<(f32, u32)>);

/// Bounds of the distances of all live lists, with the number of the entry: leaf times rows of a leaf, plus slot.
fn bounds<S: PageStore>(
    store: &S,
    space: &Space,
    directory: PageRef,
    y: &[f32],
) -> Result<Option<Bounds>> {
    let query = Query::neighbour(y);
    let (tables, terms) = (query.tables(), query.directory_terms());
    let layout = &space.directory_layout;
    let (mut leaves, mut found) = (Vec::new(), Vec::new());
    let (mut chosen, mut bounds) = (Vec::new(), Vec::new());
    let end = chain::walk(store, directory, entries(space), |name, leaf, _| {
        let links = chain::links(&leaf, layout);
        let first = leaves.len() * layout.rows;
        leaves.push(Seen { name, links });
        leaf.choose_all(&mut chosen);
        leaf.bounds(
            space.kernels,
            &tables,
            &terms,
            f32::INFINITY,
            &mut chosen,
            &mut bounds,
        );
        for slot in 0..leaf.count() {
            let bound: f32 = bounds[slot / layout.lanes][slot % layout.lanes];
            // NaN: dead, or not yet alive.
            if !bound.is_nan() {
                found.push((bound, (first + slot) as u32));
            }
        }
        Ok(())
    })?;
    Ok(end.map(|_| (leaves, found)))
}

/// The squared distance of a centroid. `None`: the directory was replaced.
fn measure<S: PageStore>(
    store: &S,
    space: &Space,
    leaf: &Seen,
    slot: usize,
    y: &[f32],
) -> Result<Option<f32>> {
    let layout = &space.directory_layout;
    let (mut sum, mut step, mut from) = (0.0, 0.0, 0);
    for span in 0..layout.spans {
        let block = leaf.links[slot / layout.per_refinement * layout.spans + span];
        let page = store.read(block)?;
        if !refinement::belongs(&page, block, leaf.name)? {
            return Ok(None);
        }
        let mut packed = refinement::record(&page, layout, slot, span);
        if span == 0 {
            (step, _, packed) = refinement::factors(packed);
        }
        let dims = packed.len() / layout.bits as usize * 8;
        sum += space
            .kernels
            .squared_distance(&y[from..from + dims], packed, layout.bits, step);
        from += dims;
    }
    Ok(Some(sum))
}

/// The list at a place; `None`: it was replaced, or the directory was.
pub(crate) fn live<S: PageStore>(
    store: &S,
    space: &Space,
    place: Place,
) -> Result<Option<ListEntry>> {
    let found = chain::with_leaf(store, place.leaf, entries(space), |leaf, _| {
        if place.slot < leaf.count() {
            entry(&leaf, place.leaf, place.slot)
        } else {
            Ok(None)
        }
    })?;
    Ok(found.flatten())
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

/// Makes sure that the list's radius and slop are at least these before such a row is added. `false`: the list was
/// replaced. Counts as an edit of the directory, so that a copy of it made meanwhile is not put in its place.
pub(crate) fn widen<S: PageStore>(
    store: &S,
    space: &Space,
    directory: PageRef,
    list: &ListEntry,
    reach: f32,
    slop: f32,
) -> Result<bool> {
    // False for NaN: a damaged radius is replaced.
    let suffices = |shape: &Shape| shape.radius >= reach && shape.slop >= slop;
    if suffices(&list.shape) {
        return Ok(true);
    }
    let chain = entries(space);
    let Some(LockedTail {
        mut txn,
        handle: tail,
        ..
    }) = chain::lock_tail(store, directory, chain)?
    else {
        return Ok(false);
    };
    let handle = txn.lock(list.place.leaf.block)?;
    let page = txn.page(handle);
    if !crate::page::opened(page, list.place.leaf) {
        return Ok(false);
    }
    let leaf = Leaf::new(page, list.place.leaf.block, chain.kind, chain.layout)?;
    let current = entry(&leaf, list.place.leaf, list.place.slot)?;
    let Some(current) = current.filter(|current| current.head == list.head) else {
        return Ok(false);
    };
    if suffices(&current.shape) {
        return Ok(true);
    }
    let page = txn.page_mut(handle);
    let mut put = |word, number: f32| {
        leaf::put_word(
            page,
            &space.directory_layout,
            list.place.slot,
            word,
            number.to_bits(),
        );
    };
    if current.shape.radius >= reach {
        put(RADIUS, current.shape.radius);
    } else {
        put(RADIUS, reach * HEADROOM);
    }
    put(SLOP, current.shape.slop.max(slop));
    leaf::note_edit(txn.page_mut(tail));
    txn.commit()?;
    Ok(true)
}
