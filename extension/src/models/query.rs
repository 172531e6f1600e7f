//! Read-only queries under the snapshot and the role of the calling statement.
//!
//! pgrx's own `select` turns read-write once the transaction has written: it would take a new
//! snapshot and advance the command counter inside a STABLE function, and fail in a parallel worker.

use pgrx::prelude::*;
use pgrx::{FromDatum, IntoDatum, pg_sys};
use std::ffi::CStr;

/// One result row; values live as long as the query.
pub(crate) struct Row {
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
}

impl Row {
    /// The value of column `number`, counted from 1; `None` for NULL.
    pub(crate) fn value<T: FromDatum>(&self, number: i32) -> Option<T> {
        let mut is_null = false;
        // SAFETY: tuple and descriptor come from the same SPI result, which outlives this row.
        unsafe {
            let datum =
                pg_sys::SPI_getbinval(self.tuple, self.descriptor, number, &raw mut is_null);
            T::from_datum(datum, is_null)
        }
    }
}

/// Runs `sql` with text parameters and maps its first row. Nothing but an error reaches the client meanwhile: a role may
/// ask for messages on every query (`debug_print_plan`), and where it does not read them this would wait for it, with
/// others behind who wait for the model that is being sent.
pub(crate) fn first_row<R>(
    sql: &CStr,
    parameters: &[&str],
    map: impl FnOnce(&Row) -> R,
) -> Option<R> {
    // SAFETY: settings of this nest level end below, or with the transaction after an error; static names and values.
    let level = unsafe {
        let level = pg_sys::NewGUCNestLevel();
        pg_sys::set_config_option(
            c"client_min_messages".as_ptr(),
            c"error".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        level
    };
    let found = Spi::connect(|_| execute(sql, parameters).map(|row| map(&row)));
    // SAFETY: the level begun above.
    unsafe { pg_sys::AtEOXact_GUC(true, level) };
    found
}

/// Inside an SPI connection, which the row lives as long as.
fn execute(sql: &CStr, parameters: &[&str]) -> Option<Row> {
    let mut types = vec![pg_sys::TEXTOID; parameters.len()];
    let mut values: Vec<pg_sys::Datum> = parameters
        .iter()
        .map(|text| text.into_datum().unwrap_or(pg_sys::Datum::null()))
        .collect();
    // SAFETY: inside an SPI connection; types and values have `parameters.len()` entries, none
    // NULL; the result is read before the connection ends.
    unsafe {
        pg_sys::SPI_execute_with_args(
            sql.as_ptr(),
            parameters.len() as i32,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            std::ptr::null(),
            true,
            1,
        );
        if pg_sys::SPI_processed == 0 || pg_sys::SPI_tuptable.is_null() {
            return None;
        }
        let table = pg_sys::SPI_tuptable;
        Some(Row {
            tuple: *(*table).vals,
            descriptor: (*table).tupdesc,
        })
    }
}
