//! Keeping signals away from threads that a backend starts.
//!
//! PostgreSQL's handlers belong to the backend's own thread; a new thread inherits the mask of the
//! one that starts it.

use nix::sys::signal::{SigSet, SigmaskHow};

/// Blocks every signal of this thread until dropped; a thread started meanwhile keeps them blocked.
pub(crate) struct SignalsBlocked {
    before: nix::Result<SigSet>,
}

impl SignalsBlocked {
    pub(crate) fn new() -> SignalsBlocked {
        SignalsBlocked {
            before: SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK),
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        if let Ok(before) = self.before.as_ref() {
            // A mask that the kernel itself returned is always accepted.
            let _ = before.thread_set_mask();
        }
    }
}
