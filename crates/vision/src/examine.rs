//! What is right and wrong with a model, all of it, in words for the one who brings it.
//!
//! Where [`check_model`](crate::check_model) stops at the first fault, this goes on as far as the
//! file allows, and looks at things that are no errors: a detector that finds nothing in the picture, a vector that is the same for
//! every picture. Owns the order of the checks; what each kind's numbers should be like is in
//! `examine/numbers.rs` and `examine/vectors.rs`.

mod numbers;
mod vectors;

use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::check::check_model_with;
use crate::device::{Device, SessionOptions};
use crate::embedder::Embedder;
use crate::error::Error;
use crate::manifest::{Manifest, sha256_hex};
use crate::manifest_parts::{Activation, DetectorOutput, EmbedderOutput, Output, Pool, PoseOutput};
use crate::opened::{KindOutput, Opened};
use crate::photo::{Photo, View};
use crate::ports::{compare, described, masks};
use crate::session::{Runtime, Session};
use crate::sketch;
use crate::tensors::Port;

const OPTIONS: SessionOptions = SessionOptions {
    device: Device::Cpu,
    threads: 1,
    batch: 0,
};
/// Runs that are timed at most, and for how long.
const TIMED_RUNS: usize = 9;
const TIMED_FOR: Duration = Duration::from_secs(3);
/// Above it a catalogue of 10,000 photos takes hours on one core.
const SLOW: Duration = Duration::from_secs(1);

/// How one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Usable, and something should be looked at.
    Warning,
    /// The model cannot be used so.
    Failure,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// `manifest`, `file`, `digest`, `inputs`, `outputs`, `inputs, outputs`, `input values`, `run`, `vector`, `expected`,
    /// `pool`, `boxes`, `points`, `speed` or `store`.
    pub check: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty when nothing is.
    pub advice: String,
}

/// What a model is tried on instead of a drawn picture.
#[derive(Debug, Clone)]
pub struct Sample {
    /// A photo.
    pub photo: Photo,
    /// The vector that another program made of it with the same embedder, of any length but zero.
    pub vector: Option<Vec<f32>>,
}

/// Findings in the order in which they were made.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, check: &'static str, verdict: Verdict, found: String, advice: &str) {
        self.0.push(Finding {
            check,
            verdict,
            found,
            advice: advice.to_owned(),
        });
    }

    fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(check, Verdict::Ok, found.into(), "");
    }

    fn warn(&mut self, check: &'static str, found: impl Into<String>, advice: &str) {
        self.add(check, Verdict::Warning, found.into(), advice);
    }

    fn fail(&mut self, check: &'static str, found: impl Into<String>, advice: &str) {
        self.add(check, Verdict::Failure, found.into(), advice);
    }

    fn has_failure(&self) -> bool {
        self.0
            .iter()
            .any(|finding| finding.verdict == Verdict::Failure)
    }
}

/// Looks at everything about a model that can be looked at: `manifest` is the JSON text, or `None` where there is none. On the CPU,
/// with one thread. Once `cancel` is thrown, what was found is of no worth.
pub fn examine(
    runtime: &Runtime,
    manifest: Option<&str>,
    onnx: &[u8],
    sample: Option<&Sample>,
    cancel: &Cancel,
) -> Vec<Finding> {
    let mut findings = Findings::default();
    let manifest = read_manifest(manifest, onnx, &mut findings);
    let name = manifest.as_ref().map_or("model", Manifest::name);
    let ports = match Session::open(runtime, name, onnx, None, &OPTIONS) {
        Ok(session) => {
            let size = match onnx.len() {
                bytes @ ..100_000 => format!("{:.1} kB", bytes as f64 / 1e3),
                bytes => format!("{:.1} MB", bytes as f64 / 1e6),
            };
            findings.ok(
                "file",
                format!("{size}, one file, operators that ONNX Runtime knows"),
            );
            (session.inputs(), session.outputs())
        }
        Err(error) => {
            findings.fail("file", reason(&error), remedy(&error, false));
            return findings.0;
        }
    };
    let Some(manifest) = manifest else {
        findings.ok("inputs", described(&ports.0));
        findings.ok("outputs", described(&ports.1));
        return findings.0;
    };
    if let Err(faults) = compare(&manifest, &ports.0, &ports.1) {
        for fault in faults {
            findings.fail(
                "inputs, outputs",
                fault,
                "correct the manifest, or the export",
            );
        }
        return findings.0;
    }
    findings.ok("inputs", described(&ports.0));
    let segments = match masks(&manifest, &ports.1) {
        0 => String::new(),
        masks => format!(
            "; a segmentation export: its masks, and the last {masks} numbers of each box, are left out"
        ),
    };
    findings.ok("outputs", described(&ports.1) + &segments);
    let pictures = match sample {
        Some(sample) => [sample.photo.clone(), Photo::from_pixels(sketch::dress())],
        None => [sketch::person(), sketch::dress()].map(Photo::from_pixels),
    };
    let trial = Trial {
        runtime,
        manifest: &manifest,
        onnx,
        outputs: &ports.1,
        expected: sample.and_then(|sample| sample.vector.as_deref()),
        cancel,
    };
    trial.run(&pictures, &mut findings);
    if !findings.has_failure() {
        trial.conclude(&mut findings);
    }
    findings.0
}

