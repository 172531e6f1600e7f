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
use postgres::{Client, GenericClient, error::SqlState, types::ToSql};

use super::{
    Box2, EmbeddingRef, ModelRow, Role, Target, catalog::columns_of, column::record_model, quoted,
};

/// What the names of the column that is being filled, and of its indexes, end in.
const SUFFIX: &str = "_next";
/// Of a name in PostgreSQL (`NAMEDATALEN`).
const MOST_NAME_BYTES: usize = 63;
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
    pub garments: Vec<StaleGarment>,
}

/// A row that lacks its new vector.
#[derive(Debug)]
pub struct StaleGarment {
    /// Its place in the table (`ctid`), until somebody writes the row.
    pub place: String,
    pub bbox: Box2,
    /// It stands for the whole photo.
    pub is_whole: bool,
}

/// The vector of a row.
#[derive(Debug)]
pub struct NewVector {
    pub place: String,
    pub photo: i64,
    pub bbox: Box2,
    pub vector: Vec<f32>,
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
    target: Target,
    model: ModelRow,
    /// The column that is being filled.
    next: String,
    /// Every row of the old column has a vector, and so shall the new one's.
    is_not_null: bool,
}

impl Shadow {
    /// Adds the column, or goes on with one that the same model began to fill.
    pub fn open(
        client: &mut Client,
        target: &Target,
        model: &ModelRow,
        dimensions: usize,
    ) -> Result<Self> {
        if target.column(Role::Box).is_none() {
            bail!(
                "{} has no column with the box of a garment (--into-map box=COLUMN): without it nobody knows what to embed again; \
                 delete its rows and load anew with the other model",
                target.garment
            );
        }
        let columns = columns_of(client, &target.garment)?;
        let shadow = Self {
            target: target.clone(),
            model: model.clone(),
            next: next_of(target),
            is_not_null: columns
                .iter()
                .any(|column| column.name == target.embedding() && column.is_not_null),
        };
        shadow.refuse_dependents(client)?;
        shadow.refuse_foreign_rows(client)?;
        match Self::begun(client, target)? {
            Some((_, sha256)) if sha256 == model.sha256 => return Ok(shadow),
            Some((name, _)) => bail!(
                "{} got vectors of model {name:?} already, for a change that did not end: --embed-model {name} goes on with it, \
                 --abandon forgets them",
                target.garment
            ),
            None => {}
        }
        let mut change = client.transaction()?;
        change.batch_execute(&format!(
            "ALTER TABLE {} ADD COLUMN {} {}({dimensions})",
            target.garment,
            quoted(&shadow.next),
            target.vector.name()
        ))?;
        record_model(&mut change, target, &shadow.next, model)?;
        change.commit()?;
        Ok(shadow)
    }

    /// Name and sha256 of the model that a change which did not end was to.
    pub fn begun(client: &mut Client, target: &Target) -> Result<Option<(String, String)>> {
        if !has_column(client, target)? {
            return Ok(None);
        }
        let recorded = client.query_opt(
            &format!(
                "SELECT model_name, model_sha256::text FROM {} \
                 WHERE relation = pg_catalog.to_regclass($1) AND attribute = $2::text::name",
                target.record
            ),
            &[&target.garment, &next_of(target)],
        )?;
        match recorded {
            Some(row) => Ok(Some((row.get(0), row.get(1)))),
            None => bail!(
                "{} has a column {}, which a change of models needs for itself, and nothing says that one made it: rename or drop it",
                target.garment,
                quoted(&next_of(target))
            ),
        }
    }

    /// Removes a column that was begun and the record of it; whether there was one.
    pub fn abandon(client: &mut Client, target: &Target) -> Result<bool> {
        if Self::begun(client, target)?.is_none() {
            return Ok(false);
        }
        let mut change = client.transaction()?;
        drop_column(&mut change, target)?;
        change.commit()?;
        Ok(true)
    }

