//! A bad model is explained, all of it, and a good one is not complained about.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod common;

use std::{thread, time::Duration};

use lookbook_vision::{Cancel, Finding, Photo, Sample, Verdict, examine, sha256_hex};
use serde_json::{Value, json};

use common::{detector_output, document, embedder_document, embedder_output, onnx, runtime, white};

fn embedder(file: &str, output: &str) -> Value {
    document(
        file,
        "embedder",
        &onnx(file),
        embedder_output(output, 6, "none", true),
    )
}

fn detector(file: &str, family: &str) -> Value {
    let names = match family {
        "torchvision" => json!({"boxes": "boxes", "labels": "labels", "scores": "scores"}),
        "detr" => json!({"boxes": "boxes", "logits": "logits"}),
        _ => json!({"boxes": "out"}),
    };
    document(
        file,
        "detector",
        &onnx(file),
        detector_output(family, names),
    )
}

fn examined(manifest: Option<&str>, onnx: &[u8], photo: Option<&Photo>) -> Vec<Finding> {
    let sample = photo.cloned().map(|photo| Sample {
        photo,
        vector: None,
    });
    examine(&runtime(), manifest, onnx, sample.as_ref(), &Cancel::new())
}

fn findings(document: &Value, file: &str, photo: Option<&Photo>) -> Vec<Finding> {
    examined(Some(&document.to_string()), &onnx(file), photo)
}

fn worst(findings: &[Finding]) -> Verdict {
    findings
        .iter()
        .map(|finding| finding.verdict)
        .max()
        .unwrap()
}

/// The one finding of that check.
fn of<'a>(findings: &'a [Finding], check: &str) -> &'a Finding {
    let mut fitting = findings.iter().filter(|finding| finding.check == check);
    let first = fitting.next();
    first.unwrap_or_else(|| panic!("no {check}: {findings:#?}"))
}

fn assert_says(document: &Value, file: &str, check: &str, verdict: Verdict, parts: &[&str]) {
    let white = white(320, 400);
    let findings = findings(document, file, Some(&white));
    let finding = of(&findings, check);
    assert_eq!(finding.verdict, verdict, "{file}: {findings:#?}");
    let text = format!("{} -> {}", finding.found, finding.advice);
    for part in parts {
        assert!(text.contains(part), "{file}: {part} in {text}");
    }
    assert_eq!(worst(&findings), verdict, "{file}: {findings:#?}");
    let is_stored = findings
        .iter()
        .any(|finding| finding.check == "store" && finding.verdict < Verdict::Failure);
    assert_eq!(
        is_stored,
        verdict < Verdict::Failure,
        "{file}: {findings:#?}"
    );
    assert_advised(&findings);
}

/// A failure says what to do, apart from what was found.
fn assert_advised(findings: &[Finding]) {
    let silent = |finding: &&Finding| {
        finding.verdict == Verdict::Failure
            && (finding.advice.is_empty() || finding.found.contains(&finding.advice))
    };
    assert_eq!(findings.iter().find(silent), None, "{findings:#?}");
}

#[test]
fn sound_models_are_not_complained_about() {
    let all = findings(&embedder("embed", "embedding"), "embed", None);
    assert_eq!(worst(&all), Verdict::Ok, "{all:#?}");
    let checks: Vec<&str> = all.iter().map(|finding| finding.check).collect();
    let expected = [
        "manifest",
        "digest",
        "file",
        "inputs",
        "outputs",
        "input values",
        "vector",
        "speed",
        "store",
    ];
    assert_eq!(checks, expected);
    assert!(
        of(&all, "store")
            .found
            .contains("6 dimensions, several photos"),
        "{all:#?}"
    );
    let white = white(320, 400);
    let all = findings(&detector("yolo_v8", "yolo_v8"), "yolo_v8", Some(&white));
    assert_eq!(worst(&all), Verdict::Ok, "{all:#?}");
    assert!(
        of(&all, "boxes")
            .found
            .starts_with("4 in this picture: shirt 0.90"),
        "{all:#?}"
    );
}

#[test]
fn the_shipped_models_find_something_in_the_drawn_picture() {
    for (name, check) in [
        ("garment-detector", "boxes"),
        ("garment-embedder", "vector"),
    ] {
        let path = common::tests_dir()
            .join("../../../models/shipped")
            .join(name);
        let json = std::fs::read_to_string(path.with_extension("json")).unwrap();
        let onnx = std::fs::read(path.with_extension("onnx")).unwrap();
        let all = examined(Some(&json), &onnx, None);
        println!("{name}: {}", of(&all, check).found);
        // A debug build on a busy machine may be slow, and says so.
        let others = all.iter().filter(|finding| finding.check != "speed");
        assert!(
            others.clone().all(|finding| finding.verdict == Verdict::Ok),
            "{all:#?}"
        );
    }
}

