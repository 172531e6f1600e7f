//! The forms in which detectors write their boxes.
//!
//! Owns the meaning of each family's output tensors (`docs/architecture.md`, table of families) and
//! the checks that a tensor has that form. Gives boxes in input pixels with the best class each;
//! thresholds and suppression are the detector's. Errors are plain reasons that name the output.

use crate::geometry::BoundingBox;
use crate::manifest_parts::{DetectorOutput, Family};
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

/// Reads the outputs of one run; `input` is the width and height of the model's input.
pub(crate) fn read_family(
    output: &DetectorOutput,
    input: (u32, u32),
    tensors: &[OutputTensor],
    count: usize,
) -> Result<Vec<Vec<RawBox>>, String> {
    match (output.family, tensors) {
        (Family::YoloV8, [boxes]) => read_yolo_v8(output, boxes, count),
        (Family::YoloV5, [boxes]) => read_yolo_v5(output, boxes, count),
        (Family::Detr, [boxes, logits]) => read_detr(output, input, boxes, logits, count),
        (Family::Torchvision, [boxes, labels, scores]) => {
            read_torchvision(output, boxes, labels, scores)
        }
        _ => Err(format!(
            "it gave {} outputs, which this family does not have",
            tensors.len()
        )),
    }
}

fn read_yolo_v8(
    output: &DetectorOutput,
    tensor: &OutputTensor,
    count: usize,
) -> Result<Vec<Vec<RawBox>>, String> {
    let name = &output.names.boxes;
    let rows = 4 + output.labels.len();
    let values = floats(name, tensor)?;
    let anchors = match *tensor.shape.as_slice() {
        [photos, found, anchors] if photos >= count && found == rows => anchors,
        _ => {
            return Err(shape_error(
                name,
                tensor,
                &format!(
                    "[{count}, {rows}, anchors]: 4 + {} labels",
                    output.labels.len()
                ),
            ));
        }
    };
    values
        .chunks_exact((rows * anchors).max(1))
        .take(count)
        .map(|photo| {
            let at = |row: usize, anchor: usize| photo[row * anchors + anchor];
            (0..anchors)
                .map(|anchor| {
                    let scores = (4..rows).map(|row| at(row, anchor));
                    let (class, score) = best(name, scores)?;
                    let bbox = centred(name, std::array::from_fn(|row| at(row, anchor)))?;
                    Ok(RawBox { class, score, bbox })
                })
                .collect()
        })
        .collect()
}

fn read_yolo_v5(
    output: &DetectorOutput,
    tensor: &OutputTensor,
    count: usize,
) -> Result<Vec<Vec<RawBox>>, String> {
    let name = &output.names.boxes;
    let columns = 5 + output.labels.len();
    let values = floats(name, tensor)?;
    let anchors = match *tensor.shape.as_slice() {
        [photos, anchors, found] if photos >= count && found == columns => anchors,
        _ => {
            return Err(shape_error(
                name,
                tensor,
                &format!(
                    "[{count}, anchors, {columns}]: 5 + {} labels",
                    output.labels.len()
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
                    let objectness = probability(name, anchor[4])?;
                    let (class, score) = best(name, anchor[5..].iter().copied())?;
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
    let classes = output.labels.len() + 1;
    let box_values = floats(name, boxes)?;
    let logit_values = floats(logits_name, logits)?;
    let queries = match *logits.shape.as_slice() {
        [photos, queries, found] if photos >= count && found == classes => queries,
        _ => {
            let expected = format!(
                "[{count}, queries, {classes}]: {} labels and \"no object\"",
                output.labels.len()
            );
            return Err(shape_error(logits_name, logits, &expected));
        }
    };
    if !matches!(*boxes.shape.as_slice(), [photos, found, 4] if photos >= count && found == queries)
    {
        return Err(shape_error(
            name,
            boxes,
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
                    let (class, score) = softmax_best(logits_name, row)?;
                    let corners = &box_values[query * 4..query * 4 + 4];
                    let bbox = centred(name, std::array::from_fn(|at| corners[at] * size[at]))?;
                    Ok(RawBox { class, score, bbox })
                })
                .collect()
        })
        .collect()
}

fn read_torchvision(
    output: &DetectorOutput,
    boxes: &OutputTensor,
    labels: &OutputTensor,
    scores: &OutputTensor,
) -> Result<Vec<Vec<RawBox>>, String> {
    let name = &output.names.boxes;
    let labels_name = output.names.labels.as_deref().unwrap_or("labels");
    let scores_name = output.names.scores.as_deref().unwrap_or("scores");
    let box_values = floats(name, boxes)?;
    let score_values = floats(scores_name, scores)?;
    let OutputValues::Integer(label_values) = &labels.values else {
        return Err(format!(
            "output \"{labels_name}\" has floats; expected integers"
        ));
    };
    let [found, 4] = *boxes.shape.as_slice() else {
        return Err(shape_error(name, boxes, "[boxes, 4]"));
    };
    for (name, tensor) in [(labels_name, labels), (scores_name, scores)] {
        if *tensor.shape.as_slice() != [found] {
            return Err(shape_error(
                name,
                tensor,
                &format!("[{found}], one for each box"),
            ));
        }
    }
    let all = (0..found).map(|at| {
        let number = label_values[at];
        let class = usize::try_from(number)
            .ok()
            .filter(|&class| class < output.labels.len())
            .ok_or_else(|| {
                format!(
                    "output \"{labels_name}\" has class {number}, but output.labels has {} (a class's \
                     number is its place in that list, from 0)",
                    output.labels.len()
                )
            })?;
        let corners = &box_values[at * 4..at * 4 + 4];
        finite(name, corners)?;
        let bbox =
            BoundingBox { x1: corners[0], y1: corners[1], x2: corners[2], y2: corners[3] };
        Ok(RawBox { class, score: probability(scores_name, score_values[at])?, bbox })
    });
    Ok(vec![all.collect::<Result<_, String>>()?])
}

pub(crate) fn floats<'a>(name: &str, tensor: &'a OutputTensor) -> Result<&'a [f32], String> {
    match &tensor.values {
        OutputValues::Float(values) => Ok(values),
        OutputValues::Integer(_) => Err(format!("output \"{name}\" has integers; expected floats")),
    }
}

pub(crate) fn shape_error(name: &str, tensor: &OutputTensor, expected: &str) -> String {
    format!(
        "output \"{name}\" has shape {:?}; expected {expected}",
        tensor.shape
    )
}

pub(crate) fn finite(name: &str, values: &[f32]) -> Result<(), String> {
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(format!(
            "output \"{name}\" has {value} where a place should be"
        )),
        None => Ok(()),
    }
}

pub(crate) fn probability(name: &str, score: f32) -> Result<f32, String> {
    if (-SCORE_SLACK..=1.0 + SCORE_SLACK).contains(&score) {
        return Ok(score.clamp(0.0, 1.0));
    }
    Err(format!(
        "output \"{name}\" has a score of {score}; expected 0 to 1 (apply the sigmoid in the export)"
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

/// The best class but the last ("no object") with its share of the softmax.
fn softmax_best(name: &str, logits: &[f32]) -> Result<(usize, f32), String> {
    if let Some(logit) = logits.iter().find(|logit| !logit.is_finite()) {
        return Err(format!(
            "output \"{name}\" has {logit} where a logit should be"
        ));
    }
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
    let classes = &logits[..logits.len() - 1];
    let mut most = (0, f32::NEG_INFINITY);
    for (class, &logit) in classes.iter().enumerate() {
        if logit > most.1 {
            most = (class, logit);
        }
    }
    Ok((most.0, (most.1 - highest).exp() / sum))
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
