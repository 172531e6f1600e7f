//! The background worker that keeps the inference process alive.
//!
//! It has one thread, always: it forks. Invariants: at most one supervisor serves a data directory;
//! the inference process never outlives it; a request that wakes a fresh process stays in the
//! socket's backlog until that process accepts it.

use super::process::{Ended, InferenceProcess};
use super::{SOCKET, SUPERVISOR_LOCK, make_folder, try_lock};
use crate::settings;
use lookbook_worker::protocol::Reply;
use lookbook_worker::{Origin, turn_away};
use pgrx::bgworkers::{BackgroundWorker, SignalWakeFlags};
use pgrx::prelude::*;
use pgrx::{check_for_interrupts, pg_sys};
use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

/// From the wish to stop to SIGKILL; the inference process itself ends a little sooner.
const STOP_TIME: Duration = Duration::from_millis(800);
/// Between two starts of an inference process that dies; doubled with each in a row that could not begin.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_RESTART_PAUSE: Duration = Duration::from_secs(60);
/// Before a supervisor that the postmaster starts tries again to have a socket.
const BLOCKED_PAUSE: Duration = Duration::from_secs(60);
/// How often it looks whether its socket is still there.
const SOCKET_CHECK: Duration = Duration::from_secs(2);

/// Entry point, named at registration. The argument tells whether the postmaster restarts us.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn lookbook_worker_main(argument: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(
        SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM | SignalWakeFlags::SIGCHLD,
    );
    BackgroundWorker::connect_worker_to_spi(None, None);
    let is_blocked = match Supervisor::new() {
        Ok(Some(mut supervisor)) => {
            supervisor.run();
            false
        }
        Ok(None) => {
            log!("lookbook worker: another one serves this data directory");
            true
        }
        Err(error) => {
            warning!("lookbook worker: could not open {SOCKET}: {error}");
            true
        }
    };
    if is_blocked && argument.value() != 0 {
        // The postmaster would have us back in a second, for the same words.
        BackgroundWorker::wait_latch(Some(BLOCKED_PAUSE));
    }
    if argument.value() != 0 {
        // Exit code 1 asks the postmaster for another one, unless the server stops.
        // SAFETY: ends this process in good order.
        unsafe { pg_sys::proc_exit(1) };
    }
}

struct Supervisor {
    /// Holds the lock as long as this process lives.
    _lock: File,
    listener: UnixListener,
    /// The number of the socket's file.
    inode: u64,
    process: Option<InferenceProcess>,
    restarts: u64,
    /// Not before this moment is another process started.
    next_start: Instant,
    /// How many in a row could not begin, and why the last one could not: what callers are told meanwhile.
    failed: u32,
    reason: String,
}

impl Supervisor {
    /// `None` when there is one already.
    fn new() -> io::Result<Option<Supervisor>> {
        make_folder()?;
        let Some(mut lock) = try_lock(SUPERVISOR_LOCK)? else {
            return Ok(None);
        };
        lock.set_len(0)?;
        writeln!(lock, "{}", std::process::id())?;
        // Left by a supervisor that was killed: the lock says that it is gone.
        match fs::remove_file(SOCKET) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(SOCKET)?;
        fs::set_permissions(SOCKET, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Some(Supervisor {
            _lock: lock,
            listener,
            inode: fs::symlink_metadata(SOCKET)?.ino(),
            process: None,
            restarts: 0,
            next_start: Instant::now(),
            failed: 0,
            reason: String::new(),
        }))
    }

    fn run(&mut self) {
        self.report();
        // Who is found nowhere makes room for one who is: the next caller, or the postmaster, starts it.
        while !BackgroundWorker::sigterm_received() && self.is_found() {
            self.reap();
            if BackgroundWorker::sighup_received() {
                // SAFETY: the flag was set by the signal; this is the place to read the file.
                unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
                if let Some(process) = &self.process {
                    process.tell(&settings::worker::of_server().to_line());
                }
            }
            let is_asked_for = self.wait(None);
            if !is_asked_for || self.process.is_some() {
                continue;
            }
            if Instant::now() >= self.next_start {
                self.start();
            } else if self.failed > 0 {
                self.refuse();
            }
        }
        // Whoever comes now finds no socket, and starts another supervisor.
        if self.is_found() {
            let _ = fs::remove_file(SOCKET);
        }
        self.stop();
        turn_away(&self.listener, &Reply::Again);
    }

