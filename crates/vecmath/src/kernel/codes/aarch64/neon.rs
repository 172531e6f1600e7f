//! The kernels on NEON.
//!
//! Every function may be called only where that feature exists, with lengths as [`super::super`]
//! states them. None needs an extension of it (dot products, bf16): every 64-bit ARM runs them.

use std::arch::aarch64::*;

use super::super::{BoundTerms, LANES, SignGroups, TABLE_MAX, Tables, scalar};

/// Table sums of two bytes are at most 254: 257 of them fit 16 bits. A step adds four to each word.
const CHUNK: usize = 64 * 64;

/// The stages of the scalar transform in their order, the first of them in registers.
#[target_feature(enable = "neon")]
pub(super) unsafe fn hadamard(x: &mut [f32]) {
    let block = match x.len() {
        ..4 => return scalar::hadamard(x),
        4 => hadamard_blocks::<1>(x),
        8 => hadamard_blocks::<2>(x),
        16 => hadamard_blocks::<4>(x),
        32 => hadamard_blocks::<8>(x),
        _ => hadamard_blocks::<16>(x),
    };
    scalar::hadamard_from(block, x);
}

/// Transforms blocks of `4·N` elements; gives their length.
#[target_feature(enable = "neon")]
fn hadamard_blocks<const N: usize>(x: &mut [f32]) -> usize {
    // Sums of pairs, and differences in the lanes where the partner comes first.
    let butterfly = |x, swapped, minus| {
        let negated = veorq_u32(vreinterpretq_u32_f32(x), minus);
        vaddq_f32(swapped, vreinterpretq_f32_u32(negated))
    };
    const MINUS: u32 = 1 << 31;
    let (odd, upper) = (words([0, MINUS, 0, MINUS]), words([0, 0, MINUS, MINUS]));
    let (fours, _) = x.as_chunks_mut::<4>();
    for block in fours.chunks_exact_mut(N) {
        let mut rows = [vdupq_n_f32(0.0); N];
        for (row, four) in rows.iter_mut().zip(block.iter()) {
            let loaded = floats(four);
            let ones = butterfly(loaded, vrev64q_f32(loaded), odd);
            *row = butterfly(ones, vextq_f32::<2>(ones, ones), upper);
        }
        let mut half = 1;
        while half < N {
            for i in 0..N {
                if i & half == 0 {
                    let (a, b) = (rows[i], rows[i + half]);
                    (rows[i], rows[i + half]) = (vaddq_f32(a, b), vsubq_f32(a, b));
                }
            }
            half *= 2;
        }
        for (row, four) in rows.into_iter().zip(block) {
            store(four, row);
        }
    }
    4 * N
}

/// See [`Kernels::sign_tables`](super::super::Kernels::sign_tables).
#[target_feature(enable = "neon")]
pub(super) unsafe fn sign_tables(point: &[f32], scale: f32, low: &mut [u8], high: &mut [u8]) {
    let (low, _) = low.as_chunks_mut::<LANES>();
    let (high, _) = high.as_chunks_mut::<LANES>();
    let (fours, _) = point.as_chunks::<4>();
    let (pairs, _) = fours.as_chunks::<2>();
    for (pair, (low, high)) in pairs.iter().zip(low.iter_mut().zip(high)) {
        for (four, table) in pair.iter().zip([low, high]) {
            let four = four.map(|x| x * scale);
            let [a, b, c, d] = four.map(|x| x.min(0.0));
            let base = vdupq_n_f32(0.0 - ((a + b) + (c + d)));
            let [a, b, c, d] = four;
            // A lane's place says which of the first two elements its subset has, the register's which of the others.
            let none = vaddq_f32(base, floats(&[0.0, a, 0.0, a]));
            let none = vaddq_f32(none, floats(&[0.0, 0.0, b, b]));
            let third = vaddq_f32(none, vdupq_n_f32(c));
            let fourth = vdupq_n_f32(d);
            let sums = [
                none,
                third,
                vaddq_f32(none, fourth),
                vaddq_f32(third, fourth),
            ];
            let most = vdupq_n_f32(f32::from(TABLE_MAX));
            // To the nearest integer, ties to even, and never below zero.
            let [p, q, r, s] = sums.map(|sum| vcvtnq_u32_f32(vminq_f32(sum, most)));
            let first = vmovn_high_u32(vmovn_u32(p), q);
            let last = vmovn_high_u32(vmovn_u32(r), s);
            let bytes = vmovn_high_u16(vmovn_u16(first), last);
            // SAFETY: a table has 16 bytes.
            unsafe { vst1q_u8(table.as_mut_ptr(), bytes) };
        }
    }
}

