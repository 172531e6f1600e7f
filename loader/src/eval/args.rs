//! The command line of `lookbook eval`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};

use crate::args::{DatabaseArgs, RuntimeArgs};

#[derive(Debug, Args)]
pub struct EvalArgs {
    #[command(subcommand)]
    pub verb: EvalVerb,
}

#[derive(Debug, Subcommand)]
pub enum EvalVerb {
    /// Average precision of the detector on photos with annotated boxes (COCO's JSON)
    Detection(DetectionArgs),
    /// Top-k accuracy of the embedder: is the same item among the k nearest photos?
    Retrieval(RetrievalArgs),
}

#[derive(Debug, Args)]
pub struct DetectionArgs {
    /// Annotated boxes: COCO's JSON; its categories are labels or groups of the detector, or --map says what they are
    #[arg(long, value_name = "FILE")]
    pub coco: PathBuf,
    /// The folder that file names are relative to; else that of the JSON file
    #[arg(long, value_name = "FOLDER")]
    pub images: Option<PathBuf>,
    /// Detector by its name in the database; else its default detector
    #[arg(long, value_name = "NAME")]
    pub detect_model: Option<String>,
    /// What a category of the file is to the detector: a label or group of it; empty to leave it out
    #[arg(long, value_name = "NAME=LABEL", value_parser = parse_name)]
    pub map: Vec<(String, String)>,
    /// Weakest detection that counts for the average precision; precision and recall keep to the manifest's threshold
    #[arg(long, value_name = "S", default_value_t = 0.01, value_parser = parse_score)]
    pub score_threshold: f64,
    /// Look at this many photos at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Also write the detections, in COCO's form of results
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("list").required(true).args(["csv", "deepfashion_inshop"])))]
pub struct RetrievalArgs {
    /// A list of photos, CSV or TSV: columns path, item_id and role (query or gallery), maybe set and group
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// The folder of DeepFashion's In-Shop Clothes Retrieval benchmark as published
    #[arg(long, value_name = "FOLDER")]
    pub deepfashion_inshop: Option<PathBuf>,
    /// Only the rows of this set
    #[arg(long, value_name = "NAME", conflicts_with = "deepfashion_inshop")]
    pub set: Option<String>,
    /// Further photos to search among: a folder, or a CSV or TSV file with the column path
    #[arg(long, value_name = "FOLDER|CSV")]
    pub gallery: Option<PathBuf>,
    /// The folder that listed paths are relative to; else the nearest folder above their list that has them
    #[arg(long, value_name = "FOLDER")]
    pub images: Option<PathBuf>,
    /// What is embedded of a photo
    #[arg(long, value_enum, default_value_t = Crop::None)]
    pub crop: Crop,
    /// Embedder by its name in the database; else its default embedder
    #[arg(long, value_name = "NAME")]
    pub embed_model: Option<String>,
    /// Detector by its name in the database, for --crop detect; else its default detector
    #[arg(long, value_name = "NAME")]
    pub detect_model: Option<String>,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Crop {
    /// The whole photo
    None,
    /// The best garment that the detector finds; where the row names a group, the likeliest of that group or label, as a
    /// load with --map sells=... takes it; else the whole photo
    Detect,
    /// The box that the list gives (DeepFashion's list_bbox_inshop.txt)
    List,
}

fn parse_name(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, label)) if !name.is_empty() => Ok((name.to_owned(), label.to_owned())),
        _ => Err("expected NAME=LABEL, such as shirt=upper".to_owned()),
    }
}

fn parse_score(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(score) if (0.0..=1.0).contains(&score) => Ok(score),
        _ => Err("must be a number from 0 to 1".to_owned()),
    }
}
