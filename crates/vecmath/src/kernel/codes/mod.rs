//! Kernels over quantised codes: what the index spends its time in.
//!
//! Owns the byte layouts that the kernels fix (16-lane sign-code groups, packed refinement codes) and
//! the choice of the instruction set. Must not know pages, lists or metrics. `scalar` is the
//! definition: every other level gives the same integers exactly and the same floats up to the
//! rounding of a sum in another order, never with a deeper sum than the scalar one.
//!
//! * **Quads**: 16 rows of bytes, four bytes of each in turn: byte `i` of row `j` is at
//!   `64·(i/4) + 4·j + i%4` ([`quad`]). So the four bytes of a 32-bit lane belong to one row, and sums of four
//!   products or look-ups end where they are wanted. Rows have a multiple of four bytes.
//! * **Sign-code group**: 16 sign codes as quads, bit `i` of byte `i/8` for dimension `i`, and the factors of each.
//! * **Packed codes**: eight codes of `b` bits in `b` bytes, the first in the lowest bits (3 ≤ b ≤ 8).
//! * **Look-up tables**: for every byte of the code two tables of 16 bytes, one for each nibble, in two
//!   arrays. Entries are at most 127, so that two of them add up in a byte.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

/// Codes in one group.
pub const LANES: usize = 16;
/// The largest entry of a look-up table.
pub const TABLE_MAX: u8 = 127;

/// Where byte `byte` of row `row` lies in quads.
#[inline]
pub fn quad(byte: usize, row: usize) -> usize {
    64 * (byte / 4) + 4 * row + byte % 4
}

/// Groups of [`LANES`] sign codes, one behind another. A group begins with its codes (`16·columns` bytes, quads);
/// then come, little-endian, 16 `f32`: the constants; 16 bf16: the factors of the inner products with the query; 16
/// bf16: the error radii. What follows up to `stride` bytes is skipped.
#[derive(Clone, Copy, Debug)]
pub struct SignGroups<'a> {
    /// A multiple of `stride` bytes.
    pub bytes: &'a [u8],
    /// Bytes from group to group.
    pub stride: usize,
    /// Bytes of a code: a multiple of four.
    pub columns: usize,
}

impl SignGroups<'_> {
    /// Bytes of a group that are read.
    pub fn used(&self) -> usize {
        LANES * (self.columns + 8)
    }
}

/// Tables of one query, 16 bytes for every byte of a code each.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// For the low nibble of every byte.
    pub low: &'a [u8],
    /// For the high nibble of every byte.
    pub high: &'a [u8],
}

/// What turns a table sum `S` into a bound:
/// `constant·constant_weight + base − factor·(gain·S + offset) − radius·spread`.
#[derive(Clone, Copy, Debug)]
pub struct BoundTerms {
    /// 1 when the constant counts (distances), 0 when not (inner products).
    pub constant_weight: f32,
    /// Added to every bound.
    pub base: f32,
    /// Width of one table step, twice.
    pub gain: f32,
    /// What a sum of zero stands for.
    pub offset: f32,
    /// How much of the error radius is subtracted.
    pub spread: f32,
}

/// The instruction sets there are implementations for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Portable; the definition.
    Scalar,
    /// NEON, as every 64-bit ARM has it.
    Neon,
    /// AVX2, FMA, BMI2.
    Avx2,
    /// AVX-512 F, BW, DQ, VL, VBMI and VNNI.
    Avx512,
}

impl Level {
    /// Those of vector registers, fastest last.
    const VECTOR: [Level; 3] = [Level::Neon, Level::Avx2, Level::Avx512];
}

type SignBounds =
    fn(&SignGroups<'_>, &Tables<'_>, &BoundTerms, f32, &mut [u16], &mut [[f32; LANES]]) -> f32;
type DotPanel = fn(&[f32], &[f32], usize, &mut [[f32; LANES]]);

/// One implementation of every kernel. `kernels()` is the best this processor has.
#[derive(Debug)]
pub struct Kernels {
    level: Level,
    hadamard: fn(&mut [f32]),
    sign_tables: fn(&[f32], f32, &mut [u8], &mut [u8]),
    sign_bounds: SignBounds,
    matching: fn(&[u8], &[u32], &mut [u16]),
    quad_products: fn(&[u8], &[i8], &mut [[i32; LANES]]),
    squared_distance: fn(&[f32], &[u8], u32, f32) -> f32,
    dot: fn(&[f32], &[u8], u32) -> f32,
    dot_panel: DotPanel,
}