#[target_feature(enable = "neon")]
pub(super) unsafe fn sign_bounds(
    groups: &SignGroups<'_>,
    tables: &Tables<'_>,
    terms: &BoundTerms,
    threshold: f32,
    chosen: &mut [u16],
    bounds: &mut [[f32; LANES]],
) -> f32 {
    let (limit, infinity) = (vdupq_n_f32(threshold), vdupq_n_f32(f32::INFINITY));
    let mut least = infinity;
    let groups_in_turn = groups.bytes.chunks_exact(groups.stride);
    for (group, (chosen, bounds)) in groups_in_turn.zip(chosen.iter_mut().zip(bounds)) {
        if *chosen == 0 {
            continue;
        }
        let (codes, factors) = group.split_at(LANES * groups.columns);
        let mut sums = [vdupq_n_u32(0); 4];
        let tables = tables.low.chunks(CHUNK).zip(tables.high.chunks(CHUNK));
        for (codes, (low, high)) in codes.chunks(CHUNK).zip(tables) {
            let [first, last] = table_sums(codes, low, high);
            sums[0] = vaddw_u16(sums[0], vget_low_u16(first));
            sums[1] = vaddw_high_u16(sums[1], first);
            sums[2] = vaddw_u16(sums[2], vget_low_u16(last));
            sums[3] = vaddw_high_u16(sums[3], last);
        }
        // Behind the codes a group has 128 bytes more.
        let (sixteens, _) = factors.as_chunks::<16>();
        let [c0, c1, c2, c3, f0, f1, r0, r1, ..] = sixteens else {
            unreachable!("`Kernels::sign_bounds` checked the stride")
        };
        let constants = [c0, c1, c2, c3].map(|column| vreinterpretq_f32_u8(bytes(column)));
        let (factors, radii) = (bf16(f0, f1), bf16(r0, r1));
        let all_chosen = vdupq_n_u32(u32::from(*chosen));
        let mut near = vdupq_n_u32(0);
        let (quarters, _) = bounds.as_chunks_mut::<4>();
        for (i, quarter) in quarters.iter_mut().enumerate() {
            let product = vfmaq_n_f32(
                vdupq_n_f32(terms.offset),
                vcvtq_f32_u32(sums[i]),
                terms.gain,
            );
            let bound = vfmaq_n_f32(vdupq_n_f32(terms.base), constants[i], terms.constant_weight);
            let bound = vfmsq_f32(bound, factors[i], product);
            let bound = vfmsq_n_f32(bound, radii[i], terms.spread);
            store(quarter, bound);
            let chosen = vtstq_u32(all_chosen, lane_bits(i));
            let far = vandq_u32(vcgtq_f32(bound, limit), chosen);
            least = vminnmq_f32(least, vbslq_f32(far, bound, infinity));
            let is_near = vandq_u32(vcleq_f32(bound, limit), chosen);
            near = vorrq_u32(near, vandq_u32(is_near, lane_bits(i)));
        }
        *chosen = vaddvq_u32(near) as u16;
    }
    vminnmvq_f32(least)
}

/// The sums of 16 codes over at most 256 byte columns, in order.
#[inline]
#[target_feature(enable = "neon")]
fn table_sums(codes: &[u8], low: &[u8], high: &[u8]) -> [uint16x8_t; 2] {
    let nibble = vdupq_n_u8(15);
    let mut sums = [vdupq_n_u16(0); 2];
    let (codes, _) = codes.as_chunks::<64>();
    let (low, _) = low.as_chunks::<64>();
    let (high, _) = high.as_chunks::<64>();
    for (codes, (low, high)) in codes.iter().zip(low.iter().zip(high)) {
        // SAFETY: all three have 64 bytes. Loaded by fours, quads fall apart into four columns.
        let (columns, low, high) = unsafe {
            (
                vld4q_u8(codes.as_ptr()),
                vld1q_u8_x4(low.as_ptr()),
                vld1q_u8_x4(high.as_ptr()),
            )
        };
        for (code, low, high) in [
            (columns.0, low.0, high.0),
            (columns.1, low.1, high.1),
            (columns.2, low.2, high.2),
            (columns.3, low.3, high.3),
        ] {
            let lower = vqtbl1q_u8(low, vandq_u8(code, nibble));
            let sum = vaddq_u8(lower, vqtbl1q_u8(high, vshrq_n_u8::<4>(code)));
            sums[0] = vaddw_u8(sums[0], vget_low_u8(sum));
            sums[1] = vaddw_high_u8(sums[1], sum);
        }
    }
    sums
}

