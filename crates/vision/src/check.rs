//! Everything that can be wrong with a model, found before it is stored.
//!
//! Opens the model on the CPU and runs it once on a generated picture, so that a mistake in the
//! manifest is explained to who imports it and not to who queries later.

use image::{Rgb, RgbImage};

use crate::cancel::Cancel;
use crate::device::{Device, SessionOptions};
use crate::error::Error;
use crate::families::RawBox;
use crate::manifest::Manifest;
use crate::manifest_parts::{DetectorOutput, EmbedderOutput, Kind, Output, PoseOutput};
use crate::opened::{KindOutput, Opened};
use crate::photo::{Photo, View};
use crate::session::Runtime;

const BATCH_REMEDY: &str =
    "export it with a batch of 1, or with a dynamic first axis on the outputs, too";
const CONSTANTS_REMEDY: &str = "set per_photo for those of input.constants that have a batch axis, or export it with a batch \
                                of 1, or with a dynamic first axis on the outputs, too";

/// What a check found out about a sound model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelReport {
    /// What the model is for.
    pub kind: Kind,
    /// Length of the vectors, for an embedder.
    pub dimensions: Option<usize>,
    /// Whether one run can take several photos.
    pub batched: bool,
}

/// Checks digest, header, session, and one run on a generated picture.
///
/// # Errors
/// The `Model*` variants of [`Error`], each naming what was found and what was expected.
pub fn check_model(
    runtime: &Runtime,
    manifest: &Manifest,
    onnx: &[u8],
) -> Result<ModelReport, Error> {
    check_model_with(runtime, manifest, onnx, &Cancel::new())
}

/// [`check_model`] that `cancel` can stop from another thread.
///
/// # Errors
/// As [`check_model`], and [`Error::Cancelled`].
pub fn check_model_with(
    runtime: &Runtime,
    manifest: &Manifest,
    onnx: &[u8],
    cancel: &Cancel,
) -> Result<ModelReport, Error> {
    let photo = Photo::from_pixels(picture());
    match manifest.output() {
        Output::Embedder(output) => {
            let (mut embedder, mut report) =
                open::<EmbedderOutput>(runtime, manifest, onnx, cancel)?;
            let vectors = run(&mut embedder, &photo, Opened::embed)?;
            if vectors.len() == 2 && !agree(&vectors[0], &vectors[1]) {
                return Err(Error::ModelUnsupported {
                    model: manifest.name().to_owned(),
                    reason: format!(
                        "output \"{}\" gives two copies of one photo in a batch different vectors",
                        output.name
                    ),
                    remedy: "export the model in evaluation mode",
                });
            }
            check_alone(&mut embedder, &photo, Opened::embed, |together, alone| {
                let apart = together.iter().zip(alone).map(|(a, b)| a - b);
                length(apart) <= LEAST_ALIKE * length(alone.iter().copied())
            })?;
            report.dimensions = Some(embedder.dimensions());
            Ok(report)
        }
        Output::Detector(_) => {
            let (mut detector, report) = open::<DetectorOutput>(runtime, manifest, onnx, cancel)?;
            run(&mut detector, &photo, Opened::check_boxes)?;
            check_alone(
                &mut detector,
                &photo,
                Opened::raw_boxes,
                |together, alone| {
                    most_agree(likeliest(together, alone), |(a, b)| {
                        let edges = |b: &RawBox| [b.bbox.x1, b.bbox.y1, b.bbox.x2, b.bbox.y2];
                        let far = edges(a)
                            .iter()
                            .zip(edges(b))
                            .any(|(a, b)| (a - b).abs() > 1.0);
                        !far && (a.score - b.score).abs() <= 0.02
                    })
                },
            )?;
            Ok(report)
        }
        Output::Pose(_) => {
            let (mut estimator, report) = open::<PoseOutput>(runtime, manifest, onnx, cancel)?;
            run(&mut estimator, &photo, Opened::estimate)?;
            check_alone(
                &mut estimator,
                &photo,
                Opened::estimate,
                |together, alone| {
                    most_agree(together.0.iter().zip(&alone.0), |(a, b)| {
                        (a.x - b.x).abs() <= 1.0
                            && (a.y - b.y).abs() <= 1.0
                            && (a.score - b.score).abs() <= 0.02
                    })
                },
            )?;
            Ok(report)
        }
    }
}

fn open<O: KindOutput>(
    runtime: &Runtime,
    manifest: &Manifest,
    onnx: &[u8],
    cancel: &Cancel,
) -> Result<(Opened<O>, ModelReport), Error> {
    let options = SessionOptions {
        device: Device::Cpu,
        threads: 1,
        batch: 0,
    };
    let mut opened = Opened::<O>::open(runtime, manifest.clone(), onnx, &options)?;
    opened.set_cancel(cancel);
    let report = ModelReport {
        kind: O::KIND,
        dimensions: None,
        batched: opened.batch_size() > 1,
    };
    Ok((opened, report))
}

