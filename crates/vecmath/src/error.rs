//! What can be wrong with a vector. Wording is pgvector's (`src/vector.c`), with our type's name, so
//! that a user's web search finds the answer. Must not know SQLSTATEs: the extension maps them.

/// A refusal: every variant is the caller's data at fault, never ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No elements at all.
    #[error("embedding must have at least 1 dimension")]
    NoDimensions,
    /// More elements than [`MAX_DIMENSIONS`](crate::MAX_DIMENSIONS).
    #[error("embedding cannot have more than {} dimensions", crate::MAX_DIMENSIONS)]
    TooManyDimensions,
    /// Two operands that do not fit each other.
    #[error("different embedding dimensions {left} and {right}")]
    DifferentDimensions {
        /// Dimensions of the left operand.
        left: usize,
        /// Dimensions of the right operand.
        right: usize,
    },
    /// A length other than the declared one.
    #[error("expected {expected} dimensions, not {found}")]
    UnexpectedDimensions {
        /// Dimensions declared by a column or by the first value of an aggregate.
        expected: usize,
        /// Dimensions of the value.
        found: usize,
    },
    /// An element is NaN.
    #[error("NaN not allowed in embedding")]
    NotANumber,
    /// An element is infinite.
    #[error("infinite value not allowed in embedding")]
    Infinite,
    /// Text that is not a vector.
    #[error("invalid input syntax for type embedding: \"{literal}\"")]
    Syntax {
        /// The whole text.
        literal: String,
        /// What is wrong with it, where more than "it does not parse" can be said.
        detail: Option<&'static str>,
    },
    /// A number in the text is too large for a 4-byte float.
    #[error("\"{number}\" is out of range for type embedding")]
    OutOfRange {
        /// The number as written.
        number: String,
    },
    /// A result element is too large for its type.
    #[error("value out of range: overflow")]
    Overflow,
    /// A product of two non-zero numbers is zero.
    #[error("value out of range: underflow")]
    Underflow,
    /// A wire message ends before its last element.
    #[error("insufficient data left in message")]
    Truncated,
    /// The reserved field of the wire format holds something.
    #[error("expected unused to be 0, not {found}")]
    Reserved {
        /// What it holds.
        found: u16,
    },
}
