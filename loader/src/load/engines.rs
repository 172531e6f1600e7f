//! The models of a load, opened as often as keeps the device busy.

use std::thread;

use anyhow::{Result, bail};
use lookbook_vision::{
    Detector, Embedder, Output, PoseEstimator, Runtime, SessionOptions, decode_side,
    decode_side_alone,
};

use crate::{args::RuntimeArgs, runtime::ModelFiles};

/// Each session holds a copy of its model.
const MAX_SESSIONS: usize = 8;

/// Garments in a run of OpenVINO, which computes in fixed shapes: a quarter less time for each than alone, and no
/// more for eight.
const OPENVINO_GARMENTS: usize = 4;

/// A garment that the source says is there may have a score as low as this.
const LOWEST_SCORE: f64 = 0.05;

/// Models, one per worker of its stage.
pub struct Engines {
    pub detectors: Vec<Detector>,
    pub embedders: Vec<Embedder>,
    /// One for each detector, where there is a pose model.
    pub estimators: Vec<PoseEstimator>,
    /// Its name.
    pub pose_model: Option<String>,
}

impl Engines {
    pub fn first(&self) -> Result<(&Detector, &Embedder)> {
        match (self.detectors.first(), self.embedders.first()) {
            (Some(detector), Some(embedder)) => Ok((detector, embedder)),
            _ => bail!("no model was opened"),
        }
    }

    /// The longest side to decode photos for.
    pub fn decode_side(&self) -> Result<u32> {
        let (detector, embedder) = self.first()?;
        let of_pose = self.estimators.first().map_or(0, decode_side_alone);
        Ok(of_pose.max(decode_side(Some(detector), embedder)))
    }

    pub fn is_on_cpu(&self) -> bool {
        self.detectors
            .first()
            .is_none_or(|first| !first.provider().is_gpu())
    }

    /// What detector and embedder take in a run.
    pub fn batch_sizes(&self) -> [usize; 2] {
        [
            self.detectors.first().map_or(0, Detector::batch_size),
            self.embedders.first().map_or(0, Embedder::batch_size),
        ]
    }

    /// Where each session runs.
    pub fn devices(&self) -> serde_json::Value {
        let detectors = self.detectors.iter().map(|model| model.provider().as_str());
        let embedders = self.embedders.iter().map(|model| model.provider().as_str());
        serde_json::json!({"detector": detectors.collect::<Vec<_>>(), "embedder": embedders.collect::<Vec<_>>()})
    }
}

/// From which score a garment is one, by the detector's manifest.
pub fn score_threshold(detector: &Detector) -> f32 {
    match detector.manifest().output() {
        Output::Detector(output) => output.score_threshold as f32,
        _ => 0.0,
    }
}

/// Lets less likely garments come out of a detector, too: where the source says what there is.
pub fn look_closer(detector: &mut Detector) {
    if let Output::Detector(output) = detector.manifest().output() {
        let (lowest, most) = (
            output.score_threshold.min(LOWEST_SCORE),
            output.max_detections,
        );
        detector.limit(lowest, most);
    }
}

/// Opens the models, both at once. On a CPU single-threaded sessions, one per core and model up to
/// [`MAX_SESSIONS`], keep every core busy without the waiting inside of a shared operator; each GPU has
/// one session of each, and takes the next batch when it is done with one.
pub fn open(
    runtime: &Runtime,
    args: &RuntimeArgs,
    [detector, embedder]: [&ModelFiles; 2],
    threads: usize,
) -> Result<Engines> {
    thread::scope(|scope| {
        let embedders = scope.spawn(|| open_embedders(runtime, args, embedder, threads));
        let open = |options: &_| detector.open_detector(runtime, options);
        let detectors = on_each(args, threads, open, |first| !first.provider().is_gpu())?;
        match embedders.join() {
            Ok(embedders) => Ok(Engines {
                detectors,
                embedders: embedders?,
                estimators: Vec::new(),
                pose_model: None,
            }),
            Err(_) => bail!("the embedder could not be opened because of an internal error"),
        }
    })
}

/// The pose model.
pub fn open_estimators(
    runtime: &Runtime,
    args: &RuntimeArgs,
    estimator: &ModelFiles,
    threads: usize,
) -> Result<Vec<PoseEstimator>> {
    let open = |options: &_| estimator.open_estimator(runtime, options);
    on_each(args, threads, open, |first| !first.provider().is_gpu())
}

/// The embedder alone.
pub fn open_embedders(
    runtime: &Runtime,
    args: &RuntimeArgs,
    embedder: &ModelFiles,
    threads: usize,
) -> Result<Vec<Embedder>> {
    let open = |options: &SessionOptions| {
        let batch = match options.device.is_openvino() {
            true => OPENVINO_GARMENTS,
            false => 0,
        };
        embedder.open_embedder(runtime, &SessionOptions { batch, ..*options })
    };
    on_each(args, threads, open, |first| !first.provider().is_gpu())
}

/// One of a kind on each device, or on a CPU as many as it has threads.
pub fn on_each<T>(
    args: &RuntimeArgs,
    threads: usize,
    open: impl Fn(&SessionOptions) -> Result<T>,
    is_on_cpu: impl Fn(&T) -> bool,
) -> Result<Vec<T>> {
    let sessions = threads.clamp(1, MAX_SESSIONS);
    let mut opened = Vec::new();
    for device in args.device.all() {
        let options = SessionOptions {
            device: *device,
            threads: threads.div_ceil(sessions),
            batch: 0,
        };
        opened.push(open(&options)?);
        if opened.last().is_some_and(&is_on_cpu) {
            for _ in 1..sessions {
                opened.push(open(&options)?);
            }
        }
    }
    Ok(opened)
}
