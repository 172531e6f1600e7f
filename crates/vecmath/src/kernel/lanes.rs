//! The definition of every kernel, in plain Rust: element `i` is summed into lane `i % LANES`, and
//! the lanes are summed pairwise at the end. Products are rounded before they are added (no fused
//! multiply-add), so that a processor with wider registers runs the same operations on the same
//! numbers and the result is the same to the last bit on every machine.
//!
//! The loops over [`LANES`] become vector instructions of whatever level the caller is compiled
//! for. Measured on 784 elements in the first-level cache: 32 lanes keep the adders of AVX2 busy
//! and half those of AVX-512, more lanes would spill the registers of SSE2 and NEON.

use std::array;

/// Sums kept in parallel.
pub(super) const LANES: usize = 32;

type Lanes = [f32; LANES];

#[inline(always)]
pub(super) fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    total(fold(a, b, |sum, x, y| {
        let difference = x - y;
        sum + difference * difference
    }))
}

#[inline(always)]
pub(super) fn inner_product(a: &[f32], b: &[f32]) -> f32 {
    total(fold(a, b, |sum, x, y| sum + x * y))
}

#[inline(always)]
pub(super) fn l1(a: &[f32], b: &[f32]) -> f32 {
    total(fold(a, b, |sum, x, y| sum + (x - y).abs()))
}

/// `a·b`, `a·a` and `b·b`.
#[inline(always)]
pub(super) fn cosine_terms(a: &[f32], b: &[f32]) -> [f32; 3] {
    [
        inner_product(a, b),
        inner_product(a, a),
        inner_product(b, b),
    ]
}

/// `a·a` in double precision.
#[inline(always)]
pub(super) fn norm_squared(a: &[f32]) -> f64 {
    const WIDE: usize = LANES / 2;
    let (blocks, tail) = a.as_chunks::<WIDE>();
    let mut sums = [0.0f64; WIDE];
    let mut add = |block: &[f32; WIDE]| {
        for (sum, x) in sums.iter_mut().zip(block) {
            *sum += f64::from(*x) * f64::from(*x);
        }
    };
    blocks.iter().for_each(&mut add);
    if !tail.is_empty() {
        add(&padded(tail));
    }
    sums.iter().sum()
}

/// Folds the pairs of two equally long slices into lanes. A tail is padded with zeros, which leave
/// every sum of this module as it is.
#[inline(always)]
fn fold(a: &[f32], b: &[f32], step: impl Fn(f32, f32, f32) -> f32) -> Lanes {
    let (blocks_a, tail_a) = a.as_chunks::<LANES>();
    let (blocks_b, tail_b) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (x, y) in blocks_a.iter().zip(blocks_b) {
        sums = array::from_fn(|lane| step(sums[lane], x[lane], y[lane]));
    }
    if !tail_a.is_empty() {
        let (x, y): (Lanes, Lanes) = (padded(tail_a), padded(tail_b));
        sums = array::from_fn(|lane| step(sums[lane], x[lane], y[lane]));
    }
    sums
}

#[inline(always)]
fn padded<const N: usize>(tail: &[f32]) -> [f32; N] {
    let mut block = [0.0; N];
    block[..tail.len()].copy_from_slice(tail);
    block
}

#[inline(always)]
fn total(mut sums: Lanes) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}
