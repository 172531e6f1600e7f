//! Where panics go. PostgreSQL gets their message as an ERROR; where it happened is for the server's
//! log. pgrx's own hook would hand a backtrace to the user when `RUST_BACKTRACE` is set.

use std::panic;

/// Replaces the hook that loading the library has set.
pub(crate) fn keep_from_users() {
    panic::set_hook(Box::new(|info| {
        // Errors on their way to PostgreSQL unwind too, with payloads of their own: no panics.
        if info.payload_as_str().is_some() {
            eprintln!("lookbook: {info}");
        }
    }));
}
