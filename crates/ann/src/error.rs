//! What can go wrong in the index. A damaged page is a value, never a panic.

use crate::store::BlockId;

/// Every failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bytes that no version of this crate writes. `offset` counts from the start of the page body.
    #[error(
        "block {block} of the index is damaged at byte {offset}: {what} is {found}, expected {expected}"
    )]
    Corrupt {
        /// The page.
        block: BlockId,
        /// Where in the page.
        offset: usize,
        /// Which field.
        what: &'static str,
        /// What was read.
        found: u64,
        /// What could have been there.
        expected: &'static str,
    },
    /// A vector of another length than the index holds.
    #[error("expected {expected} dimensions, not {found}")]
    Dimensions {
        /// Of the index.
        expected: usize,
        /// Of the vector.
        found: usize,
    },
    /// An option outside its range.
    #[error("{option} must be between {least} and {most}, not {found}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What was asked for.
        found: u64,
        /// Smallest allowed value.
        least: u64,
        /// Largest allowed value.
        most: u64,
    },
    /// A row or a filter with another number of filter columns than the index has.
    #[error("expected {expected} filter columns, not {found}")]
    FilterColumns {
        /// Of the index.
        expected: usize,
        /// Of the row, or the number of the column a filter names.
        found: usize,
    },
    /// More pages than one transaction may change: a mistake of this crate or a damaged page.
    #[error("a change touches more than {limit} pages at block {block}")]
    TooManyPages {
        /// The page that was one too many.
        block: BlockId,
        /// The most pages of a transaction.
        limit: usize,
    },
    /// The index changed under the operation again and again.
    #[error("the index changed {attempts} times during {operation}; try again")]
    Contended {
        /// Which.
        operation: &'static str,
        /// How often it was tried.
        attempts: usize,
    },
    /// The user asked to stop.
    #[error("canceled on the user's request")]
    Interrupted,
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
