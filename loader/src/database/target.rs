//! Where a load writes: a table of photos, which is the loader's, and a table with one row per garment, which is
//! the loader's or the shop's; and which of its columns takes what.
//!
//! Knows names and SQL, not what is in the database. Invariant: a garment belongs to a photo by one column, the
//! link, whatever else the table has.

use std::{fmt, str::FromStr};

use anyhow::{Context, Result, bail};
use postgres::{Client, GenericClient};

use super::{Extensions, OWN_PATH, quoted, retry, tables::unquoted};

/// What a column of the table of garments takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The photo's identity: what the source calls it.
    Key,
    /// The photo's number in the loader's table of photos.
    PhotoId,
    Embedding,
    Sku,
    Category,
    Label,
    Score,
    Box,
    Attributes,
    Sha256,
    Width,
    Height,
    DetectModel,
    EmbedModel,
    FullFrontPose,
}

impl Role {
    pub const ALL: &[(&str, Self)] = &[
        ("key", Self::Key),
        ("photo_id", Self::PhotoId),
        ("embedding", Self::Embedding),
        ("sku", Self::Sku),
        ("category", Self::Category),
        ("label", Self::Label),
        ("score", Self::Score),
        ("box", Self::Box),
        ("attributes", Self::Attributes),
        ("sha256", Self::Sha256),
        ("width", Self::Width),
        ("height", Self::Height),
        ("detect_model", Self::DetectModel),
        ("embed_model", Self::EmbedModel),
        ("full_front_pose", Self::FullFrontPose),
    ];

    pub fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, role)| *role == self);
        found.map_or("", |(name, _)| name)
    }

    /// Whether every garment of a photo has the same.
    pub fn is_of_the_photo(self) -> bool {
        !matches!(
            self,
            Self::Embedding | Self::Category | Self::Label | Self::Score | Self::Box
        )
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A role and its column: `key=image_id`, or in double quotes as in SQL; none (`label=`) leaves it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleColumn {
    pub role: Role,
    pub column: Option<String>,
}

impl FromStr for RoleColumn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((name, column)) = text.split_once('=') else {
            return Err("must be ROLE=COLUMN, or ROLE= to leave it out".to_owned());
        };
        let (name, column) = (name.trim(), column.trim());
        match Role::ALL.iter().find(|(known, _)| *known == name) {
            Some((_, role)) => Ok(Self {
                role: *role,
                column: (!column.is_empty()).then(|| unquoted(column)),
            }),
            None => {
                let names: Vec<&str> = Role::ALL.iter().map(|(name, _)| *name).collect();
                Err(format!(
                    "there is no role {name:?} in a target; the roles are {}",
                    names.join(", ")
                ))
            }
        }
    }
}

/// The type of the vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VectorKind {
    /// Ours.
    Embedding,
    /// pgvector's.
    Vector,
    /// pgvector's, of half-precision numbers.
    HalfVec,
}

impl VectorKind {
    pub const ALL: &[Self] = &[Self::Embedding, Self::Vector, Self::HalfVec];

    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Vector => "vector",
            Self::HalfVec => "halfvec",
        }
    }

    /// Of its type, as SQL names it.
    pub(super) fn schema(self, extensions: &Extensions) -> Result<String> {
        let (name, schema) = match self {
            Self::Embedding => ("lookbook", &extensions.lookbook),
            Self::Vector | Self::HalfVec => ("vector", &extensions.vector),
        };
        let schema = schema.clone();
        schema.with_context(|| format!("vectors of type {} need an extension that the database does not have: run CREATE EXTENSION {name}", self.name()))
    }
}

/// The columns that the loader's own `garment` has.
const OWN: &[Role] = &[
    Role::PhotoId,
    Role::Sku,
    Role::Category,
    Role::Label,
    Role::Score,
    Role::Box,
    Role::Embedding,
];

/// The two tables, quoted and with their schema, and the columns of the second.
#[derive(Debug, Clone)]
pub struct Target {
    /// That of the loader's own tables.
    pub schema: String,
    pub photo: String,
    pub garment: String,
    /// The columns that are written, by role; one is the link.
    pub columns: Vec<(Role, String)>,
    /// The type that the link's column has in SQL.
    pub key_type: String,
    pub vector: VectorKind,
    /// Columns of an enum type of the shop, and that type in SQL.
    pub enums: Vec<(Role, String)>,
    /// The table that says which model filled a column, as SQL names it.
    pub record: String,
    pub is_mapped: bool,
    /// The schema of our extension as SQL names it, where the database has it.
    pub extension: Option<String>,
    /// That of the vectors' type and operators.
    pub vector_schema: String,
}

/// What became of photos that were to be deleted.
#[derive(Debug)]
pub struct Deleted {
    pub photos: u64,
    /// Those of which something of the shop keeps rows ([`Target::keeps`]).
    pub kept: Vec<i64>,
}

