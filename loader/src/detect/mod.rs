//! `lookbook detect`: what the detector sees, as a list and as pictures to look at.

mod draw;

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, ensure};
pub use draw::colour_of;
use draw::{Labelled, draw};
use lookbook_vision::{
    Detection, Detector, Limits, Photo, SessionOptions, decode, decode_side_alone,
};

use crate::{
    args::DetectArgs,
    database::{ModelKind, choose_model, connect},
    messages::{self, Ending},
    runtime::{self, ModelFiles},
};

pub fn run(args: &DetectArgs) -> Result<Ending> {
    let pictures = pictures(args)?;
    let mut detector = open(args)?;
    let mut failed = 0;
    for (photo, picture) in args.photos.iter().zip(&pictures) {
        if picture.is_none() && !messages::is_read() {
            break;
        }
        if let Err(error) = look_at(&mut detector, photo, picture.as_deref()) {
            failed += 1;
            if failed == args.photos.len() {
                return Err(error);
            }
            messages::warn(messages::render(&error));
        }
    }
    Ok(if failed == 0 {
        Ending::Complete
    } else {
        Ending::Partial
    })
}

/// The picture to write for each photo, none of which is a photo itself.
fn pictures(args: &DetectArgs) -> Result<Vec<Option<PathBuf>>> {
    let pictures: Vec<Option<PathBuf>> = match (&args.out, &args.out_dir) {
        (Some(file), _) => {
            ensure!(
                args.photos.len() == 1,
                "--out takes one photo, {} were given: use --out-dir FOLDER",
                args.photos.len()
            );
            let extension = file.extension().unwrap_or_default();
            ensure!(
                extension.eq_ignore_ascii_case("png"),
                "--out writes a PNG file, and {} does not end in .png: give FILE.png",
                file.display()
            );
            vec![Some(file.clone())]
        }
        (None, Some(folder)) => {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
            let mut taken = HashSet::new();
            let photos = args.photos.iter();
            photos
                .map(|photo| Some(picture_in(folder, photo, &mut taken)))
                .collect()
        }
        (None, None) => vec![None; args.photos.len()],
    };
    let canonical = |file: &PathBuf| fs::canonicalize(file).ok();
    let photos: HashSet<PathBuf> = args.photos.iter().filter_map(canonical).collect();
    for picture in pictures.iter().flatten() {
        ensure!(
            canonical(picture).is_none_or(|file| !photos.contains(&file)),
            "{} is one of the photos and would be overwritten: write elsewhere",
            picture.display()
        );
    }
    Ok(pictures)
}

fn open(args: &DetectArgs) -> Result<Detector> {
    let files = match &args.model_file {
        Some(file) => ModelFiles::beside(file)?,
        None => {
            let url = args.database.url.as_deref();
            let mut client = connect(url)
                .context("models come from a database or from --model-file NAME.onnx")?;
            let row = choose_model(
                &mut client,
                ModelKind::Detector,
                args.detect_model.as_deref(),
            )?;
            ModelFiles::of_row(&mut client, &row)?
        }
    };
    let options = SessionOptions {
        device: args.runtime.device.first(),
        threads: runtime::threads(&args.runtime),
        batch: 0,
    };
    files.open_detector(&runtime::load(&args.runtime)?, &options)
}

/// Reads and decodes a photo, whatever it is.
pub fn photo_of(file: &Path, side: u32) -> Result<Photo> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let decoded = messages::contain(|| decode(&bytes, &Limits::default(), Some(side)));
    let decoded = decoded.map_err(|panic| anyhow!("the decoder failed: {panic}"));
    let wrong = || format!("cannot use {}", file.display());
    decoded.and_then(|decoded| Ok(decoded?)).with_context(wrong)
}

fn look_at(detector: &mut Detector, file: &Path, picture: Option<&Path>) -> Result<()> {
    let photo = photo_of(file, decode_side_alone(detector))?;
    let found = detector
        .detect(&[photo.whole()])
        .with_context(|| format!("cannot detect in {}", file.display()))?
        .pop()
        .unwrap_or_default();
    let garments = if found.len() == 1 {
        "garment"
    } else {
        "garments"
    };
    let (width, height) = (photo.width(), photo.height());
    messages::print(format_args!(
        "{}: {} {garments} ({width} x {height})",
        messages::shown(file.display()),
        found.len()
    ))?;
    for garment in &found {
        let b = garment.bbox;
        messages::print(format_args!(
            "  {:<10} {:<10} {:.2}  {:.0},{:.0} to {:.0},{:.0}",
            garment.group.as_str(),
            garment.label,
            garment.score,
            b.x1,
            b.y1,
            b.x2,
            b.y2
        ))?;
    }
    if let Some(target) = picture {
        drawn(&photo, &found)
            .save_with_format(target, image::ImageFormat::Png)
            .with_context(|| format!("cannot write {}", target.display()))?;
        messages::print(format_args!("  -> {}", messages::shown(target.display())))?;
    }
    Ok(())
}

/// The photo at the scale it was decoded at, with its garments marked.
fn drawn(photo: &Photo, found: &[Detection]) -> image::RgbImage {
    let mut picture = photo.pixels().clone();
    let across = picture.width() as f32 / photo.width() as f32;
    let down = picture.height() as f32 / photo.height() as f32;
    let boxes: Vec<Labelled> = found
        .iter()
        .map(|garment| Labelled {
            left: garment.bbox.x1 * across,
            top: garment.bbox.y1 * down,
            right: garment.bbox.x2 * across,
            bottom: garment.bbox.y2 * down,
            text: format!("{} {:.2}", garment.label, garment.score),
            colour: colour_of(garment.group.as_str()),
        })
        .collect();
    draw(&mut picture, &boxes);
    picture
}

/// `NAME.detected.png`; photos of the same name in other folders get a number.
fn picture_in(folder: &Path, photo: &Path, taken: &mut HashSet<PathBuf>) -> PathBuf {
    let stem = photo
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let numbered = (2..).map(|number| format!("{stem}-{number}"));
    let names = std::iter::once(stem.clone()).chain(numbered);
    for name in names {
        let file = folder.join(format!("{name}.detected.png"));
        if taken.insert(file.clone()) {
            return file;
        }
    }
    unreachable!("numbers do not run out")
}
