//! What there is to load: the photos that folders, manifests, archives, stores and queries name, in a fixed order.
//!
//! Decodes no photo and writes nowhere. Invariants: the same sources give the same items in the
//! same order; no two items share a path (the second one is a reject); at any time only the item at
//! hand is held, not the catalogue, but for sixteen bytes a photo and the names of a folder.

mod archive;
mod decimal;
mod fetch;
mod folder;
mod json;
mod manifest;
mod names;
mod patterns;
mod producer;
mod remote;
mod sql;
mod statement;

use std::{
    collections::HashSet,
    fmt,
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, bail};
pub use decimal::Decimal;
pub use fetch::Fetcher;
use lookbook_vision::Group;
use names::Fingerprint;
pub use names::{is_hidden, is_photo_name, sku_of};
use patterns::Filter;
use remote::Address;
use remote::name_of;
pub use remote::{Network, recorded_name};

use crate::{args::SourceArgs, interrupt};

/// A photo to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its identity in the database: relative to the folder, the manifest or the archive, with `/`.
    pub path: String,
    /// The product it shows, a file's name standing in; `None` where the source has a key of its own and no product.
    pub sku: Option<String>,
    /// The category of the garments that are the product, where the source says it: the others are worn with them.
    pub sells: Option<Group>,
    /// What else the source says of it, a JSON object.
    pub attributes: Option<serde_json::Value>,
}

impl Entry {
    /// The product for tables that cannot do without.
    pub fn product(&self) -> &str {
        self.sku.as_deref().unwrap_or_else(|| sku_of(&self.path))
    }
}

/// Where a photo's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    File(PathBuf),
    /// A file outside of the folder whose files were meant: what is no photo there is not quoted.
    Elsewhere(PathBuf),
    /// They had to be read to get here.
    Held(Vec<u8>),
    Remote(Address),
}

impl Place {
    /// What it keeps in memory.
    pub fn held_bytes(&self) -> usize {
        match self {
            Self::Held(bytes) => bytes.len(),
            Self::File(_) | Self::Elsewhere(_) | Self::Remote(_) => 0,
        }
    }

    /// What a text names: an address, else a file, in `folder` where it is relative.
    fn of_text(text: &str, folder: &Path) -> Result<Self> {
        match Address::of_text(text) {
            Some(Ok(address)) => Ok(Self::Remote(address)),
            Some(Err(reason)) => bail!("{text:?} {reason}"),
            None => Ok(match Self::inside(Path::new(text), folder) {
                Some(file) => Self::File(file),
                None => Self::Elsewhere(folder.join(text)),
            }),
        }
    }

    /// The file in `root`, whether the path begins there or says so itself; `None` where it leaves it.
    pub fn inside(path: &Path, root: &Path) -> Option<PathBuf> {
        let named = |root: &Path| path.strip_prefix(root).ok().map(Path::to_owned);
        let rest = match path.is_absolute() {
            false => path.to_owned(),
            true => {
                let as_written = std::path::absolute(root.join("")).ok();
                let resolved = root.join(".").canonicalize().ok();
                as_written
                    .as_deref()
                    .and_then(named)
                    .or_else(|| named(resolved.as_deref()?))?
            }
        };
        let stays = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        rest.components().all(stays).then(|| root.join(rest))
    }
}

/// A photo and its bytes' place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub entry: Entry,
    pub place: Place,
}

/// A photo that cannot be loaded, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    pub path: String,
    /// Stable, snake_case: of `lookbook_vision::ErrorCode`, or one of the constants of [`code`].
    pub code: String,
    pub reason: String,
}

