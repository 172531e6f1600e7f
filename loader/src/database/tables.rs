//! The loader's own tables: `photo` and `garment`, or the list of photos beside a table of the shop. Made when
//! missing, checked when there.

use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use postgres::{Client, Transaction};

use super::{
    Role, Target, VectorKind,
    catalog::{columns_of, exists, references_of, unique_keys},
    lock::LOCK_CLASS,
    mapped::oid_of,
    quoted,
};

/// What a product's key may be.
const KEY_TYPES: &[&str] = &["text", "varchar", "int2", "int4", "int8", "uuid"];
const TEXT: &[&str] = &["text"];

const PHOTO_COLUMNS: &[(&str, &[&str])] = &[
    ("id", &["int8"]),
    ("path", TEXT),
    ("sku", KEY_TYPES),
    ("sha256", &["bytea"]),
    ("width", &["int4"]),
    ("height", &["int4"]),
    ("detect_model", TEXT),
    ("embed_model", TEXT),
    ("attributes", &["jsonb"]),
    ("full_front_pose", &["bool"]),
    ("sells", TEXT),
];
/// Columns that tables of earlier versions lack, and that a load adds, with their types.
const ADDED_LATER: &[(&str, &str)] = &[("full_front_pose", "boolean"), ("sells", "text")];
/// The garments' further column, of one type or another.
const EMBEDDING: &str = "embedding";
const GARMENT_COLUMNS: &[(&str, &[&str])] = &[
    ("photo_id", &["int8"]),
    ("sku", KEY_TYPES),
    ("category", TEXT),
    ("label", TEXT),
    ("score", &["float4"]),
    ("box", &["box"]),
];

/// A row of up to this many bytes stays in one piece (`TOAST_TUPLE_TARGET_MAIN` of
/// `src/include/access/heaptoast.h`: what fits an empty page). By default PostgreSQL moves the largest
/// columns of a row above 2 kB into the TOAST table: an embedding of more than some 450 dimensions, and then
/// every search reads three more pages for each row. A column that is `STORAGE PLAIN` would stay too, but fail
/// where it does not fit, and above 2 kB texts would be moved out in its place.
const INLINE_BYTES: u32 = 8160;

/// The shop's product key: `public.product(sku)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProductKey {
    /// As the user wrote it.
    pub table: String,
    pub column: String,
}

impl FromStr for ProductKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.trim().strip_suffix(')');
        let parts = parts.and_then(|text| text.split_once('('));
        match parts.map(|(table, column)| (table.trim(), column.trim())) {
            Some((table, column)) if !table.is_empty() && !column.is_empty() => Ok(Self {
                table: table.to_owned(),
                column: column.to_owned(),
            }),
            _ => Err("must be TABLE(COLUMN), like public.product(sku)".to_owned()),
        }
    }
}

impl Target {
    /// Whether both tables are there.
    pub fn exist(&self, client: &mut Client) -> Result<bool> {
        Ok(exists(client, &self.photo)? && exists(client, &self.garment)?)
    }

    /// Makes what is missing, for vectors of that many dimensions, and checks what is there.
    pub fn ensure(
        &self,
        client: &mut Client,
        dimensions: usize,
        product: Option<&ProductKey>,
    ) -> Result<()> {
        let mut change = client.transaction()?;
        // Shards may begin at the same moment.
        change.execute(
            "SELECT pg_catalog.pg_advisory_xact_lock($1, pg_catalog.hashtext($2))",
            &[&LOCK_CLASS, &format!("{} tables", self.lock_name())],
        )?;
        let product = match product {
            Some(product) => Some(Product::find(&mut change, product)?),
            None => None,
        };
        self.add_columns(&mut change)?;
        self.check(&mut change, dimensions)?;
        self.create_missing(&mut change, dimensions, product.as_ref())
            .with_context(|| format!("cannot create the tables in schema {:?}", self.schema))?;
        if self.is_mapped {
            self.claim_list(&mut change)?;
        }
        if let Some(product) = &product {
            self.refer(&mut change, product)?;
        }
        Ok(change.commit()?)
    }

