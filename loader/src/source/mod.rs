//! What there is to load: the photos a folder or a manifest names, in a fixed order.
//!
//! Knows no database and opens no photo. Invariant: the same folder or manifest gives the same
//! entries in the same order, and no two entries share a path.

mod folder;
mod manifest;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A photo to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its identity in the database: relative to the folder or the manifest, with `/`.
    pub path: String,
    /// Where its bytes are.
    pub file: PathBuf,
    /// The product it shows.
    pub sku: String,
    /// Further columns of the manifest, a JSON object.
    pub attributes: Option<serde_json::Value>,
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
pub type Refusal = (&'static str, String);

/// Codes of rejects that are not about the pixels; those are `lookbook_vision`'s.
pub mod code {
    pub const PATH_NOT_UTF8: &str = "path_not_utf8";
    pub const UNREADABLE: &str = "unreadable";
    pub const NOT_FOUND: &str = "not_found";
    pub const NOT_A_FILE: &str = "not_a_file";
    pub const CHANGED: &str = "changed";
    pub const DECODER_PANIC: &str = "decoder_panic";
}

/// Everything a source names.
#[derive(Debug, Default)]
pub struct Catalogue {
    pub entries: Vec<Entry>,
    /// What could not even become an entry.
    pub rejects: Vec<Reject>,
    /// Files of a folder that are not photos by their name.
    pub ignored: usize,
}

/// Reads a folder, or a `.csv` or `.tsv` manifest.
pub fn open(source: &Path) -> Result<Catalogue> {
    let kind = std::fs::metadata(source)
        .with_context(|| format!("cannot open {}", source.display()))?
        .file_type();
    if kind.is_dir() {
        return folder::scan(source);
    }
    let extension = source.extension().and_then(|extension| extension.to_str());
    match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("csv") => manifest::read(source, b','),
        Some("tsv") => manifest::read(source, b'\t'),
        _ => bail!(
            "{} is neither a folder nor a manifest: give a folder of photos, or a .csv or .tsv file with a column named path",
            source.display()
        ),
    }
}

/// The path without the extension of its file name: the product when nothing else names it.
fn sku_of(path: &str) -> String {
    let name_start = path.rfind('/').map_or(0, |slash| slash + 1);
    match path[name_start..].rfind('.') {
        Some(dot) if dot > 0 => path[..name_start + dot].to_owned(),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sku_is_the_path_without_its_extension() {
        for (path, sku) in [
            ("a.jpg", "a"),
            ("shoes/a.b.jpg", "shoes/a.b"),
            ("v1.2/photo", "v1.2/photo"),
            ("x/.jpg", "x/.jpg"),
            ("é/ü.png", "é/ü"),
        ] {
            assert_eq!(sku_of(path), sku);
        }
    }

    #[test]
    fn a_source_that_is_neither_folder_nor_manifest_says_what_to_give() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("photo.jpg");
        std::fs::write(&file, b"x").unwrap();
        let error = open(&file).unwrap_err().to_string();
        assert!(
            error.contains("photo.jpg is neither a folder nor a manifest"),
            "{error}"
        );
        let error = format!("{:#}", open(&folder.path().join("missing")).unwrap_err());
        assert!(
            error.contains("missing") && error.contains("No such file"),
            "{error}"
        );
    }
}
