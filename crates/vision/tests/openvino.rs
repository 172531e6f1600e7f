//! Models by OpenVINO: in a process of their own, as a process holds one library of ONNX Runtime.
//!
//! `scripts/setup openvino` fetches that library (x86_64 only); without it the suite says that it tested nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod common;

use std::{io::Write, path::PathBuf};

use common::{document, embedder_output, manifest, onnx, photo, tests_dir};
use lookbook_vision::{
    Detector, Device, Embedder, Manifest, Photo, Provider, Runtime, SessionOptions,
};
use nix::sys::signal::SigSet;

const OPENVINO: SessionOptions = SessionOptions {
    device: Device::OpenVino,
    threads: 1,
    batch: 0,
};
const CPU: SessionOptions = SessionOptions {
    device: Device::Cpu,
    ..OPENVINO
};

fn library() -> Option<PathBuf> {
    let path = tests_dir().join("../../../.lookbook/openvino/libonnxruntime.so");
    let found = path.canonicalize().ok();
    if found.is_none() {
        // Past the capture of the test runner.
        let mut log = std::io::stderr();
        let shown = path.display();
        writeln!(
            log,
            "NOT TESTED: there is no {shown} (scripts/setup openvino)"
        )
        .unwrap();
    }
    found
}

/// A model of `models/` with its manifest.
fn model(name: &str) -> (Manifest, Vec<u8>) {
    let path = |end: &str| tests_dir().join(format!("../../../models/{name}.{end}"));
    let text = std::fs::read_to_string(path("json")).unwrap();
    let onnx = std::fs::read(path("onnx")).unwrap();
    (Manifest::from_json(&text).unwrap(), onnx)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn openvino_gives_what_the_cpu_gives_in_any_number_of_photos() {
    let Some(library) = library() else { return };
    let runtime = Runtime::load(&library).unwrap();

    // In float, to the last digits, whatever the batch: 7 photos are 7 runs of one, 2 of four, 1 of eight.
    let bytes = onnx("embed");
    let output = embedder_output("embedding", 6, "none", true);
    let document = document("embed", "embedder", &bytes, output);
    let open = |options| Embedder::open(&runtime, manifest(&document), &bytes, &options).unwrap();
    let photos: Vec<Photo> = (0..7).map(|seed| photo(50, 60, seed)).collect();
    let views: Vec<_> = photos.iter().map(Photo::whole).collect();
    let mut plain = open(CPU);
    assert_eq!(plain.provider(), Provider::Cpu);
    let expected = plain.embed(&views).unwrap();
    for (batch, most) in [(0, 1), (4, 4), (8, 8)] {
        let mut embedder = open(SessionOptions { batch, ..OPENVINO });
        assert_eq!(embedder.provider(), Provider::OpenVino);
        assert_eq!(embedder.batch_size(), most);
        for (found, expected) in embedder.embed(&views).unwrap().iter().zip(&expected) {
            assert!(cosine(found, expected) > 0.99999, "{found:?} {expected:?}");
        }
    }

    // In half of the bits, where the processor has them; a model in integers is left alone.
    let halves = SessionOptions {
        device: Device::OpenVinoBf16,
        ..OPENVINO
    };
    let (float, bytes) = model("optional/garment-embedder-float");
    let open = |options| Embedder::open(&runtime, float.clone(), &bytes, &options).unwrap();
    let expected = open(CPU).embed(&views).unwrap();
    for (found, expected) in open(halves).embed(&views).unwrap().iter().zip(&expected) {
        assert!(
            cosine(found, expected) > 0.999,
            "{}",
            cosine(found, expected)
        );
    }

    // In integers, which it rounds in other places.
    let (manifest, bytes) = model("shipped/garment-embedder");
    let open = |options| Embedder::open(&runtime, manifest.clone(), &bytes, &options).unwrap();
    let expected = open(CPU).embed(&views).unwrap();
    let found = open(OPENVINO).embed(&views).unwrap();
    assert_eq!(open(halves).embed(&views).unwrap(), found);
    for (found, expected) in found.iter().zip(&expected) {
        assert!(
            cosine(found, expected) > 0.995,
            "{}",
            cosine(found, expected)
        );
    }
    let (manifest, bytes) = model("shipped/garment-detector");
    let mut detector = Detector::open(&runtime, manifest, &bytes, &OPENVINO).unwrap();
    assert_eq!(detector.detect(&views).unwrap().len(), views.len());

    threads_are_blocked_and_sessions_not_pinned();
}

/// Signals are for threads that know how, and all processors for all sessions.
fn threads_are_blocked_and_sessions_not_pinned() {
    let own = SigSet::thread_get_mask().unwrap();
    assert!(!own.contains(nix::sys::signal::SIGTERM));
    let value = |status: &str, key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_default().trim().to_owned()
    };
    let allowed = |status: &str| value(status, "Cpus_allowed_list:");
    let this = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut others = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let blocked = u64::from_str_radix(&value(&status, "SigBlk:"), 16).unwrap();
        assert_eq!(allowed(&status), allowed(&this), "{status}");
        // SIGTERM is signal 15. The harness has two threads, which block nothing.
        others += usize::from(blocked & (1 << 14) != 0);
    }
    let all = std::fs::read_dir("/proc/self/task").unwrap().count();
    assert!(others > 0 && all - others <= 2, "{others} of {all} threads");
}