    /// Fails where [`Self::ensure`] would because of what is there already.
    pub fn check_there(&self, client: &mut Client, dimensions: usize) -> Result<()> {
        self.check(&mut client.transaction()?, dimensions)
    }

    /// Fails where garments without a product, which are worn with one, have no place.
    pub fn check_worn(&self, client: &mut Client) -> Result<()> {
        let Some(sku) = self.column(Role::Sku) else {
            return Ok(());
        };
        let columns = columns_of(client, &self.garment)?;
        let column = columns.iter().find(|column| column.name == sku);
        ensure!(
            column.is_none_or(|column| !column.is_not_null),
            "--map sells=... leaves the garments without a product that are worn with one, and {}.{} is NOT NULL: \
             ALTER TABLE {0} ALTER COLUMN {} DROP NOT NULL",
            self.garment,
            self.in_sql(sku),
            quoted(sku)
        );
        Ok(())
    }

    /// Fails with what to do when the tables are not there.
    pub fn require(&self, client: &mut Client) -> Result<()> {
        for table in [&self.photo, &self.garment] {
            if !exists(client, table)? {
                bail!(
                    "there is no table {table}: load a catalogue first (lookbook load), or name its schema with --schema"
                );
            }
        }
        Ok(())
    }

    /// Tables of earlier versions lack some.
    fn add_columns(&self, change: &mut Transaction<'_>) -> Result<()> {
        if !exists(change, &self.photo)? {
            return Ok(());
        }
        let columns = columns_of(change, &self.photo)?;
        for (name, sql_type) in ADDED_LATER {
            if columns.iter().any(|column| column.name == *name) {
                continue;
            }
            let add = format!("ALTER TABLE {} ADD COLUMN {name} {sql_type}", self.photo);
            change.batch_execute(&add).with_context(|| {
                format!("the table is of an earlier version; its owner may run: {add}")
            })?;
        }
        Ok(())
    }

