//! Every output form that `docs/bring-your-own.md` names is read, from a tiny file of that form.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod common;

use lookbook_vision::{
    Detection, Detector, Embedder, ErrorCode, Manifest, Photo, View, check_model, sha256_hex,
};
use serde_json::{Value, json};

use common::{
    OPTIONS, detector_output, document, embedder_output, largest_difference, manifest, onnx, photo,
    runtime, white,
};

fn embedder(document: &Value, file: &str) -> Embedder {
    Embedder::open(&runtime(), manifest(document), &onnx(file), &OPTIONS).unwrap()
}

fn detector(document: &Value, file: &str) -> Detector {
    Detector::open(&runtime(), manifest(document), &onnx(file), &OPTIONS).unwrap()
}

fn refusal(document: &Value, file: &str) -> String {
    let error = check_model(&runtime(), &manifest(document), &onnx(file)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::ModelMismatch, "{error}");
    error.to_string()
}

fn detector_document(file: &str, family: &str, names: Value) -> Value {
    document(
        file,
        "detector",
        &onnx(file),
        detector_output(family, names),
    )
}

/// Label, score and corners, as the test compares them.
fn plain(found: &[Detection]) -> Vec<(&str, i32, [i32; 4])> {
    found
        .iter()
        .map(|found| {
            let b = found.bbox;
            let edges = [b.x1, b.y1, b.x2, b.y2].map(|edge| edge.round() as i32);
            let percent = (found.score * 100.0).round() as i32;
            (found.label.as_str(), percent, edges)
        })
        .collect()
}

#[test]
fn axes_of_size_1_around_a_vector_do_not_matter() {
    let photos = [photo(70, 50, 1), photo(40, 90, 2)];
    let views: Vec<View<'_>> = photos.iter().map(Photo::whole).collect();
    let vectors = |file: &str| {
        let output = embedder_output("embedding", 6, "none", true);
        let document = document(file, "embedder", &onnx(file), output);
        check_model(&runtime(), &manifest(&document), &onnx(file)).unwrap();
        embedder(&document, file).embed(&views).unwrap()
    };
    let expected = vectors("embed");
    for file in ["embed_ones_before", "embed_ones_after", "embed_ones_flat"] {
        for (found, expected) in vectors(file).iter().zip(&expected) {
            assert!(largest_difference(found, expected) < 1e-6, "{file}");
        }
    }
}

/// What the models with their own NMS find on white, in a photo ten times the size of their input.
const AFTER_NMS: [(&str, i32, [i32; 4]); 3] = [
    ("shirt", 90, [60, 40, 140, 200]),
    ("trousers", 70, [210, 260, 270, 340]),
    ("shirt", 50, [260, 340, 320, 400]),
];

/// About half as bright, so that every score is as much lower and one box falls below the threshold of 0.3.
fn grey() -> Photo {
    Photo::from_pixels(image::RgbImage::from_pixel(320, 400, image::Rgb([140; 3])))
}

/// White and grey photos together give what each gives alone.
fn assert_batches(detector: &mut Detector, name: &str) {
    let photos = [white(320, 400), grey(), white(320, 400)];
    let views: Vec<View<'_>> = photos.iter().map(Photo::whole).collect();
    let found = detector.detect(&views).unwrap();
    assert_eq!(plain(&found[0]), AFTER_NMS, "{name}");
    assert_eq!(plain(&found[1]).len(), 2, "{name}: {:?}", found[1]);
    assert_eq!(found[2], found[0], "{name}");
    for (view, together) in views.iter().zip(&found) {
        assert_eq!(&detector.detect(&[*view]).unwrap()[0], together, "{name}");
    }
}

#[test]
fn a_class_token_is_the_first_one() {
    let mut document = document(
        "embed_tokens",
        "embedder",
        &onnx("embed_tokens"),
        embedder_output("last_hidden_state", 6, "class_token", true),
    );
    check_model(&runtime(), &manifest(&document), &onnx("embed_tokens")).unwrap();
    let photos = [photo(70, 50, 1), photo(40, 90, 2)];
    let views: Vec<View<'_>> = photos.iter().map(Photo::whole).collect();
    let tokens = embedder(&document, "embed_tokens").embed(&views).unwrap();
    // The class token of this file is what `embed` gives.
    let output = embedder_output("embedding", 6, "none", true);
    let reference = self::document("embed", "embedder", &onnx("embed"), output);
    let expected = embedder(&reference, "embed").embed(&views).unwrap();
    for (found, expected) in tokens.iter().zip(&expected) {
        assert!(largest_difference(found, expected) < 1e-5);
    }
    // Its mean over all tokens is the class token again, so the maximum tells.
    document["output"]["pool"] = json!("max");
    let most = embedder(&document, "embed_tokens").embed(&views).unwrap();
    assert!(largest_difference(&most[0], &tokens[0]) > 1e-4);

    // A feature map has no tokens.
    let output = embedder_output("map", 6, "class_token", true);
    let map = self::document("embed_map", "embedder", &onnx("embed_map"), output);
    let refused = refusal(&map, "embed_map");
    assert!(
        refused.contains("[photos, tokens, dimensions]"),
        "{refused}"
    );
}

