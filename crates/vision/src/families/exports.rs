//! What an output of another shape than the manifest's may be: how the exports of YOLO's tasks and versions differ.
//!
//! Owns those words, and the numbers that each task adds to a box. A guess is worded as one.

use crate::manifest_parts::{DetectorOutput, Family};
use crate::tensors::OutputTensor;

/// Numbers that a task of Ultralytics adds to those of a box.
const ANGLE: usize = 1;
const MASK_COEFFICIENTS: usize = 32;
/// x, y and score of COCO's 17 points.
const KEY_POINTS: usize = 3 * 17;

/// What else a three-axis output of another shape may be; the last `masks` numbers of each box are mask coefficients.
pub(super) fn yolo_remedy(output: &DetectorOutput, tensor: &OutputTensor, masks: usize) -> String {
    let &[_, second, third] = tensor.shape() else {
        return String::new();
    };
    let is_v8 = output.family == Family::YoloV8;
    let labels = output.labels.len();
    if is_v8 && third == 4 + labels + masks {
        let others = match third {
            6 => ", or set family yolo_nms, whose boxes are six numbers each",
            _ => "",
        };
        return format!(
            "; the last two axes are exchanged: transpose the output in the export{others}"
        );
    }
    if masks == 0 && third == 6 && second != 6 {
        return "; six numbers for each box are family yolo_nms".to_owned();
    }
    as_candidates([second, third], labels, masks, None)
}

/// The same for rows of a model with its own NMS.
pub(super) fn rows_remedy(output: &DetectorOutput, tensor: &OutputTensor, masks: usize) -> String {
    match *tensor.shape() {
        // Corners, score and class say nothing of the number of labels.
        [_, second, third] => as_candidates(
            [second, third],
            output.labels.len(),
            masks,
            (second >= third).then(|| task(third, 6, 0)),
        ),
        _ => String::new(),
    }
}

/// What axes of that size are as a YOLO's candidates, before its NMS; `rows` is what they may be as
/// rows after it.
fn as_candidates(
    [second, third]: [usize; 2],
    labels: usize,
    masks: usize,
    rows: Option<String>,
) -> String {
    // Candidates outnumber classes by far.
    let (family, found, before) = if second < third {
        ("yolo_v8", second, 4)
    } else {
        ("yolo_v5", third, 5)
    };
    let Some(classes) = found.checked_sub(before + masks).filter(|&some| some > 0) else {
        return String::new();
    };
    let beside = match masks {
        0 => String::new(),
        _ => format!(" and {masks} mask coefficients, as the file's other output has masks"),
    };
    let as_classes =
        format!("as {family} it has {classes} classes{beside}, and output.labels has {labels}");
    match rows.unwrap_or_else(|| task(found, before + masks, labels)) {
        task if task.is_empty() => format!("; {as_classes}"),
        task => format!("{task}; if not, {as_classes}"),
    }
}

/// The task whose export has `found` numbers for each box, `before` and `labels` of which are understood.
fn task(found: usize, before: usize, labels: usize) -> String {
    let is_pose = found == before + 1 + KEY_POINTS;
    let more = found.checked_sub(before + labels);
    let (number, words) = match more {
        Some(ANGLE) => (
            ANGLE,
            "the angle of an -obb export, whose boxes are turned: that is not read",
        ),
        Some(MASK_COEFFICIENTS) => (
            MASK_COEFFICIENTS,
            "mask coefficients of a -seg export: they are left out where the file has the masks as its other output, too",
        ),
        _ if is_pose || more == Some(KEY_POINTS) => (
            KEY_POINTS,
            "17 key points of a -pose export, which is no detector of garments and is not read",
        ),
        _ => return String::new(),
    };
    let verb = if number == 1 { "is" } else { "are" };
    format!("; the last {number} of the {found} numbers of a box {verb} probably {words}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest_parts::{Group, Label, OutputNames};

    fn output(family: Family, labels: usize) -> DetectorOutput {
        let label = |at| Label {
            name: format!("label {at}"),
            group: Some(Group::Upper),
        };
        DetectorOutput {
            family,
            names: OutputNames {
                boxes: "out".to_owned(),
                logits: None,
                labels: None,
                scores: None,
            },
            labels: (0..labels).map(label).collect(),
            activation: None,
            score_threshold: 0.3,
            iou_threshold: 0.5,
            max_detections: 20,
        }
    }

    fn tensor(shape: [usize; 3]) -> OutputTensor {
        OutputTensor::Float(ndarray::ArrayD::zeros(shape.as_slice()))
    }

    #[test]
    fn other_tasks_are_told_from_other_numbers_of_labels() {
        let said = |numbers, labels| {
            let output = output(Family::YoloV8, labels);
            yolo_remedy(&output, &tensor([1, numbers, 8400]), 0)
        };
        assert_eq!(
            said(84, 3),
            "; as yolo_v8 it has 80 classes, and output.labels has 3"
        );
        for labels in [1, 80] {
            assert!(said(56, labels).contains("17 key points of a -pose export"));
        }
        assert!(
            said(85, 80).contains("the last 1 of the 85 numbers of a box is probably the angle")
        );
        assert!(said(116, 80).contains("mask coefficients of a -seg export"));
        let beside_masks = yolo_remedy(&output(Family::YoloV8, 112), &tensor([1, 116, 8400]), 32);
        assert!(
            beside_masks.contains("it has 80 classes and 32 mask coefficients"),
            "{beside_masks}"
        );
        let rows = |numbers| {
            let output = output(Family::YoloNms, 2);
            rows_remedy(&output, &tensor([1, 300, numbers]), 0)
        };
        assert!(rows(38).contains("mask coefficients"));
        assert!(rows(57).contains("key points"));
        assert!(rows(7).contains("angle"));
        assert_eq!(rows(5), "");
    }

    #[test]
    fn candidates_are_told_from_rows_after_nms() {
        let said = |shape, masks| rows_remedy(&output(Family::YoloNms, 3), &tensor(shape), masks);
        assert_eq!(
            said([1, 84, 8400], 0),
            "; as yolo_v8 it has 80 classes, and output.labels has 3"
        );
        assert_eq!(
            said([1, 25_200, 85], 0),
            "; as yolo_v5 it has 80 classes, and output.labels has 3"
        );
        assert!(said([1, 116, 8400], 32).contains("80 classes and 32 mask coefficients"));
    }
}