#[test]
fn vectors_that_mean_nothing_are_found_out() {
    assert_says(
        &embedder("embed_same", "embedding"),
        "embed_same",
        "vector",
        Verdict::Failure,
        &["cosine 1.0000", "does not depend on the picture"],
    );
    assert_says(
        &embedder("embed_nan", "nan"),
        "embed_nan",
        "run",
        Verdict::Failure,
        &["NaN at dimension 0"],
    );
    assert_says(
        &embedder("embed_integers", "integers"),
        "embed_integers",
        "run",
        Verdict::Failure,
        &["integers; expected floats"],
    );
    assert_says(
        &embedder("embed_flags", "flags"),
        "embed_flags",
        "run",
        Verdict::Failure,
        &["type bool", "as a tensor of float32"],
    );
    assert_says(
        &embedder("embed_random", "noisy"),
        "embed_random",
        "store",
        Verdict::Failure,
        &["different vectors", "evaluation mode"],
    );
}

#[test]
fn boxes_in_the_wrong_place_are_found_out() {
    assert_says(
        &detector("yolo_v8_shares", "yolo_v8"),
        "yolo_v8_shares",
        "boxes",
        Verdict::Failure,
        &["boxes in shares of the input", "multiply them"],
    );
    assert_says(
        &detector("yolo_v8_outside", "yolo_v8"),
        "yolo_v8_outside",
        "boxes",
        Verdict::Failure,
        &["lie outside of an input of 32 x 40 pixels"],
    );
    assert_says(
        &detector("yolo_v8_logits", "yolo_v8"),
        "yolo_v8_logits",
        "run",
        Verdict::Failure,
        &["expected 0 to 1", "sigmoid"],
    );
}

#[test]
fn outputs_of_one_photo_are_laid_to_the_batch_axis() {
    let reshape = embedder("embed_reshape_1", "embedding");
    let exported = "batch of 1, or with a dynamic first axis on the outputs";
    let cases = [
        (reshape, "embed_reshape_1", "Reshape"),
        (
            detector("yolo_v8_one", "yolo_v8"),
            "yolo_v8_one",
            "shape [1, 7, 6], so its batch axis has 1 for 2 photos",
        ),
        (
            detector("detr_one", "detr"),
            "detr_one",
            "shape [1, 6, 4], so its batch axis has 1 for 2 photos",
        ),
    ];
    for (document, file, part) in cases {
        let parts = [
            "a run with two fails, and with one it works",
            part,
            exported,
        ];
        assert_says(&document, file, "store", Verdict::Failure, &parts);
        let all = findings(&document, file, Some(&white(320, 400)));
        let found = &of(&all, "store").found;
        // Labels and activation are right.
        assert!(
            !found.contains("label") && !found.contains("sigmoid"),
            "{found}"
        );
    }
    assert_says(
        &embedder("embed_reshape_3", "embedding"),
        "embed_reshape_3",
        "run",
        Verdict::Failure,
        &["Reshape", "correct the export"],
    );
}

#[test]
fn exchanged_axes_are_not_taken_for_another_family() {
    let document = detector("yolo_v8_exchanged", "yolo_v8");
    let parts = [
        "[1, 6, 7]",
        "last two axes are exchanged: transpose the output",
    ];
    assert_says(
        &document,
        "yolo_v8_exchanged",
        "run",
        Verdict::Failure,
        &parts,
    );
    let all = findings(&document, "yolo_v8_exchanged", None);
    assert!(!of(&all, "run").found.contains("yolo_v5"), "{all:#?}");
}

#[test]
fn a_segmentation_export_is_told() {
    let document = detector("yolo_v8_segments", "yolo_v8");
    let all = findings(&document, "yolo_v8_segments", Some(&white(320, 400)));
    assert_eq!(worst(&all), Verdict::Ok, "{all:#?}");
    let said =
        "a segmentation export: its masks, and the last 32 numbers of each box, are left out";
    assert!(of(&all, "outputs").found.contains(said), "{all:#?}");
    let all = findings(&detector("yolo_v8", "yolo_v8"), "yolo_v8", None);
    assert!(
        !of(&all, "outputs").found.contains("segmentation"),
        "{all:#?}"
    );
}

