//! `lookbook search`: the garments of query photos and, for each, the nearest of its category in
//! the catalogue, by one plain SQL query.

mod sheet;

use std::{
    fs::{self, OpenOptions},
    path::Path,
};

use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use image::{RgbImage, imageops};
use lookbook_vision::{
    BoundingBox, Detector, Embedder, Garment, Photo, SessionOptions, decode_side, garments,
};
use postgres::Client;
use sheet::{Card, Place, Section};

use crate::{
    args::SearchArgs,
    database::{
        Box2, EmbeddingRef, ModelKind, ModelRow, Role, Target, WHOLE_PHOTO, embedding_column_model,
    },
    detect::{colour_of, photo_of},
    load::folder_of,
    messages::{self, Ending},
    opened::Opened,
    runtime, source,
};

/// Longest side that neighbours are decoded for: they are shown small.
const NEIGHBOUR_SIDE: u32 = 512;

/// A row of the catalogue.
struct Neighbour {
    sku: String,
    path: String,
    category: String,
    label: String,
    /// `None`: the table has none, or it is the whole photo.
    bbox: Option<Box2>,
    distance: f64,
}

pub fn run(args: &SearchArgs) -> Result<Ending> {
    let mut opened = Opened::new(&args.database, &args.target)?;
    opened.target.require(&mut opened.client)?;
    let (detector, embedder) = open(args, &mut opened)?;
    let Opened { client, target, .. } = opened;
    let mut search = Search {
        args,
        client,
        target,
        detector,
        embedder,
    };
    if let Some(file) = &args.html {
        check_writable(file)?;
    }
    let mut sheets = Vec::new();
    for file in &args.photos {
        if args.html.is_none() && !messages::is_read() {
            return Ok(Ending::Complete);
        }
        match search.photo(file) {
            Ok(sheet) => sheets.push(sheet),
            Err(error) if args.photos.len() == 1 => return Err(error),
            Err(error) => messages::warn(messages::render(&error)),
        }
    }
    if sheets.is_empty() {
        let photos = messages::count(args.photos.len() as u64, "photo");
        bail!("none of {photos} could be searched with");
    }
    if let Some(file) = &args.html {
        fs::write(file, sheet::html(&sheets)).with_context(|| cannot_write(file))?;
        say_what_lacks(&sheets);
        messages::print(format_args!(
            "contact sheet: {}",
            messages::shown(file.display())
        ))?;
    }
    let is_complete = sheets.len() == args.photos.len();
    Ok(if is_complete {
        Ending::Complete
    } else {
        Ending::Partial
    })
}

/// Fails before the search where the sheet cannot be written; one that is there stays until then.
fn check_writable(file: &Path) -> Result<()> {
    let tried = match file.exists() {
        true => OpenOptions::new().append(true).open(file).map(drop),
        false => tempfile::tempfile_in(folder_of(file)).map(drop),
    };
    tried.with_context(|| cannot_write(file))
}

fn cannot_write(file: &Path) -> String {
    format!("cannot write {}", file.display())
}

/// A wrong --root looks like a sheet that is broken.
fn say_what_lacks(sheets: &[sheet::Query]) {
    let sections = sheets.iter().flat_map(|sheet| &sheet.sections);
    let cards: Vec<&Card> = sections.flat_map(|section| &section.neighbours).collect();
    let mut missing = cards.iter().filter_map(|card| {
        let reason = card.picture.as_ref().err()?;
        Some((&card.path, reason))
    });
    let Some((path, reason)) = missing.next() else {
        return;
    };
    messages::warn(format_args!(
        "{} of {} in the contact sheet without their picture: {path}: {reason}; --root FOLDER names the folder that was loaded",
        1 + missing.count(),
        messages::count(cards.len() as u64, "neighbour")
    ));
}

/// What every query photo needs.
struct Search<'a> {
    args: &'a SearchArgs,
    client: Client,
    target: Target,
    detector: Detector,
    embedder: Embedder,
}

impl<'a> Search<'a> {
    /// Prints what is found for one photo; its sheet has pictures only where one was asked for.
    fn photo(&mut self, file: &Path) -> Result<sheet::Query> {
        let side = decode_side(Some(&self.detector), &self.embedder);
        let photo = photo_of(file, side)?;
        if self.args.photos.len() > 1 {
            messages::print(messages::shown(file.display()))?;
        }
        let mut sections = Vec::new();
        for query in &self.queries(file, &photo)? {
            let category = self.category_of(query);
            let found = self.nearest(query, category)?;
            show(query, category, &found)?;
            if self.args.html.is_some() {
                sections.push(section(self.args, &photo, query, &found));
            }
        }
        Ok(sheet::Query {
            name: file.display().to_string(),
            picture: photo.pixels().clone(),
            sections,
        })
    }

