//! The kernels of `scalar` on registers of several lanes: one generic body for every instruction
//! set. Adds nothing of its own: lane by lane, the operations and their order are `scalar`'s.
//!
//! Everything is inlined into a function compiled for the instruction set, see `super`.

use super::scalar::{LANES, Lanes, total};

/// Some lanes in one register.
///
/// # Safety
/// Every method needs a processor with the register's instruction set. `load` reads and `store`
/// writes `WIDTH` floats at any alignment.
pub(super) unsafe trait Register: Copy {
    const WIDTH: usize;
    unsafe fn zero() -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn abs(self) -> Self;
}

/// What is summed: `N` terms of each pair of elements.
pub(super) trait Terms<const N: usize> {
    /// # Safety
    /// As [`Register`].
    unsafe fn of<R: Register>(x: R, y: R) -> [R; N];
}

pub(super) struct SquaredDifference;
pub(super) struct Product;
pub(super) struct AbsoluteDifference;
pub(super) struct ProductAndSquares;

impl Terms<1> for SquaredDifference {
    #[inline(always)]
    unsafe fn of<R: Register>(x: R, y: R) -> [R; 1] {
        // SAFETY: the caller's promise, here and below.
        unsafe {
            let difference = x.sub(y);
            [difference.mul(difference)]
        }
    }
}

impl Terms<1> for Product {
    #[inline(always)]
    unsafe fn of<R: Register>(x: R, y: R) -> [R; 1] {
        // SAFETY: the caller's promise.
        unsafe { [x.mul(y)] }
    }
}

impl Terms<1> for AbsoluteDifference {
    #[inline(always)]
    unsafe fn of<R: Register>(x: R, y: R) -> [R; 1] {
        // SAFETY: the caller's promise.
        unsafe { [x.sub(y).abs()] }
    }
}

impl Terms<3> for ProductAndSquares {
    #[inline(always)]
    unsafe fn of<R: Register>(x: R, y: R) -> [R; 3] {
        // SAFETY: the caller's promise.
        unsafe { [x.mul(y), x.mul(x), y.mul(y)] }
    }
}

/// Σ of `N` terms over the pairs of two equally long slices, in `K` registers of `R` each.
///
/// # Safety
/// As [`Register`].
#[inline(always)]
pub(super) unsafe fn sum<R, T, const K: usize, const N: usize>(a: &[f32], b: &[f32]) -> [f32; N]
where
    R: Register,
    T: Terms<N>,
{
    const { assert!(K * R::WIDTH == LANES) };
    let (blocks_a, tail_a) = a.as_chunks::<LANES>();
    let (blocks_b, tail_b) = b.as_chunks::<LANES>();
    // SAFETY: the caller's promise; the slices that are loaded from are long enough.
    unsafe {
        let mut sums = [[R::zero(); N]; K];
        for (x, y) in blocks_a.iter().zip(blocks_b) {
            for (k, sums) in sums.iter_mut().enumerate() {
                let lanes = k * R::WIDTH..;
                *sums = add(*sums, T::of(load(&x[lanes.clone()]), load(&y[lanes])));
            }
        }
        for (k, sums) in sums.iter_mut().enumerate() {
            let (Some(x), Some(y)) = (tail_a.get(k * R::WIDTH..), tail_b.get(k * R::WIDTH..))
            else {
                break;
            };
            *sums = add(*sums, T::of(load_padded::<R>(x), load_padded(y)));
        }
        let mut half = K / 2;
        while half > 0 {
            for k in 0..half {
                sums[k] = add(sums[k], sums[k + half]);
            }
            half /= 2;
        }
        std::array::from_fn(|n| {
            let mut lanes: Lanes = [0.0; LANES];
            sums[0][n].store(lanes.as_mut_ptr());
            total(&mut lanes[..R::WIDTH])
        })
    }
}

/// # Safety
/// As [`Register`].
#[inline(always)]
unsafe fn add<R: Register, const N: usize>(mut sums: [R; N], terms: [R; N]) -> [R; N] {
    for (sum, term) in sums.iter_mut().zip(terms) {
        // SAFETY: the caller's promise.
        *sum = unsafe { sum.add(term) };
    }
    sums
}

/// # Safety
/// As [`Register`]; there are at least `WIDTH` floats.
#[inline(always)]
unsafe fn load<R: Register>(from: &[f32]) -> R {
    debug_assert!(from.len() >= R::WIDTH);
    // SAFETY: the caller's promise.
    unsafe { R::load(from.as_ptr()) }
}

/// Fewer floats than a register holds are followed by zeros.
///
/// # Safety
/// As [`Register`].
#[inline(always)]
unsafe fn load_padded<R: Register>(from: &[f32]) -> R {
    let mut lanes: Lanes = [0.0; LANES];
    let from = if from.len() < R::WIDTH {
        lanes[..from.len()].copy_from_slice(from);
        &lanes
    } else {
        from
    };
    // SAFETY: the caller's promise; there are WIDTH floats now.
    unsafe { load(from) }
}
