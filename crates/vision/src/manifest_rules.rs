//! The allowed ranges of a manifest's values.
//!
//! Serde has checked types and key names before; this checks values. Every message names what was
//! found and what is allowed.

use serde::{Deserialize, Deserializer, de};

use crate::constants::MAX_CONSTANTS;
use crate::error::Error;
use crate::manifest::Manifest;
use crate::manifest_parts::{
    Activation, DetectorOutput, EmbedderOutput, Family, Input, Label, Output, OutputNames,
    PoseOutput, Resize,
};

/// Dimensions of the SQL type `embedding`.
const MAX_DIMENSIONS: usize = 16_000;
/// Beyond this a single input of three floats a pixel passes 200 MB.
const MAX_SIDE: u32 = 4_096;
/// Models of published weights keep 0.75 and more.
const LEAST_CROP_SHARE: f64 = 0.5;
const MAX_LABELS: usize = 4_096;
const MAX_DETECTIONS: usize = 1_000;
const MAX_NAME: usize = 63;
const MAX_TEXT: usize = 2_000;

impl Manifest {
    pub(crate) fn check(&self) -> Result<(), Error> {
        check_model_name(self.name())?;
        for (key, text) in [
            ("version", self.version()),
            ("description", self.description()),
            ("licence", self.licence()),
            ("source", self.source()),
        ] {
            check_text(key, text, MAX_TEXT)?;
        }
        check_sha256(self.sha256())?;
        check_input(self.input())?;
        match self.output() {
            Output::Embedder(output) => check_embedder(output),
            Output::Detector(output) => check_detector(output),
            Output::Pose(output) => check_pose(output),
        }
    }
}

fn check_model_name(name: &str) -> Result<(), Error> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if name.len() <= MAX_NAME && starts_well && name.chars().all(allowed) {
        return Ok(());
    }
    refuse(
        "name",
        format!(
            "\"{name}\" is not allowed; expected 1 to {MAX_NAME} characters of a-z, 0-9, '-', '_', '.', \
             starting with a letter or digit"
        ),
    )
}

fn check_text(key: &str, text: &str, longest: usize) -> Result<(), Error> {
    let length = text.chars().count();
    if (1..=longest).contains(&length) && !text.contains('\0') {
        return Ok(());
    }
    refuse(
        key,
        format!("found {length} characters; expected 1 to {longest}, without NUL"),
    )
}

fn check_sha256(digest: &str) -> Result<(), Error> {
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    if digest.len() == 64 && digest.chars().all(is_hex) {
        return Ok(());
    }
    refuse(
        "sha256",
        format!("\"{digest}\" is not a digest; expected 64 lower-case hex digits"),
    )
}

fn check_input(input: &Input) -> Result<(), Error> {
    check_text("input.name", &input.name, 255)?;
    check_range("input.width", input.width, 1, MAX_SIDE)?;
    check_range("input.height", input.height, 1, MAX_SIDE)?;
    if let Some(share) = input.crop_share {
        if input.resize != Resize::Crop {
            return refuse("input.crop_share", "must be absent unless resize is crop");
        }
        check_range("input.crop_share", share, LEAST_CROP_SHARE, 1.0)?;
    }
    if input.dtype.takes_pixels() {
        for (key, present) in [
            ("input.scale", input.scale.is_some()),
            ("input.mean", input.mean.is_some()),
            ("input.std", input.std.is_some()),
        ] {
            if present {
                return refuse(
                    key,
                    "must be absent for dtypes u8 and i32, which take pixels as they are",
                );
            }
        }
    }
    if let Some(scale) = input.scale
        && !(scale.is_finite() && scale > 0.0)
    {
        return refuse(
            "input.scale",
            format!("found {scale}; expected a finite number above 0"),
        );
    }
    for (at, mean) in input.mean.iter().flatten().enumerate() {
        if !mean.is_finite() {
            return refuse(&format!("input.mean[{at}]"), "expected a finite number");
        }
    }
    for (at, std) in input.std.iter().flatten().enumerate() {
        if !(std.is_finite() && *std > 0.0) {
            return refuse(
                &format!("input.std[{at}]"),
                format!("found {std}; expected a finite number above 0"),
            );
        }
    }
    check_constants(input)
}

fn check_constants(input: &Input) -> Result<(), Error> {
    check_range("input.constants", input.constants.len(), 0, MAX_CONSTANTS)?;
    let mut seen = std::collections::HashSet::from([input.name.as_str()]);
    for (at, constant) in input.constants.iter().enumerate() {
        let key = format!("input.constants[{at}]");
        constant.check(&key)?;
        if !seen.insert(constant.name.as_str()) {
            return refuse(
                &format!("{key}.name"),
                format!("\"{}\" occurs twice", constant.name),
            );
        }
    }
    Ok(())
}

