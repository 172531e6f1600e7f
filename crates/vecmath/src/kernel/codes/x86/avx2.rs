//! The kernels on AVX2, FMA and BMI2.
//!
//! Every function may be called only where those features exist, with lengths as [`super::super`]
//! states them.

use std::arch::x86_64::*;

use super::super::{BoundTerms, LANES, SignGroups, TABLE_MAX, Tables, scalar};

/// Table sums of two bytes are at most 254: 257 of them fit 16 bits. A step adds two to each word.
const CHUNK: usize = 128 * 64;

/// The stages of the scalar transform in their order, the first of them in registers.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn hadamard(x: &mut [f32]) {
    // SAFETY: blocks have eight elements for each register.
    let block = unsafe {
        match x.len() {
            ..8 => return scalar::hadamard(x),
            8 => hadamard_blocks::<1>(x),
            16 => hadamard_blocks::<2>(x),
            32 => hadamard_blocks::<4>(x),
            _ => hadamard_blocks::<8>(x),
        }
    };
    scalar::hadamard_from(block, x);
}

/// Transforms blocks of `8·N` elements; gives their length.
#[target_feature(enable = "avx2")]
unsafe fn hadamard_blocks<const N: usize>(x: &mut [f32]) -> usize {
    let minus = |lanes: u8| {
        let bits = |lane: i32| (i32::from(lanes) >> lane & 1) << 31;
        let [a, b, c, d, e, f, g, h] = std::array::from_fn(|lane| bits(lane as i32));
        _mm256_castsi256_ps(_mm256_setr_epi32(a, b, c, d, e, f, g, h))
    };
    // Sums of pairs, and differences in the lanes where the partner comes first.
    let butterfly = |x, swapped, minus| _mm256_add_ps(swapped, _mm256_xor_ps(x, minus));
    for block in x.chunks_exact_mut(8 * N) {
        let mut rows = [_mm256_setzero_ps(); N];
        for (i, row) in rows.iter_mut().enumerate() {
            // SAFETY: a block has `8·N` elements.
            let loaded = unsafe { _mm256_loadu_ps(block.as_ptr().add(8 * i)) };
            let swapped = _mm256_permute_ps::<0b10_11_00_01>(loaded);
            let ones = butterfly(loaded, swapped, minus(0b1010_1010));
            let swapped = _mm256_permute_ps::<0b01_00_11_10>(ones);
            let twos = butterfly(ones, swapped, minus(0b1100_1100));
            let swapped = _mm256_permute2f128_ps::<0x01>(twos, twos);
            *row = butterfly(twos, swapped, minus(0b1111_0000));
        }
        let mut half = 1;
        while half < N {
            for i in 0..N {
                if i & half == 0 {
                    let (a, b) = (rows[i], rows[i + half]);
                    (rows[i], rows[i + half]) = (_mm256_add_ps(a, b), _mm256_sub_ps(a, b));
                }
            }
            half *= 2;
        }
        for (i, row) in rows.iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(block.as_mut_ptr().add(8 * i), *row) };
        }
    }
    8 * N
}

