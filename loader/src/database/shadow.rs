//! A second embedding column that is filled beside the first and then takes its place.
//!
//! Invariants: until the swap commits, readers see the old model's vectors, after it the new one's, and
//! `lookbook_embedding_column` says which in the same transaction; what a killed run filled is kept and
//! told apart by the model recorded for it.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use postgres::{Client, GenericClient, error::SqlState};

use super::{Box2, EmbeddingRef, ModelRow, Tables};

/// The column that is being filled.
const NEXT: &str = "embedding_next";
const SUFFIX: &str = "_next";
/// Photos listed at once.
const PAGE: i64 = 500;
/// How long one try for the lock may keep readers waiting, and all tries together.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '1s'";
const LOCK_PATIENCE: Duration = Duration::from_secs(300);

/// A photo with garments that lack their new vector.
#[derive(Debug)]
pub struct Stale {
    pub id: i64,
    pub path: String,
    pub sha256: Vec<u8>,
    /// Id, box, and whether it is the whole photo.
    pub garments: Vec<(i64, Box2, bool)>,
}

/// How a swap ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Swap {
    Done,
    /// Somebody wrote rows meanwhile that have no new vector yet.
    RowsAreMissing,
}

/// The second column of one table.
#[derive(Debug, Clone)]
pub struct Shadow {
    tables: Tables,
    model: ModelRow,
}

impl Shadow {
    /// Adds the column, or goes on with one that the same model began to fill.
    pub fn open(
        client: &mut Client,
        tables: &Tables,
        model: &ModelRow,
        dimensions: usize,
    ) -> Result<Self> {
        let shadow = Self {
            tables: tables.clone(),
            model: model.clone(),
        };
        shadow.refuse_dependents(client)?;
        let mut change = client.transaction()?;
        let recorded = recorded_model(&mut change, &tables.garment)?;
        let is_there = has_column(&mut change, &tables.garment)?;
        if is_there && recorded.as_deref() == Some(model.sha256.as_str()) {
            return Ok(shadow);
        }
        if is_there {
            drop_column(&mut change, &tables.garment)?;
        }
        change.batch_execute(&format!(
            "ALTER TABLE {} ADD COLUMN {NEXT} embedding({dimensions})",
            tables.garment
        ))?;
        change.execute(
            "INSERT INTO lookbook_embedding_column (relation, attribute, model_name, model_sha256) \
             VALUES (pg_catalog.to_regclass($1), $2, $3, $4) ON CONFLICT (relation, attribute) DO UPDATE \
             SET model_name = EXCLUDED.model_name, model_sha256 = EXCLUDED.model_sha256",
            &[&tables.garment, &NEXT, &model.name, &model.sha256],
        )?;
        change.commit()?;
        Ok(shadow)
    }

    /// Removes a column that was begun and the record of it; whether there was one.
    pub fn abandon(client: &mut Client, tables: &Tables) -> Result<bool> {
        let mut change = client.transaction()?;
        let is_there = has_column(&mut change, &tables.garment)?;
        if is_there {
            drop_column(&mut change, &tables.garment)?;
        }
        change.commit()?;
        Ok(is_there)
    }

