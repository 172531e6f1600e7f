//! What the workers of each stage do with one photo or one batch.
//!
//! Invariant: whatever one photo does to a decoder or a model, it is rejected alone and the others
//! go on.

use std::sync::PoisonError;

use crossbeam_channel::{Receiver, Sender};
use lookbook_vision::{
    BoundingBox, Detection, Detector, Embedder, Error, ErrorCode, Group, Photo, Pose,
    PoseEstimator, Preprocessor, Tensor, decode, decode_memory_bytes,
};
use sha2::{Digest, Sha256};

use super::{
    pipeline::Load,
    singly::{batch_or_singly, embed_each, keep_good},
    stage::{Budget, Share, each, in_batches, in_commits},
};
use crate::{
    database::{Box2, GarmentRow, PhotoRow, WHOLE_PHOTO, Writer},
    interrupt, messages,
    source::{Entry, Item, Place, Refusal, Reject, code},
};

/// A photo on its way.
pub struct Identity {
    entry: Entry,
    sha256: [u8; 32],
    replaces: Option<i64>,
    /// Whether a reject may say how the file begins.
    is_quotable: bool,
    /// Known after detection, where there is a pose model.
    full_front_pose: Option<bool>,
}

/// Its file, which counts towards the budget until it is decoded.
pub struct Fetched {
    identity: Identity,
    bytes: Vec<u8>,
    _share: Share,
}

/// Its pixels, which count towards the budget until they are dropped.
pub struct Decoded {
    identity: Identity,
    photo: Photo,
    share: Share,
}

/// It and the inputs of the models that look at the whole of it.
pub struct Prepared {
    decoded: Decoded,
    detect: Tensor,
    /// `None` where there is no pose model.
    pose: Option<Tensor>,
}

/// What prepares those inputs.
pub struct Preparers {
    pub detect: Preprocessor,
    pub pose: Option<Preprocessor>,
}

/// Its rows, and the inputs of the vectors they lack.
pub struct Cropped {
    identity: Identity,
    width: u32,
    height: u32,
    garments: Vec<GarmentRow>,
    tensors: Vec<Tensor>,
}

