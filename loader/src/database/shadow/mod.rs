//! A second embedding column that is filled beside the first and then takes its place.
//!
//! Invariants: until the swap commits, readers see the old model's vectors, after it the new one's, and
//! `lookbook_embedding_column` says which in the same transaction; what a killed run filled is kept and
//! told apart by the model recorded for it.

mod domain;
mod exclusive;
mod indexes;
mod rows;
mod swap;

use std::time::Instant;

use anyhow::{Result, bail};
use domain::Domain;
use exclusive::{KeptOut, PATIENCE};
use postgres::{Client, GenericClient};

use super::{ModelRow, Role, Target, catalog::columns_of, column::record_model, quoted};
use crate::messages;

pub use rows::{NewVector, Stale, StaleGarment};
pub use swap::Swap;

/// What the names of the column that is being filled, and of its indexes, end in.
const SUFFIX: &str = "_next";
/// Of a name in PostgreSQL (`NAMEDATALEN`).
const MOST_NAME_BYTES: usize = 63;

/// The second column of one table.
#[derive(Debug, Clone)]
pub struct Shadow {
    target: Target,
    model: ModelRow,
    /// The column that is being filled.
    next: String,
    /// Its type in SQL.
    column_type: String,
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
        let Some(bbox) = target.column(Role::Box) else {
            bail!(
                "{} has no column with the box of a garment (--into-map box=COLUMN): without it nobody knows what to embed again; \
                 delete its rows and load anew with the other model",
                target.garment
            );
        };
        let columns = columns_of(client, &target.garment)?;
        let old = columns
            .iter()
            .find(|column| column.name == target.embedding());
        let old_dimensions = old.map_or(-1, |column| column.typmod);
        let domain = Domain::of(client, target)?;
        if let Some(domain) = &domain {
            domain.refuse(target, old_dimensions, model, dimensions)?;
        }
        let plain = format!("{}({dimensions})", target.vector_type());
        let shadow = Self {
            target: target.clone(),
            model: model.clone(),
            next: next_of(target),
            column_type: domain.as_ref().map_or(plain, |domain| domain.name.clone()),
            is_not_null: old.is_some_and(|column| column.is_not_null),
        };
        shadow.refuse_dependents(client)?;
        shadow.refuse_rows(client, bbox)?;
        shadow.refuse_indexes(client, old_dimensions, dimensions)?;
        match Self::begun(client, target)? {
            Some((_, sha256)) if sha256 == model.sha256 => return Ok(shadow),
            Some((name, _)) => bail!(
                "{} got vectors of model {name:?} already, for a change that did not end: --embed-model {name} goes on with it, \
                 --abandon forgets them",
                target.garment
            ),
            None => {}
        }
        if domain.is_some_and(|domain| domain.is_checked) {
            messages::warn(format_args!(
                "{} has constraints: PostgreSQL writes {} anew to add a column of it, and keeps everybody out meanwhile",
                shadow.column_type, target.garment
            ));
        }
        shadow.add_column(client)?;
        Ok(shadow)
    }

    fn add_column(&self, client: &mut Client) -> Result<()> {
        let garment = &self.target.garment;
        let mut change = client.transaction()?;
        let deadline = Instant::now() + PATIENCE;
        exclusive::lock(&mut change, garment, KeptOut::Everybody, deadline)?;
        change.batch_execute(&format!(
            "ALTER TABLE {garment} ADD COLUMN {} {}",
            quoted(&self.next),
            self.column_type
        ))?;
        record_model(&mut change, &self.target, &self.next, &self.model)?;
        Ok(change.commit()?)
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
        let deadline = Instant::now() + PATIENCE;
        exclusive::lock(&mut change, &target.garment, KeptOut::Everybody, deadline)?;
        drop_column(&mut change, target)?;
        change.commit()?;
        Ok(true)
    }

    /// Rows with vectors that are of no photo of the list, or of no part of one, cannot be embedded again.
    fn refuse_rows(&self, client: &mut Client, bbox: &str) -> Result<()> {
        let Target { photo, garment, .. } = &self.target;
        let embedding = quoted(self.target.embedding());
        let take_out =
            format!("take the vectors out (UPDATE {garment} SET {embedding} = NULL WHERE ...)");
        let has_vector = format!("g.{embedding} IS NOT NULL");
        let is_of_photo = self.target.is_of_photo()?;
        let foreign =
            format!("{has_vector} AND NOT EXISTS (SELECT FROM {photo} p WHERE {is_of_photo})");
        if let Some(rows) = self.rows_where(client, &foreign)? {
            bail!(
                "{rows} have vectors and are of no photo that was loaded, so nobody knows what to embed again: load their photos \
                 first (lookbook load), or {take_out}"
            );
        }
        let boxless = format!("{has_vector} AND g.{} IS NULL", quoted(bbox));
        if let Some(rows) = self.rows_where(client, &boxless)? {
            bail!(
                "{rows} have vectors and no {bbox}, so nobody knows what part of the photo to embed again: give them one, or {take_out}"
            );
        }
        Ok(())
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
