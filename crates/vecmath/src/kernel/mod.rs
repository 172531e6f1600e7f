//! The loops that distances spend their time in, written once, compiled for every instruction set,
//! and chosen once at run time.
//!
//! Owns the crate's only `unsafe`: vector instructions, and calling code compiled for features that
//! the processor was found to have. All levels agree with [`Level::Scalar`] to the last bit.

#[cfg(target_arch = "aarch64")]
mod aarch64;
pub mod codes;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod wide;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

/// An instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Plain code for what every processor of the target has: the definition.
    Scalar,
    /// 128-bit registers of AArch64.
    Neon,
    /// 256-bit registers of x86-64.
    Avx2,
    /// 512-bit registers of x86-64.
    Avx512,
}

impl Level {
    /// All of them, fastest last.
    pub const ALL: [Level; 4] = [Level::Scalar, Level::Neon, Level::Avx2, Level::Avx512];
}

/// The kernels of one level. Every method takes equally long slices and panics on others.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    level: Level,
    l2_squared: unsafe fn(&[f32], &[f32]) -> f32,
    inner_product: unsafe fn(&[f32], &[f32]) -> f32,
    l1: unsafe fn(&[f32], &[f32]) -> f32,
    cosine_terms: unsafe fn(&[f32], &[f32]) -> [f32; 3],
}

const SCALAR: Kernels = Kernels {
    level: Level::Scalar,
    l2_squared: scalar::l2_squared,
    inner_product: scalar::inner_product,
    l1: scalar::l1,
    cosine_terms: scalar::cosine_terms,
};

/// The fastest kernels that this processor runs.
#[inline]
pub fn active() -> &'static Kernels {
    static ACTIVE: OnceLock<Kernels> = OnceLock::new();
    ACTIVE.get_or_init(|| {
        Level::ALL
            .into_iter()
            .rev()
            .find_map(Kernels::at)
            .unwrap_or(SCALAR)
    })
}

/// The kernels of one level: `wide`'s body, compiled for its features, with `$count` of its
/// registers.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! compile {
    ($module:ident, $level:expr, $features:literal, $register:ty, $count:literal) => {
        mod $module {
            use super::*;
            use crate::kernel::wide::{
                AbsoluteDifference, Product, ProductAndSquares, SquaredDifference, sum,
            };
            use crate::kernel::{Kernels, Level};

            pub(in crate::kernel) const KERNELS: Kernels = Kernels {
                level: $level,
                l2_squared,
                inner_product,
                l1,
                cosine_terms,
            };

            // SAFETY, of all four: they are compiled for the features that the register needs.
            #[target_feature(enable = $features)]
            fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
                // SAFETY: see above.
                let [sum] = unsafe { sum::<$register, SquaredDifference, $count, 1>(a, b) };
                sum
            }
            #[target_feature(enable = $features)]
            fn inner_product(a: &[f32], b: &[f32]) -> f32 {
                // SAFETY: see above.
                let [sum] = unsafe { sum::<$register, Product, $count, 1>(a, b) };
                sum
            }
            #[target_feature(enable = $features)]
            fn l1(a: &[f32], b: &[f32]) -> f32 {
                // SAFETY: see above.
                let [sum] = unsafe { sum::<$register, AbsoluteDifference, $count, 1>(a, b) };
                sum
            }
            #[target_feature(enable = $features)]
            fn cosine_terms(a: &[f32], b: &[f32]) -> [f32; 3] {
                // SAFETY: see above.
                unsafe { sum::<$register, ProductAndSquares, $count, 3>(a, b) }
            }
        }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use compile;

/// Asks for memory that is going to be read soon: a hint, and harmless whatever lies there.
#[inline]
pub fn prefetch(from: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..bytes).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction is part of every x86-64; it reads nothing and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, bytes);
}

impl Kernels {
    /// The kernels of `level`, if this processor runs them.
    pub fn at(level: Level) -> Option<Kernels> {
        match level {
            Level::Scalar => Some(SCALAR),
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

    /// The instruction set they are compiled for.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Σ (aᵢ − bᵢ)².
    #[inline]
    pub fn l2_squared(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "operands of different lengths");
        // SAFETY: `at` hands out a level's kernels only where its features were detected.
        unsafe { (self.l2_squared)(a, b) }
    }

    /// Σ aᵢbᵢ.
    #[inline]
    pub fn inner_product(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "operands of different lengths");
        // SAFETY: as above.
        unsafe { (self.inner_product)(a, b) }
    }

    /// Σ |aᵢ − bᵢ|.
    #[inline]
    pub fn l1(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "operands of different lengths");
        // SAFETY: as above.
        unsafe { (self.l1)(a, b) }
    }

    /// Σ aᵢbᵢ, Σ aᵢ² and Σ bᵢ².
    #[inline]
    pub fn cosine_terms(&self, a: &[f32], b: &[f32]) -> [f32; 3] {
        assert_eq!(a.len(), b.len(), "operands of different lengths");
        // SAFETY: as above.
        unsafe { (self.cosine_terms)(a, b) }
    }
}