#[test]
fn a_detector_that_finds_nothing_is_only_suspicious() {
    let none = detector("torchvision_none", "torchvision");
    assert_says(
        &none,
        "torchvision_none",
        "boxes",
        Verdict::Warning,
        &["no box at all", "--image"],
    );
    let mut strict = detector("yolo_v8", "yolo_v8");
    strict["output"]["score_threshold"] = json!(0.95);
    assert_says(
        &strict,
        "yolo_v8",
        "boxes",
        Verdict::Warning,
        &["the highest score is 0.900", "lower output.score_threshold"],
    );
    assert_says(
        &detector("yolo_v8_flat", "yolo_v8"),
        "yolo_v8_flat",
        "boxes",
        Verdict::Warning,
        &[
            "none with an area",
            "such as (10.00, 4.00) to (10.00, 20.00)",
        ],
    );
    let mut others = detector("yolo_v8", "yolo_v8");
    for label in 0..2 {
        others["output"]["labels"][label]["group"] = json!(null);
    }
    others["output"]["labels"][2]["group"] = json!("upper");
    assert_says(
        &others,
        "yolo_v8",
        "boxes",
        Verdict::Warning,
        &["all of labels without a group, such as shirt"],
    );
}

#[test]
fn names_and_shapes_are_told_with_what_the_file_has() {
    let change = |pointer: &str, value: Value| {
        let mut document = embedder("embed", "embedding");
        *document.pointer_mut(pointer).unwrap() = value;
        document
    };
    let cases = [
        (
            "/input/name",
            json!("pixels"),
            "\"image\" f32 [-1, 3, 40, 32]",
        ),
        ("/output/name", json!("vector"), "\"embedding\" f32 [-1, 6]"),
        ("/input/layout", json!("nhwc"), "layout \"nchw\" fits"),
        ("/input/width", json!(64), "width 32 and height 40 fit"),
        ("/input/dtype", json!("f16"), "the ONNX file is f32"),
    ];
    for (pointer, value, part) in cases {
        let document = change(pointer, value);
        assert_says(
            &document,
            "embed",
            "inputs, outputs",
            Verdict::Failure,
            &[part],
        );
    }
    let mut swapped = embedder("embed", "embedding");
    swapped["input"]["width"] = json!(40);
    swapped["input"]["height"] = json!(32);
    let parts = ["width and height are exchanged"];
    assert_says(
        &swapped,
        "embed",
        "inputs, outputs",
        Verdict::Failure,
        &parts,
    );
    let mut dimensions = embedder("embed", "embedding");
    dimensions["output"]["dimensions"] = json!(5);
    assert_says(
        &dimensions,
        "embed",
        "run",
        Verdict::Failure,
        &["5 dimensions"],
    );
}

#[test]
fn files_that_are_refused_say_why() {
    let cases = [
        ("custom_domain", "embedding", "com.example"),
        ("external_data", "embedding", "save it as one file"),
        ("unknown_operator", "embedding", "Frobnicate"),
    ];
    for (file, output, part) in cases {
        assert_says(
            &embedder(file, output),
            file,
            "file",
            Verdict::Failure,
            &[part],
        );
    }
    let mut document = embedder("embed", "embedding");
    document["sha256"] = json!("0".repeat(64));
    let all = findings(&document, "embed", None);
    assert_eq!(of(&all, "digest").verdict, Verdict::Failure);
    // The rest is looked at all the same.
    assert_eq!(of(&all, "vector").verdict, Verdict::Ok);
}

#[test]
fn without_a_manifest_the_names_for_one_are_told() {
    let all = examined(None, &onnx("embed_clip"), None);
    assert_eq!(of(&all, "manifest").verdict, Verdict::Failure);
    assert_eq!(of(&all, "digest").found, sha256_hex(&onnx("embed_clip")));
    assert!(
        of(&all, "inputs")
            .found
            .contains("\"input_ids\" i64 [-1, 4]"),
        "{all:#?}"
    );
    assert!(
        of(&all, "outputs").found.contains("\"image_embeds\" f32"),
        "{all:#?}"
    );
    let all = examined(Some("{\"format\": 1}"), &onnx("embed"), None);
    assert!(of(&all, "manifest").found.contains("name"), "{all:#?}");
    let all = examined(Some("{}"), b"no model", None);
    assert!(
        of(&all, "file").found.contains("not a valid ONNX file"),
        "{all:#?}"
    );
    assert_advised(&all);
}

