//! Text and binary input and output, the type modifier (dimensions), and the cast that checks it.

use super::arrays::{SqlArray, integer_typmods};
use super::errors::{OrReport, raise, report_to};
use super::{Embedding, NewEmbedding};
use lookbook_vecmath::{Error, MAX_DIMENSIONS, text, wire};
use pgrx::datum::Internal;
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, pg_sys};
use std::ffi::{CStr, CString, c_char, c_int};
use std::slice;

#[pg_extern]
fn embedding_in<'a>(
    literal: &'a CStr,
    _element: pg_sys::Oid,
    typmod: i32,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Option<NewEmbedding<'a>> {
    let parsed = text::parse(literal.to_bytes()).and_then(|elements| {
        check_typmod(typmod, elements.len())?;
        Ok(elements)
    });
    match parsed {
        Ok(elements) => Some(NewEmbedding::from_slice(&elements)),
        Err(error) => {
            // SAFETY: the call that is being answered.
            report_to(unsafe { (*fcinfo).context }, error);
            None
        }
    }
}

unsafe extern "C-unwind" {
    /// `common/f2s.c`: the shortest text that reads back as `value`, not terminated; returns its
    /// length, at most `FLOAT_SHORTEST_DECIMAL_LEN - 1`. Never raises.
    fn float_to_shortest_decimal_bufn(value: f32, result: *mut c_char) -> c_int;
}

/// `common/shortest_dec.h`
const FLOAT_SHORTEST_DECIMAL_LEN: usize = 16;

#[pg_extern]
fn embedding_out(value: Embedding<'_>) -> CString {
    let mut literal = Vec::with_capacity(value.len() * (FLOAT_SHORTEST_DECIMAL_LEN - 3) + 2);
    literal.push(b'[');
    for (index, element) in value.iter().enumerate() {
        if index > 0 {
            literal.push(b',');
        }
        let mut digits = [0u8; FLOAT_SHORTEST_DECIMAL_LEN];
        // SAFETY: the buffer is as long as the function asks for.
        let length =
            unsafe { float_to_shortest_decimal_bufn(*element, digits.as_mut_ptr().cast()) };
        literal.extend_from_slice(&digits[..length as usize]);
    }
    literal.push(b']');
    // SAFETY: digits, signs, points, exponents, commas and brackets: no NUL among them.
    unsafe { CString::from_vec_unchecked(literal) }
}

#[pg_extern]
fn embedding_recv(
    mut message: Internal,
    _element: pg_sys::Oid,
    typmod: i32,
) -> NewEmbedding<'static> {
    // SAFETY: a receive function's first argument is the StringInfo of the message, whose unread
    // bytes are those from `cursor` to `len`.
    let (rest, cursor) = unsafe {
        let message = message
            .get_mut::<pg_sys::StringInfoData>()
            .unwrap_or_else(|| unreachable!("a STRICT function got NULL"));
        let unread = (message.len - message.cursor) as usize;
        let start = message.data.add(message.cursor as usize).cast::<u8>();
        (slice::from_raw_parts(start, unread), &mut message.cursor)
    };
    let (elements, read_bytes) = wire::decode(rest).or_report();
    check_typmod(typmod, elements.len()).or_report();
    *cursor += read_bytes as c_int;
    NewEmbedding::from_slice(&elements)
}

#[pg_extern]
fn embedding_send(value: Embedding<'_>) -> Vec<u8> {
    let mut message = Vec::new();
    wire::encode(&value, &mut message).or_report();
    message
}

/// `embedding(n)`: the type modifier is n.
#[pg_extern]
fn embedding_typmod_in(modifiers: SqlArray<'_>) -> i32 {
    let code = PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE;
    match *integer_typmods(&modifiers) {
        [dimensions] if dimensions < 1 => {
            raise(code, "dimensions for type embedding must be at least 1")
        }
        [dimensions] if dimensions as usize > MAX_DIMENSIONS => raise(
            code,
            format!("dimensions for type embedding cannot exceed {MAX_DIMENSIONS}"),
        ),
        [dimensions] => dimensions,
        _ => raise(code, "invalid type modifier"),
    }
}

/// `embedding` to `embedding(n)`: never changes the value.
#[pg_extern]
fn embedding_check_typmod<'a>(value: Embedding<'a>, typmod: i32, _explicit: bool) -> Embedding<'a> {
    check_typmod(typmod, value.len()).or_report();
    value
}

/// Does a value of that many dimensions fit a type modifier? -1 is none.
pub(super) fn check_typmod(typmod: i32, found: usize) -> Result<(), Error> {
    match usize::try_from(typmod) {
        Ok(expected) if expected != found => Err(Error::UnexpectedDimensions { expected, found }),
        _ => Ok(()),
    }
}
