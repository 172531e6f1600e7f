//! The forms of detectors that suppress overlapping boxes themselves: what they give is what they found.
//!
//! Owns the meaning of those tensors, with a batch axis and without one. Rows that only fill a tensor up
//! carry class -1 or score 0, as exporters write them.

use ndarray::{ArrayView1, ArrayViewD, s};

use super::exports::rows_remedy;
use super::{Form, RawBox, finite, floats, probability, shape_error};
use crate::geometry::BoundingBox;
use crate::manifest_parts::DetectorOutput;
use crate::tensors::OutputTensor;

/// `[N, boxes, 6]` or, of one photo, `[boxes, 6]`: corners in input pixels, score, class. `[boxes, 7]`: number of the photo in
/// the batch, corners, class, score. After the six of a segmentation model come its mask coefficients.
pub(super) fn read_rows(
    output: &DetectorOutput,
    form: Form,
    tensor: &OutputTensor,
    count: usize,
) -> Result<Vec<Vec<RawBox>>, String> {
    let name = &output.names.boxes;
    let values = floats(name, tensor)?;
    let numbers = tensor.shape().last().copied().unwrap_or(0);
    let masks = form.masks_of(numbers, 5);
    match *tensor.shape() {
        [photos, _, _] if photos >= count && numbers == 6 + masks => (values.outer_iter())
            .take(count)
            .map(|rows| read_six(output, rows))
            .collect(),
        [_, _] if count == 1 && numbers == 6 + masks => Ok(vec![read_six(output, values)?]),
        [_, 7] => read_seven(output, values, count),
        _ => Err(shape_error(
            name,
            tensor,
            count,
            &format!(
                "[{count}, boxes, 6] or [boxes, 6]: corners, score, class; or [boxes, 7]: photo, corners, class, \
                 score{}",
                rows_remedy(output, tensor, form.masks)
            ),
        )),
    }
}

/// The numbers of each box lie along the last axis.
fn read_six(output: &DetectorOutput, rows: ArrayViewD<'_, f32>) -> Result<Vec<RawBox>, String> {
    let boxes = rows.rows().into_iter();
    boxes
        .filter_map(|row| raw_box(output, row.slice(s![..4]), row[4], row[5]).transpose())
        .collect()
}

fn read_seven(
    output: &DetectorOutput,
    rows: ArrayViewD<'_, f32>,
    count: usize,
) -> Result<Vec<Vec<RawBox>>, String> {
    let name = &output.names.boxes;
    let mut photos = vec![Vec::new(); count];
    for row in rows.rows() {
        // The last chunk of a fixed batch is filled up with photos that nobody asked for.
        if row[0].fract() != 0.0 || row[0] < 0.0 {
            return Err(format!(
                "output \"{name}\" has {} where the number of a photo should be",
                row[0]
            ));
        }
        let photo = photos.get_mut(row[0] as usize);
        let found = raw_box(output, row.slice(s![1..5]), row[6], row[5])?;
        if let (Some(photo), Some(found)) = (photo, found) {
            photo.push(found);
        }
    }
    Ok(photos)
}

/// A box of one row, or none where the row only fills up.
fn raw_box(
    output: &DetectorOutput,
    corners: ArrayView1<'_, f32>,
    score: f32,
    class: f32,
) -> Result<Option<RawBox>, String> {
    let name = &output.names.boxes;
    let score = probability(name, score)?;
    if score == 0.0 || class == -1.0 {
        return Ok(None);
    }
    if class.fract() != 0.0 {
        return Err(format!(
            "output \"{name}\" has {class} where the number of a class should be"
        ));
    }
    Ok(Some(RawBox {
        class: class_of(output, name, class as i64)?,
        score,
        bbox: corner_box(name, corners)?,
    }))
}

/// Boxes `[boxes, 4]`, labels and scores `[boxes]`, or all of them with a batch axis before.
pub(super) fn read_torchvision(
    output: &DetectorOutput,
    [boxes, labels, scores]: [&OutputTensor; 3],
    count: usize,
) -> Result<Vec<Vec<RawBox>>, String> {
    let name = &output.names.boxes;
    let labels_name = output.names.labels.as_deref().unwrap_or("labels");
    let scores_name = output.names.scores.as_deref().unwrap_or("scores");
    let corners = floats(name, boxes)?;
    let chances = floats(scores_name, scores)?;
    let OutputTensor::Integer(numbers) = labels else {
        return Err(format!(
            "output \"{labels_name}\" has floats; expected integers"
        ));
    };
    let axes = match boxes.shape() {
        [axes @ .., 4] if axes.len() == 1 && count == 1 => axes,
        [axes @ .., 4] if axes.len() == 2 && axes[0] >= count => axes,
        _ => {
            let expected = format!("[boxes, 4] or [{count}, boxes, 4]");
            return Err(shape_error(name, boxes, count, &expected));
        }
    };
    for (name, tensor) in [(labels_name, labels), (scores_name, scores)] {
        if tensor.shape() != axes {
            return Err(shape_error(
                name,
                tensor,
                count,
                &format!("{axes:?}, one for each box"),
            ));
        }
    }
    let boxes_of_a_photo = axes[axes.len() - 1];
    let rows = corners.rows().into_iter();
    let mut rows = rows.zip(chances.iter().zip(numbers));
    (0..count)
        .map(|_| {
            let rows = rows.by_ref().take(boxes_of_a_photo);
            rows.filter_map(|(corners, (&score, &number))| {
                let found = probability(scores_name, score).and_then(|score| {
                    if number == -1 {
                        return Ok(None);
                    }
                    Ok(Some(RawBox {
                        class: class_of(output, labels_name, number)?,
                        score,
                        bbox: corner_box(name, corners)?,
                    }))
                });
                found.transpose()
            })
            .collect()
        })
        .collect()
}

fn class_of(output: &DetectorOutput, name: &str, number: i64) -> Result<usize, String> {
    let class = usize::try_from(number).ok();
    class
        .filter(|&class| class < output.labels.len())
        .ok_or_else(|| {
            format!(
                "output \"{name}\" has class {number}, but output.labels has {} (a class's number is its \
                 place in that list, from 0)",
                output.labels.len()
            )
        })
}

fn corner_box(name: &str, corners: ArrayView1<'_, f32>) -> Result<BoundingBox, String> {
    finite(name, corners)?;
    Ok(BoundingBox {
        x1: corners[0],
        y1: corners[1],
        x2: corners[2],
        y2: corners[3],
    })
}
