//! One-dimensional SQL arrays of numbers, read and written where they lie.
//!
//! The layout is PostgreSQL's `ArrayType` (`utils/array.h`). Knows nothing of vectors.

use pgrx::array::RawArray;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::{FromDatum, pg_sys, set_varsize_4b};
use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;

/// Types whose array elements lie side by side in their Rust form.
///
/// # Safety
/// `OID` names the element type that PostgreSQL stores exactly so, at no more than 8-byte alignment,
/// and all-zero bytes are a value of it.
pub(super) unsafe trait PlainElement: Copy {
    const OID: pg_sys::Oid;
}
// SAFETY: integer is stored so.
unsafe impl PlainElement for i32 {
    const OID: pg_sys::Oid = pg_sys::INT4OID;
}
// SAFETY: real is stored so.
unsafe impl PlainElement for f32 {
    const OID: pg_sys::Oid = pg_sys::FLOAT4OID;
}
// SAFETY: double precision is stored so.
unsafe impl PlainElement for f64 {
    const OID: pg_sys::Oid = pg_sys::FLOAT8OID;
}

/// An array argument, detoasted. Its elements are of any type, and may be NULL.
pub(super) struct SqlArray<'mcx> {
    array: NonNull<pg_sys::ArrayType>,
    context: PhantomData<&'mcx [u8]>,
}

impl SqlArray<'_> {
    fn raw(&self) -> RawArray {
        // SAFETY: a detoasted array, and nobody writes to it meanwhile.
        unsafe { RawArray::from_ptr(self.array) }
    }

    pub(super) fn as_ptr(&self) -> *mut pg_sys::ArrayType {
        self.array.as_ptr()
    }

    /// Lengths along each axis: none for an empty array.
    pub(super) fn axes(&self) -> usize {
        self.raw().dims().len()
    }

    pub(super) fn has_nulls(&self) -> bool {
        // SAFETY: a detoasted array.
        unsafe { self.raw().any_nulls() }
    }

    /// The elements where they lie, or nothing when they are of another type or one is NULL.
    pub(super) fn elements<T: PlainElement>(&self) -> Option<&[T]> {
        let mut raw = self.raw();
        // SAFETY: without NULLs, an array of T's type is its elements side by side.
        (raw.oid() == T::OID && !self.has_nulls()).then(|| unsafe { raw.data().as_ref() })
    }

    /// As `elements`, to write.
    ///
    /// # Safety
    /// The array is the caller's own: the transition state of an aggregate.
    pub(super) unsafe fn elements_mut<T: PlainElement>(&mut self) -> Option<&mut [T]> {
        let mut raw = self.raw();
        // SAFETY: as above, and the caller's promise.
        (raw.oid() == T::OID && !self.has_nulls()).then(|| unsafe { raw.data().as_mut() })
    }
}

impl FromDatum for SqlArray<'_> {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _typoid: pg_sys::Oid,
    ) -> Option<Self> {
        if is_null {
            return None;
        }
        // SAFETY: the caller promises an array datum. Toasted, short and expanded ones are copied.
        let array = unsafe { pg_sys::pg_detoast_datum(datum.cast_mut_ptr()) };
        NonNull::new(array.cast()).map(|array| SqlArray {
            array,
            context: PhantomData,
        })
    }
}

// SAFETY: the arguments of a call outlive it, and what is detoasted is allocated in the memory
// context of the call.
unsafe impl<'fcx> ArgAbi<'fcx> for SqlArray<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the SQL declaration says that this argument is an array; the functions are
        // STRICT, so that it is not NULL.
        unsafe { arg.unbox_arg_using_from_datum() }
            .unwrap_or_else(|| unreachable!("a STRICT function got NULL"))
    }
}

// SAFETY: returns the datum that it was made from, which outlives the call.
unsafe impl BoxRet for SqlArray<'_> {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: a detoasted array is a valid array datum.
        unsafe { fcinfo.return_raw_datum(self.array.as_ptr().into()) }
    }
}

/// What precedes the elements of a one-dimensional array without NULLs.
#[repr(C)]
struct Header {
    array: pg_sys::ArrayType,
    length: c_int,
    lower_bound: c_int,
}

// ARR_OVERHEAD_NONULLS(1): nothing is lost to alignment.
const _: () = assert!(size_of::<Header>().is_multiple_of(8));

/// A one-dimensional array on its way to SQL, allocated in the current memory context.
pub(super) struct NewArray<'mcx, T> {
    header: NonNull<Header>,
    context: PhantomData<&'mcx mut [T]>,
}

impl<T: PlainElement> NewArray<'_, T> {
    /// All elements 0: at least one, and few enough for one allocation, or palloc raises an ERROR.
    pub(super) fn zeroed(length: usize) -> Self {
        debug_assert!(length > 0, "an array without elements has no axes");
        let bytes = size_of::<Header>() + length * size_of::<T>();
        // SAFETY: palloc0 returns that many zeroed bytes, aligned to 8, or raises above 1 GB, so
        // that both casts fit.
        let header = unsafe {
            let header = NonNull::new_unchecked(pg_sys::palloc0(bytes).cast::<Header>());
            header.write(Header {
                array: pg_sys::ArrayType {
                    vl_len_: 0,
                    ndim: 1,
                    dataoffset: 0,
                    elemtype: T::OID,
                },
                length: length as c_int,
                lower_bound: 1,
            });
            set_varsize_4b(header.as_ptr().cast(), bytes as i32);
            header
        };
        NewArray {
            header,
            context: PhantomData,
        }
    }

    pub(super) fn elements_mut(&mut self) -> &mut [T] {
        // SAFETY: `zeroed` allocated them, and nobody else has the pointer.
        unsafe {
            let length = self.header.as_ref().length as usize;
            slice::from_raw_parts_mut(self.header.add(1).cast::<T>().as_ptr(), length)
        }
    }
}

impl<'mcx, T> From<NewArray<'mcx, T>> for SqlArray<'mcx> {
    fn from(new: NewArray<'mcx, T>) -> Self {
        SqlArray {
            array: new.header.cast(),
            context: PhantomData,
        }
    }
}

// SAFETY: a complete array in the memory context of the call.
unsafe impl<T: PlainElement> BoxRet for NewArray<'_, T> {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(self.header.as_ptr().into()) }
    }
}

/// The integers of a type modifier list. Raises an ERROR when there is something else.
pub(super) fn integer_typmods<'a>(modifiers: &'a SqlArray<'_>) -> &'a [i32] {
    let mut count: c_int = 0;
    // SAFETY: returns `count` palloc'd integers, or raises.
    unsafe {
        let typmods = pg_sys::ArrayGetIntegerTypmods(modifiers.as_ptr(), ptr::from_mut(&mut count));
        slice::from_raw_parts(typmods, count as usize)
    }
}
