//! Where rows go: the part of the command line that verbs which write or read the tables share.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::database::{ProductKey, RoleColumn};

#[derive(Debug, Clone, ClapArgs)]
pub struct TargetArgs {
    /// Schema of the tables photo and garment; with --into, of the loader's own tables beside it
    #[arg(long, default_value = "public")]
    pub schema: String,
    /// A table of yours to take the garments in the place of garment, one row each: SCHEMA.TABLE
    #[arg(long, value_name = "TABLE")]
    pub into: Option<String>,
    /// Which of its columns take what: key=COLUMN (the photo's path or id), embedding=COLUMN, sku, category,
    /// label, score, box, attributes, sha256, width, height, photo_id, detect_model, embed_model, full_front_pose; a
    /// column that is called like a role takes it unless ROLE= says no
    #[arg(
        long,
        value_name = "ROLE=COLUMN,...",
        value_delimiter = ',',
        requires = "into"
    )]
    pub into_map: Vec<RoleColumn>,
    /// Vectors are pgvector's: for a server without the extension, too, where models come from files
    #[arg(long, conflicts_with = "into")]
    pub pgvector: bool,
    /// A model for a server without the extension, its manifest NAME.json beside it; else the shipped ones
    #[arg(long, value_name = "NAME.onnx")]
    pub model_file: Vec<PathBuf>,
}

impl TargetArgs {
    /// Whether the user means a server that may not have the extension.
    pub fn may_lack_extension(&self) -> bool {
        self.into.is_some() || self.pgvector
    }
}

#[derive(Debug, Clone, ClapArgs)]
pub struct ProductArgs {
    /// The products' key that photo.sku and garment.sku refer to: public.product(sku). Photos of no product are
    /// rejects, and those of a product that is deleted go with it
    #[arg(long, value_name = "TABLE(COLUMN)", conflicts_with = "into")]
    pub sku_references: Option<ProductKey>,
}
