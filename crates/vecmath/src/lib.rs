//! Dense vectors of `f32`: text and wire form, arithmetic, distances.
//!
//! A vector is a plain `&[f32]` with 1 to [`MAX_DIMENSIONS`] elements, all finite. Whoever makes one
//! (parse, decode, arithmetic) keeps that; whoever reads one may rely on it. Must not know
//! PostgreSQL or files. Only [`kernel`] holds `unsafe`.

#![deny(unsafe_code)]

pub mod arithmetic;
pub mod distance;
mod error;
#[allow(unsafe_code, reason = "vector instructions, chosen at run time")]
pub mod kernel;
pub mod sums;
pub mod text;
pub mod wire;

pub use error::Error;

/// The most elements a vector has: pgvector's limit, so that values can move between the types.
pub const MAX_DIMENSIONS: usize = 16_000;

/// Are there 1 to [`MAX_DIMENSIONS`] elements?
///
/// # Errors
/// [`Error::NoDimensions`], [`Error::TooManyDimensions`].
pub fn check_dimensions(dimensions: usize) -> Result<(), Error> {
    match dimensions {
        0 => Err(Error::NoDimensions),
        1..=MAX_DIMENSIONS => Ok(()),
        _ => Err(Error::TooManyDimensions),
    }
}

/// May this be an element?
///
/// # Errors
/// [`Error::NotANumber`], [`Error::Infinite`].
pub fn check_finite(value: f32) -> Result<(), Error> {
    if value.is_nan() {
        Err(Error::NotANumber)
    } else if value.is_infinite() {
        Err(Error::Infinite)
    } else {
        Ok(())
    }
}

/// Do two operands have equally many elements?
///
/// # Errors
/// [`Error::DifferentDimensions`].
#[inline]
pub fn check_same_dimensions(a: &[f32], b: &[f32]) -> Result<(), Error> {
    if a.len() == b.len() {
        Ok(())
    } else {
        Err(Error::DifferentDimensions {
            left: a.len(),
            right: b.len(),
        })
    }
}
