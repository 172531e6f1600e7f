//! No bytes whatever make decoding panic, or cost more than the limits.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Cursor;

use image::{DynamicImage, ImageFormat};
use lookbook_vision::{Error, ErrorCode, Limits, decode, decode_memory_bytes};

use common::{jpeg, picture, raw_image, read};

thread_local! {
    static LIVE: Cell<u64> = const { Cell::new(0) };
    static PEAK: Cell<u64> = const { Cell::new(0) };
}

/// Counts what this thread allocates through Rust, which is all but libjpeg-turbo's own memory.
struct Counting;

#[allow(unsafe_code, reason = "measuring memory needs an allocator")]
// SAFETY: every call goes to the system allocator unchanged; only counters are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = LIVE.try_with(|live| live.set(live.get().saturating_sub(layout.size() as u64)));
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn add(bytes: usize) {
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes as u64);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Decodes and returns the result with the peak of memory above the start.
fn measured(bytes: &[u8], limits: &Limits) -> (Result<lookbook_vision::Photo, Error>, u64) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = decode(bytes, limits, None);
    (result, PEAK.get().saturating_sub(before))
}

fn small() -> Limits {
    Limits {
        max_bytes: 1 << 20,
        max_pixels: 100_000,
    }
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    [
        "baseline.jpg",
        "progressive.jpg",
        "restart.jpg",
        "cmyk.jpg",
        "gray.jpg",
        "turned.jpg",
        "plain.png",
        "alpha.png",
        "palette.png",
        "gray16.png",
        "turned.png",
        "lossy.webp",
        "alpha.webp",
        "moving.webp",
        "turned.webp",
        "moving.gif",
        "plain.bmp",
        "turned.tif",
        "bilevel.tif",
        "jpeg.tif",
    ]
    .into_iter()
    .map(|name| (name, read(&format!("images/{name}"))))
    .collect()
}

/// SplitMix64 (Steele, Lea and Flood 2014): seeded, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}

#[test]
fn flipped_bytes_never_panic_nor_exceed_the_memory_limit() {
    let limits = small();
    let (mut decoded, mut refused) = (0, 0);
    for (name, seed) in seeds() {
        let mut random = Random(seed.len() as u64);
        for round in 0..200 {
            let mut bytes = seed.clone();
            for _ in 0..=random.below(6) {
                // Headers matter most: half of the changes fall into the first 64 bytes.
                let range = if random.below(2) == 0 {
                    bytes.len().min(64)
                } else {
                    bytes.len()
                };
                let at = random.below(range);
                bytes[at] = if random.below(3) == 0 {
                    0xff
                } else {
                    random.below(256) as u8
                };
            }
            let (result, peak) = measured(&bytes, &limits);
            assert!(
                peak <= limits.max_memory_bytes(),
                "{name}, round {round}: {peak} bytes"
            );
            match result {
                Ok(photo) => {
                    assert!(u64::from(photo.width()) * u64::from(photo.height()) <= 100_000);
                    decoded += 1;
                }
                Err(error) => {
                    assert!(
                        error.code().is_image_fault(),
                        "{name}, round {round}: {error}"
                    );
                    assert!(!error.to_string().contains("panicked"), "{name}: {error}");
                    refused += 1;
                }
            }
        }
    }
    println!("{decoded} decoded, {refused} refused");
    assert!(
        decoded > 100 && refused > 100,
        "the changes must reach past the headers"
    );
}

