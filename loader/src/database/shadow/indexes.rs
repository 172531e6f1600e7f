//! The indexes of the new column: the like of those on the old one.
//!
//! Invariant: what an index becomes is said by PostgreSQL, which follows the columns of a definition through whatever
//! else it holds; so is, before anything is embedded, that it can be made.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use postgres::{Client, GenericClient, Transaction};

use super::{
    SUFFIX, Shadow,
    exclusive::{self, KeptOut, PATIENCE},
};
use crate::database::quoted;

/// An index of the table.
pub(super) struct Index {
    name: String,
    /// As SQL names it.
    qualified: String,
    /// What its like on the new column is called until the swap.
    next: String,
    comment: Option<String>,
    /// Another than the database's.
    tablespace: Option<String>,
    /// How much is to be known of its expressions, as `ALTER INDEX` is told.
    statistics: Option<String>,
    is_valid: bool,
    /// Of a partitioned table, whose partitions' indexes belong to it.
    is_partitioned: bool,
    /// `CREATE INDEX` or `CREATE UNIQUE INDEX`.
    verb: String,
    /// As its definition names it.
    table: String,
    /// What its definition has after `USING`.
    columns: String,
}

impl Shadow {
    /// Makes for the new column what the old one has in indexes, without keeping anybody out; of a partitioned table,
    /// whose indexes cannot be made so, without keeping readers out. A valid one of an earlier run is kept.
    pub fn make_indexes(&self, client: &mut Client) -> Result<()> {
        let likes = self.likes(client)?;
        let mut there = Vec::new();
        for index in self.indexes_on(client, &self.next)? {
            let like = likes.iter().find(|like| like.next == index.name);
            if index.is_valid && like.is_none_or(|like| like.columns == index.columns) {
                there.push(index.name);
            } else {
                self.drop_index(client, &index)?;
            }
        }
        for like in likes.iter().filter(|like| !there.contains(&like.next)) {
            let tablespace = like.tablespace.as_deref().unwrap_or_default();
            client.execute(
                "SELECT pg_catalog.set_config('default_tablespace', $1, false)",
                &[&tablespace],
            )?;
            self.make(client, like)?;
        }
        Ok(client.batch_execute("RESET default_tablespace")?)
    }

    fn make(&self, client: &mut Client, like: &Index) -> Result<()> {
        let Index {
            verb,
            table,
            columns,
            ..
        } = like;
        let name = quoted(&like.next);
        if !like.is_partitioned {
            let make = format!("{verb} CONCURRENTLY {name} ON {table} USING {columns}");
            return client
                .batch_execute(&make)
                .with_context(|| format!("cannot make the index of the new column: {make}"));
        }
        let mut change = client.transaction()?;
        let deadline = Instant::now() + PATIENCE;
        exclusive::lock(
            &mut change,
            &self.target.garment,
            KeptOut::Writers,
            deadline,
        )?;
        let make = format!("{verb} {name} ON {table} USING {columns}");
        change
            .batch_execute(&make)
            .with_context(|| format!("cannot make the index of the new column: {make}"))?;
        Ok(change.commit()?)
    }

    /// What a run left that was ended while it made one, or the like of an index that is another one now.
    fn drop_index(&self, client: &mut Client, index: &Index) -> Result<()> {
        let name = &index.qualified;
        if !index.is_partitioned {
            return Ok(client.batch_execute(&format!("DROP INDEX CONCURRENTLY {name}"))?);
        }
        let mut change = client.transaction()?;
        let deadline = Instant::now() + PATIENCE;
        exclusive::lock(
            &mut change,
            &self.target.garment,
            KeptOut::Everybody,
            deadline,
        )?;
        change.batch_execute(&format!("DROP INDEX {name}"))?;
        Ok(change.commit()?)
    }