fn check_embedder(output: &EmbedderOutput) -> Result<(), Error> {
    check_text("output.name", &output.name, 255)?;
    check_range("output.dimensions", output.dimensions, 1, MAX_DIMENSIONS)
}

fn check_detector(output: &DetectorOutput) -> Result<(), Error> {
    check_names(output.family, &output.names)?;
    check_activation(output)?;
    check_labels(&output.labels)?;
    check_range("output.score_threshold", output.score_threshold, 0.0, 1.0)?;
    check_range("output.iou_threshold", output.iou_threshold, 0.0, 1.0)?;
    check_range(
        "output.max_detections",
        output.max_detections,
        1,
        MAX_DETECTIONS,
    )
}

fn check_pose(output: &PoseOutput) -> Result<(), Error> {
    match output {
        PoseOutput::Movenet(output) => check_text("output.name", &output.name, 255),
        PoseOutput::Heatmaps(output) => {
            check_text("output.names.heatmaps", &output.names.heatmaps, 255)?;
            if let Some(name) = &output.names.offsets {
                check_text("output.names.offsets", name, 255)?;
            }
            if output.activation == Activation::Softmax {
                return refuse("output.activation", "expected none or sigmoid");
            }
            check_range("output.stride", output.stride, 1, MAX_SIDE)
        }
    }
}

fn check_activation(output: &DetectorOutput) -> Result<(), Error> {
    let (allowed, expected): (&[Activation], &str) = match output.family {
        Family::Detr => return Ok(()),
        Family::YoloV8 | Family::YoloV5 => {
            (&[Activation::None, Activation::Sigmoid], "none or sigmoid")
        }
        Family::YoloNms | Family::Torchvision => (&[Activation::None], "none"),
    };
    if allowed.contains(&output.activation()) {
        return Ok(());
    }
    refuse(
        "output.activation",
        format!("expected {expected} for this family"),
    )
}

fn check_names(family: Family, names: &OutputNames) -> Result<(), Error> {
    let (logits, others) = match family {
        Family::YoloV8 | Family::YoloV5 | Family::YoloNms => (false, false),
        Family::Detr => (true, false),
        Family::Torchvision => (false, true),
    };
    check_text("output.names.boxes", &names.boxes, 255)?;
    for (key, name, wanted) in [
        ("output.names.logits", &names.logits, logits),
        ("output.names.labels", &names.labels, others),
        ("output.names.scores", &names.scores, others),
    ] {
        match (name, wanted) {
            (Some(name), true) => check_text(key, name, 255)?,
            (None, false) => {}
            (None, true) => return refuse(key, "is missing; this family needs it"),
            (Some(_), false) => return refuse(key, "must be absent for this family"),
        }
    }
    Ok(())
}

fn check_labels(labels: &[Label]) -> Result<(), Error> {
    check_range("output.labels", labels.len(), 1, MAX_LABELS)?;
    let mut seen = std::collections::HashSet::new();
    for (at, label) in labels.iter().enumerate() {
        let key = format!("output.labels[{at}].name");
        check_text(&key, &label.name, 255)?;
        // Published lists of classes repeat a name, such as "N/A", for numbers that the model never gives.
        if label.group.is_some() && !seen.insert(label.name.as_str()) {
            let reason = format!("\"{}\" occurs twice with a group", label.name);
            return refuse(&key, reason);
        }
    }
    if labels.iter().all(|label| label.group.is_none()) {
        return refuse(
            "output.labels",
            "every group is null, so nothing could ever be found",
        );
    }
    Ok(())
}

/// Three numbers, or null; the length of an array is left to this because serde's own words for it speak of characters.
pub(crate) fn three<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<[T; 3]>, D::Error> {
    let Some(numbers) = Option::<Vec<T>>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let found = numbers.len();
    let three = numbers.try_into().map_err(|_| {
        de::Error::custom(format!(
            "found {found} numbers; expected three, one for each of R, G and B (in the order of input.colour)"
        ))
    })?;
    Ok(Some(three))
}

fn check_range<T: PartialOrd + std::fmt::Display>(
    key: &str,
    found: T,
    lowest: T,
    highest: T,
) -> Result<(), Error> {
    if found >= lowest && found <= highest {
        return Ok(());
    }
    refuse(
        key,
        format!("found {found}; expected {lowest} to {highest}"),
    )
}

fn refuse(key: &str, reason: impl Into<String>) -> Result<(), Error> {
    Err(Error::ManifestInvalid {
        key: key.to_owned(),
        reason: reason.into(),
    })
}
