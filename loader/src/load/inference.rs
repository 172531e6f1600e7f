//! `lookbook bench-inference`: what the models of a load reach when they have nothing to wait for.
//!
//! The same sessions, as many, with the same photos, prepared before the clock starts: what is left is
//! inference alone, which a load should come near to.

use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use lookbook_vision::{
    Detection, Detector, Embedder, Limits, Photo, PoseEstimator, Tensor, decode,
};
use serde_json::json;

use super::{engines::Engines, setup::Choice, summary::processor_time};
use crate::{
    args::InferenceArgs,
    database::connect,
    messages::{self, Ending},
    runtime,
    shelf::Shelf,
};

/// Photos per inference to try, and on how large a part of the photos.
const SIZES: &[usize] = &[1, 2, 4, 8];
const TRIED: usize = 8;

struct Prepared {
    detect: Tensor,
    pose: Option<Tensor>,
    crops: Vec<Tensor>,
}

pub fn run(args: &InferenceArgs) -> Result<Ending> {
    let mut client = connect(args.database.url.as_deref())?;
    let choice = Choice {
        runtime: &args.runtime,
        models: &args.models,
        pose: &args.pose,
    };
    let threads = runtime::threads(&args.runtime);
    let (_, mut engines) = choice.open(&mut client, &Shelf::Rows, threads)?;
    let prepared = prepare(args, &mut engines)?;
    let some = &prepared[..prepared.len().div_ceil(TRIED)];
    let mut best = (1, Duration::MAX);
    for size in SIZES.iter().chain(SIZES).copied() {
        let (_, processor) = measure(&mut engines, some, size)?;
        if processor < best.1 {
            best = (size, processor);
        }
    }
    let (size, _) = best;
    let (wall, processor) = measure(&mut engines, &prepared, size)?;
    let photos = prepared.len();
    let garments: usize = prepared.iter().map(|photo| photo.crops.len()).sum();
    messages::print_exactly(json!({
        "photos": photos,
        "garments": garments,
        "batch": size,
        "wall_seconds": wall.as_secs_f64(),
        "images_per_second": photos as f64 / wall.as_secs_f64(),
        "processor_seconds": processor.as_secs_f64(),
    }))?;
    Ok(Ending::Complete)
}

/// Inputs of both models for each photo, as a load makes them.
fn prepare(args: &InferenceArgs, engines: &mut Engines) -> Result<Vec<Prepared>> {
    let side = Some(engines.decode_side()?);
    let (detector, embedder) = engines.first()?;
    let (for_detector, for_embedder) = (detector.preprocessor(), embedder.preprocessor());
    let estimator = engines.estimators.first();
    let for_estimator = estimator.map(PoseEstimator::preprocessor);
    let Some(detector) = engines.detectors.first_mut() else {
        bail!("no model was opened");
    };
    let limits = Limits::default();
    let mut prepared = Vec::new();
    for file in &args.photos {
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let photo = decode(&bytes, &limits, side)?;
        let detect = for_detector.prepare(&photo.whole());
        let found = detector
            .detect_prepared(std::slice::from_ref(&detect))?
            .pop()
            .unwrap_or_default();
        let crop = |found: &Detection, photo: &Photo| {
            for_embedder.prepare(&photo.crop(found.bbox.with_margin(photo)))
        };
        let crops = match found.is_empty() {
            true => vec![for_embedder.prepare(&photo.whole())],
            false => found.iter().map(|found| crop(found, &photo)).collect(),
        };
        let pose = for_estimator.as_ref();
        prepared.push(Prepared {
            detect,
            pose: pose.map(|pose| pose.prepare(&photo.whole())),
            crops,
        });
    }
    Ok(prepared)
}

/// Wall and processor time of all photos in batches of that size, on all sessions at once.
fn measure(
    engines: &mut Engines,
    photos: &[Prepared],
    size: usize,
) -> Result<(Duration, Duration)> {
    let next = AtomicUsize::new(0);
    let chunks: Vec<&[Prepared]> = photos.chunks(size).collect();
    let (start, before) = (Instant::now(), processor_time());
    thread::scope(|scope| {
        let mut estimators = engines.estimators.iter_mut();
        let sessions = engines.detectors.iter_mut().zip(&mut engines.embedders);
        let workers: Vec<_> = sessions
            .map(|(detector, embedder)| {
                let models = (detector, embedder, estimators.next());
                scope.spawn(|| work(models, size, &chunks, &next))
            })
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(done) => done?,
                Err(_) => bail!("a worker ended by an internal error"),
            }
        }
        Ok(())
    })?;
    Ok((start.elapsed(), processor_time().saturating_sub(before)))
}

fn work(
    (detector, embedder, mut estimator): (&mut Detector, &mut Embedder, Option<&mut PoseEstimator>),
    size: usize,
    chunks: &[&[Prepared]],
    next: &AtomicUsize,
) -> Result<()> {
    while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
        let detect: Vec<Tensor> = chunk.iter().map(|photo| photo.detect.clone()).collect();
        detector.detect_prepared(&detect)?;
        if let Some(estimator) = &mut estimator {
            let persons: Vec<Tensor> = chunk
                .iter()
                .filter_map(|photo| photo.pose.clone())
                .collect();
            estimator.estimate_prepared(&persons)?;
        }
        let crops: Vec<Tensor> = chunk.iter().flat_map(|photo| photo.crops.clone()).collect();
        for crops in crops.chunks(size) {
            embedder.embed_prepared(crops)?;
        }
    }
    Ok(())
}
