//! The PostgreSQL extension `lookbook`: glue between SQL and the crates.
//!
//! The SQL objects are in `sql/lookbook--VERSION.sql`, by hand; a function there names the
//! `#[pg_extern]` function here plus `_wrapper`. Nothing outside this crate knows PostgreSQL.

#![allow(
    clippy::result_large_err,
    reason = "a #[pg_extern] function returns pgrx's ErrorReport by value"
)]

#[cfg(not(panic = "unwind"))]
compile_error!("pgrx turns panics into errors by unwinding: build with panic = \"unwind\"");

mod access;
mod embedding;
mod inference;
mod models;
mod settings;
mod worker;

pgrx::pg_module_magic!();

/// Runs when a backend loads the library. ONNX Runtime waits for the first inference.
#[pgrx::pg_guard]
extern "C-unwind" fn _PG_init() {
    settings::errors::keep_backtraces_from_users();
    lookbook_vision::keep_telemetry_off();
    access::register();
    models::register();
    // After all others: it reserves the prefix, and drops settings under it that nobody has registered yet.
    settings::register();
    worker::register();
}