#[test]
fn a_version_that_is_too_new_is_told_in_numbers() {
    let file = onnx("embed");
    assert_eq!(file[..2], [0x08, 8], "ir_version of make.py");
    let opset = file
        .windows(2)
        .rposition(|pair| pair == [0x10, 17])
        .unwrap();
    for (at, version, words) in [
        (1, 20, "it has IR version 20;"),
        (opset + 1, 30, "it has opset 30;"),
    ] {
        let mut newer = file.clone();
        newer[at] = version;
        let all = examined(None, &newer, None);
        let refused = of(&all, "file");
        assert!(
            refused.found.starts_with(words) && refused.found.len() < 100,
            "{refused:?}"
        );
        assert!(
            refused.advice.contains("export it with an older one"),
            "{refused:?}"
        );
    }
}

#[test]
fn a_map_without_a_pool_is_told_what_makes_a_vector_of_it() {
    let mut document = document(
        "densenet",
        "embedder",
        &onnx("densenet"),
        embedder_output("features", 1024, "none", true),
    );
    document["input"]["name"] = json!("input");
    for side in ["width", "height"] {
        document["input"][side] = json!(512);
    }
    assert_says(
        &document,
        "densenet",
        "run",
        Verdict::Failure,
        &["[1, 1024, 16, 16]", "output.pool mean or max"],
    );
}

#[test]
fn the_pool_that_fits_is_told() {
    let pooled = |file: &str, output: &str, pool: &str| {
        let output = embedder_output(output, 6, pool, true);
        document(file, "embedder", &onnx(file), output)
    };
    let tokens = "last_hidden_state";
    for (file, output, pool, part) in [
        ("embed_tokens", tokens, "none", "class_token, where"),
        ("embed", "embedding", "mean", "output.pool none takes"),
        (
            "embed",
            "embedding",
            "class_token",
            "output.pool none takes",
        ),
        ("embed_map", "map", "class_token", "output.pool mean or max"),
    ] {
        let parts = [part];
        assert_says(
            &pooled(file, output, pool),
            file,
            "run",
            Verdict::Failure,
            &parts,
        );
    }
}

#[test]
fn tokens_that_are_no_vector_beside_one_are_suspicious() {
    let pooled = |file: &str, pool: &str| {
        let output = embedder_output("last_hidden_state", 6, pool, true);
        document(file, "embedder", &onnx(file), output)
    };
    let other = ["\"pooler_output\"", "output.pool", "none"];
    for (file, pool, part) in [
        ("embed_siglip", "class_token", "the first is no class token"),
        ("embed_siglip", "mean", "another one (cosine"),
        (
            "embed_siglip_dynamic",
            "class_token",
            "the first is no class token",
        ),
    ] {
        let parts = [&other[..], &[part]].concat();
        assert_says(&pooled(file, pool), file, "pool", Verdict::Warning, &parts);
    }
    // A class token, the mean that the other output is, and the model's own vector.
    let mut own = pooled("embed_siglip", "none");
    own["output"]["name"] = json!("pooler_output");
    for (document, file) in [
        (pooled("embed_tokens", "class_token"), "embed_tokens"),
        (pooled("embed_swin", "mean"), "embed_swin"),
        (own, "embed_siglip"),
    ] {
        let all = findings(&document, file, None);
        assert_eq!(worst(&all), Verdict::Ok, "{file}: {all:#?}");
    }
}

#[test]
fn an_expected_vector_is_compared() {
    let photo = common::photo(70, 50, 1);
    let embed = |document: &Value| {
        let mut embedder = common::open_embedder(document, "embed").unwrap();
        embedder.embed(&[photo.whole()]).unwrap().remove(0)
    };
    let right = embedder("embed", "embedding");
    let with_expected = |document: &Value, file: &str, vector: Vec<f32>| {
        let sample = Sample {
            photo: photo.clone(),
            vector: Some(vector),
        };
        let (json, onnx) = (document.to_string(), onnx(file));
        let all = examine(
            &runtime(),
            Some(&json),
            &onnx,
            Some(&sample),
            &Cancel::new(),
        );
        of(&all, "expected").clone()
    };
    // Its length does not matter.
    let longer: Vec<f32> = embed(&right).iter().map(|value| 3.0 * value).collect();
    let same = with_expected(&right, "embed", longer.clone());
    assert_eq!(same.verdict, Verdict::Ok, "{same:?}");
    assert!(same.found.starts_with("cosine 1.0000"), "{same:?}");
    let mut turned = right.clone();
    turned["input"]["mean"] = json!([0.5, 0.4, 0.3]);
    let other = with_expected(&turned, "embed", longer.clone());
    assert_eq!(other.verdict, Verdict::Failure, "{other:?}");
    assert!(other.advice.contains("mean"), "{other:?}");
    // At a cosine of 0.995.
    let near: Vec<f32> = {
        let unit = embed(&right);
        let mut across: Vec<f32> = unit.iter().map(|value| -value * unit[0]).collect();
        across[0] += 1.0;
        let length = across.iter().map(|value| value * value).sum::<f32>().sqrt();
        unit.iter()
            .zip(&across)
            .map(|(unit, across)| unit + 0.1 * across / length)
            .collect()
    };
    let near = with_expected(&right, "embed", near);
    assert_eq!(near.verdict, Verdict::Warning, "{near:?}");
    let short = with_expected(&right, "embed", longer[1..].to_vec());
    assert_eq!(short.verdict, Verdict::Failure, "{short:?}");
    assert!(
        short.found.contains("5 dimensions, the model's 6"),
        "{short:?}"
    );
    for broken in [f32::INFINITY, 0.0] {
        let broken = with_expected(&right, "embed", vec![broken; 6]);
        assert_eq!(broken.verdict, Verdict::Failure, "{broken:?}");
    }
    let boxes = with_expected(&detector("yolo_v8", "yolo_v8"), "yolo_v8", longer);
    assert_eq!(boxes.verdict, Verdict::Failure, "{boxes:?}");
}

