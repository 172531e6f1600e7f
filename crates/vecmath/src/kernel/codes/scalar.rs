//! The kernels in plain Rust: the definition that the other levels are tested against.
//!
//! Sums run in 16 lanes and are then added, so that a sum over `n` elements is `n/16 + 15` deep; the
//! error bounds of the index count on that.

use super::{BoundTerms, LANES, SignGroups, Tables, quad};

pub(super) fn hadamard(x: &mut [f32]) {
    hadamard_from(1, x);
}

/// The stages of the transform from that which pairs elements `half` apart.
#[inline(always)]
pub(super) fn hadamard_from(mut half: usize, x: &mut [f32]) {
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

/// Added to a number from 0 to 2²², it leaves the nearest integer in the lowest bits.
const ROUNDING: f32 = (1 << 23) as f32;

pub(super) fn sign_tables(point: &[f32], scale: f32, low: &mut [u8], high: &mut [u8]) {
    let (low, _) = low.as_chunks_mut::<LANES>();
    let (high, _) = high.as_chunks_mut::<LANES>();
    let (fours, _) = point.as_chunks::<4>();
    let (pairs, _) = fours.as_chunks::<2>();
    for (pair, (low, high)) in pairs.iter().zip(low.iter_mut().zip(high)) {
        for (four, table) in pair.iter().zip([low, high]) {
            let four = four.map(|x| x * scale);
            let [a, b, c, d] = four.map(|x| x.min(0.0));
            let mut sums = [0.0 - ((a + b) + (c + d)); LANES];
            for (bit, x) in four.into_iter().enumerate() {
                for (subset, sum) in sums.iter_mut().enumerate() {
                    *sum += if subset >> bit & 1 == 1 { x } else { 0.0 };
                }
            }
            let most = f32::from(super::TABLE_MAX);
            *table = sums.map(|sum| (sum.clamp(0.0, most) + ROUNDING).to_bits() as u8);
        }
    }
}

pub(super) fn sign_bounds(
    groups: &SignGroups<'_>,
    tables: &Tables<'_>,
    terms: &BoundTerms,
    threshold: f32,
    chosen: &mut [u16],
    bounds: &mut [[f32; LANES]],
) -> f32 {
    let (constants, factors, radii) = (
        LANES * groups.columns,
        LANES * (groups.columns + 4),
        LANES * (groups.columns + 6),
    );
    let mut least = f32::INFINITY;
    let groups_in_turn = groups.bytes.chunks_exact(groups.stride);
    for (group, (chosen, bounds)) in groups_in_turn.zip(chosen.iter_mut().zip(bounds)) {
        if *chosen == 0 {
            continue;
        }
        let mut near = 0;
        for (lane, bound) in bounds.iter_mut().enumerate() {
            let mut sum = 0u32;
            for byte in 0..groups.columns {
                let code = usize::from(group[quad(byte, lane)]);
                sum += u32::from(tables.low[LANES * byte + (code & 15)])
                    + u32::from(tables.high[LANES * byte + (code >> 4)]);
            }
            let at = constants + 4 * lane;
            let constant =
                f32::from_le_bytes([group[at], group[at + 1], group[at + 2], group[at + 3]]);
            *bound = constant * terms.constant_weight + terms.base
                - bf16(&group[factors..], lane) * (sum as f32 * terms.gain + terms.offset)
                - bf16(&group[radii..], lane) * terms.spread;
            if *chosen >> lane & 1 == 1 {
                near |= u16::from(*bound <= threshold) << lane;
                if *bound > threshold {
                    least = least.min(*bound);
                }
            }
        }
        *chosen = near;
    }
    least
}

pub(super) fn matching(words: &[u8], values: &[u32], chosen: &mut [u16]) {
    for (words, chosen) in words.chunks_exact(4 * LANES).zip(chosen) {
        let (words, _) = words.as_chunks::<4>();
        *chosen &= words.iter().enumerate().fold(0, |mask, (lane, word)| {
            let is_one = values.contains(&u32::from_le_bytes(*word));
            mask | u16::from(is_one) << lane
        });
    }
}

pub(super) fn quad_products(quads: &[u8], row: &[i8], out: &mut [[i32; LANES]]) {
    for (quads, out) in quads.chunks_exact(LANES * row.len()).zip(out) {
        for (lane, sum) in out.iter_mut().enumerate() {
            *sum = row
                .iter()
                .enumerate()
                .map(|(i, &x)| i32::from(quads[quad(i, lane)]) * i32::from(x))
                .sum();
        }
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
