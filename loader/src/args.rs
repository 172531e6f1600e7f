//! The command line: names, defaults and help. Knows nothing of what the verbs do with it. Environment
//! variables are `cli`'s: every flag has one.

mod ops;
mod source;
mod target;

use std::path::PathBuf;

use clap::{
    ArgAction, Args as ClapArgs, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, RangedU64ValueParser},
};
use lookbook_vision::Group;

pub use ops::{
    CompletionsArgs, DoctorArgs, InferenceArgs, ManArgs, ReembedArgs, RunArgs, Shell, SyncArgs,
};
pub use source::{Role, SourceArgs};
pub use target::{ProductArgs, TargetArgs};

use crate::{database::WHOLE_PHOTO, devices::Devices};

pub use crate::eval::args::EvalArgs;

/// More than any machine has cores for.
const MAX_THREADS: u64 = 1024;

/// Headings of the help of verbs with many flags.
const TARGET: &str = "Where rows go";
const MODELS: &str = "Models";
/// Flags of every verb come last.
const GLOBAL: &str = "Every verb";

/// Visual fashion search inside PostgreSQL: load catalogue photos, look at what was found, search.
#[derive(Debug, Parser)]
#[command(name = "lookbook", version, max_term_width = 100)]
pub struct Args {
    #[command(subcommand)]
    pub verb: Verb,
    /// Say more: the SQL of a search, every rejected photo
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = GLOBAL)]
    pub verbose: u8,
    /// Errors and the summary only
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = GLOBAL)]
    pub quiet: bool,
    /// A TOML file with flags: at its top for every verb, or in a section for one ([load])
    #[arg(long, value_name = "FILE", global = true, help_heading = GLOBAL)]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Debug, ClapArgs)]
pub struct LogArgs {
    /// Log events of at least this level: error, warn, info, debug or trace, or lookbook=debug
    #[arg(long, value_name = "FILTER", global = true, help_heading = GLOBAL)]
    pub log: Option<String>,
    /// text, or json: nothing but one JSON object per line on standard error
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "text",
        global = true,
        help_heading = GLOBAL
    )]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Load the photos of folders, manifests, archives, stores or a query into the tables photo and garment
    Load(LoadArgs),
    /// Load what is new or changed in a source, and remove what is gone from it
    Sync(SyncArgs),
    /// Give every garment the vector of another model, while readers go on
    Reembed(ReembedArgs),
    /// Find the garments in photos and draw their boxes into PNG files
    Detect(DetectArgs),
    /// Find the garments of a catalogue that look like those in photos
    Search(SearchArgs),
    /// List, add, check, export and remove models
    Model(ModelArgs),
    /// Measure the models of a database on photos that people judged
    Eval(EvalArgs),
    /// Check server, extension, models, runtime, device and disk, and say what to do
    Doctor(DoctorArgs),
    /// Print what a shell needs to complete the command line
    Completions(CompletionsArgs),
    /// Print or write man pages
    Man(ManArgs),
    /// What the models of a load reach with photos that are prepared already (make bench-load)
    #[command(hide = true)]
    BenchInference(InferenceArgs),
}

#[derive(Debug, ClapArgs)]
pub struct DatabaseArgs {
    /// Connection URL (postgresql://user@host/name); else LOOKBOOK_DATABASE, else DATABASE_URL
    #[arg(long = "database", short = 'd', value_name = "URL", global = true)]
    pub url: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct RuntimeArgs {
    /// Where models run: cpu, openvino (the CPU, faster where it has AMX; openvino:bf16: float models in bfloat16), cuda, tensorrt, one GPU (cuda:1), several (cuda:0,2 or cuda:all), or auto
    /// (CUDA when it is there; says what it took)
    #[arg(long, default_value = "auto")]
    pub device: Devices,
    /// CPU threads in all, at most 1024; 0: one per core
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = RangedU64ValueParser::<usize>::new().range(..=MAX_THREADS))]
    pub threads: usize,
    /// The ONNX Runtime library (libonnxruntime.so); else looked for beside the program
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct ModelChoice {
    /// Detector by its name in the database; else its default detector
    #[arg(long, value_name = "NAME")]
    pub detect_model: Option<String>,
    /// Embedder by its name in the database; else its default embedder
    #[arg(long, value_name = "NAME")]
    pub embed_model: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct PoseArgs {
    /// Pose model by its name in the database; else its default one, else poses are not looked for
    #[arg(long, value_name = "NAME")]
    pub pose_model: Option<String>,
    /// Look for no poses, which saves their time: full_front_pose stays NULL
    #[arg(long, conflicts_with = "pose_model")]
    pub no_pose: bool,
}

#[derive(Debug, ClapArgs)]
pub struct LoadArgs {
    #[command(flatten, next_help_heading = "Where photos come from")]
    pub source: SourceArgs,
    #[command(flatten, next_help_heading = TARGET)]
    pub database: DatabaseArgs,
    #[command(flatten, next_help_heading = TARGET)]
    pub target: TargetArgs,
    #[command(flatten, next_help_heading = TARGET)]
    pub product: ProductArgs,
    #[command(flatten, next_help_heading = MODELS)]
    pub models: ModelChoice,
    #[command(flatten, next_help_heading = MODELS)]
    pub pose: PoseArgs,
    /// Reject photos that do not show a person from the front, from head to foot
    #[arg(long, conflicts_with = "no_pose", help_heading = MODELS)]
    pub require_full_front_pose: bool,
    #[command(flatten, next_help_heading = MODELS)]
    pub runtime: RuntimeArgs,
    /// Photos or garments per inference; 0: by the device
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = MODELS)]
    pub batch: usize,
    /// Where rejected photos are listed (CSV: path, code, reason)
    #[arg(long, value_name = "FILE", default_value = "lookbook-rejects.csv")]
    pub rejects: PathBuf,
    /// Fail when more than this share of the photos is rejected: at the end, or early where that is certain or true of
    /// the first 100; 1: never
    #[arg(long, value_name = "R", default_value_t = 1.0, value_parser = parse_rate)]
    pub max_error_rate: f64,
    /// Load at most this many photos of the source, in its order
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Make no index where there is none; one that is there is kept in any case
    #[arg(long)]
    pub no_index: bool,
    /// bar, json (one object per line on standard output) or none; else a bar on a terminal
    #[arg(long, value_enum)]
    pub progress: Option<Progress>,
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    Bar,
    Json,
    None,
}

