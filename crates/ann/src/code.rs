//! The two codes of a row and what they promise.
//!
//! A row `x` is rotated and taken relative to the frame: `y = R·x − m`. Two codes are kept of it:
//!
//! * **Refinement code**, independent of the list: `ŷᵢ = step·(uᵢ − (2ᵇ − 1)/2)` with
//!   `‖y − ŷ‖ ≤ error`. A distance to `ŷ` is off by at most `error`: that is certain. Because it does not
//!   depend on the centroid, a row moves between lists byte for byte and never loses precision.
//! * **Sign code** of the residual `r = y − c` from the list's centroid (RaBitQ, arXiv 2405.12497). With
//!   `b ∈ {−1, 1}` the signs and `A = 2‖r‖²/‖r‖₁`: `−2⟨p, r⟩ = −A⟨p, b⟩ ± E·‖p‖·z`, where
//!   `E = 2‖r − A/2·b‖` and, the rotation being random, `z` is about normal with deviation `1/√(D−1)`;
//!   `|z| ≤ 1` is certain. `K = ‖r‖² + A⟨c, b⟩` makes
//!   `‖q − y‖² = K + ‖q − c‖² − A⟨q, b⟩ ± E·‖q − c‖·z`, so that one table of `q` serves all lists.

use lookbook_vecmath::kernel::codes::pack;

use crate::page::{Layout, put_f32, put_u16, put_u32, put_u48};
use crate::rounding::{bf16, down, to_bf16, to_bf16_up, up};

/// Shares of the largest element that a coarse refinement code may reach to: cutting off the tail of
/// the distribution pays when steps are wide.
const REACHES: [f32; 6] = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5];

/// What is stored beside a row's codes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label<'a> {
    /// Heap TID, or in the directory the block of the list.
    pub tid: u64,
    pub words: &'a [u32],
}

/// A row of the index as its bytes: see [`Layout::row`].
pub(crate) type RowRecord = Vec<u8>;

/// Encodes refinement and sign code of `y`, whose own error is `slop`, for the list around `centroid`.
pub(crate) fn encode(
    layout: &Layout,
    label: Label<'_>,
    y: &[f32],
    slop: f64,
    centroid: &[f32],
) -> RowRecord {
    let fields = layout.row();
    let mut record = vec![0; fields.end];
    put_label(layout, label, &mut record);
    put_sign_code(layout, y, 0.0, centroid, &mut record);
    refine(layout, y, slop, &mut record[fields.refinement..]);
    record
}

/// Writes heap TID and words.
pub(crate) fn put_label(layout: &Layout, label: Label<'_>, record: &mut [u8]) {
    put_u48(record, 0, label.tid);
    for (i, &word) in label.words.iter().enumerate() {
        put_u32(record, layout.row().words + 4 * i, word);
    }
}

/// Writes the sign code of `y`, which is known up to `slop`, relative to `centroid`.
pub(crate) fn put_sign_code(
    layout: &Layout,
    y: &[f32],
    slop: f64,
    centroid: &[f32],
    record: &mut [u8],
) {
    let fields = layout.row();
    let code = &mut record[fields.code..fields.code + layout.code_bytes];
    let (eights, _) = y.as_chunks::<8>();
    let (centres, _) = centroid.as_chunks::<8>();
    // In lanes, so that no addition waits for another, and without a branch for each sign.
    let (mut taxicab, mut squared, mut along) = ([0f64; 8], [0f64; 8], [0f64; 8]);
    for ((y, c), byte) in eights.iter().zip(centres).zip(code) {
        *byte = 0;
        for lane in 0..8 {
            let r = y[lane] - c[lane];
            let is_up = r >= 0.0;
            taxicab[lane] += f64::from(r.abs());
            squared[lane] += f64::from(r) * f64::from(r);
            along[lane] += f64::from(if is_up { c[lane] } else { -c[lane] });
            *byte |= u8::from(is_up) << lane;
        }
    }
    let [taxicab, squared, along] = [taxicab, squared, along].map(|sums| sums.iter().sum::<f64>());
    let factor = if taxicab > 0.0 {
        to_bf16((2.0 * squared / taxicab) as f32)
    } else {
        0
    };
    let a = f64::from(bf16(factor));
    // ‖r − a/2·b‖² with b² = 1 in every dimension.
    let lost = squared - a * taxicab + 0.25 * a * a * y.len() as f64;
    let radius = 2.0 * (lost.max(0.0).sqrt() * (1.0 + 1e-6) + slop);
    let constant = squared + a * along;
    put_f32(record, fields.constant, down(constant));
    put_u16(record, fields.factor, factor);
    put_u16(record, fields.radius, to_bf16_up(up(radius)));
}

/// Writes the refinement record of `y`, which is known up to `slop`.
fn refine(layout: &Layout, y: &[f32], slop: f64, record: &mut [u8]) {
    let largest = y.iter().fold(0f32, |most, &y| most.max(y.abs()));
    let top = ((1u32 << layout.bits) - 1) as f32;
    let reaches = if layout.bits <= 5 {
        &REACHES[..]
    } else {
        &REACHES[..1]
    };
    let mut best: Option<(f64, u16, Vec<u8>)> = None;
    for reach in reaches {
        let step = to_bf16_up((2.0 * largest * reach / top).max(f32::MIN_POSITIVE));
        let mut codes = vec![0; y.len()];
        let lost = quantise(y, bf16(step), top, &mut codes);
        if best.as_ref().is_none_or(|(least, ..)| lost < *least) {
            best = Some((lost, step, codes));
        }
    }
    if let Some((lost, step, codes)) = best {
        put_u16(record, 0, step);
        put_u16(record, 2, to_bf16_up(up(lost.sqrt() * (1.0 + 1e-6) + slop)));
        pack(&codes, layout.bits, &mut record[4..]);
    }
}

/// Writes the codes of `y`, one for each of its elements, and gives the squared error.
fn quantise(y: &[f32], step: f32, top: f32, codes: &mut [u8]) -> f64 {
    let (inverse, middle) = (1.0 / step, top / 2.0);
    let (eights, _) = y.as_chunks::<8>();
    let (codes, _) = codes.as_chunks_mut::<8>();
    let mut lost = [0f64; 8];
    for (y, codes) in eights.iter().zip(codes) {
        for lane in 0..8 {
            // `as` takes what is out of range or NaN to the nearest code or 0.
            let code = (y[lane] * inverse + middle + 0.5).clamp(0.0, top) as u8;
            codes[lane] = code;
            let decoded = f64::from(step) * f64::from(f32::from(code) - middle);
            let difference = f64::from(y[lane]) - decoded;
            lost[lane] += difference * difference;
        }
    }
    lost.iter().sum()
}

/// The point that a refinement record stands for.
pub(crate) fn decode(layout: &Layout, record: &[u8]) -> Vec<f32> {
    let (step, _, packed) = crate::page::refinement::factors(record);
    let mut codes = vec![0; layout.dims];
    lookbook_vecmath::kernel::codes::unpack(packed, layout.bits, &mut codes);
    let middle = ((1u32 << layout.bits) - 1) as f32 / 2.0;
    codes
        .iter()
        .map(|&code| step * (f32::from(code) - middle))
        .collect()
}

/// Upper limit of `‖y − c‖`.
pub(crate) fn reach(y: &[f32], slop: f64, centroid: &[f32]) -> f32 {
    let squared: f64 = y
        .iter()
        .zip(centroid)
        .map(|(y, c)| (f64::from(*y) - f64::from(*c)).powi(2))
        .sum();
    up(squared.sqrt() * (1.0 + 1e-6) + slop)
}