#[test]
fn a_map_with_channels_last_and_doubles_are_read() {
    let photos = [photo(70, 50, 1), photo(40, 90, 2)];
    let views: Vec<View<'_>> = photos.iter().map(Photo::whole).collect();
    let read = |file: &str, output: &str, pool: &str| {
        let output = embedder_output(output, 6, pool, true);
        let document = document(file, "embedder", &onnx(file), output);
        check_model(&runtime(), &manifest(&document), &onnx(file)).unwrap();
        embedder(&document, file).embed(&views).unwrap()
    };
    let expected = read("embed", "embedding", "none");
    // Channels come first in the input, as in Swin.
    for found in [
        read("embed_swin", "last_hidden_state", "mean"),
        read("embed_double", "doubles", "none"),
    ] {
        for (found, expected) in found.iter().zip(&expected) {
            assert!(largest_difference(found, expected) < 1e-5);
        }
    }
}

fn clip(ids: &Value, mask: &Value) -> Value {
    let output = embedder_output("image_embeds", 6, "none", false);
    let mut document = document("embed_clip", "embedder", &onnx("embed_clip"), output);
    document["input"]["constants"] = json!([
        {"name": "input_ids", "dtype": "i64", "shape": [1, 4], "values": ids},
        {"name": "attention_mask", "dtype": "i64", "shape": [1, 4], "values": mask},
    ]);
    document
}

#[test]
fn constants_reach_the_inputs_that_bear_their_names() {
    let photos = [photo(64, 80, 3), photo(31, 47, 4)];
    let views: Vec<View<'_>> = photos.iter().map(Photo::whole).collect();
    let vector = |document: &Value| embedder(document, "embed_clip").embed(&views).unwrap();
    // The mean of the tokens that the mask keeps is the factor: 4 / 4, then (4 + 8) / 4.
    let single = vector(&clip(&json!([4, 8, 0, 0]), &json!([1, 0, 0, 0])));
    let triple = vector(&clip(&json!([4, 8, 0, 0]), &json!([1, 1, 0, 0])));
    for (single, triple) in single.iter().zip(&triple) {
        let expected: Vec<f32> = single.iter().map(|value| value * 3.0).collect();
        assert!(
            largest_difference(triple, &expected) < 1e-4,
            "{single:?} {triple:?}"
        );
    }
    // One value stands for all.
    let filled = vector(&clip(&json!([1]), &json!([1])));
    assert!(largest_difference(&filled[0], &single[0]) < 1e-5);
    let report = check_model(
        &runtime(),
        &manifest(&clip(&json!([1]), &json!([1]))),
        &onnx("embed_clip"),
    );
    assert!(report.unwrap().batched);
}

/// A change of the manifest, and what is said of it.
type Case<'a> = (&'a dyn Fn(&mut Value), &'a str);

