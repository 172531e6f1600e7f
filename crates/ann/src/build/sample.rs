//! How many lists, from how many sample rows; and drawing them.

use crate::error::Result;
use crate::options::Options;
use crate::random::Random;
use crate::space::{Placed, Space, middle};

/// Rows of the sample for each list: k-means gains little from more.
const ROWS_PER_LIST: usize = 32;
/// Lists at most when the number is automatic: past that the directory costs more than it saves.
const MOST_LISTS: usize = 65_536;

/// What a build is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Lists to make.
    pub lists: usize,
    /// Rows to draw.
    pub sample_rows: usize,
}

impl Plan {
    /// For about `rows` rows, with a sample of at most `memory_bytes`.
    pub fn new(options: &Options, rows: u64, memory_bytes: usize) -> Plan {
        let rows = rows.min(usize::MAX as u64) as usize;
        let lists = match options.lists {
            0 => (rows / options.list_rows as usize).min(MOST_LISTS),
            lists => lists as usize,
        };
        let lists = lists.min(rows / 2).max(1);
        let fitting = memory_bytes / (4 * options.padded());
        Plan {
            lists,
            sample_rows: (lists * ROWS_PER_LIST)
                .clamp(256, fitting.max(256))
                .min(rows.max(1)),
        }
    }
}

/// Draws rows evenly from a stream (Vitter's algorithm R), so the number of rows need not be known.
#[derive(Debug)]
pub struct Sampler {
    space: Space,
    capacity: usize,
    offered: usize,
    random: Random,
    points: Vec<f32>,
}

impl Sampler {
    /// For an index with these options.
    ///
    /// # Errors
    /// [`crate::Error::Option`].
    pub fn new(options: &Options, capacity: usize) -> Result<Sampler> {
        options.validate()?;
        Ok(Sampler {
            space: Space::new(*options, Vec::new()),
            capacity,
            offered: 0,
            random: Random::new(options.seed, 3),
            points: Vec::new(),
        })
    }

    /// Offers a row. Rows that have no place (zero under cosine, too large) are left out.
    ///
    /// # Errors
    /// [`crate::Error::Dimensions`].
    pub fn offer(&mut self, vector: &[f32]) -> Result<()> {
        self.space.check_dimensions(vector)?;
        self.offered += 1;
        let slot = self.random.below(self.offered);
        let full = self.rows() >= self.capacity;
        if full && slot >= self.capacity {
            return Ok(());
        }
        let Placed::Point { y, .. } = self.space.place(vector)? else {
            return Ok(());
        };
        if full {
            let dims = self.space.dims();
            self.points[slot * dims..(slot + 1) * dims].copy_from_slice(&y);
        } else {
            // Not in steps of twice the size, which would take twice the memory.
            let room = self.capacity * self.space.dims() - self.points.len();
            self.points.reserve_exact(room);
            self.points.extend_from_slice(&y);
        }
        Ok(())
    }

    /// Rows drawn so far.
    pub fn rows(&self) -> usize {
        self.points.len() / self.space.dims()
    }

    /// Geometry around the middle of the sample, and the sample in it.
    pub(super) fn finish(mut self) -> (Space, Vec<f32>) {
        let dims = self.space.dims();
        let frame = middle(&self.points, dims);
        for point in self.points.chunks_exact_mut(dims) {
            point.iter_mut().zip(&frame).for_each(|(x, m)| *x -= m);
        }
        (self.space.with_frame(frame), self.points)
    }
}
