//! The forms in which detectors write their boxes.
//!
//! Here: forms that give every candidate; `families/nms.rs` has those of models with their own NMS.
//! Owns the meaning of each family's output tensors (`docs/architecture.md`, table of families) and
//! the checks that a tensor has that form. Gives boxes in input pixels with the best class each;
//! thresholds and suppression are the detector's. Errors are plain reasons that name the output.

mod exports;
mod nms;

use ndarray::{
    Array1, ArrayView, ArrayView1, ArrayView2, ArrayView3, ArrayViewD, Axis, CowArray, Dimension,
    Ix1, Ix3, Zip, aview1, s,
};

use self::exports::yolo_remedy;
use crate::geometry::BoundingBox;
use crate::manifest_parts::{Activation, DetectorOutput, Family};
use crate::tensors::OutputTensor;

/// A box in input pixels with its best class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RawBox {
    pub(crate) class: usize,
    pub(crate) score: f32,
    pub(crate) bbox: BoundingBox,
}

/// Slack for scores that a half-precision sigmoid or softmax rounds beyond 0..1.
const SCORE_SLACK: f32 = 0.01;

/// What the reading of a family needs to know beside the manifest's output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    /// Width and height of the model's input.
    pub(crate) input: (u32, u32),
    /// Mask coefficients that end the numbers of each box, where it has more than those: a segmentation model's.
    pub(crate) masks: usize,
}

/// Reads the outputs of one run. Boxes with a score below `lowest` may be left out.
pub(crate) fn read_family(
    output: &DetectorOutput,
    form: Form,
    tensors: &[OutputTensor],
    count: usize,
    lowest: f32,
) -> Result<Vec<Vec<RawBox>>, String> {
    match (output.family, tensors) {
        (Family::YoloV8, [boxes]) => read_yolo_v8(output, form, boxes, count, lowest),
        (Family::YoloV5, [boxes]) => read_yolo_v5(output, form, boxes, count),
        (Family::Detr, [boxes, logits]) => read_detr(output, form.input, boxes, logits, count),
        (Family::YoloNms, [boxes]) => nms::read_rows(output, form, boxes, count),
        (Family::Torchvision, [boxes, labels, scores]) => {
            nms::read_torchvision(output, [boxes, labels, scores], count)
        }
        _ => Err(format!(
            "it gave {} outputs, which this family does not have",
            tensors.len()
        )),
    }
}

impl Form {
    /// How many of the `found` numbers of a box are mask coefficients, of which `before` others are at least.
    fn masks_of(self, found: usize, before: usize) -> usize {
        if found > before + self.masks {
            self.masks
        } else {
            0
        }
    }
}

/// What a shape is expected to have for its mask coefficients.
fn and_masks(masks: usize) -> String {
    match masks {
        0 => String::new(),
        _ => format!(" + {masks} mask coefficients"),
    }
}

fn read_yolo_v8(
    output: &DetectorOutput,
    form: Form,
    tensor: &OutputTensor,
    count: usize,
    lowest: f32,
) -> Result<Vec<Vec<RawBox>>, String> {
    let name = &output.names.boxes;
    let classes = output.labels.len();
    let masks = form.masks_of(tensor.shape().get(1).copied().unwrap_or(0), 4);
    let rows = 4 + classes + masks;
    let fits = |shape: [usize; 3]| shape[0] >= count && shape[1] == rows;
    let boxes = three_axes(floats(name, tensor)?, fits).ok_or_else(|| {
        let (masks, remedy) = (and_masks(masks), yolo_remedy(output, tensor, masks));
        let expected = format!("[{count}, {rows}, anchors]: 4 + {classes} labels{masks}{remedy}");
        shape_error(name, tensor, count, &expected)
    })?;
    let photos = boxes.outer_iter().take(count);
    photos
        .map(|photo| {
            let (places, rest) = photo.split_at(Axis(0), 4);
            finite(name, places)?;
            let (classes, scores) = best_of_rows(output, rest.slice(s![..classes, ..]))?;
            let kept = (0..scores.len()).filter(|&anchor| scores[anchor] >= lowest);
            kept.map(|anchor| {
                Ok(RawBox {
                    class: classes[anchor],
                    score: scores[anchor],
                    bbox: centred(name, std::array::from_fn(|row| places[[row, anchor]]))?,
                })
            })
            .collect()
        })
        .collect()
}

