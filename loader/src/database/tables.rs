//! The tables `photo` and `garment`: made when missing, checked when there, and kept to one loader
//! at a time.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use postgres::{Client, Transaction};

use super::quoted;
use crate::shard::Shard;

/// Namespace of our advisory locks: "look".
pub(super) const LOCK_CLASS: i32 = 0x6c6f_6f6b;
/// A server takes a moment to notice that a killed loader is gone.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

const PHOTO_COLUMNS: &[(&str, &str)] = &[
    ("id", "int8"),
    ("path", "text"),
    ("sku", "text"),
    ("sha256", "bytea"),
    ("width", "int4"),
    ("height", "int4"),
    ("detect_model", "text"),
    ("embed_model", "text"),
    ("attributes", "jsonb"),
    ("full_front_pose", "bool"),
];
const GARMENT_COLUMNS: &[(&str, &str)] = &[
    ("photo_id", "int8"),
    ("sku", "text"),
    ("category", "text"),
    ("label", "text"),
    ("score", "float4"),
    ("box", "box"),
    ("embedding", "embedding"),
];

/// A row of up to this many bytes stays in one piece (`TOAST_TUPLE_TARGET_MAIN` of
/// `src/include/access/heaptoast.h`: what fits an empty page). By default PostgreSQL moves the largest
/// columns of a row above 2 kB into the TOAST table: an embedding of more than some 450 dimensions, and then
/// every search reads three more pages for each row. A column that is `STORAGE PLAIN` would stay too, but fail
/// where it does not fit, and above 2 kB texts would be moved out in its place.
const INLINE_BYTES: u32 = 8160;

/// The two tables, quoted and with their schema.
#[derive(Debug, Clone)]
pub struct Tables {
    schema: String,
    pub photo: String,
    pub garment: String,
}

impl Tables {
    pub fn in_schema(schema: &str) -> Self {
        let qualified = |table| format!("{}.{table}", quoted(schema));
        Self {
            schema: schema.to_owned(),
            photo: qualified("photo"),
            garment: qualified("garment"),
        }
    }

    /// Keeps other loaders out of this schema until the connection ends; a shard those of the same shard,
    /// and of no shard.
    pub fn lock(&self, client: &mut Client, shard: Option<&Shard>) -> Result<()> {
        let Some(shard) = shard else {
            return wait_for(client, TRY_LOCK, &self.schema, || {
                format!(
                    "another lookbook load is writing to schema {:?} of this database: let it finish, then run this again",
                    self.schema
                )
            });
        };
        wait_for(client, TRY_LOCK_SHARED, &self.schema, || {
            format!(
                "a lookbook load without --shard is writing to schema {:?} of this database: let it finish, then run this again",
                self.schema
            )
        })?;
        wait_for(
            client,
            TRY_LOCK,
            &format!("{} {shard}", self.schema),
            || {
                format!(
                    "another lookbook load of shard {shard} is writing to schema {:?} of this database: give each machine a shard of its own",
                    self.schema
                )
            },
        )
    }

    /// Whether this shard is the last one at work, which then keeps new ones out.
    pub fn outlast_other_shards(&self, client: &mut Client) -> Result<bool> {
        let unlock = "SELECT pg_catalog.pg_advisory_unlock_shared($1, pg_catalog.hashtext($2))";
        client.query_one(unlock, &[&LOCK_CLASS, &self.schema])?;
        Ok(client
            .query_one(TRY_LOCK, &[&LOCK_CLASS, &self.schema])?
            .get(0))
    }

    /// Whether both tables are there.
    pub fn exist(&self, client: &mut Client) -> Result<bool> {
        Ok(exists(client, &self.photo)? && exists(client, &self.garment)?)
    }

