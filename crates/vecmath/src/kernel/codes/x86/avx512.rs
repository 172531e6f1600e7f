//! The kernels on AVX-512 with VBMI and VNNI.
//!
//! Every function may be called only where F, BW, DQ, VL, VBMI and VNNI exist, with lengths as
//! [`super::super`] states them.

use std::arch::x86_64::*;

use super::super::{BoundTerms, LANES, SignGroups, TABLE_MAX, Tables, scalar};

/// The stages of the scalar transform in their order, the first of them in registers.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn hadamard(x: &mut [f32]) {
    // SAFETY: blocks have 16 elements for each register.
    let block = unsafe {
        match x.len() {
            ..16 => return scalar::hadamard(x),
            16 => hadamard_blocks::<1>(x),
            32 => hadamard_blocks::<2>(x),
            64 => hadamard_blocks::<4>(x),
            128 => hadamard_blocks::<8>(x),
            _ => hadamard_blocks::<16>(x),
        }
    };
    scalar::hadamard_from(block, x);
}

/// Transforms blocks of `16·N` elements; gives their length.
#[target_feature(enable = "avx512f")]
unsafe fn hadamard_blocks<const N: usize>(x: &mut [f32]) -> usize {
    for block in x.chunks_exact_mut(LANES * N) {
        let mut rows = [_mm512_setzero_ps(); N];
        for (i, row) in rows.iter_mut().enumerate() {
            // SAFETY: a block has `16·N` elements.
            let loaded = unsafe { _mm512_loadu_ps(block.as_ptr().add(LANES * i)) };
            let swapped = _mm512_permute_ps::<0b10_11_00_01>(loaded);
            let ones = butterfly(loaded, swapped, 0xaaaa);
            let swapped = _mm512_permute_ps::<0b01_00_11_10>(ones);
            let twos = butterfly(ones, swapped, 0xcccc);
            let swapped = _mm512_shuffle_f32x4::<0b10_11_00_01>(twos, twos);
            let fours = butterfly(twos, swapped, 0xf0f0);
            let swapped = _mm512_shuffle_f32x4::<0b01_00_11_10>(fours, fours);
            *row = butterfly(fours, swapped, 0xff00);
        }
        let mut half = 1;
        while half < N {
            for i in 0..N {
                if i & half == 0 {
                    let (a, b) = (rows[i], rows[i + half]);
                    (rows[i], rows[i + half]) = (_mm512_add_ps(a, b), _mm512_sub_ps(a, b));
                }
            }
            half *= 2;
        }
        for (i, row) in rows.iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(block.as_mut_ptr().add(LANES * i), *row) };
        }
    }
    LANES * N
}

/// Sums of pairs, and in the lanes of `upper` differences: `swapped` has each element at the place of its partner.
#[inline]
#[target_feature(enable = "avx512f")]
fn butterfly(x: __m512, swapped: __m512, upper: u16) -> __m512 {
    _mm512_mask_sub_ps(_mm512_add_ps(x, swapped), upper, swapped, x)
}