    /// The garments to search for; the whole photo when there is none.
    fn queries(&mut self, file: &Path, photo: &Photo) -> Result<Vec<Garment>> {
        let mut found = garments(&mut self.detector, &mut self.embedder, photo)?;
        if let Some(category) = &self.args.category {
            found.retain(|garment| garment.category == *category);
        }
        if found.is_empty() {
            let of = self
                .args
                .category
                .as_deref()
                .map(|category| format!(" of category {category}"));
            messages::note(format_args!(
                "no garment{} was found in {}: searching with the whole photo",
                of.unwrap_or_default(),
                file.display()
            ));
            let embedding = self
                .embedder
                .embed(&[photo.whole()])?
                .pop()
                .context("no vector came back")?;
            found.push(Garment {
                category: WHOLE_PHOTO.to_owned(),
                label: WHOLE_PHOTO.to_owned(),
                score: None,
                bbox: whole(photo),
                embedding,
            });
        }
        Ok(found)
    }

    /// What to compare with: the category asked for, else the garment's own where the table has one; a whole
    /// photo is compared with everything.
    fn category_of<'q>(&self, query: &'q Garment) -> Option<&'q str>
    where
        'a: 'q,
    {
        let has_categories = self.target.column(Role::Category).is_some();
        match &self.args.category {
            Some(category) => Some(category),
            None if query.score.is_none() || !has_categories => None,
            None => Some(&query.category),
        }
    }

    fn nearest(&mut self, query: &Garment, category: Option<&str>) -> Result<Vec<Neighbour>> {
        let sql = self.target.nearest(category.is_some(), self.args.k)?;
        let second = category.map(|category| format!(", $2: '{category}'"));
        let shown = sql.replace(&self.target.distance(), "<->");
        let shown = shown.replace(&format!("::{}", self.target.vector_type()), "");
        messages::detail(format_args!(
            "{shown};  -- $1: the garment's vector{}",
            second.unwrap_or_default()
        ));
        let statement = self.client.prepare(&sql)?;
        let vector = EmbeddingRef(&query.embedding);
        let rows = match &category {
            Some(category) => self.client.query(&statement, &[&vector, category]),
            None => self.client.query(&statement, &[&vector]),
        };
        let rows = rows.with_context(|| format!("cannot search {}", self.target.garment))?;
        // A table of the shop may have none of it.
        let text = |row: &postgres::Row, at: usize| {
            let found: Option<String> = row.get(at);
            found.unwrap_or_default()
        };
        let neighbour = |row: &postgres::Row| Neighbour {
            sku: text(row, 0),
            path: text(row, 1),
            category: text(row, 2),
            label: text(row, 3),
            bbox: row.get(4),
            distance: row.get(5),
        };
        Ok(rows.iter().map(neighbour).collect())
    }
}

/// The detector of choice and the embedder that filled the column: no other may search it.
fn open(args: &SearchArgs, opened: &mut Opened) -> Result<(Detector, Embedder)> {
    let embed_row = embedder_of(opened)?;
    let Opened { client, shelf, .. } = opened;
    let detect_row = shelf.choose(client, ModelKind::Detector, args.detect_model.as_deref())?;
    let detector = shelf.files(client, &detect_row)?;
    let embedder = shelf.files(client, &embed_row)?;
    let runtime = runtime::load(&args.runtime)?;
    let options = SessionOptions {
        device: args.runtime.device.first(),
        threads: runtime::threads(&args.runtime),
        batch: 0,
    };
    Ok((
        detector.open_detector(&runtime, &options)?,
        embedder.open_embedder(&runtime, &options)?,
    ))
}

fn embedder_of(opened: &mut Opened) -> Result<ModelRow> {
    let Opened {
        client,
        target,
        shelf,
    } = opened;
    match embedding_column_model(client, target)? {
        None => shelf.choose(client, ModelKind::Embedder, None),
        Some((name, sha256)) => shelf.by_sha256(client, &sha256)?.with_context(|| {
            format!(
                "{}.{} was filled by model {name:?} (sha256 {sha256}), which {}",
                target.garment,
                target.embedding(),
                shelf.advice()
            )
        }),
    }
}

