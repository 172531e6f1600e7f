//! `lookbook eval retrieval`: for each query photo, is its item among the k nearest of the gallery?

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use lookbook_vision::{Detector, Embedder, Photo, View, decode_side};
use serde_json::{Map, Value, json};

use super::{
    args::{Crop, RetrievalArgs},
    lists::{Corners, Item, List},
    table::Numbers,
    vectors::Gallery,
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

/// Ranks that accuracy is given for: those of the DeepFashion benchmark, and 1 and 5.
const RANKS: [usize; 6] = [1, 5, 10, 20, 30, 50];

pub fn run(args: &RetrievalArgs) -> Result<Ending> {
    interrupt::listen()?;
    if args.crop == Crop::List && args.deepfashion_inshop.is_none() {
        bail!("--crop list takes the boxes of --deepfashion-inshop; a CSV file has none");
    }
    let list = List::of(args)?;
    let mut client = connect(args.database.url.as_deref())?;
    let embed_row = choose_model(
        &mut client,
        ModelKind::Embedder,
        args.embed_model.as_deref(),
    )?;
    let embed_files = ModelFiles::of_row(&mut client, &embed_row)?;
    let detect_files = match args.crop {
        Crop::Detect => {
            let named = args.detect_model.as_deref();
            let row = choose_model(&mut client, ModelKind::Detector, named)?;
            Some(ModelFiles::of_row(&mut client, &row)?)
        }
        Crop::None | Crop::List => None,
    };
    let runtime = runtime::load(&args.runtime)?;
    let open = |options: &_| {
        let open = |files: &ModelFiles| {
            let mut detector = files.open_detector(&runtime, options)?;
            engines::look_closer(&mut detector);
            anyhow::Ok(detector)
        };
        Ok(Engine {
            embedder: embed_files.open_embedder(&runtime, options)?,
            detector: detect_files.as_ref().map(open).transpose()?,
        })
    };
    let threads = runtime::threads(&args.runtime);
    let is_on_cpu = |engine: &Engine| !engine.embedder.provider().is_gpu();
    let mut engines = engines::on_each(&args.runtime, threads, open, is_on_cpu)?;
    let dimensions = engines[0].embedder.dimensions();
    let outcomes = workers::run(&list.items, &mut engines, Engine::embed)?;
    let used = workers::used(&list.items, outcomes)?;
    let embedded = Embedded {
        photos: used
            .photos
            .into_iter()
            .map(Embedding::new)
            .collect::<Result<_>>()?,
        skipped: used.skipped,
    };
    embedded.check()?;
    let report = embedded.search(&mut client, dimensions)?;
    report.print(args, &embed_row)?;
    Ok(workers::ending(report.skipped))
}

/// The models of one worker.
struct Engine {
    embedder: Embedder,
    detector: Option<Detector>,
}

impl Engine {
    fn embed(&mut self, items: &[Item]) -> Result<Vec<Outcome<Vec<f32>>>> {
        let side = decode_side(self.detector.as_ref(), &self.embedder);
        let photos: Vec<Outcome<Photo>> = items
            .iter()
            .map(|item| listed(item, side).map_err(|error| messages::render(&error)))
            .collect();
        let mut views = Vec::with_capacity(photos.len());
        for (item, photo) in items.iter().zip(&photos) {
            if let Ok(photo) = photo {
                views.push(view_of(self.detector.as_mut(), item, photo)?);
            }
        }
        let mut vectors = self.embedder.embed(&views)?.into_iter();
        photos
            .iter()
            .map(|photo| match photo {
                Ok(_) => Ok(Ok(vectors.next().context("a vector is missing")?)),
                Err(reason) => Ok(Err(reason.clone())),
            })
            .collect()
    }
}

/// The photo of an item, which has the item's box in it.
fn listed(item: &Item, side: u32) -> Result<Photo> {
    let photo = photo_of(&item.file, side)?;
    if let Some(bbox) = item.bbox {
        let bounds = photo.whole().bounds();
        ensure!(
            bbox.clipped_to(&bounds).area() > 0.0,
            "cannot use {}: its box {} lies outside of its {} x {} pixels",
            item.file.display(),
            Corners(bbox),
            photo.width(),
            photo.height()
        );
    }
    Ok(photo)
}

/// The part of a photo that is embedded, as the loader would cut it out.
fn view_of<'a>(detector: Option<&mut Detector>, item: &Item, photo: &'a Photo) -> Result<View<'a>> {
    let bbox = match (detector, item.bbox) {
        (None, bbox) => bbox,
        (Some(detector), _) => {
            let found = detector.detect(&[photo.whole()])?;
            let mut found = found.into_iter().next().unwrap_or_default().into_iter();
            let best = match item.group.as_deref() {
                Some(group) => {
                    found.find(|found| group == found.group.as_str() || group == found.label)
                }
                None => found.find(|found| found.score >= engines::score_threshold(detector)),
            };
            best.map(|found| found.bbox)
        }
    };
    Ok(match bbox {
        Some(bbox) => photo.crop(bbox.with_margin(photo)),
        None => photo.whole(),
    })
}

