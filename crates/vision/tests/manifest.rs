//! A manifest that is accepted is valid, and a refusal names key, value and what is allowed.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod common;

use lookbook_vision::{Error, ErrorCode, Kind, Manifest, Output};
use serde_json::{Value, json};

use common::{detector_output, document, embedder_output};

fn embedder() -> Value {
    document(
        "a",
        "embedder",
        b"onnx",
        embedder_output("embedding", 256, "none", true),
    )
}

fn detector() -> Value {
    document(
        "b",
        "detector",
        b"onnx",
        detector_output("yolo_v8", json!({"boxes": "out"})),
    )
}

fn movenet() -> Value {
    document(
        "c",
        "pose",
        b"onnx",
        json!({"family": "movenet", "name": "points"}),
    )
}

fn heatmaps() -> Value {
    let names = json!({"heatmaps": "heat", "offsets": "offsets"});
    document(
        "d",
        "pose",
        b"onnx",
        json!({"family": "heatmaps", "names": names, "stride": 8, "activation": "sigmoid"}),
    )
}

fn parse(document: &Value) -> Result<Manifest, Error> {
    Manifest::from_json(&document.to_string())
}

/// Sets the value at a JSON pointer, or removes it when `value` is the text "absent".
fn with(mut document: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).unwrap();
    match (parent, value) {
        (Value::Object(map), Value::String(text)) if text == "absent" => {
            map.remove(key);
        }
        (Value::Object(map), value) => {
            map.insert(key.to_owned(), value);
        }
        (parent, value) => parent[key.parse::<usize>().unwrap()] = value,
    }
    document
}

#[test]
fn documents_survive_a_round_trip() {
    let full = with(embedder(), "/input/mean", json!([0.485, 0.456, 0.406]));
    let full = with(full, "/input/std", json!([0.229, 0.224, 0.225]));
    let full = with(full, "/input/pad", json!([114, 114, 114]));
    let full = with(full, "/input/scale", json!(0.003_921_568_627_450_98));
    let crop = with(embedder(), "/input/resize", json!("crop"));
    let crop = with(crop, "/input/crop_share", json!(0.875));
    for document in [embedder(), detector(), full, crop, movenet(), heatmaps()] {
        let manifest = parse(&document).unwrap();
        let again: Value = serde_json::from_str(&manifest.to_json()).unwrap();
        assert_eq!(again, document);
        assert_eq!(Manifest::from_json(&manifest.to_json()).unwrap(), manifest);
    }
    let manifest = parse(&detector()).unwrap();
    assert_eq!((manifest.kind(), manifest.name()), (Kind::Detector, "b"));
    let Output::Detector(output) = manifest.output() else {
        panic!("a detector")
    };
    assert!((output.score_threshold - 0.3).abs() < f64::EPSILON);
}

#[test]
fn what_is_out_of_range_is_named() {
    let embedders = [
        ("/format", json!(2), "format", "expected 1"),
        ("/name", json!("Garment Embedder"), "name", "a-z"),
        ("/name", json!(""), "name", "1 to 63"),
        ("/version", json!(""), "version", "1 to 2000"),
        ("/kind", json!("oracle"), "kind", "embedder"),
        ("/kind", json!("pose"), "output", "family"),
        ("/sha256", json!("ABC"), "sha256", "64 lower-case hex"),
        ("/licence", json!("absent"), "licence", "missing"),
        ("/surprise", json!(1), "surprise", "unknown field"),
        (
            "/input/surprise",
            json!(1),
            "input.surprise",
            "unknown field",
        ),
        (
            "/output/surprise",
            json!(1),
            "output.surprise",
            "unknown field",
        ),
        ("/input/width", json!(0), "input.width", "1 to 4096"),
        ("/input/width", json!(5000), "input.width", "found 5000"),
        (
            "/input/height",
            json!("wide"),
            "input.height",
            "invalid type",
        ),
        ("/input/height", json!(-3), "input.height", "-3"),
        ("/input/layout", json!("chwn"), "input.layout", "nchw"),
        ("/input/filter", json!("fast"), "input.filter", "bicubic"),
        ("/input/pad", json!([0, 0, 256]), "input.pad[2]", "256"),
        (
            "/input/pad",
            json!([0, 0]),
            "input.pad",
            "found 2 numbers; expected three, one for each of R, G and B",
        ),
        (
            "/input/mean",
            json!([0, 0, 0, 0]),
            "input.mean",
            "found 4 numbers; expected three",
        ),
        ("/input/std", json!([]), "input.std", "found 0 numbers"),
        ("/input", json!(5), "input", "expected an object"),
        ("/output", json!([]), "output", "expected an object"),
        ("/input/scale", json!(0), "input.scale", "above 0"),
        ("/input/std", json!([1, 0, 1]), "input.std[1]", "above 0"),
        (
            "/output/dimensions",
            json!(16_001),
            "output.dimensions",
            "1 to 16000",
        ),
        (
            "/output/dimensions",
            json!(0),
            "output.dimensions",
            "found 0",
        ),
        ("/output/pool", json!("sum"), "output.pool", "mean"),
        ("/output/normalize", json!("absent"), "output", "normalize"),
    ];
    let detectors = [
        ("/output/family", json!("ssd"), "output.family", "yolo_v8"),
        (
            "/output/names/logits",
            json!("x"),
            "output.names.logits",
            "must be absent",
        ),
        (
            "/output/family",
            json!("detr"),
            "output.names.logits",
            "missing",
        ),
        (
            "/output/family",
            json!("torchvision"),
            "output.names.labels",
            "missing",
        ),
        ("/output/labels", json!([]), "output.labels", "found 0"),
        (
            "/output/labels/0/group",
            json!("hats"),
            "output.labels[0].group",
            "footwear",
        ),
        (
            "/output/labels/1/name",
            json!("shirt"),
            "output.labels[1].name",
            "twice",
        ),
        (
            "/output/score_threshold",
            json!(1.5),
            "output.score_threshold",
            "0 to 1",
        ),
        (
            "/output/iou_threshold",
            json!(-0.1),
            "output.iou_threshold",
            "0 to 1",
        ),
        (
            "/output/max_detections",
            json!(0),
            "output.max_detections",
            "1 to 1000",
        ),
    ];
    let poses = [
        ("/output/family", json!("openpose"), "output", "movenet"),
        ("/output/stride", json!(0), "output.stride", "1 to 4096"),
        ("/output/stride", json!("absent"), "output", "stride"),
        ("/output/keypoints", json!(17), "output", "unknown field"),
        ("/output/activation", json!("relu"), "output", "sigmoid"),
        (
            "/output/names/heatmaps",
            json!(""),
            "output.names.heatmaps",
            "1 to 255",
        ),
    ];
    let cases = embedders
        .into_iter()
        .map(|case| (embedder(), case))
        .chain(detectors.into_iter().map(|case| (detector(), case)))
        .chain(poses.into_iter().map(|case| (heatmaps(), case)));
    for (document, (pointer, value, key, part)) in cases {
        let error = parse(&with(document, pointer, value.clone())).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ManifestInvalid);
        let Error::ManifestInvalid { key: found, reason } = &error else {
            panic!("{error}")
        };
        assert!(
            found.contains(key) || found == "document",
            "{pointer} {value}: {error}"
        );
        assert!(
            error.to_string().contains(part),
            "{pointer} {value}: {error}"
        );
        assert!(!reason.is_empty());
    }
}

