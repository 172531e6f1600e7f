//! What is left to do when no photo is: rows of photos that are gone, and the index.
//!
//! Invariant: nothing is deleted and no index is made after a run that did not reach its end.

use anyhow::{Context, Error, Result};

use super::{
    Job, Verdict,
    index::IndexReport,
    progress::Reporter,
    prune::{Gone, Pruned},
    stage::Stop,
    tally::Counts,
};
use crate::{
    database::{IndexBuilder, Known, Target, Writer},
    interrupt,
    messages::count,
    source::Source,
};

/// What the pipeline leaves.
pub struct Finish<'a> {
    pub job: &'a Job<'a>,
    pub known: &'a Known,
    pub source: &'a Source<'a>,
    pub counts: Counts,
}

/// How it ended.
#[derive(Default)]
pub struct Finished {
    pub error: Option<Error>,
    pub pruned: Option<Pruned>,
    /// `None` when the load failed or no photo is there.
    pub index: Option<IndexReport>,
}

impl Finish<'_> {
    pub fn run(
        &self,
        stop: &Stop,
        (mut writer, target): (Writer, Target),
        reporter: &mut Reporter<'_>,
    ) -> Finished {
        let mut finished = Finished {
            error: self.error(stop),
            ..Finished::default()
        };
        if finished.error.is_none() && !interrupt::is_requested() {
            match self.prune(&mut writer) {
                Ok(pruned) => finished.pruned = pruned,
                Err(refused) => finished.error = Some(refused),
            }
        }
        let Counts {
            loaded, skipped, ..
        } = self.counts;
        if finished.error.is_none() && !self.job.args.run.dry_run && loaded + skipped > 0 {
            match self.index(writer, target, reporter).context(
                "the photos are loaded; the index could not be looked after, run the same command again",
            ) {
                Ok(index) => finished.index = Some(index),
                Err(failed) => finished.error = Some(failed),
            }
        }
        finished
    }

    /// Why the pipeline did not reach the end of its source, or should not have.
    fn error(&self, stop: &Stop) -> Option<Error> {
        if let Some(error) = stop.take_error() {
            return Some(error.context(format!(
                "the load did not finish; what it committed stays ({}), run the same command again to go on once this is mended",
                count(self.counts.loaded, "photo")
            )));
        }
        if self.source.was_empty() && !self.job.may_be_empty() {
            return Some(Verdict(self.source.nothing()).into());
        }
        let (rejected, done) = (self.counts.rejected, self.counts.done());
        let rate = self.job.args.max_error_rate;
        let is_too_much = rejected as f64 > rate * done as f64 && !interrupt::is_requested();
        is_too_much.then(|| {
            Verdict(format!(
                "{rejected} of {} rejected, more than --max-error-rate {rate} allows; the others are loaded",
                count(done, "photo")
            ))
            .into()
        })
    }

    fn prune(&self, writer: &mut Writer) -> Result<Option<Pruned>> {
        let Some(prune) = self.job.prune else {
            return Ok(None);
        };
        let shard = self.job.args.run.shard.as_ref();
        Gone::find(self.known, self.source, shard, prune)
            .delete(writer)
            .map(Some)
    }

    fn index(
        &self,
        writer: Writer,
        target: Target,
        reporter: &mut Reporter<'_>,
    ) -> Result<IndexReport> {
        let args = self.job.args;
        let mut client = writer.into_client();
        let is_last = match &args.run.shard {
            Some(_) => target.outlast_other_shards(&mut client)?,
            None => true,
        };
        let is_mapped = target.is_mapped;
        let builder = IndexBuilder::new(client, target);
        let url = args.database.url.as_deref();
        match (is_mapped, is_last) {
            (true, _) => IndexReport::of_mapped(builder),
            (false, true) => IndexReport::of(builder, !args.no_index, url, reporter),
            (false, false) => IndexReport::left_to_others(builder),
        }
    }
}
