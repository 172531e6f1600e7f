//! `lookbook model check`: a model file tried as the product would use it.
//!
//! Owns finding the two files and the photo, and how findings are shown; what is looked at is
//! [`examine`]'s. Needs no database.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use lookbook_vision::{Finding, Limits, Manifest, Photo, Verdict, decode, examine};

use crate::{
    args::CheckArgs,
    findings::{Report, Status},
    messages::Ending,
    runtime, shell,
};

pub fn run(args: &CheckArgs) -> Result<Ending> {
    let (onnx_file, manifest_file) = files(args)?;
    let onnx = fs::read(&onnx_file)
        .with_context(|| format!("cannot read the model {}", onnx_file.display()))?;
    let manifest = read_if_any(&manifest_file)?;
    let photo = args.image.as_deref().map(read_photo).transpose()?;
    let runtime = runtime::load_from(args.onnxruntime.as_deref())?;
    let mut report = Report::default();
    for mut finding in examine(&runtime, manifest.as_deref(), &onnx, photo.as_ref()) {
        match (finding.check, manifest.as_deref().map(Manifest::from_json)) {
            ("manifest", None) => {
                finding.advice =
                    format!("{} is missing: {}", manifest_file.display(), finding.advice);
            }
            ("store", Some(Ok(manifest))) if finding.verdict == Verdict::Ok => {
                let name = manifest.name();
                let (onnx, json) = (shell::word(&onnx_file), shell::word(&manifest_file));
                finding.advice =
                    format!("lookbook model add {name} --onnx {onnx} --manifest {json}");
            }
            _ => {}
        }
        add(&mut report, finding);
    }
    report.finish(args.json)
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