/// See [`Kernels::matching`](super::super::Kernels::matching).
#[target_feature(enable = "neon")]
pub(super) unsafe fn matching(words: &[u8], values: &[u32], chosen: &mut [u16]) {
    let (sixteens, _) = words.as_chunks::<16>();
    let (groups, _) = sixteens.as_chunks::<4>();
    for (group, chosen) in groups.iter().zip(chosen) {
        let mut mask = vdupq_n_u32(0);
        for (i, sixteen) in group.iter().enumerate() {
            let words = vreinterpretq_u32_u8(bytes(sixteen));
            let equal = values.iter().fold(vdupq_n_u32(0), |equal, &value| {
                vorrq_u32(equal, vceqq_u32(words, vdupq_n_u32(value)))
            });
            mask = vorrq_u32(mask, vandq_u32(equal, lane_bits(i)));
        }
        *chosen &= vaddvq_u32(mask) as u16;
    }
}

/// See [`Kernels::quad_products`](super::super::Kernels::quad_products).
#[target_feature(enable = "neon")]
pub(super) unsafe fn quad_products(quads: &[u8], row: &[i8], out: &mut [[i32; LANES]]) {
    let (row, _) = row.as_chunks::<4>();
    let (sixteens, _) = quads.as_chunks::<16>();
    let (quads, _) = sixteens.as_chunks::<4>();
    for (quads, out) in quads.chunks_exact(row.len()).zip(out) {
        let mut sums = [vdupq_n_s32(0); 4];
        for (quad, four) in quads.iter().zip(row) {
            let four = vdupq_n_s32(i32::from_ne_bytes(four.map(|x| x as u8)));
            let four = vreinterpretq_s8_s32(four);
            for (sum, rows) in sums.iter_mut().zip(quad) {
                let rows = vreinterpretq_s8_u8(bytes(rows));
                let first = vmull_s8(vget_low_s8(rows), vget_low_s8(four));
                // Two products of at most 127² each fit 16 bits.
                let pairs = vpaddq_s16(first, vmull_high_s8(rows, four));
                *sum = vpadalq_s16(*sum, pairs);
            }
        }
        let (quarters, _) = out.as_chunks_mut::<4>();
        for (quarter, sum) in quarters.iter_mut().zip(sums) {
            // SAFETY: a quarter has four elements.
            unsafe { vst1q_s32(quarter.as_mut_ptr(), sum) };
        }
    }
}

/// The sum over packed codes: squared differences if `DISTANCE`, else products.
#[target_feature(enable = "neon")]
pub(super) unsafe fn packed<const DISTANCE: bool>(
    x: &[f32],
    packed: &[u8],
    bits: u32,
    step: f32,
) -> f32 {
    let per_eight = bits as usize;
    let middle = vdupq_n_f32(((1u32 << bits) - 1) as f32 / 2.0);
    let step = vdupq_n_f32(step);
    // A code lies in two bytes; both are taken to a word of its own, and what is below it shifted out.
    let two_bytes = |i: usize| (i / 2 * per_eight / 8 + i % 2) as u8;
    let first = bytes(&std::array::from_fn(two_bytes));
    let last = vaddq_u8(first, vdupq_n_u8(bits as u8));
    let down: [i16; 8] = std::array::from_fn(|i| -((i * per_eight % 8) as i16));
    // SAFETY: the array has eight elements.
    let down = unsafe { vld1q_s16(down.as_ptr()) };
    let low_bits = vdupq_n_u16((1 << bits) - 1);
    let mut sums = [vdupq_n_f32(0.0); 4];
    let (x, _) = x.as_chunks::<4>();
    let (x, _) = x.as_chunks::<4>();
    for (i, x) in x.iter().enumerate() {
        let rest = &packed[2 * per_eight * i..];
        let codes = match rest.first_chunk() {
            Some(sixteen) => bytes(sixteen),
            None => {
                let mut sixteen = [0; 16];
                sixteen[..rest.len()].copy_from_slice(rest);
                bytes(&sixteen)
            }
        };
        let [first, last] = [first, last].map(|two_bytes| {
            let words = vreinterpretq_u16_u8(vqtbl1q_u8(codes, two_bytes));
            vandq_u16(vshlq_u16(words, down), low_bits)
        });
        let quarters = [
            vmovl_u16(vget_low_u16(first)),
            vmovl_high_u16(first),
            vmovl_u16(vget_low_u16(last)),
            vmovl_high_u16(last),
        ];
        for ((x, quarter), sum) in x.iter().zip(quarters).zip(&mut sums) {
            let centred = vsubq_f32(vcvtq_f32_u32(quarter), middle);
            *sum = if DISTANCE {
                let difference = vfmsq_f32(floats(x), step, centred);
                vfmaq_f32(*sum, difference, difference)
            } else {
                vfmaq_f32(*sum, floats(x), centred)
            };
        }
    }
    vaddvq_f32(vaddq_f32(
        vaddq_f32(sums[0], sums[1]),
        vaddq_f32(sums[2], sums[3]),
    ))
}

