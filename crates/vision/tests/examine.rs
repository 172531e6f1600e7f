//! A bad model is explained, all of it, and a good one is not complained about.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod common;

use std::{thread, time::Duration};

use lookbook_vision::{Cancel, Finding, Photo, Verdict, examine, sha256_hex};
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
    examine(&runtime(), manifest, onnx, photo, &Cancel::new())
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
        "manifest", "digest", "file", "inputs", "outputs", "vector", "speed", "store",
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
        &embedder("embed_double", "doubles"),
        "embed_double",
        "run",
        Verdict::Failure,
        &["type f64", "as a tensor of float32"],
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