/// See [`Kernels::sign_tables`](super::super::Kernels::sign_tables).
#[target_feature(enable = "avx2")]
pub(super) unsafe fn sign_tables(point: &[f32], scale: f32, low: &mut [u8], high: &mut [u8]) {
    // For both halves of the 16 subsets, and each of four elements: which subsets have it.
    let halves = [0, 8].map(|from| {
        let subsets = _mm256_add_epi32(
            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
            _mm256_set1_epi32(from),
        );
        [1, 2, 4, 8].map(|element| {
            let element = _mm256_set1_epi32(element);
            let has = _mm256_cmpeq_epi32(_mm256_and_si256(subsets, element), element);
            _mm256_castsi256_ps(has)
        })
    });
    let (zero, most) = (_mm256_setzero_ps(), _mm256_set1_ps(f32::from(TABLE_MAX)));
    let (fours, _) = point.as_chunks::<4>();
    let (pairs, _) = fours.as_chunks::<2>();
    let tables = low
        .chunks_exact_mut(LANES)
        .zip(high.chunks_exact_mut(LANES));
    for (pair, (low, high)) in pairs.iter().zip(tables) {
        for (four, table) in pair.iter().zip([low, high]) {
            let four = four.map(|x| x * scale);
            let [a, b, c, d] = four.map(|x| x.min(0.0));
            let base = _mm256_set1_ps(0.0 - ((a + b) + (c + d)));
            let [first, last] = halves.map(|masks| {
                let sums = four.into_iter().zip(masks).fold(base, |sums, (x, mask)| {
                    _mm256_add_ps(sums, _mm256_and_ps(_mm256_set1_ps(x), mask))
                });
                _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(sums, zero), most))
            });
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(first, last));
            let bytes = _mm256_permute4x64_epi64::<0b10_00>(_mm256_packus_epi16(words, words));
            // SAFETY: a table has 16 bytes.
            unsafe {
                _mm_storeu_si128(table.as_mut_ptr().cast(), _mm256_castsi256_si128(bytes));
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn sign_bounds(
    groups: &SignGroups<'_>,
    tables: &Tables<'_>,
    terms: &BoundTerms,
    threshold: f32,
    chosen: &mut [u16],
    bounds: &mut [[f32; LANES]],
) -> f32 {
    let limit = _mm256_set1_ps(threshold);
    let mut least = f32::INFINITY;
    let groups_in_turn = groups.bytes.chunks_exact(groups.stride);
    for (group, (chosen, bounds)) in groups_in_turn.zip(chosen.iter_mut().zip(bounds)) {
        if *chosen == 0 {
            continue;
        }
        let (codes, factors) = group.split_at(LANES * groups.columns);
        let mut sums = [_mm256_setzero_si256(); 2];
        let tables = tables.low.chunks(CHUNK).zip(tables.high.chunks(CHUNK));
        for (codes, (low, high)) in codes.chunks(CHUNK).zip(tables) {
            // SAFETY: the three slices are equally long, a multiple of 64 bytes and at most `CHUNK`.
            let partial = unsafe { table_sums(codes, low, high) };
            sums[0] = _mm256_add_epi32(sums[0], partial[0]);
            sums[1] = _mm256_add_epi32(sums[1], partial[1]);
        }
        let (mut near, mut far) = (0, 0);
        for (half, &sum) in sums.iter().enumerate() {
            // SAFETY: behind the codes a group has 128 bytes more: eight elements from `8·half` of each column.
            unsafe {
                let constant = _mm256_loadu_ps(factors.as_ptr().add(32 * half).cast());
                let factor = bf16(factors.as_ptr().add(4 * LANES + 16 * half));
                let radius = bf16(factors.as_ptr().add(6 * LANES + 16 * half));
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
                let mask = |compared| (_mm256_movemask_ps(compared) as u16) << (8 * half);
                near |= mask(_mm256_cmp_ps::<_CMP_LE_OQ>(bound, limit));
                far |= mask(_mm256_cmp_ps::<_CMP_GT_OQ>(bound, limit));
            }
        }
        far &= *chosen;
        while far != 0 {
            least = least.min(bounds[far.trailing_zeros() as usize]);
            far &= far - 1;
        }
        *chosen &= near;
    }
    least
}

/// The sums of 16 codes over at most 512 byte columns, in order.
#[target_feature(enable = "avx2")]
unsafe fn table_sums(codes: &[u8], low: &[u8], high: &[u8]) -> [__m256i; 2] {
    // Four bytes of four codes in each 128-bit lane: first all of a column together, ...
    let by_column = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
    ));
    // Bytes are added as 16-bit words: `all` collects both bytes of a word, `odd` the upper one.
    let (mut all, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    for at in (0..codes.len()).step_by(64) {
        // SAFETY: the slice has 64 bytes from `at`.
        let (first, last) = unsafe {
            (
                _mm256_loadu_si256(codes.as_ptr().add(at).cast()),
                _mm256_loadu_si256(codes.as_ptr().add(at + 32).cast()),
            )
        };
        let first = _mm256_shuffle_epi8(first, by_column);
        let last = _mm256_shuffle_epi8(last, by_column);
        // ... then two columns in a register, codes in the order 0–3, 8–11, 4–7, 12–15.
        let columns = [
            _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_unpacklo_epi32(first, last)),
            _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_unpackhi_epi32(first, last)),
        ];
        for (half, code) in columns.into_iter().enumerate() {
            // SAFETY: both slices have 64 bytes from `at`.
            let (low, high) = unsafe {
                (
                    _mm256_loadu_si256(low.as_ptr().add(at + 32 * half).cast()),
                    _mm256_loadu_si256(high.as_ptr().add(at + 32 * half).cast()),
                )
            };
            let nibble = _mm256_set1_epi8(15);
            let low = _mm256_shuffle_epi8(low, _mm256_and_si256(code, nibble));
            let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(code), nibble);
            let sum = _mm256_add_epi8(low, _mm256_shuffle_epi8(high, upper));
            all = _mm256_add_epi16(all, sum);
            odd = _mm256_add_epi16(odd, _mm256_srli_epi16::<8>(sum));
        }
    }
    let even = _mm256_sub_epi16(all, _mm256_slli_epi16::<8>(odd));
    // Each 128-bit lane saw every other byte column.
    let widen = |words: __m256i| {
        _mm256_add_epi32(
            _mm256_cvtepu16_epi32(_mm256_castsi256_si128(words)),
            _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<1>(words)),
        )
    };
    let front = widen(_mm256_unpacklo_epi16(even, odd));
    let back = widen(_mm256_unpackhi_epi16(even, odd));
    [
        _mm256_permute2x128_si256::<0x20>(front, back),
        _mm256_permute2x128_si256::<0x31>(front, back),
    ]
}

