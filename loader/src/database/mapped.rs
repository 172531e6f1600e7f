//! A table of the shop as a target: which of its columns takes what, and whether it can.
//!
//! Invariant: a mapping that would fail at the first batch is refused before the first photo, with the column, its type
//! and what would be right.

use anyhow::{Result, bail};
use lookbook_vision::{Group, Label};
use postgres::{Client, Transaction};

use super::{
    Extensions, OWN_PATH, Role, RoleColumn, Target, VectorKind, WHOLE_PHOTO,
    catalog::{Column, columns_of, concurrently, heirs_of, is_indexed, relation_kind, unique_keys},
    connect::SAFE_PATH,
    quoted,
    target::record,
};

const TEXTS: &[&str] = &["text", "varchar"];
/// As hexadecimal digits.
const SHA256_CHARACTERS: usize = 64;
const KEYS: &[&str] = &["text", "varchar", "int2", "int4", "int8", "uuid"];

impl Role {
    /// Types of columns that take it, and how to say so.
    fn types(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Key | Self::Sku => (KEYS, "text, varchar, an integer or uuid"),
            Self::PhotoId => (&["int8"], "bigint"),
            Self::Embedding => (
                &["embedding", "vector", "halfvec"],
                "embedding, or pgvector's vector or halfvec",
            ),
            Self::Category | Self::Label => (TEXTS, "text, varchar or an enum"),
            Self::DetectModel | Self::EmbedModel => (TEXTS, "text or varchar"),
            Self::Score => (&["float4", "float8"], "real or double precision"),
            Self::Box => (&["box"], "box"),
            Self::Attributes => (&["jsonb", "json"], "jsonb or json"),
            Self::Sha256 => (&["bytea"], "bytea"),
            Self::Width | Self::Height => (&["int4", "int8"], "integer or bigint"),
            Self::FullFrontPose => (&["bool"], "boolean"),
        }
    }

    fn takes(self, column: &Column) -> bool {
        let may_be_enum = matches!(self, Self::Category | Self::Label);
        self.types().0.contains(&column.type_name.as_str())
            || (may_be_enum && column.enum_labels.is_some())
    }

    /// Whether some rows have none, and which.
    fn absence(self) -> Option<&'static str> {
        match self {
            Self::Score => Some("a photo in which nothing was found has none"),
            Self::Attributes => Some("a photo of which the source says nothing more has none"),
            Self::FullFrontPose => Some("without a pose model there is none"),
            _ => None,
        }
    }
}

impl Target {
    /// The table `table`, as SQL names it, of the shop; the loader's own tables beside it are in `schema`.
    pub fn mapped(
        client: &mut Client,
        schema: &str,
        table: &str,
        map: &[RoleColumn],
        extensions: &Extensions,
    ) -> Result<Self> {
        let (name, of_schema, relname) = find(client, table)?;
        let columns = columns_of(client, &name)?;
        let mapping = Mapping {
            table: &name,
            columns: &columns,
            map,
        };
        let mut wrong = Vec::new();
        let chosen = mapping.choose(&mut wrong);
        mapping.check_others(&chosen, &mut wrong);
        mapping.check_unique(&chosen, unique_keys(client, &name)?, &mut wrong);
        if !wrong.is_empty() {
            bail!("--into {table} does not work: {}", wrong.join("; "));
        }
        let of = |role| {
            let found = chosen.iter().find(|(of, _)| *of == role);
            found.map(|(_, column)| *column)
        };
        let vector = of(Role::Embedding).and_then(|column| {
            let mut kinds = VectorKind::ALL.iter().copied();
            kinds.find(|kind| kind.name() == column.type_name)
        });
        let vector = vector.unwrap_or(VectorKind::Embedding);
        let enums = chosen
            .iter()
            .filter(|(_, column)| column.enum_labels.is_some())
            .map(|(role, column)| (*role, column.sql_type.clone()));
        let list = match of_schema == schema {
            true => format!("{relname}_photo"),
            false => format!("{of_schema}_{relname}_photo"),
        };
        let target = Self {
            schema: schema.to_owned(),
            photo: format!("{}.{}", quoted(schema), quoted(&list)),
            key_type: of(Role::Key)
                .map_or("bigint", |key| key.sql_type.as_str())
                .to_owned(),
            columns: chosen
                .iter()
                .map(|(role, column)| (*role, column.name.clone()))
                .collect(),
            enums: enums.collect(),
            garment: name,
            vector,
            record: record(schema, extensions),
            is_mapped: true,
            extension: extensions.lookbook.clone(),
            vector_schema: vector.schema(extensions)?,
        };
        Ok(target)
    }

