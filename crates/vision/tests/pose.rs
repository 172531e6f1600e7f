//! Pose models give the 17 points of COCO in pixels of the photo, or the reason why not.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod common;

use image::{Rgb, RgbImage};
use lookbook_vision::{
    Device, Embedder, Error, ErrorCode, KEYPOINT_NAMES, Kind, Photo, PoseEstimator, SessionOptions,
    check_model,
};
use serde_json::{Value, json};

use common::{document, manifest, onnx, runtime, white};

const OPTIONS: SessionOptions = SessionOptions {
    device: Device::Cpu,
    threads: 1,
    batch: 0,
};

/// The manifest of a model that `tests/models/make.py` wrote.
fn pose_document(file: &str) -> Value {
    let maps = json!({"heatmaps": "heatmaps", "offsets": "offsets"});
    let output = match file {
        "pose_movenet" => json!({"family": "movenet", "name": "pose"}),
        "pose_heatmaps" => json!({"family": "heatmaps", "names": maps, "stride": 8}),
        _ => {
            json!({"family": "heatmaps", "names": maps, "stride": 8, "activation": "sigmoid"})
        }
    };
    let mut document = document(file, "pose", &onnx(file), output);
    if file != "pose_heatmaps" {
        document["input"]["layout"] = json!("nhwc");
        document["input"]["dtype"] = json!(if file == "pose_movenet" { "u8" } else { "i32" });
    }
    document
}

fn open(file: &str, document: &Value) -> Result<PoseEstimator, Error> {
    PoseEstimator::open(&runtime(), manifest(document), &onnx(file), &OPTIONS)
}

fn close(found: f32, expected: f32) -> bool {
    (found - expected).abs() < 1e-3
}

#[test]
fn heat_maps_are_read_at_their_hottest_cell_with_its_offset() {
    for file in ["pose_heatmaps", "pose_channels_last"] {
        let mut estimator = open(file, &pose_document(file)).unwrap();
        // Twice the input's size each way.
        let photos = [white(64, 80), white(64, 80), white(32, 40)];
        let views: Vec<_> = photos.iter().map(Photo::whole).collect();
        let poses = estimator.estimate(&views).unwrap();
        assert_eq!(poses.len(), 3, "{file}");
        assert_eq!(poses[0], poses[1], "{file}");
        for (at, point) in poses[0].0.iter().enumerate() {
            let k = at as f32;
            let (row, column) = ((at / 4) as f32, (at % 4) as f32);
            assert_eq!(point.name, KEYPOINT_NAMES[at]);
            assert!(close(point.score, 0.9 - k / 50.0), "{file} {point:?}");
            let x = (2.0 * (column * 8.0 - 0.125 * k)).clamp(0.0, 64.0);
            let y = (2.0 * (row * 8.0 + 0.25 * k)).clamp(0.0, 80.0);
            assert!(
                close(point.x, x) && close(point.y, y),
                "{file} {point:?} ({x}, {y})"
            );
            let small = poses[2].0[at];
            assert!(close(small.x, x / 2.0) && close(small.y, y / 2.0), "{file}");
        }
        assert!(poses[0].is_full_front(), "{file}");
    }
}

#[test]
fn without_offsets_a_point_is_the_middle_of_its_cell() {
    let mut document = pose_document("pose_heatmaps");
    document["output"]["names"] = json!({"heatmaps": "heatmaps"});
    let mut estimator = open("pose_heatmaps", &document).unwrap();
    let pose = estimator.estimate_one(&white(32, 40).whole()).unwrap();
    for (at, point) in pose.0.iter().enumerate() {
        let (row, column) = ((at / 4) as f32, (at % 4) as f32);
        assert!(
            close(point.x, column * 8.0 + 4.0) && close(point.y, row * 8.0 + 4.0),
            "{point:?}"
        );
    }
}

#[test]
fn points_are_mapped_back_through_a_letterbox_and_the_view() {
    let mut document = pose_document("pose_movenet");
    document["input"]["resize"] = json!("letterbox");
    let mut estimator = open("pose_movenet", &document).unwrap();
    // 32 x 40 pixels show a photo of 640 x 320 at 1 : 20, with 12 rows above and below it.
    let pose = estimator.estimate_one(&white(640, 320).whole()).unwrap();
    for (at, point) in pose.0.iter().enumerate() {
        let k = at as f32;
        let (x, y) = ((k / 40.0 + 0.3) * 32.0, k / 20.0 * 40.0);
        let x = (x * 20.0).clamp(0.0, 640.0);
        let y = ((y - 12.0) * 20.0).clamp(0.0, 320.0);
        assert!(
            close(point.x, x) && close(point.y, y),
            "{point:?} ({x}, {y})"
        );
        assert!(close(point.score, (k + 1.0) / 20.0), "{point:?}");
    }
    assert!(!pose.is_full_front(), "its nose has 0.05");
}

