//! Work on a thread of its own, while the backend stays able to be cancelled.
//!
//! Invariants: the thread and all that it starts have every signal blocked and never call
//! PostgreSQL. It has ended its work before this module returns or raises, and before the process
//! exits: FATAL does not unwind the stack, it exits from within, so an exit callback waits as well.

use crate::settings::errors::{self, UserError};
use lookbook_vision::{Cancel, SignalsBlocked};
use pgrx::{PgSqlErrorCode, check_for_interrupts, pg_guard, pg_sys};
use std::any::Any;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, Once, PoisonError};
use std::time::Duration;

/// How late a cancel or a timeout is noticed, at most.
const INTERRUPT_CHECK: Duration = Duration::from_millis(20);

/// The work in progress, for the exit callback. One at a time: a backend runs one function at once.
static IN_PROGRESS: Mutex<Option<InProgress>> = Mutex::new(None);

#[derive(Clone)]
struct InProgress {
    cancel: Cancel,
    ended: Arc<(Mutex<bool>, Condvar)>,
}

/// Runs `work` on another thread. Query cancel, statement timeout and termination throw `cancel`,
/// wait for the thread, and raise. A panic in `work` becomes an internal error.
pub(super) fn run<R: Send>(
    cancel: &Cancel,
    work: impl FnOnce() -> R + Send,
) -> Result<R, UserError> {
    stop_work_at_exit();
    let running = InProgress {
        cancel: cancel.clone(),
        ended: Arc::default(),
    };
    let end = EndOfWork(Arc::clone(&running.ended));
    std::thread::scope(|scope| {
        let (ended, waiting) = mpsc::channel::<()>();
        let spawned = {
            let _blocked = SignalsBlocked::here();
            std::thread::Builder::new()
                .name("lookbook".to_owned())
                .spawn_scoped(scope, move || {
                    // Dropped in reverse when the work is over, also by a panic.
                    let (_end, _ended) = (end, ended);
                    work()
                })
        };
        let thread = spawned.map_err(|error| {
            errors::error(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
                format!("could not start a thread for inference: {error}"),
            )
        })?;
        let watched = Watched::new(running);
        while waiting.recv_timeout(INTERRUPT_CHECK) == Err(RecvTimeoutError::Timeout) {
            // An ERROR unwinds: dropping `watched` cancels the run, then the scope joins the thread.
            check_for_interrupts!();
        }
        drop(watched);
        thread.join().map_err(|panic| internal_error(&*panic))
    })
}

/// Says that the work is over.
struct EndOfWork(Arc<(Mutex<bool>, Condvar)>);

impl Drop for EndOfWork {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }
}

impl InProgress {
    fn stop(&self) {
        self.cancel.cancel();
        let mut ended = self.ended.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !*ended {
            ended = self
                .ended
                .1
                .wait(ended)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// While it lives, the exit callback knows of the work; dropping it cancels what is left of it.
struct Watched(InProgress);

impl Watched {
    fn new(work: InProgress) -> Watched {
        *IN_PROGRESS.lock().unwrap_or_else(PoisonError::into_inner) = Some(work.clone());
        Watched(work)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.cancel.cancel();
        IN_PROGRESS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

fn stop_work_at_exit() {
    static REGISTERED: Once = Once::new();
    // SAFETY: the callback is a static function and takes no argument.
    REGISTERED
        .call_once(|| unsafe { pg_sys::before_shmem_exit(Some(stop_work), pg_sys::Datum::null()) });
}

#[pg_guard]
unsafe extern "C-unwind" fn stop_work(_code: std::ffi::c_int, _argument: pg_sys::Datum) {
    let work = IN_PROGRESS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if let Some(work) = work {
        work.stop();
    }
}

fn internal_error(panic: &(dyn Any + Send)) -> UserError {
    let reason = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no reason given");
    errors::error(
        PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        format!("inference failed unexpectedly: {reason}"),
    )
    .set_hint("This is a bug in lookbook: please report it, with the image and the model.")
}
