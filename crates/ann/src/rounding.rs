//! Arithmetic that errs on a known side.
//!
//! A bound that the executor checks must hold after every rounding on the way: of the rotation, of the
//! kernels' sums, and of the distance that the operator itself computes in `f32`. The constants here
//! are upper limits for those; `u` is half a unit in the last place of an `f32`.

/// Unit round-off of `f32`.
pub(crate) const U: f64 = 1.0 / (1u64 << 24) as f64;

/// A bf16 number.
pub(crate) fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The bf16 number nearest to a finite one that is not negative.
pub(crate) fn to_bf16(x: f32) -> u16 {
    (x.to_bits().saturating_add(0x8000) >> 16) as u16
}

/// The smallest bf16 number not below one that is not negative; infinity past the range.
pub(crate) fn to_bf16_up(x: f32) -> u16 {
    (x.to_bits().saturating_add(0xffff) >> 16).min(f32::INFINITY.to_bits() >> 16) as u16
}

/// The `f32` next above.
pub(crate) fn up(x: f64) -> f32 {
    let rounded = x as f32;
    if f64::from(rounded) < x {
        rounded.next_up()
    } else {
        rounded
    }
}

/// The `f32` next below.
pub(crate) fn down(x: f64) -> f32 {
    let rounded = x as f32;
    if f64::from(rounded) > x {
        rounded.next_down()
    } else {
        rounded
    }
}

/// Relative error of a sum of `dims` squares as the kernels form it: 16 or more lanes, so
/// `dims/16 + 15` additions deep, and two roundings for each term. Twice that, to be generous.
pub(crate) fn sum_error(dims: usize) -> f64 {
    (dims as f64 / 8.0 + 40.0) * U
}

/// Euclidean norm. Summed in lanes, so that one addition need not wait for another.
pub(crate) fn norm(x: &[f32]) -> f64 {
    const LANES: usize = 8;
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut sums = [0f64; LANES];
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    let rest = rest.iter().map(|&x| f64::from(x) * f64::from(x));
    sums.into_iter().chain(rest).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_the_side_it_says() {
        for bits in (0u32..0x7f7f_0000).step_by(99_991) {
            let x = f32::from_bits(bits);
            let (near, above) = (bf16(to_bf16(x)), bf16(to_bf16_up(x)));
            assert!(above >= x && above <= x * 1.01 + 1e-38, "{x} {above}");
            assert!((near - x).abs() <= x * 0.004 + 1e-38, "{x} {near}");
        }
        assert_eq!(bf16(to_bf16_up(f32::INFINITY)), f32::INFINITY);
        assert_eq!(bf16(to_bf16_up(f32::MAX)), f32::INFINITY);
        assert_eq!(to_bf16_up(0.0), 0);
    }

    #[test]
    fn f32_rounds_to_the_side_it_says() {
        for x in [0.1f64, -0.1, 1e-30, 12_345.678_9, -7.0] {
            assert!(f64::from(up(x)) >= x && f64::from(down(x)) <= x);
        }
    }
}