    /// The indexes on the old column, with what they become.
    fn likes(&self, client: &mut Client) -> Result<Vec<Index>> {
        let mut likes = self.indexes_on(client, self.target.embedding())?;
        if likes.is_empty() {
            return Ok(likes);
        }
        let mut trial = client.transaction()?;
        self.translate(&mut trial, &mut likes)?;
        trial.rollback()?;
        Ok(likes)
    }

    /// Makes them on an empty table like ours whose column has the new type, and there gives the column its new name. It
    /// is made in our table's schema, where the indexes need the right to make them anyway.
    fn translate(&self, trial: &mut Transaction<'_>, indexes: &mut [Index]) -> Result<()> {
        let (old, next) = (quoted(self.target.embedding()), quoted(&self.next));
        let schema = trial.query_one(
            "SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = pg_catalog.to_regclass($1)",
            &[&self.target.garment],
        )?;
        let (schema, like) = (schema.get::<_, String>(0), "lookbook_like");
        let table = format!("{schema}.{like}");
        let make = format!(
            "CREATE TABLE {table} (LIKE {});
             ALTER TABLE {table} DROP COLUMN IF EXISTS {next}, DROP COLUMN {old};
             ALTER TABLE {table} ADD COLUMN {old} {}",
            self.target.garment, self.column_type
        );
        trial
            .batch_execute(&make)
            .context("a change of models tries the indexes on an empty table first")?;
        for (number, index) in indexes.iter().enumerate() {
            let make = format!(
                "CREATE INDEX {like}_{number} ON {table} USING {}",
                index.columns
            );
            trial.batch_execute(&make).with_context(|| {
                format!(
                    "index {} of {} cannot be made for a column of type {}: drop it, run this again, then make what fits",
                    index.name, self.target.garment, self.column_type
                )
            })?;
        }
        trial.batch_execute(&format!(
            "ALTER TABLE {table} RENAME COLUMN {old} TO {next}"
        ))?;
        for (number, index) in indexes.iter_mut().enumerate() {
            let definition = trial.query_one(
                "SELECT pg_catalog.pg_get_indexdef($1::text::pg_catalog.regclass)",
                &[&format!("{table}_{number}")],
            )?;
            let definition: String = definition.get(0);
            let Some((_, columns)) = definition.split_once(" USING ") else {
                bail!("the definition of an index is not understood: {definition}");
            };
            index.columns = columns.to_owned();
        }
        Ok(())
    }

    /// Fails where the new column cannot have an index like one of the old one's. An expression that names dimensions
    /// would fail at the first row only.
    pub(super) fn refuse_indexes(
        &self,
        client: &mut Client,
        old_dimensions: i32,
        dimensions: usize,
    ) -> Result<()> {
        self.likes(client)?;
        if usize::try_from(old_dimensions) == Ok(dimensions) {
            return Ok(());
        }
        let wanted = i32::try_from(dimensions)?;
        for index in self.indexes_on(client, self.target.embedding())? {
            let named = client.query_opt(
                "SELECT named[1], pg_catalog.pg_get_indexdef(i.indexrelid) FROM pg_catalog.pg_index i \
                 JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
                 CROSS JOIN LATERAL pg_catalog.generate_series(1, i.indnkeyatts) AS k \
                 CROSS JOIN LATERAL pg_catalog.regexp_matches( \
                   pg_catalog.pg_get_indexdef(i.indexrelid, k, true), '::[^()'']*\\((\\d{1,9})\\)', 'g') AS named \
                 WHERE i.indrelid = pg_catalog.to_regclass($1) AND c.relname = $2 AND i.indkey[k - 1] = 0 \
                   AND named[1]::integer <> $3 LIMIT 1",
                &[&self.target.garment, &index.name, &wanted],
            )?;
            if let Some(row) = named {
                bail!(
                    "index {} of {} is made for vectors of {} dimensions, and those of model {:?} have {dimensions}: drop it, run this \
                     again, then make one for the new vectors (it was {})",
                    index.name,
                    self.target.garment,
                    row.get::<_, String>(0),
                    self.model.name,
                    row.get::<_, String>(1)
                );
            }
        }
        Ok(())
    }

