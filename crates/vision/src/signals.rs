//! Keeping signals away from threads that this crate's libraries start, or others in a server's process.
//!
//! A new thread inherits the mask of the one that starts it. In a PostgreSQL backend a signal handled
//! on a foreign thread would set that thread's latch, or worse; so threads are started with all
//! signals blocked, and the starter's own mask is restored afterwards.

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Blocks signals in this thread while it lives, except those a fault of the thread itself raises; a thread started
/// meanwhile keeps them blocked.
#[derive(Debug)]
pub struct SignalsBlocked {
    before: Option<SigSet>,
}

impl SignalsBlocked {
    /// Blocks them from here on.
    #[must_use]
    pub fn here() -> Self {
        let mut blocked = SigSet::all();
        for fault in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGFPE,
            Signal::SIGILL,
            Signal::SIGTRAP,
            Signal::SIGABRT,
            Signal::SIGSYS,
        ] {
            blocked.remove(fault);
        }
        Self {
            before: blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok(),
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        if let Some(before) = self.before.as_ref() {
            // Setting a mask that the kernel itself returned cannot fail.
            let _ = before.thread_set_mask();
        }
    }
}
