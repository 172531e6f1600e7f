//! What a load needs before its first photo: connection, lock, models, tables, what is there already.
//!
//! Invariant: a dry run takes no lock and writes nothing, and is refused where the load would be.

use anyhow::{Result, ensure};
use lookbook_vision::{Group, Output};
use postgres::Client;

use super::engines::{self, Engines};
use crate::{
    args::{LoadArgs, ModelChoice, PoseArgs, Role, RuntimeArgs},
    database::{
        Known, ModelKind, ModelRow, Models, Target, Writer, check_embedding_column,
        claim_embedding_column, refuse_read_only,
    },
    messages,
    opened::Opened,
    recommendations::{self, Unread},
    runtime,
    shelf::Shelf,
};

/// Everything that is open.
pub struct Setup {
    pub target: Target,
    pub writer: Writer,
    pub known: Known,
    pub detect_row: ModelRow,
    pub embed_row: ModelRow,
    pub engines: Engines,
    pub threads: usize,
}

impl Setup {
    pub fn new(args: &LoadArgs) -> Result<Self> {
        let is_dry_run = args.run.dry_run;
        let Opened {
            mut client,
            target,
            shelf,
        } = Opened::new(&args.database, &args.target)?;
        refuse_read_only(&mut client)?;
        if !is_dry_run {
            target.lock(&mut client, args.run.shard.as_ref())?;
        }
        let threads = runtime::threads(&args.runtime);
        let choice = Choice {
            runtime: &args.runtime,
            models: &args.models,
            pose: &args.pose,
        };
        let (rows, mut engines) = choice.open(&mut client, &shelf, threads)?;
        ensure!(
            !args.require_full_front_pose || !engines.estimators.is_empty(),
            "--require-full-front-pose needs a pose model, and this database has no default one: store one with lookbook model \
             add and choose it with lookbook model default, or name one with --pose-model"
        );
        let [detect_row, embed_row] = rows;
        let says_what_it_sells = args.source.column(Role::Sells).is_some();
        if says_what_it_sells {
            engines.detectors.iter_mut().for_each(engines::look_closer);
        }
        let (first_detector, first_embedder) = engines.first()?;
        if let Output::Detector(output) = first_detector.manifest().output() {
            let categories: &[Group] = match says_what_it_sells {
                true => &Group::ALL,
                false => &[],
            };
            target.check_labels(&mut client, &output.labels, categories)?;
        }
        if says_what_it_sells {
            target.check_worn(&mut client)?;
        }
        let is_shared = args.run.shard.is_some();
        let mut missing = target.missing_rights(&mut client)?;
        if !missing.is_empty() {
            missing.extend(target.missing_record_rights(&mut client)?);
        }
        ensure!(
            missing.is_empty(),
            "a load needs rights that this role lacks: {}",
            missing.join("; ")
        );
        // Before anything is made beside a table that cannot be used, and before its dimensions are looked at: those of
        // another model are another model's.
        check_embedding_column(&mut client, &target, &embed_row, is_shared)?;
        let dimensions = first_embedder.dimensions();
        let is_there = if is_dry_run {
            target.check_there(&mut client, dimensions)?;
            target.exist(&mut client)?
        } else {
            let product = args.product.sku_references.as_ref();
            target.ensure(&mut client, dimensions, product)?;
            claim_embedding_column(&mut client, &target, &embed_row, is_shared)?;
            true
        };
        if target.is_mapped {
            tracing::info!(table = target.garment, mapping = target.mapping(), "target");
        }
        let models = Models {
            detect: detect_row.sha256.clone(),
            embed: embed_row.sha256.clone(),
        };
        let known = match is_there {
            true => Known::read(&mut client, &target, &models)?,
            false => Known::default(),
        };
        if is_there && known.photos().next().is_none() {
            say_who_reads(&mut client, &target)?;
        }
        let writer = match is_dry_run {
            true => Writer::looking(client, target.clone(), models)?,
            false => Writer::new(client, target.clone(), models)?,
        };
        Ok(Self {
            target,
            writer,
            known,
            detect_row,
            embed_row,
            engines,
            threads,
        })
    }
}

/// Said once, by the load that fills the tables.
fn say_who_reads(client: &mut Client, target: &Target) -> Result<()> {
    if let Some(Unread { found, statement }) = recommendations::unread(client, target)? {
        messages::note(format_args!("{found}: for some that do, run {statement}"));
    }
    Ok(())
}

/// The models that a command line names.
pub struct Choice<'a> {
    pub runtime: &'a RuntimeArgs,
    pub models: &'a ModelChoice,
    pub pose: &'a PoseArgs,
}

impl Choice<'_> {
    /// Detector and embedder, and the pose model where there is one and it is wanted.
    pub fn open(
        &self,
        client: &mut Client,
        shelf: &Shelf,
        threads: usize,
    ) -> Result<([ModelRow; 2], Engines)> {
        let Self {
            runtime: args,
            models,
            pose,
        } = self;
        let detect = models.detect_model.as_deref();
        let embed = models.embed_model.as_deref();
        let detect_row = shelf.choose(client, ModelKind::Detector, detect)?;
        let embed_row = shelf.choose(client, ModelKind::Embedder, embed)?;
        let detector = shelf.files(client, &detect_row)?;
        let embedder = shelf.files(client, &embed_row)?;
        let runtime = runtime::load(args)?;
        let mut engines = engines::open(&runtime, args, [&detector, &embedder], threads)?;
        let pose_row = match pose.no_pose {
            true => None,
            false => shelf.choose_if_any(client, ModelKind::Pose, pose.pose_model.as_deref())?,
        };
        if let Some(row) = pose_row {
            let estimator = shelf.files(client, &row)?;
            engines.estimators = engines::open_estimators(&runtime, args, &estimator, threads)?;
            ensure!(
                engines.estimators.len() >= engines.detectors.len(),
                "pose model {:?} runs on another device than the detector: name one with --device",
                row.name
            );
            engines.pose_model = Some(row.name);
        }
        Ok(([detect_row, embed_row], engines))
    }
}
