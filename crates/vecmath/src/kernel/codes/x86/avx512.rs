//! The kernels on AVX-512 with VBMI.
//!
//! Every function may be called only where F, BW, DQ, VL and VBMI exist, with lengths as
//! [`super::super`] states them.

use std::arch::x86_64::*;

use super::super::{BoundTerms, LANES, SignGroup, Tables, scalar};

/// Table sums of two bytes are at most 254: 257 of them fit 16 bits. A chunk is four byte columns a turn.
const CHUNK: usize = 256 * 4 * LANES;

#[target_feature(enable = "avx512f,avx512vl")]
pub(super) unsafe fn hadamard(x: &mut [f32]) {
    scalar::hadamard(x);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn sign_bounds(
    group: &SignGroup<'_>,
    tables: &Tables<'_>,
    terms: &BoundTerms,
    bounds: &mut [f32; LANES],
) {
    let mut sums = _mm512_setzero_si512();
    let columns = group.codes.chunks(CHUNK);
    for (codes, (low, high)) in columns.zip(tables.low.chunks(CHUNK).zip(tables.high.chunks(CHUNK)))
    {
        // SAFETY: the three slices are equally long and at most `CHUNK`.
        sums = _mm512_add_epi32(sums, unsafe { table_sums(codes, low, high) });
    }
    // SAFETY: every column has 16 elements (lengths checked by the caller).
    unsafe {
        let constant = _mm512_loadu_ps(group.constants.as_ptr().cast());
        let factor = bf16(group.factors.as_ptr());
        let radius = bf16(group.radii.as_ptr());
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
    }
}

/// The sums of 16 codes over at most 1,024 byte columns, in order.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn table_sums(codes: &[u8], low: &[u8], high: &[u8]) -> __m512i {
    let nibble = _mm512_set1_epi8(15);
    // Bytes are added as 16-bit words: `all` collects both bytes of a word, `odd` the upper one.
    let (mut all, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    let mut at = 0;
    while at < codes.len() {
        let left = (codes.len() - at).min(64);
        let mask = u64::MAX >> (64 - left);
        // SAFETY: the mask keeps the loads inside the three equally long slices.
        let (code, low, high) = unsafe {
            (
                _mm512_maskz_loadu_epi8(mask, codes.as_ptr().add(at).cast()),
                _mm512_maskz_loadu_epi8(mask, low.as_ptr().add(at).cast()),
                _mm512_maskz_loadu_epi8(mask, high.as_ptr().add(at).cast()),
            )
        };
        let low = _mm512_shuffle_epi8(low, _mm512_and_si512(code, nibble));
        let upper = _mm512_and_si512(_mm512_srli_epi16::<4>(code), nibble);
        let sum = _mm512_add_epi8(low, _mm512_shuffle_epi8(high, upper));
        all = _mm512_add_epi16(all, sum);
        odd = _mm512_add_epi16(odd, _mm512_srli_epi16::<8>(sum));
        at += 64;
    }
    let even = _mm512_sub_epi16(all, _mm512_slli_epi16::<8>(odd));
    // Each 128-bit lane saw every fourth byte column; interleaving restores the order of the codes.
    let low = _mm512_unpacklo_epi16(even, odd);
    let high = _mm512_unpackhi_epi16(even, odd);
    let halves = |words: __m512i| {
        let left = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(words));
        let right = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(words));
        let sum = _mm512_add_epi32(left, right);
        _mm256_add_epi32(
            _mm512_castsi512_si256(sum),
            _mm512_extracti64x4_epi64::<1>(sum),
        )
    };
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(halves(low)), halves(high))
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
