//! From the bytes of a file to an upright RGB photo, trusting nothing.
//!
//! Owns the formats, the limits and what truncation means. Formats are told by content, never by
//! name. Sizes are checked against [`Limits`] from the header, before pixels are allocated. A codec
//! that panics is caught here, at one place. The same bytes and arguments give the same pixels.
//! `docs/images.md` tells users what is read and what each refusal means.

use image::{DynamicImage, RgbImage, metadata::Orientation};

use crate::error::Error;
use crate::photo::Photo;
use crate::{codecs, jpeg, quiet};

/// What a photo may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the file.
    pub max_bytes: u64,
    /// Width × height of the full-size photo, whatever scale it is decoded at.
    pub max_pixels: u64,
}

impl Default for Limits {
    /// 64 MiB and 100 million pixels.
    fn default() -> Self {
        Self {
            max_bytes: 64 << 20,
            max_pixels: 100_000_000,
        }
    }
}

impl Limits {
    /// Memory that one decode may use, in bytes: 16 for each allowed pixel (the widest plain form,
    /// 16-bit RGBA, needs 8 and 7 more while it is converted), and 32 MiB for codecs.
    pub fn max_memory_bytes(&self) -> u64 {
        self.max_pixels.saturating_mul(16).saturating_add(32 << 20)
    }

    pub(crate) fn check_pixels(&self, width: u32, height: u32) -> Result<(), Error> {
        if u64::from(width) * u64::from(height) <= self.max_pixels {
            return Ok(());
        }
        Err(Error::ImageTooManyPixels {
            width,
            height,
            limit: self.max_pixels,
        })
    }

    pub(crate) fn check_memory(
        &self,
        format: &'static str,
        (width, height): (u32, u32),
        needed: u64,
    ) -> Result<(), Error> {
        let limit = self.max_memory_bytes();
        if needed <= limit {
            // Codecs take what they need at once, and end the process where they do not get it.
            let is_short = needed > WORTH_A_TRIAL
                && usize::try_from(needed)
                    .is_ok_and(|needed| Vec::<u8>::new().try_reserve_exact(needed).is_err());
            return match is_short {
                true => Err(Error::NoMemoryToDecode { format }),
                false => Ok(()),
            };
        }
        let reason =
            format!("{needed} bytes of memory for {width} x {height} pixels; the limit is {limit}");
        Err(Error::ImageTooCostly { format, reason })
    }
}

/// Bytes from which on it is asked first whether they can be had.
const WORTH_A_TRIAL: u64 = 32 << 20;

/// The formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
}

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
        }
    }
}

/// Decodes a photo.
///
/// `at_least` is the longest side that the caller needs, in pixels: a larger JPEG is decoded at the
/// smallest of the scales 1/2, 1/4 and 1/8 that still has it. `None` decodes at full size. Width,
/// height and boxes of the photo are full-size either way.
///
/// # Errors
/// The `Image*` variants of [`Error`]. Never panics, and uses no more than
/// [`Limits::max_memory_bytes`].
pub fn decode(bytes: &[u8], limits: &Limits, at_least: Option<u32>) -> Result<Photo, Error> {
    if bytes.is_empty() {
        return Err(Error::ImageEmpty);
    }
    let size = bytes.len() as u64;
    if size > limits.max_bytes {
        return Err(Error::ImageTooManyBytes {
            bytes: size,
            limit: limits.max_bytes,
        });
    }
    let format = sniff(bytes)?;
    let decoded = quiet::catch(|| match format {
        Format::Jpeg => jpeg::decode(bytes, limits, at_least),
        other => codecs::decode(bytes, other, limits),
    });
    let decoded = decoded.unwrap_or_else(|said| {
        // How the standard library and codecs say that memory is short.
        if said.contains("AllocError") {
            return Err(Error::NoMemoryToDecode {
                format: format.name(),
            });
        }
        Err(Error::ImageCorrupt {
            format: format.name(),
            reason: "the codec cannot make sense of it".to_owned(),
        })
    })?;
    Ok(decoded.upright())
}

