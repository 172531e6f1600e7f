//! The pipeline of a change of models: list, read and crop, embed, write.
//!
//! The crops and their scale are those of a load, so that the vectors are, too. Invariant: a photo whose
//! bytes are not those that were loaded gets no vector.

use std::{collections::HashMap, path::Path, sync::Arc, thread};

use anyhow::Result;
use crossbeam_channel::{Receiver, Sender, bounded};
use lookbook_vision::{
    BoundingBox, Embedder, Limits, Preprocessor, Tensor, decode, decode_memory_bytes,
};
use postgres::Client;
use sha2::{Digest, Sha256};

use crate::{
    args::SourceArgs,
    database::{NewVector, ROW_REFUSED, Shadow, Stale, StaleGarment, Target, refusal},
    interrupt,
    load::{
        BatchSize, Budget, Meter, PIXEL_BYTES, Stop, Tally, Threads, embed_each, in_batches,
        in_commits, keep_good,
    },
    messages,
    source::{Fetcher, Item, Place, Refusal, Reject, Source, code},
};

/// Photos that are looked up at once, and bytes of theirs that are held meanwhile.
const PAGE: usize = 500;
const HELD_BYTES: usize = 64 << 20;

/// Where the photos are.
pub enum Photos<'a> {
    /// By their paths in this folder: only what lacks its vector is looked at.
    Folder(&'a Path),
    /// As a load reads them.
    Source(Source<'a>),
}

impl Photos<'_> {
    fn fetcher(&self, max_bytes: u64) -> Arc<Fetcher> {
        match self {
            Self::Folder(_) => Arc::new(Fetcher::new(&SourceArgs::default(), max_bytes)),
            Self::Source(source) => source.fetcher(),
        }
    }

    fn readers(&self, threads: usize) -> usize {
        match self {
            Self::Folder(_) => threads,
            Self::Source(source) => source.readers().max(threads),
        }
    }
}

/// What is to be filled, from where, and who hears of it.
pub struct Jobs<'a> {
    pub photos: Photos<'a>,
    pub target: &'a Target,
    pub shadow: &'a Shadow,
    pub tally: &'a Tally,
    pub stop: &'a Stop,
}

/// A photo that gets no vector.
struct Lacking {
    photo: (i64, String),
    /// Else changed, or not readable.
    is_gone: bool,
}

impl Lacking {
    fn of(photo: Stale, is_gone: bool) -> Self {
        let Stale { id, path, .. } = photo;
        Self {
            photo: (id, path),
            is_gone,
        }
    }
}

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

/// A photo with the vectors of its garments.
struct Embedded {
    photo: (i64, String),
    vectors: Vec<NewVector>,
}

/// The open model.
pub struct Filler {
    embedders: Vec<Embedder>,
    side: u32,
    threads: usize,
    sizes: BatchSize,
    limits: Limits,
}

impl Filler {
    pub fn new(embedders: Vec<Embedder>, side: u32, threads: usize, sizes: BatchSize) -> Self {
        Self {
            embedders,
            side,
            threads,
            sizes,
            limits: Limits::default(),
        }
    }

    pub fn dimensions(&self) -> usize {
        self.embedders.first().map_or(0, Embedder::dimensions)
    }

    pub fn devices(&self) -> serde_json::Value {
        let providers = self.embedders.iter().map(|model| model.provider().as_str());
        serde_json::json!({ "embedder": providers.collect::<Vec<_>>() })
    }

    /// Fills what lacks its vector; `watch` is called a few times a second. Errors end up in `stop`.
    pub fn fill(
        &mut self,
        jobs: Jobs<'_>,
        client: &mut Client,
        lister: &mut Client,
        mut watch: impl FnMut(),
    ) -> Missing {
        let Some(prepare) = self.embedders.first().map(Embedder::preprocessor) else {
            return Missing::default();
        };
        let Jobs {
            photos,
            target,
            shadow,
            tally,
            stop,
        } = jobs;
        let (sizes, batch) = (&self.sizes, self.sizes.most());
        let (list_out, read_in) = bounded::<(Stale, Place)>(64);
        let (read_out, embed_in) = bounded::<Prepared>(2 * batch);
        let (embed_out, write_in) = bounded::<Embedded>(4 * batch);
        let (missing_out, missing_in) = bounded::<Lacking>(64);
        let meter = Meter::new("embed", self.embedders.len());
        let reader = Reader {
            fetcher: photos.fetcher(self.limits.max_bytes),
            limits: self.limits,
            side: self.side,
            prepare: &prepare,
            budget: Budget::new(PIXEL_BYTES),
        };
        let readers = photos.readers(self.threads);
        let mut found = Missing::default();
        thread::scope(|scope| {
            let mut threads = Threads::new(scope, stop);
            let finder = Finder {
                shadow,
                tally,
                stop,
                output: list_out,
                missing: missing_out.clone(),
            };
            threads.start(move || finder.run(lister, photos));
            for _ in 0..readers {
                let (input, output) = (read_in.clone(), read_out.clone());
                let missing = missing_out.clone();
                let reader = &reader;
                threads.start(move || reader.run(&input, &output, &missing, tally, stop));
            }
            for embedder in &mut self.embedders {
                let (input, output) = (embed_in.clone(), embed_out.clone());
                let worker = Worker {
                    sizes,
                    meter: &meter,
                    missing: missing_out.clone(),
                    tally,
                    stop,
                };
                threads.start(move || worker.run(embedder, &input, &output));
            }
            drop((read_in, read_out, embed_in, embed_out));
            let mut writer = Writer {
                target,
                shadow,
                client,
                missing: missing_out,
                tally,
                stop,
            };
            threads.start(move || in_commits(&write_in, stop, |photos| writer.write(photos)));
            threads.start(|| found = collect(&missing_in));
            threads.wait(&mut watch);
        });
        found
    }
}