impl Reject {
    pub fn new(path: impl Into<String>, code: &str, reason: impl ToString) -> Self {
        Self {
            path: path.into(),
            code: code.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// Code and reason of a reject whose path is known elsewhere.
pub type Refusal = (String, String);

/// Codes of rejects that are not about the pixels; those are `lookbook_vision`'s.
pub mod code {
    pub const PATH_NOT_UTF8: &str = "path_not_utf8";
    pub const UNREADABLE: &str = "unreadable";
    pub const NOT_FOUND: &str = "not_found";
    pub const NOT_A_FILE: &str = "not_a_file";
    pub const CHANGED: &str = "changed";
    pub const NOT_FULL_FRONT_POSE: &str = "not_full_front_pose";
    pub const DECODER_PANIC: &str = "decoder_panic";
    pub const DUPLICATE: &str = "duplicate";
    pub const ARCHIVE_DAMAGED: &str = "archive_damaged";
    pub const CATEGORY_INVALID: &str = "category_invalid";
    pub const METADATA_INVALID: &str = "metadata_invalid";
    pub const IMAGE_MISSING: &str = "image_missing";
    pub const KEY_MISSING: &str = "key_missing";
    pub const PATH_OUTSIDE: &str = "path_outside";
}

/// What comes next: a photo, or one that cannot be loaded.
pub type Found = Result<Item, Reject>;
/// An error ends the load.
type Items = Box<dyn Iterator<Item = Result<Found>> + Send>;

/// Whether the photo of that path is wanted.
type PathFilter<'a> = Box<dyn Fn(&str) -> bool + Send + 'a>;

/// One folder, manifest or archive.
struct Part {
    items: Items,
    /// Items in all, where that is known before they are read.
    total: Option<usize>,
    /// Whether each of its rows is a photo; else its files are, by their names.
    is_list: bool,
    /// Whether photos may have to be fetched from elsewhere.
    is_remote: bool,
}

/// Everything the user named, as one sequence of photos.
pub struct Source<'a> {
    /// As the user wrote it.
    name: String,
    items: Items,
    total: Option<usize>,
    /// All parts are lists.
    is_list: bool,
    is_remote: bool,
    /// Files that are not photos by their name, so far.
    ignored: Arc<AtomicUsize>,
    fetcher: Arc<Fetcher>,
    filters: Vec<PathFilter<'a>>,
    limit: usize,
    /// Paths of items and rejects, whether or not a filter let them through.
    seen: HashSet<Fingerprint>,
    /// Some of it could not be listed.
    is_damaged: bool,
    is_over: bool,
}

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<'a> Source<'a> {
    /// Finds out of which kind each of `args.sources` is, and checks what can be checked beforehand.
    /// Photos of more than `max_bytes` are not even held. A query runs in `database` where the user named
    /// no other.
    pub fn open(args: &SourceArgs, database: Option<&str>, max_bytes: u64) -> Result<Self> {
        args.check()?;
        let ignored = Arc::new(AtomicUsize::new(0));
        let fetcher = Arc::new(Fetcher::new(args, max_bytes));
        let opener = Opener {
            args,
            max_bytes,
            ignored: &ignored,
            fetcher: &fetcher,
        };
        let mut parts = Vec::new();
        if let Some(query) = &args.from_sql {
            let url = args.from_database.as_deref().or(database);
            parts.push(sql::part(query, url, args, max_bytes)?);
        }
        for source in &args.sources {
            opener.open(source, &mut parts)?;
        }
        if parts.is_empty() {
            bail!("required arguments are missing: lookbook load SOURCE..., or --from-sql QUERY");
        }
        let totals: Option<Vec<usize>> = parts.iter().map(|part| part.total).collect();
        Ok(Self {
            name: args.to_string(),
            total: totals.map(|totals| totals.iter().sum()),
            is_list: parts.iter().all(|part| part.is_list),
            is_remote: parts.iter().any(|part| part.is_remote),
            items: Box::new(parts.into_iter().flat_map(|part| part.items)),
            ignored,
            fetcher,
            filters: Vec::new(),
            limit: usize::MAX,
            seen: HashSet::new(),
            is_damaged: false,
            is_over: false,
        })
    }

    /// Gives only photos and rejects whose path passes.
    pub fn filtered(mut self, passes: impl Fn(&str) -> bool + Send + 'a) -> Self {
        self.filters.push(Box::new(passes));
        self.total = None;
        self
    }

    /// Ends after that many photos and rejects.
    pub fn limited(mut self, limit: Option<usize>) -> Self {
        if let Some(limit) = limit {
            self.limit = limit;
            self.total = self.total.map(|total| total.min(limit));
        }
        self
    }

    /// Threads that should fetch at once: a disk wants few, a network many.
    pub fn readers(&self) -> usize {
        if self.is_remote { 16 } else { 2 }
    }

    /// Gets the bytes of the items.
    pub fn fetcher(&self) -> Arc<Fetcher> {
        self.fetcher.clone()
    }

    /// What to say when there is no photo in it.
    pub fn nothing(&self) -> String {
        if self.is_list {
            return format!(
                "{} has no rows, and each would be a photo: look at what it selects or lists",
                self.name
            );
        }
        format!(
            "{} has no photos ({} other files): photos are files whose names end in .jpg, .png, .webp, .gif, .bmp or .tiff",
            self.name,
            self.ignored()
        )
    }

    /// Photos and rejects in all, where that is known before they are read.
    pub fn total(&self) -> Option<usize> {
        self.total
    }

    /// Files that are not photos by their name; all of them once the last item was given.
    pub fn ignored(&self) -> usize {
        self.ignored.load(Ordering::Relaxed)
    }

    /// Whether it was read to its end and named nothing.
    pub fn was_empty(&self) -> bool {
        self.is_over && self.seen.is_empty()
    }

    /// Whether it was read to its end and everything could be listed.
    pub fn was_whole(&self) -> bool {
        self.is_over && !self.is_damaged
    }

    /// Whether that path was among what was read.
    pub fn named(&self, path: &str) -> bool {
        self.seen.contains(&Fingerprint::of(path))
    }

    /// The next one, before filters.
    fn read(&mut self) -> Option<Result<Found>> {
        let item = match self.items.next() {
            None => {
                self.is_over = !interrupt::is_requested();
                return None;
            }
            Some(Ok(Ok(item))) => item,
            Some(Ok(Err(reject))) => {
                // What is there and cannot be read is not gone, nor is what nobody knows the key of.
                self.is_damaged |= [code::UNREADABLE, code::ARCHIVE_DAMAGED, code::KEY_MISSING]
                    .contains(&reject.code.as_str());
                self.seen.insert(Fingerprint::of(&reject.path));
                return Some(Ok(Err(reject)));
            }
            Some(Err(error)) => {
                self.is_damaged = true;
                return Some(Err(error));
            }
        };
        if self.seen.insert(Fingerprint::of(&item.entry.path)) {
            return Some(Ok(Ok(item)));
        }
        Some(Ok(Err(Reject::new(
            item.entry.path,
            code::DUPLICATE,
            "another photo has this path already, and that one was taken: give shards that repeat their keys \
             --name-by-shard, and rows of a manifest a column of their own with --map key=COLUMN",
        ))))
    }
}

impl Iterator for Source<'_> {
    type Item = Result<Found>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.limit > 0 {
            let found = self.read()?;
            let passes = match &found {
                Ok(Ok(Item { entry, .. })) => self.filters.iter().all(|f| f(&entry.path)),
                Ok(Err(reject)) => self.filters.iter().all(|f| f(&reject.path)),
                Err(_) => true,
            };
            if passes {
                self.limit -= 1;
                return Some(found);
            }
        }
        None
    }
}

