//! A folder as a source: every file at any depth whose name says photo, sorted by path.
//!
//! Links are followed; a link that leads back to its own folder is a reject. Hidden files and
//! folders are left alone: they are thumbnails and other programs' books.

use std::{
    ffi::OsStr,
    path::{Component, Path},
};

use anyhow::{Context, Result};
use walkdir::{DirEntry, WalkDir};

use super::{Catalogue, Entry, Reject, code, sku_of};

/// Extensions of photos, also of kinds that cannot be decoded, so that those are reported and not
/// silently missing.
const PHOTO_EXTENSIONS: &[&str] = &[
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", // decoded
    "heic", "heif", "avif", "jp2", "jxl", "psd", "raw", "cr2", "nef", "dng", // reported
];

pub fn scan(root: &Path) -> Result<Catalogue> {
    std::fs::read_dir(root).with_context(|| format!("cannot list {}", root.display()))?;
    let mut catalogue = Catalogue::default();
    let walk = WalkDir::new(root).follow_links(true).into_iter();
    for item in walk.filter_entry(|item| item.depth() == 0 || !is_hidden(item.file_name())) {
        match item {
            Ok(item) if item.file_type().is_dir() => {}
            Ok(item) if is_photo_name(item.file_name()) => add(&mut catalogue, root, &item),
            Ok(_) => catalogue.ignored += 1,
            Err(error) => catalogue.rejects.push(reject_of(root, &error)),
        }
    }
    catalogue.entries.sort_by(|a, b| a.path.cmp(&b.path));
    catalogue.rejects.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(catalogue)
}

fn add(catalogue: &mut Catalogue, root: &Path, item: &DirEntry) {
    match relative(root, item.path()) {
        Ok(path) => catalogue.entries.push(Entry {
            sku: sku_of(&path),
            path,
            file: item.path().to_owned(),
            attributes: None,
        }),
        Err(lossy) => catalogue.rejects.push(Reject::new(
            lossy,
            code::PATH_NOT_UTF8,
            "the name is not UTF-8, so it cannot be stored as text: rename the file",
        )),
    }
}

/// The path under `root` with `/` between its parts; `Err` has a readable form of one that is not
/// UTF-8.
fn relative(root: &Path, path: &Path) -> Result<String, String> {
    let path = path.strip_prefix(root).unwrap_or(path);
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let parts: Option<Vec<&str>> = parts.map(OsStr::to_str).collect();
    parts
        .map(|parts| parts.join("/"))
        .ok_or_else(|| path.display().to_string())
}

fn reject_of(root: &Path, error: &walkdir::Error) -> Reject {
    let path = error.path().unwrap_or(root);
    let path = relative(root, path).unwrap_or_else(|lossy| lossy);
    let code = match error.io_error().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::NotFound) => code::NOT_FOUND,
        _ => code::UNREADABLE,
    };
    let reason = match (error.loop_ancestor(), error.io_error()) {
        (Some(_), _) => "a link that leads back to its own folder".to_owned(),
        (None, Some(cause)) => cause.to_string(),
        (None, None) => error.to_string(),
    };
    Reject::new(path, code, reason)
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn is_photo_name(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    extension.is_some_and(|extension| {
        PHOTO_EXTENSIONS
            .iter()
            .any(|known| known.eq_ignore_ascii_case(extension))
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{ffi::OsStrExt, fs::symlink},
    };

    use super::*;

    #[test]
    fn photos_come_sorted_by_path_and_other_files_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("b/.thumbnails")).unwrap();
        for name in [
            "z.JPG",
            "b/a.png",
            "a.jpeg",
            "notes.txt",
            "._a.jpg",
            "b/.thumbnails/a.jpg",
            "b.heic",
        ] {
            fs::write(root.join(name), b"x").unwrap();
        }
        let catalogue = scan(root).unwrap();
        let paths: Vec<&str> = catalogue
            .entries
            .iter()
            .map(|entry| entry.path.as_str())
            .collect();
        assert_eq!(paths, ["a.jpeg", "b.heic", "b/a.png", "z.JPG"]);
        assert_eq!(catalogue.entries[2].sku, "b/a");
        assert_eq!((catalogue.ignored, catalogue.rejects.len()), (1, 0));
    }

    #[test]
    fn names_that_are_not_utf8_and_broken_links_are_rejects() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::write(root.join(OsStr::from_bytes(b"caf\xe9.jpg")), b"x").unwrap();
        symlink("nowhere", root.join("dangling.jpg")).unwrap();
        symlink(root, root.join("loop")).unwrap();
        let catalogue = scan(root).unwrap();
        assert!(catalogue.entries.is_empty());
        let codes: Vec<&str> = catalogue
            .rejects
            .iter()
            .map(|reject| reject.code.as_str())
            .collect();
        assert_eq!(
            codes,
            [code::PATH_NOT_UTF8, code::NOT_FOUND, code::UNREADABLE]
        );
    }
}
