//! What a load counted, and the rejects it met: shared by all stages.

use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::anyhow;

use super::{rejects::RejectsFile, stage::Stop};
use crate::{database::RunCounts, messages, source::Reject};

/// Rejects shown one by one unless asked for more; all are in the file.
const SHOWN: u64 = 10;
/// Photos before a share of them means something.
const ENOUGH: u64 = 100;

/// Counters of one load.
#[derive(Debug)]
pub struct Tally {
    /// Photos of the source, where that is known before they are read.
    pub total: Option<u64>,
    /// Photos and rejects that came out of it.
    taken: AtomicU64,
    /// Committed, of which [`Tally::replaced`] took the place of an earlier load.
    loaded: AtomicU64,
    replaced: AtomicU64,
    garments: AtomicU64,
    skipped: AtomicU64,
    rejected: AtomicU64,
    rejects: Mutex<Rejects>,
    max_error_rate: f64,
}

/// What is kept of the rejects.
#[derive(Debug)]
struct Rejects {
    /// `None` when the run writes nothing.
    file: Option<RejectsFile>,
    by_code: BTreeMap<String, u64>,
    /// Not in the database yet; `None` when nobody asks for them.
    unrecorded: Option<Vec<Reject>>,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Of the source; as long as that is not known, those that are done.
    pub total: u64,
    pub loaded: u64,
    pub replaced: u64,
    pub garments: u64,
    pub skipped: u64,
    pub rejected: u64,
}

impl Counts {
    /// Photos that need no more work.
    pub fn done(&self) -> u64 {
        self.loaded + self.skipped + self.rejected
    }
}

impl From<Counts> for RunCounts {
    fn from(counts: Counts) -> Self {
        Self {
            total: counts.total,
            loaded: counts.loaded,
            replaced: counts.replaced,
            garments: counts.garments,
            skipped: counts.skipped,
            rejected: counts.rejected,
            pruned: 0,
        }
    }
}

impl Tally {
    pub fn new(total: Option<usize>, file: Option<RejectsFile>, max_error_rate: f64) -> Self {
        Self {
            total: total.map(|total| total as u64),
            taken: AtomicU64::new(0),
            loaded: AtomicU64::new(0),
            replaced: AtomicU64::new(0),
            garments: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            rejects: Mutex::new(Rejects {
                unrecorded: file.is_some().then(Vec::new),
                file,
                by_code: BTreeMap::new(),
            }),
            max_error_rate,
        }
    }

    /// For work whose rejects are listed in the database only, and end nothing.
    pub fn recorded(total: u64) -> Self {
        let tally = Self::new(usize::try_from(total).ok(), None, 1.0);
        tally.rejects().unrecorded = Some(Vec::new());
        tally
    }

    pub fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut counts = Counts {
            total: 0,
            loaded: of(&self.loaded),
            replaced: of(&self.replaced),
            garments: of(&self.garments),
            skipped: of(&self.skipped),
            rejected: of(&self.rejected),
        };
        counts.total = self.total.unwrap_or(counts.done());
        counts
    }

    /// A photo, or one that cannot be loaded, came out of the source.
    pub fn take(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    pub fn skip(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
    }

    /// A batch was committed.
    pub fn commit(&self, photos: usize, replaced: usize, garments: usize) {
        self.loaded.fetch_add(photos as u64, Ordering::Relaxed);
        self.replaced.fetch_add(replaced as u64, Ordering::Relaxed);
        self.garments.fetch_add(garments as u64, Ordering::Relaxed);
    }

    fn rejects(&self) -> MutexGuard<'_, Rejects> {
        self.rejects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rejects since the last call.
    pub fn take_unrecorded(&self) -> Vec<Reject> {
        let mut rejects = self.rejects();
        rejects
            .unrecorded
            .as_mut()
            .map(mem::take)
            .unwrap_or_default()
    }

    /// Gives back what could not be recorded, for the next call.
    pub fn put_back(&self, rejects: Vec<Reject>) {
        if let Some(unrecorded) = &mut self.rejects().unrecorded {
            unrecorded.splice(0..0, rejects);
        }
    }

    pub fn rejects_by_code(&self) -> BTreeMap<String, u64> {
        self.rejects().by_code.clone()
    }

    /// Lists a photo that cannot be loaded; stops the run when there are too many of them.
    pub fn reject(&self, reject: &Reject, stop: &Stop) {
        let rejected = self.rejected.fetch_add(1, Ordering::Relaxed) + 1;
        let is_listed = match self.rejects().add(reject) {
            Ok(is_listed) => is_listed,
            Err(error) => {
                stop.fail(error);
                true
            }
        };
        if messages::is_by_log() {
            let Reject { path, code, reason } = reject;
            tracing::warn!(path, code, reason, "photo rejected");
        } else if rejected <= SHOWN || messages::is_verbose() || !is_listed {
            messages::warn(format_args!(
                "{}: {} [{}]",
                reject.path, reject.reason, reject.code
            ));
        } else if rejected == SHOWN + 1 {
            messages::warn(match self.rejects().file {
                Some(_) => "more rejected photos: they are in the list of rejects only",
                None => "more rejected photos: they are in the table lookbook_reject only",
            });
        }
        self.judge(rejected, stop);
    }

    /// Stops the run where it is no use to go on: more are rejected than may be of all, or of those that came until now,
    /// once they are enough. What is under way counts as good; the end tells.
    fn judge(&self, rejected: u64, stop: &Stop) {
        let is_too_much = |of: u64| rejected as f64 > self.max_error_rate * of as f64;
        let taken = self.taken.load(Ordering::Relaxed);
        if self.total.is_some_and(is_too_much) || (taken >= ENOUGH && is_too_much(taken)) {
            stop.fail(anyhow!(
                "{rejected} of {} rejected, more than --max-error-rate {} allows",
                messages::count(taken, "photo"),
                self.max_error_rate
            ));
        }
    }
}

impl Rejects {
    /// Whether it is listed anywhere.
    fn add(&mut self, reject: &Reject) -> anyhow::Result<bool> {
        *self.by_code.entry(reject.code.clone()).or_default() += 1;
        if let Some(unrecorded) = &mut self.unrecorded {
            unrecorded.push(reject.clone());
        }
        if let Some(file) = &mut self.file {
            file.add(reject)?;
        }
        Ok(self.unrecorded.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether so many rejects stop a run, the last photos of those that came.
    fn stops_after(rejects: usize, taken: usize, total: usize, rate: f64) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let file = RejectsFile::new(&folder.path().join("rejects.csv"), None).unwrap();
        let (tally, stop) = (Tally::new(Some(total), Some(file), rate), Stop::default());
        (0..taken).for_each(|_| tally.take());
        (0..rejects).for_each(|n| tally.reject(&Reject::new(n.to_string(), "x", "y"), &stop));
        stop.is_requested()
    }

    #[test]
    fn too_many_rejects_stop_a_run_and_few_do_not() {
        assert!(!stops_after(20, 100, 1_000, 0.2));
        assert!(stops_after(21, 100, 1_000, 0.2));
        // The first few are no measure.
        assert!(!stops_after(21, 30, 1_000, 0.2));
        assert!(!stops_after(2, 2, 10, 0.2));
        assert!(stops_after(3, 3, 10, 0.2));
        assert!(stops_after(1, 1, 10, 0.0));
        assert!(!stops_after(500, 500, 500, 1.0));
    }
}