    /// The indexes on a column.
    pub(super) fn indexes_on(
        &self,
        client: &mut impl GenericClient,
        column: &str,
    ) -> Result<Vec<Index>> {
        let rows = client.query(
            "SELECT c.relname::text, \
               CASE WHEN pg_catalog.octet_length(c.relname::text) + pg_catalog.octet_length($2) < 64 THEN c.relname || $2 \
                 ELSE 'lookbook_next_' || c.oid END, \
               pg_catalog.obj_description(c.oid, 'pg_class'), i.indisvalid, c.relkind = 'I', \
               CASE WHEN i.indisunique THEN 'CREATE UNIQUE INDEX' ELSE 'CREATE INDEX' END, \
               pg_catalog.format('%I.%I', n.nspname, t.relname), pg_catalog.quote_ident(c.relname), \
               pg_catalog.pg_get_indexdef(i.indexrelid), i.indexrelid::pg_catalog.regclass::text, \
               (SELECT s.spcname::text FROM pg_catalog.pg_tablespace s WHERE s.oid = c.reltablespace), \
               (SELECT pg_catalog.string_agg( \
                  pg_catalog.format('ALTER COLUMN %s SET STATISTICS %s', a.attnum, a.attstattarget), ', ') \
                FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attstattarget >= 0) \
             FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
             JOIN pg_catalog.pg_class t ON t.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace \
             WHERE i.indrelid = pg_catalog.to_regclass($1) AND EXISTS ( \
               SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attribute a \
                 ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
               WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = i.indexrelid \
                 AND d.refobjid = i.indrelid AND a.attname = $3::text) \
             ORDER BY c.relname",
            &[&self.target.garment, &SUFFIX, &column],
        )?;
        let index = |row: &postgres::Row| {
            let (verb, table, name): (String, String, String) =
                (row.get(5), row.get(6), row.get(7));
            let is_partitioned = row.get(4);
            let only = if is_partitioned { "ONLY " } else { "" };
            let definition: String = row.get(8);
            let before = format!("{verb} {name} ON {only}{table} USING ");
            let Some(columns) = definition.strip_prefix(&before) else {
                bail!("the definition of an index is not understood: {definition}");
            };
            Ok(Index {
                name: row.get(0),
                qualified: row.get(9),
                next: row.get(1),
                comment: row.get(2),
                tablespace: row.get(10),
                statistics: row.get(11),
                is_valid: row.get(3),
                is_partitioned,
                columns: columns.to_owned(),
                verb,
                table,
            })
        };
        rows.iter().map(index).collect()
    }

    /// Those that were made take the names, comments and statistics targets of the old ones, which went with the old column.
    pub(super) fn rename_indexes(
        &self,
        change: &mut impl GenericClient,
        indexes: &[Index],
    ) -> Result<()> {
        for Index {
            name,
            next,
            comment,
            statistics,
            ..
        } in indexes
        {
            let rename = change.query_opt(
                "SELECT pg_catalog.format('ALTER INDEX %s RENAME TO %I', i.indexrelid::pg_catalog.regclass, $3::text) \
                   || CASE WHEN $4::text IS NULL THEN '' \
                        ELSE pg_catalog.format('; COMMENT ON INDEX %I.%I IS %L', n.nspname, $3::text, $4::text) END \
                   || CASE WHEN $5::text IS NULL THEN '' \
                        ELSE pg_catalog.format('; ALTER INDEX %I.%I %s', n.nspname, $3::text, $5::text) END \
                 FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid \
                 WHERE i.indrelid = pg_catalog.to_regclass($1) AND c.relname = $2",
                &[&self.target.garment, next, name, comment, statistics],
            )?;
            if let Some(rename) = rename {
                change.batch_execute(&rename.get::<_, String>(0))?;
            }
        }
        Ok(())
    }
}
