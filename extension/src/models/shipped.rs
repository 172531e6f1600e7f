//! The models that `make install` put beside the extension: read by its own scripts, by nobody else.

use super::check::columns_match;
use crate::settings::errors::{self, UserError};
use lookbook_vision::Manifest;
use pgrx::prelude::*;
use pgrx::{JsonB, PgSqlErrorCode, pg_sys};
use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// name, kind, sha256, manifest, onnx
type ShippedRow = (String, String, String, JsonB, Vec<u8>);
type ShippedRows = TableIterator<'static, ShippedRow>;

/// Whether a script of this extension (CREATE or ALTER EXTENSION lookbook) is running.
#[pg_extern]
fn lookbook_extension_script() -> bool {
    // SAFETY: reads two variables and the catalogue.
    unsafe {
        pg_sys::creating_extension
            && pg_sys::CurrentExtensionObject
                == pg_sys::get_extension_oid(c"lookbook".as_ptr(), true)
    }
}

/// Every shipped model, its name, kind and sha256 checked against its manifest.
#[pg_extern]
fn lookbook_shipped_models() -> Result<ShippedRows, UserError> {
    if !lookbook_extension_script() {
        return Err(errors::error(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "only CREATE EXTENSION and ALTER EXTENSION may read the shipped models",
        )
        .set_hint("They are rows of lookbook_model; lookbook_model_export() gives their bytes."));
    }
    let directory = shipped_directory();
    let rows = manifests(&directory)?
        .iter()
        .map(|path| read_model(path))
        .collect::<Result<Vec<_>, _>>()?;
    if rows.is_empty() {
        pgrx::warning!(
            "no models were shipped in \"{}\": import one before using embed_image()",
            directory.display()
        );
    }
    Ok(TableIterator::new(rows))
}

fn read_model(path: &Path) -> Result<ShippedRow, UserError> {
    let text = String::from_utf8(read(path)?).map_err(|error| broken(path, &error))?;
    let onnx = read(&path.with_extension("onnx"))?;
    let manifest = Manifest::from_json(&text).map_err(|error| broken(path, &error))?;
    manifest
        .check_digest(&onnx)
        .map_err(|error| broken(path, &error))?;
    let stem = path
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    columns_match(&manifest, &stem, manifest.kind().as_str())?;
    let json = serde_json::from_str(&text).map_err(|error| broken(path, &error))?;
    let [name, kind, sha256] =
        [manifest.name(), manifest.kind().as_str(), manifest.sha256()].map(str::to_owned);
    Ok((name, kind, sha256, JsonB(json), onnx))
}

fn read(path: &Path) -> Result<Vec<u8>, UserError> {
    std::fs::read(path).map_err(|error| {
        errors::error(
            PgSqlErrorCode::ERRCODE_UNDEFINED_FILE,
            format!(
                "could not read the shipped model file \"{}\": {error}",
                path.display()
            ),
        )
        .set_hint("Install lookbook again with make install.")
    })
}

fn broken(path: &Path, reason: &dyn std::fmt::Display) -> UserError {
    errors::error(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        format!(
            "the shipped model \"{}\" is damaged: {reason}",
            path.display()
        ),
    )
    .set_hint("Install lookbook again with make install.")
}

/// The manifests in `directory`, by name; none if the directory is missing.
fn manifests(directory: &Path) -> Result<Vec<PathBuf>, UserError> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let unreadable = |error: std::io::Error| {
        errors::error(
            PgSqlErrorCode::ERRCODE_IO_ERROR,
            format!(
                "could not read the directory \"{}\": {error}",
                directory.display()
            ),
        )
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension() == Some(OsStr::new("json")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// `SHAREDIR/extension/lookbook/models`.
fn shipped_directory() -> PathBuf {
    let mut share = [0 as c_char; pg_sys::MAXPGPATH as usize];
    // SAFETY: get_share_path writes at most MAXPGPATH bytes, NUL included; my_exec_path is set at start.
    let share = unsafe {
        pg_sys::get_share_path((&raw const pg_sys::my_exec_path).cast(), share.as_mut_ptr());
        CStr::from_ptr(share.as_ptr())
    };
    Path::new(OsStr::from_bytes(share.to_bytes())).join("extension/lookbook/models")
}
