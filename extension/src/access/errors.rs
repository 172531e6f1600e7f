//! The one table from the index's errors to SQLSTATEs.

use super::columns;
use super::store::BufferStore;
use lookbook_ann::Error;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgRelation, PgSqlErrorCode, pg_sys};
use std::panic::panic_any;

/// The value, or an ERROR that names the index.
pub(super) fn or_raise<T>(result: lookbook_ann::Result<T>, index: pg_sys::Relation) -> T {
    match result {
        Ok(value) => value,
        Err(error @ Error::Contended { .. }) => raise(&damage_behind(error, index), index),
        Err(error) => raise(&error, index),
    }
}

/// Who finds no way through the index so often may be looking for a page that is lost: a look at all pages
/// tells. Nothing is locked any more when an operation has failed.
#[cold]
fn damage_behind(contended: Error, index: pg_sys::Relation) -> Error {
    // SAFETY: the relation is open for the whole call, as in `raise`.
    let store = unsafe { BufferStore::new(index) };
    match columns::open(&store).and_then(|mut index| index.check(&store)) {
        Err(damage @ Error::Corrupt { .. }) => damage,
        _ => contended,
    }
}

#[cold]
fn raise(error: &Error, index: pg_sys::Relation) -> ! {
    use PgSqlErrorCode as Code;
    // SAFETY: callers pass the relation that PostgreSQL handed to them, open for the whole call.
    let name = unsafe { PgRelation::from_pg(index) }.name().to_owned();
    let report = |code, message: String| ErrorReport::new(code, message, "lookbook");
    panic_any(match error {
        Error::Corrupt { .. } => report(
            Code::ERRCODE_INDEX_CORRUPTED,
            format!("index \"{name}\" is corrupted: {error}"),
        )
        .set_hint("REINDEX builds it again from the table."),
        Error::Dimensions { expected, found } => report(
            Code::ERRCODE_DATA_EXCEPTION,
            format!("different embedding dimensions {expected} and {found}"),
        ),
        Error::Option { .. } => report(Code::ERRCODE_INVALID_PARAMETER_VALUE, error.to_string()),
        Error::Contended { .. } => report(
            Code::ERRCODE_OBJECT_IN_USE,
            format!("index \"{name}\" is busy: {error}"),
        ),
        Error::Interrupted => report(Code::ERRCODE_QUERY_CANCELED, error.to_string()),
        Error::FilterColumns { .. } | Error::TooManyPages { .. } => report(
            Code::ERRCODE_INTERNAL_ERROR,
            format!("index \"{name}\": {error}"),
        ),
    })
}

/// Raises an ERROR about something that the index does not know, with a hint.
#[cold]
pub(super) fn refuse(code: PgSqlErrorCode, message: impl Into<String>, hint: &str) -> ! {
    panic_any(ErrorReport::new(code, message.into(), "lookbook").set_hint(hint))
}
