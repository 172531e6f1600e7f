//! The lookbook index, without PostgreSQL.
//!
//! Clustered lists of quantised codes on 8-KiB pages. `docs/on-disk-format.md` describes the pages,
//! `docs/locking-and-wal.md` the protocol between readers and writers. A store implements
//! [`PageStore`]; everything else is here:
//!
//! * [`empty_index`] makes the first page, [`Index::open`] reads it;
//! * [`Index::insert`], [`Search`], vacuum, calibration, check and info work on any store.

#![forbid(unsafe_code)]

pub mod build;
mod calibrate;
mod calibration;
mod catalogue;
mod census;
mod chain;
mod check;
mod cluster;
mod code;
mod directory;
mod error;
mod filter;
mod founding;
mod index;
mod insert;
pub mod memory;
mod moves;
mod options;
mod page;
mod query;
mod queue;
mod random;
mod rotation;
mod rounding;
mod search;
mod space;
mod split;
mod step;
mod store;
mod structure;
mod vacuum;

pub use calibration::{Calibration, LEVELS, Slack};
pub use census::Info;
pub use error::{Error, Result};
pub use filter::Filter;
pub use index::{Index, empty_index};
pub use insert::Row;
pub use options::{Columns, MAX_DIMENSIONS, MAX_FILTER_COLUMNS, Metric, Options};
pub use search::{Bound, Found, Search, SearchOptions, SearchStats};
pub use store::{
    AppendPages, BlockId, HeapTid, PAGE_BYTES, PageBytes, PageHandle, PageStore, PageTxn, TXN_PAGES,
};
pub use vacuum::Removed;
