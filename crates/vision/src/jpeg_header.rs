//! What a JPEG file says of itself, read without decoding.
//!
//! Walks the marker segments (ITU-T T.81, annex B) through all scans to the end-of-image marker.
//! Knows nothing of pixels. Whatever the bytes, the walk moves forward and ends.

use image::metadata::Orientation;
use memchr::memchr;

use crate::error::Error;

/// How the samples are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Sequential,
    Progressive,
    Lossless,
}

#[derive(Debug, Clone)]
pub(crate) struct JpegHeader {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) precision: u8,
    pub(crate) coding: Coding,
    /// Whether the end-of-image marker is there.
    pub(crate) complete: bool,
    pub(crate) scans: u64,
    pub(crate) orientation: Orientation,
    /// Whether Adobe wrote it: its CMYK is inverted.
    pub(crate) adobe: bool,
    /// Horizontal and vertical sampling factors.
    sampling: Vec<(u8, u8)>,
}

impl JpegHeader {
    /// Reads the markers of data that begins with a start-of-image marker.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Error> {
        let mut walk = Walk { bytes, at: 2 };
        let mut frame = None;
        let (mut scans, mut adobe, mut complete) = (0, false, false);
        let mut orientation = None;
        while let Some(marker) = walk.marker() {
            match marker {
                // Restart markers, TEM and a repeated start carry no length.
                0x01 | 0xd0..=0xd8 => continue,
                0xd9 => {
                    complete = true;
                    break;
                }
                _ => {}
            }
            let Some(segment) = walk.segment() else { break };
            match marker {
                0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf if frame.is_none() => {
                    frame = Some((marker, segment));
                }
                0xda => scans += 1,
                0xe1 => orientation = orientation.or_else(|| exif_orientation(segment)),
                0xee => adobe |= segment.starts_with(b"Adobe"),
                _ => {}
            }
        }
        let Some((marker, frame)) = frame else {
            let reason = "it has no frame header".to_owned();
            return Err(if complete {
                Error::ImageCorrupt {
                    format: "JPEG",
                    reason,
                }
            } else {
                Error::ImageTruncated {
                    format: "JPEG",
                    reason,
                }
            });
        };
        let header = Self {
            orientation: orientation.unwrap_or(Orientation::NoTransforms),
            scans,
            adobe,
            complete,
            ..Self::of_frame(marker, frame)?
        };
        Ok(header)
    }

    fn of_frame(marker: u8, frame: &[u8]) -> Result<Self, Error> {
        let corrupt = |reason: &str| Error::ImageCorrupt {
            format: "JPEG",
            reason: reason.to_owned(),
        };
        let &[precision, h1, h0, w1, w0, count, ref components @ ..] = frame else {
            return Err(corrupt("its frame header is too short"));
        };
        let sampling: Vec<(u8, u8)> = components
            .chunks_exact(3)
            .take(count.into())
            .map(|component| (component[1] >> 4, component[1] & 15))
            .collect();
        let (width, height) = (u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0]));
        if width == 0 || height == 0 || sampling.is_empty() {
            return Err(corrupt("its frame header states no pixels"));
        }
        let coding = match marker {
            0xc2 | 0xc6 | 0xca | 0xce => Coding::Progressive,
            0xc3 | 0xc7 | 0xcb | 0xcf => Coding::Lossless,
            _ => Coding::Sequential,
        };
        Ok(Self {
            width: width.into(),
            height: height.into(),
            precision,
            coding,
            complete: false,
            scans: 0,
            orientation: Orientation::NoTransforms,
            adobe: false,
            sampling,
        })
    }

    /// 1 is gray, 3 are colours, 4 are inks.
    pub(crate) fn components(&self) -> u64 {
        self.sampling.len() as u64
    }

    /// Memory in which libjpeg-turbo keeps all coefficients when they come in several scans: 2 bytes
    /// for each sample, in whole blocks.
    pub(crate) fn coefficient_bytes(&self) -> u64 {
        if self.coding == Coding::Sequential && self.scans <= 1 {
            return 0;
        }
        let most = |of: fn(&(u8, u8)) -> u8| {
            self.sampling
                .iter()
                .map(of)
                .max()
                .unwrap_or(1)
                .max(1)
                .into()
        };
        let (h_most, v_most): (u64, u64) = (most(|s| s.0), most(|s| s.1));
        let blocks = |size: u32, factor: u8, most: u64| {
            (u64::from(size) * u64::from(factor.max(1))).div_ceil(most * 8) + u64::from(factor)
        };
        self.sampling
            .iter()
            .map(|&(h, v)| blocks(self.width, h, h_most) * blocks(self.height, v, v_most) * 128)
            .sum()
    }
}

fn exif_orientation(segment: &[u8]) -> Option<Orientation> {
    segment
        .strip_prefix(b"Exif\0\0")
        .and_then(Orientation::from_exif_chunk)
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    /// The next marker; skips entropy-coded data, stuffed zeros and filling.
    fn marker(&mut self) -> Option<u8> {
        loop {
            self.at += memchr(0xff, self.bytes.get(self.at..)?)? + 1;
            let filling = self
                .bytes
                .get(self.at..)?
                .iter()
                .take_while(|&&byte| byte == 0xff)
                .count();
            self.at += filling;
            let marker = *self.bytes.get(self.at)?;
            self.at += 1;
            if marker != 0 {
                return Some(marker);
            }
        }
    }

    /// The content of the segment whose marker was just read.
    fn segment(&mut self) -> Option<&'a [u8]> {
        let length = self.bytes.get(self.at..self.at + 2)?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let content = self.bytes.get(self.at + 2..self.at + length.max(2))?;
        self.at += length.max(2);
        Some(content)
    }
}
