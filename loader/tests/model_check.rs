//! `lookbook model check` on the command line: files, exit codes, JSON. What it looks at is tested in `crates/vision`.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A copy of a model of the vision crate's tests with a manifest of its own.
fn model(folder: &Path, file: &str, output: Value) -> PathBuf {
    let onnx =
        fs::read(workspace().join(format!("crates/vision/tests/models/{file}.onnx"))).unwrap();
    let digest: String = Sha256::digest(&onnx)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let kind = if output.get("family").is_some() {
        "detector"
    } else {
        "embedder"
    };
    let manifest = json!({
        "format": 1, "name": "tiny", "version": "1", "kind": kind, "description": "d", "licence": "l", "source": "s",
        "sha256": digest,
        "input": {
            "name": "image", "width": 32, "height": 40, "layout": "nchw", "dtype": "f32", "colour": "rgb",
            "resize": "stretch", "filter": "bilinear"
        },
        "output": output,
    });
    let path = folder.join(format!("{file}.onnx"));
    fs::write(&path, onnx).unwrap();
    fs::write(path.with_extension("json"), manifest.to_string()).unwrap();
    path
}

fn embedder(name: &str) -> Value {
    json!({"name": name, "dimensions": 6, "pool": "none", "normalize": true})
}

fn check(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lookbook"))
        .args(["model", "check"])
        .args(args)
        .env_remove("LOOKBOOK_DATABASE")
        .env_remove("DATABASE_URL")
        .current_dir(workspace())
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    format!("{stdout}{}", String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_sound_model_is_ready_to_be_added() {
    let folder = tempfile::tempdir().unwrap();
    let onnx = model(folder.path(), "embed", embedder("embedding"));
    for file in [onnx.clone(), onnx.with_extension("json")] {
        let output = check(&[file.to_str().unwrap()]);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(
            text.contains("can be stored: embedder of 6 dimensions"),
            "{text}"
        );
        assert!(text.contains("lookbook model add tiny --onnx"), "{text}");
    }
    // What is printed can be pasted into a shell.
    let odd = folder.path().join("odd name ä&'x.onnx");
    fs::copy(&onnx, &odd).unwrap();
    fs::copy(onnx.with_extension("json"), odd.with_extension("json")).unwrap();
    let output = check(&[odd.to_str().unwrap()]);
    let quoted = r"/odd name ä&'\''x.onnx' --manifest '";
    assert!(text(&output).contains(quoted), "{}", text(&output));
    // A manifest of another name, and a photo.
    let manifest = folder.path().join("other.json");
    fs::rename(onnx.with_extension("json"), &manifest).unwrap();
    let photo = workspace().join("tests/catalogue/photos/beige-blazer-worn.jpg");
    let (onnx, manifest, photo) = (
        onnx.to_str().unwrap(),
        manifest.to_str().unwrap(),
        photo.to_str().unwrap(),
    );
    let output = check(&[onnx, "--manifest", manifest, "--image", photo]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let output = check(&[onnx]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("embed.json is missing"),
        "{}",
        text(&output)
    );
}

#[test]
fn findings_decide_the_exit_code_and_are_json_on_demand() {
    let folder = tempfile::tempdir().unwrap();
    let report = |onnx: &Path, code: i32| {
        let output = check(&[onnx.to_str().unwrap(), "--json"]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report
    };
    let find = |report: &Value, check: &str| {
        let checks = report["checks"].as_array().unwrap();
        checks
            .iter()
            .find(|entry| entry["check"] == check)
            .unwrap()
            .clone()
    };
    let failed = report(
        &model(folder.path(), "embed_same", embedder("embedding")),
        1,
    );
    assert_eq!(failed["status"], "failure");
    assert_eq!(find(&failed, "vector")["status"], "failure");
    let labels =
        json!([{"name": "shirt", "group": "upper"}, {"name": "trousers", "group": "lower"}]);
    let detector = json!({
        "family": "torchvision", "names": {"boxes": "boxes", "labels": "labels", "scores": "scores"},
        "labels": labels, "score_threshold": 0.3, "iou_threshold": 0.5, "max_detections": 20
    });
    let warned = report(&model(folder.path(), "torchvision_none", detector), 2);
    assert_eq!(warned["status"], "warning");
    assert!(
        find(&warned, "boxes")["advice"]
            .as_str()
            .unwrap()
            .contains("--image")
    );
}

#[test]
fn an_expected_vector_of_the_photo_is_compared() {
    let folder = tempfile::tempdir().unwrap();
    let output = json!({"name": "embedding", "dimensions": 3, "pool": "none", "normalize": true});
    let onnx = model(folder.path(), "embed_bytes", output);
    // This model gives the mean of each channel, so a photo of one colour has that colour as its vector.
    let json = onnx.with_extension("json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    manifest["input"]["dtype"] = json!("u8");
    manifest["input"]["layout"] = json!("nhwc");
    fs::write(&json, manifest.to_string()).unwrap();
    let photo = folder.path().join("photo.png");
    let pixels = image::RgbImage::from_pixel(50, 60, image::Rgb([200, 100, 50]));
    pixels.save(&photo).unwrap();
    let (onnx, photo) = (onnx.to_str().unwrap(), photo.to_str().unwrap());
    let vector = folder.path().join("expected.json");
    let with_vector = |text: &str, code: i32, part: &str| {
        fs::write(&vector, text).unwrap();
        let output = check(&[onnx, "--image", photo, "--expect", vector.to_str().unwrap()]);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{text}: {}",
            self::text(&output)
        );
        assert!(
            self::text(&output).contains(part),
            "{text}: {}",
            self::text(&output)
        );
    };
    with_vector("[4, 2, 1.0]", 0, "cosine 1.0000 with the expected vector");
    with_vector(
        "[[0.4, 0.2, 0.1]]",
        0,
        "cosine 1.0000 with the expected vector",
    );
    with_vector("[1, 2, 4]", 1, "-> compare input.colour");
    with_vector("[4, 2]", 1, "2 dimensions, the model's 3");
    with_vector("{}", 1, "expected.json is no JSON array of numbers");
    let output = check(&[onnx, "--expect", vector.to_str().unwrap()]);
    assert!(text(&output).contains("--image"), "{}", text(&output));
}

#[test]
fn what_is_no_model_is_an_error() {
    for (args, part) in [
        (vec!["model.txt"], "is no model"),
        (vec!["absent.onnx"], "cannot read the model absent.onnx"),
    ] {
        let output = check(&args);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(part), "{}", text(&output));
    }
}