    /// Rows with vectors that are of no photo of the list cannot be embedded again.
    fn refuse_foreign_rows(&self, client: &mut Client) -> Result<()> {
        let Target { photo, garment, .. } = &self.target;
        let (_, link) = self.target.link()?;
        let rows = client.query(
            &format!(
                "SELECT count(*) OVER (), g.{}::pg_catalog.text FROM {garment} g WHERE g.{} IS NOT NULL \
                 AND NOT EXISTS (SELECT FROM {photo} p WHERE {}) LIMIT 5",
                quoted(link),
                quoted(self.target.embedding()),
                self.target.is_of_photo()?
            ),
            &[],
        )?;
        let Some(first) = rows.first() else {
            return Ok(());
        };
        let keys: Vec<String> = rows
            .iter()
            .map(|row| {
                row.get::<_, Option<String>>(1)
                    .unwrap_or_else(|| "NULL".to_owned())
            })
            .collect();
        bail!(
            "{} rows of {garment} have vectors and are of no photo that was loaded ({link}: {}), so nobody knows what to embed again: \
             load their photos first (lookbook load), or take the vectors out (UPDATE {garment} SET {} = NULL WHERE ...)",
            first.get::<_, i64>(0),
            keys.join(", "),
            quoted(self.target.embedding()),
        );
    }