#[target_feature(enable = "neon")]
pub(super) unsafe fn dot_panel(rows: &[f32], panel: &[f32], dims: usize, out: &mut [[f32; LANES]]) {
    let (panel, _) = panel.as_chunks::<LANES>();
    let mut out = out.chunks_exact_mut(4);
    let mut rows = rows.chunks_exact(4 * dims);
    for (rows, out) in rows.by_ref().zip(out.by_ref()) {
        // SAFETY: four rows of `dims` elements, a panel of `dims` columns.
        unsafe { block::<4>(rows, panel, out) };
    }
    for (row, out) in rows
        .remainder()
        .chunks_exact(dims)
        .zip(out.into_remainder())
    {
        // SAFETY: one row of `dims` elements, a panel of `dims` columns.
        unsafe { block::<1>(row, panel, std::slice::from_mut(out)) };
    }
}

/// `R` rows, each as long as the panel.
#[target_feature(enable = "neon")]
unsafe fn block<const R: usize>(rows: &[f32], panel: &[[f32; LANES]], out: &mut [[f32; LANES]]) {
    let mut sums = [[vdupq_n_f32(0.0); 4]; R];
    for (d, column) in panel.iter().enumerate() {
        let (quarters, _) = column.as_chunks::<4>();
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `d` is below the panel's length; the caller states that of the rows.
            let value = unsafe { *rows.get_unchecked(r * panel.len() + d) };
            for (sum, quarter) in sums.iter_mut().zip(quarters) {
                *sum = vfmaq_n_f32(*sum, floats(quarter), value);
            }
        }
    }
    for (sums, out) in sums.into_iter().zip(out) {
        let (quarters, _) = out.as_chunks_mut::<4>();
        for (quarter, sum) in quarters.iter_mut().zip(sums) {
            store(quarter, sum);
        }
    }
}

/// The bits of a mask of 16 that belong to the lanes of register `i` of four.
#[inline]
#[target_feature(enable = "neon")]
fn lane_bits(i: usize) -> uint32x4_t {
    words([1, 2, 4, 8].map(|bit: u32| bit << (4 * i)))
}

/// Sixteen bf16 numbers.
#[inline]
#[target_feature(enable = "neon")]
fn bf16(first: &[u8; 16], last: &[u8; 16]) -> [float32x4_t; 4] {
    let [first, last] = [first, last].map(|half| vreinterpretq_u16_u8(bytes(half)));
    [
        vshll_n_u16::<16>(vget_low_u16(first)),
        vshll_high_n_u16::<16>(first),
        vshll_n_u16::<16>(vget_low_u16(last)),
        vshll_high_n_u16::<16>(last),
    ]
    .map(|words| vreinterpretq_f32_u32(words))
}

#[inline]
#[target_feature(enable = "neon")]
fn bytes(from: &[u8; 16]) -> uint8x16_t {
    // SAFETY: the array has 16 bytes.
    unsafe { vld1q_u8(from.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn words(from: [u32; 4]) -> uint32x4_t {
    // SAFETY: the array has four elements.
    unsafe { vld1q_u32(from.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn floats(from: &[f32; 4]) -> float32x4_t {
    // SAFETY: the array has four elements.
    unsafe { vld1q_f32(from.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store(to: &mut [f32; 4], from: float32x4_t) {
    // SAFETY: the array has four elements.
    unsafe { vst1q_f32(to.as_mut_ptr(), from) }
}