impl Target {
    /// The loader's own tables `photo` and `garment`.
    pub fn own(schema: &str, vector: VectorKind, extensions: &Extensions) -> Result<Self> {
        let qualified = |table| format!("{}.{table}", quoted(schema));
        Ok(Self {
            schema: schema.to_owned(),
            photo: qualified("photo"),
            garment: qualified("garment"),
            columns: OWN
                .iter()
                .map(|role| (*role, role.name().to_owned()))
                .collect(),
            key_type: "bigint".to_owned(),
            vector,
            enums: Vec::new(),
            record: record(schema, extensions),
            is_mapped: false,
            extension: extensions.lookbook.clone(),
            vector_schema: vector.schema(extensions)?,
        })
    }

    /// The column of a role, unquoted.
    pub fn column(&self, role: Role) -> Option<&str> {
        let found = self.columns.iter().find(|(of, _)| *of == role);
        found.map(|(_, column)| column.as_str())
    }

    /// Something of our extension as SQL names it, where the database has it.
    pub fn ours(&self, name: &str) -> Option<String> {
        let schema = self.extension.as_ref()?;
        Some(format!("{schema}.{name}"))
    }

    /// The type of the vectors in SQL.
    pub fn vector_type(&self) -> String {
        format!("{}.{}", self.vector_schema, self.vector.name())
    }

    /// The operator of their distance.
    pub fn distance(&self) -> String {
        format!("OPERATOR({}.<->)", self.vector_schema)
    }

    /// A value of a role as SQL that is given it as a text.
    fn parameter(&self, role: Role, number: u8) -> String {
        match self.enums.iter().find(|(of, _)| *of == role) {
            Some((_, sql_type)) => format!("${number}::pg_catalog.text::{sql_type}"),
            None => format!("${number}"),
        }
    }

    /// The column that says of which photo a garment is.
    pub fn link(&self) -> Result<(Role, &str)> {
        let found = [Role::PhotoId, Role::Key]
            .into_iter()
            .find_map(|role| Some((role, self.column(role)?)));
        match found {
            Some(link) => Ok(link),
            None => bail!("no column of {} says of which photo a row is", self.garment),
        }
    }

    /// The column of the vectors, unquoted.
    pub fn embedding(&self) -> &str {
        self.column(Role::Embedding).unwrap_or("embedding")
    }

    /// A column of the garments in SQL: our own need no quotes.
    pub fn in_sql(&self, column: &str) -> String {
        match self.is_mapped {
            true => quoted(column),
            false => column.to_owned(),
        }
    }

    /// An SQL condition: garment `g` is of photo `p`.
    pub fn is_of_photo(&self) -> Result<String> {
        Ok(match self.link()? {
            (Role::PhotoId, column) => format!("p.id = g.{}", self.in_sql(column)),
            // A key is written as PostgreSQL writes it, so that texts can be compared; the tables hash.
            (_, column) => format!("g.{}::pg_catalog.text = p.path", quoted(column)),
        })
    }

    /// The same, as an index on the link's column can answer it.
    pub(super) fn is_of_photo_indexed(&self) -> String {
        match self.column(Role::PhotoId) {
            Some(column) => format!("g.{} OPERATOR(pg_catalog.=) p.id", quoted(column)),
            None => format!(
                "g.{} OPERATOR(pg_catalog.=) p.path::{}",
                quoted(self.column(Role::Key).unwrap_or_default()),
                self.key_type
            ),
        }
    }

    /// The statement that finds the nearest rows to `$1`, of category `$2` where that is given: sku, path,
    /// category, label, box, distance. A table of the shop is asked alone, so that nothing hinders its index.
    pub fn nearest(&self, has_category: bool, k: u16) -> Result<String> {
        let of = |role, absent: &str| match self.column(role) {
            Some(column) => format!("g.{}", self.in_sql(column)),
            None => absent.to_owned(),
        };
        let text = |role, absent: &str| match self.column(role) {
            Some(_) if self.is_mapped || role == Role::Sku => format!("{}::text", of(role, absent)),
            _ => of(role, absent),
        };
        let embedding = of(Role::Embedding, "");
        if has_category && self.column(Role::Category).is_none() {
            bail!(
                "{} has no column of the category (--into-map category=COLUMN)",
                self.garment
            );
        }
        let (link, _) = self.link()?;
        let (path, photos) = match link {
            Role::Key => (text(Role::Key, ""), String::new()),
            _ => (
                "p.path".to_owned(),
                format!(" JOIN {} p ON {}", self.photo, self.is_of_photo()?),
            ),
        };
        let mut conditions = Vec::new();
        if has_category {
            let category = of(Role::Category, "");
            let wanted = self.parameter(Role::Category, 2);
            conditions.push(format!("{category} = {wanted}"));
        }
        if !self.is_mapped {
            // What is only worn with a product is nothing to recommend.
            conditions.push("g.sku IS NOT NULL".to_owned());
        }
        let filter = match conditions.is_empty() {
            true => String::new(),
            false => format!("WHERE {}\n", conditions.join(" AND ")),
        };
        Ok(format!(
            "SELECT {sku}, {path}, {category}, {label}, {bbox}, {embedding} {distance} $1::{vector} AS distance\n\
             FROM {garment} g{photos}\n{filter}ORDER BY {embedding} {distance} $1::{vector} LIMIT {k}",
            sku = text(Role::Sku, "NULL::text"),
            category = text(Role::Category, "NULL::text"),
            label = text(Role::Label, "NULL::text"),
            bbox = of(Role::Box, "NULL::box"),
            garment = self.garment,
            distance = self.distance(),
            vector = self.vector_type(),
        ))
    }

