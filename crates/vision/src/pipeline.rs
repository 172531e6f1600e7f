//! From one photo to its garments: the one path that the loader and SQL share.
//!
//! Owns the order decode → detect → crop → embed and the scale that photos are decoded at. Knows
//! nothing of models beyond the two doors it is given.

use crate::detector::Detector;
use crate::embedder::Embedder;
use crate::error::Error;
use crate::geometry::BoundingBox;
use crate::opened::Opened;
use crate::photo::Photo;

/// One garment of a photo.
#[derive(Debug, Clone, PartialEq)]
pub struct Garment {
    /// Category: `upper`, `lower`, `full_body`, `footwear` or `accessory`.
    pub category: String,
    /// The detector's own label.
    pub label: String,
    /// The detector's score, 0 to 1.
    pub score: Option<f32>,
    /// Where it was found, in pixels of the full-size oriented photo, without the crop margin.
    pub bbox: BoundingBox,
    /// The vector of the crop with its margin.
    pub embedding: Vec<f32>,
}

/// Detects and embeds the garments of one photo, best score first; empty when nothing is found.
///
/// # Errors
/// [`Error::Cancelled`] and [`Error::Inference`] from either model.
pub fn garments(
    detector: &mut Detector,
    embedder: &mut Embedder,
    photo: &Photo,
) -> Result<Vec<Garment>, Error> {
    let whole = photo.whole();
    let detections = detector.detect(&[whole])?.pop().unwrap_or_default();
    let crops: Vec<_> = detections
        .iter()
        .map(|found| photo.crop(found.bbox.with_margin(photo)))
        .collect();
    let vectors = embedder.embed(&crops)?;
    Ok(detections
        .into_iter()
        .zip(vectors)
        .map(|(found, embedding)| Garment {
            category: found.group.as_str().to_owned(),
            label: found.label,
            score: Some(found.score),
            bbox: found.bbox,
            embedding,
        })
        .collect())
}

/// Longest side that keeps a garment crop sharp: see [`decode_side`]. A quarter of the 4,000 or 4,032 pixels of a
/// 12-megapixel camera is above it.
const PIPELINE_SIDE: u32 = 960;

/// The longest side to ask [`crate::decode`] for when one detector or pose model alone looks at the
/// photo: that of a pipeline, so that it sees what it sees in one, where a photo is decoded once.
pub fn decode_side_alone<O>(model: &Opened<O>) -> u32 {
    PIPELINE_SIDE.max(model.longest_side())
}

/// The longest side to ask [`crate::decode`] for.
///
/// With a detector the crops matter: a garment of a third of the photo's side should still have about
/// two pixels for each of the 160 of the embedder's input, so at least 960. Without one only the whole
/// photo is embedded, and twice the longer side that it is fitted with is enough for an antialiased
/// reduction. Scaled decoding never goes below what is asked for.
pub fn decode_side(detector: Option<&Detector>, embedder: &Embedder) -> u32 {
    let embed = embedder.longest_side().saturating_mul(2);
    match detector {
        Some(detector) => PIPELINE_SIDE.max(detector.longest_side()).max(embed),
        None => embed,
    }
}