#[test]
fn a_crop_keeps_half_to_all_of_what_it_covers() {
    let crop = with(embedder(), "/input/resize", json!("crop"));
    for share in [0.5, 0.875, 1.0] {
        parse(&with(crop.clone(), "/input/crop_share", json!(share))).unwrap();
    }
    let refused = |document: &Value, share: f64| {
        let document = with(document.clone(), "/input/crop_share", json!(share));
        parse(&document).unwrap_err().to_string()
    };
    for share in [0.49, 1.01, 87.5] {
        let error = refused(&crop, share);
        assert!(error.contains("input.crop_share"), "{error}");
        assert!(error.contains("expected 0.5 to 1"), "{error}");
    }
    let error = refused(&embedder(), 0.875);
    assert!(error.contains("unless resize is crop"), "{error}");
}

#[test]
fn only_labels_with_a_group_have_names_of_their_own() {
    let labels = |group: Value| {
        let labels = json!([{"name": "shirt", "group": "upper"}, {"name": "N/A", "group": null}, {"name": "N/A", "group": group}]);
        parse(&with(detector(), "/output/labels", labels))
    };
    labels(json!(null)).unwrap();
    labels(json!("lower")).unwrap();
    let twice = json!([{"name": "shirt", "group": "upper"}, {"name": "shirt", "group": "lower"}]);
    let error = parse(&with(detector(), "/output/labels", twice)).unwrap_err();
    assert!(error.to_string().contains("occurs twice"), "{error}");
}

#[test]
fn bytes_take_no_normalising() {
    for dtype in ["u8", "i32"] {
        let bytes = with(embedder(), "/input/dtype", json!(dtype));
        parse(&bytes).unwrap();
        for (key, value) in [
            ("scale", json!(1.0)),
            ("mean", json!([0, 0, 0])),
            ("std", json!([1, 1, 1])),
        ] {
            let error = parse(&with(bytes.clone(), &format!("/input/{key}"), value)).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains(&format!("input.{key}: must be absent")),
                "{error}"
            );
        }
    }
}

#[test]
fn text_that_is_no_manifest_is_refused() {
    for (text, part) in [
        ("", "not valid JSON"),
        ("null", "expected a JSON object"),
        ("[]", "expected a JSON object"),
        ("{", "not valid JSON"),
        ("{}", "missing field"),
        ("not json", "not valid JSON"),
        ("\u{0}", "not valid JSON"),
        ("{\"format\": 1e99}", "format"),
    ] {
        let error = Manifest::from_json(text).unwrap_err();
        assert_eq!(
            error.code(),
            ErrorCode::ManifestInvalid,
            "{text:?}: {error}"
        );
        assert!(error.to_string().contains(part), "{text:?}: {error}");
    }
    let trailing = format!("{} x", embedder());
    assert_eq!(
        Manifest::from_json(&trailing).unwrap_err().code(),
        ErrorCode::ManifestInvalid
    );
    let deep = "[".repeat(100_000);
    assert_eq!(
        Manifest::from_json(&deep).unwrap_err().code(),
        ErrorCode::ManifestInvalid
    );
}

#[test]
fn another_file_has_another_digest() {
    let manifest = parse(&embedder()).unwrap();
    manifest.check_digest(b"onnx").unwrap();
    let error = manifest.check_digest(b"other").unwrap_err();
    assert_eq!(error.code(), ErrorCode::ModelDigestMismatch);
    assert!(error.to_string().contains(manifest.sha256()), "{error}");
}