/// The manifest, for what follows with the digest of the file at hand.
fn read_manifest(json: Option<&str>, onnx: &[u8], findings: &mut Findings) -> Option<Manifest> {
    let Some(json) = json else {
        findings.fail(
            "manifest",
            "there is none",
            "write one from an example of docs/bring-your-own.md, with the digest and the names below",
        );
        findings.ok("digest", sha256_hex(onnx));
        return None;
    };
    let manifest = match Manifest::from_json(json) {
        Ok(manifest) => manifest,
        Err(error) => {
            findings.fail("manifest", reason(&error), remedy(&error, false));
            return None;
        }
    };
    findings.ok(
        "manifest",
        format!(
            "{} \"{}\" {}",
            manifest.kind(),
            manifest.name(),
            manifest.version()
        ),
    );
    let digest = sha256_hex(onnx);
    if manifest.sha256() == digest {
        findings.ok("digest", digest);
        return Some(manifest);
    }
    findings.fail(
        "digest",
        format!(
            "the file has sha256 {digest}, the manifest says {}",
            manifest.sha256()
        ),
        "use the file that belongs to the manifest, or correct the manifest's sha256",
    );
    Some(manifest.with_digest(digest))
}

/// A model whose inputs and outputs are those of its manifest.
struct Trial<'a> {
    runtime: &'a Runtime,
    manifest: &'a Manifest,
    onnx: &'a [u8],
    outputs: &'a [Port],
    expected: Option<&'a [f32]>,
    cancel: &'a Cancel,
}

