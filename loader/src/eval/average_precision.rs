//! Average precision by the definition of COCO: what `pycocotools` computes for boxes, all areas, at
//! most 100 detections of a category in a photo, read at 101 recalls.
//!
//! Pure arithmetic in the order of `cocoeval.py`, so that ties and rounding fall the same way. Knows
//! nothing of files, models or databases.

/// Detections of one category in one photo that count, best first.
const MOST_FOUND: usize = 100;
const THRESHOLDS: usize = 10;
const RECALLS: usize = 101;

/// A box as COCO writes it: left, top, width, height.
pub type Rectangle = [f64; 4];

/// An annotated box.
#[derive(Debug, Clone, PartialEq)]
pub struct Truth {
    /// Number of its category.
    pub category: usize,
    pub bbox: Rectangle,
    /// Stands for many: may be found any number of times, and need not be found.
    pub is_crowd: bool,
}

/// A detected box.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub category: usize,
    pub bbox: Rectangle,
    pub score: f64,
}

/// What is in a photo and what was found in it.
#[derive(Debug, Default)]
pub struct Judged {
    pub truth: Vec<Truth>,
    pub found: Vec<Found>,
}

/// Average precision of one category.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Precision {
    /// At an intersection over union of 0.5.
    pub at_50: f64,
    /// Mean over 0.5, 0.55 to 0.95.
    pub at_50_95: f64,
}

/// The precision of each category; `None` where nothing is annotated. Photos come in the order of their
/// ids, which decides between detections of equal score.
pub fn average_precision(photos: &[Judged], categories: usize) -> Vec<Option<Precision>> {
    (0..categories)
        .map(|category| {
            let photos: Vec<Matching> = photos
                .iter()
                .map(|photo| Matching::new(photo, category))
                .collect();
            let positives: usize = photos.iter().map(Matching::positives).sum();
            (positives > 0).then(|| {
                let by_threshold: [f64; THRESHOLDS] = std::array::from_fn(|step| {
                    // As numpy.linspace(0.5, 0.95, 10) rounds.
                    let threshold = match step {
                        9 => 0.95,
                        _ => step as f64 * ((0.95 - 0.5) / 9.0) + 0.5,
                    };
                    precision_at(&photos, threshold, positives)
                });
                Precision {
                    at_50: by_threshold[0],
                    at_50_95: by_threshold.iter().sum::<f64>() / THRESHOLDS as f64,
                }
            })
        })
        .collect()
}

/// What came of the detections that a load would keep.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Detections that found an annotated box.
    pub hits: usize,
    /// Detections that found none.
    pub misses: usize,
    /// Annotated boxes.
    pub annotated: usize,
}

impl Counts {
    /// Share of the detections that are right; `None` when there is none.
    pub fn precision(&self) -> Option<f64> {
        ratio(self.hits, self.hits + self.misses)
    }

    /// Share of the annotated boxes that are found; `None` when there is none.
    pub fn recall(&self) -> Option<f64> {
        ratio(self.hits, self.annotated)
    }

    /// Harmonic mean of both.
    pub fn f1(&self) -> Option<f64> {
        ratio(2 * self.hits, self.hits + self.misses + self.annotated)
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            hits: sum.hits + one.hits,
            misses: sum.misses + one.misses,
            annotated: sum.annotated + one.annotated,
        })
    }
}

fn ratio(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The counts of one category: detections that score `lowest` or more, at an intersection over union of 0.5.
pub fn counts(photos: &[Judged], category: usize, lowest: f64) -> Counts {
    let of = |photo: &Judged| {
        let matching = Matching::new(photo, category);
        let outcomes = matching.outcomes(0.5);
        // Best first: what scores less takes no box from those that count.
        let kept = matching.scores.partition_point(|score| *score >= lowest);
        let count = |wanted| {
            let kept = outcomes[..kept].iter();
            kept.filter(|outcome| **outcome == wanted).count()
        };
        Counts {
            hits: count(Outcome::Hit),
            misses: count(Outcome::Miss),
            annotated: matching.positives(),
        }
    };
    photos.iter().map(of).sum()
}

/// The mean over those that are defined; `None` when none is.
pub fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / f64::from(count))
}

/// One photo and one category: what can be matched with what.
struct Matching {
    /// Whether each annotated box is a crowd; crowds come last.
    is_crowd: Vec<bool>,
    /// Scores of the detections, best first.
    scores: Vec<f64>,
    /// Overlap of each detection with each annotated box.
    overlaps: Vec<Vec<f64>>,
}

