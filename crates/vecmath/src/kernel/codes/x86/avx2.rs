//! The kernels on AVX2, FMA and BMI2.
//!
//! Every function may be called only where those features exist, with lengths as [`super::super`]
//! states them.

use std::arch::x86_64::*;

use super::super::{BoundTerms, LANES, SignGroup, Tables, scalar};

/// Table sums of two bytes are at most 254: 257 of them fit 16 bits. A chunk is two byte columns a turn.
const CHUNK: usize = 256 * 2 * LANES;

#[target_feature(enable = "avx2")]
pub(super) unsafe fn hadamard(x: &mut [f32]) {
    scalar::hadamard(x);
}

#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn sign_bounds(
    group: &SignGroup<'_>,
    tables: &Tables<'_>,
    terms: &BoundTerms,
    bounds: &mut [f32; LANES],
) {
    let mut sums = [_mm256_setzero_si256(); 2];
    let columns = group.codes.chunks(CHUNK);
    for (codes, (low, high)) in columns.zip(tables.low.chunks(CHUNK).zip(tables.high.chunks(CHUNK)))
    {
        // SAFETY: the three slices are equally long, a multiple of 32 bytes and at most `CHUNK`.
        let partial = unsafe { table_sums(codes, low, high) };
        sums[0] = _mm256_add_epi32(sums[0], partial[0]);
        sums[1] = _mm256_add_epi32(sums[1], partial[1]);
    }
    for (half, &sum) in sums.iter().enumerate() {
        // SAFETY: eight elements from `8·half` lie inside columns of 16 (lengths checked by the caller).
        unsafe {
            let constant = _mm256_loadu_ps(group.constants.as_ptr().add(32 * half).cast());
            let factor = bf16(group.factors.as_ptr().add(16 * half));
            let radius = bf16(group.radii.as_ptr().add(16 * half));
            let product = _mm256_fmadd_ps(
                _mm256_cvtepi32_ps(sum),
                _mm256_set1_ps(terms.gain),
                _mm256_set1_ps(terms.offset),
            );
            let weight = _mm256_set1_ps(terms.constant_weight);
            let bound = _mm256_fmadd_ps(constant, weight, _mm256_set1_ps(terms.base));
            let bound = _mm256_fnmadd_ps(factor, product, bound);
            let bound = _mm256_fnmadd_ps(radius, _mm256_set1_ps(terms.spread), bound);
            _mm256_storeu_ps(bounds.as_mut_ptr().add(8 * half), bound);
        }
    }
}

/// The sums of 16 codes over at most 512 byte columns, in order.
#[target_feature(enable = "avx2")]
unsafe fn table_sums(codes: &[u8], low: &[u8], high: &[u8]) -> [__m256i; 2] {
    let nibble = _mm256_set1_epi8(15);
    // Bytes are added as 16-bit words: `all` collects both bytes of a word, `odd` the upper one.
    let (mut all, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    for at in (0..codes.len()).step_by(32) {
        // SAFETY: all three slices have 32 bytes from `at`.
        let (code, low, high) = unsafe {
            (
                _mm256_loadu_si256(codes.as_ptr().add(at).cast()),
                _mm256_loadu_si256(low.as_ptr().add(at).cast()),
                _mm256_loadu_si256(high.as_ptr().add(at).cast()),
            )
        };
        let low = _mm256_shuffle_epi8(low, _mm256_and_si256(code, nibble));
        let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(code), nibble);
        let sum = _mm256_add_epi8(low, _mm256_shuffle_epi8(high, upper));
        all = _mm256_add_epi16(all, sum);
        odd = _mm256_add_epi16(odd, _mm256_srli_epi16::<8>(sum));
    }
    let even = _mm256_sub_epi16(all, _mm256_slli_epi16::<8>(odd));
    // Each 128-bit lane saw every other byte column; interleaving restores the order of the codes.
    let widen = |lane: __m128i, other: __m128i| {
        _mm256_add_epi32(_mm256_cvtepu16_epi32(lane), _mm256_cvtepu16_epi32(other))
    };
    let low = _mm256_unpacklo_epi16(even, odd);
    let high = _mm256_unpackhi_epi16(even, odd);
    [
        widen(
            _mm256_castsi256_si128(low),
            _mm256_extracti128_si256::<1>(low),
        ),
        widen(
            _mm256_castsi256_si128(high),
            _mm256_extracti128_si256::<1>(high),
        ),
    ]
}

