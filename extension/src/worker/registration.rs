//! How the supervisor comes to be: with the server, or at the first need.

use super::{START_LOCK, SUPERVISOR_LOCK, is_locked, make_folder, try_lock};
use pgrx::bgworkers::{
    BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker,
};
use pgrx::{IntoDatum, pg_sys};
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Before the postmaster starts a supervisor again that it registered itself.
const RESTART_TIME: Duration = Duration::from_secs(1);

/// Set in the postmaster, and so in every process that it forks.
static IS_STATIC: AtomicBool = AtomicBool::new(false);

/// Called once, from `_PG_init`: with `shared_preload_libraries` the supervisor starts with the server.
pub(crate) fn register() {
    // SAFETY: reads a variable of the postmaster, which has one thread.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        IS_STATIC.store(true, Ordering::Relaxed);
        builder(true).set_restart_time(Some(RESTART_TIME)).load();
    }
}

/// Connected to no database, so that none is held; started on a replica, too.
fn builder(is_static: bool) -> BackgroundWorkerBuilder {
    BackgroundWorkerBuilder::new("lookbook worker")
        .set_library("lookbook")
        .set_function("lookbook_worker_main")
        .set_argument(is_static.into_datum())
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::ConsistentState)
}

/// How an attempt to have a supervisor goes.
pub(crate) enum Start {
    /// Somebody sees to it: try to connect again soon.
    UnderWay,
    /// It cannot be had, and why.
    Impossible(String),
}

/// One connection's part in starting the supervisor. Holds the lock while it waits for what it
/// started, so that one process of many starts one.
#[derive(Default)]
pub(crate) struct Starting {
    started: Option<(File, DynamicBackgroundWorker)>,
    /// How many ended at once: one does that finds the lock of another that is just ending.
    ended: usize,
    /// Since when nobody holds the supervisor's lock although it should start with the server.
    missing: Option<Instant>,
}

/// So many that ended at once are no accident.
const ENDED: usize = 3;

/// A supervisor that the postmaster starts anew is back before; where it registered none, for want of a slot, nobody comes.
const MISSING: Duration = Duration::from_secs(3);

impl Starting {
    /// Called as long as nobody answers at the socket.
    pub(crate) fn advance(&mut self) -> Start {
        if IS_STATIC.load(Ordering::Relaxed) && self.started.is_none() {
            if is_locked(SUPERVISOR_LOCK) {
                self.missing = None;
                return Start::UnderWay;
            }
            if self.missing.get_or_insert_with(Instant::now).elapsed() < MISSING {
                return Start::UnderWay;
            }
        }
        if let Some((_, supervisor)) = &self.started {
            if !matches!(supervisor.pid(), Err(BackgroundWorkerStatus::Stopped)) {
                return Start::UnderWay;
            }
            self.started = None;
            self.ended += 1;
            if self.ended == ENDED {
                return Start::Impossible(
                    "the background worker ended at once; the server's log says why".to_owned(),
                );
            }
        }
        let lock = match make_folder().and_then(|()| try_lock(START_LOCK)) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Start::UnderWay,
            Err(error) => {
                return Start::Impossible(format!("could not write {START_LOCK}: {error}"));
            }
        };
        // One that is ending lets nobody else begin.
        if is_locked(SUPERVISOR_LOCK) {
            return Start::UnderWay;
        }
        // SAFETY: reads a variable of this process.
        let notified = unsafe { pg_sys::MyProcPid };
        match builder(false).set_notify_pid(notified).load_dynamic() {
            Ok(supervisor) => {
                self.started = Some((lock, supervisor));
                Start::UnderWay
            }
            Err(_) => Start::Impossible(
                "all background workers are in use; raise max_worker_processes".to_owned(),
            ),
        }
    }
}
