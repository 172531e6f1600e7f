//! Flags of running the loader every day: whole catalogues kept in step, health, shells.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

use super::{
    DatabaseArgs, LoadArgs, ModelChoice, PoseArgs, Progress, RuntimeArgs, SourceArgs, TargetArgs,
    parse_rate,
};
use crate::shard::Shard;

#[derive(Debug, ClapArgs)]
pub struct RunArgs {
    /// Read, decode, detect and embed everything, write nothing, and say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Only part i of n, told apart by path: n machines load one catalogue into one schema at once; else all of it
    #[arg(long, value_name = "i/n")]
    pub shard: Option<Shard>,
    /// Keep a file of numbers for Prometheus (node_exporter's textfile collector) up to date
    #[arg(long, value_name = "FILE")]
    pub metrics_file: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct SyncArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    /// Delete the rows of photos that are gone from the source; else they are counted
    #[arg(long)]
    pub prune: bool,
    /// Delete nothing when more than this share of the loaded photos would go
    #[arg(long, value_name = "SHARE", default_value_t = 0.2, value_parser = parse_rate)]
    pub prune_limit: f64,
    /// Stay, and sync whenever the folder changes; Ctrl-C ends it
    #[arg(long)]
    pub watch: bool,
    /// With --watch, look every so many seconds instead of being told: for network folders; 10 where the system cannot tell
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub poll: Option<u32>,
}

#[derive(Debug, ClapArgs)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub runtime: RuntimeArgs,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct CompletionsArgs {
    /// The shell to complete for
    #[arg(value_enum)]
    pub shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, ClapArgs)]
pub struct ManArgs {
    /// Write a page for each verb into this folder; else the page of lookbook goes to standard output
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct ReembedArgs {
    #[command(
        flatten,
        next_help_heading = "Where photos come from, as they were loaded; else from --root"
    )]
    pub source: SourceArgs,
    #[command(flatten, next_help_heading = "Options")]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub runtime: RuntimeArgs,
    /// The new embedder by its name in the database; else its default embedder
    #[arg(long, value_name = "NAME", alias = "model")]
    pub embed_model: Option<String>,
    /// The folder that the paths in the table are relative to: reads only what lacks its vector
    #[arg(long, value_name = "FOLDER", default_value = ".", conflicts_with_all = ["source", "from_sql"])]
    pub root: PathBuf,
    /// Delete the rows of photos that are not there any more; else they hold up the change
    #[arg(long)]
    pub drop_missing: bool,
    /// Delete nothing when more than this share of the loaded photos would go
    #[arg(long, value_name = "SHARE", default_value_t = 0.2, value_parser = parse_rate)]
    pub prune_limit: f64,
    /// Make the model the database's default embedder at the same moment
    #[arg(long)]
    pub make_default: bool,
    /// Give up a change that was begun: forget the vectors made for it
    #[arg(long)]
    pub abandon: bool,
    /// Garments per inference; 0: by the device
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub batch: usize,
    /// bar, json (one object per line on standard output) or none; else a bar on a terminal
    #[arg(long, value_enum)]
    pub progress: Option<Progress>,
}

#[derive(Debug, ClapArgs)]
pub struct InferenceArgs {
    /// Photos to prepare and keep in memory
    #[arg(required = true, value_name = "PHOTO")]
    pub photos: Vec<PathBuf>,
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub runtime: RuntimeArgs,
    #[command(flatten)]
    pub models: ModelChoice,
    #[command(flatten)]
    pub pose: PoseArgs,
}