/// Finds what lacks its vector, and where its photo is.
struct Finder<'a> {
    shadow: &'a Shadow,
    tally: &'a Tally,
    stop: &'a Stop,
    output: Sender<(Stale, Place)>,
    missing: Sender<Lacking>,
}

impl Finder<'_> {
    fn run(self, client: &mut Client, photos: Photos<'_>) {
        let ended = match photos {
            Photos::Folder(root) => self.each_stale(client, |photo| {
                match Place::inside(Path::new(&photo.path), root) {
                    Some(file) => self.output.send((photo, Place::File(file))).is_ok(),
                    None => {
                        let reason = "the path leaves the folder of --root";
                        let reject = Reject::new(&photo.path, code::PATH_OUTSIDE, reason);
                        self.lacks(photo, &reject, false)
                    }
                }
            }),
            Photos::Source(source) => self.search(client, source),
        };
        if let Err(error) = ended {
            self.stop.fail(error);
        }
    }

    /// Every photo that lacks vectors, while `take` says to go on.
    fn each_stale(&self, client: &mut Client, take: impl Fn(Stale) -> bool) -> Result<()> {
        let mut last = i64::MIN;
        while !self.stop.is_requested() {
            let photos = self.shadow.stale_after(client, last)?;
            let Some(end) = photos.last() else {
                return Ok(());
            };
            last = end.id;
            if !photos.into_iter().all(&take) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What the source names and lacks vectors, then what lacks them and was not named.
    fn search(&self, client: &mut Client, mut source: Source<'_>) -> Result<()> {
        loop {
            let mut page = self.page(&mut source)?;
            if page.is_empty() {
                break;
            }
            let paths: Vec<&str> = page.keys().map(String::as_str).collect();
            let stale = self.shadow.stale_of(client, &paths)?;
            for photo in stale {
                let is_taken = match page.remove(&photo.path) {
                    Some(Ok(place)) => self.output.send((photo, place)).is_ok(),
                    Some(Err(reject)) => self.lacks(photo, &reject, false),
                    None => true,
                };
                if !is_taken {
                    return Ok(());
                }
            }
        }
        // What the source has more was not asked for.
        if interrupt::is_requested() {
            return Ok(());
        }
        let is_gone = source.was_whole();
        self.each_stale(client, |photo| {
            // What was named is on its way.
            let reason = "it is not in what was named";
            source.named(&photo.path) || {
                let reject = Reject::new(&photo.path, code::NOT_FOUND, reason);
                self.lacks(photo, &reject, is_gone)
            }
        })
    }

    /// The next photos of the source by their paths; empty at its end, and when this ends.
    fn page(&self, source: &mut Source<'_>) -> Result<HashMap<String, Result<Place, Reject>>> {
        let mut page = HashMap::new();
        let mut held = 0;
        while page.len() < PAGE && held < HELD_BYTES && !self.stop.is_requested() {
            match source.next().transpose()? {
                Some(Ok(Item { entry, place })) => {
                    held += place.held_bytes();
                    page.insert(entry.path, Ok(place));
                }
                // The first of that name is the one.
                Some(Err(reject)) if reject.code == code::DUPLICATE => {}
                Some(Err(reject)) => {
                    page.insert(reject.path.clone(), Err(reject));
                }
                None => break,
            }
        }
        Ok(page)
    }

    /// Whether to go on.
    fn lacks(&self, photo: Stale, reject: &Reject, is_gone: bool) -> bool {
        self.tally.reject(reject, self.stop);
        self.missing.send(Lacking::of(photo, is_gone)).is_ok()
    }
}

struct Reader<'a> {
    fetcher: Arc<Fetcher>,
    limits: Limits,
    side: u32,
    prepare: &'a Preprocessor,
    budget: Budget,
}

