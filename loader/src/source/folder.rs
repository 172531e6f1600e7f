//! A folder as a source: every file at any depth whose name says photo, sorted by path.
//!
//! Links are followed; a link that leads back to its own folder is a reject. Hidden files and
//! folders are left alone: they are thumbnails and other programs' books.

use std::{
    ffi::OsStr,
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use walkdir::{DirEntry, WalkDir};

use super::{
    Entry, Item, Part, Place, Reject, code,
    names::{is_hidden, is_photo_name, sku_of},
    patterns::Filter,
};

/// What is in a folder.
#[derive(Debug, Default)]
struct Scan {
    /// By path: the file, or why there is none. Sorted together, so that what a load meets first is no worse than the rest.
    found: Vec<(String, Result<PathBuf, Box<Reject>>)>,
    /// Files that are not photos by their name.
    others: usize,
}

pub fn part(root: &Path, filter: &Filter, ignored: &Arc<AtomicUsize>) -> Result<Part> {
    let scan = scan(root, filter)?;
    ignored.fetch_add(scan.others, Ordering::Relaxed);
    let total = scan.found.len();
    let items = scan.found.into_iter().map(|(path, file)| match file {
        Ok(file) => Ok(item(path, file)),
        Err(reject) => Err(*reject),
    });
    Ok(Part {
        items: Box::new(items.map(Ok)),
        total: Some(total),
        is_list: false,
        is_remote: false,
    })
}

/// A photo that was named itself; its path is as it was written.
pub fn single(file: &Path) -> Result<Part> {
    let Ok(path) = relative(Path::new(""), file) else {
        bail!(
            "the name {} is not UTF-8, so it cannot be stored as text: rename the file",
            file.display()
        );
    };
    let item = item(path, file.to_owned());
    Ok(Part {
        items: Box::new(std::iter::once(Ok(Ok(item)))),
        total: Some(1),
        is_list: false,
        is_remote: false,
    })
}

/// All files of a folder that the filter wants, whatever they are, in order.
pub fn files(root: &Path, filter: &Filter) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for item in walk(root)? {
        let item = item.with_context(|| format!("cannot list {}", root.display()))?;
        let is_wanted = relative(root, item.path()).is_ok_and(|path| filter.wants(&path));
        if !item.file_type().is_dir() && is_wanted {
            files.push(item.into_path());
        }
    }
    files.sort();
    Ok(files)
}

fn item(path: String, file: PathBuf) -> Item {
    Item {
        entry: Entry {
            sku: Some(sku_of(&path).to_owned()),
            path,
            sells: None,
            attributes: None,
        },
        place: Place::File(file),
    }
}

fn walk(root: &Path) -> Result<impl Iterator<Item = walkdir::Result<DirEntry>>> {
    std::fs::read_dir(root).with_context(|| format!("cannot list {}", root.display()))?;
    let walk = WalkDir::new(root).follow_links(true).into_iter();
    Ok(walk.filter_entry(|item| item.depth() == 0 || !has_hidden_name(item.path())))
}

fn has_hidden_name(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| is_hidden(&name.to_string_lossy()))
}

fn scan(root: &Path, filter: &Filter) -> Result<Scan> {
    let mut scan = Scan::default();
    for item in walk(root)? {
        match item {
            Ok(item) if item.file_type().is_dir() => {}
            Ok(item) => scan.add(root, item, filter),
            // Links are followed before the walk asks whether they are hidden.
            Err(error) if error.depth() > 0 && error.path().is_some_and(has_hidden_name) => {}
            Err(error) => scan.reject(reject_of(root, &error)),
        }
    }
    scan.found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(scan)
}

impl Scan {
    fn add(&mut self, root: &Path, item: DirEntry, filter: &Filter) {
        if !is_photo_name(&item.file_name().to_string_lossy()) {
            self.others += 1;
            return;
        }
        match relative(root, item.path()) {
            Ok(path) if filter.wants(&path) => self.found.push((path, Ok(item.into_path()))),
            Ok(_) => {}
            Err(lossy) => self.reject(Reject::new(
                lossy,
                code::PATH_NOT_UTF8,
                "the name is not UTF-8, so it cannot be stored as text: rename the file",
            )),
        }
    }

    fn reject(&mut self, reject: Reject) {
        self.found
            .push((reject.path.clone(), Err(Box::new(reject))));
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

/// What has no photo's name may be a folder: a share that is not mounted, behind a link.
fn reject_of(root: &Path, error: &walkdir::Error) -> Reject {
    let path = error.path().unwrap_or(root);
    let path = relative(root, path).unwrap_or_else(|lossy| lossy);
    let code = match error.io_error().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::NotFound) if is_photo_name(&path) => code::NOT_FOUND,
        _ => code::UNREADABLE,
    };
    let reason = match (error.loop_ancestor(), error.io_error()) {
        (Some(_), _) => "a link that leads back to its own folder".to_owned(),
        (None, Some(cause)) => cause.to_string(),
        (None, None) => error.to_string(),
    };
    Reject::new(path, code, reason)
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
        let scan = scan(root, &Filter::default()).unwrap();
        let paths: Vec<&str> = scan.found.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["a.jpeg", "b.heic", "b/a.png", "z.JPG"]);
        assert!(scan.found.iter().all(|(_, file)| file.is_ok()));
        assert_eq!(scan.others, 1);
        let all = files(root, &Filter::default()).unwrap();
        assert_eq!(all.len(), 5);
    }

    #[test]
    fn names_that_are_not_utf8_and_broken_links_are_rejects() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::write(root.join(OsStr::from_bytes(b"caf\xe9.jpg")), b"x").unwrap();
        symlink("nowhere", root.join("dangling.jpg")).unwrap();
        symlink("not-mounted", root.join("nas")).unwrap();
        symlink("nowhere", root.join(".#lock")).unwrap();
        symlink(root, root.join("loop")).unwrap();
        fs::write(root.join("good.jpg"), b"x").unwrap();
        let scan = scan(root, &Filter::default()).unwrap();
        let found: Vec<&str> = scan
            .found
            .iter()
            .map(|(path, file)| match file {
                Ok(_) => path.as_str(),
                Err(reject) => reject.code.as_str(),
            })
            .collect();
        assert_eq!(
            found,
            [
                code::PATH_NOT_UTF8,
                code::NOT_FOUND,
                "good.jpg",
                code::UNREADABLE,
                code::UNREADABLE
            ]
        );
    }
}
