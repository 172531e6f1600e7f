//! The one table from `vecmath`'s errors to SQLSTATEs, as pgvector assigns them.

use lookbook_vecmath::Error;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;
use std::borrow::Cow;
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

#[cold]
fn report(error: Error) -> ! {
    let report = ErrorReport::new(sqlstate(&error), error.to_string(), "embedding");
    panic_any(match error {
        Error::Syntax {
            detail: Some(detail),
            ..
        } => report.set_detail(detail),
        _ => report,
    })
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
