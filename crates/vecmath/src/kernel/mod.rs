//! The loops that distances spend their time in, compiled once per instruction set and chosen once
//! at run time.
//!
//! Owns the crate's only `unsafe`: calling code compiled for features that the processor was found
//! to have. All levels agree to the last bit with [`Level::Scalar`], see [`lanes`].

mod lanes;

use std::sync::OnceLock;

/// An instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// What every processor of the target has: SSE2 on x86-64, NEON on AArch64.
    Scalar,
    /// 256-bit registers.
    Avx2,
    /// 512-bit registers.
    Avx512,
}

impl Level {
    /// All of them, widest last.
    pub const ALL: [Level; 3] = [Level::Scalar, Level::Avx2, Level::Avx512];
}

/// The kernels of one level. Every method takes equally long slices and panics on others.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    level: Level,
    l2_squared: unsafe fn(&[f32], &[f32]) -> f32,
    inner_product: unsafe fn(&[f32], &[f32]) -> f32,
    l1: unsafe fn(&[f32], &[f32]) -> f32,
    cosine_terms: unsafe fn(&[f32], &[f32]) -> [f32; 3],
    norm_squared: unsafe fn(&[f32]) -> f64,
}

/// The widest kernels that this processor runs.
#[inline]
pub fn active() -> &'static Kernels {
    static ACTIVE: OnceLock<Kernels> = OnceLock::new();
    ACTIVE.get_or_init(|| {
        Level::ALL
            .into_iter()
            .rev()
            .find_map(Kernels::at)
            .unwrap_or(baseline::KERNELS)
    })
}

macro_rules! compile_kernels {
    ($module:ident, $level:expr $(, $features:literal)?) => {
        mod $module {
            use super::{Kernels, Level, lanes};

            pub(super) const KERNELS: Kernels = Kernels {
                level: $level,
                l2_squared,
                inner_product,
                l1,
                cosine_terms,
                norm_squared,
            };
            $(#[target_feature(enable = $features)])?
            fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
                lanes::l2_squared(a, b)
            }
            $(#[target_feature(enable = $features)])?
            fn inner_product(a: &[f32], b: &[f32]) -> f32 {
                lanes::inner_product(a, b)
            }
            $(#[target_feature(enable = $features)])?
            fn l1(a: &[f32], b: &[f32]) -> f32 {
                lanes::l1(a, b)
            }
            $(#[target_feature(enable = $features)])?
            fn cosine_terms(a: &[f32], b: &[f32]) -> [f32; 3] {
                lanes::cosine_terms(a, b)
            }
            $(#[target_feature(enable = $features)])?
            fn norm_squared(a: &[f32]) -> f64 {
                lanes::norm_squared(a)
            }
        }
    };
}

compile_kernels!(baseline, Level::Scalar);
#[cfg(target_arch = "x86_64")]
compile_kernels!(avx2, Level::Avx2, "avx2");
#[cfg(target_arch = "x86_64")]
compile_kernels!(avx512, Level::Avx512, "avx512f,avx512vl,avx512dq,avx512bw");

impl Kernels {
    /// The kernels of `level`, if this processor runs them.
    pub fn at(level: Level) -> Option<Kernels> {
        match level {
            Level::Scalar => Some(baseline::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => is_x86_feature_detected!("avx2").then_some(avx2::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => (is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bw"))
            .then_some(avx512::KERNELS),
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 | Level::Avx512 => None,
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

    /// Σ aᵢ² in double precision.
    #[inline]
    pub fn norm_squared(&self, a: &[f32]) -> f64 {
        // SAFETY: as above.
        unsafe { (self.norm_squared)(a) }
    }
}
