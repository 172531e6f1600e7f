//! Bulk build: sample, cluster, encode, write. `docs/locking-and-wal.md` says what the caller does between.
//!
//! Owns the mathematics and the order of pages. Must not know where rows come from or how they are sorted:
//! the caller offers rows to a [`Sampler`], trains [`Clusters`], encodes batches, sorts the records by list
//! (on disk if it must), and pushes them into a [`BulkWriter`].

mod balance;
mod clusters;
mod kmeans;
mod panels;
mod sample;
mod writer;

pub(crate) use panels::{BLOCK, Panels};

pub use clusters::{BuildRow, Clusters, Encoded, Target};
pub use sample::{Plan, Sampler};
pub use writer::BulkWriter;

use crate::error::Result;

/// Threads to compute on, and how to ask whether to stop. Threads never touch the store; `check` is called on the
/// caller's thread only, at least every few hundred milliseconds.
#[derive(Clone, Copy)]
pub struct Workers<'a> {
    /// Where the mathematics runs.
    pub pool: &'a rayon::ThreadPool,
    /// An error ends the build.
    pub check: &'a dyn Fn() -> Result<()>,
}

impl std::fmt::Debug for Workers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} workers", self.pool.current_num_threads())
    }
}