/// The first class with the highest score of each anchor, and that score, from a row for each class. Row by row, so
/// that the compiler takes several anchors at a time: there are thousands, and few are garments.
fn best_of_rows(
    output: &DetectorOutput,
    scores: ArrayView2<'_, f32>,
) -> Result<(Array1<usize>, Array1<f32>), String> {
    let name = &output.names.boxes;
    let mut classes = Array1::zeros(scores.ncols());
    let mut most = Array1::from_elem(scores.ncols(), f32::NEG_INFINITY);
    for (class, row) in scores.outer_iter().enumerate() {
        let row = activated(output, row);
        if !row.fold(true, |all, score| all & is_probability(score)) {
            row.iter()
                .try_for_each(|&score| probability(name, score).map(drop))?;
        }
        let best = Zip::from(&mut classes).and(&mut most).and(&row);
        best.for_each(|best, most, &score| {
            let score = score.clamp(0.0, 1.0);
            let is_better = score > *most;
            *best = if is_better { class } else { *best };
            *most = if is_better { score } else { *most };
        });
    }
    Ok((classes, most))
}

fn read_yolo_v5(
    output: &DetectorOutput,
    form: Form,
    tensor: &OutputTensor,
    count: usize,
) -> Result<Vec<Vec<RawBox>>, String> {
    let name = &output.names.boxes;
    let classes = output.labels.len();
    let masks = form.masks_of(tensor.shape().last().copied().unwrap_or(0), 5);
    let columns = 5 + classes + masks;
    let fits = |shape: [usize; 3]| shape[0] >= count && shape[2] == columns;
    let boxes = three_axes(floats(name, tensor)?, fits).ok_or_else(|| {
        let (masks, remedy) = (and_masks(masks), yolo_remedy(output, tensor, masks));
        let expected =
            format!("[{count}, anchors, {columns}]: 5 + {classes} labels{masks}{remedy}");
        shape_error(name, tensor, count, &expected)
    })?;
    let anchor = |anchor: ArrayView1<'_, f32>| {
        let scores = activated(output, anchor.slice(s![4..5 + classes]));
        let objectness = probability(name, scores[0])?;
        let (class, score) = best(name, scores.iter().skip(1).copied())?;
        Ok(RawBox {
            class,
            score: score * objectness,
            bbox: centred(name, std::array::from_fn(|at| anchor[at]))?,
        })
    };
    let photos = boxes.outer_iter().take(count);
    photos
        .map(|photo| photo.outer_iter().map(anchor).collect())
        .collect()
}

fn read_detr(
    output: &DetectorOutput,
    input: (u32, u32),
    boxes: &OutputTensor,
    logits: &OutputTensor,
    count: usize,
) -> Result<Vec<Vec<RawBox>>, String> {
    let name = &output.names.boxes;
    let logits_name = output.names.logits.as_deref().unwrap_or("logits");
    let by_softmax = output.activation() == Activation::Softmax;
    let labels = output.labels.len();
    let classes = labels + usize::from(by_softmax);
    let fits = |shape: [usize; 3]| shape[0] >= count && shape[2] == classes;
    let scores = three_axes(floats(logits_name, logits)?, fits).ok_or_else(|| {
        let expected = if by_softmax {
            format!(
                "[{count}, queries, {classes}]: {labels} labels and \"no object\" (without that, as RT-DETR \
                 has it, set output.activation to sigmoid, or to none where they are scores)"
            )
        } else {
            format!(
                "[{count}, queries, {classes}]: {labels} labels (with output.activation softmax, one more)"
            )
        };
        shape_error(logits_name, logits, count, &expected)
    })?;
    let queries = scores.len_of(Axis(1));
    let fits = |shape: [usize; 3]| shape[0] >= count && shape[1..] == [queries, 4];
    let places = three_axes(floats(name, boxes)?, fits)
        .ok_or_else(|| shape_error(name, boxes, count, &format!("[{count}, {queries}, 4]")))?;
    let (width, height) = (input.0 as f32, input.1 as f32);
    let size = [width, height, width, height];
    let query = |(place, logits): (ArrayView1<'_, f32>, ArrayView1<'_, f32>)| {
        all_finite(logits_name, logits)?;
        let (class, score) = if by_softmax {
            best(logits_name, shares_but_last(logits).into_iter())?
        } else {
            best(logits_name, activated(output, logits).iter().copied())?
        };
        let bbox = centred(name, std::array::from_fn(|at| place[at] * size[at]))?;
        Ok(RawBox { class, score, bbox })
    };
    let photos = places.outer_iter().zip(scores.outer_iter()).take(count);
    photos
        .map(|(places, scores)| {
            let queries = places.outer_iter().zip(scores.outer_iter());
            queries.map(query).collect()
        })
        .collect()
}

