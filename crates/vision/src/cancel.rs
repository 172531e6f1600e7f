//! Stopping runs from another thread.
//!
//! The lock orders a run's start and [`Cancel::cancel`]: a run either sees the switch thrown and
//! does not start, or is registered and gets stopped.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Error;

/// Makes one run stop soon; must not block.
type Stop = Box<dyn Fn() + Send + Sync>;

/// A switch that stops runs from another thread.
///
/// Clones share one state. Give it to an embedder or detector with `set_cancel`; after
/// [`Cancel::cancel`] the run in progress ends within about one operator, and it and every later
/// run return [`Error::Cancelled`] until another switch is set.
#[derive(Clone, Default)]
pub struct Cancel {
    state: Arc<CancelState>,
}

#[derive(Default)]
struct CancelState {
    cancelled: AtomicBool,
    running: Mutex<Vec<(u64, Stop)>>,
    runs: AtomicU64,
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel")
            .field("cancelled", &self.is_cancelled())
            .finish()
    }
}

impl Cancel {
    /// A switch that is not yet thrown.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the runs in progress and all later ones. Returns at once.
    pub fn cancel(&self) {
        let running = self.running();
        self.state.cancelled.store(true, Ordering::SeqCst);
        for (_, stop) in running.iter() {
            stop();
        }
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.state.cancelled.load(Ordering::SeqCst)
    }

    /// [`Error::Cancelled`] once the switch is thrown.
    pub fn check(&self) -> Result<(), Error> {
        if self.is_cancelled() {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Registers a run that `stop` stops, unless the switch is already thrown.
    pub(crate) fn begin(
        &self,
        stop: impl Fn() + Send + Sync + 'static,
    ) -> Result<RunInProgress<'_>, Error> {
        let mut running = self.running();
        self.check()?;
        let number = self.state.runs.fetch_add(1, Ordering::Relaxed);
        running.push((number, Box::new(stop)));
        Ok(RunInProgress {
            cancel: self,
            number,
        })
    }

    /// A poisoned lock here guards plain values that are valid at every step.
    fn running(&self) -> MutexGuard<'_, Vec<(u64, Stop)>> {
        self.state
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the run off the switch when it ends, however it ends.
pub(crate) struct RunInProgress<'a> {
    cancel: &'a Cancel,
    number: u64,
}

impl Drop for RunInProgress<'_> {
    fn drop(&mut self) {
        self.cancel
            .running()
            .retain(|(number, _)| *number != self.number);
    }
}
