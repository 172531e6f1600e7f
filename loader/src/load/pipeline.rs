//! The stages of a load and the queues between them:
//!
//! ```text
//! read -> decode + prepare -> detect -> crop + prepare -> embed -> write
//! ```
//!
//! All run at once, each on its own threads; only the slowest limits. Invariants: queues are
//! bounded, files and decoded pixels stay under [`FILE_BYTES`] and [`PIXEL_BYTES`] (one larger photo excepted), whatever the
//! catalogue; a photo is counted exactly once, as loaded, skipped or rejected, or was not reached.

use std::{
    sync::{Arc, Mutex},
    thread,
};

use crossbeam_channel::bounded;
use lookbook_vision::{Detection, Group, Limits, PoseEstimator};

use super::{
    batch::BatchSize,
    engines::Engines,
    split::Split,
    stage::{Budget, Meter, Stop},
    tally::Tally,
    threads::Threads,
    workers::Preparers,
};
use crate::{
    database::{Known, Writer},
    source::{Fetcher, Source},
};

/// Files that wait to be decoded.
const FILE_BYTES: u64 = 256 << 20;
/// Decoded pixels in flight, and what decoding takes.
pub const PIXEL_BYTES: u64 = 512 << 20;

/// Threads and sizes of the stages.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub readers: usize,
    pub decoders: usize,
    pub croppers: usize,
    /// Photos, and garments, per inference; 0: to be found out.
    pub batch: usize,
    /// Longest side to decode for.
    pub decode_side: u32,
    pub require_full_front_pose: bool,
    /// From which score a garment is one.
    pub score_threshold: f32,
}

impl Shape {
    /// What of `found`, best first, counts: the garments, and where none is of the category that is sold, the one that
    /// is most likely to be.
    pub fn kept(&self, found: Vec<Detection>, sold: Option<Group>) -> Vec<Detection> {
        let first = sold.and_then(|sold| found.iter().position(|found| found.group == sold));
        let found = found.into_iter().enumerate();
        let kept =
            found.filter(|(at, found)| found.score >= self.score_threshold || Some(*at) == first);
        kept.map(|(_, found)| found).collect()
    }
}

/// How long each stage was busy.
pub struct Meters {
    pub read: Meter,
    pub decode: Meter,
    pub detect: Meter,
    pub crop: Meter,
    pub embed: Meter,
    pub write: Meter,
    pub detect_batch: BatchSize,
    pub embed_batch: BatchSize,
}

impl Meters {
    pub fn new(shape: &Shape, engines: &Engines) -> Self {
        let is_on_cpu = engines.is_on_cpu();
        let [detector, embedder] = engines.batch_sizes();
        Self {
            read: Meter::new("read", shape.readers),
            decode: Meter::new("decode", shape.decoders),
            detect: Meter::new("detect", engines.detectors.len()),
            crop: Meter::new("crop", shape.croppers),
            embed: Meter::new("embed", engines.embedders.len()),
            write: Meter::new("write", 1),
            detect_batch: BatchSize::of_photos(shape.batch, is_on_cpu, detector),
            embed_batch: BatchSize::of_garments(shape.batch, is_on_cpu, embedder),
        }
    }

    pub fn all(&self) -> [&Meter; 6] {
        [
            &self.read,
            &self.decode,
            &self.detect,
            &self.crop,
            &self.embed,
            &self.write,
        ]
    }
}

/// Everything the stages share.
pub struct Load<'a> {
    pub source: Mutex<Source<'a>>,
    pub fetcher: Arc<Fetcher>,
    pub known: &'a Known,
    pub limits: Limits,
    pub shape: Shape,
    pub tally: &'a Tally,
    pub meters: &'a Meters,
    pub split: &'a Split,
    pub stop: &'a Stop,
}

impl<'a> Load<'a> {
    /// Loads all entries; `watch` is called a few times a second meanwhile. Errors end up in `stop`.
    pub fn run(&self, engines: Engines, writer: &mut Writer, mut watch: impl FnMut()) {
        let Ok((detector, embedder)) = engines.first() else {
            return;
        };
        let embed_prepare = embedder.preprocessor();
        let whole_prepare = Preparers {
            detect: detector.preprocessor(),
            pose: engines.estimators.first().map(PoseEstimator::preprocessor),
        };
        let shape = self.shape;
        let detect_most = self.meters.detect_batch.most();
        let embed_most = self.meters.embed_batch.most();
        let files = Budget::new(FILE_BYTES);
        let budget = Budget::new(PIXEL_BYTES);
        let (read_out, decode_in) = bounded(2 * shape.decoders);
        let (decode_out, detect_in) = bounded(2 * detect_most);
        let (detect_out, crop_in) = bounded(2 * detect_most);
        let (crop_out, embed_in) = bounded(2 * embed_most);
        let (embed_out, write_in) = bounded(4 * embed_most);
        thread::scope(|scope| {
            let mut threads = Threads::new(scope, self.stop);
            for _ in 0..shape.readers {
                let output = read_out.clone();
                threads.start(|| self.read(&files, output));
            }
            for _ in 0..shape.decoders {
                let (input, output) = (decode_in.clone(), decode_out.clone());
                let (prepare, budget) = (&whole_prepare, &budget);
                threads.start(move || self.decode(prepare, budget, &input, &output));
            }
            let mut estimators = engines.estimators.into_iter();
            for detector in engines.detectors {
                let (input, output) = (detect_in.clone(), detect_out.clone());
                let models = (detector, estimators.next());
                threads.start(move || self.detect(models, &input, &output));
            }
            for _ in 0..shape.croppers {
                let (input, output) = (crop_in.clone(), crop_out.clone());
                let prepare = &embed_prepare;
                threads.start(move || self.crop(prepare, &input, &output));
            }
            for embedder in engines.embedders {
                let (input, output) = (embed_in.clone(), embed_out.clone());
                threads.start(move || self.embed(embedder, &input, &output));
            }
            threads.start(move || self.write(writer, write_in));
            // Only the workers hold the queues now: when one kind ends, the next sees its end.
            drop((read_out, decode_in, decode_out, detect_in, detect_out));
            drop((crop_in, crop_out, embed_in, embed_out));
            threads.wait(&mut watch);
        });
    }
}