impl Load<'_> {
    /// Several of these share one source: each takes the next item and gets its bytes while the others
    /// take theirs.
    pub fn read(&self, budget: &Budget, output: Sender<Fetched>) {
        while !self.stop.is_requested() {
            let next = self
                .source
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .next();
            if next.as_ref().is_some_and(Result::is_ok) {
                self.tally.take();
            }
            let Item { entry, place } = match next {
                None => return,
                Some(Ok(Ok(item))) => item,
                Some(Ok(Err(reject))) => {
                    self.tally.reject(&reject, self.stop);
                    continue;
                }
                Some(Err(error)) => return self.stop.fail(error),
            };
            let is_quotable = !matches!(place, Place::Elsewhere(_));
            let read = self.meters.read.run(1, || {
                let bytes = self.fetcher.fetch(place)?;
                let sha256 = Sha256::digest(&bytes).into();
                Ok((bytes, sha256))
            });
            let (bytes, sha256) = match read {
                Ok(read) => read,
                // What an interrupt ended was not reached.
                Err(_) if interrupt::is_requested() => return,
                Err((code, reason)) => {
                    self.tally
                        .reject(&Reject::new(&entry.path, &code, reason), self.stop);
                    continue;
                }
            };
            let loaded = self.known.photo(&entry.path);
            let about = self.known.about(&entry);
            if loaded.is_some_and(|loaded| loaded.is_current(&sha256, about)) {
                self.tally.skip();
                continue;
            }
            let identity = Identity {
                entry,
                sha256,
                replaces: loaded.map(|loaded| loaded.id),
                is_quotable,
                full_front_pose: None,
            };
            let share = budget.take(bytes.len() as u64);
            let fetched = Fetched {
                identity,
                bytes,
                _share: share,
            };
            if output.send(fetched).is_err() {
                return;
            }
        }
    }

    pub fn decode(
        &self,
        prepare: &Preparers,
        budget: &Budget,
        input: &Receiver<Fetched>,
        output: &Sender<Prepared>,
    ) {
        for fetched in input {
            if self.stop.is_requested() {
                return;
            }
            let Fetched {
                identity,
                bytes,
                _share,
            } = fetched;
            // Before anything is allocated: a codec may take five times what the photo does.
            let side = Some(self.shape.decode_side);
            let mut share = budget.take(decode_memory_bytes(&bytes, &self.limits, side));
            let turn = self.split.turn(self.meters, || output.is_empty());
            let decoded = self
                .meters
                .decode
                .run(1, || self.decode_one(prepare, &bytes, side));
            drop(turn);
            match decoded {
                Ok((photo, detect, pose)) => {
                    share.shrink(photo.pixels().as_raw().len() as u64);
                    let decoded = Decoded {
                        identity,
                        photo,
                        share,
                    };
                    let prepared = Prepared {
                        decoded,
                        detect,
                        pose,
                    };
                    if output.send(prepared).is_err() {
                        return;
                    }
                }
                Err((code, mut reason)) => {
                    if code == ErrorCode::NotAnImage.as_str() && !identity.is_quotable {
                        reason = "not an image, and outside of the folder of its list".to_owned();
                    }
                    self.tally
                        .reject(&Reject::new(&identity.entry.path, &code, reason), self.stop);
                }
            }
        }
    }

    fn decode_one(
        &self,
        prepare: &Preparers,
        bytes: &[u8],
        side: Option<u32>,
    ) -> Result<(Photo, Tensor, Option<Tensor>), Refusal> {
        let decoded = messages::contain(|| {
            let photo = decode(bytes, &self.limits, side)?;
            let whole = photo.whole();
            let detect = prepare.detect.prepare(&whole);
            let pose = prepare.pose.as_ref().map(|pose| pose.prepare(&whole));
            Ok((photo, detect, pose))
        });
        match decoded {
            Ok(decoded) => decoded
                .map_err(|error: Error| (error.code().as_str().to_owned(), error.to_string())),
            Err(panic) => Err((
                code::DECODER_PANIC.to_owned(),
                format!("the decoder failed: {panic}"),
            )),
        }
    }

    pub fn detect(
        &self,
        (mut detector, mut estimator): (Detector, Option<PoseEstimator>),
        input: &Receiver<Prepared>,
        output: &Sender<(Decoded, Vec<Detection>)>,
    ) {
        let size = (&self.meters.detect_batch, |_: &Prepared| 1);
        in_batches(
            self.stop,
            &self.meters.detect,
            (input, output),
            size,
            |batch, _| {
                let (mut photos, mut wholes, mut persons) = (Vec::new(), Vec::new(), Vec::new());
                for photo in batch {
                    photos.push(photo.decoded);
                    wholes.push(photo.detect);
                    persons.extend(photo.pose);
                }
                let found = batch_or_singly(&wholes, |tensors| detector.detect_prepared(tensors));
                let poses = match &mut estimator {
                    Some(estimator) => {
                        batch_or_singly(&persons, |tensors| estimator.estimate_prepared(tensors))
                    }
                    None => Vec::new(),
                };
                let poses = poses.into_iter().map(|pose| pose.map(Some));
                let poses = poses.chain(std::iter::repeat_with(|| Ok(None)));
                let both = found.into_iter().zip(poses);
                let both = both.map(|(found, pose)| Ok((found?, pose?))).collect();
                let good = self.keep_good(photos, both, |decoded| &decoded.identity.entry);
                let posed = good.into_iter().filter_map(|(decoded, (found, pose))| {
                    Some((self.posed(decoded, pose)?, found))
                });
                posed.collect()
            },
        );
    }

    /// Records the pose; rejects what is not a full front view where one is required.
    fn posed(&self, mut decoded: Decoded, pose: Option<Pose>) -> Option<Decoded> {
        let Some(pose) = pose else {
            return Some(decoded);
        };
        let is_full_front = pose.is_full_front();
        decoded.identity.full_front_pose = Some(is_full_front);
        if is_full_front || !self.shape.require_full_front_pose {
            return Some(decoded);
        }
        let reason = "nose, an eye, a hip and an ankle are not all seen";
        let path = &decoded.identity.entry.path;
        self.tally.reject(
            &Reject::new(path, code::NOT_FULL_FRONT_POSE, reason),
            self.stop,
        );
        None
    }

    pub fn crop(
        &self,
        prepare: &Preprocessor,
        input: &Receiver<(Decoded, Vec<Detection>)>,
        output: &Sender<Cropped>,
    ) {
        each(
            self.stop,
            &self.meters.crop,
            input,
            output,
            |(decoded, found)| {
                let Decoded {
                    identity,
                    photo,
                    share,
                } = decoded;
                let found = self.shape.kept(found, identity.entry.sells);
                let crop = |found: &Detection| photo.crop(found.bbox.with_margin(&photo));
                let mut tensors: Vec<Tensor> = found
                    .iter()
                    .map(|found| prepare.prepare(&crop(found)))
                    .collect();
                let garments = garments_of(&photo, found, identity.entry.sells);
                if garments.len() > tensors.len() {
                    tensors.push(prepare.prepare(&photo.whole()));
                }
                let (width, height) = (photo.width(), photo.height());
                drop((photo, share));
                Some(Cropped {
                    identity,
                    width,
                    height,
                    garments,
                    tensors,
                })
            },
        );
    }

    pub fn embed(
        &self,
        mut embedder: Embedder,
        input: &Receiver<Cropped>,
        output: &Sender<PhotoRow>,
    ) {
        let size = (&self.meters.embed_batch, |cropped: &Cropped| {
            cropped.tensors.len()
        });
        in_batches(
            self.stop,
            &self.meters.embed,
            (input, output),
            size,
            |mut batch, batch_size| {
                let tensors: Vec<Tensor> = batch
                    .iter_mut()
                    .flat_map(|cropped| cropped.tensors.drain(..))
                    .collect();
                let counts = batch.iter().map(|cropped| cropped.garments.len());
                let embedded = embed_each(&mut embedder, &tensors, batch_size, counts);
                let good = self.keep_good(batch, embedded, |cropped| &cropped.identity.entry);
                good.into_iter()
                    .map(|(cropped, vectors)| row_of(cropped, vectors))
                    .collect()
            },
        );
    }

    /// Counts what the writer took, and rejects what it did not.
    pub fn write(&self, writer: &mut Writer, input: Receiver<PhotoRow>) {
        in_commits(&input, self.stop, |rows| {
            let count = rows.len();
            let mut refused = Vec::new();
            let write = || writer.write(rows, &mut refused);
            let written = self.meters.write.run(count, write);
            for reject in &refused {
                self.tally.reject(reject, self.stop);
            }
            tracing::debug!(photos = rows.len(), "batch committed");
            let replaced = rows.iter().filter(|row| row.replaces.is_some()).count();
            let garments = rows.iter().map(|row| row.garments.len()).sum();
            self.tally.commit(rows.len(), replaced, garments);
            written
        });
    }

    /// Pairs what succeeded with its result and rejects the rest.
    fn keep_good<T, R>(
        &self,
        items: Vec<T>,
        results: Vec<Result<R, Error>>,
        entry: impl Fn(&T) -> &Entry,
    ) -> Vec<(T, R)> {
        keep_good(items, results, self.stop, |item, error| {
            let reject = Reject::new(&entry(&item).path, error.code().as_str(), error);
            self.tally.reject(&reject, self.stop);
        })
    }
}

