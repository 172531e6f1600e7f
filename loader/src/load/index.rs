//! After the photos: the index, if there is none.
//!
//! Knows nothing of photos. Invariant: Ctrl-C ends the making within a moment, and nothing of the
//! index is left then.

use std::{
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Error, Result, anyhow};
use postgres::error::SqlState;
use serde_json::json;

use super::progress::Reporter;
use crate::{
    database::{FoundIndex, IndexBuilder, IndexWatcher},
    interrupt, messages,
};

const PERIOD: Duration = Duration::from_millis(100);

/// What became of the index.
#[derive(Debug)]
pub enum IndexReport {
    Kept(FoundIndex),
    Made(FoundIndex, Duration),
    /// `--no-index`, and there is none.
    Unwanted,
    /// The table is the shop's, and there is none.
    Suggested {
        statement: String,
    },
    /// Other shards are still at work, and there is none.
    LeftToOthers,
    /// By Ctrl-C, before or while it was made.
    Interrupted,
    Failed {
        reason: String,
        statement: String,
    },
}

impl IndexReport {
    /// Looks for an index; nobody but the owner of a shop's table makes one there.
    pub fn of_mapped(mut builder: IndexBuilder) -> Result<Self> {
        Ok(match builder.find()? {
            Some(found) => Self::Kept(found),
            None => Self::Suggested {
                statement: builder.statement_for_owner()?,
            },
        })
    }

    /// Looks for an index and makes one where there is none.
    pub fn of(
        mut builder: IndexBuilder,
        is_wanted: bool,
        url: Option<&str>,
        reporter: &mut Reporter<'_>,
    ) -> Result<Self> {
        if let Some(found) = builder.find()? {
            return Ok(Self::Kept(found));
        }
        if !is_wanted {
            return Ok(Self::Unwanted);
        }
        if interrupt::is_requested() {
            return Ok(Self::Interrupted);
        }
        let start = Instant::now();
        let watcher = builder.watcher(url);
        let statement = builder.statement()?;
        match make(&mut builder, watcher, reporter) {
            Ok(()) => {
                let made = builder.find()?;
                let made = made.ok_or_else(|| anyhow!("the index is gone already"))?;
                Ok(Self::Made(made, start.elapsed()))
            }
            Err(error) if was_canceled(&error) && interrupt::is_requested() => {
                Ok(Self::Interrupted)
            }
            Err(error) => Ok(Self::Failed {
                reason: messages::render(&error),
                statement,
            }),
        }
    }

    /// Only looks: the last of the shards makes it.
    pub fn left_to_others(mut builder: IndexBuilder) -> Result<Self> {
        Ok(builder.find()?.map_or(Self::LeftToOthers, Self::Kept))
    }

    /// Whether everything is as it was asked for.
    pub fn is_complete(&self) -> bool {
        !matches!(self, Self::Interrupted | Self::Failed { .. })
    }

    pub fn to_text(&self) -> String {
        match self {
            Self::Kept(FoundIndex {
                name,
                is_valid: true,
                ..
            }) => format!("index {name} was there and has the new rows"),
            Self::Kept(FoundIndex { name, .. }) => {
                format!("index {name} is not valid and not used: REINDEX INDEX {name} mends it")
            }
            Self::Made(index, time) => format!(
                "index {} made in {:.1} s, {:.1} MB",
                index.name,
                time.as_secs_f64(),
                index.bytes as f64 / 1e6
            ),
            Self::Unwanted => "no index, as asked by --no-index: searches are exact".to_owned(),
            Self::Suggested { statement } => {
                format!("no index yet, searches are exact; the table's owner may run: {statement}")
            }
            Self::LeftToOthers => {
                "no index yet: the last of the shards at work makes it".to_owned()
            }
            Self::Interrupted => {
                "no index yet: the run was interrupted before it was made".to_owned()
            }
            Self::Failed { reason, statement } => {
                format!("no index: {reason}; run this again, or {statement}")
            }
        }
    }

    pub fn to_json(&self) -> serde_json::Value {
        let of = |index: &FoundIndex, action| json!({"action": action, "name": index.name, "valid": index.is_valid, "bytes": index.bytes});
        match self {
            Self::Kept(index) => of(index, "kept"),
            Self::Made(index, time) => {
                let mut made = of(index, "made");
                made["seconds"] = json!(time.as_secs_f64());
                made
            }
            Self::Unwanted => json!({"action": "unwanted"}),
            Self::Suggested { statement } => json!({"action": "suggested", "statement": statement}),
            Self::LeftToOthers => json!({"action": "left_to_other_shards"}),
            Self::Interrupted => json!({"action": "interrupted"}),
            Self::Failed { reason, .. } => json!({"action": "failed", "reason": reason}),
        }
    }
}

fn make(
    builder: &mut IndexBuilder,
    watcher: Result<IndexWatcher>,
    reporter: &mut Reporter<'_>,
) -> Result<()> {
    reporter.start_index();
    watched(watcher, reporter, || builder.create())
}

/// Runs `work` in the session that `watcher` looks at; Ctrl-C cancels what that does. Without a watcher (no connection
/// is left) there is no progress, and only the second Ctrl-C ends it.
pub fn watched<T: Send>(
    watcher: Result<IndexWatcher>,
    reporter: &mut Reporter<'_>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let mut watcher = watcher
        .inspect_err(|error| {
            messages::warn(format_args!(
                "the index is made without showing progress: {}",
                messages::render(error)
            ));
        })
        .ok();
    thread::scope(|scope| {
        let making = scope.spawn(work);
        while !making.is_finished() {
            if let Some(watch) = &mut watcher
                && let Err(error) = look(watch, reporter)
            {
                messages::detail(messages::render(&error));
                watcher = None;
            }
            sleep(PERIOD);
        }
        match making.join() {
            Ok(made) => made,
            Err(_) => Err(anyhow!("an internal error")),
        }
    })
}

/// Canceling again and again does no harm, and the first may have come before the statement began.
fn look(watcher: &mut IndexWatcher, reporter: &mut Reporter<'_>) -> Result<()> {
    if interrupt::is_requested() {
        return watcher.cancel();
    }
    if let Some(progress) = watcher.progress()? {
        reporter.tick_index(&progress);
    }
    Ok(())
}

/// Whether the server ended it because it was told to.
pub fn was_canceled(error: &Error) -> bool {
    error
        .downcast_ref::<postgres::Error>()
        .is_some_and(|error| error.code() == Some(&SqlState::QUERY_CANCELED))
}
