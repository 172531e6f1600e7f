//! A second embedding column that is filled beside the first and then takes its place.
//!
//! Invariants: until the swap commits, readers see the old model's vectors, after it the new one's, and
//! `lookbook_embedding_column` says which in the same transaction; what a killed run filled is kept and
//! told apart by the model recorded for it.

mod indexes;
mod rows;
mod swap;

use anyhow::{Result, bail};
use postgres::{Client, GenericClient};

use super::{ModelRow, Role, Target, catalog::columns_of, column::record_model, quoted};

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
            target.vector_type()
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