pub(crate) fn floats<'a>(
    name: &str,
    tensor: &'a OutputTensor,
) -> Result<ArrayViewD<'a, f32>, String> {
    match tensor {
        OutputTensor::Float(values) => Ok(values.view()),
        OutputTensor::Integer(_) => Err(format!("output \"{name}\" has integers; expected floats")),
    }
}

/// The values, if they have three axes that are as they should be.
fn three_axes<A>(
    values: ArrayViewD<'_, A>,
    fits: impl Fn([usize; 3]) -> bool,
) -> Option<ArrayView3<'_, A>> {
    let values = values.into_dimensionality::<Ix3>().ok()?;
    let (first, second, third) = values.dim();
    fits([first, second, third]).then_some(values)
}

/// What is wrong with the shape of an output in a run of `count` photos.
pub(crate) fn shape_error(
    name: &str,
    tensor: &OutputTensor,
    count: usize,
    expected: &str,
) -> String {
    // The other axes may well be right, so nothing is said of them.
    short_of_photos(tensor.shape(), count).map_or_else(
        || {
            format!(
                "output \"{name}\" has shape {:?}; expected {expected}",
                tensor.shape()
            )
        },
        |short| format!("output \"{name}\" {short}"),
    )
}

/// What is wrong with the first axis of an output that has not a row for each of several photos.
pub(crate) fn short_of_photos(shape: &[usize], count: usize) -> Option<String> {
    let first = shape.first().copied().unwrap_or(1);
    (count > 1 && first < count)
        .then(|| format!("has shape {shape:?}, so its batch axis has {first} for {count} photos"))
}

pub(crate) fn finite<D: Dimension>(
    name: &str,
    values: ArrayView<'_, f32, D>,
) -> Result<(), String> {
    if values.fold(true, |all, value| all & value.is_finite()) {
        return Ok(());
    }
    let value = values.iter().find(|value| !value.is_finite());
    let value = value.copied().unwrap_or(f32::NAN);
    Err(format!(
        "output \"{name}\" has {value} where a place should be"
    ))
}

fn is_probability(score: &f32) -> bool {
    (-SCORE_SLACK..=1.0 + SCORE_SLACK).contains(score)
}

pub(crate) fn probability(name: &str, score: f32) -> Result<f32, String> {
    if is_probability(&score) {
        return Ok(score.clamp(0.0, 1.0));
    }
    Err(format!(
        "output \"{name}\" has a score of {score}; expected 0 to 1 (apply the sigmoid in the export, or name it in \
         output.activation where the family has that key)"
    ))
}

/// The first class with the highest score.
fn best(name: &str, scores: impl Iterator<Item = f32>) -> Result<(usize, f32), String> {
    let mut most = (0, f32::NEG_INFINITY);
    for (class, score) in scores.enumerate() {
        let score = probability(name, score)?;
        if score > most.1 {
            most = (class, score);
        }
    }
    Ok(most)
}

fn all_finite(name: &str, logits: ArrayView1<'_, f32>) -> Result<(), String> {
    match logits.iter().find(|logit| !logit.is_finite()) {
        Some(logit) => Err(format!(
            "output \"{name}\" has {logit} where a logit should be"
        )),
        None => Ok(()),
    }
}

/// What each class but the last ("no object") has of the softmax.
fn shares_but_last(logits: ArrayView1<'_, f32>) -> Array1<f32> {
    let highest = logits.fold(f32::NEG_INFINITY, |most, &logit| most.max(logit));
    let powers = logits.mapv(|logit| (logit - highest).exp());
    let sum = powers.sum();
    powers.slice(s![..-1]).mapv(|power| power / sum)
}

fn sigmoid(value: f32) -> f32 {
    1.0 / (1.0 + (-value).exp())
}

/// Class numbers of the model as scores.
fn activated<'a>(output: &DetectorOutput, values: ArrayView1<'a, f32>) -> CowArray<'a, f32, Ix1> {
    match output.activation() {
        Activation::Sigmoid => values.mapv(sigmoid).into(),
        Activation::None | Activation::Softmax => values.into(),
    }
}

fn centred(name: &str, [cx, cy, w, h]: [f32; 4]) -> Result<BoundingBox, String> {
    finite(name, aview1(&[cx, cy, w, h]))?;
    let (dx, dy) = (w / 2.0, h / 2.0);
    Ok(BoundingBox {
        x1: cx - dx,
        y1: cy - dy,
        x2: cx + dx,
        y2: cy + dy,
    })
}
