//! The model rows: which one a verb uses, and its bytes.

use std::fmt;

use anyhow::{Result, bail};
use postgres::{Client, Row};

use super::ours;

/// What a model does; its text is the `kind` of `lookbook_model`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelKind {
    Detector,
    Embedder,
    Pose,
}

impl ModelKind {
    fn setting(self) -> &'static str {
        match self {
            Self::Detector => "lookbook.detect_model",
            Self::Embedder => "lookbook.embed_model",
            Self::Pose => "lookbook.pose_model",
        }
    }
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detector => "detector",
            Self::Embedder => "embedder",
            Self::Pose => "pose",
        })
    }
}

/// A row of `lookbook_model` without its bytes.
#[derive(Debug, Clone)]
pub struct ModelRow {
    pub name: String,
    pub kind: String,
    /// Hex digest of the ONNX file.
    pub sha256: String,
    /// JSON text.
    pub manifest: String,
}

impl From<Row> for ModelRow {
    fn from(row: Row) -> Self {
        Self {
            name: row.get(0),
            kind: row.get(1),
            sha256: row.get(2),
            manifest: row.get(3),
        }
    }
}

/// Rows without their bytes.
fn rows(client: &mut Client) -> Result<String> {
    let models = ours(client, "lookbook_model")?;
    Ok(format!(
        "SELECT name::text, kind::text, sha256::text, manifest::text FROM {models}"
    ))
}

/// The model to use: the one named, else that of the setting `lookbook.detect_model` or
/// `lookbook.embed_model`, else the default of its kind, where the user's row wins over the shipped.
pub fn choose_model(client: &mut Client, kind: ModelKind, named: Option<&str>) -> Result<ModelRow> {
    let name = match named {
        Some(name) => name.to_owned(),
        None => default_name(client, kind)?,
    };
    let model = model_of_name(client, &name)?;
    if model.kind != kind.to_string() {
        bail!("model {name:?} is of kind {}, not {kind}", model.kind);
    }
    Ok(model)
}

/// As [`choose_model`], but `None` where none is named and there is no default.
pub fn choose_model_if_any(
    client: &mut Client,
    kind: ModelKind,
    named: Option<&str>,
) -> Result<Option<ModelRow>> {
    if named.is_none() && any_default_name(client, kind)?.is_none() {
        return Ok(None);
    }
    choose_model(client, kind, named).map(Some)
}

/// The model of that name, if the user may use it.
pub fn model_of_name(client: &mut Client, name: &str) -> Result<ModelRow> {
    let rows = rows(client)?;
    if let Some(row) = client.query_opt(&format!("{rows} WHERE name = $1"), &[&name])? {
        return Ok(row.into());
    }
    let rows = client.query(&format!("{rows} ORDER BY 1"), &[])?;
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    if names.is_empty() {
        bail!("there is no model {name:?} in this database, and no other that you may use");
    }
    bail!(
        "there is no model {name:?} in this database; there are: {}",
        names.join(", ")
    );
}

/// A model with these bytes, if the user may use one.
pub fn model_by_sha256(client: &mut Client, sha256: &str) -> Result<Option<ModelRow>> {
    let query = format!(
        "{} WHERE sha256 = $1 ORDER BY shipped DESC, name LIMIT 1",
        rows(client)?
    );
    Ok(client.query_opt(&query, &[&sha256])?.map(ModelRow::from))
}

/// The ONNX file of a model.
pub fn fetch_onnx(client: &mut Client, name: &str) -> Result<Vec<u8>> {
    let models = ours(client, "lookbook_model")?;
    let query = format!("SELECT onnx FROM {models} WHERE name = $1");
    let row = client.query_one(&query, &[&name])?;
    Ok(row.get(0))
}

fn any_default_name(client: &mut Client, kind: ModelKind) -> Result<Option<String>> {
    let defaults = ours(client, "lookbook_default_model")?;
    let query = format!(
        "SELECT coalesce(nullif(pg_catalog.current_setting($1, true), ''), \
         (SELECT name::text FROM {defaults} WHERE kind = $2 ORDER BY shipped LIMIT 1))"
    );
    let row = client.query_one(&query, &[&kind.setting(), &kind.to_string()])?;
    Ok(row.get(0))
}

fn default_name(client: &mut Client, kind: ModelKind) -> Result<String> {
    match any_default_name(client, kind)? {
        Some(name) => Ok(name),
        None => bail!(
            "this database has no default {kind}: choose one with lookbook model default NAME (lookbook model list shows them), or store one with lookbook model add"
        ),
    }
}
