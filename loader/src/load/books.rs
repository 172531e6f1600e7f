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
    /// The connection broke, and that was said.
    is_broken: bool,
}

impl Books {
    /// `journal` may have failed to open.
    pub fn new(journal: anyhow::Result<Journal>) -> Self {
        let mut books = Self {
            journal: None,
            due: Instant::now() + PERIOD,
            written: None,
            is_broken: false,
        };
        match journal {
            Ok(journal) => books.journal = Some(journal),
            Err(error) => say(&error, ""),
        }
        books
    }

    /// Of a run that writes nothing.
    pub fn none() -> Self {
        Self {
            journal: None,
            due: Instant::now(),
            written: None,
            is_broken: false,
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
        let written = again(journal, |journal| {
            if !rejects.is_empty() {
                journal.reject(&rejects)?;
            }
            match is_news {
                true => journal.progress(&counts.into()),
                false => Ok(()),
            }
        });
        self.written = Some(counts.done());
        let Err(error) = written else {
            self.is_broken = false;
            return;
        };
        if journal.is_broken() {
            tally.put_back(rejects);
            self.written = None;
            if !self.is_broken {
                say(&error, " for now");
            }
            self.is_broken = true;
        } else {
            say(&error, " any more");
            self.journal = None;
        }
    }

    /// Of a run that had nothing to do and left no trace: no record, either.
    pub fn drop_record(&mut self) {
        // Who may write records need not be one who may delete them.
        if let Some(journal) = &mut self.journal
            && journal.delete().is_ok()
        {
            self.journal = None;
        }
    }

    /// The last counts, and how it ended.
    pub fn close(mut self, tally: &Tally, pruned: u64, end: &RunEnd) {
        self.write(tally);
        let Some(mut journal) = self.journal else {
            return;
        };
        let counts = RunCounts {
            pruned,
            ..tally.counts().into()
        };
        let finished = again(&mut journal, |journal| journal.finish(&counts, end));
        if let Err(error) = finished {
            say(&error, " any more");
        }
    }
}

/// Once more over another connection, if it is found out just now that the one is gone.
fn again(
    journal: &mut Journal,
    mut write: impl FnMut(&mut Journal) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    match write(journal) {
        Err(_) if journal.is_broken() => write(journal),
        written => written,
    }
}

fn say(error: &anyhow::Error, since: &str) {
    messages::warn(format_args!(
        "this run is not recorded in lookbook_run{since}: {}",
        messages::render(error)
    ));
}
