//! The threads of one run: when one cannot start, or panics, the run fails.

use std::{
    thread::{self, Scope, ScopedJoinHandle},
    time::Duration,
};

use anyhow::{Error, anyhow};

use super::stage::Stop;

pub struct Threads<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    stop: &'scope Stop,
    running: Vec<ScopedJoinHandle<'scope, ()>>,
}

impl<'scope, 'env> Threads<'scope, 'env> {
    pub const fn new(scope: &'scope Scope<'scope, 'env>, stop: &'scope Stop) -> Self {
        Self {
            scope,
            stop,
            running: Vec::new(),
        }
    }

    pub fn start(&mut self, work: impl FnOnce() + Send + 'scope) {
        match thread::Builder::new().spawn_scoped(self.scope, work) {
            Ok(thread) => self.running.push(thread),
            Err(error) => self
                .stop
                .fail(Error::from(error).context("cannot start a thread: try fewer --threads")),
        }
    }

    /// For all of them; calls `watch` a few times a second, and at least once.
    pub fn wait(self, watch: &mut impl FnMut()) {
        loop {
            watch();
            if self.running.iter().all(ScopedJoinHandle::is_finished) {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        for thread in self.running {
            if thread.join().is_err() {
                self.stop
                    .fail(anyhow!("a worker ended by an internal error"));
            }
        }
    }
}