    /// Whether callers who look for the socket find this one.
    fn is_found(&self) -> bool {
        fs::symlink_metadata(SOCKET).is_ok_and(|file| file.ino() == self.inode)
    }

    fn start(&mut self) {
        let origin = Origin {
            supervisor: std::process::id(),
            restarts: self.restarts,
        };
        self.next_start = Instant::now() + RESTART_PAUSE;
        match InferenceProcess::start(&self.listener, settings::worker::of_server(), origin) {
            Ok(process) => self.process = Some(process),
            Err(error) => self.could_not_start(&error.to_string()),
        }
        self.report();
    }

    fn could_not_start(&mut self, how: &str) {
        self.failed += 1;
        let doubled = 1 << self.failed.min(16);
        let pause = (RESTART_PAUSE * doubled).min(LONGEST_RESTART_PAUSE);
        self.next_start = Instant::now() + pause;
        self.reason = format!("its process could not start: {how}");
        warning!(
            "lookbook worker: could not start an inference process: {how}; the next attempt is made in {} s at the earliest",
            pause.as_secs_f32()
        );
        self.refuse();
    }

    fn refuse(&self) {
        let reason = self.reason.clone();
        turn_away(&self.listener, &Reply::NoProcess { reason });
    }

    /// Notices the end of the inference process.
    fn reap(&mut self) {
        let Some(ended) = self.process.as_ref().and_then(InferenceProcess::ended) else {
            return;
        };
        let pid = self.process.take().map_or(0, |process| process.pid());
        self.restarts += 1;
        match ended {
            Ended::InGoodOrder => self.failed = 0,
            Ended::Badly(how) => {
                self.failed = 0;
                log!(
                    "lookbook inference process (PID {pid}) {how}; the next request starts another"
                );
            }
            Ended::AtItsStart(how) => self.could_not_start(&format!("it {how} at once")),
        }
        self.report();
    }

    fn stop(&mut self) {
        let deadline = Instant::now() + STOP_TIME;
        if let Some(process) = &self.process {
            process.tell("drain\n");
        }
        while self.process.is_some() && Instant::now() < deadline {
            self.wait(Some(deadline));
            self.reap();
        }
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Waits for a signal, a connection that nobody accepts, or `until`; whether there is such a
    /// connection.
    fn wait(&self, until: Option<Instant>) -> bool {
        let now = Instant::now();
        let is_starting_allowed = now >= self.next_start;
        let mut events = pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH | pg_sys::WL_TIMEOUT;
        let answers = is_starting_allowed || self.failed > 0;
        if self.process.is_none() && answers && until.is_none() {
            events |= pg_sys::WL_SOCKET_READABLE;
        }
        let pause = (!is_starting_allowed && self.process.is_none()).then_some(self.next_start);
        let look = now + SOCKET_CHECK;
        let wake = until.unwrap_or_else(|| pause.map_or(look, |pause| pause.min(look)));
        let timeout = wake.saturating_duration_since(now) + Duration::from_millis(1);
        // SAFETY: our own latch and socket; the postmaster's death ends this process, and thereby its
        // child.
        let happened = unsafe {
            let happened = pg_sys::WaitLatchOrSocket(
                pg_sys::MyLatch,
                events as i32,
                self.listener.as_raw_fd(),
                timeout.as_millis() as i64,
                pg_sys::PG_WAIT_EXTENSION,
            );
            pg_sys::ResetLatch(pg_sys::MyLatch);
            happened
        };
        // Barriers of other processes wait for us.
        check_for_interrupts!();
        happened & pg_sys::WL_SOCKET_READABLE as i32 != 0
    }

    /// What `pg_stat_activity` shows.
    fn report(&self) {
        let (state, text) = match &self.process {
            Some(process) => (
                pg_sys::BackendState::STATE_RUNNING,
                format!("inference process {}", process.pid()),
            ),
            None => (
                pg_sys::BackendState::STATE_IDLE,
                "no inference process: nothing was asked for lately".to_owned(),
            ),
        };
        let text = CString::new(text).unwrap_or_default();
        // SAFETY: a NUL-terminated string, copied by the callee.
        unsafe { pg_sys::pgstat_report_activity(state, text.as_ptr()) };
    }
}
