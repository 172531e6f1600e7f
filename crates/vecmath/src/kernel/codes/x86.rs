//! Which x86-64 kernels this processor runs.
//!
//! Invariant: a function with `#[target_feature]` is reached only through a table that [`at`] hands out
//! after the processor reported every feature named there.

use super::{Kernels, Level};

mod avx2;
mod avx512;

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

static AVX2: Kernels = table!(Avx2, avx2);
static AVX512: Kernels = table!(Avx512, avx512);

pub(super) fn at(level: Level) -> Option<&'static Kernels> {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("bmi2");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vnni");
    match level {
        Level::Scalar => None,
        Level::Avx2 => avx2.then_some(&AVX2),
        Level::Avx512 => avx512.then_some(&AVX512),
    }
}
