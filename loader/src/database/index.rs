//! The index on the column of the vectors: whether there is one, making it, and watching it being made.
//!
//! Invariant: an index that is there is never touched.

use anyhow::{Context, Result};
use postgres::Client;

use super::{
    Role, Target, VectorKind,
    catalog::{Column, columns_of, concurrently},
    connect_anywhere,
};

/// An index for nearest neighbours whose first column is that of the vectors: of all rows, for the distance by which
/// searches order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundIndex {
    /// Quoted, with its schema.
    pub name: String,
    /// False for what a failed `CREATE INDEX CONCURRENTLY` left.
    pub is_valid: bool,
    pub bytes: u64,
    /// `lookbook`, or one of pgvector's.
    pub method: String,
}

/// The session that makes the index.
pub struct IndexBuilder {
    client: Client,
    target: Target,
}

impl IndexBuilder {
    pub fn new(client: Client, target: Target) -> Self {
        Self { client, target }
    }

    /// The index that searches can use, if there is one; a valid one first.
    pub fn find(&mut self) -> Result<Option<FoundIndex>> {
        let row = self.client.query_opt(
            "SELECT i.indexrelid::pg_catalog.regclass::text, i.indisvalid, \
               coalesce((SELECT sum(pg_catalog.pg_relation_size(part.relid)) \
                         FROM pg_catalog.pg_partition_tree(i.indexrelid) part), \
                        pg_catalog.pg_relation_size(i.indexrelid))::bigint, m.amname::text \
             FROM pg_catalog.pg_index i \
             JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
             JOIN pg_catalog.pg_am m ON m.oid = c.relam AND m.amname IN ('lookbook', 'hnsw', 'ivfflat') \
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] \
             WHERE i.indrelid = pg_catalog.to_regclass($1) AND a.attname = $2 AND i.indpred IS NULL \
               AND EXISTS (SELECT FROM pg_catalog.pg_opclass k \
                 JOIN pg_catalog.pg_amop o ON o.amopfamily = k.opcfamily AND o.amoppurpose = 'o' \
                 JOIN pg_catalog.pg_operator p ON p.oid = o.amopopr AND p.oprname = '<->' \
                 WHERE k.oid = i.indclass[0]) \
             ORDER BY i.indisvalid DESC, i.indexrelid LIMIT 1",
            &[&self.target.garment, &self.target.embedding()],
        )?;
        Ok(row.map(|row| FoundIndex {
            name: row.get(0),
            is_valid: row.get(1),
            bytes: unsigned(row.get(2)),
            method: row.get(3),
        }))
    }

    /// Verifies every page of an index, or of all its partitions; returns its rows.
    pub fn check(&mut self, index: &FoundIndex) -> Result<i64> {
        let check = self.target.ours("lookbook_index_check");
        let check = check.context("the database has no lookbook extension")?;
        let check = format!(
            "SELECT CASE c.relkind WHEN 'I' THEN \
               (SELECT coalesce(sum({check}(part.relid)), 0)::bigint \
                FROM pg_catalog.pg_partition_tree(c.oid) part WHERE part.isleaf) \
             ELSE {check}(c.oid) END \
             FROM pg_catalog.pg_class c WHERE c.oid = $1::text::pg_catalog.regclass"
        );
        Ok(self.client.query_one(&check, &[&index.name])?.get(0))
    }

    /// What [`Self::create`] runs. `category` is what `lookbook search` filters by, and with `label` what
    /// tells one garment from another; each costs four bytes a row. `sku` and `photo_id` select single
    /// photos, for which a btree is better. pgvector's index takes no further columns.
    pub fn statement(&mut self) -> Result<String> {
        self.statement_with("")
    }

    /// The same for a table that others write to meanwhile; of a column without dimensions, how it gets them first.
    pub fn statement_for_owner(&mut self) -> Result<String> {
        let option = concurrently(&mut self.client, &self.target.garment)?;
        let statement = self.statement_with(option)?;
        let columns = columns_of(&mut self.client, &self.target.garment)?;
        let embedding = self.target.embedding();
        let is_open = |column: &Column| column.name == embedding && column.typmod < 0;
        Ok(match columns.iter().any(is_open) {
            true => format!(
                "ALTER TABLE {} ALTER COLUMN {} TYPE {}(DIMENSIONS), which an index needs; {statement}",
                self.target.garment,
                self.target.in_sql(embedding),
                self.target.vector.name()
            ),
            false => statement,
        })
    }

    fn statement_with(&mut self, option: &str) -> Result<String> {
        let Target {
            garment, vector, ..
        } = &self.target;
        let name = |column: &str| self.target.in_sql(column);
        let embedding = name(self.target.embedding());
        Ok(match vector {
            VectorKind::Vector | VectorKind::HalfVec => format!(
                "CREATE INDEX {option}ON {garment} USING hnsw ({embedding} {})",
                format_args!("{}.{}_l2_ops", self.target.vector_schema, vector.name())
            ),
            VectorKind::Embedding => {
                let filters = [Role::Category, Role::Label].into_iter();
                let filters = filters.filter_map(|role| self.target.column(role));
                let columns: Vec<String> = filters.map(name).collect();
                let columns = std::iter::once(embedding).chain(columns);
                format!(
                    "CREATE INDEX {option}ON {garment} USING lookbook ({})",
                    columns.collect::<Vec<_>>().join(", ")
                )
            }
        })
    }

    /// Returns when the index is there; nothing of it is when this fails.
    pub fn create(&mut self) -> Result<()> {
        let statement = self.statement()?;
        Ok(self.client.batch_execute(&statement)?)
    }

    /// A second session, which looks at this one.
    pub fn watcher(&mut self, url: Option<&str>) -> Result<IndexWatcher> {
        IndexWatcher::of(&mut self.client, url)
    }
}

/// How far the server is, as in `pg_stat_progress_create_index`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct IndexProgress {
    pub phase: String,
    pub tuples_done: u64,
    pub tuples_total: u64,
    pub blocks_done: u64,
    pub blocks_total: u64,
}

pub struct IndexWatcher {
    client: Client,
    builder: i32,
}

impl IndexWatcher {
    /// A session that looks at `builder`.
    pub fn of(builder: &mut Client, url: Option<&str>) -> Result<Self> {
        let own = builder.query_one("SELECT pg_catalog.pg_backend_pid()", &[])?;
        Ok(Self {
            client: connect_anywhere(url)?,
            builder: own.get(0),
        })
    }

    /// `None`: not at work yet, or no more.
    pub fn progress(&mut self) -> Result<Option<IndexProgress>> {
        let row = self.client.query_opt(
            "SELECT phase, tuples_done, tuples_total, blocks_done, blocks_total \
             FROM pg_catalog.pg_stat_progress_create_index WHERE pid = $1",
            &[&self.builder],
        )?;
        Ok(row.map(|row| IndexProgress {
            phase: row.get(0),
            tuples_done: unsigned(row.get(1)),
            tuples_total: unsigned(row.get(2)),
            blocks_done: unsigned(row.get(3)),
            blocks_total: unsigned(row.get(4)),
        }))
    }

    /// Asks the server to end what the first session is doing.
    pub fn cancel(&mut self) -> Result<()> {
        self.client
            .execute("SELECT pg_catalog.pg_cancel_backend($1)", &[&self.builder])?;
        Ok(())
    }
}

/// Counts come as `bigint`; none is negative.
fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
