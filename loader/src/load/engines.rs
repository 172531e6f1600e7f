//! The models of a load, opened as often as keeps the device busy.

use std::thread;

use anyhow::{Result, bail};
use lookbook_vision::{Detector, Embedder, Runtime, SessionOptions};

use crate::{args::RuntimeArgs, runtime::ModelFiles};

/// Photos or garments per inference where the batch is not given. On a CPU a batch saves little
/// and costs memory; a GPU starves without one.
const CPU_BATCH: usize = 8;
const GPU_BATCH: usize = 32;

/// Each session holds a copy of its model.
const MAX_SESSIONS: usize = 8;

/// What `provider()` says of a model on the CPU.
const CPU: &str = "CPU";

/// Models, one per worker of its stage.
pub struct Engines {
    pub detectors: Vec<Detector>,
    pub embedders: Vec<Embedder>,
}

impl Engines {
    pub fn first(&self) -> Result<(&Detector, &Embedder)> {
        match (self.detectors.first(), self.embedders.first()) {
            (Some(detector), Some(embedder)) => Ok((detector, embedder)),
            _ => bail!("no model was opened"),
        }
    }

    /// Where each session runs.
    pub fn devices(&self) -> serde_json::Value {
        let detectors: Vec<&str> = self.detectors.iter().map(Detector::provider).collect();
        let embedders: Vec<&str> = self.embedders.iter().map(Embedder::provider).collect();
        serde_json::json!({"detector": detectors, "embedder": embedders})
    }
}

/// Photos or garments per inference; 0 is by the provider.
pub fn batch(asked: usize, provider: &str) -> usize {
    match asked {
        0 if provider == CPU => CPU_BATCH,
        0 => GPU_BATCH,
        batch => batch,
    }
}

/// Opens the models, both at once. On a CPU single-threaded sessions, one per core and model up to
/// [`MAX_SESSIONS`], keep every core busy without the waiting inside of a shared operator; a GPU has
/// one session of each.
pub fn open(
    runtime: &Runtime,
    args: &RuntimeArgs,
    [detector, embedder]: [&ModelFiles; 2],
    threads: usize,
) -> Result<Engines> {
    thread::scope(|scope| {
        let embedders = scope.spawn(|| open_embedders(runtime, args, embedder, threads));
        let (sessions, options) = sessions(args, threads);
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

/// The embedder alone.
pub fn open_embedders(
    runtime: &Runtime,
    args: &RuntimeArgs,
    embedder: &ModelFiles,
    threads: usize,
) -> Result<Vec<Embedder>> {
    let (sessions, options) = sessions(args, threads);
    let open = || embedder.open_embedder(runtime, &options);
    several(sessions, open, |first| first.provider() == CPU)
}

fn sessions(args: &RuntimeArgs, threads: usize) -> (usize, SessionOptions) {
    let sessions = threads.clamp(1, MAX_SESSIONS);
    let options = SessionOptions {
        device: args.device,
        threads: threads.div_ceil(sessions),
    };
    (sessions, options)
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