    /// Views, policies and the like hold on to a column whatever its name becomes.
    fn refuse_dependents(&self, client: &mut Client) -> Result<()> {
        let rows = client.query(
            "SELECT DISTINCT CASE WHEN d.classid = 'pg_catalog.pg_rewrite'::regclass THEN
                 (SELECT 'view ' || r.ev_class::regclass::text FROM pg_catalog.pg_rewrite r WHERE r.oid = d.objid)
               ELSE pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) END
             FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attribute a
               ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attname = 'embedding'
             WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = pg_catalog.to_regclass($1)
               AND d.classid <> 'pg_catalog.pg_class'::regclass
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE d.classid = 'pg_catalog.pg_constraint'::regclass
                               AND c.oid = d.objid AND c.contype = 'n')
             ORDER BY 1",
            &[&self.tables.garment],
        )?;
        if rows.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        bail!(
            "{}.embedding cannot change its model while something is bound to the column: {}; drop it, run this again, \
             then make it anew",
            self.tables.garment,
            names.join(", ")
        );
    }

    /// Photos and garment rows that lack their new vector.
    pub fn count_stale(&self, client: &mut Client) -> Result<(u64, u64)> {
        let row = client.query_one(
            &format!(
                "SELECT count(DISTINCT photo_id), count(*) FROM {} WHERE {NEXT} IS NULL",
                self.tables.garment
            ),
            &[],
        )?;
        let unsigned = |column| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
        Ok((unsigned(0), unsigned(1)))
    }

    /// The next photos with such rows, in the order of their ids, after `last`.
    pub fn stale_after(&self, client: &mut Client, last: i64) -> Result<Vec<Stale>> {
        let rows = client.query(
            &format!(
                "SELECT p.id, p.path, p.sha256, g.ids, g.boxes, g.whole FROM {} p JOIN LATERAL (
                   SELECT array_agg(g.id ORDER BY g.id), array_agg(g.box ORDER BY g.id),
                     array_agg(g.category = 'photo' ORDER BY g.id)
                   FROM {} g WHERE g.photo_id = p.id AND g.{NEXT} IS NULL) AS g (ids, boxes, whole) ON g.ids IS NOT NULL
                 WHERE p.id > $1 ORDER BY p.id LIMIT $2",
                self.tables.photo, self.tables.garment
            ),
            &[&last, &PAGE],
        )?;
        let stale = |row: &postgres::Row| -> Result<Stale> {
            let ids: Vec<i64> = row.try_get(3)?;
            let boxes: Vec<Box2> = row.try_get(4)?;
            let whole: Vec<bool> = row.try_get(5)?;
            let garments = ids.into_iter().zip(boxes).zip(whole);
            Ok(Stale {
                id: row.try_get(0)?,
                path: row.try_get(1)?,
                sha256: row.try_get(2)?,
                garments: garments
                    .map(|((id, bbox), whole)| (id, bbox, whole))
                    .collect(),
            })
        };
        rows.iter().map(stale).collect()
    }

    /// Writes new vectors, all or none.
    pub fn fill(&self, client: &mut Client, vectors: &[(i64, Vec<f32>)]) -> Result<()> {
        let ids: Vec<i64> = vectors.iter().map(|(id, _)| *id).collect();
        let embeddings: Vec<EmbeddingRef<'_>> = vectors
            .iter()
            .map(|(_, vector)| EmbeddingRef(vector))
            .collect();
        client.execute(
            &format!(
                "UPDATE {} g SET {NEXT} = n.embedding \
                 FROM ROWS FROM (unnest($1::bigint[]), unnest($2::embedding[])) AS n (id, embedding) WHERE g.id = n.id",
                self.tables.garment
            ),
            &[&ids, &embeddings],
        )?;
        Ok(())
    }

    /// Makes for the new column what the old one has in indexes, without keeping anybody out. A valid one
    /// of an earlier run is kept.
    pub fn make_indexes(&self, client: &mut Client) -> Result<u32> {
        let mut made = 0;
        for (name, statement) in self.index_statements(client)? {
            let found = client.query_opt(
                "SELECT i.indexrelid::pg_catalog.regclass::text, i.indisvalid FROM pg_catalog.pg_index i \
                 JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
                 WHERE i.indrelid = pg_catalog.to_regclass($1) AND c.relname = $2",
                &[&self.tables.garment, &format!("{name}{SUFFIX}")],
            )?;
            match found {
                Some(row) if row.get(1) => continue,
                Some(row) => {
                    let broken: String = row.get(0);
                    client.batch_execute(&format!("DROP INDEX {broken}"))?;
                }
                None => {}
            }
            client
                .batch_execute(&statement)
                .with_context(|| format!("cannot make the index of the new column: {statement}"))?;
            made += 1;
        }
        Ok(made)
    }

    /// Name of each index on the old column, and the statement that makes its like on the new one.
    fn index_statements(&self, client: &mut impl GenericClient) -> Result<Vec<(String, String)>> {
        let rows = client.query(
            "SELECT c.relname::text, pg_catalog.quote_ident(c.relname), pg_catalog.quote_ident(c.relname || $2), \
               pg_catalog.pg_get_indexdef(i.indexrelid), c.reltablespace \
             FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
             WHERE i.indrelid = pg_catalog.to_regclass($1) AND EXISTS ( \
               SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attribute a \
                 ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
               WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = i.indexrelid \
                 AND d.refobjid = i.indrelid AND a.attname = 'embedding') \
             ORDER BY c.relname",
            &[&self.tables.garment, &SUFFIX],
        )?;
        rows.iter()
            .map(|row| {
                let (name, quoted, next): (String, String, String) =
                    (row.get(0), row.get(1), row.get(2));
                let definition: String = row.get(3);
                let statement = definition.split_once(&format!("INDEX {quoted} ON "));
                let Some((verb, rest)) = statement else {
                    bail!("the definition of index {name} is not understood: {definition}");
                };
                let Some((table, columns)) = rest.split_once(" USING ") else {
                    bail!("the definition of index {name} is not understood: {definition}");
                };
                let columns = with_word(columns, "embedding", NEXT);
                Ok((
                    name,
                    format!("{verb}INDEX CONCURRENTLY {next} ON {table} USING {columns}"),
                ))
            })
            .collect()
    }

    /// Puts the new column in the place of the old one, in one transaction that also records the model.
    /// Readers wait for one look at every row.
    pub fn swap(&self, client: &mut Client, becomes_default: bool) -> Result<Swap> {
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match self.try_swap(client, becomes_default) {
                Ok(()) => return Ok(Swap::Done),
                Err(error) if has_code(&error, &SqlState::NOT_NULL_VIOLATION) => {
                    return Ok(Swap::RowsAreMissing);
                }
                Err(error)
                    if has_code(&error, &SqlState::LOCK_NOT_AVAILABLE)
                        && Instant::now() < deadline =>
                {
                    thread::sleep(Duration::from_millis(200));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn try_swap(&self, client: &mut Client, becomes_default: bool) -> Result<()> {
        let garment = &self.tables.garment;
        let mut change = client.transaction()?;
        // Long, and in nobody's way.
        change.execute(
            &format!(
                "UPDATE {} SET embed_model = $1 WHERE embed_model <> $1",
                self.tables.photo
            ),
            &[&self.model.sha256],
        )?;
        if becomes_default {
            change.execute("SELECT lookbook_model_default($1)", &[&self.model.name])?;
        }
        let indexes = self.index_statements(&mut change)?;
        change.batch_execute(LOCK_TIMEOUT)?;
        change.batch_execute(&format!(
            "LOCK TABLE {garment} IN ACCESS EXCLUSIVE MODE;
             ALTER TABLE {garment} ALTER COLUMN {NEXT} SET NOT NULL;
             ALTER TABLE {garment} DROP COLUMN embedding;
             ALTER TABLE {garment} RENAME COLUMN {NEXT} TO embedding"
        ))?;
        for (name, _) in &indexes {
            let rename = change.query_opt(
                "SELECT pg_catalog.format('ALTER INDEX %s RENAME TO %I', i.indexrelid::pg_catalog.regclass, $3::text) \
                 FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
                 WHERE i.indrelid = pg_catalog.to_regclass($1) AND c.relname = $2",
                &[garment, &format!("{name}{SUFFIX}"), name],
            )?;
            if let Some(rename) = rename {
                change.batch_execute(&rename.get::<_, String>(0))?;
            }
        }
        change.execute(
            "DELETE FROM lookbook_embedding_column \
             WHERE relation = pg_catalog.to_regclass($1) AND attribute = 'embedding'",
            &[garment],
        )?;
        change.execute(
            "UPDATE lookbook_embedding_column SET attribute = 'embedding' \
             WHERE relation = pg_catalog.to_regclass($1) AND attribute = $2",
            &[garment, &NEXT],
        )?;
        Ok(change.commit()?)
    }
}

fn has_code(error: &anyhow::Error, code: &SqlState) -> bool {
    error
        .downcast_ref::<postgres::Error>()
        .is_some_and(|error| error.code() == Some(code))
}

fn recorded_model(client: &mut impl GenericClient, garment: &str) -> Result<Option<String>> {
    let row = client.query_opt(
        "SELECT model_sha256::text FROM lookbook_embedding_column \
         WHERE relation = pg_catalog.to_regclass($1) AND attribute = $2",
        &[&garment, &NEXT],
    )?;
    Ok(row.map(|row| row.get(0)))
}

fn has_column(client: &mut impl GenericClient, garment: &str) -> Result<bool> {
    let row = client.query_opt(
        "SELECT FROM pg_catalog.pg_attribute WHERE attrelid = pg_catalog.to_regclass($1) \
         AND attname = $2 AND NOT attisdropped",
        &[&garment, &NEXT],
    )?;
    Ok(row.is_some())
}

fn drop_column(client: &mut impl GenericClient, garment: &str) -> Result<()> {
    client.batch_execute(&format!("ALTER TABLE {garment} DROP COLUMN {NEXT}"))?;
    client.execute(
        "DELETE FROM lookbook_embedding_column \
         WHERE relation = pg_catalog.to_regclass($1) AND attribute = $2",
        &[&garment, &NEXT],
    )?;
    Ok(())
}

/// `text` with one name in the place of another, where it stands as a whole word.
fn with_word(text: &str, word: &str, replacement: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, found) = rest.split_at(at);
        let after = &found[word.len()..];
        let starts = !before.chars().next_back().is_some_and(is_part);
        let ends = !after.chars().next().is_some_and(is_part);
        result.push_str(before);
        result.push_str(if starts && ends { replacement } else { word });
        rest = after;
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_words_are_replaced() {
        assert_eq!(
            with_word(
                "lookbook (embedding embedding_ip_ops, my_embedding) WHERE (embedding IS NOT NULL)",
                "embedding",
                NEXT
            ),
            "lookbook (embedding_next embedding_ip_ops, my_embedding) WHERE (embedding_next IS NOT NULL)"
        );
    }
}