/// Runs the photo, twice at once if a run claims to take several: what only then fails is the batch axis.
fn run<O, R>(
    opened: &mut Opened<O>,
    photo: &Photo,
    read: impl Fn(&mut Opened<O>, &[View<'_>]) -> Result<R, Error>,
) -> Result<R, Error> {
    let views = [photo.whole(), photo.whole()];
    if opened.batch_size() == 1 {
        return read(opened, &views[..1]);
    }
    match read(opened, &views) {
        Err(Error::Inference { model, reason } | Error::ModelMismatch { model, reason })
            if read(opened, &views[..1]).is_ok() =>
        {
            Err(Error::ModelUnsupported {
                model,
                reason: format!(
                    "the batch axis of its input takes several photos, but a run with two fails, and with one it \
                     works: {reason}"
                ),
                remedy: match opened.manifest().input().constants.as_slice() {
                    [] => BATCH_REMEDY,
                    _ => CONSTANTS_REMEDY,
                },
            })
        }
        outcome => outcome,
    }
}

/// A photo gets the same whatever else is in its batch: else the same photo would have another vector in SQL than
/// after a load.
fn check_alone<O, R>(
    opened: &mut Opened<O>,
    other: &Photo,
    read: impl Fn(&mut Opened<O>, &[View<'_>]) -> Result<Vec<R>, Error>,
    is_alike: impl Fn(&R, &R) -> bool,
) -> Result<(), Error> {
    if opened.batch_size() == 1 {
        return Ok(());
    }
    let photo = Photo::from_pixels(bright_picture());
    let together = read(opened, &[other.whole(), photo.whole()])?;
    let alone = read(opened, &[photo.whole()])?;
    match (together.get(1), alone.first()) {
        (Some(together), Some(alone)) if !is_alike(together, alone) => {
            Err(Error::ModelUnsupported {
                model: opened.manifest().name().to_owned(),
                reason: "what it gives for a photo depends on the other photos of a batch"
                    .to_owned(),
                remedy: "export the model in evaluation mode: batch norm by its running statistics, no dropout",
            })
        }
        _ => Ok(()),
    }
}

/// How far apart two vectors of one photo may lie, of their length: a quantised model whose scales hang on the batch does
/// so by a few hundredths, one that was left in training mode by tenths.
const LEAST_ALIKE: f32 = 0.05;

fn length(elements: impl Iterator<Item = f32>) -> f32 {
    elements
        .map(|element| element * element)
        .sum::<f32>()
        .sqrt()
}

/// The boxes that are likeliest when a photo is alone, and those in their places.
fn likeliest<'a>(
    together: &'a [RawBox],
    alone: &'a [RawBox],
) -> impl Iterator<Item = (&'a RawBox, &'a RawBox)> {
    let mut pairs: Vec<_> = together.iter().zip(alone).collect();
    pairs.sort_by(|(_, a), (_, b)| b.score.total_cmp(&a.score));
    pairs.into_iter().take(LIKELIEST)
}

const LIKELIEST: usize = 20;

/// Half of the pairs: which ones come first may hang on a rounding.
fn most_agree<T>(pairs: impl Iterator<Item = T>, agree: impl Fn(T) -> bool) -> bool {
    let (mut count, mut good) = (0, 0);
    for pair in pairs {
        count += 1;
        good += usize::from(agree(pair));
    }
    2 * good >= count
}

/// Equal but for the rounding of a different order of additions.
fn agree(a: &[f32], b: &[f32]) -> bool {
    let largest = a.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    a.iter()
        .zip(b)
        .all(|(a, b)| (a - b).abs() <= 1e-3 * largest.max(1e-6))
}

/// A picture that is unlike [`picture`], and brighter.
fn bright_picture() -> RgbImage {
    RgbImage::from_fn(96, 128, |x, y| match (x / 12 + y / 16) % 2 {
        0 => Rgb([250, 245 - (y / 2) as u8, 255]),
        _ => Rgb([255 - x as u8, 230, 180]),
    })
}

/// A picture with edges, colours and gradients, the same on every machine.
fn picture() -> RgbImage {
    RgbImage::from_fn(96, 128, |x, y| {
        if (24..72).contains(&x) && (32..104).contains(&y) {
            Rgb([200, 40 + (x % 16) as u8 * 4, 60])
        } else {
            Rgb([(x * 2) as u8, (y * 2) as u8, 255 - (x + y) as u8])
        }
    })
}