#[test]
fn decoding_takes_no_more_than_its_header_said() {
    let limits = Limits::default();
    let rgb = DynamicImage::new_rgb8(900, 1_200);
    let rgba = DynamicImage::new_rgba8(900, 1_200);
    let deep = DynamicImage::new_rgba16(900, 1_200);
    for (image, format) in [
        (&deep, ImageFormat::Png),
        (&deep, ImageFormat::Tiff),
        (&rgba, ImageFormat::Gif),
        (&rgba, ImageFormat::WebP),
        (&rgb, ImageFormat::WebP),
        (&rgb, ImageFormat::Png),
        (&rgb, ImageFormat::Bmp),
    ] {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        let bytes = bytes.into_inner();
        let said = decode_memory_bytes(&bytes, &limits, None);
        let (result, peak) = measured(&bytes, &limits);
        result.unwrap();
        // Tables and buffers of the codecs.
        assert!(peak <= said + (2 << 20), "{format:?}: {peak} of {said}");
        assert!(said <= 16 * 900 * 1_200, "{format:?}: {said}");
    }
    // libjpeg-turbo's own memory is not counted: its coefficients have two bytes a sample.
    let progressive = read("images/progressive.jpg");
    let baseline = read("images/baseline.jpg");
    let said = |bytes: &[u8]| decode_memory_bytes(bytes, &limits, None);
    let pixels = |bytes: &[u8]| {
        let photo = decode(bytes, &limits, None).unwrap();
        u64::from(photo.width()) * u64::from(photo.height())
    };
    assert!(said(&baseline) >= 3 * pixels(&baseline));
    assert!(said(&progressive) >= 6 * pixels(&progressive));
    assert!(decode_memory_bytes(&baseline, &limits, Some(1)) < said(&baseline) / 8);
    assert_eq!(said(b"no photo"), 0);
}

#[test]
fn a_truncated_file_is_refused_as_truncated() {
    for (name, seed) in seeds() {
        let whole = decode(&seed, &Limits::default(), None).unwrap();
        let mut codes = Vec::new();
        for cut in (1..seed.len()).step_by(seed.len().div_ceil(97)) {
            match decode(&seed[..cut], &Limits::default(), None) {
                // What is missing may lie behind the picture: metadata, or later frames.
                Ok(photo) => assert!(photo == whole, "{name} cut at {cut}"),
                Err(error) => {
                    if error.code() != ErrorCode::ImageTruncated {
                        println!("{name} cut at {cut}: {error}");
                    }
                    codes.push(error.code());
                }
            }
        }
        let truncated = codes
            .iter()
            .filter(|&&code| code == ErrorCode::ImageTruncated)
            .count();
        println!(
            "{name}: {truncated} of {} cuts are called truncated",
            codes.len()
        );
        assert!(
            codes.iter().all(|code| code.is_image_fault()),
            "{name}: {codes:?}"
        );
        assert!(
            truncated * 10 >= codes.len() * 9,
            "{name}: {truncated} of {}",
            codes.len()
        );
    }
}

#[test]
fn a_jpeg_cut_anywhere_is_truncated() {
    let bytes = jpeg(&picture(300, 200, 9), 90);
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_progressive(true).unwrap();
    let source = picture(300, 200, 9);
    let progressive = compressor.compress_to_vec(raw_image(&source)).unwrap();
    for bytes in [bytes, progressive] {
        for cut in (2..bytes.len()).step_by(31) {
            let error = decode(&bytes[..cut], &Limits::default(), Some(100)).unwrap_err();
            assert_eq!(
                error.code(),
                ErrorCode::ImageTruncated,
                "cut at {cut}: {error}"
            );
        }
        // An end marker put behind the cut does not hide it.
        let body = [&bytes[..bytes.len() * 2 / 3], b"\xff\xd9"].concat();
        let error = decode(&body, &Limits::default(), None).unwrap_err();
        assert!(error.code().is_image_fault(), "{error}");
    }
}

#[test]
fn headers_beyond_the_limits_are_refused_before_anything_is_allocated() {
    let limits = small();
    for (name, bytes) in bombs() {
        let (result, peak) = measured(&bytes, &limits);
        let error = result.unwrap_err();
        assert_eq!(error.code(), ErrorCode::ImageTooLarge, "{name}: {error}");
        assert!(peak < 8 << 20, "{name}: {peak} bytes");
        println!(
            "{name}: {} bytes of file, {peak} bytes of memory: {error}",
            bytes.len()
        );
    }
    let bytes = read("images/plain.png");
    let limits = Limits {
        max_bytes: 50,
        ..Limits::default()
    };
    let error = decode(&bytes, &limits, None).unwrap_err();
    assert_eq!(error.code(), ErrorCode::ImageTooLarge);
    assert!(
        error.to_string().contains("exceeds the limit of 50 bytes"),
        "{error}"
    );
}

