//! What an index is: fixed when it is created.

use crate::error::{Error, Result};

/// The largest number of dimensions.
pub const MAX_DIMENSIONS: usize = lookbook_vecmath::MAX_DIMENSIONS;
/// The largest number of filter columns.
pub const MAX_FILTER_COLUMNS: usize = 8;

/// How rows are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Euclidean distance.
    L2 = 0,
    /// `1 − cos`, by the Euclidean distance of normalised copies: `‖x̂ − q̂‖² / 2`.
    Cosine = 1,
    /// Negative inner product.
    InnerProduct = 2,
}

/// The options of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Elements of a vector: 1 to 16,000.
    pub dimensions: usize,
    /// The order.
    pub metric: Metric,
    /// Bits a dimension takes in the index, one of them for the sign code: 4 to 8.
    pub bits: u32,
    /// 32-bit filter words per row: 0 to 8.
    pub filter_columns: usize,
    /// Lists that a bulk build makes; 0: as many as suit the rows.
    pub lists: u32,
    /// Rows of a list that suit searches: few enough that a list is read for little, enough that reading one
    /// pays. A list of half as many again is split. 16 to 10,000.
    pub list_rows: u32,
    /// Of the rotation and of every sample.
    pub seed: u64,
}

/// What the columns of an index say of it: its pages cannot be read as those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    /// `None`: the column has lost them.
    pub dimensions: Option<usize>,
    /// Of the operator class.
    pub metric: Metric,
    /// Columns behind the vector.
    pub filter_columns: usize,
}

impl Options {
    /// Eight bits, no filter columns, automatic lists.
    pub fn new(dimensions: usize, metric: Metric) -> Options {
        Options {
            dimensions,
            metric,
            bits: 8,
            filter_columns: 0,
            lists: 0,
            list_rows: 240,
            seed: 1,
        }
    }

    /// Are all options in range?
    ///
    /// # Errors
    /// [`Error::Option`] names the first that is not.
    pub fn validate(&self) -> Result<()> {
        let check = |option, found: usize, least: u64, most: u64| {
            let found = found as u64;
            if (least..=most).contains(&found) {
                return Ok(());
            }
            Err(Error::Option {
                option,
                found,
                least,
                most,
            })
        };
        check("dimensions", self.dimensions, 1, MAX_DIMENSIONS as u64)?;
        check("bits", self.bits as usize, 4, 8)?;
        check(
            "filter columns",
            self.filter_columns,
            0,
            MAX_FILTER_COLUMNS as u64,
        )?;
        check("rows of a list", self.list_rows as usize, 16, 10_000)?;
        check("lists", self.lists as usize, 0, 1_000_000)
    }

    /// Dimensions of the rotated space: sign codes come 16 dimensions at a time.
    pub(crate) fn padded(&self) -> usize {
        self.dimensions.next_multiple_of(16)
    }

    /// A list of so many rows is split: then the lists of a grown index have on average as many rows as suit.
    pub(crate) fn split_rows(&self) -> usize {
        self.list_rows as usize * 3 / 2
    }

    /// Bits of a refinement code.
    pub(crate) fn refinement_bits(&self) -> u32 {
        self.bits - 1
    }
}