    /// What the advisory locks of this target are called.
    pub fn lock_name(&self) -> &str {
        match self.is_mapped {
            true => &self.garment,
            false => &self.schema,
        }
    }

    /// How messages call it.
    pub fn described(&self) -> String {
        match self.is_mapped {
            true => format!("table {}", self.garment),
            false => format!("schema {:?}", self.schema),
        }
    }

    /// Deletes photos with their garments, or none where some are kept.
    pub fn delete(&self, client: &mut Client, ids: &[i64]) -> Result<Deleted, postgres::Error> {
        retry::again(|| {
            let mut change = client.transaction()?;
            let deleted = self.delete_photos(&mut change, ids)?;
            if deleted.kept.is_empty() {
                change.commit()?;
            }
            Ok(deleted)
        })
    }

    /// As [`Self::delete`], within a transaction, which has to end where some are kept; its search path
    /// becomes the user's own, for the triggers.
    pub(super) fn delete_photos(
        &self,
        change: &mut impl GenericClient,
        ids: &[i64],
    ) -> Result<Deleted, postgres::Error> {
        change.batch_execute(OWN_PATH)?;
        // Of our own tables the second follows the first.
        if self.is_mapped {
            let (photo, garment) = (&self.photo, &self.garment);
            let are_meant = "p.id OPERATOR(pg_catalog.=) ANY ($1)";
            let is_of_photo = self.is_of_photo_indexed();
            let delete = format!(
                "DELETE FROM {garment} g USING {photo} p WHERE {are_meant} AND {is_of_photo}"
            );
            change.execute(&delete, &[&ids])?;
            let kept = format!(
                "SELECT p.id FROM {photo} p WHERE {are_meant} AND EXISTS (SELECT FROM {garment} g WHERE {is_of_photo})"
            );
            let kept = change.query(&kept, &[&ids])?;
            if !kept.is_empty() {
                let kept = kept.iter().map(|row| row.get(0)).collect();
                return Ok(Deleted { photos: 0, kept });
            }
        }
        let delete = format!("DELETE FROM {} WHERE id = ANY($1)", self.photo);
        Ok(Deleted {
            photos: change.execute(&delete, &[&ids])?,
            kept: Vec::new(),
        })
    }

    /// Why the rows of a photo are there although they were deleted.
    pub fn keeps(&self) -> String {
        format!(
            "a trigger, a rule or the row security of {} keeps rows of it that were to be deleted",
            self.garment
        )
    }

    /// How many photos are listed.
    pub fn count_photos(&self, client: &mut Client) -> Result<usize> {
        let count = format!("SELECT count(*) FROM {}", self.photo);
        let count: i64 = client.query_one(&count, &[])?.get(0);
        Ok(usize::try_from(count)?)
    }

    /// The detector of the newest photo.
    pub fn detect_model(&self, client: &mut Client) -> Result<Option<String>> {
        let newest = format!(
            "SELECT detect_model FROM {} ORDER BY id DESC LIMIT 1",
            self.photo
        );
        Ok(client.query_opt(&newest, &[])?.map(|row| row.get(0)))
    }

    /// New statistics for the planner.
    pub fn analyze(&self, client: &mut Client) -> Result<()> {
        Ok(client.batch_execute(&format!("ANALYZE {}", self.garment))?)
    }
}

/// The table that says which model filled a column: the extension's, else one of ours.
pub(super) fn record(schema: &str, extensions: &Extensions) -> String {
    match &extensions.lookbook {
        Some(extension) => format!("{extension}.lookbook_embedding_column"),
        None => format!("{}.lookbook_embedding_column", quoted(schema)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_has_a_column_or_is_left_out() {
        let of = |text: &str| text.parse::<RoleColumn>();
        assert_eq!(
            of("key=image id").unwrap(),
            RoleColumn {
                role: Role::Key,
                column: Some("image id".to_owned())
            }
        );
        assert_eq!(of("label=").unwrap().column, None);
        let error = of("image=file").unwrap_err();
        assert!(
            error.contains("no role \"image\" in a target; the roles are key"),
            "{error}"
        );
    }

    #[test]
    fn our_own_tables_are_linked_by_the_photos_number() {
        let extensions = Extensions {
            lookbook: Some("public".to_owned()),
            vector: None,
        };
        let own = Target::own("shop", VectorKind::Embedding, &extensions).unwrap();
        assert_eq!(own.link().unwrap(), (Role::PhotoId, "photo_id"));
        assert_eq!(own.is_of_photo().unwrap(), "p.id = g.photo_id");
        assert_eq!(own.embedding(), "embedding");
    }
}