/// The rows of a photo, without their vectors. The whole photo is the last one where nothing was found, or nothing of
/// the category that is the product.
fn garments_of(photo: &Photo, found: Vec<Detection>, sold: Option<Group>) -> Vec<GarmentRow> {
    let row = |found: Detection| GarmentRow {
        category: found.group.as_str().to_owned(),
        label: found.label,
        score: Some(found.score),
        bbox: Box2::from(found.bbox),
        is_worn_with_it: sold.is_some_and(|sold| sold != found.group),
        embedding: Vec::new(),
    };
    let mut garments: Vec<GarmentRow> = found.into_iter().map(row).collect();
    if garments.iter().all(|garment| garment.is_worn_with_it) {
        let (x2, y2) = (f64::from(photo.width()), f64::from(photo.height()));
        garments.push(GarmentRow {
            category: sold.map_or(WHOLE_PHOTO, Group::as_str).to_owned(),
            label: WHOLE_PHOTO.to_owned(),
            score: None,
            bbox: Box2 {
                x1: 0.0,
                y1: 0.0,
                x2,
                y2,
            },
            is_worn_with_it: false,
            embedding: Vec::new(),
        });
    }
    garments
}

fn row_of(mut cropped: Cropped, vectors: Vec<Vec<f32>>) -> PhotoRow {
    for (garment, vector) in cropped.garments.iter_mut().zip(vectors) {
        garment.embedding = vector;
    }
    let Identity {
        entry,
        sha256,
        replaces,
        full_front_pose,
        ..
    } = cropped.identity;
    PhotoRow {
        path: entry.path,
        sku: entry.sku,
        sells: entry.sells,
        sha256,
        width: cropped.width,
        height: cropped.height,
        attributes: entry.attributes,
        replaces,
        full_front_pose,
        garments: cropped.garments,
    }
}

impl From<BoundingBox> for Box2 {
    fn from(found: BoundingBox) -> Self {
        let BoundingBox { x1, y1, x2, y2 } = found;
        Self {
            x1: x1.into(),
            y1: y1.into(),
            x2: x2.into(),
            y2: y2.into(),
        }
    }
}