static SCALAR: Kernels = Kernels {
    level: Level::Scalar,
    hadamard: scalar::hadamard,
    sign_tables: scalar::sign_tables,
    sign_bounds: scalar::sign_bounds,
    matching: scalar::matching,
    quad_products: scalar::quad_products,
    squared_distance: scalar::squared_distance,
    dot: scalar::dot,
    dot_panel: scalar::dot_panel,
};

/// The kernels of one level: the functions of `$module`, compiled for its features.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! table {
    ($level:ident, $module:ident) => {
        Kernels {
            level: Level::$level,
            // SAFETY: `at` gives this table out only after detecting the features; the safe methods
            // of `Kernels` checked the lengths.
            hadamard: |x| unsafe { $module::hadamard(x) },
            // SAFETY: as above.
            sign_tables: |point, scale, low, high| unsafe {
                $module::sign_tables(point, scale, low, high)
            },
            // SAFETY: as above.
            sign_bounds: |groups, tables, terms, threshold, chosen, bounds| unsafe {
                $module::sign_bounds(groups, tables, terms, threshold, chosen, bounds)
            },
            // SAFETY: as above.
            matching: |words, values, chosen| unsafe { $module::matching(words, values, chosen) },
            // SAFETY: as above.
            quad_products: |quads, row, out| unsafe { $module::quad_products(quads, row, out) },
            // SAFETY: as above.
            squared_distance: |x, packed, bits, step| unsafe {
                $module::packed::<true>(x, packed, bits, step)
            },
            // SAFETY: as above.
            dot: |x, packed, bits| unsafe { $module::packed::<false>(x, packed, bits, 0.0) },
            // SAFETY: as above.
            dot_panel: |rows, panel, dims, out| unsafe {
                $module::dot_panel(rows, panel, dims, out)
            },
        }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use table;

/// The fastest kernels that this processor runs; chosen once.
pub fn kernels() -> &'static Kernels {
    static BEST: OnceLock<&'static Kernels> = OnceLock::new();
    BEST.get_or_init(|| {
        Level::VECTOR
            .into_iter()
            .rev()
            .find_map(Kernels::at)
            .unwrap_or(&SCALAR)
    })
}

