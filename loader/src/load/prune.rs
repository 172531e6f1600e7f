//! After a sync: the rows of photos that are gone from the source.
//!
//! Invariant: nothing is deleted on the word of a source that could not be listed whole, and never more
//! than the share that was allowed.

use std::fmt;

use anyhow::{Result, bail};
use serde_json::json;

use super::Verdict;
use crate::{
    database::{Known, Writer},
    interrupt,
    messages::{self, count},
    shard::Shard,
    source::Source,
};

/// Photos per transaction.
const BATCH: usize = 1_000;

/// What a sync may delete.
#[derive(Debug, Clone, Copy)]
pub struct Prune {
    pub is_wanted: bool,
    /// Share of the loaded photos.
    pub limit: f64,
}

/// Photos of the table that the source does not name.
#[derive(Debug)]
pub struct Gone {
    ids: Vec<i64>,
    /// Photos of the table, or of this shard's part of it.
    of: usize,
    prune: Prune,
    is_whole: bool,
}

/// How many photos of how many are gone.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    pub gone: usize,
    pub of: usize,
}

impl Share {
    pub fn is_above(self, limit: f64) -> bool {
        self.gone as f64 > limit * self.of as f64
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gone, of } = self;
        let percent = 100.0 * *gone as f64 / (*of).max(1) as f64;
        write!(f, "{gone} of {of} photos ({percent:.0} %)")
    }
}

/// What became of them.
#[derive(Debug, Default, Clone, Copy)]
pub struct Pruned {
    pub gone: u64,
    pub deleted: u64,
}

impl Gone {
    /// `source` has been read.
    pub fn find(known: &Known, source: &Source<'_>, shard: Option<&Shard>, prune: Prune) -> Self {
        let mine = known
            .photos()
            .filter(|(path, _)| shard.is_none_or(|shard| shard.holds(path)));
        let mut ids = Vec::new();
        let mut of = 0;
        for (path, id) in mine {
            of += 1;
            if !source.named(path) {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        Self {
            ids,
            of,
            prune,
            is_whole: source.was_whole(),
        }
    }

    pub fn count(&self) -> u64 {
        self.ids.len() as u64
    }

    /// Whether deleting them is asked for, and allowed.
    fn check(&self) -> Result<bool> {
        let (gone, of) = (self.ids.len(), self.of);
        if gone == 0 || !self.prune.is_wanted {
            return Ok(false);
        }
        if !self.is_whole {
            bail!(Verdict(format!(
                "the source seems to lack {}, but could not be listed whole (see the rejects): nothing was deleted; mend the \
                 source, then run this again",
                count(self.count(), "photo")
            )));
        }
        let share = Share { gone, of };
        let limit = self.prune.limit;
        if share.is_above(limit) {
            bail!(Verdict(format!(
                "{share} are gone from the source, more than --prune-limit {limit} allows: nothing was deleted; look whether \
                 the source is the right one and whole, then run this again with a higher limit"
            )));
        }
        Ok(true)
    }

    /// Deletes them, each batch in a transaction, where that is asked for and allowed.
    pub fn delete(&self, writer: &mut Writer) -> Result<Pruned> {
        let mut pruned = Pruned {
            gone: self.count(),
            deleted: 0,
        };
        let mut stay = Vec::new();
        if !self.check()? {
            return Ok(pruned);
        }
        for ids in self.ids.chunks(BATCH) {
            if interrupt::is_requested() {
                break;
            }
            pruned.deleted += writer.delete(ids, &mut stay)?;
        }
        if let Some(reason) = stay.first() {
            messages::warn(format_args!(
                "kept {} gone from the source, because the database refuses to delete the rows: {reason}",
                count(stay.len() as u64, "photo")
            ));
        }
        Ok(pruned)
    }
}

impl Pruned {
    pub fn to_text(self, is_dry_run: bool, is_wanted: bool) -> String {
        let Self { gone, deleted } = self;
        let photos = |number| count(number, "photo");
        match (is_wanted, is_dry_run) {
            (_, _) if gone == 0 => "no photo is gone from the source".to_owned(),
            (true, true) => format!("would delete {} gone from the source", photos(gone)),
            (true, false) => format!("deleted {} gone from the source", photos(deleted)),
            (false, _) => format!(
                "kept {} gone from the source: --prune deletes them",
                photos(gone)
            ),
        }
    }

    pub fn to_json(self) -> serde_json::Value {
        json!({"gone": self.gone, "deleted": self.deleted})
    }
}
