//! From views to boxes of garments.
//!
//! Owns running a detector and turning its raw boxes into [`Detection`]s: threshold, class-wise
//! suppression, groups, mapping back to the photo. What each family's numbers mean is in
//! `families.rs`.

use crate::error::Error;
use crate::families::{Form, RawBox, read_family};
use crate::geometry::{BoundingBox, Geometry};
use crate::manifest_parts::{DetectorOutput, Group};
use crate::model::mismatch;
use crate::opened::Opened;
use crate::photo::View;
use crate::preprocess::Tensor;
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
pub type Detector = Opened<DetectorOutput>;

impl Detector {
    /// The labels that can come back, with their groups.
    pub fn labels(&self) -> impl Iterator<Item = (&str, Group)> {
        let labels = self.output.labels.iter();
        labels.filter_map(|label| Some((label.name.as_str(), label.group?)))
    }

    /// The lowest score kept.
    pub fn score_threshold(&self) -> f64 {
        self.output.score_threshold
    }

    /// Takes other limits than the manifest's, to measure the model: the lowest score kept, and the most
    /// garments of a photo.
    pub fn limit(&mut self, score_threshold: f64, max_detections: usize) {
        self.output.score_threshold = score_threshold;
        self.output.max_detections = max_detections;
    }

    /// The garments of each view, best score first.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Inference`]; [`Error::ModelMismatch`] when the outputs are not
    /// what the manifest says.
    pub fn detect(&mut self, views: &[View<'_>]) -> Result<Vec<Vec<Detection>>, Error> {
        self.run_views(views, Self::read_detections)
    }

    /// The garments of each prepared tensor, in order; see [`Detector::detect`].
    pub fn detect_prepared(&mut self, tensors: &[Tensor]) -> Result<Vec<Vec<Detection>>, Error> {
        self.run_prepared(tensors, Self::read_detections)
    }

    fn read_detections(
        &self,
        outputs: &[OutputTensor],
        tensors: &[Tensor],
    ) -> Result<Vec<Vec<Detection>>, Error> {
        let lowest = self.output.score_threshold as f32;
        let raw = self.read(outputs, tensors.len(), lowest)?;
        let photos = raw.into_iter().zip(tensors);
        Ok(photos
            .map(|(boxes, tensor)| self.select(boxes, tensor.geometry()))
            .collect())
    }

    /// The raw boxes of each photo in input pixels; those with a score below `lowest` may be left out.
    fn read(
        &self,
        outputs: &[OutputTensor],
        count: usize,
        lowest: f32,
    ) -> Result<Vec<Vec<RawBox>>, Error> {
        let input = self.manifest().input();
        let form = Form {
            input: (input.width, input.height),
            masks: self.model.masks(),
        };
        read_family(&self.output, form, outputs, count, lowest)
            .map_err(|reason| mismatch(self.manifest(), reason))
    }

    /// Every box of each view in input pixels, whatever its score.
    pub(crate) fn raw_boxes(&mut self, views: &[View<'_>]) -> Result<Vec<Vec<RawBox>>, Error> {
        self.run_views(views, |detector, outputs, tensors| {
            detector.read(outputs, tensors.len(), f32::NEG_INFINITY)
        })
    }

    /// Runs the model and checks that its boxes could be boxes, whatever their scores.
    pub(crate) fn check_boxes(&mut self, views: &[View<'_>]) -> Result<(), Error> {
        let raw = self.raw_boxes(views)?;
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
        if !self.output.family.suppresses() {
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

    pub(crate) fn group(&self, class: usize) -> Option<Group> {
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