fn show(query: &Garment, category: Option<&str>, found: &[Neighbour]) -> Result<()> {
    let b = query.bbox;
    let place = format!("{:.0},{:.0} to {:.0},{:.0}", b.x1, b.y1, b.x2, b.y2);
    messages::print(format_args!("{} at {place}", title(query)))?;
    if found.is_empty() {
        let of = category.map(|category| format!(" of category {category}"));
        return messages::print(format_args!(
            "  the catalogue has no garment{}",
            of.unwrap_or_default()
        ));
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["", "sku", "distance", "category", "label", "photo"]);
    for (rank, row) in (1..).zip(found) {
        table.add_row([
            rank.to_string(),
            messages::shown(&row.sku),
            format!("{:.4}", row.distance),
            messages::shown(&row.category),
            messages::shown(&row.label),
            messages::shown(&row.path),
        ]);
    }
    for column in [0, 2] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    messages::print(format_args!("{}\n", table.trim_fmt()))
}

fn title(query: &Garment) -> String {
    match query.score {
        Some(score) if query.label == query.category => format!("{} {score:.2}", query.category),
        Some(score) => format!("{} ({} {score:.2})", query.category, query.label),
        None => "whole photo".to_owned(),
    }
}

fn section(args: &SearchArgs, photo: &Photo, query: &Garment, found: &[Neighbour]) -> Section {
    let (width, height) = (f64::from(photo.width()), f64::from(photo.height()));
    let b = query.bbox;
    let place = query.score.map(|_| Place {
        left: f64::from(b.x1) / width,
        top: f64::from(b.y1) / height,
        width: f64::from(b.width()) / width,
        height: f64::from(b.height()) / height,
    });
    let card = |row: &Neighbour| Card {
        sku: row.sku.clone(),
        label: row.label.clone(),
        distance: row.distance,
        path: row.path.clone(),
        picture: neighbour_picture(&args.root, row),
    };
    Section {
        title: title(query),
        colour: colour_of(&query.category),
        place,
        crop: cut(photo, query.bbox),
        neighbours: found.iter().map(card).collect(),
    }
}

/// The neighbour's garment, or in words why it cannot be shown.
fn neighbour_picture(root: &Path, row: &Neighbour) -> Result<RgbImage, String> {
    let inside = source::Place::inside(Path::new(&row.path), root);
    let Some(file) = inside.filter(|file| file.is_file()) else {
        return Err("not in the folder of photos".to_owned());
    };
    let photo = photo_of(&file, NEIGHBOUR_SIDE).map_err(|error| format!("{error:#}"))?;
    let Some(b) = row.bbox else {
        return Ok(photo.pixels().clone());
    };
    // A box is stored as float8; it was float4 when it was found.
    let [x1, y1, x2, y2] = [b.x1, b.y1, b.x2, b.y2].map(|edge| edge as f32);
    Ok(cut(&photo, BoundingBox { x1, y1, x2, y2 }))
}

/// A box of a photo with the margin that was embedded, at the scale the photo was decoded at.
fn cut(photo: &Photo, bbox: BoundingBox) -> RgbImage {
    let b = bbox.with_margin(photo);
    let pixels = photo.pixels();
    let across = pixels.width() as f32 / photo.width() as f32;
    let down = pixels.height() as f32 / photo.height() as f32;
    let (left, top) = ((b.x1 * across) as u32, (b.y1 * down) as u32);
    let (width, height) = (
        (b.width() * across).ceil() as u32,
        (b.height() * down).ceil() as u32,
    );
    imageops::crop_imm(pixels, left, top, width.max(1), height.max(1)).to_image()
}

fn whole(photo: &Photo) -> BoundingBox {
    BoundingBox {
        x1: 0.0,
        y1: 0.0,
        x2: photo.width() as f32,
        y2: photo.height() as f32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_catalogue_names_is_shown_from_the_folder_only() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("photos");
        fs::create_dir(&root).unwrap();
        for file in [root.join("a.png"), folder.path().join("secret.png")] {
            RgbImage::new(2, 2).save(file).unwrap();
        }
        let shown = |path: &str| {
            let row = Neighbour {
                sku: String::new(),
                path: path.to_owned(),
                category: String::new(),
                label: String::new(),
                bbox: None,
                distance: 0.0,
            };
            neighbour_picture(&root, &row)
        };
        let absolute = root.join("a.png");
        shown("a.png").unwrap();
        shown(absolute.to_str().unwrap()).unwrap();
        let secret = folder.path().join("secret.png");
        for outside in ["../secret.png", secret.to_str().unwrap()] {
            let error = shown(outside).unwrap_err();
            assert_eq!(error, "not in the folder of photos");
        }
    }
}