impl Trial<'_> {
    fn run(&self, pictures: &[Photo; 2], findings: &mut Findings) {
        numbers::input(self.manifest, findings);
        if let (Some(_), Output::Detector(_) | Output::Pose(_)) =
            (self.expected, self.manifest.output())
        {
            findings.fail(
                "expected",
                format!(
                    "a vector is expected, but the model is a {} model",
                    self.manifest.kind()
                ),
                "leave the vector out: only an embedder has one",
            );
        }
        let views = [pictures[0].whole(), pictures[1].whole()];
        let outcome = match self.manifest.output() {
            Output::Embedder(output) => self.embed(output, &views, findings),
            Output::Detector(_) => self.detect(&views[0], findings),
            Output::Pose(output) => self.estimate(output, &views, findings),
        };
        if let Err(error) = outcome {
            findings.fail("run", reason(&error), self.remedy(&error));
        }
    }

    fn embed(
        &self,
        output: &EmbedderOutput,
        views: &[View<'_>; 2],
        findings: &mut Findings,
    ) -> Result<(), Error> {
        let mut embedder = self.open::<EmbedderOutput>(self.manifest)?;
        let first = embedder.embed(&views[..1])?.concat();
        let second = embedder.embed(&views[1..])?.concat();
        vectors::unlike(output, &first, &second, findings);
        if let Some(expected) = self.expected {
            vectors::expected(&first, expected, findings);
        }
        self.pool(&mut embedder, &first, &views[..1], findings)?;
        time(&mut embedder, &views[0], findings, Opened::embed)
    }

    /// Looks at whether `vector` was pooled of what has one: a class token, or tokens that say as much as the model's own vector.
    fn pool(
        &self,
        embedder: &mut Embedder,
        vector: &[f32],
        view: &[View<'_>],
        findings: &mut Findings,
    ) -> Result<(), Error> {
        let output = embedder.output.clone();
        let other = vectors::ready_made(&output, self.outputs);
        match (output.pool, other) {
            (Pool::ClassToken, _) => {
                let shape = embedder.shape(view)?;
                if vectors::lacks_class_token(self.manifest.input(), &shape) {
                    vectors::no_class_token(&output, other, findings);
                }
            }
            (Pool::Mean, Some(other)) => {
                let ready_made = Output::Embedder(EmbedderOutput {
                    name: other.name.clone(),
                    pool: Pool::None,
                    ..output
                });
                let manifest = self.manifest.clone().with_output(ready_made);
                // An output that cannot be read is no better than the one that was chosen.
                if let Ok(found) = self.open::<EmbedderOutput>(&manifest)?.embed(view) {
                    vectors::beside(vector, &other.name, &found.concat(), findings);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn detect(&self, view: &View<'_>, findings: &mut Findings) -> Result<(), Error> {
        let mut detector = self.open::<DetectorOutput>(self.manifest)?;
        let alone = std::slice::from_ref(view);
        let raw = detector.raw_boxes(alone)?;
        let kept = detector.detect(alone)?;
        numbers::boxes(&detector, &raw.concat(), &kept.concat(), findings);
        time(&mut detector, view, findings, Opened::detect)
    }

    fn estimate(
        &self,
        output: &PoseOutput,
        views: &[View<'_>; 2],
        findings: &mut Findings,
    ) -> Result<(), Error> {
        let mut estimator = self.open::<PoseOutput>(self.manifest)?;
        let [person, nobody] = views.each_ref().map(|view| estimator.estimate_one(view));
        let activation = match output {
            PoseOutput::Heatmaps(output) => output.activation,
            PoseOutput::Movenet(_) => Activation::None,
        };
        numbers::points(&person?, &nobody?, activation, findings);
        time(&mut estimator, &views[0], findings, Opened::estimate)
    }

    fn open<O: KindOutput>(&self, manifest: &Manifest) -> Result<Opened<O>, Error> {
        let mut opened = Opened::<O>::open(self.runtime, manifest.clone(), self.onnx, &OPTIONS)?;
        opened.set_cancel(self.cancel);
        Ok(opened)
    }

    /// Asks what decides in the end: the check that stands before every row.
    fn conclude(&self, findings: &mut Findings) {
        match check_model_with(self.runtime, self.manifest, self.onnx, self.cancel) {
            Ok(report) => {
                let form = match (self.manifest.output(), report.dimensions) {
                    (_, Some(dimensions)) => format!(" of {dimensions} dimensions"),
                    (Output::Detector(output), None) => {
                        format!(" of {} labels", output.labels.len())
                    }
                    _ => String::new(),
                };
                let batch = match report.batched {
                    true => "several photos in a run",
                    false => "one photo in a run",
                };
                findings.ok(
                    "store",
                    format!("can be stored: {}{form}, {batch}", report.kind),
                );
            }
            Err(error) => {
                let found = format!("would be refused: {}", reason(&error));
                findings.fail("store", found, self.remedy(&error));
            }
        }
    }

    fn remedy(&self, error: &Error) -> &'static str {
        remedy(error, !self.manifest.input().constants.is_empty())
    }
}

/// The median of some runs of one photo, preparing included.
fn time<O, R>(
    opened: &mut Opened<O>,
    view: &View<'_>,
    findings: &mut Findings,
    run: impl Fn(&mut Opened<O>, &[View<'_>]) -> Result<R, Error>,
) -> Result<(), Error> {
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < TIMED_RUNS && (times.is_empty() || begin.elapsed() < TIMED_FOR) {
        let start = Instant::now();
        run(opened, std::slice::from_ref(view))?;
        times.push(start.elapsed());
    }
    times.sort();
    let median = times[times.len() / 2];
    let found = format!(
        "{:.1} ms for one photo on one CPU thread (median of {}, preparing included)",
        median.as_secs_f64() * 1e3,
        times.len()
    );
    if median > SLOW {
        findings.warn(
            "speed",
            found,
            "10,000 photos take hours on a CPU: use a GPU, a smaller input or a smaller model",
        );
    } else {
        findings.ok("speed", found);
    }
    Ok(())
}

/// An error without the model's name, which is known, and without the remedy, which [`remedy`] gives.
fn reason(error: &Error) -> String {
    match error {
        Error::ManifestInvalid { key, reason } => format!("{key}: {reason}"),
        Error::ModelInvalid { reason, .. } => format!("not a valid ONNX file: {reason}"),
        Error::ModelUnsupported { reason, .. }
        | Error::ModelMismatch { reason, .. }
        | Error::Inference { reason, .. } => reason.clone(),
        Error::OutOfMemory { .. } => "it needs more memory than it may have".to_owned(),
        other => other.to_string(),
    }
}

/// What to do about an error.
fn remedy(error: &Error, has_constants: bool) -> &'static str {
    match error {
        Error::ManifestInvalid { .. } => "docs/architecture.md lists every key and what it may be",
        Error::ModelInvalid { .. } => {
            "export it, or copy it, again; onnx.checker.check_model(path, full_check=True) in Python says more"
        }
        Error::ModelUnsupported { remedy, .. } => remedy,
        Error::Inference { .. } if has_constants => {
            "look at shape, values and per_photo of input.constants"
        }
        Error::Inference { .. } => {
            "run it with onnxruntime in Python on zeros of the input's shape, and correct the export where that fails"
        }
        Error::OutOfMemory { .. } => {
            "use a smaller input or a smaller model, or give the process more memory"
        }
        _ => "correct the manifest, or the export",
    }
}
