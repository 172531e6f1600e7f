//! Which x86-64 kernels this processor runs.
//!
//! Invariant: a function with `#[target_feature]` is reached only through a table that [`at`] hands out
//! after the processor reported every feature named there.

use super::{Kernels, Level, table};

mod avx2;
mod avx512;

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
        Level::Avx2 => avx2.then_some(&AVX2),
        Level::Avx512 => avx512.then_some(&AVX512),
        Level::Scalar | Level::Neon => None,
    }
}
