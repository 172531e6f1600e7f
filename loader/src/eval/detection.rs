//! `lookbook eval detection`: how well the database's detector finds what people annotated.

use std::{
    fs::{self, OpenOptions},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use lookbook_vision::{Detection, Detector, decode_side_alone};
use serde_json::json;

use super::{
    args::DetectionArgs,
    average_precision::{Counts, Found, Judged, Precision, average_precision, counts, mean},
    coco::{AnnotatedPhoto, Dataset, Detected},
    table::Numbers,
    workers::{self, Outcome},
};
use crate::{
    database::{ModelKind, ModelRow, choose_model, connect},
    detect::photo_of,
    interrupt,
    load::engines,
    messages::{self, Ending},
    runtime::{self, ModelFiles},
};

pub fn run(args: &DetectionArgs) -> Result<Ending> {
    interrupt::listen()?;
    let beside = args.coco.parent().unwrap_or(Path::new(""));
    let folder = args.images.as_deref().unwrap_or(beside);
    let mut dataset = Dataset::read(&args.coco, folder, &args.map)?;
    ensure!(
        !dataset.photos.is_empty(),
        "{} lists no photos",
        args.coco.display()
    );
    ensure!(
        dataset.photos.iter().any(|photo| !photo.truth.is_empty()),
        "{} has no annotated box: there is nothing to measure by",
        args.coco.display()
    );
    if let Some(limit) = args.limit {
        dataset.photos.truncate(limit.try_into()?);
    }
    if let Some(file) = &args.out {
        check_target(file, &args.coco)?;
    }
    let mut client = connect(args.database.url.as_deref())?;
    let row = choose_model(
        &mut client,
        ModelKind::Detector,
        args.detect_model.as_deref(),
    )?;
    let files = ModelFiles::of_row(&mut client, &row)?;
    drop(client);
    let runtime = runtime::load(&args.runtime)?;
    let open = |options: &_| files.open_detector(&runtime, options);
    let threads = runtime::threads(&args.runtime);
    let is_on_cpu = |detector: &Detector| !detector.provider().is_gpu();
    let mut detectors = engines::on_each(&args.runtime, threads, open, is_on_cpu)?;
    let kept_from = detectors[0].score_threshold().max(args.score_threshold);
    for detector in &mut detectors {
        // How many of a category count is decided where they are judged.
        detector.limit(args.score_threshold, usize::MAX);
    }
    let assignment = Assignment::new(&dataset, &detectors[0]);
    assignment.warn(&row.name);

    let outcomes = workers::run(&dataset.photos, &mut detectors, |detector, photos| {
        look_at(detector, photos)
    })?;
    let mut report = Report::new(&row, &dataset, &assignment, outcomes, kept_from)?;
    report.judge();
    // Neither of the two is lost where the other cannot be written.
    let written = args.out.as_deref().map(|file| report.write(file));
    report.print(args.json)?;
    written.transpose()?;
    Ok(workers::ending(report.skipped))
}

/// That the detections can be written to `file` is known before they are made; what it has stays until then.
fn check_target(file: &Path, annotated: &Path) -> Result<()> {
    let mut options = OpenOptions::new();
    options
        .create(true)
        .append(true)
        .open(file)
        .with_context(|| format!("cannot write {}", file.display()))?;
    let canonical = |file| fs::canonicalize(file).ok();
    ensure!(
        canonical(file).is_none_or(|file| canonical(annotated) != Some(file)),
        "--out {} is the file of annotated boxes and would overwrite it: name another",
        file.display()
    );
    Ok(())
}

fn look_at(
    detector: &mut Detector,
    photos: &[AnnotatedPhoto],
) -> Result<Vec<Outcome<Vec<Detection>>>> {
    let side = decode_side_alone(detector);
    let one = |photo: &AnnotatedPhoto| {
        let photo = match photo_of(&photo.file, side) {
            Ok(photo) => photo,
            Err(error) => return Ok(Err(messages::render(&error))),
        };
        let found = detector.detect(&[photo.whole()])?;
        Ok(Ok(found.into_iter().next().unwrap_or_default()))
    };
    photos.iter().map(one).collect()
}

/// Which category of the annotations a detection counts for: that of its label's name, else that of its
/// group's.
struct Assignment {
    categories: Vec<String>,
    /// Those of which there are boxes.
    annotated: Vec<String>,
    /// Names that the detector can give: its labels and their groups.
    given: Vec<String>,
}

impl Assignment {
    fn new(dataset: &Dataset, detector: &Detector) -> Self {
        let mut given = Vec::new();
        for (label, group) in detector.labels() {
            given.push(label.to_owned());
            given.push(group.as_str().to_owned());
        }
        let categories: Vec<String> = dataset
            .categories
            .iter()
            .map(|(_, name)| name.clone())
            .collect();
        let boxes = dataset.photos.iter().flat_map(|photo| &photo.truth);
        Self {
            annotated: boxes
                .map(|truth| categories[truth.category].clone())
                .collect(),
            categories,
            given,
        }
    }

    fn category(&self, found: &Detection) -> Option<usize> {
        let named = |name: &str| self.categories.iter().position(|category| category == name);
        named(&found.label).or_else(|| named(found.group.as_str()))
    }

    fn warn(&self, model: &str) {
        let missing: Vec<String> = self
            .categories
            .iter()
            .filter(|category| self.annotated.contains(category) && !self.given.contains(category))
            .map(|category| {
                let mut given = self.given.iter();
                match given.find(|given| given.eq_ignore_ascii_case(category)) {
                    Some(given) => format!("{category} (it has {given})"),
                    None => category.clone(),
                }
            })
            .collect();
        if !missing.is_empty() {
            messages::warn(format_args!(
                "model {model:?} has no label or group named {}: annotated boxes of that name count as not found",
                missing.join(", ")
            ));
        }
    }
}

struct Report<'a> {
    model: &'a ModelRow,
    categories: &'a [(i64, String)],
    judged: Vec<Judged>,
    detected: Vec<Detected>,
    skipped: usize,
    precision: Vec<Option<Precision>>,
    /// The manifest's threshold, and by category what came of the detections that reach it.
    kept_from: f64,
    kept: Vec<Counts>,
}

