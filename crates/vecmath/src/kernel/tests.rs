//! Every level gives what the definition gives, whatever the length and the numbers.

use super::{Kernels, Level, SCALAR};
use crate::distance;
use proptest::prelude::*;
use std::io::Write;

/// Two blocks and every tail, then lengths that embeddings have; under Miri, which interprets, one block and every tail.
fn lengths() -> impl Iterator<Item = usize> {
    let (most, long): (usize, &[usize]) = if cfg!(miri) {
        (66, &[])
    } else {
        (100, &[256, 512, 768, 784, 1536, 15_999, 16_000])
    };
    (0..=most).chain(long.iter().copied())
}

/// Numbers of all sizes, in no order: xorshift, so that every run sees the same.
fn numbers(seed: u32, length: usize) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..length)
        .map(|_| {
            let mantissa = next() as f32 / u32::MAX as f32 - 0.5;
            mantissa * f32::powi(2.0, (next() % 24) as i32 - 12)
        })
        .collect()
}

fn levels() -> Vec<Kernels> {
    Level::ALL.into_iter().filter_map(Kernels::at).collect()
}

#[test]
fn levels_that_this_processor_lacks_are_said() {
    for level in Level::ALL
        .into_iter()
        .filter(|level| Kernels::at(*level).is_none())
    {
        // Past the test runner, which swallows what a passing test prints.
        let _ = writeln!(
            std::io::stderr(),
            "NOT TESTED: this processor has no {level:?} kernels"
        );
    }
}

/// Equal to the last bit; any NaN equals any other.
fn same(x: f32, y: f32) -> bool {
    x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan()
}

fn assert_agrees(kernels: &Kernels, a: &[f32], b: &[f32]) {
    let (level, length) = (kernels.level(), a.len());
    let pairs = [
        (
            "l2_squared",
            kernels.l2_squared(a, b),
            SCALAR.l2_squared(a, b),
        ),
        (
            "inner_product",
            kernels.inner_product(a, b),
            SCALAR.inner_product(a, b),
        ),
        ("l1", kernels.l1(a, b), SCALAR.l1(a, b)),
    ];
    for (kernel, found, expected) in pairs {
        assert!(
            same(found, expected),
            "{kernel} at {level:?}, {length} elements: {found:e}, expected {expected:e}"
        );
    }
    let (found, expected) = (kernels.cosine_terms(a, b), SCALAR.cosine_terms(a, b));
    assert!(
        found.into_iter().zip(expected).all(|(x, y)| same(x, y)),
        "cosine_terms at {level:?}, {length} elements: {found:?}, expected {expected:?}"
    );
}

#[test]
fn every_level_equals_scalar_to_the_last_bit_at_every_tail_length() {
    for kernels in levels() {
        for length in lengths() {
            assert_agrees(&kernels, &numbers(1, length), &numbers(2, length));
        }
    }
}

#[test]
fn every_level_equals_scalar_at_any_alignment() {
    let (a, b) = (numbers(3, 200), numbers(4, 200));
    for kernels in levels() {
        for offset in 0..16 {
            assert_agrees(
                &kernels,
                &a[offset..offset + 100],
                &b[16 - offset..116 - offset],
            );
        }
    }
}

#[test]
fn every_level_overflows_where_scalar_does() {
    for kernels in levels() {
        for length in [1, 7, 33, 100] {
            let (large, small) = (vec![3e38; length], vec![-3e38; length]);
            assert_agrees(&kernels, &large, &small);
            assert_agrees(&kernels, &large, &large);
            assert_eq!(kernels.l2_squared(&large, &small), f32::INFINITY);
        }
    }
}

#[test]
fn scalar_is_near_the_sum_in_double_precision() {
    for length in lengths() {
        let (a, b) = (numbers(5, length), numbers(6, length));
        let pairs = || {
            a.iter()
                .zip(&b)
                .map(|(x, y)| (f64::from(*x), f64::from(*y)))
        };
        let squares: f64 = pairs().map(|(x, y)| (x - y) * (x - y)).sum();
        let absolutes: f64 = pairs().map(|(x, y)| (x - y).abs()).sum();
        let products: f64 = pairs().map(|(x, y)| x * y).sum();
        let magnitude: f64 = pairs().map(|(x, y)| (x * y).abs()).sum();
        // Each lane sums length/32 terms, then five times two lanes.
        let bound = (length as f64 / 32.0 + 8.0) * f64::from(f32::EPSILON);
        assert!((f64::from(SCALAR.l2_squared(&a, &b)) - squares).abs() <= bound * squares);
        assert!((f64::from(SCALAR.l1(&a, &b)) - absolutes).abs() <= bound * absolutes);
        assert!((f64::from(SCALAR.inner_product(&a, &b)) - products).abs() <= bound * magnitude);
    }
}

#[test]
fn the_fastest_level_is_active() {
    let fastest = levels().pop().map(|kernels| kernels.level());
    assert_eq!(fastest, Some(super::active().level()));
}

proptest! {
    #[test]
    fn every_level_equals_scalar_on_any_finite_numbers(
        pairs in prop::collection::vec((finite(), finite()), 1..150)
    ) {
        let (a, b): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        for kernels in levels() {
            assert_agrees(&kernels, &a, &b);
        }
    }

    #[test]
    fn distances_are_symmetric_and_none_to_itself(
        pairs in prop::collection::vec((-1e3f32..1e3, -1e3f32..1e3), 1..150)
    ) {
        let (a, b): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        prop_assert_eq!(distance::l2(&a, &b), distance::l2(&b, &a));
        prop_assert_eq!(distance::inner_product(&a, &b), distance::inner_product(&b, &a));
        prop_assert_eq!(distance::cosine(&a, &b), distance::cosine(&b, &a));
        prop_assert_eq!(distance::l2(&a, &a), Ok(0.0));
        prop_assert_eq!(distance::l1(&a, &a), Ok(0.0));
    }
}

fn finite() -> impl Strategy<Value = f32> {
    any::<f32>().prop_filter("finite", |x| x.is_finite())
}
