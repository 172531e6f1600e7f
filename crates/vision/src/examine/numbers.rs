//! Whether the numbers that a model gives are like those of a working one.
//!
//! Owns what is suspicious in input values, boxes and points although no rule is broken; vectors are in `vectors.rs`. The limits are wide: a model that
//! is only weak passes.

use super::Findings;
use crate::detector::{Detection, Detector};
use crate::families::RawBox;
use crate::geometry::BoundingBox;
use crate::manifest::Manifest;
use crate::manifest_parts::{Activation, DetectorOutput, Family};
use crate::pose::Pose;
use crate::preprocess::Preprocessor;

/// Boxes that are looked at where none passes the threshold.
const BEST: usize = 20;
/// Coordinates up to here, all of them, are shares of the input and not pixels.
const LARGEST_SHARE: f32 = 2.0;
/// Inputs from here on have boxes beyond [`LARGEST_SHARE`] pixels.
const SMALLEST_INPUT: u32 = 16;
/// Boxes of a model that looks at each place of a picture; not all of them are garments.
const MANY: usize = 50;
/// Names and scores that are listed.
const LISTED: usize = 5;

/// How far apart the values of black and white lie for models that are trained on normalised pixels; ImageNet's are 4.4
/// apart, CLIP's 3.7, those of 0 to 1 and of -1 to 1 one and two.
const NORMALISED: std::ops::RangeInclusive<f32> = 0.1..=20.0;

/// The range of values that a manifest with floats makes of the bytes.
pub(super) fn input(manifest: &Manifest, findings: &mut Findings) {
    let input = manifest.input();
    if input.dtype.takes_pixels() {
        return;
    }
    let [black, white] = Preprocessor::new(manifest).extremes();
    let found = format!("black becomes {black:.3} and white {white:.3}");
    let is_divided = input.std.is_some_and(|std| std != [1.0; 3]);
    // A mean of pixels lies between black and white.
    if (is_divided && !NORMALISED.contains(&(white - black).abs())) || black * white > 0.0 {
        findings.warn(
            "input values",
            found,
            "value = (pixel · scale − mean) / std: mean and std of pixels from 0 to 1 go with scale 1/255, those of 0 to 255 with \
             scale 1",
        );
    } else {
        findings.ok("input values", found);
    }
}

/// All boxes of one picture in input pixels, and what is left of them as garments.
pub(super) fn boxes(
    detector: &Detector,
    raw: &[RawBox],
    kept: &[Detection],
    findings: &mut Findings,
) {
    if raw.is_empty() {
        findings.warn(
            "boxes",
            "no box at all in this picture",
            "try a photo that shows a garment (--image PHOTO); lower the threshold of the export's own NMS",
        );
        return;
    }
    let threshold = detector.output.score_threshold as f32;
    let mut best: Vec<RawBox> = raw.iter().copied().filter(|raw| raw.score > 0.0).collect();
    best.sort_by(|a, b| b.score.total_cmp(&a.score));
    let passing = best.iter().filter(|raw| raw.score >= threshold).count();
    best.truncate(passing.max(BEST));
    let input = detector.manifest().input();
    if let Some((found, advice)) = misplaced(detector, &best, (input.width, input.height)) {
        findings.fail("boxes", found, advice);
        return;
    }
    let highest = best.first().map_or(0.0, |raw| raw.score);
    if passing == raw.len() && passing >= MANY {
        findings.warn(
            "boxes",
            format!("each of the {passing} boxes passes output.score_threshold {threshold}"),
            &match other_activation(&detector.output) {
                Some(other) => format!("{other}; if not, raise output.score_threshold"),
                None => "the export may make chances of the scores twice; if not, raise output.score_threshold".to_owned(),
            },
        );
    } else if passing == 0 {
        let other = match other_activation(&detector.output) {
            Some(other) if detector.output.family == Family::Detr => format!("; {other}"),
            _ => String::new(),
        };
        findings.warn(
            "boxes",
            format!(
                "{} boxes, none with output.score_threshold {threshold}: the highest score is {highest:.3}",
                raw.len()
            ),
            &format!(
                "try a photo that shows a garment (--image PHOTO); if it still finds none, check input.scale, mean, std and \
                 colour, or lower output.score_threshold{other}"
            ),
        );
    } else if kept.is_empty()
        && let Some(flat) = best[..passing]
            .iter()
            .find(|raw| detector.group(raw.class).is_some())
    {
        findings.warn(
            "boxes",
            format!(
                "{passing} boxes, none with an area inside of the picture, such as {}",
                text(flat.bbox)
            ),
            "check output.family and the form of the boxes: the export may give other edges, or sizes of 0",
        );
    } else if kept.is_empty() {
        let label = |raw: &RawBox| detector.output.labels[raw.class].name.as_str();
        findings.warn(
            "boxes",
            format!("{passing} boxes, all of labels without a group, such as {}", label(&best[0])),
            "give the labels of garments in output.labels a group; check that the labels stand in the model's order",
        );
    } else {
        let named = kept.iter().take(LISTED);
        let named: Vec<String> = named
            .map(|found| format!("{} {:.2}", found.label, found.score))
            .collect();
        let more = if kept.len() > LISTED { ", …" } else { "" };
        findings.ok(
            "boxes",
            format!("{} in this picture: {}{more}", kept.len(), named.join(", ")),
        );
    }
}

