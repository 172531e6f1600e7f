//! A model that does not do what its manifest says is refused with the reason, before anything runs on it.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod common;

use lookbook_vision::{ErrorCode, check_model, check_onnx};
use serde_json::{Value, json};

use common::{
    detector_document, document, embedder_document, embedder_output, manifest, onnx, open_detector,
    open_embedder, runtime,
};

#[test]
fn check_model_accepts_what_works() {
    for file in [
        "embed",
        "embed_map",
        "embed_fixed_1",
        "embed_fixed_3",
        "embed_bytes",
        "embed_half",
    ] {
        let manifest = manifest(&embedder_document(file));
        let report = check_model(&runtime(), &manifest, &onnx(file)).unwrap();
        assert_eq!(report.batched, file != "embed_fixed_1", "{file}");
    }
    for family in ["yolo_v8", "yolo_v5", "detr"] {
        let manifest = manifest(&detector_document(family));
        check_model(&runtime(), &manifest, &onnx(family)).unwrap();
    }
}

#[test]
fn what_readers_of_protobuf_may_read_differently_is_no_model() {
    let check = |more: &[u8]| check_onnx("m", &[&onnx("embed"), more].concat());
    check(b"").unwrap();
    // A further entry of metadata_props, which may come often.
    check(b"\x72\x00").unwrap();
    for (more, part) in [
        (&b"\x3a\x00"[..], "field 7 of a Model in it comes twice"),
        (b"\x12\x01x", "field 2 of a Model in it comes twice"),
        (b"\x38\x00", "field 7 of a Model in it has another type"),
        (b"\xfa\x01\x00", "field 31"),
        (b"\xba\x00\x00", "common form"),
        (b"\xba\x80\x80\x80\x10\x00", "common form"),
        (b"\x3b\x3c", "common form"),
    ] {
        let error = check(more).unwrap_err().to_string();
        assert!(error.contains(part), "{more:02x?}: {error}");
    }
}

#[test]
fn check_model_explains_what_does_not() {
    let output = |name: &str| embedder_output(name, 6, "none", true);
    let plain = |file: &str, output: Value| document(file, "embedder", &onnx(file), output);
    let embed = |change: &dyn Fn(&mut Value)| {
        let mut document = embedder_document("embed");
        change(&mut document);
        document
    };
    let yolo = |change: &dyn Fn(&mut Value)| {
        let mut document = detector_document("yolo_v8");
        change(&mut document);
        document
    };
    let cases = [
        (
            "unknown_operator",
            plain("unknown_operator", output("embedding")),
            "model_unsupported",
            "Frobnicate",
        ),
        (
            "custom_domain",
            plain("custom_domain", output("embedding")),
            "model_unsupported",
            "com.example",
        ),
        (
            "ep_context",
            plain("ep_context", output("embedding")),
            "model_unsupported",
            "EPContext",
        ),
        (
            "external_data",
            plain("external_data", output("embedding")),
            "model_unsupported",
            "another file",
        ),
        (
            "external_data_two_graphs",
            plain("external_data_two_graphs", output("embedding")),
            "model_unsupported",
            "another file",
        ),
        (
            "external_data_long_tags",
            plain("external_data_long_tags", output("embedding")),
            "model_invalid",
            "common form",
        ),
        (
            "external_data_default",
            plain("external_data_default", output("embedding")),
            "model_unsupported",
            "another file",
        ),
        (
            "embed_nan",
            plain("embed_nan", output("nan")),
            "model_mismatch",
            "NaN",
        ),
        (
            "embed_zero",
            plain("embed_zero", output("zero")),
            "model_mismatch",
            "length zero",
        ),
        (
            "embed_rank",
            plain("embed_rank", output("floats")),
            "model_mismatch",
            "shape [4]",
        ),
        (
            "embed_integers",
            plain("embed_integers", output("integers")),
            "model_mismatch",
            "integers",
        ),
        (
            "embed_two_inputs",
            plain("embed_two_inputs", output("embedding")),
            "model_mismatch",
            "one input",
        ),
        (
            "embed",
            embed(&|d| d["output"]["name"] = json!("vector")),
            "model_mismatch",
            "\"embedding\"",
        ),
        (
            "embed",
            embed(&|d| d["output"]["dimensions"] = json!(5)),
            "model_mismatch",
            "5 dimensions",
        ),
        (
            "embed",
            embed(&|d| d["output"]["pool"] = json!("mean")),
            "model_mismatch",
            "output.pool",
        ),
        (
            "embed",
            embed(&|d| d["input"]["name"] = json!("pixels")),
            "model_mismatch",
            "\"image\"",
        ),
        (
            "embed",
            embed(&|d| d["input"]["width"] = json!(33)),
            "model_mismatch",
            "[3, 40, 33]",
        ),
        (
            "embed",
            embed(&|d| d["input"]["layout"] = json!("nhwc")),
            "model_mismatch",
            "layout",
        ),
        (
            "embed",
            embed(&|d| d["input"]["dtype"] = json!("f16")),
            "model_mismatch",
            "f32",
        ),
        (
            "yolo_v8",
            yolo(&|d| d["output"]["family"] = json!("yolo_v5")),
            "model_mismatch",
            "anchors, 8",
        ),
        (
            "yolo_v8",
            yolo(&|d| {
                d["output"]["labels"].as_array_mut().unwrap().pop();
            }),
            "model_mismatch",
            "[2, 6, anchors]",
        ),
        (
            "yolo_v8",
            yolo(&|d| d["output"]["names"]["boxes"] = json!("x")),
            "model_mismatch",
            "\"out\"",
        ),
    ];
    for (file, document, code, part) in cases {
        let manifest = manifest(&document);
        let error = check_model(&runtime(), &manifest, &onnx(file)).unwrap_err();
        println!("{file}: {error}");
        assert_eq!(error.code().as_str(), code, "{file}: {error}");
        assert!(error.to_string().contains(part), "{file}: {error}");
        assert!(
            error.to_string().contains(manifest.name()),
            "{file}: {error}"
        );
    }
    let mut logits = detector_document("yolo_v8_logits");
    logits["output"]["family"] = json!("yolo_v8");
    let error = check_model(&runtime(), &manifest(&logits), &onnx("yolo_v8_logits")).unwrap_err();
    assert!(error.to_string().contains("sigmoid"), "{error}");
    // The class numbers of the model begin at 1, these labels have too few.
    let mut few = detector_document("torchvision");
    few["output"]["labels"] = json!([{"name": "shirt", "group": "upper"}]);
    let error = check_model(&runtime(), &manifest(&few), &onnx("torchvision")).unwrap_err();
    assert!(error.to_string().contains("class 1"), "{error}");
}