/// The files of the photos of a folder, in order; those that cannot be listed are left out.
pub fn photos_of_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let part = folder::part(folder, &Filter::default(), &Arc::default())?;
    let mut files = Vec::new();
    for found in part.items {
        if let Ok(Item {
            place: Place::File(file),
            ..
        }) = found?
        {
            files.push(file);
        }
    }
    Ok(files)
}

pub use manifest::lines as lines_of_list;

/// What all parts are opened with.
struct Opener<'a> {
    args: &'a SourceArgs,
    max_bytes: u64,
    ignored: &'a Arc<AtomicUsize>,
    fetcher: &'a Arc<Fetcher>,
}

impl Opener<'_> {
    /// The parts of one argument: one, or as many as its braces and wild cards stand for.
    fn open(&self, source: &Path, parts: &mut Vec<Part>) -> Result<()> {
        if let Some(address) = source.to_str().and_then(Address::of_text) {
            match address {
                Ok(address) => parts.push(remote::part(address, self)?),
                Err(reason) => bail!("{} {reason}", source.display()),
            }
            return Ok(());
        }
        let exists = source.symlink_metadata().is_ok();
        let pattern = source.to_str().filter(|text| patterns::is_glob(text));
        let Some(pattern) = pattern.filter(|_| !exists) else {
            parts.push(self.part(source)?);
            return Ok(());
        };
        let before = parts.len();
        for pattern in patterns::expand_ranges(pattern)? {
            if !patterns::is_glob(&pattern) {
                parts.push(self.part(Path::new(&pattern))?);
                continue;
            }
            let (root, rest) = patterns::split_root(&pattern);
            let filter = Filter::new(std::slice::from_ref(&rest), &[])?;
            if is_photo_name(&rest) || rest.ends_with('*') {
                parts.push(folder::part(
                    &root,
                    &self.filter()?.and(filter),
                    self.ignored,
                )?);
                continue;
            }
            for file in folder::files(&root, &filter)? {
                parts.push(self.part(&file)?);
            }
        }
        if parts.len() == before {
            bail!("no file matches {pattern}");
        }
        Ok(())
    }

    fn part(&self, source: &Path) -> Result<Part> {
        let kind = std::fs::metadata(source)
            .with_context(|| format!("cannot open {}", source.display()))?
            .file_type();
        if kind.is_dir() {
            return folder::part(source, &self.filter()?, self.ignored);
        }
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_ascii_lowercase();
        let has = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
        if has(&[".csv"]) {
            manifest::csv(source, None, self.args)
        } else if has(&[".tsv"]) {
            manifest::csv(source, Some(b'\t'), self.args)
        } else if has(&[".jsonl", ".ndjson"]) {
            manifest::jsonl(source, self.args)
        } else if has(&[".parquet"]) {
            manifest::parquet(source, self.args)
        } else if has(&[".tar", ".tar.gz", ".tgz"]) {
            archive::part(source, self)
        } else if is_photo_name(&name) {
            folder::single(source)
        } else {
            bail!(
                "{} is no source of photos: give a folder, a glob in quotes, a manifest (.csv, .tsv, .jsonl, .parquet), \
                 an archive (.tar, .tar.gz), s3://bucket/prefix, a URL or a photo",
                source.display()
            )
        }
    }

    fn filter(&self) -> Result<Filter> {
        Filter::new(&self.args.include, &self.args.exclude)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(of: &Path) -> Result<Source<'static>> {
        let args = SourceArgs {
            sources: vec![of.to_owned()],
            ..SourceArgs::default()
        };
        Source::open(&args, None, 100)
    }

    fn paths(source: Source<'_>) -> Vec<String> {
        source
            .map(|found| match found.unwrap() {
                Ok(item) => item.entry.path,
                Err(reject) => format!("{} [{}]", reject.path, reject.code),
            })
            .collect()
    }

    #[test]
    fn a_source_of_no_kind_says_what_to_give() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("photo.doc");
        std::fs::write(&file, b"x").unwrap();
        let error = source(&file).unwrap_err().to_string();
        assert!(
            error.contains("photo.doc is no source of photos"),
            "{error}"
        );
        let error = format!("{:#}", source(&folder.path().join("missing")).unwrap_err());
        assert!(
            error.contains("missing") && error.contains("No such file"),
            "{error}"
        );
        let error = source(&folder.path().join("*.tar")).unwrap_err();
        assert!(error.to_string().starts_with("no file matches"), "{error}");
    }

    #[test]
    fn a_path_stays_in_its_root_however_it_says_so() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let absolute = root.join("a/b.jpg");
        let of = |path: &str| Place::inside(Path::new(path), root);
        assert_eq!(of("a/b.jpg"), Some(absolute.clone()));
        assert_eq!(of(absolute.to_str().unwrap()), Some(absolute));
        let above = root.join("../b.jpg");
        for outside in [
            "/etc/passwd",
            "../b.jpg",
            "a/../../b.jpg",
            above.to_str().unwrap(),
        ] {
            assert_eq!(of(outside), None, "{outside}");
        }
        let here = std::env::current_dir().unwrap().join("b.jpg");
        assert_eq!(Place::inside(&here, Path::new("")), Some("b.jpg".into()));
    }

    #[test]
    fn a_glob_names_photos_as_its_folder_does_and_a_path_is_taken_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("shoes/new")).unwrap();
        for name in ["a.jpg", "shoes/b.png", "shoes/new/c.jpg", "odd[1].jpg"] {
            std::fs::write(root.join(name), b"x").unwrap();
        }
        assert_eq!(
            paths(source(&root.join("**/*.jpg")).unwrap()),
            ["a.jpg", "odd[1].jpg", "shoes/new/c.jpg"]
        );
        assert_eq!(
            paths(source(&root.join("shoes/{b,x}.*")).unwrap()),
            ["b.png"]
        );
        assert_eq!(source(&root.join("odd[1].jpg")).unwrap().total(), Some(1));
        let twice = SourceArgs {
            sources: vec![root.to_owned(), root.join("*.jpg")],
            exclude: vec!["shoes/**".to_owned()],
            ..SourceArgs::default()
        };
        let source = Source::open(&twice, None, 100).unwrap();
        assert_eq!(source.total(), Some(4));
        assert_eq!(
            paths(source.limited(Some(3))),
            ["a.jpg", "odd[1].jpg", "a.jpg [duplicate]"]
        );
    }
}
