//! JPEG through libjpeg-turbo (crate `turbojpeg`).
//!
//! Owns what libjpeg-turbo leaves open: which scale to decode at, the ink of CMYK files, and which
//! of its warnings are errors. It decodes truncated and damaged data to gray with a warning only;
//! here that is an error. What the file says of itself is read by `jpeg_header.rs` first.

use image::RgbImage;
use turbojpeg::{Colorspace, Decompressor, Image, PixelFormat, ScalingFactor};

use crate::decode::{Decoded, Format, Limits};
use crate::error::Error;
use crate::jpeg_header::{Coding, JpegHeader};

const FORMAT: &str = "JPEG";

/// Scans × pixels allowed, as a multiple of the pixel limit: a scan of nothing costs a few bytes of
/// file and a pass over all coefficients. Encoders write up to 10 scans, so a picture of the
/// largest size passes.
const SCAN_FACTOR: u64 = 16;
/// The most scans of any picture, however small.
const MAX_SCANS: u64 = 500;

pub(crate) fn decode(
    bytes: &[u8],
    limits: &Limits,
    at_least: Option<u32>,
) -> Result<Decoded, Error> {
    let header = JpegHeader::read(bytes)?;
    let (width, height) = (header.width, header.height);
    limits.check_pixels(width, height)?;
    check_work(&header, limits)?;
    if header.precision != 8 {
        return Err(unsupported(format!(
            "{} bits per sample; expected 8",
            header.precision
        )));
    }
    if !header.complete {
        return Err(Error::ImageTruncated {
            format: FORMAT,
            reason: "the data stops before the end-of-image marker".to_owned(),
        });
    }
    let mut decompressor = Decompressor::new().map_err(|error| fault(&error))?;
    let stated = decompressor
        .read_header(bytes)
        .map_err(|error| fault(&error))?;
    if (stated.width, stated.height) != (width as usize, height as usize) {
        return Err(corrupt("its headers contradict each other".to_owned()));
    }
    let scale = scale(&header, at_least);
    let scaled = stated.scaled(scale);
    let ink = matches!(stated.colorspace, Colorspace::CMYK | Colorspace::YCCK);
    let samples = if ink { 4 } else { 3 };
    limits.check_memory(FORMAT, (width, height), memory(&header, scale))?;

    decompressor
        .set_scaling_factor(scale)
        .map_err(|error| fault(&error))?;
    let pitch = scaled.width * samples;
    let mut pixels = vec![0; pitch * scaled.height];
    let format = if ink {
        PixelFormat::CMYK
    } else {
        PixelFormat::RGB
    };
    let image = Image {
        pixels: pixels.as_mut_slice(),
        width: scaled.width,
        pitch,
        height: scaled.height,
        format,
    };
    match decompressor.decompress(bytes, image) {
        Err(error) if !is_harmless(&error) => return Err(fault(&error)),
        _ => {}
    }
    if ink {
        pixels = light_of_ink(&pixels, header.adobe);
    }
    let pixels = RgbImage::from_raw(scaled.width as u32, scaled.height as u32, pixels)
        .ok_or_else(|| corrupt("its size is inconsistent".to_owned()))?;
    Ok(Decoded {
        pixels,
        width,
        height,
        orientation: header.orientation,
    })
}

/// What [`decode`] takes, by the header.
pub(crate) fn memory_bytes(
    bytes: &[u8],
    limits: &Limits,
    at_least: Option<u32>,
) -> Result<u64, Error> {
    let header = JpegHeader::read(bytes)?;
    limits.check_pixels(header.width, header.height)?;
    Ok(memory(&header, scale(&header, at_least)))
}

/// The codec's samples, RGB8 of an ink picture, the turned copy, and coefficients.
fn memory(header: &JpegHeader, scale: ScalingFactor) -> u64 {
    let side = |side: u32| scale.scale(side as usize) as u64;
    let samples = header.components().max(3);
    side(header.width) * side(header.height) * (samples + 3) + header.coefficient_bytes()
}

fn check_work(header: &JpegHeader, limits: &Limits) -> Result<(), Error> {
    let pixels = u64::from(header.width) * u64::from(header.height);
    let allowed = (limits.max_pixels.saturating_mul(SCAN_FACTOR) / pixels.max(1)).min(MAX_SCANS);
    if header.scans <= allowed {
        return Ok(());
    }
    Err(Error::ImageTooCostly {
        format: FORMAT,
        reason: format!(
            "{} scans to decode for {} x {} pixels; the limit is {allowed}",
            header.scans, header.width, header.height
        ),
    })
}

/// The smallest scale that keeps the longest side at `at_least` pixels. Only the powers of two:
/// libjpeg-turbo has vector code for their transforms and for no others.
fn scale(header: &JpegHeader, at_least: Option<u32>) -> ScalingFactor {
    let longest = header.width.max(header.height) as usize;
    let Some(needed) = at_least.filter(|_| header.coding != Coding::Lossless) else {
        return ScalingFactor::ONE;
    };
    [
        ScalingFactor::ONE_EIGHTH,
        ScalingFactor::ONE_QUARTER,
        ScalingFactor::ONE_HALF,
    ]
    .into_iter()
    .find(|scale| scale.scale(longest) >= needed as usize)
    .unwrap_or(ScalingFactor::ONE)
}

/// CMYK to RGB without a colour profile: (1 − ink) · (1 − black). Adobe's files, which are nearly
/// all, store light (255 is no ink); others store ink.
fn light_of_ink(samples: &[u8], adobe: bool) -> Vec<u8> {
    let light = |sample: u8| u32::from(if adobe { sample } else { 255 - sample });
    samples
        .chunks_exact(4)
        .flat_map(|cmyk| {
            let black = light(cmyk[3]);
            [cmyk[0], cmyk[1], cmyk[2]].map(|ink| ((light(ink) * black + 127) / 255) as u8)
        })
        .collect()
}

/// Warnings about bytes that are not part of the picture.
fn is_harmless(error: &turbojpeg::Error) -> bool {
    let text = error.to_string();
    text.contains("extraneous bytes before marker")
        || text.contains("Unknown Adobe color transform")
}

fn fault(error: &turbojpeg::Error) -> Error {
    let text = match error {
        turbojpeg::Error::TurboJpegError(text) => text.clone(),
        other => other.to_string(),
    };
    let text = text
        .split_once("(): ")
        .map_or(text.as_str(), |(_, reason)| reason)
        .to_owned();
    if text.contains("Premature end") || text.contains("premature end") {
        Error::ImageTruncated {
            format: FORMAT,
            reason: text,
        }
    } else if text.contains("Unsupported") || text.contains("not supported") {
        unsupported(text)
    } else {
        corrupt(text)
    }
}

fn corrupt(reason: String) -> Error {
    Error::ImageCorrupt {
        format: Format::Jpeg.name(),
        reason,
    }
}

fn unsupported(reason: String) -> Error {
    Error::ImageUnsupported {
        format: Format::Jpeg.name(),
        reason,
    }
}
