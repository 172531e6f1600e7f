//! Everything that can be wrong with a model, found before it is stored.
//!
//! Opens the model on the CPU and runs it once on a generated picture, so that a mistake in the
//! manifest is explained to who imports it and not to who queries later.

use image::{Rgb, RgbImage};

use crate::cancel::Cancel;
use crate::detector::Detector;
use crate::device::{Device, SessionOptions};
use crate::embedder::Embedder;
use crate::error::Error;
use crate::manifest::Manifest;
use crate::manifest_parts::{Kind, Output};
use crate::model::{Batch, Model, mismatch};
use crate::photo::Photo;
use crate::session::Runtime;

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
    let options = SessionOptions {
        device: Device::Cpu,
        threads: 1,
    };
    let photo = Photo::from_pixels(picture());
    let batched = |model: &Model| match model.batch() {
        Batch::Dynamic => true,
        Batch::Fixed(size) => size > 1,
        Batch::Absent => false,
    };
    match manifest.output() {
        Output::Embedder(output) => {
            let mut embedder = Embedder::open(runtime, manifest.clone(), onnx, &options)?;
            embedder.set_cancel(cancel);
            let batched = batched(embedder.model());
            // Two at once show whether a batch axis that claims to be dynamic is.
            let views = if batched {
                vec![photo.whole(); 2]
            } else {
                vec![photo.whole()]
            };
            let vectors = embedder.embed(&views)?;
            if vectors.len() == 2 && !agree(&vectors[0], &vectors[1]) {
                return Err(mismatch(
                    manifest,
                    format!(
                        "output \"{}\" gives two copies of one photo in a batch different vectors; \
                         export the model in evaluation mode",
                        output.name
                    ),
                ));
            }
            let dimensions = Some(embedder.dimensions());
            Ok(ModelReport {
                kind: Kind::Embedder,
                dimensions,
                batched,
            })
        }
        Output::Detector(_) => {
            let mut detector = Detector::open(runtime, manifest.clone(), onnx, &options)?;
            detector.set_cancel(cancel);
            let batched = batched(detector.model());
            let views = if batched {
                vec![photo.whole(); 2]
            } else {
                vec![photo.whole()]
            };
            detector.check_boxes(&views)?;
            Ok(ModelReport {
                kind: Kind::Detector,
                dimensions: None,
                batched,
            })
        }
    }
}

/// Equal but for the rounding of a different order of additions.
fn agree(a: &[f32], b: &[f32]) -> bool {
    let largest = a.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    a.iter()
        .zip(b)
        .all(|(a, b)| (a - b).abs() <= 1e-3 * largest.max(1e-6))
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
