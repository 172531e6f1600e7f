//! From views to boxes of garments.
//!
//! Owns running a detector and turning its raw boxes into [`Detection`]s: threshold, class-wise
//! suppression, groups, mapping back to the photo. What each family's numbers mean is in
//! `families.rs`.

use crate::cancel::Cancel;
use crate::device::SessionOptions;
use crate::error::Error;
use crate::families::{RawBox, read_family};
use crate::geometry::{BoundingBox, Geometry};
use crate::manifest::Manifest;
use crate::manifest_parts::{DetectorOutput, Family, Group, Output};
use crate::model::{Model, mismatch};
use crate::photo::View;
use crate::preprocess::{Preprocessor, Tensor};
use crate::session::Runtime;
use crate::tensors::OutputTensor;

/// Boxes that enter suppression at most, best first: it compares pairs, and a photo has tens.
const MAX_CANDIDATES: usize = 2_000;

/// A box whose corner lies this many input sides away is no box.
const IMPLAUSIBLY_FAR: f32 = 4.0;

/// One garment found.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// Category of its label.
    pub group: Group,
    /// The model's own label.
    pub label: String,
    /// Confidence, 0 to 1.
    pub score: f32,
    /// In pixels of the full-size oriented photo, clipped to the view.
    pub bbox: BoundingBox,
}

/// A garment detector, ready to run.
#[derive(Debug)]
pub struct Detector {
    model: Model,
    output: DetectorOutput,
}

impl Detector {
    /// Opens a model of kind `detector`.
    ///
    /// # Errors
    /// As [`crate::Embedder::open`].
    pub fn open(
        runtime: &Runtime,
        manifest: Manifest,
        onnx: &[u8],
        options: &SessionOptions,
    ) -> Result<Self, Error> {
        let Output::Detector(output) = manifest.output().clone() else {
            return Err(Error::ManifestInvalid {
                key: "kind".to_owned(),
                reason: format!(
                    "model \"{}\" is an {}; expected a detector",
                    manifest.name(),
                    manifest.kind()
                ),
            });
        };
        Ok(Self {
            model: Model::open(runtime, manifest, onnx, options)?,
            output,
        })
    }

    /// What the model runs on: `CPU` or `CUDA`.
    pub fn provider(&self) -> &str {
        self.model.provider()
    }

    /// The model's manifest.
    pub fn manifest(&self) -> &Manifest {
        self.model.manifest()
    }

    /// Photos that go into one run.
    pub fn batch_size(&self) -> usize {
        self.model.chunk_size()
    }

    /// Lets `cancel` stop the runs of this detector.
    pub fn set_cancel(&mut self, cancel: &Cancel) {
        self.model.set_cancel(cancel);
    }

    /// What turns views into this model's input, on any thread.
    pub fn preprocessor(&self) -> Preprocessor {
        self.model.preprocessor().clone()
    }

    pub(crate) fn longest_side(&self) -> u32 {
        let input = self.model.manifest().input();
        input.width.max(input.height)
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// The garments of each view, best score first.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Inference`]; [`Error::ModelMismatch`] when the outputs are not
    /// what the manifest says.
    pub fn detect(&mut self, views: &[View<'_>]) -> Result<Vec<Vec<Detection>>, Error> {
        let preprocessor = self.preprocessor();
        let mut found = Vec::with_capacity(views.len());
        for chunk in views.chunks(self.model.chunk_size()) {
            let tensors: Vec<Tensor> = chunk
                .iter()
                .map(|view| preprocessor.prepare(view))
                .collect();
            found.extend(self.detect_prepared(&tensors)?);
        }
        Ok(found)
    }

    /// The garments of each prepared tensor, in order; see [`Detector::detect`].
    pub fn detect_prepared(&mut self, tensors: &[Tensor]) -> Result<Vec<Vec<Detection>>, Error> {
        let mut found = Vec::with_capacity(tensors.len());
        for chunk in tensors.chunks(self.model.chunk_size()) {
            let refs: Vec<&Tensor> = chunk.iter().collect();
            let outputs = self.model.run(&refs)?;
            let raw = self.read(&outputs, chunk.len())?;
            for (boxes, tensor) in raw.into_iter().zip(chunk) {
                found.push(self.select(boxes, tensor.geometry()));
            }
        }
        Ok(found)
    }

    /// The raw boxes of each photo in input pixels.
    pub(crate) fn read(
        &self,
        outputs: &[OutputTensor],
        count: usize,
    ) -> Result<Vec<Vec<RawBox>>, Error> {
        let input = self.manifest().input();
        read_family(&self.output, (input.width, input.height), outputs, count)
            .map_err(|reason| mismatch(self.manifest(), reason))
    }

    /// Runs the model and checks that its boxes could be boxes, whatever their scores.
    pub(crate) fn check_boxes(&mut self, views: &[View<'_>]) -> Result<(), Error> {
        let preprocessor = self.preprocessor();
        let tensors: Vec<Tensor> = views
            .iter()
            .map(|view| preprocessor.prepare(view))
            .collect();
        let refs: Vec<&Tensor> = tensors.iter().collect();
        let outputs = self.model.run(&refs)?;
        let raw = self.read(&outputs, views.len())?;
        let input = self.manifest().input();
        let far = input.width.max(input.height) as f32 * IMPLAUSIBLY_FAR;
        let lies_far = |b: &BoundingBox| [b.x1, b.y1, b.x2, b.y2].iter().any(|v| v.abs() > far);
        let threshold = self.output.score_threshold as f32;
        let mut kept = raw.iter().flatten().filter(|raw| raw.score >= threshold);
        if let Some(raw) = kept.find(|raw| lies_far(&raw.bbox)) {
            return Err(mismatch(
                self.manifest(),
                format!(
                    "output \"{}\" has the box {:?}, far outside an input of {} x {} pixels; \
                     check output.family and the units of its boxes",
                    self.output.names.boxes, raw.bbox, input.width, input.height
                ),
            ));
        }
        Ok(())
    }

    fn select(&self, mut boxes: Vec<RawBox>, geometry: &Geometry) -> Vec<Detection> {
        let threshold = self.output.score_threshold as f32;
        boxes.retain(|raw| raw.score >= threshold && self.group(raw.class).is_some());
        // Stable, so equal scores keep the model's order and results do not vary.
        boxes.sort_by(|a, b| b.score.total_cmp(&a.score));
        boxes.truncate(MAX_CANDIDATES);
        if matches!(self.output.family, Family::YoloV8 | Family::YoloV5) {
            boxes = suppressed(boxes, self.output.iou_threshold as f32);
        }
        boxes
            .into_iter()
            .filter_map(|raw| {
                let group = self.group(raw.class)?;
                let bbox = geometry.to_photo(raw.bbox);
                let label = self.output.labels[raw.class].name.clone();
                (bbox.area() > 0.0).then_some(Detection {
                    group,
                    label,
                    score: raw.score,
                    bbox,
                })
            })
            .take(self.output.max_detections)
            .collect()
    }

    fn group(&self, class: usize) -> Option<Group> {
        self.output.labels.get(class).and_then(|label| label.group)
    }
}

/// Class-wise non-maximum suppression of boxes sorted by score.
fn suppressed(boxes: Vec<RawBox>, threshold: f32) -> Vec<RawBox> {
    let mut kept: Vec<RawBox> = Vec::new();
    for candidate in boxes {
        let covered = kept.iter().any(|better| {
            better.class == candidate.class && better.bbox.iou(&candidate.bbox) > threshold
        });
        if !covered {
            kept.push(candidate);
        }
    }
    kept
}
