//! The one owner of what a user reads on standard error and of the exit code.
//!
//! Invariants: what a terminal would obey in the names of files and products is shown, not sent; no panic message and no backtrace reaches a user; every error
//! starts with `lookbook: error:`, is one line but for mistakes in the command line, and names the thing, the reason and what to do.

use std::{
    cell::Cell,
    fmt::Display,
    io::{self, Write},
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI8, Ordering},
    },
};

use anyhow::Result;
use indicatif::ProgressBar;

/// How a run that did not fail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Everything asked for was done: exit code 0.
    Complete,
    /// Some photos were rejected, or the run was interrupted: exit code 2.
    Partial,
}

/// Exit code of an error: nothing more could be done.
const FATAL: u8 = 1;
/// Exit code of [`Ending::Partial`].
const PARTIAL: u8 = 2;

static VERBOSITY: AtomicI8 = AtomicI8::new(0);
static BY_LOG: AtomicBool = AtomicBool::new(false);
static IS_READ: AtomicBool = AtomicBool::new(true);
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// `quiet` hides warnings, each `verbose` shows more.
pub fn set_verbosity(quiet: bool, verbose: u8) {
    let level = if quiet {
        -1
    } else {
        i8::try_from(verbose).unwrap_or(i8::MAX)
    };
    VERBOSITY.store(level, Ordering::Relaxed);
}

/// Whether the user asked for details (`-v`).
pub fn is_verbose() -> bool {
    VERBOSITY.load(Ordering::Relaxed) > 0
}

/// From now on messages are log events, and nothing else goes to standard error.
pub fn say_by_log() {
    BY_LOG.store(true, Ordering::Relaxed);
}

/// Whether messages are log events.
pub fn is_by_log() -> bool {
    BY_LOG.load(Ordering::Relaxed)
}

/// A text without what changes more than its own place in a line: control characters, and those that turn the direction
/// of writing, as Rust writes them.
pub fn shown(text: impl Display) -> String {
    shown_but(&text.to_string(), |_| false)
}

/// As [`shown`], but for line ends.
fn shown_lines(text: impl Display) -> String {
    shown_but(&text.to_string(), |c| c == '\n')
}

fn shown_but(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let is_obeyed =
            c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match is_obeyed && !stays(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// `1 photo`, `2 photos`.
pub fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Something went wrong, and the run goes on.
pub fn warn(message: impl Display) {
    if is_by_log() {
        tracing::warn!("{message}");
    } else if VERBOSITY.load(Ordering::Relaxed) >= 0 {
        line(format_args!("lookbook: warning: {}", shown(message)));
    }
}

/// What the run is doing; shown unless the user asked for quiet.
pub fn note(message: impl Display) {
    if is_by_log() {
        tracing::info!("{message}");
    } else if VERBOSITY.load(Ordering::Relaxed) >= 0 {
        line(format_args!("lookbook: {}", shown(message)));
    }
}

/// Shown with `-v` only.
pub fn detail(message: impl Display) {
    if is_by_log() {
        tracing::debug!("{message}");
    } else if is_verbose() {
        line(message);
    }
}

/// Writes for people to standard output.
pub fn print(text: impl Display) -> Result<()> {
    print_exactly(shown_lines(text))
}

/// Writes for programs to standard output. A reader that went away (`| head`) is told no more; the run goes on, for its
/// rows, its files and its exit code are asked for, too.
pub fn print_exactly(text: impl Display) -> Result<()> {
    if !is_read() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            IS_READ.store(false, Ordering::Relaxed);
            Ok(())
        }
        written => Ok(written?),
    }
}

/// Whether somebody may still read standard output; who only lists things need not go on for nobody.
pub fn is_read() -> bool {
    IS_READ.load(Ordering::Relaxed)
}

/// From now on messages appear above this bar; `None` when it is gone.
pub fn set_bar(bar: Option<ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

fn line(text: impl Display) {
    // Standard error may be closed; there is nowhere left to say so.
    let _ = above_bar(|| writeln!(io::stderr().lock(), "{}", shown_lines(text)));
}

/// Runs `print`, which writes whole lines to standard error, while the bar is out of the way.
pub fn above_bar<T>(print: impl FnOnce() -> T) -> T {
    match BAR.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        Some(bar) => bar.suspend(print),
        None => print(),
    }
}