#[test]
fn bytes_that_are_no_model_are_refused_without_the_runtime_seeing_them() {
    let good = onnx("embed");
    let mut cases: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"not a model at all".to_vec(),
        vec![0; 4096],
        vec![0xff; 4096],
        b"\x08\x08ORTM".to_vec(),
    ];
    cases.extend((1..good.len()).step_by(37).map(|cut| good[..cut].to_vec()));
    for bytes in cases {
        let document = document(
            "x",
            "embedder",
            &bytes,
            embedder_output("embedding", 6, "none", true),
        );
        let error = check_model(&runtime(), &manifest(&document), &bytes).unwrap_err();
        assert_eq!(
            error.code(),
            ErrorCode::ModelInvalid,
            "{} bytes: {error}",
            bytes.len()
        );
    }
    let error = check_model(&runtime(), &manifest(&embedder_document("embed")), b"x").unwrap_err();
    assert_eq!(error.code(), ErrorCode::ModelDigestMismatch);
}

#[test]
fn damaged_models_are_errors() {
    // SplitMix64, as in the hostile image tests.
    let mut state = 9_u64;
    let mut below = |limit: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    };
    for file in ["embed", "embed_map"] {
        for _ in 0..150 {
            let mut bytes = onnx(file);
            let at = below(bytes.len());
            bytes[at] = below(256) as u8;
            let mut document = embedder_document(file);
            document["sha256"] = json!(lookbook_vision::sha256_hex(&bytes));
            // Changed weights are still a model; anything else must be refused with a reason.
            if let Err(error) = check_model(&runtime(), &manifest(&document), &bytes) {
                assert!(
                    error.code().as_str().starts_with("model_")
                        || error.code() == ErrorCode::InferenceFailed,
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn a_model_of_another_kind_is_refused() {
    let error = open_embedder(&detector_document("detr"), "detr").unwrap_err();
    assert!(error.to_string().contains("expected embedder"), "{error}");
    let error = open_detector(&embedder_document("embed"), "embed").unwrap_err();
    assert!(error.to_string().contains("expected detector"), "{error}");
}