#[test]
fn what_black_and_white_become_is_told() {
    let document = |scale: Value, mean: Value, std: Value| {
        let mut document = embedder("embed", "embedding");
        let input = document["input"].as_object_mut().unwrap();
        for (key, value) in [("scale", scale), ("mean", mean), ("std", std)] {
            if !value.is_null() {
                input.insert(key.to_owned(), value);
            }
        }
        document
    };
    let (null, shares) = (json!(null), json!([0.5, 0.5, 0.5]));
    let mean = json!([123.7, 116.3, 103.5]);
    for (scale, mean, std, verdict, found) in [
        (
            &null,
            &shares,
            &shares,
            Verdict::Ok,
            "-1.000 and white 1.000",
        ),
        (
            &json!(1.0),
            &null,
            &null,
            Verdict::Ok,
            "0.000 and white 255.000",
        ),
        (
            &json!(1.0),
            &mean,
            &null,
            Verdict::Ok,
            "-123.700 and white 131.300",
        ),
        (
            &null,
            &mean,
            &null,
            Verdict::Warning,
            "-123.700 and white -122.700",
        ),
        (
            &json!(1.0),
            &shares,
            &shares,
            Verdict::Warning,
            "-1.000 and white 509.000",
        ),
    ] {
        let document = document(scale.clone(), mean.clone(), std.clone());
        let all = findings(&document, "embed", None);
        let told = of(&all, "input values");
        assert_eq!(told.verdict, verdict, "{told:?}");
        assert!(told.found.contains(found), "{told:?}");
    }
}

#[test]
fn scores_of_another_activation_are_told_with_their_labels() {
    let mut document = detector("detr_many", "detr");
    document["output"]["labels"].as_array_mut().unwrap().pop();
    let parts = [
        "each of the 60 boxes passes",
        "activation sigmoid",
        "3 labels",
    ];
    assert_says(&document, "detr_many", "boxes", Verdict::Warning, &parts);
    let mut sigmoid = detector("detr_many", "detr");
    sigmoid["output"]["activation"] = json!("sigmoid");
    let parts = [
        "set output.activation to none",
        "leave output.activation out, and it has 2 labels",
    ];
    assert_says(&sigmoid, "detr_many", "boxes", Verdict::Warning, &parts);
    document["output"]["score_threshold"] = json!(0.9);
    let parts = ["the highest score is 0.49", "activation sigmoid"];
    assert_says(&document, "detr_many", "boxes", Verdict::Warning, &parts);
}

#[test]
fn candidates_read_as_rows_after_nms_are_told() {
    let document = detector("yolo_v8_many", "yolo_nms");
    let parts = ["[1, 7, 60]", "as yolo_v8 it has 3 classes"];
    assert_says(&document, "yolo_v8_many", "run", Verdict::Failure, &parts);
}

#[test]
fn an_examination_can_be_stopped_while_the_model_runs() {
    let document = embedder_document("slow").to_string();
    let cancel = Cancel::new();
    let all = thread::scope(|scope| {
        let examiner =
            scope.spawn(|| examine(&runtime(), Some(&document), &onnx("slow"), None, &cancel));
        thread::sleep(Duration::from_millis(500));
        assert!(!examiner.is_finished());
        cancel.cancel();
        examiner.join().unwrap()
    });
    assert_eq!(of(&all, "run").found, "inference was cancelled");
}
