//! The background worker that keeps the inference process alive.
//!
//! It has one thread, always: it forks. Invariants: at most one supervisor serves a data directory;
//! the inference process never outlives it; a request that wakes a fresh process stays in the
//! socket's backlog until that process accepts it.

use super::process::{Ended, InferenceProcess};
use super::{SOCKET, SUPERVISOR_LOCK, make_folder, try_lock};
use crate::settings;
use lookbook_worker::Origin;
use pgrx::bgworkers::{BackgroundWorker, SignalWakeFlags};
use pgrx::prelude::*;
use pgrx::{check_for_interrupts, pg_sys};
use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

/// From the wish to stop to SIGKILL; the inference process itself ends a little sooner.
const STOP_TIME: Duration = Duration::from_millis(800);
/// Between two starts of an inference process that dies.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// Before a supervisor that the postmaster starts tries again to have a socket.
const BLOCKED_PAUSE: Duration = Duration::from_secs(60);
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Entry point, named at registration. The argument tells whether the postmaster restarts us.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn lookbook_worker_main(argument: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(
        SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM | SignalWakeFlags::SIGCHLD,
    );
    BackgroundWorker::connect_worker_to_spi(None, None);
    match Supervisor::new() {
        Ok(Some(mut supervisor)) => supervisor.run(),
        Ok(None) => log!("lookbook worker: another one serves this data directory"),
        Err(error) => {
            warning!("lookbook worker: could not open {SOCKET}: {error}");
            if argument.value() != 0 {
                // The postmaster would have us back in a second, for the same words.
                BackgroundWorker::wait_latch(Some(BLOCKED_PAUSE));
            }
        }
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
    process: Option<InferenceProcess>,
    restarts: u64,
    /// Not before this moment is another process started.
    next_start: Instant,
}

/// The view `lookbook_worker` takes the lock for a moment when it looks who has it.
fn patient_lock() -> io::Result<Option<File>> {
    for _ in 0..LOCK_ATTEMPTS {
        if let Some(lock) = try_lock(SUPERVISOR_LOCK)? {
            return Ok(Some(lock));
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Ok(None)
}

impl Supervisor {
    /// `None` when there is one already.
    fn new() -> io::Result<Option<Supervisor>> {
        make_folder()?;
        let Some(mut lock) = patient_lock()? else {
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
            process: None,
            restarts: 0,
            next_start: Instant::now(),
        }))
    }

    fn run(&mut self) {
        self.report();
        while !BackgroundWorker::sigterm_received() {
            self.reap();
            if BackgroundWorker::sighup_received() {
                // SAFETY: the flag was set by the signal; this is the place to read the file.
                unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
                if let Some(process) = &self.process {
                    process.tell(&settings::worker::of_server().to_line());
                }
            }
            let is_asked_for = self.wait(None);
            if is_asked_for && self.process.is_none() && Instant::now() >= self.next_start {
                self.start();
            }
        }
        // Whoever comes now finds no socket, and starts another supervisor.
        let _ = fs::remove_file(SOCKET);
        self.stop();
    }

    fn start(&mut self) {
        let origin = Origin {
            supervisor: std::process::id(),
            restarts: self.restarts,
        };
        self.next_start = Instant::now() + RESTART_PAUSE;
        match InferenceProcess::start(&self.listener, settings::worker::of_server(), origin) {
            Ok(process) => self.process = Some(process),
            Err(error) => {
                warning!("lookbook worker: could not start an inference process: {error}")
            }
        }
        self.report();
    }

    /// Notices the end of the inference process.
    fn reap(&mut self) {
        let Some(ended) = self.process.as_ref().and_then(InferenceProcess::ended) else {
            return;
        };
        let pid = self.process.take().map_or(0, |process| process.pid());
        self.restarts += 1;
        match ended {
            Ended::InGoodOrder => {}
            Ended::Badly(how) => {
                log!(
                    "lookbook inference process (PID {pid}) {how}; the next request starts another"
                );
            }
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
        let mut events = pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH;
        if self.process.is_none() && is_starting_allowed && until.is_none() {
            events |= pg_sys::WL_SOCKET_READABLE;
        }
        let pause = (!is_starting_allowed && self.process.is_none()).then_some(self.next_start);
        let wake = until.or(pause);
        let timeout =
            wake.map(|moment| moment.saturating_duration_since(now) + Duration::from_millis(1));
        if timeout.is_some() {
            events |= pg_sys::WL_TIMEOUT;
        }
        // SAFETY: our own latch and socket; the postmaster's death ends this process, and thereby its
        // child.
        let happened = unsafe {
            let happened = pg_sys::WaitLatchOrSocket(
                pg_sys::MyLatch,
                events as i32,
                self.listener.as_raw_fd(),
                timeout.map_or(-1, |timeout| timeout.as_millis() as i64),
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
