//! Look-up tables for sign codes: `⟨p, b⟩` four dimensions at a time.

use lookbook_vecmath::kernel::codes::{LANES, TABLE_MAX, Tables};

/// Added to a number from 0 to 2²², it leaves the nearest integer in the lowest bits.
const ROUNDING: f32 = (1 << 23) as f32;

/// Tables of one point: for every four dimensions the sum over each subset, in steps from the smallest.
#[derive(Debug)]
pub(super) struct SignTables {
    low: Vec<u8>,
    high: Vec<u8>,
    /// What one step of a sum stands for, and a sum of zero.
    pub gain: f32,
    pub offset: f32,
    /// Upper limit of what `gain·sum + offset` is off by.
    pub error: f32,
}

impl SignTables {
    pub fn new(point: &[f32], length: f32) -> SignTables {
        let (fours, _) = point.as_chunks::<4>();
        let widest = fours
            .iter()
            .map(|four| four.iter().map(|x| x.abs()).sum::<f32>())
            .fold(0f32, f32::max);
        let step = (widest / f32::from(TABLE_MAX)).max(f32::MIN_POSITIVE);
        let inverse = 1.0 / step;
        let bytes = (2 * point.len()).next_multiple_of(4 * LANES);
        let mut tables = SignTables {
            low: vec![0; bytes],
            high: vec![0; bytes],
            gain: 2.0 * step,
            offset: 0.0,
            // Half a step for each table, twice because ⟨p, b⟩ = 2·sum − total, and the rounding of the sums.
            error: fours.len() as f32 * step * 1.01 + (point.len() as f32).sqrt() * length * 1e-5,
        };
        let (low, _) = tables.low.as_chunks_mut::<LANES>();
        let (high, _) = tables.high.as_chunks_mut::<LANES>();
        let (mut least, mut total) = (0f64, 0f64);
        let (pairs, _) = fours.as_chunks::<2>();
        for (pair, (low, high)) in pairs.iter().zip(low.iter_mut().zip(high)) {
            for (&four, table) in pair.iter().zip([low, high]) {
                let smallest: f32 = four.iter().map(|x| x.min(0.0)).sum();
                least += f64::from(smallest);
                total += f64::from(four.iter().sum::<f32>());
                *table = quantised(four.map(|x| x * inverse), -smallest * inverse);
            }
        }
        tables.offset = (2.0 * least - total) as f32;
        tables
    }

    pub fn views(&self) -> Tables<'_> {
        Tables {
            low: &self.low,
            high: &self.high,
        }
    }
}

/// `base` and the sum over each subset of `four`, rounded.
#[inline]
fn quantised(four: [f32; 4], base: f32) -> [u8; LANES] {
    let mut sums = [base; LANES];
    for (bit, x) in four.into_iter().enumerate() {
        for (subset, sum) in sums.iter_mut().enumerate() {
            *sum += if subset >> bit & 1 == 1 { x } else { 0.0 };
        }
    }
    sums.map(|sum| (sum.clamp(0.0, f32::from(TABLE_MAX)) + ROUNDING).to_bits() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn sums_of_table_entries_are_within_the_stated_error() {
        let mut random = Random::new(3, 3);
        for dims in [16, 32, 48, 256, 784, 4_096] {
            for scale in [1e-20f32, 1.0, 1e15] {
                let point: Vec<f32> = (0..dims)
                    .map(|_| scale * ((random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0))
                    .collect();
                let length = crate::rounding::norm(&point) as f32;
                let tables = SignTables::new(&point, length);
                let code: Vec<u8> = (0..dims / 8).map(|_| random.next() as u8).collect();
                let exact: f64 = (0..dims)
                    .map(|i| {
                        let sign = if code[i / 8] >> (i % 8) & 1 == 1 {
                            1.0
                        } else {
                            -1.0
                        };
                        sign * f64::from(point[i])
                    })
                    .sum();
                let sum: u32 = code
                    .iter()
                    .enumerate()
                    .map(|(i, &byte)| {
                        let low = tables.low[LANES * i + usize::from(byte & 15)];
                        let high = tables.high[LANES * i + usize::from(byte >> 4)];
                        u32::from(low) + u32::from(high)
                    })
                    .sum();
                let found = f64::from(sum as f32 * tables.gain + tables.offset);
                assert!(
                    (found - exact).abs() <= f64::from(tables.error),
                    "{dims} {scale}"
                );
            }
        }
    }
}