#[test]
fn constants_that_do_not_fit_are_explained() {
    let whole = clip(&json!([1]), &json!([1]));
    let cases: [Case<'_>; 6] = [
        (
            &|d| d["input"]["constants"] = json!([]),
            "\"input_ids\" (i64 [-1, 4]) has none",
        ),
        (
            &|d| d["input"]["constants"][0]["name"] = json!("ids"),
            "input.constants has \"ids\"",
        ),
        (
            &|d| d["input"]["constants"][0]["dtype"] = json!("i32"),
            "has dtype i32, but that input of the ONNX file is i64",
        ),
        (
            &|d| d["input"]["constants"][0]["shape"] = json!([1, 5]),
            "has shape [1, 5]",
        ),
        (
            &|d| d["input"]["constants"][0]["per_photo"] = json!(true),
            "has shape [-1, 1, 4] with the batch axis of per_photo",
        ),
        (
            &|d| d["input"]["name"] = json!("pixel_values"),
            "input.name is \"pixel_values\", but the inputs of the ONNX file are",
        ),
    ];
    for (change, expected) in cases {
        let mut document = whole.clone();
        change(&mut document);
        let refused = refusal(&document, "embed_clip");
        assert!(refused.contains(expected), "{expected}: {refused}");
    }
    // Several faults are told at once.
    let mut document = whole;
    document["input"]["constants"] = json!([]);
    document["output"]["name"] = json!("embedding");
    let refused = refusal(&document, "embed_clip");
    for part in [
        "input_ids",
        "attention_mask",
        "\"image_embeds\" f32 [-1, 6]",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
}

#[test]
fn densenet_of_the_article_is_max_pooled_to_unit_length() {
    let mut document = document(
        "densenet",
        "embedder",
        &onnx("densenet"),
        embedder_output("features", 1024, "max", true),
    );
    document["input"]["name"] = json!("input");
    for side in ["width", "height"] {
        document["input"][side] = json!(512);
    }
    check_model(&runtime(), &manifest(&document), &onnx("densenet")).unwrap();
    let found = embedder(&document, "densenet")
        .embed(&[photo(300, 200, 5).whole()])
        .unwrap();
    assert_eq!(found[0].len(), 1024);
    let length: f32 = found[0].iter().map(|value| value * value).sum();
    assert!((length - 1.0).abs() < 1e-5);
}

#[test]
fn sigmoid_scores_of_the_detr_family_have_no_class_for_nothing() {
    let names = json!({"boxes": "boxes", "logits": "logits"});
    let mut document = detector_document("detr_sigmoid", "detr", names);
    let refused = refusal(&document, "detr_sigmoid");
    assert!(
        refused.contains("set output.activation to sigmoid"),
        "{refused}"
    );
    document["output"]["activation"] = json!("sigmoid");
    check_model(&runtime(), &manifest(&document), &onnx("detr_sigmoid")).unwrap();
    let photo = white(320, 400);
    let found = detector(&document, "detr_sigmoid").detect(&[photo.whole()]);
    let found = found.unwrap().remove(0);
    // The same where the export made the scores.
    let names = json!({"boxes": "boxes", "logits": "logits"});
    let mut chances = detector_document("detr_chances", "detr", names);
    chances["output"]["activation"] = json!("none");
    let scores = detector(&chances, "detr_chances").detect(&[photo.whole()]);
    assert_eq!(plain(&scores.unwrap()[0]), plain(&found));
    document["output"]["activation"] = json!("none");
    let refused = refusal(&document, "detr_sigmoid");
    assert!(refused.contains("expected 0 to 1"), "{refused}");
    let expected = [
        ("shirt", 90, [60, 40, 140, 200]),
        ("shirt", 80, [70, 40, 150, 200]),
        ("trousers", 70, [210, 260, 270, 340]),
        ("trousers", 60, [60, 40, 140, 200]),
        ("shirt", 50, [260, 340, 320, 400]),
    ];
    assert_eq!(plain(&found), expected);
}

#[test]
fn yolo_logits_become_scores_where_the_manifest_says_so() {
    let mut document = detector_document("yolo_v8_logits", "yolo_v8", json!({"boxes": "out"}));
    let refused = refusal(&document, "yolo_v8_logits");
    assert!(
        refused.contains("expected 0 to 1 (apply the sigmoid"),
        "{refused}"
    );
    document["output"]["activation"] = json!("sigmoid");
    document["output"]["score_threshold"] = json!(0.6);
    let photo = white(320, 400);
    let found = detector(&document, "yolo_v8_logits").detect(&[photo.whole()]);
    // The logits of this file are 8 · (score − 0.5): 0.9 and 0.7 become 0.96 and 0.83, 0.6 becomes 0.69.
    let found = found.unwrap().remove(0);
    let scores: Vec<i32> = plain(&found).iter().map(|found| found.1).collect();
    assert_eq!(scores, [96, 83, 69]);
}

#[test]
fn rows_after_the_models_own_nms_are_what_it_found() {
    let six = detector_document("yolo_nms", "yolo_nms", json!({"boxes": "output0"}));
    let report = check_model(&runtime(), &manifest(&six), &onnx("yolo_nms")).unwrap();
    assert!(report.batched);
    assert_batches(&mut detector(&six, "yolo_nms"), "[n, boxes, 6]");

    // Without a batch axis photos go one by one, although the input would take several.
    let flat = detector_document("yolo_nms_flat", "yolo_nms", json!({"boxes": "output0"}));
    let report = check_model(&runtime(), &manifest(&flat), &onnx("yolo_nms_flat")).unwrap();
    assert!(!report.batched);
    assert_batches(&mut detector(&flat, "yolo_nms_flat"), "[boxes, 6]");

    let seven = detector_document("yolo_nms_seven", "yolo_nms", json!({"boxes": "output"}));
    let report = check_model(&runtime(), &manifest(&seven), &onnx("yolo_nms_seven")).unwrap();
    assert!(report.batched);
    assert_batches(&mut detector(&seven, "yolo_nms_seven"), "[boxes, 7]");

    // A class beyond the labels, and the family that a file of six columns is taken for.
    let mut few = six.clone();
    few["output"]["labels"] = json!([{"name": "shirt", "group": "upper"}]);
    let refused = refusal(&few, "yolo_nms");
    assert!(
        refused.contains("has class 1, but output.labels has 1"),
        "{refused}"
    );
    let mut v5 = six;
    v5["output"]["family"] = json!("yolo_v5");
    let refused = refusal(&v5, "yolo_nms");
    assert!(refused.contains("family yolo_nms"), "{refused}");
}

#[test]
fn mask_coefficients_of_a_segmentation_export_are_left_out() {
    let names = json!({"boxes": "out"});
    let boxes = detector_document("yolo_v8", "yolo_v8", names.clone());
    let segments = detector_document("yolo_v8_segments", "yolo_v8", names.clone());
    let photos = [white(320, 400), grey()];
    let views: Vec<View<'_>> = photos.iter().map(Photo::whole).collect();
    check_model(&runtime(), &manifest(&segments), &onnx("yolo_v8_segments")).unwrap();
    let found = detector(&segments, "yolo_v8_segments").detect(&views);
    let plain_boxes = detector(&boxes, "yolo_v8").detect(&views);
    assert_eq!(found.unwrap(), plain_boxes.unwrap());
    let rows = detector_document("yolo_nms_segments", "yolo_nms", json!({"boxes": "output0"}));
    check_model(&runtime(), &manifest(&rows), &onnx("yolo_nms_segments")).unwrap();
    assert_batches(
        &mut detector(&rows, "yolo_nms_segments"),
        "yolo_nms_segments",
    );

    // Labels for the coefficients, too, would make scores of them.
    let mut widened = segments.clone();
    let labels = widened["output"]["labels"].as_array_mut().unwrap();
    labels.extend((0..32).map(|at| json!({"name": format!("mask {at}"), "group": null})));
    widened["output"]["activation"] = json!("sigmoid");
    let refused = refusal(&widened, "yolo_v8_segments");
    assert!(
        refused.contains("4 + 35 labels + 32 mask coefficients"),
        "{refused}"
    );
}

#[test]
fn torchvision_with_a_batch_axis_takes_sizes_for_each_photo() {
    let names = json!({"boxes": "boxes", "labels": "labels", "scores": "scores"});
    let mut document = detector_document("rtdetr_sizes", "torchvision", names);
    document["input"]["constants"] = json!([
        {"name": "orig_target_sizes", "dtype": "i64", "shape": [2], "values": [32, 40], "per_photo": true}
    ]);
    let report = check_model(&runtime(), &manifest(&document), &onnx("rtdetr_sizes")).unwrap();
    assert!(report.batched);
    assert_batches(&mut detector(&document, "rtdetr_sizes"), "rtdetr_sizes");
}

#[test]
fn a_wrong_number_of_labels_is_told_with_the_right_one() {
    let mut document = detector_document("yolo_v5", "yolo_v5", json!({"boxes": "out"}));
    document["output"]["labels"].as_array_mut().unwrap().pop();
    let refused = refusal(&document, "yolo_v5");
    assert!(
        refused.contains("[2, anchors, 7]: 5 + 2 labels"),
        "{refused}"
    );
}

#[test]
fn the_examples_of_the_documentation_are_manifests() {
    let path = common::tests_dir().join("../../../docs/bring-your-own.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut count = 0;
    for part in text.split("```json\n").skip(1) {
        let example = part.split("```").next().unwrap();
        let mut document: Value = serde_json::from_str(&format!("{{{example}}}"))
            .unwrap_or_else(|error| panic!("{error}: {example}"));
        // What the page says that its examples leave out.
        let left_out = json!({
            "format": 1, "name": "example", "version": "1", "description": "d", "licence": "l", "source": "s",
            "sha256": sha256_hex(b"")
        });
        for (key, value) in left_out.as_object().unwrap() {
            assert!(document.get(key).is_none(), "{key} in {example}");
            document[key] = value.clone();
        }
        Manifest::from_json(&document.to_string())
            .unwrap_or_else(|error| panic!("{error}: {example}"));
        count += 1;
    }
    assert!(count >= 9, "{count} examples");
}