impl Reader<'_> {
    fn run(
        &self,
        input: &Receiver<(Stale, Place)>,
        output: &Sender<Prepared>,
        missing: &Sender<Lacking>,
        tally: &Tally,
        stop: &Stop,
    ) {
        for (photo, place) in input {
            if stop.is_requested() {
                return;
            }
            match self.prepare(&photo, place) {
                Ok(tensors) => {
                    if output.send(Prepared { photo, tensors }).is_err() {
                        return;
                    }
                }
                // What an interrupt ended was not looked at.
                Err(_) if interrupt::is_requested() => return,
                Err((code, reason)) => {
                    tally.reject(&Reject::new(&photo.path, &code, reason), stop);
                    let is_gone = code == code::NOT_FOUND;
                    if missing.send(Lacking::of(photo, is_gone)).is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// The inputs of the photo's garments, cropped as a load does.
    fn prepare(&self, stale: &Stale, place: Place) -> Result<Vec<Tensor>, Refusal> {
        let bytes = self.fetcher.fetch(place)?;
        if stale.sha256 != Sha256::digest(&bytes).as_slice() {
            let reason = "the photo has changed since it was loaded".to_owned();
            return Err((code::CHANGED.to_owned(), reason));
        }
        let needed = decode_memory_bytes(&bytes, &self.limits, Some(self.side));
        let _share = self.budget.take(needed);
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

/// Of one model; what it fails for is missing.
struct Worker<'a> {
    sizes: &'a BatchSize,
    meter: &'a Meter,
    missing: Sender<Lacking>,
    tally: &'a Tally,
    stop: &'a Stop,
}

impl Worker<'_> {
    fn run(self, embedder: &mut Embedder, input: &Receiver<Prepared>, output: &Sender<Embedded>) {
        let size = (self.sizes, |prepared: &Prepared| prepared.tensors.len());
        let queues = (input, output);
        in_batches(self.stop, self.meter, queues, size, |mut photos, size| {
            let counts: Vec<usize> = photos.iter().map(|photo| photo.tensors.len()).collect();
            let tensors = photos.iter_mut().flat_map(|photo| photo.tensors.drain(..));
            let tensors: Vec<Tensor> = tensors.collect();
            let embedded = embed_each(embedder, &tensors, size, counts.into_iter());
            let good = keep_good(
                photos,
                embedded,
                self.stop,
                |Prepared { photo, .. }, error| {
                    let reject = Reject::new(&photo.path, error.code().as_str(), error);
                    self.tally.reject(&reject, self.stop);
                    // Nobody listens any more when the run ends.
                    let _ = self.missing.send(Lacking::of(photo, false));
                },
            );
            let own = |(Prepared { photo, .. }, vectors): (Prepared, Vec<Vec<f32>>)| {
                let id = photo.id;
                let garments = photo.garments.into_iter().zip(vectors);
                let new = |(garment, vector): (StaleGarment, Vec<f32>)| NewVector {
                    place: garment.place,
                    photo: id,
                    bbox: garment.bbox,
                    vector,
                };
                Embedded {
                    photo: (id, photo.path),
                    vectors: garments.map(new).collect(),
                }
            };
            good.into_iter().map(own).collect()
        });
    }
}

/// A photo whose rows refuse their vectors is missing.
struct Writer<'a> {
    target: &'a Target,
    shadow: &'a Shadow,
    client: &'a mut Client,
    missing: Sender<Lacking>,
    tally: &'a Tally,
    stop: &'a Stop,
}

impl Writer<'_> {
    /// Commits them, each photo whole, in halves where one is refused.
    fn write(&mut self, photos: &[Embedded]) -> Result<()> {
        let vectors: Vec<&NewVector> = photos.iter().flat_map(|photo| &photo.vectors).collect();
        let error = match self.shadow.fill(self.client, &vectors) {
            Ok(filled) => {
                self.tally.commit(photos.len(), 0, usize::try_from(filled)?);
                return Ok(());
            }
            Err(error) => error,
        };
        let refusal = error
            .downcast_ref()
            .and_then(|cause| refusal(cause, self.target));
        match (refusal, photos) {
            (Some(reason), [alone]) => self.refuse(alone, &reason),
            (Some(_), _) => {
                let (some, others) = photos.split_at(photos.len() / 2);
                self.write(some)?;
                self.write(others)?;
            }
            (None, _) => return Err(error),
        }
        Ok(())
    }

    fn refuse(&self, Embedded { photo, .. }: &Embedded, reason: &str) {
        let reason = format!(
            "{} refuses the new vectors of its rows: {reason}",
            self.target.garment
        );
        self.tally
            .reject(&Reject::new(&photo.1, ROW_REFUSED, reason), self.stop);
        // Nobody listens any more when the run ends.
        let _ = self.missing.send(Lacking {
            photo: photo.clone(),
            is_gone: false,
        });
    }
}

fn collect(missing: &Receiver<Lacking>) -> Missing {
    let mut found = Missing::default();
    for Lacking { photo, is_gone } in missing {
        match is_gone {
            true => found.gone.push(photo),
            false => found.other.push(photo),
        }
    }
    found
}
