//! Every format and form is read as it looks, upright, over white.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod common;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use lookbook_vision::{BoundingBox, ErrorCode, Limits, Photo, decode};

use common::{jpeg, picture, read};

fn open(bytes: &[u8]) -> Photo {
    decode(bytes, &Limits::default(), None).unwrap()
}

fn plain() -> RgbImage {
    image::load_from_memory(&read("images/plain.png"))
        .unwrap()
        .into_rgb8()
}

/// Mean and largest difference in levels.
fn difference(a: &RgbImage, b: &RgbImage) -> (f64, u8) {
    assert_eq!(a.dimensions(), b.dimensions());
    let all = a
        .as_raw()
        .iter()
        .zip(b.as_raw())
        .map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = all.clone().map(u64::from).sum();
    (sum as f64 / a.as_raw().len() as f64, all.max().unwrap())
}

fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

#[test]
fn lossless_forms_are_exact() {
    for name in ["plain.png", "plain.bmp", "moving.webp"] {
        assert_eq!(
            open(&read(&format!("images/{name}"))).pixels(),
            &plain(),
            "{name}"
        );
    }
    let image = DynamicImage::ImageRgb8(picture(41, 29, 2));
    for format in [
        ImageFormat::Png,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
        ImageFormat::WebP,
    ] {
        let photo = open(&encode(&image, format));
        assert_eq!(photo.pixels(), image.as_rgb8().unwrap(), "{format:?}");
    }
}

#[test]
fn lossy_forms_are_close() {
    for (name, mean) in [
        ("baseline.jpg", 2.0),
        ("progressive.jpg", 6.0),
        ("restart.jpg", 6.0),
        ("cmyk.jpg", 2.5),
        ("lossy.webp", 6.0),
        ("jpeg.tif", 6.0),
        // An adaptive palette keeps 256 of 851 colours.
        ("moving.gif", 6.0),
    ] {
        let found = difference(open(&read(&format!("images/{name}"))).pixels(), &plain());
        println!("{name}: {found:?}");
        assert!(found.0 < mean, "{name}: mean difference {} levels", found.0);
    }
}

