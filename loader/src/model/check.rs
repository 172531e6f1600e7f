//! `lookbook model check`: a model file tried as the product would use it.
//!
//! Owns finding the two files, the photo and its expected vector, and how findings are shown; what is looked at is
//! [`examine`]'s. Needs no database.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use lookbook_vision::{
    Cancel, Finding, Limits, Manifest, Photo, Runtime, Sample, Verdict, decode, examine,
};

use crate::{
    args::CheckArgs,
    findings::{Report, Status},
    interrupt,
    messages::Ending,
    runtime, shell,
};

/// Names in `models/shipped`, which `CREATE EXTENSION` fills the table of models with.
const SHIPPED: [&str; 4] = [
    "full-front-pose",
    "garment-detector",
    "garment-embedder",
    "resnet-preact-64",
];
/// Between two looks for an interrupt.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

pub fn run(args: &CheckArgs) -> Result<Ending> {
    let (onnx_file, manifest_file) = files(args)?;
    let onnx = fs::read(&onnx_file)
        .with_context(|| format!("cannot read the model {}", onnx_file.display()))?;
    let manifest = read_if_any(&manifest_file)?;
    let sample = read_sample(args)?;
    interrupt::listen()?;
    let runtime = runtime::load_from(args.onnxruntime.as_deref())?;
    let mut report = Report::default();
    for mut finding in examined(&runtime, manifest.as_deref(), &onnx, sample.as_ref())? {
        match (finding.check, manifest.as_deref().map(Manifest::from_json)) {
            ("manifest", None) => {
                finding.advice =
                    format!("{} is missing: {}", manifest_file.display(), finding.advice);
            }
            ("store", Some(Ok(manifest))) if finding.verdict == Verdict::Ok => {
                let name = manifest.name();
                let (onnx, json) = (shell::word(&onnx_file), shell::word(&manifest_file));
                finding.advice = match SHIPPED.contains(&name) {
                    true => format!(
                        "a model of your own needs another name in {json}: every database has a {name} already"
                    ),
                    false => format!("lookbook model add {name} --onnx {onnx} --manifest {json}"),
                };
            }
            _ => {}
        }
        add(&mut report, finding);
    }
    report.finish(args.json)
}

/// The findings of another thread, which an interrupt stops: the one that runs a model gets no signals.
fn examined(
    runtime: &Runtime,
    manifest: Option<&str>,
    onnx: &[u8],
    sample: Option<&Sample>,
) -> Result<Vec<Finding>> {
    let cancel = Cancel::new();
    let findings = thread::scope(|scope| {
        let examiner = scope.spawn(|| examine(runtime, manifest, onnx, sample, &cancel));
        while !examiner.is_finished() {
            if interrupt::is_requested() {
                cancel.cancel();
            }
            thread::sleep(BETWEEN_LOOKS);
        }
        examiner.join()
    });
    ensure!(
        !cancel.is_cancelled(),
        "interrupted: the model was not examined"
    );
    findings.map_err(|_| anyhow!("the examination ended by an internal error"))
}

/// The ONNX file and its manifest, whichever of the two was named.
fn files(args: &CheckArgs) -> Result<(PathBuf, PathBuf)> {
    let named = &args.file;
    match named.extension().and_then(|extension| extension.to_str()) {
        Some("onnx") => {
            let beside = || named.with_extension("json");
            let manifest = args.manifest.clone().unwrap_or_else(beside);
            Ok((named.clone(), manifest))
        }
        Some("json") if args.manifest.is_some() => bail!(
            "{} is a manifest, and --manifest names another: give the ONNX file",
            named.display()
        ),
        Some("json") => Ok((named.with_extension("onnx"), named.clone())),
        _ => bail!(
            "{} is no model: give NAME.onnx, or NAME.json with NAME.onnx beside it",
            named.display()
        ),
    }
}

fn read_if_any(manifest: &Path) -> Result<Option<String>> {
    match fs::read_to_string(manifest) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(error).with_context(|| format!("cannot read the manifest {}", manifest.display()))
        }
    }
}

fn read_sample(args: &CheckArgs) -> Result<Option<Sample>> {
    let Some(photo) = &args.image else {
        return Ok(None);
    };
    Ok(Some(Sample {
        photo: read_photo(photo)?,
        vector: args.expect.as_deref().map(read_vector).transpose()?,
    }))
}

/// A JSON array of numbers, or one of one such array: a batch of one photo.
fn read_vector(path: &Path) -> Result<Vec<f32>> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the vector {}", path.display()))?;
    serde_json::from_str(&text)
        .or_else(|_| serde_json::from_str(&text).map(|[vector]: [Vec<f32>; 1]| vector))
        .with_context(|| format!("{} is no JSON array of numbers", path.display()))
}

fn read_photo(path: &Path) -> Result<Photo> {
    let wrong = || format!("cannot read the photo {}", path.display());
    let bytes = fs::read(path).with_context(wrong)?;
    decode(&bytes, &Limits::default(), None).with_context(wrong)
}

fn add(report: &mut Report, finding: Finding) {
    let status = match finding.verdict {
        Verdict::Ok => Status::Ok,
        Verdict::Warning => Status::Warning,
        Verdict::Failure => Status::Failure,
    };
    report.add(finding.check, status, finding.found, finding.advice);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_shipped_models_are_those_of_their_files() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/shipped");
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "json")
            })
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        assert_eq!(names, SHIPPED);
    }
}
