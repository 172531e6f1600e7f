//! Which AArch64 kernels this processor runs.
//!
//! Invariant: as on x86-64, a function with `#[target_feature]` is reached only through a table that
//! [`at`] hands out after the processor reported the feature.

use super::{Kernels, Level, table};
use std::arch::is_aarch64_feature_detected;

mod neon;

static NEON: Kernels = table!(Neon, neon);

pub(super) fn at(level: Level) -> Option<&'static Kernels> {
    // Codes are little-endian, and registers are loaded from them as they are.
    let neon = cfg!(target_endian = "little") && is_aarch64_feature_detected!("neon");
    (level == Level::Neon && neon).then_some(&NEON)
}
