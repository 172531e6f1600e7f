//! Model files of the database, kept in the user's cache folder under their sha256.
//!
//! Invariant: what is handed out has the digest that was asked for, whatever the folder holds; a
//! file there is whole or absent. Without a usable folder the bytes come from the database each time.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::messages;

/// The ONNX bytes with that digest: from the cache, else from `fetch`, and kept.
pub fn onnx(sha256: &str, fetch: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let folder = folder();
    let file = folder
        .as_ref()
        .map(|folder| folder.join(format!("{sha256}.onnx")));
    if let Some(bytes) = file.as_deref().and_then(|file| fs::read(file).ok())
        && hex_sha256(&bytes) == sha256
    {
        return Ok(bytes);
    }
    let bytes = fetch()?;
    let found = hex_sha256(&bytes);
    if found != sha256 {
        bail!("the model's bytes in the database have sha256 {found}, its row says {sha256}");
    }
    if let (Some(folder), Some(file)) = (folder, file)
        && let Err(error) = keep(&folder, &file, &bytes)
    {
        messages::detail(format_args!("lookbook: model not cached: {error:#}"));
    }
    Ok(bytes)
}

/// Lower-case hex of the sha256 of `bytes`.
pub fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// `$XDG_CACHE_HOME/lookbook/models`, else `~/.cache/lookbook/models`.
pub fn folder() -> Option<PathBuf> {
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("lookbook").join("models"))
}

fn keep(folder: &Path, file: &Path, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut part = tempfile::NamedTempFile::new_in(folder)?;
    part.write_all(bytes)?;
    part.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_what_the_row_says_are_refused() {
        let error = onnx(&"0".repeat(64), || Ok(b"model".to_vec()))
            .unwrap_err()
            .to_string();
        assert!(error.contains(&hex_sha256(b"model")), "{error}");
    }

    #[test]
    fn a_kept_file_is_whole_and_replaces_a_broken_one() {
        let folder = tempfile::tempdir().unwrap();
        let models = folder.path().join("models");
        let file = models.join("x.onnx");
        keep(&models, &file, b"broken").unwrap();
        keep(&models, &file, b"whole").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"whole");
        assert_eq!(fs::read_dir(&models).unwrap().count(), 1);
    }

    #[test]
    fn a_digest_is_lower_case_hex() {
        assert!(hex_sha256(b"").starts_with("e3b0c44298fc1c149afbf4c8996fb924"));
    }
}
