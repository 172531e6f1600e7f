//! Element-wise arithmetic. Results are checked as pgvector checks them (`src/vector.c`): an element
//! that overflows is refused, and so is a product of two non-zero numbers that became zero.
//!
//! Every function writes `result.len()` elements and reads as many: all slices are equally long.

use crate::{Error, distance};

/// `a + b`.
///
/// # Errors
/// [`Error::Overflow`].
pub fn add(a: &[f32], b: &[f32], result: &mut [f32]) -> Result<(), Error> {
    zip(a, b, result, |x, y| x + y);
    check_overflow(result)
}

/// `a - b`.
///
/// # Errors
/// [`Error::Overflow`].
pub fn subtract(a: &[f32], b: &[f32], result: &mut [f32]) -> Result<(), Error> {
    zip(a, b, result, |x, y| x - y);
    check_overflow(result)
}

/// `a * b`, element by element.
///
/// # Errors
/// [`Error::Overflow`], [`Error::Underflow`].
pub fn multiply(a: &[f32], b: &[f32], result: &mut [f32]) -> Result<(), Error> {
    zip(a, b, result, |x, y| x * y);
    check_overflow(result)?;
    let vanished = |((x, y), z): ((&f32, &f32), &f32)| *z == 0.0 && *x != 0.0 && *y != 0.0;
    if a.iter().zip(b).zip(&*result).any(vanished) {
        Err(Error::Underflow)
    } else {
        Ok(())
    }
}

/// `a * factor`, in double precision before rounding.
///
/// # Errors
/// [`Error::NotANumber`], [`Error::Infinite`]: the factor. [`Error::Overflow`],
/// [`Error::Underflow`]: an element of the result.
pub fn scale(a: &[f32], factor: f64, result: &mut [f32]) -> Result<(), Error> {
    if factor.is_nan() {
        return Err(Error::NotANumber);
    }
    if factor.is_infinite() {
        return Err(Error::Infinite);
    }
    for (z, x) in result.iter_mut().zip(a) {
        *z = (f64::from(*x) * factor) as f32;
    }
    check_overflow(result)?;
    let vanished = |(x, z): (&f32, &f32)| *z == 0.0 && *x != 0.0;
    if factor != 0.0 && a.iter().zip(&*result).any(vanished) {
        Err(Error::Underflow)
    } else {
        Ok(())
    }
}

/// `a` divided by its Euclidean norm; zeros when that is 0.
///
/// # Errors
/// [`Error::Overflow`].
pub fn l2_normalize(a: &[f32], result: &mut [f32]) -> Result<(), Error> {
    let norm = distance::norm(a);
    for (z, x) in result.iter_mut().zip(a) {
        *z = if norm > 0.0 {
            (f64::from(*x) / norm) as f32
        } else {
            0.0
        };
    }
    check_overflow(result)
}

fn zip(a: &[f32], b: &[f32], result: &mut [f32], operation: impl Fn(f32, f32) -> f32) {
    assert!(
        a.len() == result.len() && b.len() == result.len(),
        "operands of different lengths"
    );
    for ((z, x), y) in result.iter_mut().zip(a).zip(b) {
        *z = operation(*x, *y);
    }
}

fn check_overflow(result: &[f32]) -> Result<(), Error> {
    if result.iter().any(|z| z.is_infinite()) {
        Err(Error::Overflow)
    } else {
        Ok(())
    }
}
