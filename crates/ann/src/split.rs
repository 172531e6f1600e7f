//! Splitting a list, and giving rows around the split to the lists that are now nearest to them.
//!
//! Under the latch. What a split leaves to do is bounded: the nearest lists are looked at and no others.

use crate::build::{BLOCK, Panels};
use crate::chain;
use crate::cluster;
use crate::code::RowRecord;
use crate::directory::{self, ListEntry, Near};
use crate::error::Result;
use crate::founding::found;
use crate::index::Index;
use crate::moves::{Moves, Stray, Targets};
use crate::space::Space;
use crate::store::PageStore;
use crate::structure::{self, Copy, Into, Part, Swing, Written, point};

/// Lists around a split whose rows are looked at. A row that is not in the list nearest to it makes every search more
/// careful: of 300,000 dense embeddings (`emb256`) a search with recall 0.985 reads 25,500 codes in a bulk-built index, and in one
/// that looked at 64 lists 38,600.
const NEIGHBOURS: usize = 256;
/// A row moves when its squared distance falls by this factor: not to and fro between equals.
const NEARER: f32 = 0.98;
/// A neighbour that gave away so many rows that one in so many entries is dead is written anew.
const DEAD_SHARE: usize = 3;
/// A directory of fewer entries is not written anew for its dead ones.
const SMALL_DIRECTORY: usize = 64;

/// Splits the list if nobody else changes the structure now. It is no failure if it is not split.
pub(crate) fn split<S: PageStore>(store: &S, index: &mut Index, list: &ListEntry) -> Result<()> {
    let Some(_latch) = store.try_latch()? else {
        return Ok(());
    };
    if !split_latched(store, index, list)? {
        return index.refresh(store);
    }
    index.refresh(store)?;
    let Some(directory) = index.meta.directory else {
        return Ok(());
    };
    let (live, total) = chain::occupancy(store, directory, directory::entries(&index.space))?;
    if total >= SMALL_DIRECTORY && (total - live) * DEAD_SHARE >= total {
        index.compact_directory(store)?;
    }
    // A grown index keeps its promises as a built one does: measured at every doubling.
    if index.has_outgrown(live) {
        index.calibrate_latched(store)?;
    }
    Ok(())
}

/// `false`: the list was replaced, or changes too fast.
pub(crate) fn split_latched<S: PageStore>(
    store: &S,
    index: &mut Index,
    list: &ListEntry,
) -> Result<bool> {
    index.refresh(store)?;
    let space = index.space.clone();
    let Some(directory) = index.meta.directory else {
        return Ok(false);
    };
    let Some(list) = structure::still_there(store, &space, list)? else {
        return Ok(false);
    };
    let Some(copied) = structure::copy(store, directory::lists(&space), list.head, None)? else {
        return Ok(false);
    };
    // Of an index that was emptied, too: what comes after need not be like what was there.
    let (lists, _) = chain::occupancy(store, directory, directory::entries(&space))?;
    if index.meta.frame.is_none() || lists == 1 {
        return found(store, &space, directory, list, copied);
    }
    let swing = Swing {
        space: &space,
        directory,
        list,
        founding: None,
    };
    let seed = space.options.seed ^ u64::from(list.head.block.0);
    if index.meta.is_vacuuming || !Moves::<S>::are_possible(&space) {
        let parts = halves(&space, &copied.rows, seed);
        return Ok(swing.run(store, copied, parts)?.is_some());
    }
    let Some(near) = neighbours(store, &space, directory, &list)? else {
        return Ok(false);
    };
    let mut moves = Moves::new(store, &space, directory);
    let sources = split_among(&mut moves, store, swing, copied, &near, seed)?;
    moves.finish()?;
    let done = sources.is_some();
    for list in sources.unwrap_or_default() {
        compact(store, index, &list)?;
    }
    Ok(done)
}

fn neighbours<S: PageStore>(
    store: &S,
    space: &Space,
    directory: crate::page::PageRef,
    list: &ListEntry,
) -> Result<Option<Vec<Near>>> {
    let Some(centroid) = directory::centroid(store, space, list.place)? else {
        return Ok(None);
    };
    let near = directory::nearest(store, space, directory, &centroid, NEIGHBOURS + 1)?;
    Ok(near.map(|mut near| {
        near.retain(|near| near.list.head != list.head);
        near
    }))
}

/// Gives the lists that rows left; `None`: the list was not split.
fn split_among<S: PageStore>(
    moves: &mut Moves<'_, S>,
    store: &S,
    swing: Swing<'_>,
    copied: Copy,
    near: &[Near],
    seed: u64,
) -> Result<Option<Vec<ListEntry>>> {
    let (space, head) = (swing.space, swing.list.head);
    let lists = directory::lists(space);
    let mut parts = halves(space, &copied.rows, seed);
    let leaving = leavers(space, &copied, &parts, near);
    let mut copied = copied;
    if leaving.iter().any(|strays| !strays.is_empty()) {
        for (near, strays) in near.iter().zip(&leaving) {
            moves.transfer(head, &near.list, &near.centroid, strays)?;
        }
        let Some(left) = structure::copy(store, lists, head, None)? else {
            return Ok(None);
        };
        parts = divide(space, &left.rows, parts);
        copied = left;
    }
    let Some(new) = swing.run(store, copied, parts)? else {
        return Ok(None);
    };
    let targets = Targets::new(new.iter().map(|new| &new.centroid[..]).collect());
    let mut sources = Vec::new();
    for near in near {
        let own = &near.centroid;
        let Some(found) = targets.strays(store, space, near.list.head, own, NEARER)? else {
            continue;
        };
        if !found.is_empty() {
            sources.push(near.list);
        }
        for (target, new) in new.iter().enumerate() {
            let coming: Vec<Stray> = found
                .iter()
                .filter(|(to, _)| *to == target)
                .map(|(_, stray)| *stray)
                .collect();
            moves.transfer(near.list.head, &entry_of(new), &new.centroid, &coming)?;
        }
    }
    Ok(Some(sources))
}

