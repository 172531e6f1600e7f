//! Names of photos: which look like a photo, what product stands in, whether two are the same.

use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Extensions of photos, also of kinds that cannot be decoded, so that those are reported and not
/// silently missing.
const PHOTO_EXTENSIONS: &[&str] = &[
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", // decoded
    "heic", "heif", "avif", "jp2", "jxl", "psd", "raw", "cr2", "nef", "dng", // reported
];

/// How a mistake begins: columns are told by their names.
pub const REPEATED: &str = "two columns are named";

/// Refuses columns of one name.
pub fn distinct<N: AsRef<str>>(names: &[N]) -> Result<()> {
    for (at, name) in names.iter().map(AsRef::as_ref).enumerate() {
        if names[..at].iter().any(|other| other.as_ref() == name) {
            bail!("{REPEATED} {name:?}");
        }
    }
    Ok(())
}

pub fn is_photo_name(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    extension.is_some_and(|extension| {
        PHOTO_EXTENSIONS
            .iter()
            .any(|known| known.eq_ignore_ascii_case(extension))
    })
}

/// Thumbnails and other programs' books.
pub fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
}

/// The path without the extension of its file name: the product when nothing else names it.
pub fn sku_of(path: &str) -> &str {
    let name_start = path.rfind('/').map_or(0, |slash| slash + 1);
    match path[name_start..].rfind('.') {
        Some(dot) if dot > 0 => &path[..name_start + dot],
        _ => path,
    }
}

/// `./a.jpg` and `a.jpg` are one photo.
pub fn normalised(path: &str) -> PathBuf {
    Path::new(path)
        .components()
        .filter(|part| *part != Component::CurDir)
        .collect()
}

/// Whether there is a zero character in a JSON value, which PostgreSQL's text cannot hold.
pub fn has_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_zero),
        Value::Object(values) => values
            .iter()
            .any(|(name, value)| name.contains('\0') || has_zero(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A name in sixteen bytes: half of its sha256, so that nobody can make two that meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    pub fn of(name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        Self(half)
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
}
