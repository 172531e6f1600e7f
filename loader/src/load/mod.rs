//! `lookbook load`: everything around the pipeline, in the order in which a user wants to hear of
//! mistakes: the source, the database, the models, the tables.

mod batch;
mod books;
pub mod engines;
mod finish;
mod index;
pub mod inference;
mod metrics;
mod named;
mod pipeline;
mod progress;
mod prune;
mod rejects;
mod setup;
mod singly;
mod split;
mod stage;
mod summary;
mod tally;
mod threads;
mod workers;

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Result, bail};
pub use batch::BatchSize;
pub use books::Books;
use engines::Engines;
use finish::Finish;
pub use index::{was_canceled, watched};
use lookbook_vision::Limits;
use metrics::Metrics;
pub use named::folder_of;
pub use pipeline::PIXEL_BYTES;
use pipeline::{Load, Meters, Shape};
pub use progress::Reporter;
pub use prune::{Prune, Share};
use rejects::RejectsFile;
use setup::Setup;
pub use singly::{embed_each, keep_good};
use split::Split;
pub use stage::{Budget, Meter, Stop, in_batches, in_commits};
use summary::{Clock, Summary};
pub use tally::Tally;
pub use threads::Threads;

use crate::{
    args::LoadArgs,
    database::{Journal, RunStart},
    interrupt,
    messages::{self, Ending},
    source::Source,
};

pub fn run(args: &LoadArgs) -> Result<Ending> {
    interrupt::listen()?;
    Job {
        args,
        verb: "load",
        prune: None,
        only: None,
    }
    .run()
}

/// A load, or what a sync makes of it.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    pub args: &'a LoadArgs,
    pub verb: &'static str,
    /// What to do with photos that are gone; `None` does not look for them.
    pub prune: Option<Prune>,
    /// Look at these photos only: the others did not change, nor what the list of rejects says of them.
    pub only: Option<&'a HashSet<String>>,
}

/// What a run that looked at everything has to say against the photos, as an error: the same run would say it again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Verdict(String);

impl Job<'_> {
    /// Loads everything; listen to interrupts before.
    pub fn run(&self) -> Result<Ending> {
        let start = Instant::now();
        let source = self.source()?;
        let setup = Setup::new(self.args)?;
        // A dry run makes no file.
        let run = &self.args.run;
        let metrics_file = run.metrics_file.as_deref().filter(|_| !run.dry_run);
        let metrics = Metrics::new(metrics_file, self.verb, &self.args.target.schema)?;
        let books = self.books(&setup);
        self.load(start, source, setup, metrics, books)
    }

    /// What the source names and this run is about.
    fn source(&self) -> Result<Source<'_>> {
        let args = self.args;
        let database = args.database.url.as_deref();
        let mut source = Source::open(&args.source, database, Limits::default().max_bytes)?;
        if source.total() == Some(0) && !self.may_be_empty() {
            bail!(Verdict(source.nothing()));
        }
        if let Some(shard) = args.run.shard {
            source = source.filtered(move |path| shard.holds(path));
        }
        if let Some(only) = self.only {
            source = source.filtered(|path| only.contains(path));
        }
        Ok(source.limited(args.limit))
    }

    /// A source that became empty is one to prune by.
    fn may_be_empty(&self) -> bool {
        self.prune.is_some_and(|prune| prune.is_wanted)
    }

    fn books(&self, setup: &Setup) -> Books {
        if self.args.run.dry_run {
            return Books::none();
        }
        let model = |row: &'_ crate::database::ModelRow| (row.name.clone(), row.sha256.clone());
        let [detector, embedder] = [&setup.detect_row, &setup.embed_row].map(model);
        let source = self.args.source.to_string();
        Books::new(Journal::open(
            self.args.database.url.as_deref(),
            &self.args.target.schema,
            &RunStart {
                verb: self.verb,
                source: &source,
                shard: self.args.run.shard.map(|shard| shard.to_string()),
                models: [&detector, &embedder]
                    .map(|(name, sha256)| Some((name.as_str(), sha256.as_str()))),
                devices: setup.engines.devices(),
            },
        ))
    }

    /// Threads and sizes for this source and these models.
    fn shape(&self, source: &Source<'_>, engines: &Engines, threads: usize) -> Result<Shape> {
        Ok(Shape {
            readers: source.readers(),
            decoders: threads,
            croppers: threads.div_ceil(2),
            batch: self.args.batch,
            decode_side: engines.decode_side()?,
            require_full_front_pose: self.args.require_full_front_pose,
            score_threshold: engines::score_threshold(engines.first()?.0),
        })
    }

    fn load(
        &self,
        start: Instant,
        source: Source<'_>,
        setup: Setup,
        mut metrics: Metrics,
        mut books: Books,
    ) -> Result<Ending> {
        let args = self.args;
        let Setup {
            target,
            mut writer,
            known,
            detect_row,
            embed_row,
            engines,
            threads,
        } = setup;
        let (detector, embedder) = engines.first()?;
        let providers = [detector.provider(), embedder.provider()];
        let pose_model = engines.pose_model.clone();
        let shape = self.shape(&source, &engines, threads)?;
        let stop = Stop::default();
        let rejects_file = match args.run.dry_run {
            true => None,
            false => Some(RejectsFile::new(&args.rejects, self.only)?),
        };
        let tally = Tally::new(source.total(), rejects_file, args.max_error_rate);
        let meters = Meters::new(&shape, &engines);
        let split = Split::new(threads);
        let load = Load {
            fetcher: source.fetcher(),
            source: Mutex::new(source),
            known: &known,
            limits: Limits::default(),
            shape,
            tally: &tally,
            meters: &meters,
            split: &split,
            stop: &stop,
        };
        let mut reporter = Reporter::new(args.progress, &tally);
        let clock = Clock::after(start);
        tracing::info!(photos = tally.total, run = books.run(), "run started");
        load.run(engines, &mut writer, || {
            if interrupt::is_requested() {
                stop.request();
            }
            reporter.tick();
            books.tick(&tally);
            metrics.tick(&tally, &meters);
        });
        let times = clock.stop();
        let source = load.source.into_inner();
        let source = source.unwrap_or_else(PoisonError::into_inner);
        let counts = tally.counts();
        let finish = Finish {
            job: self,
            known: &known,
            source: &source,
            counts,
        };
        let finished = finish.run(&stop, (writer, target), &mut reporter);
        reporter.finish();
        let summary = Summary {
            counts,
            times,
            threads,
            meters: &meters,
            providers,
            models: [&detect_row.name, &embed_row.name],
            pose_model: pose_model.as_deref(),
            ignored: source.ignored(),
            rejects_file: &args.rejects,
            index: finished.index,
            pruned: finished.pruned,
            prune: self.prune,
            is_dry_run: args.run.dry_run,
            run: books.run(),
            decoders_at_once: split.allowed(&meters),
            is_interrupted: finished.error.is_none() && interrupt::is_requested(),
        };
        let printed = summary.print(reporter.is_json());
        let ending = match finished.error {
            Some(error) => Err(error),
            None => summary.ending(),
        };
        let end = summary.run_end(&ending);
        tracing::info!(
            status = end.status,
            loaded = counts.loaded,
            rejected = counts.rejected,
            "run ended"
        );
        metrics.finish(&tally, &meters, messages::exit_code(&ending));
        let pruned = finished.pruned.map_or(0, |pruned| pruned.deleted);
        let is_idle = counts.loaded + counts.rejected + pruned == 0 && end.status == "complete";
        if self.only.is_some() && is_idle {
            books.drop_record();
        }
        books.close(&tally, pruned, &end);
        printed?;
        ending
    }
}