#[derive(Debug, ClapArgs)]
pub struct DetectArgs {
    /// Photos to look at
    #[arg(required = true, value_name = "PHOTO")]
    pub photos: Vec<PathBuf>,
    /// The picture to write, for one photo
    #[arg(long, value_name = "FILE.png", conflicts_with = "out_dir")]
    pub out: Option<PathBuf>,
    /// The folder to write PHOTO.detected.png into; without it garments are only listed
    #[arg(long, value_name = "FOLDER")]
    pub out_dir: Option<PathBuf>,
    /// A detector file with its manifest beside it (NAME.onnx and NAME.json), without a database
    #[arg(long, value_name = "NAME.onnx", conflicts_with = "detect_model")]
    pub model_file: Option<PathBuf>,
    /// Detector by its name in the database; else its default detector
    #[arg(long, value_name = "NAME")]
    pub detect_model: Option<String>,
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

#[derive(Debug, ClapArgs)]
pub struct SearchArgs {
    /// The query photos
    #[arg(required = true, value_name = "PHOTO")]
    pub photos: Vec<PathBuf>,
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub target: TargetArgs,
    /// Neighbours per garment
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub k: u16,
    /// Only this category
    #[arg(long, value_name = "NAME", value_parser = categories())]
    pub category: Option<String>,
    /// Write a contact sheet: one HTML file with the queries, their boxes and their neighbours
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// The folder that was loaded, to find the neighbours' photos for the contact sheet
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub root: PathBuf,
    /// Detector by its name in the database; else its default detector
    #[arg(long, value_name = "NAME")]
    pub detect_model: Option<String>,
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

#[derive(Debug, ClapArgs)]
pub struct ModelArgs {
    #[command(subcommand)]
    pub verb: ModelVerb,
    #[command(flatten)]
    pub database: DatabaseArgs,
}

#[derive(Debug, Subcommand)]
pub enum ModelVerb {
    /// The models you may use
    List,
    /// Store a model
    Add {
        /// The name to store it under
        name: String,
        /// The model
        #[arg(long, value_name = "FILE")]
        onnx: PathBuf,
        /// Its manifest (see docs/architecture.md)
        #[arg(long, value_name = "FILE")]
        manifest: PathBuf,
    },
    /// Try a model file as the product would, and say what is wrong with it; needs no database
    Check(CheckArgs),
    /// Write NAME.onnx and NAME.json
    Export {
        /// The model
        name: String,
        /// The folder to write into; created when missing
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
    },
    /// Remove a model
    Remove {
        /// The model
        name: String,
        /// Also when it filled a column of vectors, or is the default of its kind
        #[arg(long)]
        force: bool,
    },
    /// Make a model the default of its kind
    Default {
        /// The model
        name: String,
    },
}

#[derive(Debug, ClapArgs)]
pub struct CheckArgs {
    /// NAME.onnx or NAME.json, with the other one beside it
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The manifest, where it does not lie beside the model under the same name
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// A photo to try it on; else a drawn picture of a person
    #[arg(long, value_name = "PHOTO")]
    pub image: Option<PathBuf>,
    /// The vector that your own program makes of that photo with an embedder, a JSON array: the cosine is printed and must be 0.99
    #[arg(long, value_name = "FILE", requires = "image")]
    pub expect: Option<PathBuf>,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
    /// The ONNX Runtime library (libonnxruntime.so); else looked for beside the program
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
}

/// What garments are told apart by, and what a photo without one is.
fn categories() -> PossibleValuesParser {
    let groups = Group::ALL.into_iter().map(Group::as_str);
    PossibleValuesParser::new(groups.chain([WHOLE_PHOTO]))
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=1.0).contains(&rate) => Ok(rate),
        _ => Err("must be a number from 0 to 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_no_more_than_a_machine_may_have() {
        let parse = |threads| Args::try_parse_from(["lookbook", "load", "x", "--threads", threads]);
        assert!(parse("1024").is_ok());
        let error = parse("1025").unwrap_err().to_string();
        assert!(error.contains("1025 is not in 0..=1024"), "{error}");
    }

    #[test]
    fn an_error_rate_is_a_share() {
        assert_eq!(parse_rate("0.25"), Ok(0.25));
        for wrong in ["-0.1", "1.1", "NaN", "half", ""] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }
}