/// Bytes of memory that [`decode`] takes for its pixels with the same arguments, at most, by the
/// header; 0 where it refuses the photo by that.
pub fn decode_memory_bytes(bytes: &[u8], limits: &Limits, at_least: Option<u32>) -> u64 {
    if bytes.len() as u64 > limits.max_bytes {
        return 0;
    }
    let Ok(format) = sniff(bytes) else { return 0 };
    let needed = quiet::catch(|| match format {
        Format::Jpeg => jpeg::memory_bytes(bytes, limits, at_least),
        other => codecs::memory_bytes(bytes, other, limits),
    });
    match needed {
        Ok(Ok(needed)) if needed <= limits.max_memory_bytes() => needed,
        _ => 0,
    }
}

/// Pixels as stored, and what is left to do.
pub(crate) struct Decoded {
    pub(crate) pixels: RgbImage,
    /// Full size as stored, before orientation.
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) orientation: Orientation,
}

impl Decoded {
    fn upright(self) -> Photo {
        let turned = matches!(
            self.orientation,
            Orientation::Rotate90
                | Orientation::Rotate270
                | Orientation::Rotate90FlipH
                | Orientation::Rotate270FlipH
        );
        let (width, height) = if turned {
            (self.height, self.width)
        } else {
            (self.width, self.height)
        };
        let mut image = DynamicImage::ImageRgb8(self.pixels);
        image.apply_orientation(self.orientation);
        Photo::reduced(image.into_rgb8(), width, height)
    }
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The format by its first bytes.
fn sniff(bytes: &[u8]) -> Result<Format, Error> {
    let starts = |signature: &[u8]| bytes.starts_with(signature);
    if starts(b"\xff\xd8") {
        return Ok(Format::Jpeg);
    }
    if starts(PNG) {
        return Ok(Format::Png);
    }
    if starts(b"GIF87a") || starts(b"GIF89a") {
        return Ok(Format::Gif);
    }
    if starts(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        return Ok(Format::WebP);
    }
    if starts(b"II*\0") || starts(b"MM\0*") || starts(b"II+\0") || starts(b"MM\0+") {
        return Ok(Format::Tiff);
    }
    // "BM" alone begins many a text; the size of the second header tells.
    if starts(b"BM")
        && matches!(
            bytes.get(14..18),
            Some([12 | 16 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0])
        )
    {
        return Ok(Format::Bmp);
    }
    Err(refusal(bytes))
}

/// Says what the data is instead, as far as its beginning tells.
fn refusal(bytes: &[u8]) -> Error {
    let unsupported = |format| Error::ImageUnsupported {
        format,
        reason: "this format is not read".to_owned(),
    };
    if bytes.get(4..8) == Some(b"ftyp") {
        return match bytes.get(8..12) {
            Some(b"avif" | b"avis") => unsupported("AVIF"),
            Some(b"heic" | b"heix" | b"mif1" | b"msf1" | b"hevc") => unsupported("HEIC"),
            _ => Error::NotAnImage {
                found: "the header of a video".to_owned(),
            },
        };
    }
    if bytes.starts_with(b"\xff\x0a") || bytes.starts_with(b"\0\0\0\x0cJXL ") {
        return unsupported("JPEG XL");
    }
    if bytes.starts_with(b"\0\0\0\x0cjP  ") {
        return unsupported("JPEG 2000");
    }
    let short = bytes.len() < 16;
    for (format, signature) in [
        ("PNG", PNG),
        ("GIF", b"GIF8"),
        ("WebP", b"RIFF"),
        ("BMP", b"BM"),
    ] {
        if short && (signature.starts_with(bytes) || bytes.starts_with(signature)) {
            let reason = format!("it ends after {} bytes", bytes.len());
            return Error::ImageTruncated { format, reason };
        }
    }
    let head = &bytes[..bytes.len().min(16)];
    let is_text = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~');
    let found = if bytes.starts_with(b"%PDF") {
        "a PDF header".to_owned()
    } else if head.iter().all(is_text) {
        format!("the text {:?}", String::from_utf8_lossy(head))
    } else {
        let hex: Vec<String> = head[..head.len().min(8)]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        format!("the bytes {}", hex.join(" "))
    };
    Error::NotAnImage { found }
}
