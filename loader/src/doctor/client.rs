//! This machine's side: ONNX Runtime, the device, the cache.

use std::{fs, path::Path};

use lookbook_vision::{Device, Provider, Runtime, SessionOptions};
use rustix::fs::statvfs;

use super::{Report, server::Defaults};
use crate::{args::DoctorArgs, messages::render, model_cache, runtime};

/// Room for a few models.
const ENOUGH_BYTES: u64 = 500 << 20;

/// Checks what a load would use here.
pub fn check(args: &DoctorArgs, models: Option<&Defaults>, report: &mut Report) {
    cache(report);
    let library = match runtime::library(&args.runtime) {
        Ok(library) => library,
        Err(error) => {
            report.fail("runtime", render(&error), "");
            return;
        }
    };
    match Runtime::load(&library) {
        Ok(runtime) => {
            report.ok("runtime", library.display().to_string());
            device(args, &runtime, models, report);
        }
        Err(error) => report.fail(
            "runtime",
            error.to_string(),
            "install ONNX Runtime, or name it with --onnxruntime FILE",
        ),
    }
}

/// Opens the models where they would run.
fn device(args: &DoctorArgs, runtime: &Runtime, models: Option<&Defaults>, report: &mut Report) {
    let Some(Defaults {
        detector,
        embedder,
        estimator,
        ..
    }) = models
    else {
        report.warn(
            "device",
            "not tried: no model could be read",
            "mend the failures above",
        );
        return;
    };
    let asked = args.runtime.device.first();
    let options = SessionOptions {
        device: asked,
        threads: 1,
        batch: 0,
    };
    let opened = detector
        .iter()
        .map(|files| {
            files
                .open_detector(runtime, &options)
                .map(|model| model.provider())
        })
        .chain(embedder.iter().map(|files| {
            files
                .open_embedder(runtime, &options)
                .map(|model| model.provider())
        }))
        .chain(estimator.iter().map(|files| {
            files
                .open_estimator(runtime, &options)
                .map(|model| model.provider())
        }));
    match opened.collect::<Result<Vec<Provider>, _>>() {
        Ok(providers) if providers.is_empty() => report.warn(
            "device",
            format!("{asked}: not tried, as there is no model to open"),
            "see the models above",
        ),
        Ok(mut providers) => {
            providers.dedup();
            let providers: Vec<&str> = providers.into_iter().map(Provider::as_str).collect();
            let mut found = format!("{asked}: the models run on {}", providers.join(" and "));
            if asked == Device::Auto
                && let Some(embedder) = embedder
                && let Err(error) = embedder.open_embedder(
                    runtime,
                    &SessionOptions {
                        device: Device::Cuda(0),
                        threads: 1,
                        batch: 0,
                    },
                )
            {
                if has_gpu() {
                    found = format!("{found} ({})", error.root_cause());
                }
                if has_amx() {
                    found += "; this processor has AMX: --device openvino takes half of the time";
                }
            }
            report.ok("device", found);
        }
        Err(error) => report.fail(
            "device",
            render(&error),
            "--device auto or cpu runs without it",
        ),
    }
}

/// Whether why CUDA is not there is of interest.
fn has_gpu() -> bool {
    // NVIDIA's driver, and Windows' for Linux.
    ["/dev/nvidiactl", "/dev/dxg"]
        .iter()
        .any(|device| Path::new(device).exists())
}

/// Matrix units for integers, which OpenVINO uses and ONNX Runtime's own kernels do not.
fn has_amx() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|about| about.contains(" amx_int8"))
}

fn cache(report: &mut Report) {
    let Some(folder) = model_cache::folder() else {
        report.warn(
            "cache",
            "no folder: neither XDG_CACHE_HOME nor HOME is set",
            "models are fetched from the database each time",
        );
        return;
    };
    let shown = folder.display();
    // What is there already of the path to it.
    let existing = folder
        .ancestors()
        .find(|folder| folder.is_dir())
        .unwrap_or(Path::new("/"));
    match statvfs(existing) {
        Ok(disk) if disk.f_bavail.saturating_mul(disk.f_frsize) < ENOUGH_BYTES => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize) >> 20;
            report.warn(
                "cache",
                format!("{shown}: {free} MB free"),
                "make room, or name another folder with XDG_CACHE_HOME",
            );
        }
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize) as f64 / f64::from(1 << 30);
            let is_writable =
                fs::create_dir_all(&folder).is_ok() && tempfile::tempfile_in(&folder).is_ok();
            match is_writable {
                true => report.ok("cache", format!("{shown}: {free:.1} GB free")),
                false => report.warn(
                    "cache",
                    format!("{shown}: cannot be written"),
                    "models are fetched from the database each time",
                ),
            }
        }
        Err(error) => report.warn("cache", format!("{shown}: {error}"), ""),
    }
}
