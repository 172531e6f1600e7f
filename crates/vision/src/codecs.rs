//! PNG, WebP, GIF, BMP and TIFF through the `image` crate.
//!
//! Owns the conversion of every pixel form to RGB8: alpha over white, 16 bits and floats rounded,
//! gray spread. The first frame counts. Memory is bounded twice: by the estimate here, from the
//! header, and by the codecs' own limits.

use std::error::Error as _;
use std::io::{self, Cursor};

use image::codecs::webp::WebPDecoder;
use image::codecs::{bmp::BmpDecoder, gif::GifDecoder, png::PngDecoder, tiff::TiffDecoder};
use image::error::ImageError;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, RgbImage, RgbaImage};

use crate::decode::{Decoded, Format, Limits};
use crate::error::Error;

pub(crate) fn decode(bytes: &[u8], format: Format, limits: &Limits) -> Result<Decoded, Error> {
    let fault = |error| explain(format, &error);
    let mut decoder = open(bytes, format, limits)?;
    let (width, height) = decoder.dimensions();
    let needed = needed(&*decoder, format, limits)?;
    limits.check_memory(format.name(), (width, height), needed)?;
    let mut of_codec = image::Limits::no_limits();
    of_codec.max_alloc = Some(limits.max_memory_bytes());
    decoder.set_limits(of_codec).map_err(fault)?;
    // Metadata that cannot be read must not cost the picture.
    let orientation = orientation(&mut decoder);
    let image = DynamicImage::from_decoder(decoder).map_err(fault)?;
    Ok(Decoded {
        pixels: flattened(image),
        width,
        height,
        orientation,
    })
}

/// What [`decode`] takes, by the header.
pub(crate) fn memory_bytes(bytes: &[u8], format: Format, limits: &Limits) -> Result<u64, Error> {
    needed(&*open(bytes, format, limits)?, format, limits)
}

fn open<'a>(
    bytes: &'a [u8],
    format: Format,
    limits: &Limits,
) -> Result<Box<dyn ImageDecoder + 'a>, Error> {
    let reader = Cursor::new(bytes);
    let fault = |error| explain(format, &error);
    let png_limits = || {
        let mut limits_of_codec = image::Limits::no_limits();
        limits_of_codec.max_alloc = Some(limits.max_memory_bytes());
        limits_of_codec
    };
    Ok(match format {
        Format::Png => Box::new(PngDecoder::with_limits(reader, png_limits()).map_err(fault)?),
        Format::WebP => {
            check_riff(bytes)?;
            Box::new(WebPDecoder::new(reader).map_err(fault)?)
        }
        Format::Gif => Box::new(GifDecoder::new(reader).map_err(fault)?),
        Format::Bmp => Box::new(BmpDecoder::new(reader).map_err(fault)?),
        Format::Tiff => Box::new(TiffDecoder::new(reader).map_err(fault)?),
        Format::Jpeg => {
            return Err(Error::ImageUnsupported {
                format: format.name(),
                reason: "it belongs to another codec".to_owned(),
            });
        }
    })
}

/// The codec's pixels, RGBA8 and RGB8 exist at the same time at worst.
fn needed(decoder: &dyn ImageDecoder, format: Format, limits: &Limits) -> Result<u64, Error> {
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(Error::ImageCorrupt {
            format: format.name(),
            reason: format!("its size is {width} x {height} pixels"),
        });
    }
    limits.check_pixels(width, height)?;
    let pixels = u64::from(width) * u64::from(height);
    Ok(decoder.total_bytes().saturating_add(pixels * 7))
}

fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    // Some writers keep JPEG's prefix in other containers.
    let from_exif = decoder.exif_metadata().ok().flatten().and_then(|exif| {
        Orientation::from_exif_chunk(exif.strip_prefix(b"Exif\0\0").unwrap_or(&exif))
    });
    from_exif
        .or_else(|| decoder.orientation().ok())
        .unwrap_or(Orientation::NoTransforms)
}

fn flattened(image: DynamicImage) -> RgbImage {
    match image {
        DynamicImage::ImageRgb8(pixels) => pixels,
        image if image.color().has_alpha() => over_white(&image.into_rgba8()),
        image => image.into_rgb8(),
    }
}

/// colour · alpha + white · (1 − alpha), rounded.
fn over_white(image: &RgbaImage) -> RgbImage {
    let mut flat = RgbImage::new(image.width(), image.height());
    for (out, pixel) in flat.pixels_mut().zip(image.pixels()) {
        let alpha = u32::from(pixel[3]);
        for channel in 0..3 {
            let mixed = u32::from(pixel[channel]) * alpha + 255 * (255 - alpha);
            out[channel] = ((mixed + 127) / 255) as u8;
        }
    }
    flat
}

/// A WebP file is a list of chunks that state their lengths, which its codec takes at their word
/// when it reserves memory. One that reaches beyond the data means truncation.
fn check_riff(bytes: &[u8]) -> Result<(), Error> {
    let truncated = |reason| Error::ImageTruncated {
        format: Format::WebP.name(),
        reason,
    };
    let size_at = |at: usize| {
        let size = bytes.get(at..at + 4).and_then(|size| size.try_into().ok());
        size.map(|size| u64::from(u32::from_le_bytes(size)))
    };
    let found = bytes.len() as u64;
    let stated = size_at(4).unwrap_or(u64::MAX - 8) + 8;
    if stated > found {
        return Err(truncated(format!("it has {found} of {stated} bytes")));
    }
    let mut at = 12;
    while at < stated {
        let size = usize::try_from(at + 4).ok().and_then(size_at);
        // Chunks are padded to even lengths; some writers leave out the last byte of padding.
        let end = size.map_or(u64::MAX, |size| at + 8 + size);
        if end > found {
            return Err(truncated("its last chunk ends behind the data".to_owned()));
        }
        at = end + end % 2;
    }
    Ok(())
}

fn explain(format: Format, error: &ImageError) -> Error {
    let format = format.name();
    let reason = error.to_string();
    if ends_early(error) {
        return Error::ImageTruncated {
            format,
            reason: "the data ends before the picture".to_owned(),
        };
    }
    match error {
        ImageError::Unsupported(_) => Error::ImageUnsupported { format, reason },
        ImageError::Limits(_) => {
            let reason = "more memory to decode than the limit allows".to_owned();
            Error::ImageTooCostly { format, reason }
        }
        _ => Error::ImageCorrupt { format, reason },
    }
}

/// Whether the cause, however deep, is the end of the data.
fn ends_early(error: &ImageError) -> bool {
    let is_end = |error: &io::Error| error.kind() == io::ErrorKind::UnexpectedEof;
    if let ImageError::IoError(error) = error {
        return is_end(error);
    }
    // The `gif` crate says so in words only.
    if error.to_string().contains("Unexpected End of File") {
        return true;
    }
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(is_end) {
            return true;
        }
        cause = error.source();
    }
    false
}
