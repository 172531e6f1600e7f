//! Where the models of a verb come from: rows of the database, so that its `embed_image` uses the same bytes; or, on a
//! server that has no extension, files.
//!
//! Invariant: a model is what its sha256 says, wherever it lies.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail, ensure};
use lookbook_vision::Kind;
use postgres::Client;

use crate::{
    database::{ModelKind, ModelRow, choose_model, choose_model_if_any, model_by_sha256},
    model_cache,
    runtime::ModelFiles,
};

/// Where `make install` and the sources keep the shipped models, from a folder above the program.
const SHIPPED: &[&str] = &["share/lookbook/models", "models/shipped"];
const DEFAULTS: &[&str] = &[
    "garment-detector.onnx",
    "garment-embedder.onnx",
    "full-front-pose.onnx",
];

pub enum Shelf {
    Rows,
    /// Those that were named, then the shipped ones.
    Files(Vec<(ModelRow, ModelFiles)>),
}

impl Shelf {
    /// Of a database with the extension or without.
    pub fn of(has_extension: bool, named: &[PathBuf]) -> Result<Self> {
        if has_extension {
            ensure!(
                named.is_empty(),
                "--model-file is for servers without the extension; this database keeps its models itself, so that embed_image \
                 uses the same: store the file with lookbook model add, then name it with --embed-model or --detect-model"
            );
            return Ok(Self::Rows);
        }
        let mut models = Vec::new();
        for file in named {
            models.push(read(file)?);
        }
        for name in DEFAULTS {
            if let Some(file) = shipped(name) {
                models.push(read(&file)?);
            }
        }
        Ok(Self::Files(models))
    }

    /// The one named, else the default of its kind: a row's setting, or the first file.
    pub fn choose(
        &self,
        client: &mut Client,
        kind: ModelKind,
        named: Option<&str>,
    ) -> Result<ModelRow> {
        let Self::Files(models) = self else {
            return choose_model(client, kind, named);
        };
        let mut of_kind = models
            .iter()
            .filter(|(row, _)| row.kind == kind.to_string());
        let found = of_kind.find(|(row, _)| named.is_none_or(|name| row.name == name));
        match (found, named) {
            (Some((row, _)), _) => Ok(row.clone()),
            (None, Some(name)) => bail!(
                "there is no {kind} {name:?} among the model files; give its file with --model-file NAME.onnx"
            ),
            (None, None) => bail!(
                "this database has no lookbook extension, so models come from files, and no {kind} was found: give one with \
                 --model-file NAME.onnx, its manifest NAME.json beside it (the shipped ones lie in models/shipped of the \
                 sources; looked in share/lookbook/models and models/shipped above the program)"
            ),
        }
    }

    /// As [`Self::choose`], but `None` where none is named and there is no default.
    pub fn choose_if_any(
        &self,
        client: &mut Client,
        kind: ModelKind,
        named: Option<&str>,
    ) -> Result<Option<ModelRow>> {
        match self {
            Self::Rows => choose_model_if_any(client, kind, named),
            Self::Files(models) => {
                let kind_name = kind.to_string();
                let is_there = models.iter().any(|(row, _)| row.kind == kind_name);
                match named.is_some() || is_there {
                    true => self.choose(client, kind, named).map(Some),
                    false => Ok(None),
                }
            }
        }
    }

    /// The model with these bytes, if it is there.
    pub fn by_sha256(&self, client: &mut Client, sha256: &str) -> Result<Option<ModelRow>> {
        match self {
            Self::Rows => model_by_sha256(client, sha256),
            Self::Files(models) => Ok(models
                .iter()
                .map(|(row, _)| row)
                .find(|row| row.sha256 == sha256)
                .cloned()),
        }
    }

    /// What opens it.
    pub fn files(&self, client: &mut Client, row: &ModelRow) -> Result<ModelFiles> {
        let Self::Files(models) = self else {
            return ModelFiles::of_row(client, row);
        };
        match models.iter().find(|(of, _)| of.sha256 == row.sha256) {
            Some((_, files)) => Ok(files.clone()),
            None => bail!("the file of model {:?} is not there any more", row.name),
        }
    }

    /// Where to get a model that is recorded and is not there.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Rows => {
                "is not in this database or not yours to use: store it again with lookbook model add, or ask its owner to grant it"
            }
            Self::Files(_) => {
                "is not among the model files: give its file with --model-file NAME.onnx"
            }
        }
    }
}

fn read(file: &Path) -> Result<(ModelRow, ModelFiles)> {
    let files = ModelFiles::beside(file)?;
    let kind = match files.manifest().kind() {
        Kind::Detector => ModelKind::Detector,
        Kind::Embedder => ModelKind::Embedder,
        Kind::Pose => ModelKind::Pose,
    };
    let row = ModelRow {
        name: files.manifest().name().to_owned(),
        kind: kind.to_string(),
        sha256: model_cache::hex_sha256(files.onnx()),
        manifest: fs::read_to_string(file.with_extension("json"))?,
    };
    Ok((row, files))
}

/// A shipped model, beside an installed program or in the sources above it.
fn shipped(name: &str) -> Option<PathBuf> {
    let program = env::current_exe().and_then(fs::canonicalize).ok()?;
    let mut files = program
        .ancestors()
        .skip(1)
        .flat_map(|folder| SHIPPED.iter().map(move |shipped| folder.join(shipped)))
        .map(|folder| folder.join(name));
    files.find(|file| file.is_file())
}