    /// Makes what is missing, for vectors of that many dimensions, and checks what is there.
    pub fn ensure(&self, client: &mut Client, dimensions: usize) -> Result<()> {
        let mut change = client.transaction()?;
        // Shards may begin at the same moment.
        change.execute(
            "SELECT pg_catalog.pg_advisory_xact_lock($1, pg_catalog.hashtext($2))",
            &[&LOCK_CLASS, &format!("{} tables", self.schema)],
        )?;
        self.add_pose_column(&mut change)?;
        self.check(&mut change, dimensions)?;
        self.create_missing(&mut change, dimensions)
            .with_context(|| format!("cannot create the tables in schema {:?}", self.schema))?;
        Ok(change.commit()?)
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

    /// The detector of the newest photo.
    pub fn detect_model(&self, client: &mut Client) -> Result<Option<String>> {
        let newest = format!(
            "SELECT detect_model FROM {} ORDER BY id DESC LIMIT 1",
            self.photo
        );
        Ok(client.query_opt(&newest, &[])?.map(|row| row.get(0)))
    }

    /// Deletes photos with their garments, in one transaction; returns how many were there.
    pub fn delete_photos(&self, client: &mut Client, ids: &[i64]) -> Result<u64> {
        let delete = format!("DELETE FROM {} WHERE id = ANY($1)", self.photo);
        Ok(client.execute(&delete, &[&ids])?)
    }

    /// New statistics for the planner.
    pub fn analyze(&self, client: &mut Client) -> Result<()> {
        Ok(client.batch_execute(&format!("ANALYZE {}", self.garment))?)
    }

    /// Tables of earlier releases lack it.
    fn add_pose_column(&self, change: &mut Transaction<'_>) -> Result<()> {
        if !exists(change, &self.photo)? {
            return Ok(());
        }
        let columns = columns_of(change, &self.photo)?;
        if columns
            .iter()
            .any(|column| column.name == "full_front_pose")
        {
            return Ok(());
        }
        let add = format!(
            "ALTER TABLE {} ADD COLUMN full_front_pose boolean",
            self.photo
        );
        change.batch_execute(&add).with_context(|| {
            format!("the table is of an earlier release; its owner may run: {add}")
        })
    }

    fn create_missing(&self, change: &mut Transaction<'_>, dimensions: usize) -> Result<()> {
        let has_schema = change
            .query_opt(
                "SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1",
                &[&self.schema],
            )?
            .is_some();
        if !has_schema {
            change.batch_execute(&format!("CREATE SCHEMA {}", quoted(&self.schema)))?;
        }
        // Asked first: IF NOT EXISTS needs the right to create even where nothing is created.
        if !exists(change, &self.photo)? {
            change.batch_execute(&format!(
                "CREATE TABLE {} (
                   id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
                   path text NOT NULL UNIQUE,
                   sku text NOT NULL,
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
                   sku text NOT NULL,
                   category text NOT NULL,
                   label text NOT NULL,
                   score real,
                   box box NOT NULL,
                   embedding embedding({dimensions}) NOT NULL)
                   WITH (toast_tuple_target = {INLINE_BYTES});
                 CREATE INDEX ON {garment} (photo_id)",
                garment = self.garment,
                photo = self.photo
            ))?;
        }
        Ok(())
    }

    /// What is there already must be what a load writes; what is missing is nothing wrong.
    fn check(&self, change: &mut Transaction<'_>, dimensions: usize) -> Result<()> {
        let mut wrong = Vec::new();
        for (table, wanted) in [
            (&self.photo, PHOTO_COLUMNS),
            (&self.garment, GARMENT_COLUMNS),
        ] {
            if !exists(change, table)? {
                continue;
            }
            let columns = columns_of(change, table)?;
            for (name, type_name) in wanted {
                let found = columns.iter().find(|column| column.name == *name);
                match found {
                    None => wrong.push(format!("{table} has no column {name} ({type_name})")),
                    Some(column) if column.type_name != *type_name => wrong.push(format!(
                        "{table}.{name} is {}, it must be {type_name}",
                        column.type_name
                    )),
                    Some(column)
                        if *type_name == "embedding"
                            && column.typmod > 0
                            && usize::try_from(column.typmod) != Ok(dimensions) =>
                    {
                        wrong.push(format!(
                            "{table}.{name} is embedding({}), the model gives {dimensions} dimensions",
                            column.typmod
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
        if exists(change, &self.photo)? && !has_unique_index(change, &self.photo, "path")? {
            wrong.push(format!("{}.path has no unique index", self.photo));
        }
        if !wrong.is_empty() {
            bail!(
                "the tables in schema {:?} are not what the loader writes: {}; change them, or load into another schema with --schema NAME",
                self.schema,
                wrong.join("; ")
            );
        }
        Ok(())
    }
}

const TRY_LOCK: &str = "SELECT pg_catalog.pg_try_advisory_lock($1, pg_catalog.hashtext($2))";
const TRY_LOCK_SHARED: &str =
    "SELECT pg_catalog.pg_try_advisory_lock_shared($1, pg_catalog.hashtext($2))";

/// Takes a lock of the session, or fails after [`LOCK_PATIENCE`].
fn wait_for(
    client: &mut Client,
    lock: &str,
    name: &str,
    refusal: impl FnOnce() -> String,
) -> Result<()> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    while !client
        .query_one(lock, &[&LOCK_CLASS, &name])?
        .get::<_, bool>(0)
    {
        if Instant::now() >= deadline {
            bail!(refusal());
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

struct Column {
    name: String,
    type_name: String,
    typmod: i32,
}

fn exists(client: &mut impl postgres::GenericClient, table: &str) -> Result<bool> {
    let found = client.query_one("SELECT pg_catalog.to_regclass($1) IS NOT NULL", &[&table])?;
    Ok(found.get(0))
}

fn columns_of(change: &mut Transaction<'_>, table: &str) -> Result<Vec<Column>> {
    let rows = change.query(
        "SELECT a.attname::text, t.typname::text, a.atttypmod FROM pg_catalog.pg_attribute a \
         JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
         WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped",
        &[&table],
    )?;
    let column = |row: &postgres::Row| Column {
        name: row.get(0),
        type_name: row.get(1),
        typmod: row.get(2),
    };
    Ok(rows.iter().map(column).collect())
}

fn has_unique_index(change: &mut Transaction<'_>, table: &str, column: &str) -> Result<bool> {
    let found = change.query_opt(
        "SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a \
         ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] \
         WHERE i.indrelid = pg_catalog.to_regclass($1) AND i.indisunique AND i.indnkeyatts = 1 \
         AND i.indpred IS NULL AND a.attname = $2 LIMIT 1",
        &[&table, &column],
    )?;
    Ok(found.is_some())
}
