//! The record of a run while it goes on: counts and rejects into the database, a little behind.
//!
//! Invariant: books that cannot be kept cost a warning, never the run.

use std::time::{Duration, Instant};

use super::tally::Tally;
use crate::{
    database::{Journal, RunCounts, RunEnd},
    messages,
};

const PERIOD: Duration = Duration::from_secs(1);

/// Writes what a [`Tally`] counts into `lookbook_run` and `lookbook_reject`.
pub struct Books {
    journal: Option<Journal>,
    due: Instant,
    written: Option<u64>,
}

impl Books {
    /// `journal` may have failed to open.
    pub fn new(journal: anyhow::Result<Journal>) -> Self {
        let mut books = Self {
            journal: None,
            due: Instant::now() + PERIOD,
            written: None,
        };
        match journal {
            Ok(journal) => books.journal = Some(journal),
            Err(error) => give_up(&error),
        }
        books
    }

    /// Of a run that writes nothing.
    pub fn none() -> Self {
        Self {
            journal: None,
            due: Instant::now(),
            written: None,
        }
    }

    pub fn run(&self) -> Option<i64> {
        self.journal.as_ref().map(Journal::id)
    }

    /// Call a few times a second.
    pub fn tick(&mut self, tally: &Tally) {
        if Instant::now() >= self.due {
            self.due = Instant::now() + PERIOD;
            self.write(tally);
        }
    }

    fn write(&mut self, tally: &Tally) {
        let Some(journal) = &mut self.journal else {
            return;
        };
        let counts = tally.counts();
        let rejects = tally.take_unrecorded();
        let is_news = !rejects.is_empty() || self.written != Some(counts.done());
        let written = match rejects.is_empty() {
            true => Ok(()),
            false => journal.reject(&rejects),
        };
        let written = match is_news {
            true => written.and_then(|()| journal.progress(&counts.into())),
            false => written,
        };
        self.written = Some(counts.done());
        if let Err(error) = written {
            give_up(&error);
            self.journal = None;
        }
    }

    /// The last counts, and how it ended.
    pub fn close(mut self, tally: &Tally, pruned: u64, end: &RunEnd) {
        self.write(tally);
        let Some(journal) = self.journal else {
            return;
        };
        let counts = RunCounts {
            pruned,
            ..tally.counts().into()
        };
        if let Err(error) = journal.finish(&counts, end) {
            give_up(&error);
        }
    }
}

fn give_up(error: &anyhow::Error) {
    messages::warn(format_args!(
        "this run is not recorded in lookbook_run any more: {}",
        messages::render(error)
    ));
}
