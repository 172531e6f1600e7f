//! The registers of AArch64.

#![allow(
    unused_unsafe,
    reason = "NEON is part of the target: most of its intrinsics are safe"
)]

use super::wide::Register;
use super::{Kernels, Level, compile};
use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;

pub(super) fn at(level: Level) -> Option<Kernels> {
    match level {
        Level::Neon if is_aarch64_feature_detected!("neon") => Some(neon::KERNELS),
        _ => None,
    }
}

compile!(neon, Level::Neon, "neon", float32x4_t, 8);

// SAFETY: of every method: the caller promises NEON, and room for 4 floats.
unsafe impl Register for float32x4_t {
    const WIDTH: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        unsafe { vdupq_n_f32(0.0) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { vst1q_f32(to, self) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { vaddq_f32(self, other) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { vsubq_f32(self, other) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { vmulq_f32(self, other) }
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        // SAFETY: see above.
        unsafe { vabsq_f32(self) }
    }
}
