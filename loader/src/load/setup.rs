//! What a load needs before its first photo: connection, lock, models, tables, what is there already.
//!
//! Invariant: a dry run takes no lock and writes nothing, and is refused where the load would be.

use anyhow::{Result, bail, ensure};

use super::engines::{self, Engines};
use crate::{
    args::LoadArgs,
    database::{
        Known, ModelKind, ModelRow, Models, Tables, Writer, check_embedding_column, choose_model,
        choose_model_if_any, claim_embedding_column, connect,
    },
    runtime::{self, ModelFiles},
};

/// Everything that is open.
pub struct Setup {
    pub tables: Tables,
    /// `None` in a dry run.
    pub writer: Option<Writer>,
    pub known: Known,
    pub detect_row: ModelRow,
    pub embed_row: ModelRow,
    pub engines: Engines,
    pub threads: usize,
}

impl Setup {
    pub fn new(args: &LoadArgs) -> Result<Self> {
        let is_dry_run = args.run.dry_run;
        let mut client = connect(args.database.url.as_deref())?;
        let tables = Tables::in_schema(&args.schema);
        if !is_dry_run {
            tables.lock(&mut client, args.run.shard.as_ref())?;
        }
        let detect_row = choose_model(
            &mut client,
            ModelKind::Detector,
            args.models.detect_model.as_deref(),
        )?;
        let embed_row = choose_model(
            &mut client,
            ModelKind::Embedder,
            args.models.embed_model.as_deref(),
        )?;
        let detector = ModelFiles::of_row(&mut client, &detect_row)?;
        let embedder = ModelFiles::of_row(&mut client, &embed_row)?;
        let threads = runtime::threads(&args.runtime);
        let runtime = runtime::load(&args.runtime)?;
        let mut engines = engines::open(&runtime, &args.runtime, [&detector, &embedder], threads)?;
        let pose_row =
            choose_model_if_any(&mut client, ModelKind::Pose, args.pose_model.as_deref())?;
        match &pose_row {
            Some(row) => {
                let estimator = ModelFiles::of_row(&mut client, row)?;
                engines.estimators =
                    engines::open_estimators(&runtime, &args.runtime, &estimator, threads)?;
                ensure!(
                    engines.estimators.len() >= engines.detectors.len(),
                    "pose model {:?} runs on another device than the detector: name one with --device",
                    row.name
                );
            }
            None if args.require_full_front_pose => bail!(
                "--require-full-front-pose needs a pose model, and this database has no default one: store one with lookbook model add and choose it with lookbook model default, or name one with --pose-model"
            ),
            None => {}
        }
        let (_, first_embedder) = engines.first()?;
        let is_shared = args.run.shard.is_some();
        let is_there = if is_dry_run {
            let is_there = tables.exist(&mut client)?;
            if is_there {
                check_embedding_column(&mut client, &tables, &embed_row, is_shared)?;
            }
            is_there
        } else {
            tables.ensure(&mut client, first_embedder.dimensions())?;
            claim_embedding_column(&mut client, &tables, &embed_row, is_shared)?;
            true
        };
        let models = Models {
            detect: detect_row.sha256.clone(),
            embed: embed_row.sha256.clone(),
        };
        let known = match is_there {
            true => Known::read(&mut client, &tables, &models)?,
            false => Known::default(),
        };
        let writer = match is_dry_run {
            true => None,
            false => Some(Writer::new(client, tables.clone(), models)?),
        };
        Ok(Self {
            tables,
            writer,
            known,
            detect_row,
            embed_row,
            engines,
            threads,
        })
    }
}
