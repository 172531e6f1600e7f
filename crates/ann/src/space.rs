//! The geometry of an index: from a user's vector to the rotated space and back to bounds.
//!
//! Owns normalisation, rotation and frame. Must not know lists. Everything here is derived from the meta
//! page and the frame pages.

use lookbook_vecmath::kernel::codes::{Kernels, kernels};

use crate::error::{Error, Result};
use crate::options::{Metric, Options};
use crate::page::Layout;
use crate::rotation::Rotation;
use crate::rounding::{U, norm};

/// Larger elements or norms overflow the squares that `f32` arithmetic forms.
const LARGEST_NORM: f64 = 1e17;
/// Words of a directory entry: incarnation and radius, typical distance, slop of the list.
pub(crate) const DIRECTORY_WORDS: usize = 4;
/// Bits of a centroid's refinement code. The decoded centroid *is* the centroid, so this costs nothing in
/// precision of rows.
pub(crate) const CENTROID_BITS: u32 = 7;

/// Points that say well enough where the middle of all is.
const FRAME_POINTS: usize = 4_096;

/// A frame for points: in every dimension the mean of the middle half. The mean of all is far from all where a few are huge, and
/// codes, which are the coarser the farther rows are from the frame, would tell the others apart no more.
pub(crate) fn middle(points: &[f32], dims: usize) -> Vec<f32> {
    let rows = (points.len() / dims).div_ceil(FRAME_POINTS).max(1);
    let mut numbers = Vec::new();
    let mut middle = |dim| {
        numbers.clear();
        numbers.extend(points.iter().skip(dim).step_by(rows * dims));
        let quarter = numbers.len() / 4;
        if quarter > 0 {
            let upto = numbers.len() - quarter;
            numbers.select_nth_unstable_by(quarter, f32::total_cmp);
            numbers[quarter..].select_nth_unstable_by(upto - quarter, f32::total_cmp);
        }
        let half = &numbers[quarter..numbers.len() - quarter];
        let sum: f64 = half.iter().map(|x| f64::from(*x)).sum();
        (sum / half.len().max(1) as f64) as f32
    };
    (0..dims).map(&mut middle).collect()
}

/// Where a vector goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Placed {
    /// A point of the rotated space and an upper limit of its distance to the exact one.
    Point { y: Vec<f32>, slop: f64 },
    /// Too large to compute with, or too small.
    Boundless,
    /// No distance to anything: a zero vector under cosine.
    Unordered,
}

/// Geometry of one index.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    pub options: Options,
    pub rotation: Rotation,
    /// Of the rotated space; empty: the origin.
    pub frame: Vec<f32>,
    pub layout: Layout,
    pub directory_layout: Layout,
    pub kernels: &'static Kernels,
}

impl Space {
    pub fn new(options: Options, frame: Vec<f32>) -> Space {
        let dims = options.padded();
        Space {
            options,
            rotation: Rotation::new(options.dimensions, options.seed),
            frame,
            layout: Layout::new(dims, options.filter_columns, options.refinement_bits()),
            directory_layout: Layout::new(dims, DIRECTORY_WORDS, CENTROID_BITS),
            kernels: kernels(),
        }
    }

    /// Dimensions of the rotated space.
    pub fn dims(&self) -> usize {
        self.layout.dims
    }

    /// The same geometry around another frame.
    pub fn with_frame(&self, frame: Vec<f32>) -> Space {
        Space {
            frame,
            ..self.clone()
        }
    }

    /// # Errors
    /// [`Error::Dimensions`].
    pub fn check_dimensions(&self, x: &[f32]) -> Result<()> {
        if x.len() == self.options.dimensions {
            return Ok(());
        }
        Err(Error::Dimensions {
            expected: self.options.dimensions,
            found: x.len(),
        })
    }

    /// # Errors
    /// [`Error::FilterColumns`].
    pub fn check_words(&self, words: &[u32]) -> Result<()> {
        if words.len() == self.options.filter_columns {
            return Ok(());
        }
        Err(Error::FilterColumns {
            expected: self.options.filter_columns,
            found: words.len(),
        })
    }

    /// Places a row.
    ///
    /// # Errors
    /// [`Error::Dimensions`].
    pub fn place(&self, x: &[f32]) -> Result<Placed> {
        self.check_dimensions(x)?;
        let (x, length) = match self.normalised(x) {
            Ok(x) => x,
            Err(placed) => return Ok(placed),
        };
        let mut y = self.rotation.apply(&x);
        for (y, m) in y.iter_mut().zip(&self.frame) {
            *y -= m;
        }
        let slop = self.slop(length) + U * norm(&y);
        Ok(Placed::Point { y, slop })
    }

    /// Rotates a query without the frame, for inner products; with an upper limit of the error.
    pub fn rotate(&self, x: &[f32]) -> (Vec<f32>, f64) {
        (self.rotation.apply(x), self.slop(norm(x)))
    }

    /// The vector as the metric sees it, and its norm; or why it has no place.
    pub fn normalised(&self, x: &[f32]) -> std::result::Result<(Vec<f32>, f64), Placed> {
        let length = norm(x);
        let least = match self.options.metric {
            Metric::L2 => 0.0,
            // What `f32` loses of subnormal numbers may be multiplied by a large norm.
            Metric::InnerProduct if length > 0.0 => 1e-30,
            Metric::InnerProduct => 0.0,
            Metric::Cosine if length == 0.0 => return Err(Placed::Unordered),
            // The operator squares in `f32`: what over- or underflows there has no distance we could bound.
            Metric::Cosine => 1e-15,
        };
        // NaN is in no range.
        if !(least..LARGEST_NORM).contains(&length) {
            return Err(Placed::Boundless);
        }
        if self.options.metric != Metric::Cosine {
            return Ok((x.to_vec(), length));
        }
        Ok((
            x.iter().map(|&x| (f64::from(x) / length) as f32).collect(),
            1.0,
        ))
    }

    /// Rotation and normalisation of a vector of this norm are off by at most so much.
    fn slop(&self, length: f64) -> f64 {
        (self.rotation.error() + 2.0 * U) * length * (1.0 + 1e-6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_huge_points_do_not_move_the_middle() {
        let points: Vec<f32> = (0..200)
            .flat_map(|i| match i % 10 {
                0 => [1e6, -1e9],
                _ => [5.0 + (i % 7) as f32, (i % 3) as f32 - 1.0],
            })
            .collect();
        let [x, y] = middle(&points, 2)[..] else {
            panic!("two dimensions")
        };
        assert!(
            (7.5..8.5).contains(&x) && (-0.5..0.5).contains(&y),
            "{x} {y}"
        );
        assert_eq!(middle(&[3.0, 4.0], 2), [3.0, 4.0]);
        assert_eq!(middle(&[], 2), [0.0, 0.0]);
    }
}
