//! Ctrl-C and SIGTERM. The first asks the run to stop in good order, the second ends it at once.
//!
//! Invariant: ending at once loses nothing that was committed; an open transaction is dropped by
//! the server.

use std::{
    process,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result};
use thiserror::Error;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Starts listening; call once.
pub fn listen() -> Result<()> {
    ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::SeqCst) {
            // The conventional code of an interrupted run that is partial, as the summary's.
            process::exit(2);
        }
    })
    .context("cannot listen for Ctrl-C")
}

/// Whether the user asked to stop.
pub fn is_requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// The user asked to stop, and what was under way did.
#[derive(Debug, Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Fails where the user asked to stop.
pub fn check() -> Result<(), Interrupted> {
    match is_requested() {
        true => Err(Interrupted),
        false => Ok(()),
    }
}