impl<'a> Report<'a> {
    fn new(
        model: &'a ModelRow,
        dataset: &'a Dataset,
        assignment: &Assignment,
        outcomes: Vec<Outcome<Vec<Detection>>>,
        kept_from: f64,
    ) -> Result<Self> {
        let used = workers::used(&dataset.photos, outcomes)?;
        let mut report = Self {
            model,
            categories: &dataset.categories,
            judged: Vec::new(),
            detected: Vec::new(),
            skipped: used.skipped,
            precision: Vec::new(),
            kept_from,
            kept: Vec::new(),
        };
        for (_, photo, found) in &used.photos {
            report.add(photo, assignment, found);
        }
        Ok(report)
    }

    fn add(&mut self, photo: &AnnotatedPhoto, assignment: &Assignment, found: &[Detection]) {
        let mut judged = Judged {
            truth: photo.truth.clone(),
            found: Vec::new(),
        };
        for detection in found {
            let Some(category) = assignment.category(detection) else {
                continue;
            };
            let [x1, y1, x2, y2] = [
                detection.bbox.x1,
                detection.bbox.y1,
                detection.bbox.x2,
                detection.bbox.y2,
            ]
            .map(f64::from);
            let (bbox, score) = ([x1, y1, x2 - x1, y2 - y1], f64::from(detection.score));
            judged.found.push(Found {
                category,
                bbox,
                score,
            });
            self.detected.push(Detected {
                image_id: photo.id,
                category_id: self.categories[category].0,
                bbox,
                score,
            });
        }
        self.judged.push(judged);
    }

    fn judge(&mut self) {
        let count = self.categories.len();
        self.precision = average_precision(&self.judged, count);
        self.kept = (0..count)
            .map(|category| counts(&self.judged, category, self.kept_from))
            .collect();
    }

    fn write(&self, file: &Path) -> Result<()> {
        let json = serde_json::to_string(&self.detected)?;
        fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))
    }

    fn print(&self, as_json: bool) -> Result<()> {
        let defined = || self.precision.iter().flatten();
        let map50 = mean(defined().map(|precision| precision.at_50));
        let map50_95 = mean(defined().map(|precision| precision.at_50_95));
        let kept: Counts = self.kept.iter().copied().sum();
        let named = || {
            let names = self.categories.iter().map(|(_, name)| name.clone());
            names.zip(self.precision.iter().zip(&self.kept))
        };
        if as_json {
            let of = |value: fn(&Precision) -> f64| -> serde_json::Map<String, serde_json::Value> {
                named()
                    .map(|(name, (precision, _))| (name, json!(precision.as_ref().map(value))))
                    .collect()
            };
            let kept_of =
                |value: fn(&Counts) -> Option<f64>| -> serde_json::Map<String, serde_json::Value> {
                    named()
                        .map(|(name, (_, kept))| (name, json!(value(kept))))
                        .collect()
                };
            return messages::print_exactly(json!({
                "map50": map50,
                "map50_95": map50_95,
                "ap50": of(|precision| precision.at_50),
                "ap50_95": of(|precision| precision.at_50_95),
                "score_threshold": self.kept_from,
                "precision": kept.precision(),
                "recall": kept.recall(),
                "f1": kept.f1(),
                "precision_by_category": kept_of(Counts::precision),
                "recall_by_category": kept_of(Counts::recall),
                "photos": self.judged.len(),
                "skipped": self.skipped,
                "model": self.model.name,
                "sha256": self.model.sha256,
            }));
        }
        let mut table = Numbers::new([
            "category",
            "annotated",
            "AP@0.5",
            "AP@0.5:0.95",
            "precision",
            "recall",
        ]);
        let shown =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
        for (name, (precision, kept)) in named() {
            table.add([
                name,
                kept.annotated.to_string(),
                shown(precision.map(|precision| precision.at_50)),
                shown(precision.map(|precision| precision.at_50_95)),
                shown(kept.precision()),
                shown(kept.recall()),
            ]);
        }
        table.add([
            "mean, all".to_owned(),
            kept.annotated.to_string(),
            shown(map50),
            shown(map50_95),
            shown(kept.precision()),
            shown(kept.recall()),
        ]);
        table.print(format_args!(
            "model {}, {} photos; precision and recall of what scores {} or more, as a load keeps it (F1 of all: {})",
            self.model.name,
            self.judged.len(),
            self.kept_from,
            shown(kept.f1()),
        ))
    }
}