/// Small files that state, or expand to, enormous pictures.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let side = 30_000_u32;
    let mut png = encoded(ImageFormat::Png);
    png[16..20].copy_from_slice(&side.to_be_bytes());
    png[20..24].copy_from_slice(&side.to_be_bytes());
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());

    let mut gif = encoded(ImageFormat::Gif);
    gif[6..10].copy_from_slice(&[0x30, 0x75, 0x30, 0x75]);

    let mut bmp = encoded(ImageFormat::Bmp);
    bmp[18..22].copy_from_slice(&side.to_le_bytes());
    bmp[22..26].copy_from_slice(&side.to_le_bytes());

    let lossless = {
        let mut webp = encoded(ImageFormat::WebP);
        // VP8L: 14 bits of width − 1 and of height − 1 behind the signature byte.
        let at = webp.windows(4).position(|four| four == b"VP8L").unwrap() + 9;
        webp[at..at + 4].copy_from_slice(&0x0fff_bffe_u32.to_le_bytes());
        webp
    };

    let mut jpeg = jpeg(&picture(64, 64, 0), 90);
    let at = jpeg.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    jpeg[at + 5..at + 9].copy_from_slice(&[0x75, 0x30, 0x75, 0x30]);

    vec![
        ("PNG", png),
        ("GIF", gif),
        ("BMP", bmp),
        ("lossless WebP", lossless),
        ("JPEG", jpeg),
        ("TIFF", tiff_bomb(side)),
        ("progressive JPEG", scan_bomb()),
    ]
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let image = DynamicImage::ImageRgb8(picture(8, 8, 0));
    let image = if format == ImageFormat::Gif {
        image.to_rgba8().into()
    } else {
        image
    };
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A little-endian TIFF of one strip that claims to be `side` x `side` RGB.
fn tiff_bomb(side: u32) -> Vec<u8> {
    let entries: [(u16, u16, u32, u32); 9] = [
        (256, 4, 1, side),
        (257, 4, 1, side),
        (258, 3, 1, 8),
        (259, 3, 1, 5),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (277, 3, 1, 1),
        (278, 4, 1, side),
        (279, 4, 1, 64),
    ];
    let mut bytes = b"II*\0\x48\0\0\0".to_vec();
    bytes.extend([0x80; 64]);
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes
}

/// A progressive JPEG whose last scan is repeated thousands of times.
fn scan_bomb() -> Vec<u8> {
    let source = picture(300, 300, 0);
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_progressive(true).unwrap();
    let bytes = compressor.compress_to_vec(raw_image(&source)).unwrap();
    let last = bytes
        .windows(2)
        .rposition(|two| two == [0xff, 0xda])
        .unwrap();
    let (head, scan) = (&bytes[..last], &bytes[last..bytes.len() - 2]);
    let mut bomb = head.to_vec();
    while bomb.len() < 900_000 {
        bomb.extend(&scan[..scan.len().min(40)]);
    }
    bomb.extend(b"\xff\xd9");
    bomb
}

/// PNG's checksum, bit by bit (PNG specification, annex D).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 {
                0xedb8_8320 ^ (crc >> 1)
            } else {
                crc >> 1
            }
        })
    })
}

#[test]
fn a_large_picture_stays_within_the_memory_limit() {
    let limits = Limits {
        max_pixels: 4_000_000,
        ..Limits::default()
    };
    let rgba16 = image::ImageBuffer::<image::Rgba<u16>, Vec<u16>>::from_fn(2000, 2000, |x, y| {
        image::Rgba([x as u16 * 30, y as u16 * 30, 5000, 60_000])
    });
    let mut all = Vec::new();
    for format in [ImageFormat::Png, ImageFormat::Tiff] {
        let mut bytes = Cursor::new(Vec::new());
        DynamicImage::ImageRgba16(rgba16.clone())
            .write_to(&mut bytes, format)
            .unwrap();
        all.push(bytes.into_inner());
    }
    let rgba8 = DynamicImage::ImageRgba16(rgba16).into_rgba8();
    for format in [ImageFormat::WebP, ImageFormat::Gif] {
        let mut bytes = Cursor::new(Vec::new());
        DynamicImage::ImageRgba8(rgba8.clone())
            .write_to(&mut bytes, format)
            .unwrap();
        all.push(bytes.into_inner());
    }
    for bytes in all {
        let (result, peak) = measured(&bytes, &limits);
        let format = &bytes[..4];
        println!("{format:?}: {peak} of {} bytes", limits.max_memory_bytes());
        assert!(peak <= limits.max_memory_bytes(), "{format:?}: {peak}");
        assert_eq!(result.unwrap().width(), 2000);
    }
}
