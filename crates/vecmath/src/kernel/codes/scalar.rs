//! The kernels in plain Rust: the definition that the other levels are tested against.
//!
//! Sums run in 16 lanes and are then added, so that a sum over `n` elements is `n/16 + 15` deep; the
//! error bounds of the index count on that.

use super::{BoundTerms, LANES, SignGroup, Tables};

#[inline(always)]
pub(super) fn hadamard(x: &mut [f32]) {
    let mut half = 1;
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

pub(super) fn sign_bounds(
    group: &SignGroup<'_>,
    tables: &Tables<'_>,
    terms: &BoundTerms,
    bounds: &mut [f32; LANES],
) {
    let mut sums = [0u32; LANES];
    let columns = group.codes.chunks_exact(LANES);
    let tables = tables
        .low
        .chunks_exact(LANES)
        .zip(tables.high.chunks_exact(LANES));
    for (column, (low, high)) in columns.zip(tables) {
        for (sum, &code) in sums.iter_mut().zip(column) {
            let (low, high) = (low[usize::from(code & 15)], high[usize::from(code >> 4)]);
            *sum += u32::from(low) + u32::from(high);
        }
    }
    for (lane, bound) in bounds.iter_mut().enumerate() {
        let constant = f32::from_le_bytes([
            group.constants[4 * lane],
            group.constants[4 * lane + 1],
            group.constants[4 * lane + 2],
            group.constants[4 * lane + 3],
        ]);
        let product = sums[lane] as f32 * terms.gain + terms.offset;
        *bound = constant * terms.constant_weight + terms.base
            - bf16(group.factors, lane) * product
            - bf16(group.radii, lane) * terms.spread;
    }
}

fn bf16(column: &[u8], lane: usize) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes([column[2 * lane], column[2 * lane + 1]])) << 16)
}

pub(super) fn unpack_eight(bytes: &[u8], bits: u32) -> [u8; 8] {
    let word = bytes
        .iter()
        .rev()
        .fold(0u64, |word, &byte| word << 8 | u64::from(byte));
    let mask = (1u64 << bits) - 1;
    std::array::from_fn(|i| (word >> (i as u32 * bits) & mask) as u8)
}

pub(super) fn squared_distance(x: &[f32], packed: &[u8], bits: u32, step: f32) -> f32 {
    lanes(x, packed, bits, |x, centred| {
        let difference = x - step * centred;
        difference * difference
    })
}

pub(super) fn dot(x: &[f32], packed: &[u8], bits: u32) -> f32 {
    lanes(x, packed, bits, |x, centred| x * centred)
}

fn lanes(x: &[f32], packed: &[u8], bits: u32, term: impl Fn(f32, f32) -> f32) -> f32 {
    let middle = ((1u32 << bits) - 1) as f32 / 2.0;
    let mut sums = [0f32; LANES];
    let bytes = bits as usize;
    for (x, packed) in x.chunks_exact(LANES).zip(packed.chunks_exact(2 * bytes)) {
        let codes = [
            unpack_eight(&packed[..bytes], bits),
            unpack_eight(&packed[bytes..], bits),
        ];
        for ((sum, &x), &code) in sums.iter_mut().zip(x).zip(codes.as_flattened()) {
            *sum += term(x, f32::from(code) - middle);
        }
    }
    sums.iter().sum()
}

pub(super) fn dot_panel(rows: &[f32], panel: &[f32], dims: usize, out: &mut [[f32; LANES]]) {
    for (row, out) in rows.chunks_exact(dims).zip(out) {
        *out = [0.0; LANES];
        for (&value, column) in row.iter().zip(panel.chunks_exact(LANES)) {
            for (sum, &weight) in out.iter_mut().zip(column) {
                *sum += value * weight;
            }
        }
    }
}
