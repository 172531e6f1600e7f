//! A column of a domain over the type of the vectors.
//!
//! Invariant: what the shop says of its vectors by a domain holds for those of another model, or they are not made.

use anyhow::{Result, bail};
use postgres::Client;

use crate::database::{ModelRow, Target, quoted};

/// What a shop made of the type of the vectors.
pub(super) struct Domain {
    /// In SQL.
    pub(super) name: String,
    takes_null: bool,
    /// By `CHECK`s.
    pub(super) is_checked: bool,
}

impl Domain {
    /// That of the old column, if it is of one.
    pub(super) fn of(client: &mut Client, target: &Target) -> Result<Option<Self>> {
        let row = client.query_opt(
            "WITH RECURSIVE domain AS ( \
               SELECT t.oid, t.typbasetype, t.typnotnull FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
               WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attname = $2::text::name AND t.typtype = 'd' \
               UNION ALL SELECT t.oid, t.typbasetype, t.typnotnull FROM domain d JOIN pg_catalog.pg_type t ON t.oid = d.typbasetype \
               WHERE t.typtype = 'd') \
             SELECT (SELECT pg_catalog.format_type(a.atttypid, NULL) FROM pg_catalog.pg_attribute a \
                     WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attname = $2::text::name), \
               NOT bool_or(typnotnull), \
               bool_or(EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.contypid = domain.oid)) \
             FROM domain HAVING count(*) > 0",
            &[&target.garment, &target.embedding()],
        )?;
        Ok(row.map(|row| Self {
            name: row.get(0),
            takes_null: row.get(1),
            is_checked: row.get(2),
        }))
    }

    /// Fails where it cannot have the vectors of another model, one row after the other.
    pub(super) fn refuse(
        &self,
        target: &Target,
        old_dimensions: i32,
        model: &ModelRow,
        dimensions: usize,
    ) -> Result<()> {
        let of_any = old_dimensions < 0;
        let reason = if !of_any && usize::try_from(old_dimensions) != Ok(dimensions) {
            format!(
                "for vectors of {old_dimensions} dimensions, and those of model {:?} have {dimensions}",
                model.name
            )
        } else if !self.takes_null {
            "which takes no NULL, and the rows get their new vectors one after the other".to_owned()
        } else {
            return Ok(());
        };
        let (garment, column) = (&target.garment, target.embedding());
        let plain = match of_any {
            true => target.vector_type(),
            false => format!("{}({old_dimensions})", target.vector_type()),
        };
        bail!(
            "{garment}.{column} is of domain {}, {reason}: run ALTER TABLE {garment} ALTER COLUMN {} TYPE {plain}, and this again",
            self.name,
            quoted(column)
        )
    }
}
