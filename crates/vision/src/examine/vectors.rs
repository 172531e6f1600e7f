//! Whether an embedder's vectors are like those of a working one, and are the ones that are meant.
//!
//! Owns the comparison of vectors, with each other and with one that another program made, and what the tokens of a
//! transformer and the file's other outputs say about `output.pool`.

use super::Findings;
use crate::manifest_parts::{EmbedderOutput, Input};
use crate::tensors::{Element, Port};

/// Cosine of two unlike pictures above which their vectors are the same.
const SAME: f64 = 0.999_99;
/// And above which they hardly differ.
const ALIKE: f64 = 0.999;
/// Cosine of one photo's vectors below which something was prepared otherwise: ImageNet's normalising left out makes 0.95.
const OTHER: f64 = 0.99;

/// The vectors of two unlike pictures.
pub(super) fn unlike(
    output: &EmbedderOutput,
    first: &[f32],
    second: &[f32],
    findings: &mut Findings,
) {
    let similarity = cosine(first, second);
    let found = format!(
        "{} finite dimensions, length {:.3}, two unlike pictures have cosine {similarity:.4}",
        first.len(),
        length(first)
    );
    if first == second || similarity > SAME {
        findings.fail(
            "vector",
            found,
            "the vector does not depend on the picture: check input.scale, mean and std (pixels may be cut off at one \
             value), and that output.name is the image's vector",
        );
    } else if similarity > ALIKE {
        findings.warn(
            "vector",
            found,
            "the pictures can hardly be told apart: check input.scale, mean, std and colour",
        );
    } else if !output.normalize && (length(first) / length(second) - 1.0).abs() > 0.01 {
        findings.ok(
            "vector",
            format!("{found}; lengths differ, so <-> and <=> order differently"),
        );
    } else {
        findings.ok("vector", found);
    }
}

/// The photo's vector beside the one that another program made of it.
pub(super) fn expected(vector: &[f32], expected: &[f32], findings: &mut Findings) {
    if vector.len() != expected.len() {
        findings.fail(
            "expected",
            format!(
                "the expected vector has {} dimensions, the model's {}",
                expected.len(),
                vector.len()
            ),
            "give the vector of one photo, of the output that the manifest names",
        );
        return;
    }
    let similarity = cosine(vector, expected);
    let found = format!("cosine {similarity:.4} with the expected vector of this photo");
    // NaN, of numbers beyond f32, is none of the first two.
    if similarity >= ALIKE {
        findings.ok("expected", found);
    } else if similarity >= OTHER {
        findings.warn(
            "expected",
            found,
            "nearly the same: the filter or its antialiasing, input.resize or crop_share may differ",
        );
    } else {
        findings.fail(
            "expected",
            found,
            "compare input.colour, scale, mean, std, resize, crop_share and filter, output.name and output.pool with what \
             made that vector",
        );
    }
}

/// Whether an output of that shape has tokens for the places of the picture and no more: then the first is no class token.
pub(super) fn lacks_class_token(input: &Input, shape: &[usize]) -> bool {
    let &[_, tokens, _] = shape else {
        return false;
    };
    let mut patches = 1..=input.width.min(input.height);
    patches.any(|side| ((input.width / side) * (input.height / side)) as usize == tokens)
}

/// The output beside the pooled one that is declared as a vector of as many dimensions.
pub(super) fn ready_made<'a>(output: &EmbedderOutput, outputs: &'a [Port]) -> Option<&'a Port> {
    let fits = |port: &&Port| {
        matches!(port.element, Element::F32 | Element::F16 | Element::F64)
            && matches!(*port.shape.as_slice(), [_, size] if usize::try_from(size).is_ok_and(|size| size == output.dimensions))
    };
    let mut others = outputs.iter().filter(|port| port.name != output.name);
    others.find(fits)
}

/// Says that the tokens have no class token; `other` is the output that is a vector already.
pub(super) fn no_class_token(
    output: &EmbedderOutput,
    other: Option<&Port>,
    findings: &mut Findings,
) {
    let other = match other {
        Some(port) => format!("output.name \"{}\" with output.pool none", port.name),
        None => "an output with the model's own vector, with output.pool none".to_owned(),
    };
    findings.warn(
        "pool",
        format!(
            "the tokens of output \"{}\" are as many as places in the picture, so the first is no class token",
            output.name
        ),
        &format!("take {other}, or output.pool mean"),
    );
}

/// Compares the pooled vector with that of the output `other`.
pub(super) fn beside(vector: &[f32], other: &str, ready_made: &[f32], findings: &mut Findings) {
    let similarity = cosine(vector, ready_made);
    if similarity < OTHER {
        findings.warn(
            "pool",
            format!(
                "output \"{other}\" is a vector of as many dimensions, and another one (cosine {similarity:.4})"
            ),
            &format!(
                "where the model is trained on that one (CLIP, SigLIP), set output.name to \"{other}\" and output.pool to \
                 none"
            ),
        );
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    dot(a, b) / (length(a) * length(b)).max(f64::MIN_POSITIVE)
}

fn length(vector: &[f32]) -> f64 {
    dot(vector, vector).sqrt()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum()
}