fn entry_of(new: &Written) -> ListEntry {
    ListEntry {
        head: new.head,
        shape: new.shape,
        place: new.place,
    }
}

/// The rows of a list to be split that a neighbour is nearer to than either half, by neighbour.
fn leavers(space: &Space, copied: &Copy, parts: &[Part], near: &[Near]) -> Vec<Vec<Stray>> {
    let mut leaving = vec![Vec::new(); near.len()];
    let panels = |centroids: Vec<f32>| Panels::new(&centroids, space.dims());
    let theirs = panels(near.iter().flat_map(|near| near.centroid.clone()).collect());
    let ours = panels(
        parts
            .iter()
            .flat_map(|part| part.centroid.clone())
            .collect(),
    );
    let rows = copied.rows.chunks(BLOCK).zip(copied.strays.chunks(BLOCK));
    for (rows, strays) in rows {
        let points: Vec<f32> = rows.iter().flat_map(|row| point(space, row).0).collect();
        let mut own = vec![(f32::INFINITY, 0); rows.len()];
        let mut other = own.clone();
        ours.nearest(space.kernels, &points, &mut own, 0);
        theirs.nearest(space.kernels, &points, &mut other, 0);
        let squared = points.chunks_exact(space.dims());
        let squared = squared.map(|y| y.iter().map(|y| y * y).sum::<f32>());
        for ((stray, squared), (own, other)) in
            strays.iter().zip(squared).zip(own.iter().zip(other))
        {
            // Distances without the part that both have in common.
            if squared + other.0 < (squared + own.0) * NEARER {
                leaving[other.1 as usize].push(*stray);
            }
        }
    }
    leaving
}

/// Divides rows by two-means.
pub(crate) fn halves(space: &Space, rows: &[RowRecord], seed: u64) -> Vec<Part> {
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

/// Divides other rows by the nearest of the parts, whose centroids move to their new means.
fn divide(space: &Space, rows: &[RowRecord], mut parts: Vec<Part>) -> Vec<Part> {
    let mut sums: Vec<(Vec<f32>, usize)> = vec![(vec![0.0; space.dims()], 0); parts.len()];
    for part in &mut parts {
        part.rows.clear();
    }
    for row in rows {
        let (y, _) = point(space, row);
        let nearest = parts.iter_mut().zip(&mut sums).min_by(|(a, _), (b, _)| {
            let far = |part: &Part| cluster::squared_distance(&y, &part.centroid);
            far(a).total_cmp(&far(b))
        });
        if let Some((part, (sum, count))) = nearest {
            part.rows.push(row.clone());
            sum.iter_mut().zip(&y).for_each(|(sum, y)| *sum += y);
            *count += 1;
        }
    }
    for (part, (sum, count)) in parts.iter_mut().zip(sums) {
        if count > 0 {
            part.centroid = sum.iter().map(|sum| sum / count as f32).collect();
        }
    }
    parts
}

/// Shares the rows of a list out among the lists nearest to each, and removes it. Under the latch. `false`: it was
/// not removed.
pub(crate) fn dissolve<S: PageStore>(
    store: &S,
    index: &mut Index,
    list: &ListEntry,
) -> Result<bool> {
    index.refresh(store)?;
    let space = index.space.clone();
    let Some(directory) = index.meta.directory else {
        return Ok(false);
    };
    let Some(copied) = structure::copy(store, directory::lists(&space), list.head, None)? else {
        return Ok(false);
    };
    if !copied.rows.is_empty() {
        if index.meta.frame.is_none() || !Moves::<S>::are_possible(&space) {
            return Ok(false);
        }
        let mut moves = Moves::new(store, &space, directory);
        for (row, stray) in copied.rows.iter().zip(&copied.strays) {
            let (y, _) = point(&space, row);
            let near = directory::nearest(store, &space, directory, &y, 2)?.unwrap_or_default();
            let Some(to) = near.iter().find(|near| near.list.head != list.head) else {
                break;
            };
            moves.transfer(
                list.head,
                &to.list,
                &to.centroid,
                std::slice::from_ref(stray),
            )?;
        }
        moves.finish()?;
    }
    structure::replace(store, index, list, Into::Nothing)
}

/// Writes a list anew that has many dead entries.
fn compact<S: PageStore>(store: &S, index: &mut Index, list: &ListEntry) -> Result<()> {
    let (live, total) = chain::occupancy(store, list.head, directory::lists(&index.space))?;
    if live > 0 && (total - live) * DEAD_SHARE >= total {
        structure::replace(store, index, list, Into::One)?;
    }
    Ok(())
}