/// What became of a detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Hit,
    Miss,
    /// It lies in a crowd, and counts neither way.
    Ignored,
}

impl Matching {
    fn new(photo: &Judged, category: usize) -> Self {
        let mut truth: Vec<&Truth> = photo
            .truth
            .iter()
            .filter(|truth| truth.category == category)
            .collect();
        truth.sort_by_key(|truth| truth.is_crowd);
        let mut found: Vec<&Found> = photo
            .found
            .iter()
            .filter(|found| found.category == category)
            .collect();
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        found.truncate(MOST_FOUND);
        let overlap = |found: &&Found| {
            let with = |truth: &&Truth| overlap(&found.bbox, &truth.bbox, truth.is_crowd);
            truth.iter().map(with).collect()
        };
        Self {
            is_crowd: truth.iter().map(|truth| truth.is_crowd).collect(),
            scores: found.iter().map(|found| found.score).collect(),
            overlaps: found.iter().map(overlap).collect(),
        }
    }

    fn positives(&self) -> usize {
        self.is_crowd.iter().filter(|is_crowd| !**is_crowd).count()
    }

    /// Greedy: each detection, best first, takes the free box that it overlaps most.
    fn outcomes(&self, threshold: f64) -> Vec<Outcome> {
        let mut is_taken = vec![false; self.is_crowd.len()];
        let outcome = |overlaps: &Vec<f64>| {
            let mut least = threshold.min(1.0 - 1e-10);
            let mut matched: Option<usize> = None;
            for (at, &overlap) in overlaps.iter().enumerate() {
                if is_taken[at] && !self.is_crowd[at] {
                    continue;
                }
                // Crowds come last: a box of its own wins over them.
                if matched.is_some_and(|matched| !self.is_crowd[matched]) && self.is_crowd[at] {
                    break;
                }
                if overlap >= least {
                    least = overlap;
                    matched = Some(at);
                }
            }
            match matched {
                None => Outcome::Miss,
                Some(at) => {
                    is_taken[at] = true;
                    if self.is_crowd[at] {
                        Outcome::Ignored
                    } else {
                        Outcome::Hit
                    }
                }
            }
        };
        self.overlaps.iter().map(outcome).collect()
    }
}

fn precision_at(photos: &[Matching], threshold: f64, positives: usize) -> f64 {
    let mut all: Vec<(f64, Outcome)> = photos
        .iter()
        .flat_map(|photo| photo.scores.iter().copied().zip(photo.outcomes(threshold)))
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut hits, mut misses) = (0.0, 0.0);
    let mut recalls = Vec::with_capacity(all.len());
    let mut precisions = Vec::with_capacity(all.len());
    for (_, outcome) in all {
        match outcome {
            Outcome::Hit => hits += 1.0,
            Outcome::Miss => misses += 1.0,
            Outcome::Ignored => {}
        }
        recalls.push(hits / positives as f64);
        precisions.push(hits / (hits + misses + f64::EPSILON));
    }
    // Precision never rises with recall: from the right, the best so far.
    for at in (1..precisions.len()).rev() {
        if precisions[at] > precisions[at - 1] {
            precisions[at - 1] = precisions[at];
        }
    }
    let sum: f64 = (0..RECALLS)
        .map(|step| {
            let recall = step as f64 * 0.01;
            let first = recalls.partition_point(|found| *found < recall);
            precisions.get(first).copied().unwrap_or(0.0)
        })
        .sum();
    sum / RECALLS as f64
}