    fn create_missing(
        &self,
        change: &mut Transaction<'_>,
        dimensions: usize,
        product: Option<&Product>,
    ) -> Result<()> {
        let has_schema = change
            .query_opt(
                "SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1",
                &[&self.schema],
            )?
            .is_some();
        if !has_schema {
            change.batch_execute(&format!("CREATE SCHEMA {}", quoted(&self.schema)))?;
        }
        // A product's key keeps its type, or nothing could refer to it.
        let sku = product.map_or("text", |product| product.sql_type.as_str());
        // Asked first: IF NOT EXISTS needs the right to create even where nothing is created.
        if !exists(change, &self.photo)? {
            change.batch_execute(&format!(
                "CREATE TABLE {} (
                   id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
                   path text NOT NULL UNIQUE,
                   sku {sku} NOT NULL,
                   sells text,
                   sha256 bytea NOT NULL,
                   width int NOT NULL,
                   height int NOT NULL,
                   detect_model text NOT NULL,
                   embed_model text NOT NULL,
                   attributes jsonb,
                   full_front_pose boolean,
                   loaded_at timestamptz NOT NULL DEFAULT now())",
                self.photo
            ))?;
        }
        if !exists(change, &self.garment)? {
            change.batch_execute(&format!(
                "CREATE TABLE {garment} (
                   id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
                   photo_id bigint NOT NULL REFERENCES {photo} ON DELETE CASCADE,
                   sku {sku},
                   category text NOT NULL,
                   label text NOT NULL,
                   score real,
                   box box NOT NULL,
                   embedding {vector}({dimensions}) NOT NULL)
                   WITH (toast_tuple_target = {INLINE_BYTES});
                 CREATE INDEX ON {garment} (photo_id);
                 CREATE INDEX ON {garment} (sku)",
                garment = self.garment,
                photo = self.photo,
                vector = self.vector_type(),
            ))?;
        }
        if self.extension.is_none() && !exists(change, &self.record)? {
            change.batch_execute(&format!(
                "CREATE TABLE {record} (
                   relation regclass NOT NULL,
                   attribute name NOT NULL,
                   model_name text NOT NULL,
                   model_sha256 text NOT NULL CHECK (model_sha256 ~ '^[0-9a-f]{{64}}$'),
                   PRIMARY KEY (relation, attribute));
                 COMMENT ON TABLE {record} IS 'Which model filled a column: vectors of two models do not mix'",
                record = self.record
            ))?;
        }
        Ok(())
    }

    /// Makes the tables refer to the product, where they do not yet.
    fn refer(&self, change: &mut Transaction<'_>, product: &Product) -> Result<()> {
        for table in [&self.photo, &self.garment] {
            let references = references_of(change, table)?;
            let is_there = references.iter().any(|reference| {
                reference.column == "sku"
                    && reference.table == product.table
                    && reference.referenced == product.column
            });
            if is_there {
                continue;
            }
            change
                .batch_execute(&format!(
                    "ALTER TABLE {table} ADD FOREIGN KEY (sku) REFERENCES {} ({}) ON UPDATE CASCADE ON DELETE CASCADE",
                    product.table,
                    quoted(&product.column)
                ))
                .with_context(|| {
                    format!(
                        "--sku-references: {table}.sku cannot refer to {}.{}",
                        product.table, product.column
                    )
                })?;
        }
        // A product that goes takes its photos along, and finds them by this.
        if !super::catalog::is_indexed(change, &self.photo, "sku")? {
            change.batch_execute(&format!("CREATE INDEX ON {} (sku)", self.photo))?;
        }
        Ok(())
    }

    /// What is there already must be what a load writes; what is missing is nothing wrong.
    fn check(&self, change: &mut Transaction<'_>, dimensions: usize) -> Result<()> {
        if self.is_mapped {
            self.check_list(change)?;
        }
        let mut wrong = Vec::new();
        check_columns(change, &self.photo, PHOTO_COLUMNS, &mut wrong)?;
        check_others(change, &self.photo, PHOTO_COLUMNS, &mut wrong)?;
        if !self.is_mapped {
            check_columns(change, &self.garment, GARMENT_COLUMNS, &mut wrong)?;
            check_others(change, &self.garment, GARMENT_COLUMNS, &mut wrong)?;
        }
        if exists(change, &self.garment)? {
            let columns = columns_of(change, &self.garment)?;
            let name = self.embedding();
            let type_name = self.vector.name();
            let found = columns.iter().find(|column| column.name == name);
            let garment = &self.garment;
            match found {
                None => wrong.push(format!("{garment} has no column {name} ({type_name})")),
                Some(column) if column.type_name != type_name => wrong.push(format!(
                    "{garment}.{name} is {}, it must be {type_name}{}",
                    column.type_name,
                    match (column.type_name.as_str(), self.vector) {
                        ("vector", VectorKind::Embedding) => " (--pgvector writes vector)",
                        ("halfvec", _) => " (--into writes halfvec)",
                        _ => "",
                    }
                )),
                Some(column)
                    if column.typmod > 0 && usize::try_from(column.typmod) != Ok(dimensions) =>
                {
                    wrong.push(format!(
                        "{garment}.{name} is {type_name}({}), the model gives {dimensions} dimensions",
                        column.typmod
                    ));
                }
                Some(_) => {}
            }
        }
        if exists(change, &self.photo)?
            && !unique_keys(change, &self.photo)?.contains(&vec!["path".to_owned()])
        {
            wrong.push(format!("{}.path has no unique index", self.photo));
        }
        if !wrong.is_empty() {
            let wrong = wrong.join("; ");
            if self.is_mapped {
                bail!("--into {} does not work: {wrong}", self.garment);
            }
            bail!(
                "the tables in schema {:?} are not what the loader writes: {wrong}; change them, or load into another schema with --schema NAME",
                self.schema
            );
        }
        Ok(())
    }

    /// The role of the sku, for gates.
    pub(super) fn sku_columns(&self) -> Vec<(&str, &str)> {
        let mut columns = vec![(self.photo.as_str(), "sku")];
        if let Some(column) = self.column(Role::Sku) {
            columns.push((&self.garment, column));
        }
        columns
    }
}