/// See [`Kernels::sign_tables`](super::super::Kernels::sign_tables): four tables a step, a register for each.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn sign_tables(point: &[f32], scale: f32, low: &mut [u8], high: &mut [u8]) {
    let tables = low
        .chunks_exact_mut(2 * LANES)
        .zip(high.chunks_exact_mut(2 * LANES));
    let (zero, most) = (_mm512_setzero_ps(), _mm512_set1_ps(f32::from(TABLE_MAX)));
    for (x, (low, high)) in point.chunks_exact(LANES).zip(tables) {
        // SAFETY: `chunks_exact` gives 16 elements.
        let scaled = unsafe { _mm512_mul_ps(_mm512_loadu_ps(x.as_ptr()), _mm512_set1_ps(scale)) };
        let least = _mm512_min_ps(scaled, zero);
        let pairs = _mm512_add_ps(least, _mm512_permute_ps::<0b10_11_00_01>(least));
        let fours = _mm512_add_ps(pairs, _mm512_permute_ps::<0b01_00_11_10>(pairs));
        let bases = _mm512_sub_ps(zero, fours);
        let (first, second) = low.split_at_mut(LANES);
        let (third, fourth) = high.split_at_mut(LANES);
        for (four, table) in [first, third, second, fourth].into_iter().enumerate() {
            let element = |i| _mm512_set1_epi32(4 * four as i32 + i);
            let mut sums = _mm512_permutexvar_ps(element(0), bases);
            for (i, subsets) in [0xaaaa, 0xcccc, 0xf0f0, 0xff00].into_iter().enumerate() {
                let x = _mm512_permutexvar_ps(element(i as i32), scaled);
                sums = _mm512_mask_add_ps(sums, subsets, sums, x);
            }
            let sums = _mm512_min_ps(_mm512_max_ps(sums, zero), most);
            // SAFETY: a table has 16 bytes.
            unsafe {
                let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(sums));
                _mm_storeu_si128(table.as_mut_ptr().cast(), bytes);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
pub(super) unsafe fn sign_bounds(
    groups: &SignGroups<'_>,
    tables: &Tables<'_>,
    terms: &BoundTerms,
    threshold: f32,
    chosen: &mut [u16],
    bounds: &mut [[f32; LANES]],
) -> f32 {
    let limit = _mm512_set1_ps(threshold);
    let mut least = _mm512_set1_ps(f32::INFINITY);
    let groups_in_turn = groups.bytes.chunks_exact(groups.stride);
    for (group, (chosen, bounds)) in groups_in_turn.zip(chosen.iter_mut().zip(bounds)) {
        if *chosen == 0 {
            continue;
        }
        let (codes, factors) = group.split_at(LANES * groups.columns);
        // SAFETY: codes and tables are equally long multiples of 64 bytes; behind the codes a group has 128 bytes more.
        unsafe {
            let sums = table_sums(codes, tables.low, tables.high);
            let constant = _mm512_loadu_ps(factors.as_ptr().cast());
            let factor = bf16(factors.as_ptr().add(4 * LANES));
            let radius = bf16(factors.as_ptr().add(6 * LANES));
            let product = _mm512_fmadd_ps(
                _mm512_cvtepi32_ps(sums),
                _mm512_set1_ps(terms.gain),
                _mm512_set1_ps(terms.offset),
            );
            let weight = _mm512_set1_ps(terms.constant_weight);
            let bound = _mm512_fmadd_ps(constant, weight, _mm512_set1_ps(terms.base));
            let bound = _mm512_fnmadd_ps(factor, product, bound);
            let bound = _mm512_fnmadd_ps(radius, _mm512_set1_ps(terms.spread), bound);
            _mm512_storeu_ps(bounds.as_mut_ptr(), bound);
            let far = _mm512_mask_cmp_ps_mask::<_CMP_GT_OQ>(*chosen, bound, limit);
            least = _mm512_mask_min_ps(least, far, least, bound);
            *chosen = _mm512_mask_cmp_ps_mask::<_CMP_LE_OQ>(*chosen, bound, limit);
        }
    }
    _mm512_reduce_min_ps(least)
}

/// The table sums of 16 codes. Four columns a step: a register holds their four tables, and the place of a byte in its lane
/// says which is its own.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn table_sums(codes: &[u8], low: &[u8], high: &[u8]) -> __m512i {
    let nibble = _mm512_set1_epi8(15);
    let column = _mm512_set1_epi32(0x3020_1000);
    let ones = _mm512_set1_epi8(1);
    let (mut left, mut right) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    for at in (0..codes.len()).step_by(64) {
        // SAFETY: the three equally long slices have 64 bytes from `at`.
        let (code, low, high) = unsafe {
            (
                _mm512_loadu_si512(codes.as_ptr().add(at).cast()),
                _mm512_loadu_si512(low.as_ptr().add(at).cast()),
                _mm512_loadu_si512(high.as_ptr().add(at).cast()),
            )
        };
        // (code & nibble) | column, and the same of the upper nibbles.
        let lower = _mm512_ternarylogic_epi32::<0xf8>(column, code, nibble);
        let upper = _mm512_ternarylogic_epi32::<0xf8>(column, _mm512_srli_epi16::<4>(code), nibble);
        left = _mm512_dpbusd_epi32(left, _mm512_permutexvar_epi8(lower, low), ones);
        right = _mm512_dpbusd_epi32(right, _mm512_permutexvar_epi8(upper, high), ones);
    }
    _mm512_add_epi32(left, right)
}

/// See [`Kernels::matching`](super::super::Kernels::matching).
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn matching(words: &[u8], values: &[u32], chosen: &mut [u16]) {
    for (words, chosen) in words.chunks_exact(4 * LANES).zip(chosen) {
        // SAFETY: `chunks_exact` gives 64 bytes.
        let words = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
        let equal = values.iter().fold(0, |equal, &value| {
            equal | _mm512_cmpeq_epi32_mask(words, _mm512_set1_epi32(value as i32))
        });
        *chosen &= equal;
    }
}

/// See [`Kernels::quad_products`](super::super::Kernels::quad_products).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn quad_products(quads: &[u8], row: &[i8], out: &mut [[i32; LANES]]) {
    let (row, _) = row.as_chunks::<4>();
    for (quads, out) in quads.chunks_exact(4 * LANES * row.len()).zip(out) {
        let mut sums = [_mm512_setzero_si512(); 4];
        for (i, (quad, four)) in quads.chunks_exact(64).zip(row).enumerate() {
            let four = _mm512_set1_epi32(i32::from_ne_bytes(four.map(|x| x as u8)));
            // SAFETY: `chunks_exact` gives 64 bytes.
            let quad = unsafe { _mm512_loadu_si512(quad.as_ptr().cast()) };
            sums[i % 4] = _mm512_dpbusd_epi32(sums[i % 4], quad, four);
        }
        let sum = _mm512_add_epi32(
            _mm512_add_epi32(sums[0], sums[1]),
            _mm512_add_epi32(sums[2], sums[3]),
        );
        // SAFETY: a result has 16 elements.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), sum) };
    }
}

