//! `lookbook load`: everything around the pipeline, in the order in which a user wants to hear of
//! mistakes: the source, the database, the models, the tables.

mod index;
mod pipeline;
mod progress;
mod read;
mod rejects;
mod stage;
mod summary;
mod tally;
mod workers;

use std::{thread, time::Instant};

use anyhow::{Context, Result, bail};
use index::IndexReport;
use lookbook_vision::{Limits, Runtime, SessionOptions, decode_side};
use pipeline::{Engines, Load, Meters, Shape};
use progress::Reporter;
use rejects::RejectsFile;
use stage::Stop;
use summary::Summary;
use tally::Tally;

use crate::{
    args::LoadArgs,
    database::{
        IndexBuilder, Known, ModelKind, Models, Tables, Writer, choose_model,
        claim_embedding_column, connect,
    },
    interrupt,
    messages::Ending,
    runtime::{self, ModelFiles},
    source,
};

/// Photos or garments per inference where the batch is not given. On a CPU a batch saves little
/// and costs memory; a GPU starves without one.
const CPU_BATCH: usize = 8;
const GPU_BATCH: usize = 32;

/// Each session holds a copy of its model.
const MAX_SESSIONS: usize = 8;

/// What `provider()` says of a model on the CPU.
const CPU: &str = "CPU";

pub fn run(args: &LoadArgs) -> Result<Ending> {
    let start = Instant::now();
    interrupt::listen()?;
    let mut catalogue = source::open(&args.source)?;
    catalogue.entries.truncate(args.limit.unwrap_or(usize::MAX));
    let total = catalogue.entries.len() + catalogue.rejects.len();
    if total == 0 {
        bail!(
            "{} has no photos ({} other files): photos are files whose names end in .jpg, .png, .webp, .gif, .bmp or .tiff",
            args.source.display(),
            catalogue.ignored
        );
    }

    let mut client = connect(args.database.url.as_deref())?;
    let tables = Tables::in_schema(&args.schema);
    tables.lock(&mut client)?;
    let detect_row = choose_model(
        &mut client,
        ModelKind::Detector,
        args.models.detect_model.as_deref(),
    )?;
    let embed_row = choose_model(
        &mut client,
        ModelKind::Embedder,
        args.models.embed_model.as_deref(),
    )?;
    let detector = ModelFiles::of_row(&mut client, &detect_row)?;
    let embedder = ModelFiles::of_row(&mut client, &embed_row)?;
    let threads = runtime::threads(&args.runtime);
    let engines = open(
        &runtime::load(&args.runtime)?,
        args,
        [&detector, &embedder],
        threads,
    )?;
    let (Some(first_detector), Some(first_embedder)) =
        (engines.detectors.first(), engines.embedders.first())
    else {
        bail!("no model was opened");
    };
    tables.ensure(&mut client, first_embedder.dimensions())?;
    claim_embedding_column(&mut client, &tables, &embed_row)?;
    let models = Models {
        detect: detect_row.sha256.clone(),
        embed: embed_row.sha256.clone(),
    };
    let known = Known::read(&mut client, &tables, &models)?;
    let mut writer = Writer::new(client, tables.clone(), models)?;

    let providers = [
        first_detector.provider().to_owned(),
        first_embedder.provider().to_owned(),
    ];
    let shape = Shape {
        readers: 2,
        decoders: threads,
        croppers: threads.div_ceil(2),
        detect_batch: batch(args, first_detector.provider()),
        embed_batch: batch(args, first_embedder.provider()),
        decode_side: decode_side(Some(first_detector), first_embedder),
    };
    let stop = Stop::default();
    let tally = Tally::new(total, RejectsFile::new(&args.rejects)?, args.max_error_rate);
    for reject in &catalogue.rejects {
        tally.reject(reject, &stop);
    }
    let meters = Meters::new(&shape, &engines);
    let load = Load {
        entries: &catalogue.entries,
        known: &known,
        limits: Limits::default(),
        shape,
        tally: &tally,
        meters: &meters,
        stop: &stop,
    };
    let mut reporter = Reporter::new(args.progress, &tally);
    let started_up = start.elapsed();
    let processor = summary::processor_time();
    let pipeline_start = Instant::now();
    load.run(engines, &mut writer, || {
        if interrupt::is_requested() {
            stop.request();
        }
        reporter.tick();
    });
    let pipeline_wall = pipeline_start.elapsed();
    let processor = summary::processor_time().saturating_sub(processor);
    let wall = start.elapsed();
    let error = stop.take_error();
    let counts = tally.counts();
    let index = if error.is_none() && counts.loaded + counts.skipped > 0 {
        let builder = IndexBuilder::new(writer.into_client(), tables);
        let url = args.database.url.as_deref();
        let report = IndexReport::of(builder, !args.no_index, url, &mut reporter);
        Some(report.context("the photos are loaded; the index could not be looked after, run the same command again")?)
    } else {
        None
    };
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
        ignored: catalogue.ignored,
        rejects_file: &args.rejects,
        index,
        is_interrupted: error.is_none() && interrupt::is_requested(),
    };
    summary.print(reporter.is_json())?;
    match error {
        Some(error) => Err(error).with_context(|| {
            let loaded = summary.counts.loaded;
            format!("the load did not finish; the {loaded} photos it committed stay, run the same command again to go on")
        }),
        None => summary.ending(),
    }
}

fn batch(args: &LoadArgs, provider: &str) -> usize {
    match args.batch {
        0 if provider == CPU => CPU_BATCH,
        0 => GPU_BATCH,
        batch => batch,
    }
}

/// Opens the models, both at once. On a CPU single-threaded sessions, one per core and model up to
/// [`MAX_SESSIONS`], keep every core busy without the waiting inside of a shared operator; a GPU has
/// one session of each.
fn open(
    runtime: &Runtime,
    args: &LoadArgs,
    [detector, embedder]: [&ModelFiles; 2],
    threads: usize,
) -> Result<Engines> {
    let sessions = threads.clamp(1, MAX_SESSIONS);
    let options = SessionOptions {
        device: args.runtime.device,
        threads: threads.div_ceil(sessions),
    };
    thread::scope(|scope| {
        let embedders = scope.spawn(|| {
            let open = || embedder.open_embedder(runtime, &options);
            several(sessions, open, |first| first.provider() == CPU)
        });
        let open = || detector.open_detector(runtime, &options);
        let detectors = several(sessions, open, |first| first.provider() == CPU)?;
        match embedders.join() {
            Ok(embedders) => Ok(Engines {
                detectors,
                embedders: embedders?,
            }),
            Err(_) => bail!("the embedder could not be opened because of an internal error"),
        }
    })
}

/// One of a kind, or `count` where the first says that more are of use.
fn several<T>(
    count: usize,
    open: impl Fn() -> Result<T>,
    wants_more: impl Fn(&T) -> bool,
) -> Result<Vec<T>> {
    let first = open()?;
    let more = if wants_more(&first) { count - 1 } else { 0 };
    std::iter::once(Ok(first))
        .chain((0..more).map(|_| open()))
        .collect()
}
