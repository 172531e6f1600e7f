//! Where the photos come from: the part of the command line that verbs which read a catalogue share.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Result, ensure};
use clap::Args as ClapArgs;

use crate::source::{Network, recorded_name};

#[derive(Debug, Clone, Default, ClapArgs)]
pub struct SourceArgs {
    /// Folders, globs ('photos/**/*.jpg'), manifests (.csv, .tsv, .jsonl, .parquet), archives (.tar,
    /// .tar.gz, WebDataset shards 'part-{000..009}.tar'), s3://bucket/prefix, URLs, photos
    #[arg(id = "source", value_name = "SOURCE")]
    pub sources: Vec<PathBuf>,
    /// Take the photos, or their URLs and paths, from the rows of a query: 'SELECT id, image FROM ...'
    #[arg(long, value_name = "QUERY")]
    pub from_sql: Option<String>,
    /// The database of --from-sql; else the one that is loaded into
    #[arg(long, value_name = "URL")]
    pub from_database: Option<String>,
    /// The folder that paths of --from-sql are relative to, and must stay in; else the current one
    #[arg(long, value_name = "FOLDER")]
    pub image_root: Option<PathBuf>,
    /// Which columns of a manifest say what: image=COLUMN, sku=COLUMN, key=COLUMN (the photo's identity),
    /// sells=COLUMN (the category of the garments that are the product; what is worn with them is of none)
    #[arg(long, value_name = "ROLE=COLUMN,...", value_delimiter = ',')]
    pub map: Vec<Mapped>,
    /// Take only photos of folders and archives whose path matches one of these globs
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Leave out photos of folders and archives whose path matches one of these globs
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Put the name of the archive before the paths of its photos: for shards that repeat their keys
    #[arg(long)]
    pub name_by_shard: bool,
    /// Seconds that one attempt to fetch a photo may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
    /// How often to try again what may pass: timeouts, broken connections, answers 408, 425, 429, 500, 502, 503 and 504
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub retries: u32,
    /// Also fetch from addresses that are not of the public Internet: all of them, or networks
    /// (--allow-private-addresses=10.1.0.0/16)
    #[arg(long, value_name = "NETWORK,...", num_args = 0..=1, require_equals = true, default_missing_value = "all", value_delimiter = ',')]
    pub allow_private_addresses: Vec<Network>,
}

/// What a column is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A path, a URL, or the bytes of the photo.
    Image,
    /// The photo's identity in the database.
    Key,
    /// The product the photo shows.
    Sku,
    /// The category of the garments that are the product.
    Sells,
}

impl Role {
    const ALL: &[(&str, Self)] = &[
        ("image", Self::Image),
        ("key", Self::Key),
        ("sku", Self::Sku),
        ("sells", Self::Sells),
    ];
}

/// A role and the column that plays it: `sku=product_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    pub role: Role,
    pub column: String,
}

impl FromStr for Mapped {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let roles = || {
            let names: Vec<&str> = Role::ALL.iter().map(|(name, _)| *name).collect();
            names.join(", ")
        };
        let (role, column) = text
            .split_once('=')
            .filter(|(_, column)| !column.is_empty())
            .ok_or_else(|| format!("must be ROLE=COLUMN; the roles are {}", roles()))?;
        let known = Role::ALL.iter().find(|(name, _)| *name == role.trim());
        match known {
            Some((_, role)) => Ok(Self {
                role: *role,
                column: column.trim().to_owned(),
            }),
            None => Err(format!(
                "there is no role {role:?}; the roles are {}",
                roles()
            )),
        }
    }
}

impl fmt::Display for SourceArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources = self
            .sources
            .iter()
            .map(|source| recorded_name(&source.display().to_string()));
        let all: Vec<String> = self.from_sql.iter().cloned().chain(sources).collect();
        f.write_str(&all.join(", "))
    }
}

impl SourceArgs {
    /// The folder that is the whole source, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        match (self.sources.as_slice(), &self.from_sql) {
            ([one], None) if one.is_dir() => Some(one),
            _ => None,
        }
    }

    /// Fails where --map gives a role two columns, or nothing has columns.
    pub fn check(&self) -> Result<()> {
        let are_folders =
            self.from_sql.is_none() && self.sources.iter().all(|source| source.is_dir());
        ensure!(
            self.map.is_empty() || !are_folders,
            "--map names columns, and folders have none: give a manifest, an archive or a query"
        );
        for (name, role) in Role::ALL {
            let columns = self.map.iter().filter(|mapped| mapped.role == *role);
            let columns: Vec<&str> = columns.map(|mapped| mapped.column.as_str()).collect();
            ensure!(
                columns.len() < 2,
                "--map gives the role {name} more than one column: {}",
                columns.join(", ")
            );
        }
        Ok(())
    }

    /// The column mapped to that role.
    pub fn column(&self, role: Role) -> Option<&str> {
        let found = self.map.iter().find(|mapped| mapped.role == role)?;
        Some(&found.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_has_a_column_and_a_known_name() {
        let mapped: Mapped = "sku=product id".parse().unwrap();
        assert_eq!(
            (mapped.role, mapped.column.as_str()),
            (Role::Sku, "product id")
        );
        for (wrong, reason) in [
            ("sku", "must be ROLE=COLUMN"),
            ("sku=", "must be ROLE=COLUMN"),
            ("price=x", "there is no role \"price\"; the roles are image"),
        ] {
            let error = wrong.parse::<Mapped>().unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_role_has_one_column() {
        let map = |pairs: [&str; 2]| SourceArgs {
            sources: vec!["list.csv".into()],
            map: pairs.map(|pair| pair.parse().unwrap()).to_vec(),
            ..SourceArgs::default()
        };
        map(["key=id", "sku=id"]).check().unwrap();
        let error = map(["key=path", "key=id"]).check().unwrap_err().to_string();
        assert!(
            error.contains("role key more than one column: path, id"),
            "{error}"
        );
        let folder = SourceArgs {
            sources: vec![".".into()],
            ..map(["key=id", "sells=category"])
        };
        let error = folder.check().unwrap_err().to_string();
        assert!(error.contains("folders have none"), "{error}");
    }
}
