//! Logs for machines and for the curious: `tracing` events on standard error.
//!
//! Invariant: a log line never breaks the progress bar, and with `--log-format json` standard error
//! holds nothing but JSON objects, one per line: what a person would read becomes an event, too.

use std::io::{self, Write};

use anyhow::{Context, Result};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::{
    args::{LogArgs, LogFormat},
    messages,
};

/// Starts logging as asked for; call once, before anything is said.
pub fn start(args: &LogArgs) -> Result<()> {
    let is_json = args.log_format == LogFormat::Json;
    let filter = match (&args.log, is_json) {
        (Some(filter), _) => filter.as_str(),
        // Messages stand for it.
        (None, false) => return Ok(()),
        (None, true) => "info",
    };
    let filter = EnvFilter::try_new(filter).with_context(|| {
        format!("--log {filter:?} is not understood: give error, warn, info, debug, trace or lookbook=debug")
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(AboveBar)
        .with_ansi(false);
    let started = if is_json {
        messages::say_by_log();
        subscriber.json().flatten_event(true).try_init()
    } else {
        subscriber.with_target(false).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

#[derive(Clone, Copy)]
struct AboveBar;

impl Write for AboveBar {
    /// An event comes in one piece. Where standard error is closed there is nowhere left to say so, and the subscriber
    /// would try.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = messages::above_bar(|| io::stderr().lock().write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for AboveBar {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}