    /// The statement that makes the index by which the rows of a photo are found, where there is none.
    pub fn missing_index(&self, client: &mut Client) -> Result<Option<String>> {
        let (_, link) = self.link()?;
        if is_indexed(client, &self.garment, link)? {
            return Ok(None);
        }
        let option = concurrently(client, &self.garment)?;
        Ok(Some(format!(
            "CREATE INDEX {option}ON {} ({})",
            self.garment,
            quoted(link)
        )))
    }

    /// Refuses columns that cannot hold every category or label which may come: of an enum type that lacks some, or
    /// too short. `categories` come from the source.
    pub fn check_labels(
        &self,
        client: &mut Client,
        labels: &[Label],
        categories: &[Group],
    ) -> Result<()> {
        for column in columns_of(client, &self.garment)? {
            let found = self.columns.iter().find(|(_, name)| *name == column.name);
            let Some((role @ (Role::Category | Role::Label), _)) = found else {
                continue;
            };
            let needed = labels.iter().filter_map(|label| {
                let group = label.group?;
                Some(match role {
                    Role::Category => group.as_str(),
                    _ => label.name.as_str(),
                })
            });
            // What a photo is in which nothing was found.
            let of_source = categories.iter().filter(|_| *role == Role::Category);
            let needed = needed.chain(of_source.map(|group| group.as_str()));
            let needed = needed.chain([WHOLE_PHOTO]);
            let Some(known) = &column.enum_labels else {
                let longest = needed.max_by_key(|label| label.chars().count());
                if let (Some(limit), Some(longest)) = (column.most_characters(), longest)
                    && longest.chars().count() > limit
                {
                    bail!(
                        "--into {garment} does not work: {name} takes {limit} characters, and the detector may find {longest:?}: \
                         ALTER TABLE {garment} ALTER COLUMN {} TYPE text",
                        quoted(&column.name),
                        garment = self.garment,
                        name = column.name,
                    );
                }
                continue;
            };
            let mut missing: Vec<&str> = Vec::new();
            for needed in needed {
                if !known.iter().any(|label| label == needed) && !missing.contains(&needed) {
                    missing.push(needed);
                }
            }
            if !missing.is_empty() {
                let add = missing.iter().map(|label| {
                    let label = label.replace('\'', "''");
                    format!("ALTER TYPE {} ADD VALUE '{label}'", column.sql_type)
                });
                bail!(
                    "--into {} does not work: {} is of type {}, which lacks {}, and a load may need it ({:?}: a photo in \
                     which nothing was found): {}",
                    self.garment,
                    column.name,
                    column.sql_type,
                    missing.join(", "),
                    WHOLE_PHOTO,
                    add.collect::<Vec<_>>().join("; ")
                );
            }
        }
        Ok(())
    }

    /// Which column takes what, in words.
    pub fn mapping(&self) -> String {
        let pairs = self.columns.iter();
        let pairs: Vec<String> = pairs
            .map(|(role, column)| format!("{role}={column}"))
            .collect();
        pairs.join(",")
    }
}

/// The table's full name in SQL, its schema, and its name.
fn find(client: &mut Client, table: &str) -> Result<(String, String, String)> {
    let oid = oid_of(&mut client.transaction()?, table)?;
    let row = client.query_opt(
        "SELECT n.nspname::text, c.relname::text, pg_catalog.row_security_active(c.oid) FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
        &[&oid],
    )?;
    let Some(row) = row else {
        bail!(
            "--into {table}: there is no such table in this database; create it first, with a column for the vectors, or leave \
             --into out and the loader makes its own"
        );
    };
    if row.get(2) {
        bail!(
            "--into {table}: row-level security holds there for this role, and PostgreSQL copies no rows into such a table; load as \
             its owner, or as a role that has BYPASSRLS"
        );
    }
    let (schema, name): (String, String) = (row.get(0), row.get(1));
    let full = format!("{}.{}", quoted(&schema), quoted(&name));
    let Some("r" | "p") = relation_kind(client, &full)?.as_deref() else {
        bail!("--into {table}: it is no table, and rows are copied into tables only");
    };
    let heirs = heirs_of(client, &full)?;
    if !heirs.is_empty() {
        bail!(
            "--into {table}: {} inherits from it, so that rows of another table would be read, replaced and deleted as its own; load \
             into a table without heirs, or into a partitioned one",
            heirs.join(", ")
        );
    }
    Ok((full, schema, name))
}

/// The table that the user means, who has a search path. Within a transaction.
pub(super) fn oid_of(change: &mut Transaction<'_>, table: &str) -> Result<Option<u32>> {
    change.batch_execute(OWN_PATH)?;
    let oid = "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid";
    let oid = change.query_one(oid, &[&table])?.get(0);
    change.batch_execute(SAFE_PATH)?;
    Ok(oid)
}

struct Mapping<'a> {
    table: &'a str,
    columns: &'a [Column],
    map: &'a [RoleColumn],
}

