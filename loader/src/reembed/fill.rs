//! The pipeline of a change of models: list, read and crop, embed, write.
//!
//! The crops and their scale are those of a load, so that the vectors are, too. Invariant: a photo whose
//! bytes are not those that were loaded gets no vector.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use lookbook_vision::{BoundingBox, Embedder, Limits, Preprocessor, Tensor, decode};
use postgres::Client;

use crate::{
    database::{NewVector, Shadow, Stale, StaleGarment},
    load::{BatchSize, Meter, Stop, Tally, in_batches},
    messages,
    source::{Refusal, Reject, code, read_file},
};

/// Photos per transaction at most, and how long a vector waits at most.
const COMMIT_PHOTOS: usize = 512;
const COMMIT_PERIOD: Duration = Duration::from_secs(2);

/// Photos that got no vector, by why.
#[derive(Debug, Default)]
pub struct Missing {
    pub gone: Vec<(i64, String)>,
    /// Changed, or not readable.
    pub other: Vec<(i64, String)>,
}

struct Prepared {
    photo: Stale,
    tensors: Vec<Tensor>,
}

/// Those of a photo's garments.
type Vectors = Vec<NewVector>;

/// The open model and where the photos are.
pub struct Filler {
    embedders: Vec<Embedder>,
    side: u32,
    threads: usize,
    sizes: BatchSize,
    root: PathBuf,
    limits: Limits,
}

impl Filler {
    pub fn new(
        embedders: Vec<Embedder>,
        side: u32,
        threads: usize,
        sizes: BatchSize,
        root: PathBuf,
    ) -> Self {
        Self {
            embedders,
            side,
            threads,
            sizes,
            root,
            limits: Limits::default(),
        }
    }

    pub fn dimensions(&self) -> usize {
        self.embedders.first().map_or(0, Embedder::dimensions)
    }

    pub fn devices(&self) -> serde_json::Value {
        let providers: Vec<&str> = self.embedders.iter().map(Embedder::provider).collect();
        serde_json::json!({ "embedder": providers })
    }

    /// Fills what lacks its vector; `watch` is called a few times a second. Errors end up in `stop`.
    pub fn fill(
        &mut self,
        shadow: &Shadow,
        client: &mut Client,
        lister: &mut Client,
        tally: &Tally,
        stop: &Stop,
        mut watch: impl FnMut(),
    ) -> Missing {
        let Some(prepare) = self.embedders.first().map(Embedder::preprocessor) else {
            return Missing::default();
        };
        let (root, limits, side) = (&self.root, self.limits, self.side);
        let (sizes, batch) = (&self.sizes, self.sizes.most());
        let (list_out, read_in) = bounded::<Stale>(64);
        let (read_out, embed_in) = bounded::<Prepared>(2 * batch);
        let (embed_out, write_in) = bounded::<Vectors>(4 * batch);
        let (missing_out, missing_in) = bounded::<(bool, i64, String)>(64);
        let meter = Meter::new("embed", self.embedders.len());
        let reader = Reader {
            root,
            limits,
            side,
            prepare: &prepare,
        };
        thread::scope(|scope| {
            scope.spawn(move || list(shadow, lister, stop, &list_out));
            for _ in 0..self.threads {
                let (input, output) = (read_in.clone(), read_out.clone());
                let missing = missing_out.clone();
                let reader = &reader;
                scope.spawn(move || reader.run(&input, &output, &missing, tally, stop));
            }
            for embedder in &mut self.embedders {
                let (input, output) = (embed_in.clone(), embed_out.clone());
                let meter = &meter;
                scope.spawn(move || embed(embedder, sizes, meter, stop, (&input, &output)));
            }
            drop((read_in, read_out, embed_in, embed_out, missing_out));
            let writer = scope.spawn(move || write(shadow, client, &write_in, tally, stop));
            let collector = scope.spawn(move || collect(&missing_in));
            while !writer.is_finished() || !collector.is_finished() {
                watch();
                thread::sleep(Duration::from_millis(50));
            }
            collector.join().unwrap_or_else(|_| {
                stop.fail(anyhow::anyhow!("a worker ended by an internal error"));
                Missing::default()
            })
        })
    }
}

fn list(shadow: &Shadow, client: &mut Client, stop: &Stop, output: &Sender<Stale>) {
    let mut last = i64::MIN;
    while !stop.is_requested() {
        let photos = match shadow.stale_after(client, last) {
            Ok(photos) => photos,
            Err(error) => return stop.fail(error),
        };
        let Some(end) = photos.last() else {
            return;
        };
        last = end.id;
        for photo in photos {
            if output.send(photo).is_err() {
                return;
            }
        }
    }
}

