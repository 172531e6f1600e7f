//! Distances between vectors. Precision is pgvector's (`src/vector.c`): element-wise work and sums
//! in single precision, what follows in double; norms in double throughout.
//!
//! A distance may be infinite, when a sum is too large for `f32`, and the cosine distance is NaN
//! for a zero vector: SQL sees both, as with pgvector.

use crate::{Error, check_same_dimensions, kernel};

/// Euclidean distance.
///
/// # Errors
/// [`Error::DifferentDimensions`].
#[inline]
pub fn l2(a: &[f32], b: &[f32]) -> Result<f64, Error> {
    l2_squared(a, b).map(f64::sqrt)
}

/// Euclidean distance, squared.
///
/// # Errors
/// [`Error::DifferentDimensions`].
#[inline]
pub fn l2_squared(a: &[f32], b: &[f32]) -> Result<f64, Error> {
    check_same_dimensions(a, b)?;
    Ok(f64::from(kernel::active().l2_squared(a, b)))
}

/// Inner product.
///
/// # Errors
/// [`Error::DifferentDimensions`].
#[inline]
pub fn inner_product(a: &[f32], b: &[f32]) -> Result<f64, Error> {
    check_same_dimensions(a, b)?;
    Ok(f64::from(kernel::active().inner_product(a, b)))
}

/// Taxicab distance.
///
/// # Errors
/// [`Error::DifferentDimensions`].
#[inline]
pub fn l1(a: &[f32], b: &[f32]) -> Result<f64, Error> {
    check_same_dimensions(a, b)?;
    Ok(f64::from(kernel::active().l1(a, b)))
}

/// 1 − cosine of the angle: 0 to 2, or NaN when a vector is zero.
///
/// # Errors
/// [`Error::DifferentDimensions`].
#[inline]
pub fn cosine(a: &[f32], b: &[f32]) -> Result<f64, Error> {
    check_same_dimensions(a, b)?;
    let [product, norm_a, norm_b] = kernel::active().cosine_terms(a, b).map(f64::from);
    // One root of the product is more exact than the product of two roots.
    let similarity = product / (norm_a * norm_b).sqrt();
    Ok(1.0 - similarity.clamp(-1.0, 1.0))
}

/// Euclidean norm.
pub fn norm(a: &[f32]) -> f64 {
    // Several sums, because one would wait for itself.
    let mut sums = [0.0f64; 8];
    let (blocks, tail) = a.as_chunks::<8>();
    for block in blocks.iter().map(|block| &block[..]).chain([tail]) {
        for (sum, x) in sums.iter_mut().zip(block) {
            *sum += f64::from(*x) * f64::from(*x);
        }
    }
    sums.iter().sum::<f64>().sqrt()
}
