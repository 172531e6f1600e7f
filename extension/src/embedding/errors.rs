//! The one table from `vecmath`'s errors to SQLSTATEs, as pgvector assigns them.

use lookbook_vecmath::Error;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgSqlErrorCode, pg_sys};
use std::borrow::Cow;
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
use std::ffi::{CString, c_int};
use std::panic::panic_any;

/// Raises what cannot be returned.
pub(crate) trait OrReport<T> {
    /// The value, or an ERROR with the SQLSTATE that belongs to it.
    fn or_report(self) -> T;
}

impl<T> OrReport<T> for Result<T, Error> {
    #[inline]
    fn or_report(self) -> T {
        match self {
            Ok(value) => value,
            Err(error) => report(error),
        }
    }
}

/// Where vectors that do not fit each other mostly come from.
const OF_TWO_MODELS: &str =
    "Vectors of two models do not mix: lookbook_embedding_column says which one filled a column.";

#[cold]
fn report(error: Error) -> ! {
    let report = ErrorReport::new(sqlstate(&error), error.to_string(), "embedding");
    panic_any(match error {
        Error::Syntax {
            detail: Some(detail),
            ..
        } => report.set_detail(detail),
        Error::DifferentDimensions { .. } | Error::UnexpectedDimensions { .. } => {
            report.set_hint(OF_TWO_MODELS)
        }
        _ => report,
    })
}

/// Tells a caller who asked to be told, as `pg_input_is_valid` does (`ErrorSaveContext`, `nodes/miscnodes.h`); raises
/// where nobody did.
#[cold]
pub(super) fn report_to(context: *mut pg_sys::Node, error: Error) {
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    // SAFETY: the context of a call is a node or null; texts are strings with their end, of which errsave_finish keeps
    // copies.
    unsafe {
        if !context.is_null() && pgrx::is_a(context, pg_sys::NodeTag::T_ErrorSaveContext) {
            if pg_sys::errsave_start(context, std::ptr::null()) {
                let text = |text: &str| CString::new(text).unwrap_or_default();
                errcode(sqlstate(&error) as c_int);
                pg_sys::errmsg_internal(c"%s".as_ptr(), text(&error.to_string()).as_ptr());
                if let Error::Syntax {
                    detail: Some(detail),
                    ..
                } = error
                {
                    pg_sys::errdetail_internal(c"%s".as_ptr(), text(detail).as_ptr());
                }
                pg_sys::errsave_finish(context, c"errors.rs".as_ptr(), 0, c"embedding".as_ptr());
            }
            return;
        }
    }
    #[cfg(any(feature = "pg14", feature = "pg15"))]
    let _ = context;
    report(error)
}

#[cfg(not(any(feature = "pg14", feature = "pg15")))]
unsafe extern "C-unwind" {
    /// `utils/elog.h`
    fn errcode(sqlstate: c_int) -> c_int;
}

/// Raises an ERROR about something that `vecmath` does not know.
#[cold]
pub(super) fn raise(code: PgSqlErrorCode, message: impl Into<Cow<'static, str>>) -> ! {
    panic_any(ErrorReport::new(code, message, "embedding"))
}

fn sqlstate(error: &Error) -> PgSqlErrorCode {
    use PgSqlErrorCode as Code;
    match error {
        Error::NoDimensions
        | Error::DifferentDimensions { .. }
        | Error::UnexpectedDimensions { .. }
        | Error::NotANumber
        | Error::Infinite
        | Error::Reserved { .. } => Code::ERRCODE_DATA_EXCEPTION,
        Error::TooManyDimensions => Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        Error::Syntax { .. } => Code::ERRCODE_INVALID_TEXT_REPRESENTATION,
        Error::OutOfRange { .. } | Error::Overflow | Error::Underflow => {
            Code::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE
        }
        Error::Truncated => Code::ERRCODE_PROTOCOL_VIOLATION,
    }
}
