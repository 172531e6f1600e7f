//! Casts between `embedding` and arrays of numbers.

use super::arrays::{NewArray, PlainElement, SqlArray};
use super::errors::{OrReport, raise};
use super::io::check_typmod;
use super::{Embedding, NewEmbedding};
use lookbook_vecmath::{check_dimensions, check_finite};
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, direct_function_call, pg_sys};
use std::ffi::c_int;
use std::{ptr, slice};

#[pg_extern]
fn embedding_from_integers<'a>(
    array: SqlArray<'a>,
    typmod: i32,
    _explicit: bool,
) -> NewEmbedding<'a> {
    from_plain(&array, typmod, |element: i32| element as f32)
}

#[pg_extern]
fn embedding_from_reals<'a>(array: SqlArray<'a>, typmod: i32, _explicit: bool) -> NewEmbedding<'a> {
    from_plain(&array, typmod, |element: f32| element)
}

/// Rounds; what is too large for a `real` is refused as infinite.
#[pg_extern]
fn embedding_from_doubles<'a>(
    array: SqlArray<'a>,
    typmod: i32,
    _explicit: bool,
) -> NewEmbedding<'a> {
    from_plain(&array, typmod, |element: f64| element as f32)
}

#[pg_extern]
fn embedding_from_numerics<'a>(
    array: SqlArray<'a>,
    typmod: i32,
    _explicit: bool,
) -> NewEmbedding<'a> {
    check_array(&array);
    from_elements(numerics(&array), typmod, |element| {
        // SAFETY: numeric_float4 takes one numeric, returns a real or raises.
        unsafe { direct_function_call::<f32>(pg_sys::numeric_float4, &[Some(element)]) }
            .unwrap_or_else(|| unreachable!("numeric_float4 never returns NULL"))
    })
}

#[pg_extern]
fn embedding_to_reals<'a>(
    value: Embedding<'a>,
    _typmod: i32,
    _explicit: bool,
) -> NewArray<'a, f32> {
    to_plain(value, |element| element)
}

#[pg_extern]
fn embedding_to_doubles<'a>(
    value: Embedding<'a>,
    _typmod: i32,
    _explicit: bool,
) -> NewArray<'a, f64> {
    to_plain(value, f64::from)
}

/// Rounds half to even, as the cast from `real` does.
#[pg_extern]
fn embedding_to_integers<'a>(
    value: Embedding<'a>,
    _typmod: i32,
    _explicit: bool,
) -> NewArray<'a, i32> {
    to_plain(value, |element| {
        let rounded = f64::from(element).round_ties_even();
        if rounded < f64::from(i32::MIN) || rounded > f64::from(i32::MAX) {
            raise(
                PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                "integer out of range",
            );
        }
        rounded as i32
    })
}

#[pg_extern]
fn embedding_to_numerics(value: Embedding<'_>, _typmod: i32, _explicit: bool) -> Vec<AnyNumeric> {
    value
        .iter()
        .map(|element| {
            // SAFETY: float4_numeric takes one real, returns a numeric.
            unsafe { direct_function_call(pg_sys::float4_numeric, &[element.into_datum()]) }
                .unwrap_or_else(|| unreachable!("float4_numeric never returns NULL"))
        })
        .collect()
}

fn to_plain<'a, T: PlainElement>(
    value: Embedding<'a>,
    convert: impl Fn(f32) -> T,
) -> NewArray<'a, T> {
    let mut array = NewArray::zeroed(value.len());
    for (result, element) in array.elements_mut().iter_mut().zip(value.iter()) {
        *result = convert(*element);
    }
    array
}

fn from_plain<'a, T: PlainElement>(
    array: &SqlArray<'a>,
    typmod: i32,
    convert: impl Fn(T) -> f32,
) -> NewEmbedding<'a> {
    check_array(array);
    let elements = array
        .elements::<T>()
        .unwrap_or_else(|| unreachable!("the SQL declaration names another element type"));
    from_elements(elements, typmod, convert)
}

fn check_array(array: &SqlArray<'_>) {
    if array.axes() > 1 {
        raise(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION, "array must be 1-D");
    }
    if array.has_nulls() {
        raise(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            "array must not contain nulls",
        );
    }
}

fn from_elements<'a, T: Copy>(
    elements: &[T],
    typmod: i32,
    convert: impl Fn(T) -> f32,
) -> NewEmbedding<'a> {
    check_dimensions(elements.len()).or_report();
    check_typmod(typmod, elements.len()).or_report();
    let mut new = NewEmbedding::zeroed(elements.len());
    for (result, element) in new.elements_mut().iter_mut().zip(elements) {
        *result = convert(*element);
        check_finite(*result).or_report();
    }
    new
}

/// The elements of a `numeric[]` without NULLs, as datums that point into it.
fn numerics<'a>(array: &'a SqlArray<'_>) -> &'a [pg_sys::Datum] {
    let mut datums = ptr::null_mut();
    let mut count: c_int = 0;
    // SAFETY: numeric is a varlena (-1) aligned to int ('i'), passed by reference; the array is
    // detoasted. `datums` is palloc'd in the memory context of the call.
    unsafe {
        pg_sys::deconstruct_array(
            array.as_ptr(),
            pg_sys::NUMERICOID,
            -1,
            false,
            pg_sys::TYPALIGN_INT as _,
            &mut datums,
            ptr::null_mut(),
            &mut count,
        );
        slice::from_raw_parts(datums, count as usize)
    }
}
