//! `lookbook load`: everything around the pipeline, in the order in which a user wants to hear of
//! mistakes: the source, the database, the models, the tables.

mod batch;
mod books;
pub mod engines;
mod index;
pub mod inference;
mod metrics;
mod pipeline;
mod progress;
mod prune;
mod rejects;
mod setup;
mod split;
mod stage;
mod summary;
mod tally;
mod workers;

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail};
pub use batch::BatchSize;
pub use books::Books;
use index::IndexReport;
use lookbook_vision::{Limits, decode_side, decode_side_alone};
use metrics::Metrics;
use pipeline::{Load, Meters, Shape};
pub use progress::Reporter;
use prune::Gone;
pub use prune::Prune;
use rejects::RejectsFile;
use setup::Setup;
use split::Split;
pub use stage::{Meter, Stop, in_batches};
use summary::Summary;
pub use tally::Tally;

use crate::{
    args::LoadArgs,
    database::{IndexBuilder, Journal, RunEnd, RunStart},
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
    /// Look at these photos only: the others did not change.
    pub only: Option<&'a HashSet<String>>,
}

impl Job<'_> {
    /// Loads everything; listen to interrupts before.
    pub fn run(&self) -> Result<Ending> {
        let start = Instant::now();
        let source = self.source()?;
        let setup = Setup::new(self.args)?;
        let metrics = Metrics::new(
            self.args.run.metrics_file.as_deref(),
            self.verb,
            &self.args.schema,
        )?;
        let books = self.books(&setup);
        self.load(start, source, setup, metrics, books)
    }

    /// What the source names and this run is about.
    fn source(&self) -> Result<Source<'_>> {
        let args = self.args;
        let database = args.database.url.as_deref();
        let mut source = Source::open(&args.source, database, Limits::default().max_bytes)?;
        if source.total() == Some(0) && !self.may_be_empty() {
            bail!(source.nothing());
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
            &self.args.schema,
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

    fn load(
        &self,
        start: Instant,
        source: Source<'_>,
        setup: Setup,
        mut metrics: Metrics,
        mut books: Books,
    ) -> Result<Ending> {
        let args = self.args;
        let is_dry_run = args.run.dry_run;
        let Setup {
            tables,
            mut writer,
            known,
            detect_row,
            embed_row,
            engines,
            threads,
        } = setup;
        let (first_detector, first_embedder) = engines.first()?;
        let providers = [
            first_detector.provider().to_owned(),
            first_embedder.provider().to_owned(),
        ];
        let shape = Shape {
            readers: source.readers(),
            decoders: threads,
            croppers: threads.div_ceil(2),
            batch: args.batch,
            decode_side: engines
                .estimators
                .first()
                .map_or(0, decode_side_alone)
                .max(decode_side(Some(first_detector), first_embedder)),
            require_full_front_pose: args.require_full_front_pose,
        };
        let stop = Stop::default();
        let rejects_file = match is_dry_run {
            true => None,
            false => Some(RejectsFile::new(&args.rejects)?),
        };
        let total = source.total();
        let tally = Tally::new(total, rejects_file, args.max_error_rate);
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
        let started_up = start.elapsed();
        let processor = summary::processor_time();
        let pipeline_start = Instant::now();
        tracing::info!(photos = total, run = books.run(), "run started");
        load.run(engines, writer.as_mut(), || {
            if interrupt::is_requested() {
                stop.request();
            }
            reporter.tick();
            books.tick(&tally);
            metrics.tick(&tally, &meters);
        });
        let pipeline_wall = pipeline_start.elapsed();
        let processor = summary::processor_time().saturating_sub(processor);
        let wall = start.elapsed();
        let counts = tally.counts();
        let source = load.source.into_inner();
        let source = source.unwrap_or_else(PoisonError::into_inner);
        let mut error = stop.take_error().map(|error| {
            error.context(format!(
                "the load did not finish; the {} photos it committed stay, run the same command again to go on",
                counts.loaded
            ))
        });
        if error.is_none() && source.was_empty() && !self.may_be_empty() {
            error = Some(anyhow!(source.nothing()));
        }
        let gone = self
            .prune
            .map(|prune| Gone::find(&known, &source, args.run.shard.as_ref(), prune));
        let mut pruned = None;
        if let Some(gone) = &gone
            && error.is_none()
            && !interrupt::is_requested()
        {
            let deleted = gone.check().and_then(|is_allowed| match is_allowed {
                true => gone.delete(writer.as_mut()),
                false => gone.delete(None),
            });
            match deleted {
                Ok(deleted) => pruned = Some(deleted),
                Err(refused) => error = Some(refused),
            }
        }
        let mut index = None;
        if let Some(writer) = writer
            && error.is_none()
            && counts.loaded + counts.skipped > 0
        {
            let mut client = writer.into_client();
            let is_last = match &args.run.shard {
                Some(_) => tables.outlast_other_shards(&mut client)?,
                None => true,
            };
            let builder = IndexBuilder::new(client, tables);
            let url = args.database.url.as_deref();
            let made = match is_last {
                true => IndexReport::of(builder, !args.no_index, url, &mut reporter),
                false => IndexReport::left_to_others(builder),
            };
            match made.context("the photos are loaded; the index could not be looked after, run the same command again") {
                Ok(made) => index = Some(made),
                Err(failed) => error = Some(failed),
            }
        }
        reporter.finish();
        let summary = Summary {
            counts,
            wall,
            started_up,
            pipeline_wall,
            processor,
            threads,
            meters: &meters,
            providers,
            models: [&detect_row.name, &embed_row.name],
            ignored: source.ignored(),
            rejects_file: &args.rejects,
            index,
            pruned,
            prune: self.prune,
            is_dry_run,
            run: books.run(),
            decoders_at_once: split.allowed(&meters),
            is_interrupted: error.is_none() && interrupt::is_requested(),
        };
        let printed = summary.print(reporter.is_json());
        let ending = match error {
            Some(error) => Err(error),
            None => summary.ending(),
        };
        let (status, exit_code) = match &ending {
            Ok(_) if summary.is_interrupted => ("interrupted", messages::PARTIAL),
            Ok(Ending::Complete) => ("complete", 0),
            Ok(Ending::Partial) => ("partial", messages::PARTIAL),
            Err(_) => ("failed", messages::FATAL),
        };
        tracing::info!(
            status,
            loaded = counts.loaded,
            rejected = counts.rejected,
            "run ended"
        );
        metrics.finish(&tally, &meters, exit_code);
        books.close(
            &tally,
            pruned.map_or(0, |pruned| pruned.deleted),
            &RunEnd {
                status,
                error: ending.as_ref().err().map(messages::render),
                images_per_second: summary.rate(),
                report: summary.to_json(),
            },
        );
        printed?;
        ending
    }
}