#[test]
fn a_darker_photo_scores_less() {
    let file = "pose_heatmaps";
    let mut estimator = open(file, &pose_document(file)).unwrap();
    let grey = Photo::from_pixels(RgbImage::from_pixel(50, 90, Rgb([200; 3])));
    let pose = estimator.estimate_one(&grey.whole()).unwrap();
    assert!(close(pose.0[0].score, 0.9 * 200.0 / 255.0));
    assert!(!pose.is_full_front(), "ankles have 0.47");
}

#[test]
fn heat_a_little_beyond_1_is_1_and_logits_are_refused() {
    let file = "pose_heatmaps";
    let mut document = pose_document(file);
    // White is 1.3, and the hottest cell 1.17.
    document["input"]["scale"] = json!(1.3 / 255.0);
    let mut estimator = open(file, &document).unwrap();
    let pose = estimator.estimate_one(&white(32, 40).whole()).unwrap();
    assert!(close(pose.0[0].score, 1.0), "{:?}", pose.0[0]);
    assert!(
        close(pose.0[16].score, 1.3 * (0.9 - 16.0 / 50.0)),
        "{:?}",
        pose.0[16]
    );
    for (scale, mean, heat) in [(2.5, 0.0, "2.25"), (1.0, 3.0, "-1.8")] {
        document["input"]["scale"] = json!(scale / 255.0);
        document["input"]["mean"] = json!([mean, mean, mean]);
        let mut estimator = open(file, &document).unwrap();
        let error = estimator
            .estimate_one(&white(32, 40).whole())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("heat of {heat}")) && error.contains("sigmoid"),
            "{error}"
        );
    }
}

#[test]
fn outputs_that_are_no_poses_are_refused_with_the_reason() {
    let refused = |file: &str, change: &dyn Fn(&mut Value), part: &str| {
        let mut document = pose_document(file);
        change(&mut document);
        let error = check_model(&runtime(), &manifest(&document), &onnx(file)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ModelMismatch, "{error}");
        assert!(error.to_string().contains(part), "{part}: {error}");
    };
    refused(
        "pose_heatmaps",
        &|document| document["output"]["names"]["heatmaps"] = json!("offsets"),
        "output \"offsets\" has shape [2, 34, 5, 4]; expected [2, 17, rows, columns]",
    );
    refused(
        "pose_heatmaps",
        &|document| document["output"]["names"]["offsets"] = json!("heatmaps"),
        "output \"heatmaps\" has shape [2, 17, 5, 4]; expected [2, 34, rows, columns]",
    );
    refused(
        "pose_heatmaps",
        &|document| document["output"] = json!({"family": "movenet", "name": "heatmaps"}),
        "expected [2, 1, 17, 3]",
    );
    refused(
        "pose_channels_last",
        &|document| {
            document["output"]
                .as_object_mut()
                .unwrap()
                .remove("activation");
        },
        "expected 0 to 1 (apply the sigmoid",
    );
    refused(
        "pose_movenet",
        &|document| document["output"]["name"] = json!("points"),
        "output.name is \"points\", but the outputs of the ONNX file are \"pose\"",
    );
    refused(
        "pose_channels_last",
        &|document| document["input"]["dtype"] = json!("u8"),
        "input.dtype is u8, but the input of the ONNX file is i32",
    );
}

#[test]
fn a_pose_model_is_checked_as_one_and_opened_as_nothing_else() {
    for (file, batched) in [
        ("pose_heatmaps", true),
        ("pose_channels_last", true),
        ("pose_movenet", false),
    ] {
        let report = check_model(&runtime(), &manifest(&pose_document(file)), &onnx(file)).unwrap();
        assert_eq!(
            (report.kind, report.dimensions),
            (Kind::Pose, None),
            "{file}"
        );
        assert_eq!(report.batched, batched, "{file}");
    }
    let error = Embedder::open(
        &runtime(),
        manifest(&pose_document("pose_heatmaps")),
        &onnx("pose_heatmaps"),
        &OPTIONS,
    );
    let error = error.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ManifestInvalid);
    assert!(
        error
            .to_string()
            .contains("is of kind pose; expected embedder"),
        "{error}"
    );
}