/// Eight bf16 numbers from `column`.
#[target_feature(enable = "avx2")]
unsafe fn bf16(column: *const u8) -> __m256 {
    // SAFETY: the caller has 16 readable bytes there.
    let halves = unsafe { _mm_loadu_si128(column.cast()) };
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
}

/// The sum over packed codes: squared differences if `DISTANCE`, else products.
#[target_feature(enable = "avx2,fma,bmi2")]
pub(super) unsafe fn packed<const DISTANCE: bool>(
    x: &[f32],
    packed: &[u8],
    bits: u32,
    step: f32,
) -> f32 {
    let bytes = bits as usize;
    let middle = _mm256_set1_ps(((1u32 << bits) - 1) as f32 / 2.0);
    let step = _mm256_set1_ps(step);
    let spread = 0x0101_0101_0101_0101u64 * ((1u64 << bits) - 1);
    let mut sums = [_mm256_setzero_ps(); 2];
    for (i, (x, packed)) in x
        .chunks_exact(8)
        .zip(packed.chunks_exact(bytes))
        .enumerate()
    {
        let mut word = [0u8; 8];
        word[..bytes].copy_from_slice(packed);
        let codes = _pdep_u64(u64::from_le_bytes(word), spread);
        let codes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(codes as i64));
        let centred = _mm256_sub_ps(_mm256_cvtepi32_ps(codes), middle);
        // SAFETY: `chunks_exact(8)` gives eight elements.
        let x = unsafe { _mm256_loadu_ps(x.as_ptr()) };
        let sum = &mut sums[i % 2];
        *sum = if DISTANCE {
            let difference = _mm256_fnmadd_ps(step, centred, x);
            _mm256_fmadd_ps(difference, difference, *sum)
        } else {
            _mm256_fmadd_ps(x, centred, *sum)
        };
    }
    let mut lanes = [0f32; 8];
    // SAFETY: `lanes` has eight elements.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_add_ps(sums[0], sums[1])) };
    lanes.iter().sum()
}

#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn dot_panel(rows: &[f32], panel: &[f32], dims: usize, out: &mut [[f32; LANES]]) {
    let mut out = out.chunks_exact_mut(4);
    let mut rows = rows.chunks_exact(4 * dims);
    for (rows, out) in rows.by_ref().zip(out.by_ref()) {
        // SAFETY: four rows of `dims` elements, a panel of `16·dims`.
        unsafe { block::<4>(rows, panel, dims, out) };
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

#[target_feature(enable = "avx2,fma")]
unsafe fn block<const R: usize>(
    rows: &[f32],
    panel: &[f32],
    dims: usize,
    out: &mut [[f32; LANES]],
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    for d in 0..dims {
        // SAFETY: `d < dims`; the caller states the lengths.
        unsafe {
            let left = _mm256_loadu_ps(panel.as_ptr().add(LANES * d));
            let right = _mm256_loadu_ps(panel.as_ptr().add(LANES * d + 8));
            for (r, sum) in sums.iter_mut().enumerate() {
                let value = _mm256_set1_ps(*rows.get_unchecked(r * dims + d));
                sum[0] = _mm256_fmadd_ps(value, left, sum[0]);
                sum[1] = _mm256_fmadd_ps(value, right, sum[1]);
            }
        }
    }
    for (sum, out) in sums.iter().zip(out) {
        // SAFETY: a result row has 16 elements.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), sum[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), sum[1]);
        }
    }
}
