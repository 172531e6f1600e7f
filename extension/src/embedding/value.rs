//! The stored form of an `embedding`, byte for byte that of pgvector's `Vector` (`src/vector.h`):
//! a varlena whose payload is dimensions (`int16`), a reserved `int16` that is 0, and the elements
//! (`float4`), all in the machine's byte order.
//!
//! Invariant: a slice handed out never reaches beyond its varlena, whatever the bytes say.

use super::errors::{OrReport, raise};
use lookbook_vecmath::check_dimensions;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::{FromDatum, PgSqlErrorCode, pg_sys, set_varsize_4b, varatt_is_4b_u, varsize_4b};
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::slice;

/// What precedes the elements.
#[repr(C)]
struct Header {
    varlena: [u8; pg_sys::VARHDRSZ],
    dimensions: u16,
    reserved: u16,
}

const _: () = assert!(size_of::<Header>() == 8 && align_of::<Header>() <= align_of::<f32>());

/// An `embedding` that came from SQL, detoasted: derefs to its elements.
#[derive(Clone, Copy)]
pub(crate) struct Embedding<'mcx> {
    header: NonNull<Header>,
    elements: &'mcx [f32],
}

impl Embedding<'_> {
    /// # Safety
    /// `varlena` points to an `embedding` datum that lives as long as the result is used.
    unsafe fn from_varlena(varlena: NonNull<pg_sys::varlena>) -> Self {
        // SAFETY: the caller's promise; an uncompressed in-line value with a 4-byte header is used
        // where it lies, everything else is copied to the current memory context, as by
        // PG_DETOAST_DATUM. The result is never null.
        let plain = unsafe {
            if varatt_is_4b_u(varlena.as_ptr()) {
                varlena
            } else {
                NonNull::new_unchecked(pg_sys::pg_detoast_datum(varlena.as_ptr()))
            }
        };
        let header = plain.cast::<Header>();
        // SAFETY: a detoasted varlena is readable for its VARSIZE bytes. The type's alignment is
        // int4, palloc's is larger, so that the header and the elements are aligned. The header is
        // read only when it is there, and the elements are counted against the size.
        let elements = unsafe {
            let payload_bytes = varsize_4b(plain.as_ptr()).saturating_sub(size_of::<Header>());
            let dimensions = match payload_bytes {
                0 => 0,
                _ => usize::from(header.as_ref().dimensions),
            };
            if dimensions == 0 || dimensions > payload_bytes / size_of::<f32>() {
                corrupted(dimensions, payload_bytes);
            }
            slice::from_raw_parts(header.add(1).cast::<f32>().as_ptr(), dimensions)
        };
        Embedding { header, elements }
    }
}

#[cold]
fn corrupted(dimensions: usize, payload_bytes: usize) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        format!("embedding of {dimensions} dimensions is stored in {payload_bytes} bytes"),
    )
}

impl Deref for Embedding<'_> {
    type Target = [f32];

    #[inline]
    fn deref(&self) -> &[f32] {
        self.elements
    }
}

impl FromDatum for Embedding<'_> {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _typoid: pg_sys::Oid,
    ) -> Option<Self> {
        let varlena = NonNull::new(datum.cast_mut_ptr()).filter(|_| !is_null)?;
        // SAFETY: the caller promises a datum of our type.
        Some(unsafe { Embedding::from_varlena(varlena) })
    }
}

// SAFETY: the arguments of a call outlive it, and what is detoasted is allocated in the memory
// context of the call.
unsafe impl<'fcx> ArgAbi<'fcx> for Embedding<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the SQL declaration says that this argument is an `embedding`; the functions are
        // STRICT, so that it is not NULL.
        unsafe { arg.unbox_arg_using_from_datum() }
            .unwrap_or_else(|| unreachable!("a STRICT function got NULL"))
    }
}

// SAFETY: returns the datum that it was made from, which outlives the call.
unsafe impl BoxRet for Embedding<'_> {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: a detoasted embedding is a valid datum of our type.
        unsafe { fcinfo.return_raw_datum(self.header.as_ptr().into()) }
    }
}

/// An `embedding` on its way to SQL, allocated in the current memory context.
pub(crate) struct NewEmbedding<'mcx> {
    header: NonNull<Header>,
    context: PhantomData<&'mcx mut [f32]>,
}

impl NewEmbedding<'_> {
    /// All elements 0. Raises an ERROR when there are none or too many.
    pub(crate) fn zeroed(dimensions: usize) -> Self {
        check_dimensions(dimensions).or_report();
        let bytes = size_of::<Header>() + dimensions * size_of::<f32>();
        // SAFETY: palloc0 returns that many zeroed bytes with at least 8-byte alignment or raises.
        // At most 16,000 dimensions: both casts fit.
        let header = unsafe {
            let varlena = pg_sys::palloc0(bytes);
            set_varsize_4b(varlena.cast(), bytes as i32);
            let mut header = NonNull::new_unchecked(varlena.cast::<Header>());
            header.as_mut().dimensions = dimensions as u16;
            header
        };
        NewEmbedding {
            header,
            context: PhantomData,
        }
    }

    /// Raises an ERROR when there are no elements or too many. They must be finite.
    pub(crate) fn from_slice(elements: &[f32]) -> Self {
        let mut new = Self::zeroed(elements.len());
        new.elements_mut().copy_from_slice(elements);
        new
    }

    pub(crate) fn elements_mut(&mut self) -> &mut [f32] {
        // SAFETY: `zeroed` allocated them, and nobody else has the pointer.
        unsafe {
            let dimensions = usize::from(self.header.as_ref().dimensions);
            slice::from_raw_parts_mut(self.header.add(1).cast::<f32>().as_ptr(), dimensions)
        }
    }
}

// SAFETY: a complete varlena of our type, in the memory context of the call.
unsafe impl BoxRet for NewEmbedding<'_> {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(self.header.as_ptr().into()) }
    }
}