/// What ends the run.
fn error(text: impl Display) {
    if is_by_log() {
        tracing::error!("{text}");
    } else {
        line(format_args!("lookbook: error: {}", shown(text)));
    }
}

/// Runs the program and turns its ending into an exit code: 0 complete, 1 fatal, 2 partial.
pub fn finish(program: impl FnOnce() -> Result<Ending>) -> ExitCode {
    panic::set_hook(Box::new(|panic| {
        if CONTAINED.get() {
            return;
        }
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        error(format_args!(
            "internal error at {place}: {}; this is a bug in lookbook, please report it",
            panic_text(panic.payload())
        ));
    }));
    match panic::catch_unwind(AssertUnwindSafe(program)) {
        Ok(Ok(Ending::Complete)) => ExitCode::SUCCESS,
        Ok(Ok(Ending::Partial)) => ExitCode::from(PARTIAL),
        Ok(Err(error)) => fail(&error),
        Err(_) => ExitCode::from(FATAL),
    }
}

/// What the process will end with.
pub fn exit_code(ending: &Result<Ending>) -> u8 {
    match ending {
        Ok(Ending::Complete) => 0,
        Ok(Ending::Partial) => PARTIAL,
        Err(_) => FATAL,
    }
}

/// Runs `work`; a panic in it becomes `Err` with its text and is not shown. For decoders of hostile
/// files, where one file must not end the run.
pub fn contain<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    CONTAINED.set(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(false);
    outcome.map_err(|payload| panic_text(payload.as_ref()))
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}

fn fail(cause: &anyhow::Error) -> ExitCode {
    if let Some(usage) = cause.downcast_ref::<clap::Error>() {
        // Help and version come as errors too; `print` picks the right stream.
        let text = usage.render().to_string();
        match text.strip_prefix("error: ") {
            Some(mistake) => line(format_args!("lookbook: error: {}", mistake.trim_end())),
            None => drop(usage.print()),
        }
        return match usage.use_stderr() {
            true => ExitCode::from(FATAL),
            false => ExitCode::SUCCESS,
        };
    }
    error(render(cause));
    ExitCode::from(FATAL)
}

/// The chain of causes in one line; for what the server said, its message, detail and hint.
pub fn render(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let part = match cause.downcast_ref::<postgres::error::DbError>() {
            Some(server) => {
                let extras = [server.detail(), server.hint()];
                let extras = extras.iter().flatten().map(|extra| format!(" ({extra})"));
                format!("{}{}", server.message(), extras.collect::<String>())
            }
            // Its text is "db error" and its cause says it all.
            None if is_wrapper_of_server_error(cause) => continue,
            None => cause.to_string(),
        };
        // Some causes repeat the text of their own cause.
        if !parts.last().is_some_and(|last| last.ends_with(&part)) {
            parts.push(part);
        }
    }
    parts.join(": ")
}

fn is_wrapper_of_server_error(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause
        .downcast_ref::<postgres::Error>()
        .is_some_and(|error| error.as_db_error().is_some())
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_chain_of_causes_is_one_line_without_repetition() {
        let error = anyhow!("no such file").context("cannot read a.jpg: no such file");
        assert_eq!(render(&error), "cannot read a.jpg: no such file");
        let error = anyhow!("no such file").context("cannot read a.jpg");
        assert_eq!(render(&error), "cannot read a.jpg: no such file");
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        let name = "e\x1b[31mRED\x1b]0;pwned\x07a\u{202e}gpj.\u{2066}\u{9b}\r\n é שלום.jpg";
        assert_eq!(
            shown(name),
            "e\\u{1b}[31mRED\\u{1b}]0;pwned\\u{7}a\\u{202e}gpj.\\u{2066}\\u{9b}\\r\\n é שלום.jpg"
        );
        assert_eq!(shown_lines("a\n\tb"), "a\n\\tb");
    }

    #[test]
    fn a_contained_panic_becomes_its_text() {
        assert_eq!(contain(|| 7), Ok(7));
        panic::set_hook(Box::new(|_| {}));
        assert_eq!(
            contain(|| -> u8 { panic!("boom {}", 1) }),
            Err("boom 1".to_owned())
        );
        let _ = panic::take_hook();
    }
}
