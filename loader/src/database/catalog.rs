//! What the system catalogs say of tables: columns with their types, keys, what refers to what.
//!
//! Knows nothing of photos. Tables are named as SQL text: quoted, with their schema.

use anyhow::Result;
use postgres::GenericClient;

/// A column of a table.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    /// Of the type itself, without its schema: `int4`, `embedding`; of a domain, the type that it is made of.
    pub type_name: String,
    /// As SQL names it, with its schema where that is not `pg_catalog`.
    pub sql_type: String,
    pub typmod: i32,
    pub is_not_null: bool,
    /// Gets a value by itself where none is given.
    pub has_default: bool,
    /// Takes no value from anybody.
    pub is_generated: bool,
    /// What an enum may be; `None`: it is none.
    pub enum_labels: Option<Vec<String>>,
    /// By its collation, texts that differ may be equal.
    pub is_nondeterministic: bool,
}

impl Column {
    /// Whether a row has to be given a value for it.
    pub fn needs_value(&self) -> bool {
        self.is_not_null && !self.has_default && !self.is_generated
    }

    /// How long a text may be; `None`: any length, or no text. The modifier of a varchar counts its header of four
    /// bytes (`VARHDRSZ`), too.
    pub fn most_characters(&self) -> Option<usize> {
        let is_limited = self.type_name == "varchar" && self.typmod > 4;
        is_limited.then(|| usize::try_from(self.typmod - 4).unwrap_or(usize::MAX))
    }
}

/// A column that refers to one of another table.
#[derive(Debug, Clone)]
pub struct Reference {
    pub column: String,
    /// Quoted, as is.
    pub table: String,
    pub referenced: String,
    pub sql_type: String,
}

pub fn exists(client: &mut impl GenericClient, table: &str) -> Result<bool> {
    let found = client.query_one("SELECT pg_catalog.to_regclass($1) IS NOT NULL", &[&table])?;
    Ok(found.get(0))
}

/// The kind of a relation (`r`, `p`, `v`, ...); `None`: there is none of that name.
pub fn relation_kind(client: &mut impl GenericClient, table: &str) -> Result<Option<String>> {
    let row = client.query_opt(
        "SELECT relkind::text FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($1)",
        &[&table],
    )?;
    Ok(row.map(|row| row.get(0)))
}

/// Whether a table, or a partition of it, has triggers of somebody's own.
pub fn has_triggers(client: &mut impl GenericClient, table: &str) -> Result<bool> {
    let found = client.query_one(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D' AND tgrelid IN ( \
           SELECT pg_catalog.to_regclass($1)::pg_catalog.oid \
           UNION ALL SELECT relid FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass($1))))",
        &[&table],
    )?;
    Ok(found.get(0))
}

/// Tables that inherit from one, but for partitions.
pub fn heirs_of(client: &mut impl GenericClient, table: &str) -> Result<Vec<String>> {
    let rows = client.query(
        "SELECT i.inhrelid::pg_catalog.regclass::text FROM pg_catalog.pg_inherits i \
         JOIN pg_catalog.pg_class c ON c.oid = i.inhparent AND c.relkind <> 'p' \
         WHERE i.inhparent = pg_catalog.to_regclass($1) ORDER BY 1",
        &[&table],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// How an index is made while others write; of a partitioned table PostgreSQL makes none that way.
pub fn concurrently(client: &mut impl GenericClient, table: &str) -> Result<&'static str> {
    Ok(match relation_kind(client, table)?.as_deref() {
        Some("p") => "",
        _ => "CONCURRENTLY ",
    })
}

/// In their order.
pub fn columns_of(client: &mut impl GenericClient, table: &str) -> Result<Vec<Column>> {
    let rows = client.query(
        "SELECT a.attname::text, t.typname::text, pg_catalog.format_type(t.oid, NULL), base.typmod, base.not_null, \
           a.atthasdef OR a.attidentity <> '' OR base.has_default, a.attgenerated <> '' OR a.attidentity = 'a', \
           CASE t.typtype WHEN 'e' THEN ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e \
                                              WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) END, \
           EXISTS (SELECT FROM pg_catalog.pg_collation c WHERE c.oid = a.attcollation AND NOT c.collisdeterministic) \
         FROM pg_catalog.pg_attribute a \
         CROSS JOIN LATERAL ( \
           WITH RECURSIVE base AS ( \
             SELECT a.atttypid AS type, a.atttypmod AS typmod, a.attnotnull AS not_null, false AS has_default \
             UNION ALL \
             SELECT d.typbasetype, greatest(d.typtypmod, base.typmod), base.not_null OR d.typnotnull, \
               base.has_default OR d.typdefault IS NOT NULL \
             FROM base JOIN pg_catalog.pg_type d ON d.oid = base.type AND d.typtype = 'd') \
           SELECT * FROM base) AS base \
         JOIN pg_catalog.pg_type t ON t.oid = base.type AND t.typtype <> 'd' \
         WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        &[&table],
    )?;
    let column = |row: &postgres::Row| Column {
        name: row.get(0),
        type_name: row.get(1),
        sql_type: row.get(2),
        typmod: row.get(3),
        is_not_null: row.get(4),
        has_default: row.get(5),
        is_generated: row.get(6),
        enum_labels: row.get(7),
        is_nondeterministic: row.get(8),
    };
    Ok(rows.iter().map(column).collect())
}

/// The columns of each unique index over the whole table; those on expressions are left out.
pub fn unique_keys(client: &mut impl GenericClient, table: &str) -> Result<Vec<Vec<String>>> {
    let rows = client.query(
        "SELECT pg_catalog.array_agg(a.attname::text) FROM pg_catalog.pg_index i \
         CROSS JOIN LATERAL pg_catalog.generate_series(0, i.indnkeyatts - 1) AS k \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k] \
         WHERE i.indrelid = pg_catalog.to_regclass($1) AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL \
         GROUP BY i.indexrelid",
        &[&table],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Whether an index begins with that column.
pub fn is_indexed(client: &mut impl GenericClient, table: &str, column: &str) -> Result<bool> {
    let found = client.query_opt(
        "SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a \
           ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] \
         WHERE i.indrelid = pg_catalog.to_regclass($1) AND i.indisvalid AND i.indpred IS NULL AND a.attname = $2 LIMIT 1",
        &[&table, &column],
    )?;
    Ok(found.is_some())
}

/// What single columns refer to.
pub fn references_of(client: &mut impl GenericClient, table: &str) -> Result<Vec<Reference>> {
    let rows = client.query(
        "SELECT a.attname::text, c.confrelid::pg_catalog.regclass::text, r.attname::text, \
           pg_catalog.format_type(r.atttypid, NULL) \
         FROM pg_catalog.pg_constraint c \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1] \
         JOIN pg_catalog.pg_attribute r ON r.attrelid = c.confrelid AND r.attnum = c.confkey[1] \
         WHERE c.conrelid = pg_catalog.to_regclass($1) AND c.contype = 'f' AND pg_catalog.cardinality(c.conkey) = 1",
        &[&table],
    )?;
    let reference = |row: &postgres::Row| Reference {
        column: row.get(0),
        table: row.get(1),
        referenced: row.get(2),
        sql_type: row.get(3),
    };
    Ok(rows.iter().map(reference).collect())
}
