//! The random rotation: spreads every vector evenly over the dimensions, so that one bit of each says
//! equally much.
//!
//! Three rounds of random signs and Walsh–Hadamard transforms. When the dimension is no power of two the
//! transform covers the largest power of two from the front and then from the back, and a Givens step
//! between the two halves mixes what they do not share (as the Kac walk of the RaBitQ library does).
//! Invariant: orthogonal up to [`Rotation::error`], and the same for ever for a seed and dimension.

use lookbook_vecmath::kernel::codes::{Kernels, kernels};

use crate::random::Random;
use crate::rounding::U;

const ROUNDS: usize = 3;

/// A rotation of vectors of `dims` dimensions, padded with zeros to a multiple of 16.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    dims: usize,
    padded: usize,
    block: usize,
    /// Sign bits, `passes · padded` of them.
    flips: Vec<u32>,
    kernels: &'static Kernels,
}

impl Rotation {
    pub fn new(dims: usize, seed: u64) -> Rotation {
        let padded = dims.next_multiple_of(16);
        let block = 1 << padded.ilog2();
        let passes = if block == padded { ROUNDS } else { 2 * ROUNDS };
        let mut random = Random::new(seed, 1);
        let mut flips = Vec::with_capacity(passes * padded);
        for _ in 0..passes * padded / 16 {
            let bits = random.next();
            flips.extend((0..16).map(|i| ((bits >> i) as u32 & 1) << 31));
        }
        Rotation {
            dims,
            padded,
            block,
            flips,
            kernels: kernels(),
        }
    }

    /// The rotated vector, padded. `x` has the dimensions of the rotation.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut y = Vec::with_capacity(self.padded);
        y.extend_from_slice(&x[..self.dims]);
        y.resize(self.padded, 0.0);
        let whole = self.block == self.padded;
        for (pass, flips) in self.flips.chunks_exact(self.padded).enumerate() {
            for (y, flip) in y.iter_mut().zip(flips) {
                *y = f32::from_bits(y.to_bits() ^ flip);
            }
            let from = if pass % 2 == 1 && !whole {
                self.padded - self.block
            } else {
                0
            };
            self.transform(&mut y[from..from + self.block]);
            if pass % 2 == 1 && !whole {
                mix_halves(&mut y);
            }
        }
        y
    }

    fn transform(&self, block: &mut [f32]) {
        self.kernels.hadamard(block);
        let scale = 1.0 / (self.block as f32).sqrt();
        block.iter_mut().for_each(|y| *y *= scale);
    }

    /// Upper limit of `‖computed − exact‖ / ‖x‖`: every stage rounds each number at most twice.
    pub fn error(&self) -> f64 {
        let stages = f64::from(self.block.ilog2()) + 4.0;
        2.0 * stages * (self.flips.len() / self.padded) as f64 * U
    }
}

fn mix_halves(y: &mut [f32]) {
    let half = y.len() / 2;
    let (front, back) = y.split_at_mut(half);
    for (a, b) in front.iter_mut().zip(back) {
        let scale = std::f32::consts::FRAC_1_SQRT_2;
        (*a, *b) = ((*a + *b) * scale, (*a - *b) * scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounding::norm;

    fn vector(random: &mut Random, dims: usize) -> Vec<f32> {
        (0..dims)
            .map(|_| (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0)
            .collect()
    }

    #[test]
    fn norms_and_distances_survive_the_rotation_within_the_stated_error() {
        let mut random = Random::new(7, 7);
        for dims in [1, 2, 3, 15, 16, 17, 100, 256, 300, 784, 1000, 1024, 16_000] {
            let rotation = Rotation::new(dims, 42);
            let (a, b) = (vector(&mut random, dims), vector(&mut random, dims));
            let difference: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
            let (ra, rb) = (rotation.apply(&a), rotation.apply(&b));
            let rotated: Vec<f32> = ra.iter().zip(&rb).map(|(a, b)| a - b).collect();
            let allowed = rotation.error() * (norm(&a) + norm(&b)) + 1e-7 * norm(&difference);
            assert!(
                (norm(&rotated) - norm(&difference)).abs() <= allowed,
                "{dims}"
            );
            assert_eq!(ra, Rotation::new(dims, 42).apply(&a));
            assert!(dims < 16 || ra != Rotation::new(dims, 43).apply(&a));
        }
    }

    #[test]
    fn a_single_dimension_is_spread_over_all() {
        for dims in [64, 256, 784, 1008, 1536] {
            let mut x = vec![0.0; dims];
            x[dims / 3] = 1.0;
            let y = Rotation::new(dims, 5).apply(&x);
            // The largest of n normal numbers is near √(2 ln n) standard deviations; twice that is rare.
            let largest = y.iter().fold(0f32, |most, y| most.max(y.abs()));
            let limit = 2.0 * (2.0 * (dims as f32).ln()).sqrt() / (dims as f32).sqrt();
            assert!(largest < limit, "{dims}: {largest} is not below {limit}");
        }
    }
}