fn check_columns(
    change: &mut Transaction<'_>,
    table: &str,
    wanted: &[(&str, &[&str])],
    wrong: &mut Vec<String>,
) -> Result<()> {
    if !exists(change, table)? {
        return Ok(());
    }
    let columns = columns_of(change, table)?;
    for (name, types) in wanted {
        let found = columns.iter().find(|column| column.name == *name);
        match found {
            None if ADDED_LATER.iter().any(|(later, _)| later == name) => {}
            None => wrong.push(format!("{table} has no column {name} ({})", types[0])),
            Some(column) if !types.contains(&column.type_name.as_str()) => wrong.push(format!(
                "{table}.{name} is {}, it must be {}",
                column.type_name,
                types.join(", ")
            )),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Columns that somebody added and nobody fills.
fn check_others(
    change: &mut Transaction<'_>,
    table: &str,
    ours: &[(&str, &[&str])],
    wrong: &mut Vec<String>,
) -> Result<()> {
    if !exists(change, table)? || may_be_filled(change, table)? {
        return Ok(());
    }
    for column in columns_of(change, table)? {
        let is_ours = ours.iter().any(|(name, _)| *name == column.name) || column.name == EMBEDDING;
        if !is_ours && column.needs_value() {
            wrong.push(format!(
                "{table}.{} is NOT NULL, and a load has nothing for it: give it a default",
                column.name
            ));
        }
    }
    Ok(())
}

/// Whether a trigger sees each row before it is written.
fn may_be_filled(change: &mut Transaction<'_>, table: &str) -> Result<bool> {
    // TRIGGER_TYPE_ROW, _BEFORE and _INSERT of `pg_trigger.h`.
    let triggers = "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = pg_catalog.to_regclass($1) \
                    AND NOT tgisinternal AND tgtype & 7 = 7)";
    Ok(change.query_one(triggers, &[&table])?.get(0))
}

/// The shop's product key, as the server knows it.
struct Product {
    /// Quoted, as is.
    table: String,
    column: String,
    sql_type: String,
}

impl Product {
    fn find(change: &mut Transaction<'_>, product: &ProductKey) -> Result<Self> {
        let ProductKey { table, column } = product;
        let oid = oid_of(change, table)?;
        let found = change.query_one("SELECT $1::oid::regclass::text", &[&oid])?;
        let found: Option<String> = found.get(0);
        let found =
            found.with_context(|| format!("--sku-references: there is no table {table}"))?;
        let columns = columns_of(change, &found)?;
        let name = unquoted(column);
        let Some(key) = columns.iter().find(|known| known.name == name) else {
            let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            bail!(
                "--sku-references: {found} has no column {name}; it has {}",
                names.join(", ")
            );
        };
        ensure!(
            KEY_TYPES.contains(&key.type_name.as_str()),
            "--sku-references: {found}.{name} is of type {}; a product's key is a text, an integer or a uuid",
            key.sql_type
        );
        ensure!(
            unique_keys(change, &found)?.contains(&vec![name.clone()]),
            "--sku-references: {found}.{name} is not unique: a foreign key needs a primary key or a unique constraint on it"
        );
        Ok(Self {
            table: found,
            column: name,
            sql_type: key.sql_type.clone(),
        })
    }
}

/// The name that an SQL identifier stands for.
pub(super) fn unquoted(identifier: &str) -> String {
    match identifier
        .strip_prefix('"')
        .and_then(|inner| inner.strip_suffix('"'))
    {
        Some(inner) => inner.replace("\"\"", "\""),
        None => identifier.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_key_is_a_table_and_a_column() {
        let key: ProductKey = "public.product (sku)".parse().unwrap();
        assert_eq!(
            (key.table.as_str(), key.column.as_str()),
            ("public.product", "sku")
        );
        for wrong in ["product", "product()", "(sku)", "product(sku", ""] {
            assert!(wrong.parse::<ProductKey>().is_err(), "{wrong}");
        }
        assert_eq!(unquoted("\"a \"\"b\"\"\""), "a \"b\"");
    }
}