/// Intersection over union; over the detection alone for a crowd.
fn overlap(found: &Rectangle, truth: &Rectangle, is_crowd: bool) -> f64 {
    let shared = |axis: usize| {
        let end = (found[axis] + found[axis + 2]).min(truth[axis] + truth[axis + 2]);
        end - found[axis].max(truth[axis])
    };
    let (width, height) = (shared(0), shared(1));
    if width <= 0.0 || height <= 0.0 {
        return 0.0;
    }
    let intersection = width * height;
    let area = found[2] * found[3];
    let union = if is_crowd {
        area
    } else {
        area + truth[2] * truth[3] - intersection
    };
    intersection / union
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::Deserialize;

    use super::*;

    /// `tests/coco/make.py` drew these cases and had `pycocotools` judge them.
    const CASES: &str = include_str!("../../tests/coco/cases.json");

    #[derive(Deserialize)]
    struct Case {
        name: String,
        categories: usize,
        /// Photo, category, box, crowd.
        truth: Vec<(usize, usize, Rectangle, bool)>,
        /// Photo, category, box, score.
        found: Vec<(usize, usize, Rectangle, f64)>,
        photos: usize,
        /// By category, at 0.5 and at 0.5:0.95; null where nothing is annotated.
        expected: Vec<Option<(f64, f64)>>,
        map50: f64,
        map50_95: f64,
    }

    #[test]
    fn precision_is_that_of_pycocotools() {
        let cases: Vec<Case> = serde_json::from_str(CASES).unwrap();
        assert!(cases.len() >= 8);
        for case in cases {
            let mut photos: HashMap<usize, Judged> = (0..case.photos)
                .map(|photo| (photo, Judged::default()))
                .collect();
            for (photo, category, bbox, is_crowd) in case.truth {
                let truth = &mut photos.get_mut(&photo).unwrap().truth;
                truth.push(Truth {
                    category,
                    bbox,
                    is_crowd,
                });
            }
            for (photo, category, bbox, score) in case.found {
                let found = &mut photos.get_mut(&photo).unwrap().found;
                found.push(Found {
                    category,
                    bbox,
                    score,
                });
            }
            let photos: Vec<Judged> = (0..case.photos)
                .map(|photo| photos.remove(&photo).unwrap())
                .collect();
            let precision = average_precision(&photos, case.categories);
            assert_eq!(precision.len(), case.expected.len(), "{}", case.name);
            for (found, expected) in precision.iter().zip(&case.expected) {
                match (found, expected) {
                    (Some(found), Some((half, strict))) => assert!(
                        (found.at_50 - half).abs() < 1e-12
                            && (found.at_50_95 - strict).abs() < 1e-12,
                        "{}: {found:?}, expected {expected:?}",
                        case.name
                    ),
                    (None, None) => {}
                    _ => panic!("{}: {found:?}, expected {expected:?}", case.name),
                }
            }
            let found = precision.iter().flatten();
            for (value, expected) in [
                (mean(found.clone().map(|p| p.at_50)), case.map50),
                (mean(found.map(|p| p.at_50_95)), case.map50_95),
            ] {
                assert!((value.unwrap() - expected).abs() < 1e-12, "{}", case.name);
            }
        }
    }

    #[test]
    fn what_scores_less_counts_neither_as_hit_nor_as_miss() {
        let bbox = [0.0, 0.0, 5.0, 5.0];
        let found = |score, bbox| Found {
            category: 0,
            bbox,
            score,
        };
        let truth = |is_crowd, bbox| Truth {
            category: 0,
            bbox,
            is_crowd,
        };
        let photo = Judged {
            truth: vec![
                truth(false, bbox),
                truth(false, [20.0, 0.0, 5.0, 5.0]),
                truth(true, [40.0, 0.0, 50.0, 50.0]),
            ],
            found: vec![
                found(0.9, bbox),
                found(0.3, [0.0, 0.0, 5.0, 4.0]),
                found(0.2, [20.0, 0.0, 5.0, 5.0]),
                found(0.8, [50.0, 0.0, 5.0, 5.0]),
            ],
        };
        let at = |lowest| counts(std::slice::from_ref(&photo), 0, lowest);
        let of = |hits, misses| Counts {
            hits,
            misses,
            annotated: 2,
        };
        assert_eq!([at(0.2), at(0.3), at(0.31)], [of(2, 1), of(1, 1), of(1, 0)]);
        assert_eq!(at(0.95).precision(), None);
        assert_eq!(
            (at(0.3).precision(), at(0.3).recall(), at(0.3).f1()),
            (Some(0.5), Some(0.5), Some(0.5))
        );
        assert_eq!(counts(&[photo], 1, 0.0).f1(), None);
    }

    #[test]
    fn a_category_without_annotations_has_no_precision() {
        let found = Found {
            category: 1,
            bbox: [0.0, 0.0, 5.0, 5.0],
            score: 0.5,
        };
        let photo = Judged {
            truth: Vec::new(),
            found: vec![found],
        };
        assert_eq!(average_precision(&[photo], 2), [None, None]);
        assert_eq!(mean(std::iter::empty()), None);
    }
}
