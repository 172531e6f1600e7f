//! `lookbook eval detection`: how well the database's detector finds what people annotated.

use std::{
    collections::{BTreeSet, HashSet},
    fs::{self, OpenOptions},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use lookbook_vision::{Detection, Detector, decode_side_alone};
use serde_json::{Map, Value, json};

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
    if let Some(limit) = args.limit {
        dataset.photos.truncate(limit.try_into()?);
    }
    let mut boxes = dataset.photos.iter().flat_map(|photo| &photo.truth);
    ensure!(
        boxes.any(|truth| !truth.is_crowd),
        "{} has no annotated box{} (crowds aside): there is nothing to measure by",
        args.coco.display(),
        match args.limit {
            Some(limit) => format!(" in the photos of --limit {limit}"),
            None => String::new(),
        }
    );
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
    let thresholds = Thresholds {
        of_load: detectors[0].score_threshold(),
        asked: args.score_threshold,
    };
    for detector in &mut detectors {
        // How many of a category count is decided where they are judged.
        detector.limit(args.score_threshold, usize::MAX);
    }
    let assignment = Assignment::new(&dataset, &detectors[0]);
    assignment.check(&row.name)?;

    let outcomes = workers::run(&dataset.photos, &mut detectors, |detector, photos| {
        look_at(detector, photos)
    })?;
    let mut report = Report::new(&row, &dataset, &assignment, outcomes, thresholds)?;
    report.judge();
    // Neither of the two is lost where the other cannot be written.
    let written = args.out.as_deref().map(|file| report.write(file));
    if args.json {
        messages::print_exactly(report.json())?;
    } else {
        report.print_table()?;
    }
    written.transpose()?;
    Ok(workers::ending(report.skipped))
}

/// That the detections can be written to `file` is known before they are made; until then it has what it had, or is not there.
fn check_target(file: &Path, annotated: &Path) -> Result<()> {
    let is_new = !file.exists();
    let mut options = OpenOptions::new();
    options
        .create(true)
        .append(true)
        .open(file)
        .with_context(|| format!("cannot write {}", file.display()))?;
    if is_new {
        fs::remove_file(file).with_context(|| format!("cannot write {}", file.display()))?;
    }
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
    annotated: HashSet<String>,
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

    /// Warns of annotated categories that the detector cannot give; an error where it can give none.
    fn check(&self, model: &str) -> Result<()> {
        let missing: Vec<String> = self
            .categories
            .iter()
            .filter(|category| {
                self.annotated.contains(category.as_str()) && !self.given.contains(category)
            })
            .map(|category| {
                let mut given = self.given.iter();
                match given.find(|given| given.eq_ignore_ascii_case(category)) {
                    Some(given) => format!("{category} (it has {given})"),
                    None => category.clone(),
                }
            })
            .collect();
        ensure!(
            missing.len() < self.annotated.len(),
            "model {model:?} has no label or group named {}, and nothing else is annotated; --map NAME=LABEL says what a \
             category is to it, which has {}",
            missing.join(", "),
            Vec::from_iter(BTreeSet::from_iter(self.given.iter().map(String::as_str))).join(", ")
        );
        if !missing.is_empty() {
            messages::warn(format_args!(
                "model {model:?} has no label or group named {}: annotated boxes of that name count as not found",
                missing.join(", ")
            ));
        }
        Ok(())
    }
}

/// Scores from which detections count.
#[derive(Debug, Clone, Copy)]
struct Thresholds {
    /// The manifest's, from which a load keeps one.
    of_load: f64,
    /// The command line's, from which average precision counts one.
    asked: f64,
}

impl Thresholds {
    /// From which precision and recall count one: a load's, unless weaker ones were not even looked for.
    fn kept(self) -> f64 {
        self.of_load.max(self.asked)
    }

    fn described(self) -> String {
        if self.asked > self.of_load {
            let Self { of_load, asked } = self;
            format!("{asked} or more, by --score-threshold; a load keeps from {of_load}")
        } else {
            format!("{} or more, as a load keeps it", self.of_load)
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
    thresholds: Thresholds,
    /// By category what came of the detections that reach [`Thresholds::kept`].
    kept: Vec<Counts>,
}

impl<'a> Report<'a> {
    fn new(
        model: &'a ModelRow,
        dataset: &'a Dataset,
        assignment: &Assignment,
        outcomes: Vec<Outcome<Vec<Detection>>>,
        thresholds: Thresholds,
    ) -> Result<Self> {
        let used = workers::used(&dataset.photos, outcomes)?;
        let mut report = Self {
            model,
            categories: &dataset.categories,
            judged: Vec::new(),
            detected: Vec::new(),
            skipped: used.skipped,
            precision: Vec::new(),
            thresholds,
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
            .map(|category| counts(&self.judged, category, self.thresholds.kept()))
            .collect();
    }

    fn write(&self, file: &Path) -> Result<()> {
        let json = serde_json::to_string(&self.detected)?;
        fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Mean of what is defined.
    fn mean(&self, value: fn(&Precision) -> f64) -> Option<f64> {
        mean(self.precision.iter().flatten().map(value))
    }

    fn kept_of_all(&self) -> Counts {
        self.kept.iter().copied().sum()
    }

    fn json(&self) -> Value {
        let by_name = |values: &dyn Fn(usize) -> Option<f64>| -> Map<String, Value> {
            let names = self.categories.iter().enumerate();
            names
                .map(|(at, (_, name))| (name.clone(), json!(values(at))))
                .collect()
        };
        let precision =
            |value: fn(&Precision) -> f64| by_name(&|at| self.precision[at].as_ref().map(value));
        let kept = self.kept_of_all();
        json!({
            "map50": self.mean(|precision| precision.at_50),
            "map50_95": self.mean(|precision| precision.at_50_95),
            "ap50": precision(|precision| precision.at_50),
            "ap50_95": precision(|precision| precision.at_50_95),
            "score_threshold": self.thresholds.kept(),
            "load_threshold": self.thresholds.of_load,
            "precision": kept.precision(),
            "recall": kept.recall(),
            "f1": kept.f1(),
            "precision_by_category": by_name(&|at| self.kept[at].precision()),
            "recall_by_category": by_name(&|at| self.kept[at].recall()),
            "photos": self.judged.len(),
            "skipped": self.skipped,
            "model": self.model.name,
            "sha256": self.model.sha256,
        })
    }

    fn print_table(&self) -> Result<()> {
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
        let mut add = |name: &str, at_50, at_50_95, kept: Counts| {
            table.add([
                name.to_owned(),
                kept.annotated.to_string(),
                shown(at_50),
                shown(at_50_95),
                shown(kept.precision()),
                shown(kept.recall()),
            ]);
        };
        for (at, (_, name)) in self.categories.iter().enumerate() {
            let precision = self.precision[at];
            let at_50 = precision.map(|precision| precision.at_50);
            let at_50_95 = precision.map(|precision| precision.at_50_95);
            add(name, at_50, at_50_95, self.kept[at]);
        }
        let kept = self.kept_of_all();
        let map50 = self.mean(|precision| precision.at_50);
        let map50_95 = self.mean(|precision| precision.at_50_95);
        add("mean, all", map50, map50_95, kept);
        table.print(format_args!(
            "model {}, {} photos; precision and recall of what scores {} (F1 of all: {})",
            self.model.name,
            self.judged.len(),
            self.thresholds.described(),
            shown(kept.f1()),
        ))
    }
}
