//! What `pg_stat_progress_create_index` says.

use pgrx::{pg_guard, pg_sys};
use std::ffi::{CStr, c_char};

/// The phases of a build. PostgreSQL calls the first one "initializing" in every access method.
#[derive(Clone, Copy)]
pub(super) enum Phase {
    Sampling = 2,
    Clustering,
    Encoding,
    Sorting,
    Writing,
    Calibrating,
}

impl Phase {
    const ALL: [(Phase, &'static CStr); 6] = [
        (Phase::Sampling, c"sampling table"),
        (Phase::Clustering, c"clustering sample"),
        (Phase::Encoding, c"encoding rows"),
        (Phase::Sorting, c"sorting rows"),
        (Phase::Writing, c"writing lists"),
        (Phase::Calibrating, c"calibrating"),
    ];

    /// Begins the phase, which handles so many rows, if that is known.
    pub(super) fn begin(self, rows: u64) {
        report(pg_sys::PROGRESS_CREATEIDX_SUBPHASE, self as u64);
        report(pg_sys::PROGRESS_CREATEIDX_TUPLES_TOTAL, rows);
        report(pg_sys::PROGRESS_CREATEIDX_TUPLES_DONE, 0);
    }
}

/// Says how many rows the phase has handled.
pub(super) fn rows_done(rows: u64) {
    report(pg_sys::PROGRESS_CREATEIDX_TUPLES_DONE, rows);
}

fn report(parameter: u32, value: u64) {
    // SAFETY: writes the backend's own entry of shared memory.
    unsafe { pg_sys::pgstat_progress_update_param(parameter as i32, value as i64) }
}

#[pg_guard]
pub(in super::super) unsafe extern "C-unwind" fn ambuildphasename(phase: i64) -> *mut c_char {
    let name = match phase {
        1 => Some(c"initializing"),
        _ => Phase::ALL
            .into_iter()
            .find(|(known, _)| *known as i64 == phase)
            .map(|(_, name)| name),
    };
    // PostgreSQL only reads it.
    name.map_or(std::ptr::null_mut(), |name| name.as_ptr().cast_mut())
}
