//! Sums of vectors in double precision: the state of `avg` and `sum`.

use crate::{Error, check_finite};

/// Adds a vector to running sums.
///
/// # Errors
/// [`Error::UnexpectedDimensions`], and [`Error::Overflow`], after which the sums are void.
pub fn accumulate(sums: &mut [f64], vector: &[f32]) -> Result<(), Error> {
    add_elements(sums, vector)
}

/// Adds sums to running sums.
///
/// # Errors
/// As [`accumulate`].
pub fn add(sums: &mut [f64], others: &[f64]) -> Result<(), Error> {
    add_elements(sums, others)
}

fn add_elements<T: Copy + Into<f64>>(sums: &mut [f64], others: &[T]) -> Result<(), Error> {
    if sums.len() != others.len() {
        return Err(Error::UnexpectedDimensions {
            expected: sums.len(),
            found: others.len(),
        });
    }
    let mut finite = true;
    for (sum, other) in sums.iter_mut().zip(others) {
        *sum += (*other).into();
        finite &= !sum.is_infinite();
    }
    if finite { Ok(()) } else { Err(Error::Overflow) }
}

/// The vector `sums / divisor`: their mean when divided by the number of vectors.
///
/// # Errors
/// [`Error::Overflow`]: an element is too large for `f32`. [`Error::NotANumber`].
pub fn divide(sums: &[f64], divisor: f64, result: &mut [f32]) -> Result<(), Error> {
    for (z, sum) in result.iter_mut().zip(sums) {
        *z = (sum / divisor) as f32;
        match check_finite(*z) {
            Err(Error::Infinite) => return Err(Error::Overflow),
            checked => checked?,
        }
    }
    Ok(())
}
