//! The definition of every kernel, in plain Rust: element `i` is summed into lane `i % LANES`, and
//! the lanes are summed pairwise at the end. Products are rounded before they are added (no fused
//! multiply-add), so that a processor with wider registers runs the same operations on the same
//! numbers, and a distance is the same to the last bit on every machine: an index, a replica and an
//! expected output agree wherever they are.
//!
//! Also what runs on a processor without wider registers.

use std::array;

/// Sums kept in parallel. 32 keep both adders of an AVX2 processor busy through their latency, and
/// fit the registers of SSE2 and NEON.
pub(super) const LANES: usize = 32;

pub(super) type Lanes = [f32; LANES];

pub(super) fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    total(&mut fold(a, b, |sum, x, y| sum + (x - y) * (x - y)))
}

pub(super) fn inner_product(a: &[f32], b: &[f32]) -> f32 {
    total(&mut fold(a, b, |sum, x, y| sum + x * y))
}

pub(super) fn l1(a: &[f32], b: &[f32]) -> f32 {
    total(&mut fold(a, b, |sum, x, y| sum + (x - y).abs()))
}

pub(super) fn cosine_terms(a: &[f32], b: &[f32]) -> [f32; 3] {
    [
        inner_product(a, b),
        inner_product(a, a),
        inner_product(b, b),
    ]
}

/// Folds the pairs of two equally long slices into lanes. A tail is padded with zeros, which leave
/// every sum of this module as it is.
fn fold(a: &[f32], b: &[f32], step: impl Fn(f32, f32, f32) -> f32) -> Lanes {
    let (blocks_a, tail_a) = a.as_chunks::<LANES>();
    let (blocks_b, tail_b) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (x, y) in blocks_a.iter().zip(blocks_b) {
        sums = array::from_fn(|lane| step(sums[lane], x[lane], y[lane]));
    }
    for (sum, (x, y)) in sums.iter_mut().zip(tail_a.iter().zip(tail_b)) {
        *sum = step(*sum, *x, *y);
    }
    sums
}

/// The sum of all lanes: the upper half is added to the lower until one is left.
#[inline(always)]
pub(super) fn total(lanes: &mut [f32]) -> f32 {
    let mut half = lanes.len() / 2;
    while half > 0 {
        let (lower, upper) = lanes.split_at_mut(half);
        for (sum, other) in lower.iter_mut().zip(upper) {
            *sum += *other;
        }
        half /= 2;
    }
    lanes[0]
}
