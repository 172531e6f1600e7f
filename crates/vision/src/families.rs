//! The forms in which detectors write their boxes.
//!
//! Here: forms that give every candidate; `families/nms.rs` has those of models with their own NMS.
//! Owns the meaning of each family's output tensors (`docs/architecture.md`, table of families) and
//! the checks that a tensor has that form. Gives boxes in input pixels with the best class each;
//! thresholds and suppression are the detector's. Errors are plain reasons that name the output.

mod exports;
mod nms;

use std::borrow::Cow;

use self::exports::yolo_remedy;
use crate::geometry::BoundingBox;
use crate::manifest_parts::{Activation, DetectorOutput, Family};
use crate::tensors::{OutputTensor, OutputValues};

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
    let masks = form.masks_of(tensor.shape.get(1).copied().unwrap_or(0), 4);
    let rows = 4 + classes + masks;
    let values = floats(name, tensor)?;
    let anchors = match *tensor.shape.as_slice() {
        [photos, found, anchors] if photos >= count && found == rows => anchors,
        _ => {
            return Err(shape_error(
                name,
                tensor,
                count,
                &format!(
                    "[{count}, {rows}, anchors]: 4 + {classes} labels{}{}",
                    and_masks(masks),
                    yolo_remedy(output, tensor, masks)
                ),
            ));
        }
    };
    let photos = values.chunks_exact((rows * anchors).max(1)).take(count);
    photos
        .map(|photo| {
            let (places, rest) = photo.split_at(4 * anchors);
            finite(name, places)?;
            let (classes, scores) = best_of_rows(output, &rest[..classes * anchors], anchors)?;
            let kept = (0..anchors).filter(|&anchor| scores[anchor] >= lowest);
            kept.map(|anchor| {
                let place = std::array::from_fn(|row| places[row * anchors + anchor]);
                Ok(RawBox {
                    class: classes[anchor],
                    score: scores[anchor],
                    bbox: centred(name, place)?,
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
    scores: &[f32],
    anchors: usize,
) -> Result<(Vec<usize>, Vec<f32>), String> {
    let name = &output.names.boxes;
    let mut classes = vec![0; anchors];
    let mut most = vec![f32::NEG_INFINITY; anchors];
    for (class, row) in scores.chunks_exact(anchors.max(1)).enumerate() {
        let row = activated(output, row);
        if !row
            .iter()
            .fold(true, |all, score| all & is_probability(score))
        {
            row.iter()
                .try_for_each(|&score| probability(name, score).map(drop))?;
        }
        for ((best, most), &score) in classes.iter_mut().zip(&mut most).zip(row.iter()) {
            let score = score.clamp(0.0, 1.0);
            let is_better = score > *most;
            *best = if is_better { class } else { *best };
            *most = if is_better { score } else { *most };
        }
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
    let masks = form.masks_of(tensor.shape.last().copied().unwrap_or(0), 5);
    let columns = 5 + classes + masks;
    let values = floats(name, tensor)?;
    let anchors = match *tensor.shape.as_slice() {
        [photos, anchors, found] if photos >= count && found == columns => anchors,
        _ => {
            return Err(shape_error(
                name,
                tensor,
                count,
                &format!(
                    "[{count}, anchors, {columns}]: 5 + {classes} labels{}{}",
                    and_masks(masks),
                    yolo_remedy(output, tensor, masks)
                ),
            ));
        }
    };
    values
        .chunks_exact((columns * anchors).max(1))
        .take(count)
        .map(|photo| {
            photo
                .chunks_exact(columns)
                .map(|anchor| {
                    let scores = activated(output, &anchor[4..5 + classes]);
                    let objectness = probability(name, scores[0])?;
                    let (class, score) = best(name, scores[1..].iter().copied())?;
                    let bbox = centred(name, std::array::from_fn(|at| anchor[at]))?;
                    Ok(RawBox {
                        class,
                        score: score * objectness,
                        bbox,
                    })
                })
                .collect()
        })
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
    let classes = output.labels.len() + usize::from(by_softmax);
    let box_values = floats(name, boxes)?;
    let logit_values = floats(logits_name, logits)?;
    let queries = match *logits.shape.as_slice() {
        [photos, queries, found] if photos >= count && found == classes => queries,
        _ => {
            let labels = output.labels.len();
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
            return Err(shape_error(logits_name, logits, count, &expected));
        }
    };
    if !matches!(*boxes.shape.as_slice(), [photos, found, 4] if photos >= count && found == queries)
    {
        return Err(shape_error(
            name,
            boxes,
            count,
            &format!("[{count}, {queries}, 4]"),
        ));
    }
    let (width, height) = (input.0 as f32, input.1 as f32);
    let size = [width, height, width, height];
    (0..count)
        .map(|photo| {
            (photo * queries..(photo + 1) * queries)
                .map(|query| {
                    let row = &logit_values[query * classes..(query + 1) * classes];
                    all_finite(logits_name, row)?;
                    let (class, score) = if by_softmax {
                        best(logits_name, shares_but_last(row))?
                    } else {
                        best(logits_name, activated(output, row).iter().copied())?
                    };
                    let corners = &box_values[query * 4..query * 4 + 4];
                    let bbox = centred(name, std::array::from_fn(|at| corners[at] * size[at]))?;
                    Ok(RawBox { class, score, bbox })
                })
                .collect()
        })
        .collect()
}

pub(crate) fn floats<'a>(name: &str, tensor: &'a OutputTensor) -> Result<&'a [f32], String> {
    match &tensor.values {
        OutputValues::Float(values) => Ok(values),
        OutputValues::Integer(_) => Err(format!("output \"{name}\" has integers; expected floats")),
    }
}

/// What is wrong with the shape of an output in a run of `count` photos.
pub(crate) fn shape_error(
    name: &str,
    tensor: &OutputTensor,
    count: usize,
    expected: &str,
) -> String {
    // The other axes may well be right, so nothing is said of them.
    short_of_photos(&tensor.shape, count).map_or_else(
        || {
            format!(
                "output \"{name}\" has shape {:?}; expected {expected}",
                tensor.shape
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

pub(crate) fn finite(name: &str, values: &[f32]) -> Result<(), String> {
    if values
        .iter()
        .fold(true, |all, value| all & value.is_finite())
    {
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

fn all_finite(name: &str, logits: &[f32]) -> Result<(), String> {
    match logits.iter().find(|logit| !logit.is_finite()) {
        Some(logit) => Err(format!(
            "output \"{name}\" has {logit} where a logit should be"
        )),
        None => Ok(()),
    }
}

/// What each class but the last ("no object") has of the softmax.
fn shares_but_last(logits: &[f32]) -> impl Iterator<Item = f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
    let classes = &logits[..logits.len() - 1];
    classes
        .iter()
        .map(move |logit| (logit - highest).exp() / sum)
}

fn sigmoid(value: f32) -> f32 {
    1.0 / (1.0 + (-value).exp())
}

/// Class numbers of the model as scores.
fn activated<'a>(output: &DetectorOutput, values: &'a [f32]) -> Cow<'a, [f32]> {
    match output.activation() {
        Activation::Sigmoid => values.iter().map(|&logit| sigmoid(logit)).collect(),
        Activation::None | Activation::Softmax => values.into(),
    }
}

fn centred(name: &str, [cx, cy, w, h]: [f32; 4]) -> Result<BoundingBox, String> {
    finite(name, &[cx, cy, w, h])?;
    let (dx, dy) = (w / 2.0, h / 2.0);
    Ok(BoundingBox {
        x1: cx - dx,
        y1: cy - dy,
        x2: cx + dx,
        y2: cy + dy,
    })
}