struct Embedding<'a> {
    id: i32,
    item: &'a Item,
    vector: Vec<f32>,
}

impl<'a> Embedding<'a> {
    fn new((place, item, vector): (usize, &'a Item, Vec<f32>)) -> Result<Self> {
        let id = i32::try_from(place).context("there are more photos than ids")?;
        Ok(Self { id, item, vector })
    }
}

struct Embedded<'a> {
    photos: Vec<Embedding<'a>>,
    skipped: usize,
}

impl Embedded<'_> {
    /// An error where nothing is left to search with or among.
    fn check(&self) -> Result<()> {
        let has = |is_of_role: fn(&Item) -> bool| self.photos.iter().any(|p| is_of_role(p.item));
        for (role, is_there) in [
            ("query", has(|item| item.is_query)),
            ("gallery", has(|item| item.is_gallery)),
        ] {
            ensure!(
                is_there,
                "none of the photos with the role {role} could be used: nothing was measured"
            );
        }
        Ok(())
    }

    fn search(&self, client: &mut postgres::Client, dimensions: usize) -> Result<Report> {
        let in_gallery = self.photos.iter().filter(|photo| photo.item.is_gallery);
        let vectors: Vec<(i32, &[f32])> = in_gallery
            .map(|photo| (photo.id, photo.vector.as_slice()))
            .collect();
        let most = RANKS[RANKS.len() - 1];
        let mut gallery = Gallery::fill(client, dimensions, &vectors, most)?;
        let item_of = |id: i32| {
            let at = self
                .photos
                .binary_search_by_key(&id, |photo| photo.id)
                .ok()?;
            self.photos[at].item.item.as_deref()
        };
        let mut photos_of: HashMap<Option<&str>, usize> = HashMap::new();
        for photo in self.photos.iter().filter(|photo| photo.item.is_gallery) {
            *photos_of.entry(photo.item.item.as_deref()).or_default() += 1;
        }
        let mut report = Report {
            hits: [0; RANKS.len()],
            queries: 0,
            alone: 0,
            gallery: vectors.len(),
            skipped: self.skipped,
            recall: gallery.recall()?,
        };
        for query in self.photos.iter().filter(|photo| photo.item.is_query) {
            if interrupt::is_requested() {
                bail!("interrupted: nothing was measured");
            }
            let own = query.item.item.as_deref();
            let found = gallery.nearest(&query.vector, query.id)?;
            let rank = found.iter().position(|&id| item_of(id) == own);
            for (hits, most) in report.hits.iter_mut().zip(RANKS) {
                *hits += usize::from(rank.is_some_and(|rank| rank < most));
            }
            let others = photos_of.get(&own).copied().unwrap_or(0);
            report.queries += 1;
            report.alone += usize::from(others == usize::from(query.item.is_gallery));
        }
        Ok(report)
    }
}

struct Report {
    /// Queries whose item is among the first [`RANKS`].
    hits: [usize; RANKS.len()],
    queries: usize,
    /// Queries without a photo of their item in the gallery; they count as missed.
    alone: usize,
    gallery: usize,
    skipped: usize,
    /// Share of the nearest photos that the index finds: `lookbook.recall`.
    recall: f64,
}

impl Report {
    fn print(&self, args: &RetrievalArgs, model: &ModelRow) -> Result<()> {
        if self.alone > 0 {
            messages::warn(format_args!(
                "{} of {} queries have no photo of their item in the gallery and count as missed",
                self.alone, self.queries
            ));
        }
        let accuracies = self
            .hits
            .map(|hits| hits as f64 / self.queries.max(1) as f64);
        if args.json {
            let tops = RANKS.iter().zip(accuracies);
            let mut object: Map<String, Value> = tops
                .map(|(rank, accuracy)| (format!("top{rank}"), json!(accuracy)))
                .collect();
            object.insert("queries".to_owned(), json!(self.queries));
            object.insert("gallery".to_owned(), json!(self.gallery));
            object.insert("skipped".to_owned(), json!(self.skipped));
            object.insert("recall".to_owned(), json!(self.recall));
            object.insert("model".to_owned(), json!(model.name));
            object.insert("sha256".to_owned(), json!(model.sha256));
            return messages::print_exactly(Value::Object(object));
        }
        let mut table = Numbers::new(["", "accuracy", "queries"]);
        for ((rank, accuracy), hits) in RANKS.iter().zip(accuracies).zip(self.hits) {
            table.add([
                format!("top {rank}"),
                format!("{accuracy:.3}"),
                hits.to_string(),
            ]);
        }
        table.print(format_args!(
            "model {}, {} queries, {} photos in the gallery, searched with lookbook.recall {}",
            model.name, self.queries, self.gallery, self.recall
        ))
    }
}
