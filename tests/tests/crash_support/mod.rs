//! What goes on while servers are killed: writers that know what they committed, searches compared with the truth,
//! vacuums, index builds, changes of models.

pub mod journal;
pub mod models;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use lookbook_tests::Random;
use postgres::Client;

use crate::index_support::BY_INDEX_EXACTLY;
use crate::index_support::drawn::{compare_in_snapshot, drawn_search};

/// The vector of a row follows from `n`, so a row that came back damaged is seen.
pub const SCHEMA: &str = "
    CREATE TABLE look (id bigint PRIMARY KEY, category int NOT NULL, n bigint NOT NULL,
                       v embedding(32) GENERATED ALWAYS AS (look(n)) STORED);
    CREATE INDEX looks ON look USING lookbook (v, category);
    CREATE INDEX others ON look USING lookbook (v embedding_cosine_ops)";

/// How much was done.
#[derive(Debug, Default)]
pub struct Counts {
    pub changes: AtomicU64,
    pub searches: AtomicU64,
    pub vacuums: AtomicU64,
    pub builds: AtomicU64,
    pub models: AtomicU64,
}

impl Counts {
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Was some of everything done?
    pub fn has_all(&self) -> bool {
        let Counts {
            changes,
            searches,
            vacuums,
            builds,
            models,
        } = self;
        let mut all = [changes, searches, vacuums, builds, models].into_iter();
        all.all(|counter| counter.load(Ordering::Relaxed) > 0)
    }
}

/// Searches until the server is gone.
pub fn keep_searching(client: &mut Client, random: &mut Random, counts: &Counts) -> Result<()> {
    until_gone(client.batch_execute(BY_INDEX_EXACTLY))?;
    loop {
        let query = drawn_search(random, &["<->", "<=>"]);
        let Some(compared) = until_gone(compare_in_snapshot(client, &query))? else {
            return Ok(());
        };
        compared?;
        Counts::add(&counts.searches);
    }
}

/// Vacuums, and a checkpoint now and then, until the server is gone.
pub fn keep_vacuuming(client: &mut Client, random: &mut Random, counts: &Counts) -> Result<()> {
    loop {
        let statement = match random.below(8) {
            0 => "CHECKPOINT",
            1 => "VACUUM (FREEZE, INDEX_CLEANUP ON) look",
            2..5 => "VACUUM (INDEX_CLEANUP ON) look",
            _ => "VACUUM look",
        };
        if until_gone(client.batch_execute(statement))?.is_none() {
            return Ok(());
        }
        Counts::add(&counts.vacuums);
        sleep(Duration::from_millis(random.below(60) as u64));
    }
}

/// Builds one of the indexes anew in every way there is, until the server is gone.
pub fn keep_building(client: &mut Client, random: &mut Random, counts: &Counts) -> Result<()> {
    loop {
        let statements: &[&str] = match random.below(5) {
            0 => &["REINDEX INDEX others"],
            1 | 2 => &["REINDEX INDEX CONCURRENTLY others"],
            3 => &[
                "DROP INDEX others",
                "CREATE INDEX others ON look USING lookbook (v embedding_cosine_ops)",
            ],
            _ => &[
                "DROP INDEX CONCURRENTLY others",
                "CREATE INDEX CONCURRENTLY others ON look USING lookbook (v embedding_cosine_ops)",
            ],
        };
        for statement in statements {
            if until_gone(client.batch_execute(statement))
                .with_context(|| (*statement).to_owned())?
                .is_none()
            {
                return Ok(());
            }
        }
        Counts::add(&counts.builds);
        sleep(Duration::from_millis(random.below(120) as u64));
    }
}

/// What was acknowledged, and what was under way when the server went: there afterwards, or not.
#[derive(Debug)]
pub struct Known<T> {
    pub committed: T,
    pending: Option<T>,
}

impl<T: PartialEq> Known<T> {
    pub fn new(committed: T) -> Known<T> {
        Known {
            committed,
            pending: None,
        }
    }

    /// The outcome of a change to `after`; `false` when the server went amid it.
    pub fn note(&mut self, after: T, changed: Result<(), postgres::Error>) -> Result<bool> {
        let is_done = until_gone(changed)?.is_some();
        if is_done {
            self.committed = after;
        } else {
            self.pending = Some(after);
        }
        Ok(is_done)
    }

    /// What is there is what is known from now on, if it may be there; else it comes back with what was pending.
    pub fn settle(&mut self, found: T) -> Result<(), (T, Option<T>)> {
        let pending = self.pending.take();
        if found != self.committed && pending.as_ref() != Some(&found) {
            return Err((found, pending));
        }
        self.committed = found;
        Ok(())
    }
}

/// `None`: the server is gone. Any other error is one.
pub fn until_gone<T>(done: Result<T, postgres::Error>) -> Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) => {
            crate::index_support::expect_crash_at_most(Err(error))?;
            Ok(None)
        }
    }
}
