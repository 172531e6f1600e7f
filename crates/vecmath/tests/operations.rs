//! Arithmetic, sums and distances on vectors whose results are known exactly.

use lookbook_vecmath::{Error, arithmetic, distance, sums};

type ElementWise = fn(&[f32], &[f32], &mut [f32]) -> Result<(), Error>;

fn apply(operation: ElementWise, a: &[f32], b: &[f32]) -> Result<Vec<f32>, Error> {
    let mut result = vec![0.0; a.len()];
    operation(a, b, &mut result).map(|()| result)
}

fn scaled(a: &[f32], factor: f64) -> Result<Vec<f32>, Error> {
    let mut result = vec![0.0; a.len()];
    arithmetic::scale(a, factor, &mut result).map(|()| result)
}

#[test]
fn arithmetic_is_element_by_element() {
    let (a, b) = ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]);
    assert_eq!(apply(arithmetic::add, &a, &b), Ok(vec![5.0, 7.0, 9.0]));
    assert_eq!(
        apply(arithmetic::subtract, &a, &b),
        Ok(vec![-3.0, -3.0, -3.0])
    );
    assert_eq!(
        apply(arithmetic::multiply, &a, &b),
        Ok(vec![4.0, 10.0, 18.0])
    );
    assert_eq!(scaled(&a, 0.5), Ok(vec![0.5, 1.0, 1.5]));
    assert_eq!(scaled(&a, 0.0), Ok(vec![0.0, 0.0, 0.0]));
}

#[test]
fn results_out_of_range_are_refused() {
    assert_eq!(
        apply(arithmetic::add, &[3e38], &[3e38]),
        Err(Error::Overflow)
    );
    assert_eq!(
        apply(arithmetic::subtract, &[-3e38], &[3e38]),
        Err(Error::Overflow)
    );
    assert_eq!(
        apply(arithmetic::multiply, &[1e37], &[1e37]),
        Err(Error::Overflow)
    );
    assert_eq!(
        apply(arithmetic::multiply, &[1e-37], &[1e-37]),
        Err(Error::Underflow)
    );
    assert_eq!(apply(arithmetic::multiply, &[0.0], &[1e-37]), Ok(vec![0.0]));
    assert_eq!(scaled(&[1e38], 10.0), Err(Error::Overflow));
    assert_eq!(scaled(&[1e-38], 1e-10), Err(Error::Underflow));
    let (tiny, huge) = (f32::powi(2.0, -100), f64::powi(2.0, 130));
    assert_eq!(scaled(&[tiny], huge), Ok(vec![f32::powi(2.0, 30)]));
    assert_eq!(scaled(&[1.0], f64::NAN), Err(Error::NotANumber));
    assert_eq!(scaled(&[1.0], f64::INFINITY), Err(Error::Infinite));
}

#[test]
fn normalising_keeps_the_direction_and_the_zero_vector() {
    let normalised = |a: &[f32]| {
        let mut result = vec![9.0; a.len()];
        arithmetic::l2_normalize(a, &mut result).map(|()| result)
    };
    assert_eq!(normalised(&[3.0, 4.0]), Ok(vec![0.6, 0.8]));
    assert_eq!(normalised(&[0.0, 0.1]), Ok(vec![0.0, 1.0]));
    assert_eq!(normalised(&[0.0, 0.0]), Ok(vec![0.0, 0.0]));
    assert_eq!(normalised(&[3e38]), Ok(vec![1.0]));
    assert_eq!(normalised(&[1e-45]), Ok(vec![1.0]));
}

#[test]
fn distances_of_known_vectors_are_exact() {
    assert_eq!(distance::l2(&[0.0, 0.0], &[3.0, 4.0]), Ok(5.0));
    assert_eq!(distance::l2_squared(&[0.0, 0.0], &[3.0, 4.0]), Ok(25.0));
    assert_eq!(distance::l1(&[0.0, 0.0], &[3.0, -4.0]), Ok(7.0));
    assert_eq!(distance::inner_product(&[1.0, 2.0], &[3.0, 4.0]), Ok(11.0));
    assert_eq!(distance::cosine(&[1.0, 2.0], &[2.0, 4.0]), Ok(0.0));
    assert_eq!(distance::cosine(&[1.0, 0.0], &[0.0, 2.0]), Ok(1.0));
    assert_eq!(distance::cosine(&[1.0, 1.0], &[-1.0, -1.0]), Ok(2.0));
    assert_eq!(distance::norm(&[3.0, 4.0]), 5.0);
    assert_eq!(distance::norm(&[3e37, 4e37]) as f32, 5e37);
    let ninths: Vec<f32> = (1..=9u8).map(f32::from).collect();
    assert_eq!(distance::inner_product(&[1.0; 9], &ninths), Ok(45.0));
}

#[test]
fn a_distance_may_be_infinite_or_undefined() {
    assert_eq!(distance::l2(&[3e38], &[-3e38]), Ok(f64::INFINITY));
    assert_eq!(distance::inner_product(&[3e38], &[3e38]), Ok(f64::INFINITY));
    let undefined = |distance: Result<f64, Error>| distance.is_ok_and(f64::is_nan);
    assert!(undefined(distance::cosine(&[1.0, 2.0], &[0.0, 0.0])));
    assert!(undefined(distance::cosine(&[3e38], &[3e38])));
}

#[test]
fn distances_between_different_dimensions_are_refused() {
    let error = Error::DifferentDimensions { left: 2, right: 1 };
    for distance in [
        distance::l2,
        distance::l1,
        distance::cosine,
        distance::inner_product,
    ] {
        assert_eq!(distance(&[1.0, 2.0], &[3.0]), Err(error.clone()));
    }
    assert_eq!(error.to_string(), "different embedding dimensions 2 and 1");
}

#[test]
fn sums_and_means_are_kept_in_double_precision() {
    let mut totals = [0.0, 0.0];
    sums::accumulate(&mut totals, &[3e38, 1.0]).expect("two dimensions");
    sums::accumulate(&mut totals, &[3e38, 2.0]).expect("two dimensions");
    let mut result = [0.0f32; 2];
    assert_eq!(sums::divide(&totals, 2.0, &mut result), Ok(()));
    assert_eq!(result, [3e38, 1.5]);
    assert_eq!(
        sums::divide(&totals, 1.0, &mut result),
        Err(Error::Overflow)
    );
    let error = Error::UnexpectedDimensions {
        expected: 2,
        found: 1,
    };
    assert_eq!(sums::accumulate(&mut totals, &[1.0]), Err(error));
    assert_eq!(
        sums::add(&mut [f64::MAX], &[f64::MAX]),
        Err(Error::Overflow)
    );
}
