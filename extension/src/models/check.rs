//! `lookbook_model_check`: everything that can be wrong with a model, before its row is stored.

use crate::inference;
use crate::settings::errors::{self, UserError};
use lookbook_vision::Manifest;
use pgrx::prelude::*;
use pgrx::{JsonB, PgSqlErrorCode};

/// Checks a row that comes in and returns the sha256 of its ONNX file.
/// NULLs are left to the NOT NULL constraints, except where there is nothing to check without.
#[pg_extern]
fn lookbook_model_check(
    name: Option<&str>,
    kind: Option<&str>,
    sha256: Option<&str>,
    manifest: Option<JsonB>,
    onnx: Option<&[u8]>,
) -> Result<String, UserError> {
    let (Some(manifest), Some(onnx)) = (manifest, onnx) else {
        return Err(errors::error(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            "a model needs a manifest and an ONNX file, and one of them is NULL",
        ));
    };
    let name = name.unwrap_or("NULL");
    let json = manifest.0.to_string();
    let manifest =
        Manifest::from_json(&json).map_err(|reason| errors::refused_model(name, reason))?;
    columns_match(&manifest, name, kind.unwrap_or("NULL"))?;
    manifest
        .check_digest(onnx)
        .map_err(|reason| errors::refused_model(name, reason))?;
    if let Some(stated) = sha256.filter(|stated| *stated != manifest.sha256()) {
        return Err(errors::error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!(
                "model \"{name}\" was refused: the sha256 of its ONNX file is {}, not {stated}",
                manifest.sha256()
            ),
        ));
    }
    inference::check_model(&manifest, json, onnx)?
        .map_err(|reason| errors::refused_model(name, reason))?;
    Ok(manifest.sha256().to_owned())
}

/// The name and kind beside a manifest repeat what the manifest says.
pub(super) fn columns_match(manifest: &Manifest, name: &str, kind: &str) -> Result<(), UserError> {
    let columns = [
        ("name", name, manifest.name()),
        ("kind", kind, manifest.kind().as_str()),
    ];
    match columns.into_iter().find(|(_, given, stated)| given != stated) {
        None => Ok(()),
        Some((column, given, stated)) => Err(errors::error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("model \"{name}\" was refused: its {column} is \"{given}\", but its manifest says \"{stated}\""),
        )
        .set_hint(format!("Give both the same {column}."))),
    }
}
