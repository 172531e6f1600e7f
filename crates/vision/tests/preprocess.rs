//! Preprocessing equals Pillow and NumPy on pictures without symmetry.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod common;

use lookbook_vision::{BoundingBox, Limits, Preprocessor, decode};
use serde_json::Value;

use common::{document, embedder_output, manifest, read};

/// One grey level: two fixed-point roundings may fall on different sides.
const MOST_LEVELS: f64 = 1.01;
/// Far below a level on average: no shift, no other filter, no swapped axis would pass.
const MEAN_LEVELS: f64 = 0.03;

fn golden_cases() -> Vec<(String, Value)> {
    let cases: Value = serde_json::from_slice(&read("golden/cases.json")).unwrap();
    cases
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, case)| (name.clone(), case.clone()))
        .collect()
}

fn preprocessor(input: &Value) -> Preprocessor {
    let mut document = document(
        "golden",
        "embedder",
        b"",
        embedder_output("x", 4, "none", false),
    );
    document["input"] = input.clone();
    Preprocessor::new(&manifest(&document))
}

fn numbers(bytes: &[u8], dtype: &str) -> Vec<f32> {
    match dtype {
        "u8" => bytes.iter().map(|&byte| byte.into()).collect(),
        "f16" => bytes
            .chunks_exact(2)
            .map(|two| half::f16::from_le_bytes([two[0], two[1]]).to_f32())
            .collect(),
        _ => bytes
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
            .collect(),
    }
}

#[test]
fn tensors_equal_pillow_and_numpy() {
    let photo = decode(&read("golden/source.png"), &Limits::default(), None).unwrap();
    for (name, case) in golden_cases() {
        let input = &case["input"];
        let dtype = input["dtype"].as_str().unwrap();
        let view = match case["box"].as_array() {
            None => photo.whole(),
            Some(edges) => {
                let edge = |at: usize| edges[at].as_f64().unwrap() as f32;
                photo.crop(BoundingBox {
                    x1: edge(0),
                    y1: edge(1),
                    x2: edge(2),
                    y2: edge(3),
                })
            }
        };
        let found = preprocessor(input).prepare(&view).to_f32();
        let expected = numbers(&read(&format!("golden/{name}.bin")), dtype);
        assert_eq!(found.len(), expected.len(), "{name}");

        // One level of the pixel, in units of the tensor; the smallest std is the strictest.
        let scale = input["scale"].as_f64().unwrap_or(1.0 / 255.0);
        let std = input["std"].as_array().map_or(1.0, |all| {
            all.iter()
                .map(|std| std.as_f64().unwrap())
                .fold(f64::INFINITY, f64::min)
        });
        let level = if dtype == "u8" { 1.0 } else { scale / std };
        // Values of up to 130 in half precision are 1/16 apart.
        let rounding = if dtype == "f16" { 0.07 } else { 0.0 };
        let errors: Vec<f64> = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| f64::from((a - b).abs()) / level)
            .collect();
        let most = errors.iter().copied().fold(0.0, f64::max);
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        println!("{name}: most {most:.3} levels, mean {mean:.4} levels");
        assert!(most <= MOST_LEVELS + rounding, "{name}: {most} levels");
        assert!(mean <= MEAN_LEVELS, "{name}: mean {mean} levels");
    }
}

#[test]
fn a_view_is_prepared_as_if_it_were_cut_out_first() {
    let photo = common::photo(120, 90, 3);
    let bbox = BoundingBox {
        x1: 13.0,
        y1: 22.0,
        x2: 77.0,
        y2: 81.0,
    };
    let cut = image::imageops::crop_imm(photo.pixels(), 13, 22, 64, 59).to_image();
    let cut = lookbook_vision::Photo::from_pixels(cut);
    for (_, case) in golden_cases() {
        let preprocessor = preprocessor(&case["input"]);
        let of_view = preprocessor.prepare(&photo.crop(bbox)).to_f32();
        assert_eq!(of_view, preprocessor.prepare(&cut.whole()).to_f32());
    }
}

#[test]
fn a_view_of_a_reduced_photo_shows_the_same_place() {
    let full = common::photo(1200, 800, 1);
    let jpeg = common::jpeg(full.pixels(), 95);
    let reduced = decode(&jpeg, &Limits::default(), Some(280)).unwrap();
    assert_eq!((reduced.width(), reduced.height()), (1200, 800));
    assert_eq!(reduced.pixels().dimensions(), (300, 200));
    let bbox = BoundingBox {
        x1: 301.0,
        y1: 203.0,
        x2: 902.0,
        y2: 650.0,
    };
    let whole = decode(&jpeg, &Limits::default(), None).unwrap();
    for (name, case) in golden_cases() {
        if case["input"]["filter"] == "nearest" || case["input"]["dtype"] != "f32" {
            continue;
        }
        let preprocessor = preprocessor(&case["input"]);
        let a = preprocessor.prepare(&whole.crop(bbox));
        let b = preprocessor.prepare(&reduced.crop(bbox));
        assert_eq!(a.geometry(), b.geometry(), "{name}");
        let std = if case["input"]["std"].is_null() {
            1.0
        } else {
            0.225
        };
        let (a, b) = (a.to_f32(), b.to_f32());
        let mean = a
            .iter()
            .zip(&b)
            .map(|(a, b)| f64::from((a - b).abs()))
            .sum::<f64>()
            / a.len() as f64
            * 255.0
            * std;
        println!("{name}: mean difference {mean:.2} levels");
        assert!(mean < 4.0, "{name}: {mean} levels");
    }
}

#[test]
fn extreme_shapes_cost_no_more_than_the_input() {
    let wide = common::photo(30_000, 1, 0);
    let tall = common::photo(1, 30_000, 0);
    for (name, case) in golden_cases() {
        let preprocessor = preprocessor(&case["input"]);
        let expected = case["input"]["width"].as_u64().unwrap()
            * case["input"]["height"].as_u64().unwrap()
            * 3;
        for photo in [&wide, &tall, &common::photo(1, 1, 0)] {
            let tensor = preprocessor.prepare(&photo.whole());
            assert_eq!(tensor.to_f32().len() as u64, expected, "{name}");
        }
    }
}
