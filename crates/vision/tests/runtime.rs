//! Loading ONNX Runtime: one way in, and clear words when it is closed.
//!
//! One test each process state needs is one test function: a process holds one runtime.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod common;

use std::path::Path;
use std::str::FromStr;

use lookbook_vision::{Device, Embedder, ErrorCode, Provider, Runtime, SessionOptions};
use nix::sys::signal::SigSet;

use common::{document, embedder_output, library, manifest, onnx, photo};

#[test]
fn devices_are_read_and_written() {
    for (text, device) in [
        ("auto", Device::Auto),
        ("cpu", Device::Cpu),
        ("openvino", Device::OpenVino),
        ("openvino:bf16", Device::OpenVinoBf16),
        ("cuda", Device::Cuda(0)),
        ("cuda:3", Device::Cuda(3)),
        ("tensorrt", Device::TensorRt(0)),
        ("tensorrt:1", Device::TensorRt(1)),
    ] {
        assert_eq!(Device::from_str(text).unwrap(), device);
        assert_eq!(Device::from_str(&device.to_string()).unwrap(), device);
    }
    for text in [
        "",
        "gpu",
        "cuda:",
        "cuda:-1",
        "cuda:+1",
        "cuda:x",
        "openvino:0",
        "CPU",
        "cuda:99999999",
    ] {
        let error = Device::from_str(text).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidSetting, "{text}");
        assert!(
            error.to_string().contains(
                "auto, cpu, openvino, openvino:bf16, cuda, cuda:N, tensorrt or tensorrt:N"
            ),
            "{error}"
        );
    }
}

#[test]
fn the_runtime_is_loaded_once_with_words_for_every_failure() {
    let refused = |path: &Path, part: &str| {
        let error = Runtime::load(path).unwrap_err();
        assert_eq!(error.code(), ErrorCode::RuntimeMissing, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert!(
            error.to_string().contains(&path.display().to_string()),
            "{error}"
        );
    };
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("libonnxruntime.so");
    std::fs::write(&text, "not a library").unwrap();
    refused(Path::new("libonnxruntime.so"), "absolute");
    refused(Path::new("/nonexistent/libonnxruntime.so"), "no such file");
    refused(folder.path(), "no such file");
    refused(&text, "install the library again");
    refused(&other_library(), "not ONNX Runtime");
    refused(&old_library(folder.path()), "version 1.2.0 is too old");

    // Failures leave the door open.
    let runtime = Runtime::load(&library()).unwrap();
    Runtime::load(&library()).unwrap();
    refused(&text, "already uses");

    a_session_leaves_signals_alone_and_its_threads_blocked(&runtime);
    cuda_without_cuda_is_an_error_and_auto_says_what_it_took(&runtime);
}

/// A shared library that is not ONNX Runtime: the C library of this very process.
fn other_library() -> std::path::PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .find(|path| path.contains("/libc.so") || path.contains("/libc-"))
        .expect("this process maps the C library");
    Path::new(path).to_owned()
}

/// A library that says it is ONNX Runtime 1.2.
fn old_library(folder: &Path) -> std::path::PathBuf {
    let source = folder.join("old.c");
    std::fs::write(
        &source,
        "struct base { const void *(*api)(unsigned); const char *(*version)(void); };\n\
         static const void *api(unsigned v) { return 0; }\n\
         static const char *version(void) { return \"1.2.0\"; }\n\
         static struct base base = { api, version };\n\
         const struct base *OrtGetApiBase(void) { return &base; }\n",
    )
    .unwrap();
    let library = folder.join("old.so");
    let status = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status()
        .expect("Rust links with cc, so it is there");
    assert!(status.success());
    library
}

fn open(
    runtime: &Runtime,
    device: Device,
    threads: usize,
) -> Result<Embedder, lookbook_vision::Error> {
    let bytes = onnx("embed");
    let output = embedder_output("embedding", 6, "none", true);
    let manifest = manifest(&document("embed", "embedder", &bytes, output));
    Embedder::open(
        runtime,
        manifest,
        &bytes,
        &SessionOptions {
            device,
            threads,
            batch: 0,
        },
    )
}

/// Signals blocked in each thread of this process, as /proc shows them.
fn masks() -> Vec<(String, u64)> {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| {
            let path = task.unwrap().path();
            let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
            let mask = status
                .lines()
                .find_map(|line| line.strip_prefix("SigBlk:"))
                .unwrap_or("0");
            (
                path.display().to_string(),
                u64::from_str_radix(mask.trim(), 16).unwrap(),
            )
        })
        .collect()
}

fn a_session_leaves_signals_alone_and_its_threads_blocked(runtime: &Runtime) {
    let before = SigSet::thread_get_mask().unwrap();
    let threads_before: Vec<String> = masks().into_iter().map(|(thread, _)| thread).collect();
    let mut embedder = open(runtime, Device::Cpu, 4).unwrap();
    embedder.embed(&[photo(50, 60, 0).whole()]).unwrap();
    assert_eq!(SigSet::thread_get_mask().unwrap(), before);

    let new: Vec<_> = masks()
        .into_iter()
        .filter(|(thread, _)| !threads_before.contains(thread))
        .collect();
    let processors = std::thread::available_parallelism().unwrap().get();
    assert_eq!(
        new.len(),
        processors.min(4) - 1,
        "of as many threads as were asked for, or as there are processors, one is this"
    );
    // SIGHUP, SIGINT, SIGUSR1, SIGUSR2, SIGALRM, SIGTERM, SIGCHLD: bit n − 1 is signal n.
    let of_postgres = [1, 2, 10, 12, 14, 15, 17]
        .iter()
        .fold(0, |mask, n| mask | 1 << (n - 1));
    for (thread, mask) in new {
        assert_eq!(mask & of_postgres, of_postgres, "{thread}: {mask:x}");
    }
}

fn cuda_without_cuda_is_an_error_and_auto_says_what_it_took(runtime: &Runtime) {
    let mut auto = open(runtime, Device::Auto, 1).unwrap();
    assert!(
        [Provider::Cpu, Provider::Cuda].contains(&auto.provider()),
        "{}",
        auto.provider()
    );
    auto.embed(&[photo(50, 60, 0).whole()]).unwrap();
    match open(runtime, Device::Cuda(0), 1) {
        Ok(cuda) => assert_eq!(cuda.provider(), Provider::Cuda),
        Err(error) => {
            assert_eq!(auto.provider(), Provider::Cpu);
            assert_eq!(error.code(), ErrorCode::ProviderUnavailable, "{error}");
            assert!(error.to_string().contains("cuda:0"), "{error}");
        }
    }
    if let Err(error) = open(runtime, Device::OpenVino, 1) {
        assert_eq!(error.code(), ErrorCode::ProviderUnavailable, "{error}");
        let message = error.to_string();
        assert!(
            message.contains("openvino") && message.contains("make openvino"),
            "{message}"
        );
    }
    // No machine has that many.
    let error = open(runtime, Device::Cuda(60_000), 1).unwrap_err();
    assert_eq!(error.code(), ErrorCode::ProviderUnavailable, "{error}");
}