    /// Views, policies and the like hold on to a column whatever its name becomes.
    fn refuse_dependents(&self, client: &mut Client) -> Result<()> {
        let rows = client.query(
            "SELECT DISTINCT CASE WHEN d.classid = 'pg_catalog.pg_rewrite'::regclass THEN
                 (SELECT 'view ' || r.ev_class::regclass::text FROM pg_catalog.pg_rewrite r WHERE r.oid = d.objid)
               ELSE pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) END
             FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attribute a
               ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attname = $2::text
             WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = pg_catalog.to_regclass($1)
               AND d.classid <> 'pg_catalog.pg_class'::regclass
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE d.classid = 'pg_catalog.pg_constraint'::regclass
                               AND c.oid = d.objid AND c.contype = 'n')
             ORDER BY 1",
            &[&self.target.garment, &self.target.embedding()],
        )?;
        if rows.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        bail!(
            "{}.{} cannot change its model while something is bound to the column: {}; drop it, run this again, \
             then make it anew",
            self.target.garment,
            self.target.embedding(),
            names.join(", ")
        );
    }

    /// An SQL condition: row `g` lacks its new vector.
    fn is_stale(&self) -> String {
        format!(
            "g.{} IS NOT NULL AND g.{} IS NULL",
            quoted(self.target.embedding()),
            quoted(&self.next)
        )
    }

    /// Photos and garment rows that lack their new vector.
    pub fn count_stale(&self, client: &mut Client) -> Result<(u64, u64)> {
        let (_, link) = self.target.link()?;
        let row = client.query_one(
            &format!(
                "SELECT count(DISTINCT g.{}), count(*) FROM {} g WHERE {}",
                quoted(link),
                self.target.garment,
                self.is_stale()
            ),
            &[],
        )?;
        let unsigned = |column| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
        Ok((unsigned(0), unsigned(1)))
    }

    /// The next photos with such rows, in the order of their ids, after `last`.
    pub fn stale_after(&self, client: &mut Client, last: i64) -> Result<Vec<Stale>> {
        let next = format!("p.id > $1 ORDER BY p.id LIMIT {PAGE}");
        self.stale(client, &next, &last)
    }

    /// Those of these paths that have such rows.
    pub fn stale_of(&self, client: &mut Client, paths: &[&str]) -> Result<Vec<Stale>> {
        self.stale(client, "p.path = ANY ($1::text[])", &paths)
    }

    /// Photos `p` with such rows that meet a condition on `$1`.
    fn stale(
        &self,
        client: &mut Client,
        condition: &str,
        value: &(dyn ToSql + Sync),
    ) -> Result<Vec<Stale>> {
        let Target { photo, garment, .. } = &self.target;
        let bbox = quoted(self.target.column(Role::Box).unwrap_or("box"));
        // A photo of which nothing was found is its own garment, and its box is all of it.
        let whole = format!("g.{bbox} ~= box(point(p.width, p.height), point(0, 0))");
        let of_this = match self.target.link()? {
            (Role::PhotoId, column) => format!("g.{} = p.id", quoted(column)),
            (_, column) => format!("g.{} = p.path::{}", quoted(column), self.target.key_type),
        };
        let rows = client.query(
            &format!(
                "SELECT p.id, p.path, p.sha256, g.places, g.boxes, g.whole FROM {photo} p JOIN LATERAL (
                   SELECT array_agg(g.ctid::text ORDER BY g.ctid), array_agg(g.{bbox} ORDER BY g.ctid),
                     array_agg({whole} ORDER BY g.ctid)
                   FROM {garment} g WHERE {of_this} AND {}) AS g (places, boxes, whole) ON g.places IS NOT NULL
                 WHERE {condition}",
                self.is_stale()
            ),
            &[value],
        )?;
        let stale = |row: &postgres::Row| -> Result<Stale> {
            let places: Vec<String> = row.try_get(3)?;
            let boxes: Vec<Box2> = row.try_get(4)?;
            let whole: Vec<bool> = row.try_get(5)?;
            let garments = places.into_iter().zip(boxes).zip(whole);
            Ok(Stale {
                id: row.try_get(0)?,
                path: row.try_get(1)?,
                sha256: row.try_get(2)?,
                garments: garments
                    .map(|((place, bbox), is_whole)| StaleGarment {
                        place,
                        bbox,
                        is_whole,
                    })
                    .collect(),
            })
        };
        rows.iter().map(stale).collect()
    }

    /// Writes new vectors, all or none. A row that somebody wrote meanwhile stays without: it is in another place,
    /// and what may be in its old one is told by its photo and its box.
    pub fn fill(&self, client: &mut Client, vectors: &[NewVector]) -> Result<()> {
        let column = |of: fn(&NewVector) -> &str| vectors.iter().map(of).collect::<Vec<&str>>();
        let photos: Vec<i64> = vectors.iter().map(|new| new.photo).collect();
        let boxes: Vec<Box2> = vectors.iter().map(|new| new.bbox).collect();
        let embeddings: Vec<EmbeddingRef<'_>> = vectors
            .iter()
            .map(|new| EmbeddingRef(&new.vector))
            .collect();
        client.execute(
            &format!(
                "UPDATE {garment} g SET {next} = n.embedding \
                 FROM ROWS FROM (unnest($1::text[]::tid[]), unnest($2::bigint[]), unnest($3::box[]), unnest($4::{vector}[])) \
                   AS n (place, photo, box, embedding) JOIN {photo} p ON p.id = n.photo \
                 WHERE g.ctid = n.place AND {of_photo} AND g.{bbox} ~= n.box AND {stale}",
                garment = self.target.garment,
                photo = self.target.photo,
                next = quoted(&self.next),
                vector = self.target.vector.name(),
                of_photo = self.target.is_of_photo()?,
                bbox = quoted(self.target.column(Role::Box).unwrap_or("box")),
                stale = self.is_stale(),
            ),
            &[&column(|new| &new.place), &photos, &boxes, &embeddings],
        )?;
        Ok(())
    }

    /// Makes for the new column what the old one has in indexes, without keeping anybody out; of a partitioned table,
    /// whose indexes cannot be made so, without keeping readers out. A valid one of an earlier run is kept.
    pub fn make_indexes(&self, client: &mut Client) -> Result<u32> {
        let mut made = 0;
        for Index {
            next, statement, ..
        } in self.index_statements(client)?
        {
            let found = client.query_opt(
                "SELECT i.indexrelid::pg_catalog.regclass::text, i.indisvalid FROM pg_catalog.pg_index i \
                 JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
                 WHERE i.indrelid = pg_catalog.to_regclass($1) AND c.relname = $2",
                &[&self.target.garment, &next],
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

    /// The indexes on the old column.
    fn index_statements(&self, client: &mut impl GenericClient) -> Result<Vec<Index>> {
        let rows = client.query(
            "SELECT c.relname::text, pg_catalog.quote_ident(c.relname), \
               CASE WHEN pg_catalog.octet_length(c.relname::text) + pg_catalog.octet_length($2) < 64 THEN c.relname || $2 \
                 ELSE 'lookbook_next_' || c.oid END, \
               pg_catalog.pg_get_indexdef(i.indexrelid), pg_catalog.obj_description(c.oid, 'pg_class') \
             FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
             WHERE i.indrelid = pg_catalog.to_regclass($1) AND EXISTS ( \
               SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attribute a \
                 ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
               WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = i.indexrelid \
                 AND d.refobjid = i.indrelid AND a.attname = $3::text) \
             ORDER BY c.relname",
            &[&self.target.garment, &SUFFIX, &self.target.embedding()],
        )?;
        rows.iter()
            .map(|row| {
                let (name, quoted_name, next): (String, String, String) =
                    (row.get(0), row.get(1), row.get(2));
                let definition: String = row.get(3);
                let statement = definition.split_once(&format!("INDEX {quoted_name} ON "));
                let Some((verb, rest)) = statement else {
                    bail!("the definition of index {name} is not understood: {definition}");
                };
                let Some((table, columns)) = rest.split_once(" USING ") else {
                    bail!("the definition of index {name} is not understood: {definition}");
                };
                // So the index of a partitioned table is written, which those of the partitions belong to.
                let (option, table) = match table.strip_prefix("ONLY ") {
                    Some(table) => ("", table),
                    None => ("CONCURRENTLY ", table),
                };
                let columns = self.with_next(columns);
                Ok(Index {
                    statement: format!(
                        "{verb}INDEX {option}{} ON {table} USING {columns}",
                        quoted(&next)
                    ),
                    name,
                    next,
                    comment: row.get(4),
                })
            })
            .collect()
    }

    /// Puts the new column in the place of the old one, in one transaction that also records the model.
    /// Readers wait for one look at every row.
    pub fn swap(&self, client: &mut Client, becomes_default: bool) -> Result<Swap> {
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match self.try_swap(client, becomes_default) {
                Ok(swap) => return Ok(swap),
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

    /// A part of a definition with the new column in the place of the old one.
    fn with_next(&self, definition: &str) -> String {
        let old = self.target.embedding();
        let is_word = old.chars().all(|c| c.is_alphanumeric() || c == '_');
        match is_word {
            true => with_word(definition, old, &self.next),
            false => definition.replace(&quoted(old), &quoted(&self.next)),
        }
    }

    /// What roles may do with the old column, and what is said of it, holds for the new one.
    fn hand_over(&self, change: &mut impl GenericClient) -> Result<()> {
        let rows = change.query(
            "SELECT s.statement FROM pg_catalog.pg_attribute a CROSS JOIN LATERAL ( \
               SELECT pg_catalog.format('GRANT %s (%I) ON %s TO %s%s', r.privilege_type, $3::text, $1::text, \
                   CASE r.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(r.grantee)) END, \
                   CASE WHEN r.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) \
                 FROM pg_catalog.aclexplode(a.attacl) AS r \
               UNION ALL SELECT pg_catalog.format('COMMENT ON COLUMN %s.%I IS %L', $1::text, $3::text, d.said) \
                 FROM pg_catalog.col_description(a.attrelid, a.attnum) AS d (said) WHERE d.said IS NOT NULL \
               UNION ALL SELECT pg_catalog.format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS %s', $1::text, $3::text, a.attstattarget) \
                 WHERE a.attstattarget >= 0 \
               UNION ALL SELECT pg_catalog.format('ALTER TABLE %s ALTER COLUMN %I SET STORAGE %s', $1::text, $3::text, \
                   CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END) \
                 WHERE a.attstorage <> (SELECT n.attstorage FROM pg_catalog.pg_attribute n WHERE n.attrelid = a.attrelid AND n.attname = $3) \
             ) AS s (statement) \
             WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attname = $2::text::name",
            &[&self.target.garment, &self.target.embedding(), &self.next],
        )?;
        for row in rows {
            change.batch_execute(row.get(0))?;
        }
        Ok(())
    }

    fn try_swap(&self, client: &mut Client, becomes_default: bool) -> Result<Swap> {
        let garment = &self.target.garment;
        let (old, next) = (self.target.embedding(), self.next.as_str());
        let mut change = client.transaction()?;
        // Long, and in nobody's way.
        change.execute(
            &format!(
                "UPDATE {} SET embed_model = $1 WHERE embed_model <> $1",
                self.target.photo
            ),
            &[&self.model.sha256],
        )?;
        if let Some(column) = self.target.column(Role::EmbedModel) {
            let update = format!(
                "UPDATE {garment} SET {0} = $1 WHERE {0} <> $1",
                quoted(column)
            );
            change.execute(&update, &[&self.model.sha256])?;
        }
        if becomes_default {
            change.execute("SELECT lookbook_model_default($1)", &[&self.model.name])?;
        }
        let indexes = self.index_statements(&mut change)?;
        change.batch_execute(LOCK_TIMEOUT)?;
        change.batch_execute(&format!("LOCK TABLE {garment} IN ACCESS EXCLUSIVE MODE"))?;
        let (quoted_old, quoted_next) = (quoted(old), quoted(next));
        if self.is_not_null {
            change.batch_execute(&format!(
                "ALTER TABLE {garment} ALTER COLUMN {quoted_next} SET NOT NULL"
            ))?;
        } else {
            let lacking = format!("SELECT FROM {garment} g WHERE {} LIMIT 1", self.is_stale());
            if change.query_opt(&lacking, &[])?.is_some() {
                return Ok(Swap::RowsAreMissing);
            }
        }
        self.hand_over(&mut change)?;
        change.batch_execute(&format!(
            "ALTER TABLE {garment} DROP COLUMN {quoted_old};
             ALTER TABLE {garment} RENAME COLUMN {quoted_next} TO {quoted_old}"
        ))?;
        for Index {
            name,
            next,
            comment,
            ..
        } in &indexes
        {
            let rename = change.query_opt(
                "SELECT pg_catalog.format('ALTER INDEX %s RENAME TO %I', i.indexrelid::pg_catalog.regclass, $3::text) \
                   || coalesce(pg_catalog.format('; COMMENT ON INDEX %I.%I IS %L', n.nspname, $3::text, $4::text), '') \
                 FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid \
                 WHERE i.indrelid = pg_catalog.to_regclass($1) AND c.relname = $2",
                &[garment, next, name, comment],
            )?;
            if let Some(rename) = rename {
                change.batch_execute(&rename.get::<_, String>(0))?;
            }
        }
        forget(&mut change, &self.target, next)?;
        record_model(&mut change, &self.target, old, &self.model)?;
        change.commit()?;
        Ok(Swap::Done)
    }
}

/// An index on the old column.
struct Index {
    name: String,
    /// What its like on the new column is called until the swap.
    next: String,
    /// Makes that.
    statement: String,
    comment: Option<String>,
}

fn has_code(error: &anyhow::Error, code: &SqlState) -> bool {
    error
        .downcast_ref::<postgres::Error>()
        .is_some_and(|error| error.code() == Some(code))
}

/// The column that is filled beside the old one.
fn next_of(target: &Target) -> String {
    match target.embedding().len() + SUFFIX.len() > MOST_NAME_BYTES {
        true => format!("lookbook{SUFFIX}"),
        false => format!("{}{SUFFIX}", target.embedding()),
    }
}

fn has_column(client: &mut impl GenericClient, target: &Target) -> Result<bool> {
    let row = client.query_opt(
        "SELECT FROM pg_catalog.pg_attribute WHERE attrelid = pg_catalog.to_regclass($1) \
         AND attname = $2::text AND NOT attisdropped",
        &[&target.garment, &next_of(target)],
    )?;
    Ok(row.is_some())
}

fn drop_column(client: &mut impl GenericClient, target: &Target) -> Result<()> {
    let next = next_of(target);
    client.batch_execute(&format!(
        "ALTER TABLE {} DROP COLUMN {}",
        target.garment,
        quoted(&next)
    ))?;
    forget(client, target, &next)
}

/// Nothing is said of that column any more.
fn forget(client: &mut impl GenericClient, target: &Target, column: &str) -> Result<()> {
    client.execute(
        &format!(
            "DELETE FROM {} WHERE relation = pg_catalog.to_regclass($1) AND attribute = $2::text::name",
            target.record
        ),
        &[&target.garment, &column],
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
                "embedding_next"
            ),
            "lookbook (embedding_next embedding_ip_ops, my_embedding) WHERE (embedding_next IS NOT NULL)"
        );
    }
}