/// The other ways in which the scores may be meant, with what `output.labels` is then.
fn other_activation(output: &DetectorOutput) -> Option<String> {
    let labels = output.labels.len();
    match (output.family, output.activation()) {
        (Family::Detr, Activation::Softmax) => Some(format!(
            "a model without \"no object\", such as RT-DETR, needs output.activation sigmoid (none where the export makes \
             chances), and has {} labels",
            labels + 1
        )),
        (Family::Detr, Activation::Sigmoid) => {
            let softmax = match labels {
                1 => String::new(),
                _ => format!(
                    ", or a softmax's, whose last class is \"no object\": leave output.activation out, and it has {} \
                     label{}",
                    labels - 1,
                    if labels == 2 { "" } else { "s" }
                ),
            };
            Some(format!(
                "the scores may be chances already: set output.activation to none{softmax}"
            ))
        }
        (_, Activation::Sigmoid) => {
            Some("the scores may be chances already: leave output.activation out".to_owned())
        }
        _ => None,
    }
}

/// What is wrong with where the boxes lie.
fn misplaced(
    detector: &Detector,
    best: &[RawBox],
    (width, height): (u32, u32),
) -> Option<(String, &'static str)> {
    if best.is_empty() {
        return None;
    }
    let count = |is_wrong: &dyn Fn(&BoundingBox) -> bool| {
        best.iter().filter(|raw| is_wrong(&raw.bbox)).count()
    };
    let half = best.len().div_ceil(2);
    let first = best[0].bbox;
    let is_tiny = |b: &BoundingBox| {
        [b.x1, b.y1, b.x2, b.y2]
            .iter()
            .all(|edge| edge.abs() <= LARGEST_SHARE)
    };
    let has_pixels = detector.output.family != Family::Detr;
    if has_pixels && width.min(height) >= SMALLEST_INPUT && count(&is_tiny) == best.len() {
        return Some((
            format!(
                "boxes in shares of the input, such as {}; expected pixels",
                text(first)
            ),
            "multiply them by the input's width and height in the export (detr is the family with shares)",
        ));
    }
    if count(&|b| b.x2 < b.x1 || b.y2 < b.y1) >= half {
        return Some((
            format!("boxes that end before they begin, such as {}", text(first)),
            "this family has two corners for each box, x1 y1 x2 y2: the export may give centre and size",
        ));
    }
    let (width, height) = (width as f32, height as f32);
    let is_outside = |b: &BoundingBox| {
        let (x, y) = ((b.x1 + b.x2) / 2.0, (b.y1 + b.y2) / 2.0);
        !(0.0..=width).contains(&x) || !(0.0..=height).contains(&y)
    };
    (count(&is_outside) >= half).then(|| {
        (
            format!(
                "{} of the {} best boxes lie outside of an input of {width} x {height} pixels, such as {}",
                count(&is_outside),
                best.len(),
                text(first)
            ),
            "check output.family, and the size that the export scales its boxes to",
        )
    })
}

fn text(b: BoundingBox) -> String {
    format!("({:.2}, {:.2}) to ({:.2}, {:.2})", b.x1, b.y1, b.x2, b.y2)
}

/// The points of the person in one picture, and those in one without a person; `activation` is what the manifest says.
pub(super) fn points(pose: &Pose, nobody: &Pose, activation: Activation, findings: &mut Findings) {
    let count = |pose: &Pose| pose.0.iter().filter(|point| point.score > 0.5).count();
    let seen = count(pose);
    let highest = pose
        .0
        .iter()
        .map(|point| point.score)
        .fold(0.0_f32, f32::max);
    let first = pose.0[0];
    if pose
        .0
        .iter()
        .all(|point| (point.x, point.y) == (first.x, first.y))
    {
        findings.fail(
            "points",
            format!("all 17 points lie at ({:.0}, {:.0})", first.x, first.y),
            "check output.family, stride and the order of the output's axes",
        );
    } else if count(nobody) == pose.0.len() {
        findings.warn(
            "points",
            "all 17 points have a score above 0.5 in a picture without a person",
            match activation {
                Activation::Sigmoid => "the scores may be chances already: leave output.activation out",
                Activation::None | Activation::Softmax => {
                    "the export may apply the sigmoid twice, which leaves none below 0.5; if not, check input.scale, mean, \
                     std and colour"
                }
            },
        );
    } else if seen == 0 {
        findings.warn(
            "points",
            format!("none of 17 points has a score above 0.5; the highest is {highest:.3}"),
            "try a photo of a person (--image PHOTO); if it still finds none, check input.scale, mean, std and colour",
        );
    } else {
        let front = if pose.is_full_front() { "" } else { "not " };
        findings.ok(
            "points",
            format!("{seen} of 17 points have a score above 0.5; {front}a full front pose"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pose::{KEYPOINT_NAMES, Keypoint};

    fn pose(score: f32) -> Pose {
        let mut x = 0.0;
        Pose(KEYPOINT_NAMES.map(|name| {
            x += 1.0;
            Keypoint {
                name,
                x,
                y: 1.0,
                score,
            }
        }))
    }

    #[test]
    fn high_heat_everywhere_is_explained_by_the_activation_that_is_set() {
        for (activation, part) in [
            (Activation::Sigmoid, "leave output.activation out"),
            (Activation::None, "the export may apply the sigmoid twice"),
        ] {
            let mut findings = Findings::default();
            points(&pose(0.9), &pose(0.6), activation, &mut findings);
            let [finding] = findings.0.as_slice() else {
                panic!("{findings:?}");
            };
            assert!(finding.advice.contains(part), "{finding:?}");
        }
    }
}