/// Sixteen bf16 numbers from `column`.
#[target_feature(enable = "avx512f")]
unsafe fn bf16(column: *const u8) -> __m512 {
    // SAFETY: the caller has 32 readable bytes there.
    let halves = unsafe { _mm256_loadu_si256(column.cast()) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
}

/// The sum over packed codes: squared differences if `DISTANCE`, else products.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub(super) unsafe fn packed<const DISTANCE: bool>(
    x: &[f32],
    packed: &[u8],
    bits: u32,
    step: f32,
) -> f32 {
    let bytes = bits as usize;
    let middle = _mm512_set1_ps(((1u32 << bits) - 1) as f32 / 2.0);
    let step = _mm512_set1_ps(step);
    // Eight codes of `bits` bits go to one 64-bit word, then every byte of it selects its own bits.
    let mut word = [0u8; 64];
    let mut shift = [0u8; 64];
    for i in 0..64 {
        word[i] = (bytes * (i / 8) + (i % 8).min(bytes - 1)) as u8;
        shift[i] = (bytes * (i % 8)) as u8;
    }
    // SAFETY: both arrays have 64 bytes.
    let (word, shift) = unsafe {
        (
            _mm512_loadu_si512(word.as_ptr().cast()),
            _mm512_loadu_si512(shift.as_ptr().cast()),
        )
    };
    let low_bits = _mm512_set1_epi8(((1u32 << bits) - 1) as i8);
    let mut sums = [_mm512_setzero_ps(); 4];
    for (x, packed) in x.chunks(64).zip(packed.chunks(8 * bytes)) {
        // SAFETY: the mask keeps the load inside `packed` (at most 64 bytes, at least 6).
        let codes = unsafe {
            _mm512_maskz_loadu_epi8(u64::MAX >> (64 - packed.len()), packed.as_ptr().cast())
        };
        let codes = _mm512_multishift_epi64_epi8(shift, _mm512_permutexvar_epi8(word, codes));
        let codes = _mm512_and_si512(codes, low_bits);
        let quarters = [
            _mm512_castsi512_si128(codes),
            _mm512_extracti32x4_epi32::<1>(codes),
            _mm512_extracti32x4_epi32::<2>(codes),
            _mm512_extracti32x4_epi32::<3>(codes),
        ];
        for ((x, quarter), sum) in x.chunks_exact(LANES).zip(quarters).zip(&mut sums) {
            let codes = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(quarter));
            let centred = _mm512_sub_ps(codes, middle);
            // SAFETY: `chunks_exact(16)` gives 16 elements.
            let x = unsafe { _mm512_loadu_ps(x.as_ptr()) };
            *sum = if DISTANCE {
                let difference = _mm512_fnmadd_ps(step, centred, x);
                _mm512_fmadd_ps(difference, difference, *sum)
            } else {
                _mm512_fmadd_ps(x, centred, *sum)
            };
        }
    }
    _mm512_reduce_add_ps(_mm512_add_ps(
        _mm512_add_ps(sums[0], sums[1]),
        _mm512_add_ps(sums[2], sums[3]),
    ))
}

#[target_feature(enable = "avx512f")]
pub(super) unsafe fn dot_panel(rows: &[f32], panel: &[f32], dims: usize, out: &mut [[f32; LANES]]) {
    let mut out = out.chunks_exact_mut(8);
    let mut rows = rows.chunks_exact(8 * dims);
    for (rows, out) in rows.by_ref().zip(out.by_ref()) {
        // SAFETY: eight rows of `dims` elements, a panel of `16·dims`.
        unsafe { block::<8>(rows, panel, dims, out) };
    }
    for (row, out) in rows
        .remainder()
        .chunks_exact(dims)
        .zip(out.into_remainder())
    {
        // SAFETY: one row of `dims` elements, a panel of `16·dims`.
        unsafe { block::<1>(row, panel, dims, std::slice::from_mut(out)) };
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn block<const R: usize>(
    rows: &[f32],
    panel: &[f32],
    dims: usize,
    out: &mut [[f32; LANES]],
) {
    let mut sums = [_mm512_setzero_ps(); R];
    for d in 0..dims {
        // SAFETY: `d < dims`; the caller states the lengths.
        unsafe {
            let column = _mm512_loadu_ps(panel.as_ptr().add(LANES * d));
            for (r, sum) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*rows.get_unchecked(r * dims + d));
                *sum = _mm512_fmadd_ps(value, column, *sum);
            }
        }
    }
    for (sum, out) in sums.iter().zip(out) {
        // SAFETY: a result row has 16 elements.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *sum) };
    }
}
