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
use lookbook_vision::{Detection, Detector, Embedder, Limits, Photo, Tensor, decode, decode_side};
use serde_json::json;

use super::{
    engines::{self, Engines},
    summary::processor_time,
};
use crate::{
    args::InferenceArgs,
    database::{ModelKind, choose_model, connect},
    messages::{self, Ending},
    runtime::{self, ModelFiles},
};

/// Photos per inference to try.
const SIZES: &[usize] = &[1, 2, 4, 8];

struct Prepared {
    detect: Tensor,
    crops: Vec<Tensor>,
}

pub fn run(args: &InferenceArgs) -> Result<Ending> {
    let mut client = connect(args.database.url.as_deref())?;
    let detector = choose_model(
        &mut client,
        ModelKind::Detector,
        args.models.detect_model.as_deref(),
    )?;
    let embedder = choose_model(
        &mut client,
        ModelKind::Embedder,
        args.models.embed_model.as_deref(),
    )?;
    let files = [
        ModelFiles::of_row(&mut client, &detector)?,
        ModelFiles::of_row(&mut client, &embedder)?,
    ];
    let threads = runtime::threads(&args.runtime);
    let runtime = runtime::load(&args.runtime)?;
    let mut engines = engines::open(&runtime, &args.runtime, [&files[0], &files[1]], threads)?;
    let prepared = prepare(args, &mut engines)?;
    let mut best: Option<(usize, Duration, Duration)> = None;
    for size in SIZES.iter().chain(SIZES).copied() {
        let (wall, processor) = measure(&mut engines, &prepared, size)?;
        if best.is_none_or(|(_, _, least)| processor < least) {
            best = Some((size, wall, processor));
        }
    }
    let Some((size, wall, processor)) = best else {
        bail!("nothing was measured");
    };
    let photos = prepared.len();
    let garments: usize = prepared.iter().map(|photo| photo.crops.len()).sum();
    messages::print(json!({
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
    let (detector, embedder) = engines.first()?;
    let side = Some(decode_side(Some(detector), embedder));
    let (for_detector, for_embedder) = (detector.preprocessor(), embedder.preprocessor());
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
        prepared.push(Prepared { detect, crops });
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
        let sessions = engines.detectors.iter_mut().zip(&mut engines.embedders);
        let workers: Vec<_> = sessions
            .map(|(detector, embedder)| {
                scope.spawn(|| work(detector, embedder, size, &chunks, &next))
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
    detector: &mut Detector,
    embedder: &mut Embedder,
    size: usize,
    chunks: &[&[Prepared]],
    next: &AtomicUsize,
) -> Result<()> {
    while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
        let detect: Vec<Tensor> = chunk.iter().map(|photo| photo.detect.clone()).collect();
        detector.detect_prepared(&detect)?;
        let crops: Vec<Tensor> = chunk.iter().flat_map(|photo| photo.crops.clone()).collect();
        for crops in crops.chunks(size) {
            embedder.embed_prepared(crops)?;
        }
    }
    Ok(())
}