impl<'a> Mapping<'a> {
    /// Roles that were mapped, and those that have a column of their own name.
    fn choose(&self, wrong: &mut Vec<String>) -> Vec<(Role, &'a Column)> {
        let mut chosen: Vec<(Role, &Column)> = Vec::new();
        for (_, role) in Role::ALL {
            let mut given = self.map.iter().filter(|mapped| mapped.role == *role);
            let mapped = given.next();
            if given.next().is_some() {
                wrong.push(format!(
                    "--into-map says more than once what takes the {role}: name one column"
                ));
            }
            let name = match mapped {
                Some(mapped) => match &mapped.column {
                    Some(column) => column.as_str(),
                    None => continue,
                },
                None => role.name(),
            };
            match self.columns.iter().find(|column| column.name == name) {
                Some(column) => {
                    self.check(*role, column, mapped.is_some(), wrong);
                    if let Some((other, _)) = chosen.iter().find(|(_, taken)| taken.name == name) {
                        wrong.push(format!("column {name} cannot be both {other} and {role}"));
                    }
                    chosen.push((*role, column));
                }
                None if mapped.is_some() => wrong.push(format!(
                    "{} has no column {name} to be the {role}; it has {}",
                    self.table,
                    self.names()
                )),
                None => {}
            }
        }
        let has = |role| chosen.iter().any(|(of, _)| *of == role);
        let is_mapped = |role| {
            self.map
                .iter()
                .any(|mapped| mapped.role == role && mapped.column.is_some())
        };
        if !has(Role::Embedding) && !is_mapped(Role::Embedding) {
            wrong.push(format!(
                "no column for the vectors: name one of type embedding or vector with --into-map embedding=COLUMN (the \
                 columns are {})",
                self.names()
            ));
        }
        if !has(Role::Key)
            && !has(Role::PhotoId)
            && !is_mapped(Role::Key)
            && !is_mapped(Role::PhotoId)
        {
            wrong.push(format!(
                "no column says of which photo a row is: name one that takes the photo's key (its path, or the column id of \
                 a query) with --into-map key=COLUMN (the columns are {})",
                self.names()
            ));
        }
        chosen
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        names.join(", ")
    }

    fn check(&self, role: Role, column: &Column, is_named: bool, wrong: &mut Vec<String>) {
        let place = format!("{}.{}", self.table, column.name);
        // It was taken by its name only.
        let hint = match is_named {
            true => String::new(),
            false => format!(" (--into-map {role}= leaves it out, {role}=COLUMN names another)"),
        };
        let (_, words) = role.types();
        if !role.takes(column) {
            wrong.push(format!(
                "{place} is of type {}, the {role} needs {words}{hint}",
                column.sql_type
            ));
        } else if let Some(limit) = column.most_characters()
            && matches!(role, Role::DetectModel | Role::EmbedModel)
            && limit < SHA256_CHARACTERS
        {
            wrong.push(format!(
                "{place} takes {limit} characters, the {role} has {SHA256_CHARACTERS}{hint}"
            ));
        } else if column.is_generated {
            wrong.push(format!(
                "{place} is generated and takes no value, it cannot be the {role}{hint}"
            ));
        } else if role == Role::Key && column.is_nondeterministic {
            wrong.push(format!(
                "{place} has a collation by which keys that differ may be equal (a.jpg and A.jpg, say), the {role} needs a \
                 deterministic one{hint}"
            ));
        } else if column.is_not_null
            && let Some(absence) = role.absence()
        {
            wrong.push(format!("{place} is NOT NULL, but {absence}{hint}"));
        }
    }

    /// Columns that nobody fills.
    fn check_others(&self, chosen: &[(Role, &Column)], wrong: &mut Vec<String>) {
        for column in self.columns {
            let is_filled = chosen.iter().any(|(_, taken)| taken.name == column.name);
            if !is_filled && column.needs_value() {
                wrong.push(format!(
                    "{}.{} ({}) is NOT NULL, has no default and no role: map one to it, or give it a default",
                    self.table, column.name, column.sql_type
                ));
            }
        }
    }

    /// A photo with two garments has two rows.
    fn check_unique(
        &self,
        chosen: &[(Role, &Column)],
        keys: Vec<Vec<String>>,
        wrong: &mut Vec<String>,
    ) {
        let is_of_the_photo = |name: &String| {
            let found = chosen.iter().find(|(_, column)| column.name == *name);
            found.is_some_and(|(role, _)| role.is_of_the_photo())
        };
        for key in keys {
            if key.iter().all(is_of_the_photo) {
                wrong.push(format!(
                    "{} ({}) is unique, but there is one row for each garment, and a photo with two garments has the same there \
                     twice: write into a table of garments that refers to it",
                    self.table,
                    key.join(", ")
                ));
            }
        }
    }
}