/// See [`Kernels::matching`](super::super::Kernels::matching).
#[target_feature(enable = "avx2")]
pub(super) unsafe fn matching(words: &[u8], values: &[u32], chosen: &mut [u16]) {
    for (words, chosen) in words.chunks_exact(4 * LANES).zip(chosen) {
        // SAFETY: `chunks_exact` gives 64 bytes.
        let (first, last) = unsafe {
            (
                _mm256_loadu_si256(words.as_ptr().cast()),
                _mm256_loadu_si256(words.as_ptr().add(32).cast()),
            )
        };
        let mut equal = [_mm256_setzero_si256(); 2];
        for &value in values {
            let value = _mm256_set1_epi32(value as i32);
            equal[0] = _mm256_or_si256(equal[0], _mm256_cmpeq_epi32(first, value));
            equal[1] = _mm256_or_si256(equal[1], _mm256_cmpeq_epi32(last, value));
        }
        let [first, last] =
            equal.map(|equal| _mm256_movemask_ps(_mm256_castsi256_ps(equal)) as u16);
        *chosen &= first | last << 8;
    }
}

/// See [`Kernels::quad_products`](super::super::Kernels::quad_products).
#[target_feature(enable = "avx2")]
pub(super) unsafe fn quad_products(quads: &[u8], row: &[i8], out: &mut [[i32; LANES]]) {
    let (row, _) = row.as_chunks::<4>();
    let ones = _mm256_set1_epi16(1);
    for (quads, out) in quads.chunks_exact(4 * LANES * row.len()).zip(out) {
        let mut sums = [_mm256_setzero_si256(); 2];
        for (quad, four) in quads.chunks_exact(64).zip(row) {
            let four = _mm256_set1_epi32(i32::from_ne_bytes(four.map(|x| x as u8)));
            for (half, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `chunks_exact` gives 64 bytes.
                let quad = unsafe { _mm256_loadu_si256(quad.as_ptr().add(32 * half).cast()) };
                // Two products of at most 127² each fit 16 bits.
                let pairs = _mm256_maddubs_epi16(quad, four);
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
        for (half, sum) in sums.into_iter().enumerate() {
            // SAFETY: a result has 16 elements.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(8 * half).cast(), sum) };
        }
    }
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
