//! What the suites share: where files are, and manifests for the tiny models.

#![allow(dead_code, reason = "each suite uses its own part")]

use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use lookbook_vision::{
    Detector, Device, Embedder, Error, Manifest, Photo, Runtime, SessionOptions, sha256_hex,
};
use serde_json::{Value, json};

pub fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

pub fn read(path: &str) -> Vec<u8> {
    let path = tests_dir().join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn onnx(name: &str) -> Vec<u8> {
    read(&format!("models/{name}.onnx"))
}

/// The library that `scripts/setup` installed, or the one `LOOKBOOK_ONNXRUNTIME` names.
pub fn library() -> PathBuf {
    let path = match std::env::var_os("LOOKBOOK_ONNXRUNTIME") {
        Some(path) => PathBuf::from(path),
        None => tests_dir().join("../../../.lookbook/onnxruntime/libonnxruntime.so"),
    };
    path.canonicalize().unwrap_or_else(|error| {
        panic!(
            "these tests need ONNX Runtime at {} ({error}); run scripts/setup or set \
             LOOKBOOK_ONNXRUNTIME to a libonnxruntime.so",
            path.display()
        )
    })
}

pub fn runtime() -> Runtime {
    Runtime::load(&library()).unwrap()
}

/// A manifest document for a model of the tests: 32 x 40 pixels in, whatever `output` says out.
pub fn document(name: &str, kind: &str, onnx: &[u8], output: Value) -> Value {
    json!({
        "format": 1, "name": name.replace('_', "-"), "version": "1", "kind": kind,
        "description": "a model of the tests", "licence": "Apache-2.0", "source": "tests/models/make.py",
        "sha256": sha256_hex(onnx),
        "input": {
            "name": "image", "width": 32, "height": 40, "layout": "nchw", "dtype": "f32", "colour": "rgb",
            "resize": "stretch", "filter": "bilinear"
        },
        "output": output,
    })
}

pub fn manifest(document: &Value) -> Manifest {
    Manifest::from_json(&document.to_string()).unwrap()
}

pub fn embedder_output(name: &str, dimensions: usize, pool: &str, normalize: bool) -> Value {
    json!({"name": name, "dimensions": dimensions, "pool": pool, "normalize": normalize})
}

pub fn detector_output(family: &str, names: Value) -> Value {
    json!({
        "family": family, "names": names,
        "labels": [
            {"name": "shirt", "group": "upper"}, {"name": "trousers", "group": "lower"},
            {"name": "background", "group": null}
        ],
        "score_threshold": 0.3, "iou_threshold": 0.5, "max_detections": 20
    })
}

/// A photo without symmetry; `seed` varies it.
pub fn photo(width: u32, height: u32, seed: u32) -> Photo {
    Photo::from_pixels(picture(width, height, seed))
}

pub fn picture(width: u32, height: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let wave = ((x + seed * 17) * 7 % 97 + y * 3) % 256;
        Rgb([
            (x * 255 / width) as u8,
            (y * 255 / height) as u8,
            wave as u8,
        ])
    })
}

pub fn white(width: u32, height: u32) -> Photo {
    Photo::from_pixels(RgbImage::from_pixel(width, height, Rgb([255; 3])))
}

/// Encodes with libjpeg-turbo, 4:4:4.
pub fn jpeg(pixels: &RgbImage, quality: i32) -> Vec<u8> {
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_quality(quality).unwrap();
    compressor.set_subsamp(turbojpeg::Subsamp::None).unwrap();
    compressor.compress_to_vec(raw_image(pixels)).unwrap()
}

pub fn raw_image(pixels: &RgbImage) -> turbojpeg::Image<&[u8]> {
    turbojpeg::Image {
        pixels: pixels.as_raw().as_slice(),
        width: pixels.width() as usize,
        pitch: pixels.width() as usize * 3,
        height: pixels.height() as usize,
        format: turbojpeg::PixelFormat::RGB,
    }
}

pub const OPTIONS: SessionOptions = SessionOptions {
    device: Device::Cpu,
    threads: 2,
    batch: 0,
};

pub fn embedder_document(file: &str) -> Value {
    let output = match file {
        "embed_map" => embedder_output("map", 6, "mean", true),
        "embed_bytes" | "embed_half" => embedder_output("embedding", 3, "none", false),
        "slow" => embedder_output("out", 48, "none", false),
        _ => embedder_output("embedding", 6, "none", true),
    };
    let mut document = document(file, "embedder", &onnx(file), output);
    match file {
        "embed_bytes" => {
            document["input"]["dtype"] = json!("u8");
            document["input"]["layout"] = json!("nhwc");
        }
        "embed_half" => document["input"]["dtype"] = json!("f16"),
        _ => {}
    }
    document
}

pub fn embedder(file: &str) -> Embedder {
    open_embedder(&embedder_document(file), file).unwrap()
}

pub fn open_embedder(document: &Value, file: &str) -> Result<Embedder, Error> {
    Embedder::open(&runtime(), manifest(document), &onnx(file), &OPTIONS)
}

pub fn detector_document(family: &str) -> Value {
    let names = match family {
        "detr" => json!({"boxes": "boxes", "logits": "logits"}),
        "torchvision" => json!({"boxes": "boxes", "labels": "labels", "scores": "scores"}),
        _ => json!({"boxes": "out"}),
    };
    document(
        family,
        "detector",
        &onnx(family),
        detector_output(family, names),
    )
}

pub fn detector(family: &str) -> Detector {
    open_detector(&detector_document(family), family).unwrap()
}

pub fn open_detector(document: &Value, file: &str) -> Result<Detector, Error> {
    Detector::open(&runtime(), manifest(document), &onnx(file), &OPTIONS)
}

/// Photos of various shapes.
pub fn photos() -> Vec<Photo> {
    (0..7)
        .map(|seed| photo(40 + seed * 13, 90 - seed * 7, seed))
        .collect()
}

pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}
