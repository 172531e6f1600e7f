//! Where rows go: the part of the command line that verbs which write or read the tables share.

use std::{path::PathBuf, str::FromStr};

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
    /// column that is called like a role takes it unless ROLE= says no; a name may stand in double quotes
    #[arg(long, value_name = "ROLE=COLUMN,...", requires = "into")]
    pub into_map: Vec<RoleColumns>,
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

    /// All that --into-map says, however often it was given.
    pub fn roles(&self) -> Vec<RoleColumn> {
        let given = self.into_map.iter();
        given.flat_map(|given| given.0.iter().cloned()).collect()
    }
}

/// `ROLE=COLUMN,...`, where a comma between double quotes is one of the column's name.
#[derive(Debug, Clone)]
pub struct RoleColumns(Vec<RoleColumn>);

impl FromStr for RoleColumns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut is_quoted = false;
        let pairs = text.split(|c| {
            is_quoted ^= c == '"';
            c == ',' && !is_quoted
        });
        let pairs = pairs.map(str::parse).collect::<Result<_, _>>()?;
        if is_quoted {
            return Err("a double quote is not closed".to_owned());
        }
        Ok(Self(pairs))
    }
}

#[derive(Debug, Clone, ClapArgs)]
pub struct ProductArgs {
    /// The products' key that photo.sku and garment.sku refer to: public.product(sku). Photos of no product are
    /// rejects, and those of a product that is deleted go with it
    #[arg(long, value_name = "TABLE(COLUMN)", conflicts_with = "into")]
    pub sku_references: Option<ProductKey>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_columns_may_stand_in_double_quotes() {
        let columns = |text: &str| -> Result<Vec<Option<String>>, String> {
            let RoleColumns(pairs) = text.parse()?;
            Ok(pairs.into_iter().map(|pair| pair.column).collect())
        };
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(
            columns(r#"key="Img ID", sku="a,""b""",label=,box=the box"#).unwrap(),
            [some("Img ID"), some("a,\"b\""), None, some("the box")]
        );
        for (wrong, reason) in [
            (r#"key="a,sku=b"#, "a double quote is not closed"),
            ("key=a,", "must be ROLE=COLUMN"),
            ("key=a,price=b", "there is no role \"price\""),
        ] {
            let error = columns(wrong).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
