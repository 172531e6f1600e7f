//! The new column takes the place of the old one.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use postgres::{Client, GenericClient, error::SqlState};

use super::{
    Shadow,
    exclusive::{self, InUse, KeptOut, PATIENCE, PAUSE},
    forget,
};
use crate::{
    database::{OWN_PATH, Role, column::record_model, connect::SAFE_PATH, ours, quoted, retry},
    interrupt,
};

/// How long the rows that were written for the swap wait for the lock: their writers wait for them.
const PATIENCE_AMID: Duration = Duration::from_secs(5);

/// How a swap ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Swap {
    Done,
    /// Somebody wrote rows meanwhile that have no new vector yet.
    RowsAreMissing,
}

impl Shadow {
    /// Puts the new column in the place of the old one, in one transaction that also records the model.
    /// Readers wait for one look at every row.
    pub fn swap(&self, client: &mut Client, becomes_default: bool) -> Result<Swap> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Whoever reads on is waited for before anything is written, not with it.
            let mut probe = client.transaction()?;
            exclusive::lock(
                &mut probe,
                &self.target.garment,
                KeptOut::Everybody,
                deadline,
            )?;
            probe.rollback()?;
            match self.try_swap(client, becomes_default) {
                Ok(swap) => return Ok(swap),
                Err(error)
                    if server_error(&error).and_then(postgres::Error::code)
                        == Some(&SqlState::NOT_NULL_VIOLATION) =>
                {
                    return Ok(Swap::RowsAreMissing);
                }
                Err(error) if is_in_the_way(&error) && Instant::now() < deadline => {
                    interrupt::check()?;
                    thread::sleep(PAUSE);
                }
                Err(error) => return Err(error),
            }
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
        if self.lacks_vectors(&mut change)? {
            return Ok(Swap::RowsAreMissing);
        }
        change.batch_execute(OWN_PATH)?;
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
                "UPDATE {garment} SET {0} = $1 WHERE {0} OPERATOR(pg_catalog.<>) $1",
                quoted(column)
            );
            change.execute(&update, &[&self.model.sha256])?;
        }
        change.batch_execute(SAFE_PATH)?;
        let indexes = self.indexes_on(&mut change, old)?;
        let deadline = Instant::now() + PATIENCE_AMID;
        exclusive::lock(&mut change, garment, KeptOut::Everybody, deadline)?;
        if becomes_default {
            let make_default = ours(&mut change, "lookbook_model_default")?;
            let make_default = format!("SELECT {make_default}($1::text)");
            change.execute(&make_default, &[&self.model.name])?;
        }
        let (quoted_old, quoted_next) = (quoted(old), quoted(next));
        if self.is_not_null {
            change.batch_execute(&format!(
                "ALTER TABLE {garment} ALTER COLUMN {quoted_next} SET NOT NULL"
            ))?;
        } else if self.lacks_vectors(&mut change)? {
            return Ok(Swap::RowsAreMissing);
        }
        self.hand_over(&mut change)?;
        change.batch_execute(&format!(
            "ALTER TABLE {garment} DROP COLUMN {quoted_old};
             ALTER TABLE {garment} RENAME COLUMN {quoted_next} TO {quoted_old}"
        ))?;
        self.rename_indexes(&mut change, &indexes)?;
        forget(&mut change, &self.target, next)?;
        record_model(&mut change, &self.target, old, &self.model)?;
        change.commit()?;
        Ok(Swap::Done)
    }
}

/// Whether others were, so that another try may succeed.
fn is_in_the_way(error: &anyhow::Error) -> bool {
    error.is::<InUse>() || server_error(error).is_some_and(retry::is_in_the_way)
}

fn server_error(error: &anyhow::Error) -> Option<&postgres::Error> {
    error.downcast_ref()
}
