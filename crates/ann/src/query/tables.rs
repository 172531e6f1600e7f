//! Look-up tables for sign codes: `⟨p, b⟩` four dimensions at a time.

use lookbook_vecmath::kernel::codes::{Kernels, LANES, TABLE_MAX, Tables};

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
    pub fn new(kernels: &Kernels, point: &[f32], length: f32) -> SignTables {
        let (fours, _) = point.as_chunks::<4>();
        let (mut widest, mut least, mut total) = (0f32, 0f64, 0f64);
        for &[a, b, c, d] in fours {
            let wide = (a.abs() + b.abs()) + (c.abs() + d.abs());
            widest = if wide > widest { wide } else { widest };
            let sum = (a + b) + (c + d);
            total += f64::from(sum);
            least += f64::from(a.min(0.0) + b.min(0.0)) + f64::from(c.min(0.0) + d.min(0.0));
        }
        let step = (widest / f32::from(TABLE_MAX)).max(f32::MIN_POSITIVE);
        let bytes = 2 * point.len();
        let padded = bytes.next_multiple_of(4 * LANES);
        let (mut low, mut high) = (vec![0; padded], vec![0; padded]);
        kernels.sign_tables(point, 1.0 / step, &mut low[..bytes], &mut high[..bytes]);
        SignTables {
            low,
            high,
            gain: 2.0 * step,
            offset: (2.0 * least - total) as f32,
            // Half a step for each table, twice because ⟨p, b⟩ = 2·sum − total, and the rounding of the sums.
            error: fours.len() as f32 * step * 1.01 + (point.len() as f32).sqrt() * length * 1e-5,
        }
    }

    /// `⟨p, b⟩` for the signs of a code, up to `error`.
    pub fn product(&self, code: &[u8]) -> f32 {
        let entries = code.iter().enumerate().map(|(i, &byte)| {
            let low = self.low[LANES * i + usize::from(byte & 15)];
            let high = self.high[LANES * i + usize::from(byte >> 4)];
            u32::from(low) + u32::from(high)
        });
        entries.sum::<u32>() as f32 * self.gain + self.offset
    }

    pub fn views(&self) -> Tables<'_> {
        Tables {
            low: &self.low,
            high: &self.high,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use lookbook_vecmath::kernel::codes::kernels;

    #[test]
    fn sums_of_table_entries_are_within_the_stated_error() {
        let mut random = Random::new(3, 3);
        for dims in [16, 32, 48, 256, 784, 4_096] {
            for scale in [1e-20f32, 1.0, 1e15] {
                let point: Vec<f32> = (0..dims)
                    .map(|_| scale * ((random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0))
                    .collect();
                let length = crate::rounding::norm(&point) as f32;
                let tables = SignTables::new(kernels(), &point, length);
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
                let found = f64::from(tables.product(&code));
                assert!(
                    (found - exact).abs() <= f64::from(tables.error),
                    "{dims} {scale}"
                );
            }
        }
    }
}
