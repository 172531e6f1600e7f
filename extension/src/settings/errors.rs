//! What users are told: the one table from the vision crate's error codes to SQLSTATEs and hints.

use lookbook_vision::ErrorCode;
use lookbook_worker::protocol::Refusal;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;
use std::backtrace::Backtrace;
use std::env;

/// An error on its way to the user: SQLSTATE, message, detail, hint.
pub(crate) type UserError = ErrorReport;

/// Keeps backtraces out of DETAIL, where pgrx puts them if the server runs with `RUST_BACKTRACE` set.
/// Called once, from `_PG_init`.
pub(crate) fn keep_backtraces_from_users() {
    const SWITCH: &str = "RUST_LIB_BACKTRACE";
    let before = env::var_os(SWITCH);
    // SAFETY: a backend has one thread while it loads a library, so nobody reads the environment.
    unsafe { env::set_var(SWITCH, "0") };
    // The first capture decides for good; the library has a std of its own, so it does so only here.
    let _ = Backtrace::capture();
    match before {
        // SAFETY: as above.
        Some(value) => unsafe { env::set_var(SWITCH, value) },
        // SAFETY: as above.
        None => unsafe { env::remove_var(SWITCH) },
    }
}

/// A user error without detail or hint.
pub(crate) fn error(code: PgSqlErrorCode, message: impl Into<String>) -> UserError {
    ErrorReport::new(code, message.into(), "lookbook")
}

/// What goes on past images that cannot be read.
const INSTEAD: &str = "try_embed_image() gives NULL, try_detect_garments() and try_shop_the_look() give no rows instead of this error.";

/// SQLSTATE and hint of every way in which the vision crate can fail; docs/models-in-sql.md has the
/// same table.
fn table(code: ErrorCode) -> (PgSqlErrorCode, Option<&'static str>) {
    use PgSqlErrorCode as State;
    match code {
        ErrorCode::ImageEmpty | ErrorCode::NotAnImage | ErrorCode::ImageCorrupt => {
            (State::ERRCODE_INVALID_BINARY_REPRESENTATION, Some(INSTEAD))
        }
        ErrorCode::ImageTruncated => (State::ERRCODE_STRING_DATA_LENGTH_MISMATCH, Some(INSTEAD)),
        ErrorCode::ImageUnsupported => (State::ERRCODE_FEATURE_NOT_SUPPORTED, Some(INSTEAD)),
        ErrorCode::ImageTooLarge => (
            State::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Some("The limits are lookbook.max_image_bytes and lookbook.max_image_pixels."),
        ),
        ErrorCode::ManifestInvalid => (
            State::ERRCODE_INVALID_PARAMETER_VALUE,
            Some("docs/architecture.md describes every key of a manifest."),
        ),
        ErrorCode::ModelDigestMismatch | ErrorCode::ModelMismatch | ErrorCode::InvalidSetting => {
            (State::ERRCODE_INVALID_PARAMETER_VALUE, None)
        }
        ErrorCode::ModelInvalid => (State::ERRCODE_INVALID_BINARY_REPRESENTATION, None),
        ErrorCode::ModelUnsupported => (State::ERRCODE_FEATURE_NOT_SUPPORTED, None),
        ErrorCode::RuntimeMissing => (
            State::ERRCODE_UNDEFINED_FILE,
            Some(
                "make install puts the library there; a superuser may name another with lookbook.onnxruntime.",
            ),
        ),
        ErrorCode::ProviderUnavailable => (
            State::ERRCODE_SYSTEM_ERROR,
            Some(
                "lookbook.device chooses the device: cpu, openvino, openvino:bf16, cuda, cuda:N or auto.",
            ),
        ),
        ErrorCode::InferenceFailed => (State::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION, None),
        ErrorCode::OutOfMemory => (
            State::ERRCODE_OUT_OF_MEMORY,
            Some("lookbook.worker_memory is what the inference worker may have."),
        ),
        ErrorCode::Cancelled => (State::ERRCODE_QUERY_CANCELED, None),
        _ => (State::ERRCODE_INTERNAL_ERROR, None),
    }
}

/// What a user is told of an error of the vision crate, here or in the worker.
pub(crate) fn from_vision(failure: impl Into<Refusal>) -> UserError {
    let failure = failure.into();
    let (state, hint) = table(failure.code);
    let told = error(state, failure.text);
    match hint {
        Some(hint) => told.set_hint(hint),
        None => told,
    }
}

/// A row of `lookbook_model` that was not stored, and why.
pub(crate) fn refused_model(name: &str, reason: impl Into<Refusal>) -> UserError {
    let reason = reason.into();
    let (state, hint) = table(reason.code);
    let reason = reason.text;
    let told = if reason.starts_with("model \"") {
        error(state, reason)
    } else {
        error(state, format!("model \"{name}\" was refused: {reason}"))
    };
    match hint {
        Some(hint) => told.set_hint(hint),
        None => told,
    }
}
