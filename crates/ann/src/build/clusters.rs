//! Lists before there are pages: centroids, and rows encoded for them.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::kmeans::{Training, Tree};
use super::{Sampler, Workers};
use crate::code::{Label, encode, put_label};
use crate::directory;
use crate::error::Result;
use crate::insert::EMPTY_SHAPE;
use crate::page::PageRef;
use crate::page::meta::META;
use crate::space::{Placed, Space};
use crate::store::HeapTid;

/// Trained centroids, and the geometry they live in.
#[derive(Debug)]
pub struct Clusters {
    pub(super) space: Space,
    tree: Tree,
    /// As readers decode them.
    pub(super) centroids: Vec<f32>,
    /// Rows encoded for each.
    encoded: Vec<AtomicUsize>,
}

/// A row to encode.
#[derive(Clone, Debug)]
pub struct BuildRow {
    /// Where it lies.
    pub tid: HeapTid,
    /// Its vector; `None`: NULL.
    pub vector: Option<Vec<f32>>,
    /// One hash for each filter column.
    pub words: Vec<u32>,
}

/// Where an encoded row goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A list; write them in this order.
    List(u32),
    /// The rows without a vector: after the lists.
    Nulls,
    /// The rows without a distance: after the lists.
    Unordered,
    /// The rows that are too large or too small to compute with: after the lists.
    Boundless,
}

/// An encoded row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Where it goes.
    pub target: Target,
    /// What is written there: [`Clusters::record_bytes`] of them.
    pub record: Vec<u8>,
}

impl Clusters {
    /// Clusters the sample into about `lists` lists; into exactly so many if the options name a number.
    ///
    /// # Errors
    /// What `workers.check` gives.
    pub fn train(sampler: Sampler, lists: usize, workers: Workers<'_>) -> Result<Clusters> {
        let (space, mut points) = sampler.finish();
        let dims = space.dims();
        // A list much longer than others costs each search that reads it, and would be split by the next insert. Who
        // asks for a number of lists gets it.
        let even = (points.len() / dims / lists.max(1)).max(1);
        let longest = (space.options.lists == 0 && lists > 1).then_some((even + even / 3).max(2));
        let training = Training {
            dims,
            lists,
            longest,
            seed: space.options.seed,
            kernels: space.kernels,
            workers,
        };
        let (tree, trained) = Tree::train(&mut points, training)?;
        drop(points);
        // Rows are coded around what readers decode.
        let nowhere = PageRef {
            block: META,
            incarnation: 0,
        };
        let decoded = |centroid: &[f32]| {
            let entry = directory::record(&space, nowhere, EMPTY_SHAPE, centroid);
            directory::centroid_of(&space, &entry)
        };
        let centroids: Vec<f32> = trained.chunks_exact(dims).flat_map(decoded).collect();
        Ok(Clusters {
            tree: tree.with_centroids(&centroids),
            encoded: (0..centroids.len() / dims)
                .map(|_| AtomicUsize::new(0))
                .collect(),
            space,
            centroids,
        })
    }

    /// Lists.
    pub fn lists(&self) -> usize {
        self.centroids.len() / self.space.dims()
    }

    /// Rows of one list when those encoded for a centroid are written: all, but of very many equal shares, each a list around that
    /// centroid. No plane parts equal points, and the first insert that comes to a giant list would pay for its split. Who asks
    /// for a number of lists gets it.
    pub(super) fn share(&self, list: u32) -> usize {
        let rows = self.encoded[list as usize].load(Ordering::Relaxed);
        let options = &self.space.options;
        if options.lists > 0 || rows <= 2 * options.split_rows() {
            return usize::MAX;
        }
        rows.div_ceil(rows / options.list_rows as usize)
    }

    /// Bytes of an encoded row.
    pub fn record_bytes(&self) -> usize {
        self.space.layout.row().end
    }

    /// Encodes a batch: some thousand rows keep the workers busy. What is encoded is written, once.
    ///
    /// # Errors
    /// [`crate::Error::Dimensions`], [`crate::Error::FilterColumns`], what `workers.check` gives.
    pub fn encode(&self, rows: &[BuildRow], workers: Workers<'_>) -> Result<Vec<Encoded>> {
        (workers.check)()?;
        for row in rows {
            self.space.check_words(&row.words)?;
            if let Some(vector) = &row.vector {
                self.space.check_dimensions(vector)?;
            }
        }
        let placed: Vec<Option<Placed>> = workers.pool.install(|| {
            rows.par_iter()
                .map(|row| {
                    row.vector
                        .as_ref()
                        .and_then(|vector| self.space.place(vector).ok())
                })
                .collect()
        });
        let dims = self.space.dims();
        let mut points = Vec::with_capacity(rows.len() * dims);
        for placed in &placed {
            match placed {
                Some(Placed::Point { y, .. }) => points.extend_from_slice(y),
                _ => points.resize(points.len() + dims, 0.0),
            }
        }
        let owners = self.tree.assign(&points, workers)?;
        Ok(workers.pool.install(|| {
            let rows = rows.par_iter().zip(placed.into_par_iter().zip(owners));
            rows.map(|(row, (placed, owner))| self.encode_row(row, placed, owner))
                .collect()
        }))
    }

    fn encode_row(&self, row: &BuildRow, placed: Option<Placed>, owner: u32) -> Encoded {
        let layout = &self.space.layout;
        let label = Label {
            tid: row.tid.0,
            words: &row.words,
        };
        let dims = self.space.dims();
        let target = match placed {
            Some(Placed::Point { y, slop }) => {
                let centroid = &self.centroids[owner as usize * dims..][..dims];
                let record = encode(layout, label, &y, slop, centroid);
                self.encoded[owner as usize].fetch_add(1, Ordering::Relaxed);
                return Encoded {
                    target: Target::List(owner),
                    record,
                };
            }
            Some(Placed::Boundless) => Target::Boundless,
            Some(Placed::Unordered) => Target::Unordered,
            None => Target::Nulls,
        };
        let mut record = vec![0; layout.row().end];
        put_label(layout, label, &mut record);
        Encoded { target, record }
    }
}