struct Reader<'a> {
    root: &'a PathBuf,
    limits: Limits,
    side: u32,
    prepare: &'a Preprocessor,
}

impl Reader<'_> {
    fn run(
        &self,
        input: &Receiver<Stale>,
        output: &Sender<Prepared>,
        missing: &Sender<(bool, i64, String)>,
        tally: &Tally,
        stop: &Stop,
    ) {
        for photo in input {
            if stop.is_requested() {
                return;
            }
            match self.prepare(&photo) {
                Ok(tensors) => {
                    if output.send(Prepared { photo, tensors }).is_err() {
                        return;
                    }
                }
                Err((code, reason)) => {
                    tally.reject(&Reject::new(&photo.path, &code, reason), stop);
                    let is_gone = code == code::NOT_FOUND;
                    if missing.send((is_gone, photo.id, photo.path)).is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// The inputs of the photo's garments, cropped as a load does.
    fn prepare(&self, stale: &Stale) -> Result<Vec<Tensor>, Refusal> {
        let file = self.root.join(&stale.path);
        let (bytes, sha256) = read_file(&file, self.limits.max_bytes)?;
        if stale.sha256 != sha256 {
            let reason = "the file has changed since it was loaded".to_owned();
            return Err((code::CHANGED.to_owned(), reason));
        }
        let prepared = messages::contain(|| {
            let photo = decode(&bytes, &self.limits, Some(self.side))?;
            let crop = |StaleGarment { bbox, is_whole, .. }: &StaleGarment| {
                if *is_whole {
                    return self.prepare.prepare(&photo.whole());
                }
                let bbox = BoundingBox {
                    x1: bbox.x1 as f32,
                    y1: bbox.y1 as f32,
                    x2: bbox.x2 as f32,
                    y2: bbox.y2 as f32,
                };
                self.prepare.prepare(&photo.crop(bbox.with_margin(&photo)))
            };
            Ok(stale.garments.iter().map(crop).collect())
        });
        match prepared {
            Ok(prepared) => prepared.map_err(|error: lookbook_vision::Error| {
                (error.code().as_str().to_owned(), error.to_string())
            }),
            Err(panic) => Err((
                code::DECODER_PANIC.to_owned(),
                format!("the decoder failed: {panic}"),
            )),
        }
    }
}

fn embed(
    embedder: &mut Embedder,
    sizes: &BatchSize,
    meter: &Meter,
    stop: &Stop,
    (input, output): (&Receiver<Prepared>, &Sender<Vectors>),
) {
    let size = (sizes, |prepared: &Prepared| prepared.tensors.len());
    in_batches(stop, meter, (input, output), size, |photos, _| {
        let tensors: Vec<Tensor> = photos
            .iter()
            .flat_map(|photo| photo.tensors.clone())
            .collect();
        let mut vectors = match embedder.embed_prepared(&tensors) {
            Ok(vectors) => vectors.into_iter(),
            Err(error) => {
                let error = anyhow::Error::from(error);
                stop.fail(error.context(format!("the model failed for {}", photos[0].photo.path)));
                return Vec::new();
            }
        };
        let own = |Prepared { photo, .. }: Prepared| {
            let id = photo.id;
            let garments = photo.garments.into_iter().zip(&mut vectors);
            let new = |(garment, vector): (StaleGarment, Vec<f32>)| NewVector {
                place: garment.place,
                photo: id,
                bbox: garment.bbox,
                vector,
            };
            garments.map(new).collect()
        };
        photos.into_iter().map(own).collect()
    });
}

fn write(
    shadow: &Shadow,
    client: &mut Client,
    input: &Receiver<Vectors>,
    tally: &Tally,
    stop: &Stop,
) {
    let mut photos = 0;
    let mut vectors: Vectors = Vec::new();
    let mut oldest = Instant::now();
    loop {
        let received = input.recv_deadline(oldest + COMMIT_PERIOD);
        let is_over = matches!(received, Err(RecvTimeoutError::Disconnected));
        if let Ok(photo) = received {
            photos += 1;
            vectors.extend(photo);
        }
        let is_due = is_over || photos >= COMMIT_PHOTOS || oldest.elapsed() >= COMMIT_PERIOD;
        if is_due {
            if !vectors.is_empty() {
                if let Err(error) = shadow.fill(client, &vectors) {
                    return stop.fail(error);
                }
                tally.commit(photos, 0, vectors.len());
            }
            (photos, oldest) = (0, Instant::now());
            vectors.clear();
        }
        if is_over {
            return;
        }
    }
}

fn collect(missing: &Receiver<(bool, i64, String)>) -> Missing {
    let mut found = Missing::default();
    for (is_gone, id, path) in missing {
        match is_gone {
            true => found.gone.push((id, path)),
            false => found.other.push((id, path)),
        }
    }
    found
}