#[test]
fn gray_and_sixteen_bits_become_rgb8() {
    // ITU-R BT.601 luma as Pillow rounds it.
    let spread = RgbImage::from_fn(37, 23, |x, y| {
        let [r, g, b] = plain().get_pixel(x, y).0.map(u32::from);
        Rgb([((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8; 3])
    });
    assert!(difference(open(&read("images/gray.jpg")).pixels(), &spread).0 < 3.0);
    assert!(difference(open(&read("images/gray16.png")).pixels(), &spread).1 <= 1);

    let sixteen = DynamicImage::ImageRgb8(plain()).into_rgb16();
    for format in [ImageFormat::Png, ImageFormat::Tiff] {
        let bytes = encode(&DynamicImage::ImageRgb16(sixteen.clone()), format);
        assert_eq!(open(&bytes).pixels(), &plain(), "{format:?}");
    }
    let floats = DynamicImage::ImageRgb8(plain()).into_rgb32f();
    let bytes = encode(&DynamicImage::ImageRgb32F(floats), ImageFormat::Tiff);
    assert!(difference(open(&bytes).pixels(), &plain()).1 <= 1);
    let bilevel = open(&read("images/bilevel.tif"));
    assert!(
        bilevel
            .pixels()
            .pixels()
            .all(|p| p.0 == [0; 3] || p.0 == [255; 3])
    );
}

#[test]
fn alpha_lies_over_white() {
    let expected = RgbImage::from_fn(37, 23, |x, y| {
        let alpha = f64::from(x * 255 / 36);
        Rgb(plain().get_pixel(x, y).0.map(|colour| {
            ((f64::from(colour) * alpha + 255.0 * (255.0 - alpha)) / 255.0).round() as u8
        }))
    });
    for name in ["alpha.png", "alpha.webp"] {
        let found = difference(open(&read(&format!("images/{name}"))).pixels(), &expected);
        assert!(found.1 <= 1, "{name}: {found:?}");
    }
    let palette = open(&read("images/palette.png"));
    let found = difference(
        palette.pixels(),
        open(&read("images/palette_as_rgba.png")).pixels(),
    );
    assert_eq!(found.1, 0);
    let clear = RgbaImage::from_pixel(3, 2, Rgba([9, 9, 9, 0]));
    let clear = encode(&DynamicImage::ImageRgba8(clear), ImageFormat::Png);
    assert!(
        open(&clear)
            .pixels()
            .pixels()
            .all(|pixel| pixel.0 == [255; 3])
    );
}

#[test]
fn ink_of_adobe_and_of_others_gives_the_same_colours() {
    // Light as Adobe stores it; libjpeg writes the Adobe marker for four components.
    let source = picture(64, 48, 4);
    let light: Vec<u8> = source
        .pixels()
        .flat_map(|p| [p[0], p[1], p[2], 255])
        .collect();
    let ink: Vec<u8> = light.iter().map(|sample| 255 - sample).collect();
    for colorspace in [turbojpeg::Colorspace::CMYK, turbojpeg::Colorspace::YCCK] {
        let compress = |samples: &[u8]| {
            let mut compressor = turbojpeg::Compressor::new().unwrap();
            compressor.set_quality(97).unwrap();
            compressor.set_subsamp(turbojpeg::Subsamp::None).unwrap();
            compressor.set_colorspace(colorspace).unwrap();
            let image = turbojpeg::Image {
                pixels: samples,
                width: 64,
                pitch: 256,
                height: 48,
                format: turbojpeg::PixelFormat::CMYK,
            };
            compressor.compress_to_vec(image).unwrap()
        };
        let found = difference(open(&compress(&light)).pixels(), &source);
        assert!(found.0 < 2.5, "{colorspace:?}: {found:?}");
        if colorspace == turbojpeg::Colorspace::CMYK {
            let plain_ink = without_segment(&compress(&ink), 0xee);
            let found = difference(open(&plain_ink).pixels(), &source);
            assert!(found.0 < 2.5, "without Adobe's marker: {found:?}");
        }
    }
}

/// A JPEG file without its first segment of this marker.
fn without_segment(jpeg: &[u8], marker: u8) -> Vec<u8> {
    let at = jpeg
        .windows(2)
        .position(|two| two == [0xff, marker])
        .unwrap();
    let length = usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
    [&jpeg[..at], &jpeg[at + 2 + length..]].concat()
}

/// A JPEG file with an EXIF block that states this orientation.
fn with_orientation(jpeg: &[u8], orientation: u8, big_endian: bool) -> Vec<u8> {
    let mut exif = b"Exif\0\0".to_vec();
    if big_endian {
        exif.extend(b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0");
        exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    } else {
        exif.extend(b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0");
        exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    }
    let length = (exif.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, &exif, &jpeg[2..]].concat()
}

#[test]
fn all_eight_orientations_end_upright() {
    // EXIF 2.32, tag 274: where row 0 and column 0 of the stored picture lie.
    let shown = |source: &RgbImage, orientation: u8, x: u32, y: u32| {
        let (w, h) = source.dimensions();
        let (from_x, from_y) = match orientation {
            1 => (x, y),
            2 => (w - 1 - x, y),
            3 => (w - 1 - x, h - 1 - y),
            4 => (x, h - 1 - y),
            5 => (y, x),
            6 => (y, h - 1 - x),
            7 => (w - 1 - y, h - 1 - x),
            _ => (w - 1 - y, x),
        };
        *source.get_pixel(from_x, from_y)
    };
    let stored = picture(400, 240, 7);
    let bytes = jpeg(&stored, 98);
    let as_stored = open(&bytes).pixels().clone();
    for orientation in 1..=8 {
        let size = if orientation < 5 {
            (400, 240)
        } else {
            (240, 400)
        };
        for big_endian in [false, true] {
            let turned = with_orientation(&bytes, orientation, big_endian);
            let photo = open(&turned);
            assert_eq!((photo.width(), photo.height()), size, "{orientation}");
            let expected =
                RgbImage::from_fn(size.0, size.1, |x, y| shown(&as_stored, orientation, x, y));
            assert_eq!(photo.pixels(), &expected, "{orientation}");
            let half = decode(&turned, &Limits::default(), Some(200)).unwrap();
            assert_eq!((half.width(), half.height()), size, "{orientation}");
            assert_eq!(
                half.pixels().dimensions(),
                (size.0 / 2, size.1 / 2),
                "{orientation}"
            );
        }
    }
    let senseless = with_orientation(&bytes, 9, false);
    assert_eq!(open(&senseless).pixels(), &as_stored);
}

#[test]
fn orientation_counts_in_every_container() {
    let upright = image::imageops::rotate90(&plain());
    for name in ["turned.png", "turned.webp", "turned.tif", "turned.jpg"] {
        let photo = open(&read(&format!("images/{name}")));
        let found = difference(photo.pixels(), &upright);
        assert!(found.0 < 2.0, "{name}: {found:?}");
    }
}

#[test]
fn scaled_decoding_keeps_what_is_asked_for_and_full_size_boxes() {
    // Smooth, so that any antialiased reduction looks the same.
    let source = RgbImage::from_fn(1601, 1067, |x, y| {
        let wave = 120.0 + 100.0 * (f64::from(x) / 90.0 + f64::from(y) / 60.0).sin();
        Rgb([(x * 255 / 1601) as u8, (y * 255 / 1067) as u8, wave as u8])
    });
    let bytes = jpeg(&source, 92);
    for (at_least, side) in [
        (None, 1601),
        (Some(1601), 1601),
        (Some(802), 1601),
        (Some(801), 801),
        (Some(401), 401),
    ]
    .into_iter()
    .chain([
        (Some(300), 401),
        (Some(201), 201),
        (Some(1), 201),
        (Some(9000), 1601),
    ]) {
        let photo = decode(&bytes, &Limits::default(), at_least).unwrap();
        assert_eq!(
            (photo.width(), photo.height()),
            (1601, 1067),
            "{at_least:?}"
        );
        assert_eq!(photo.pixels().width(), side, "{at_least:?}");
        let all = BoundingBox {
            x1: -5.0,
            y1: -5.0,
            x2: 5000.0,
            y2: 5000.0,
        };
        assert_eq!(photo.crop(all).bounds(), photo.bounds());
        let size = photo.pixels().dimensions();
        let expected = image::imageops::thumbnail(&source, size.0, size.1);
        let found = difference(photo.pixels(), &expected);
        assert!(found.0 < 3.0, "{at_least:?}: {found:?}");
    }
}

#[test]
fn decoding_is_deterministic() {
    for name in [
        "progressive.jpg",
        "cmyk.jpg",
        "lossy.webp",
        "moving.gif",
        "alpha.png",
    ] {
        let bytes = read(&format!("images/{name}"));
        assert_eq!(open(&bytes), open(&bytes), "{name}");
    }
}

#[test]
fn tiny_and_very_wide_pictures_are_pictures() {
    for (width, height) in [(1, 1), (30_000, 3), (2, 30_000)] {
        let image = DynamicImage::ImageRgb8(picture(width, height, 0));
        let mut all: Vec<Vec<u8>> = [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff]
            .iter()
            .map(|format| encode(&image, *format))
            .collect();
        all.push(jpeg(image.as_rgb8().unwrap(), 90));
        if width.max(height) <= 16_383 {
            all.push(encode(&image, ImageFormat::WebP));
        }
        all.push(encode(
            &DynamicImage::ImageRgba8(image.to_rgba8()),
            ImageFormat::Gif,
        ));
        for bytes in all {
            let photo = open(&bytes);
            assert_eq!((photo.width(), photo.height()), (width, height));
            let reduced = decode(&bytes, &Limits::default(), Some(64)).unwrap();
            assert_eq!((reduced.width(), reduced.height()), (width, height));
        }
    }
}

#[test]
fn what_is_no_image_is_named() {
    let code = |bytes: &[u8]| decode(bytes, &Limits::default(), None).unwrap_err().code();
    assert_eq!(code(b""), ErrorCode::ImageEmpty);
    assert_eq!(code(b"x"), ErrorCode::NotAnImage);
    assert_eq!(
        code(b"BMW is a maker of cars, not a bitmap"),
        ErrorCode::NotAnImage
    );
    assert_eq!(code(b"%PDF-1.7 and so on and on"), ErrorCode::NotAnImage);
    assert_eq!(
        code(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ErrorCode::NotAnImage
    );
    assert_eq!(
        code(b"\0\0\0\x20ftypavif\0\0\0\0"),
        ErrorCode::ImageUnsupported
    );
    assert_eq!(
        code(b"\0\0\0\x20ftypheic\0\0\0\0"),
        ErrorCode::ImageUnsupported
    );
    assert_eq!(code(&[0; 64]), ErrorCode::NotAnImage);
    assert_eq!(code(b"\xff\xd8"), ErrorCode::ImageTruncated);
    assert_eq!(code(b"\x89PNG"), ErrorCode::ImageTruncated);
    let error = decode(b"hello, world", &Limits::default(), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "not an image: the data starts with the text \"hello, world\"; expected JPEG, PNG, WebP, GIF, \
         BMP or TIFF"
    );
}

#[test]
fn harmless_padding_before_the_end_is_accepted() {
    let bytes = jpeg(&picture(64, 64, 1), 90);
    let body = &bytes[..bytes.len() - 2];
    let padded = [
        body,
        &[0; 7],
        b"\xff\xd9",
        b"trailing bytes of a careless tool",
    ]
    .concat();
    assert_eq!(open(&padded).pixels(), open(&bytes).pixels());
}