impl Kernels {
    /// The kernels of one level, if this processor runs them.
    pub fn at(level: Level) -> Option<&'static Kernels> {
        match level {
            Level::Scalar => Some(&SCALAR),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => aarch64::at(level),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 => x86::at(level),
            #[allow(
                unreachable_patterns,
                reason = "which are left depends on the architecture"
            )]
            _ => None,
        }
    }

    /// Which level this is.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The Walsh–Hadamard transform in place, not normalised: norms grow by √n. The length is a power
    /// of two. The same numbers at every level.
    pub fn hadamard(&self, x: &mut [f32]) {
        assert!(
            x.len().is_power_of_two(),
            "a Hadamard transform has a power of two elements"
        );
        (self.hadamard)(x);
    }

    /// For every four elements of `point` a table of 16 bytes: for each subset of them (bit `i` of its number: element
    /// `i`) the sum, times `scale`, counted from the smallest subset's and rounded; more than [`TABLE_MAX`] is that. The
    /// tables of the first four of every eight go to `low`, the others to `high`. `point` has a multiple of 16 elements.
    pub fn sign_tables(&self, point: &[f32], scale: f32, low: &mut [u8], high: &mut [u8]) {
        assert!(
            point.len().is_multiple_of(LANES)
                && low.len() == 2 * point.len()
                && high.len() == 2 * point.len(),
            "vector and tables disagree"
        );
        (self.sign_tables)(point, scale, low, high);
    }

    /// The bounds ([`BoundTerms`]) of the codes that `chosen` selects, one bit for each of a group's 16, into `bounds`;
    /// then `chosen` keeps those of them that are not above `threshold`. Gives the least of the others, ∞ if there is
    /// none. A NaN bound is neither. Groups of which nothing is chosen leave their `bounds` as they were.
    pub fn sign_bounds(
        &self,
        groups: &SignGroups<'_>,
        tables: &Tables<'_>,
        terms: &BoundTerms,
        threshold: f32,
        chosen: &mut [u16],
        bounds: &mut [[f32; LANES]],
    ) -> f32 {
        let count = chosen.len();
        assert!(
            groups.columns.is_multiple_of(4)
                && groups.used() <= groups.stride
                && groups.bytes.len() == count * groups.stride
                && bounds.len() == count
                && tables.low.len() == LANES * groups.columns
                && tables.high.len() == LANES * groups.columns,
            "columns of sign-code groups disagree"
        );
        (self.sign_bounds)(groups, tables, terms, threshold, chosen, bounds)
    }

    /// Of the words (little-endian, 16 for each of `chosen`) that `chosen` selects, keeps those that equal one of `values`.
    pub fn matching(&self, words: &[u8], values: &[u32], chosen: &mut [u16]) {
        assert_eq!(
            words.len(),
            4 * LANES * chosen.len(),
            "words and masks disagree"
        );
        (self.matching)(words, values, chosen);
    }

    /// Inner products of rows of bytes (quads; each at most 127) with one row of signed bytes (none −128):
    /// `out[g][j] = Σᵢ quads[16·n·g + quad(i, j)] · row[i]` for rows of `n` bytes, a multiple of four and not
    /// 0. Exact up to 133,000 of them.
    pub fn quad_products(&self, quads: &[u8], row: &[i8], out: &mut [[i32; LANES]]) {
        assert!(
            !row.is_empty()
                && row.len().is_multiple_of(4)
                && quads.len() == LANES * row.len() * out.len(),
            "quads, row and result of a product disagree"
        );
        (self.quad_products)(quads, row, out);
    }

    /// `Σ (xᵢ − step·(uᵢ − (2ᵇ − 1)/2))²` for packed codes `u` of `bits` bits. `x` has a multiple of 16
    /// elements, `packed` `bits` bytes for every eight of them.
    pub fn squared_distance(&self, x: &[f32], packed: &[u8], bits: u32, step: f32) -> f32 {
        check_packed(x, packed, bits);
        (self.squared_distance)(x, packed, bits, step)
    }

    /// `Σ xᵢ·(uᵢ − (2ᵇ − 1)/2)` for packed codes `u`; shapes as in [`Kernels::squared_distance`].
    pub fn dot(&self, x: &[f32], packed: &[u8], bits: u32) -> f32 {
        check_packed(x, packed, bits);
        (self.dot)(x, packed, bits)
    }

    /// Inner products of rows with 16 columns: `out[r][j] = Σ_d rows[r·dims + d] · panel[16·d + j]`.
    pub fn dot_panel(&self, rows: &[f32], panel: &[f32], dims: usize, out: &mut [[f32; LANES]]) {
        assert!(
            rows.len() == dims * out.len() && panel.len() == dims * LANES,
            "rows, panel and result of a product disagree"
        );
        (self.dot_panel)(rows, panel, dims, out);
    }
}

fn check_packed(x: &[f32], packed: &[u8], bits: u32) {
    assert!(
        (3..=8).contains(&bits)
            && x.len().is_multiple_of(LANES)
            && packed.len() == x.len() / 8 * bits as usize,
        "packed codes and vector disagree"
    );
}

/// Packs codes of `bits` bits; `codes` has a multiple of eight elements, `packed` `bits` bytes for each
/// eight. Higher bits of a code are dropped.
pub fn pack(codes: &[u8], bits: u32, packed: &mut [u8]) {
    let mask = (1u64 << bits) - 1;
    for (eight, out) in codes
        .chunks_exact(8)
        .zip(packed.chunks_exact_mut(bits as usize))
    {
        let word = eight.iter().enumerate().fold(0u64, |word, (i, &code)| {
            word | (u64::from(code) & mask) << (i as u32 * bits)
        });
        out.copy_from_slice(&word.to_le_bytes()[..bits as usize]);
    }
}

/// The inverse of [`pack`].
pub fn unpack(packed: &[u8], bits: u32, codes: &mut [u8]) {
    for (bytes, eight) in packed
        .chunks_exact(bits as usize)
        .zip(codes.chunks_exact_mut(8))
    {
        eight.copy_from_slice(&scalar::unpack_eight(bytes, bits));
    }
}
