//! What the role that loads may do to the tables of a target.
//!
//! Knows rights of the catalogues only, and whether row-level security holds, not what its policies say.

use anyhow::{Result, ensure};
use postgres::Client;

use super::{Target, catalog::exists, quoted};

/// What a setting may say of all sessions, and what to do.
pub const READ_ONLY: &str =
    "sessions of this role only read here (default_transaction_read_only is on)";
pub const WRITE: &str =
    "load as another role, or ALTER ROLE ... SET default_transaction_read_only = off";

/// Whether the server, the database or the role says that sessions only read.
pub fn is_read_only_by_default(client: &mut Client) -> Result<bool> {
    let setting =
        "SELECT pg_catalog.current_setting('default_transaction_read_only')::pg_catalog.bool";
    Ok(client.query_one(setting, &[])?.get(0))
}

/// Fails where nothing can be written.
pub fn refuse_read_only(client: &mut Client) -> Result<()> {
    let is_replica = client.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[])?;
    ensure!(
        !is_replica.get::<_, bool>(0),
        "this server is a replica, where nothing can be written: name the primary"
    );
    ensure!(!is_read_only_by_default(client)?, "{READ_ONLY}: {WRITE}");
    Ok(())
}

impl Target {
    /// Rights that a load needs and this role lacks, each as what the owner may run.
    pub fn missing_rights(&self, client: &mut Client) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for table in [&self.garment, &self.photo] {
            if exists(client, table)? {
                missing.extend(self.missing_on(client, table)?);
            }
        }
        if !exists(client, &self.photo)? {
            missing.extend(self.missing_to_create(client)?);
        }
        // A foreign key is looked up before each batch.
        let unreadable = client.query(
            "SELECT DISTINCT pg_catalog.format('GRANT SELECT ON %s TO %I', c.confrelid::pg_catalog.regclass, current_user) \
             FROM pg_catalog.pg_constraint c WHERE c.contype = 'f' AND pg_catalog.cardinality(c.conkey) = 1 \
               AND c.conrelid IN (pg_catalog.to_regclass($1), pg_catalog.to_regclass($2)) \
               AND c.confrelid IS DISTINCT FROM pg_catalog.to_regclass($1)::pg_catalog.oid \
               AND c.confrelid IS DISTINCT FROM pg_catalog.to_regclass($2)::pg_catalog.oid \
               AND NOT pg_catalog.has_table_privilege(c.confrelid, 'SELECT') \
               AND NOT pg_catalog.has_any_column_privilege(c.confrelid, 'SELECT')",
            &[&self.garment, &self.photo],
        )?;
        missing.extend(unreadable.iter().map(|row| row.get(0)));
        let guarded = client.query(
            "SELECT pg_catalog.format('ALTER ROLE %I BYPASSRLS (row-level security holds on %s for this role, and PostgreSQL \
               copies no rows into such a table; or load as its owner)', current_user, c.oid::pg_catalog.regclass) \
             FROM pg_catalog.pg_class c WHERE c.oid IN (pg_catalog.to_regclass($1), pg_catalog.to_regclass($2)) \
               AND pg_catalog.row_security_active(c.oid)",
            &[&self.garment, &self.photo],
        )?;
        missing.extend(guarded.iter().map(|row| row.get(0)));
        Ok(missing)
    }

    /// Rights to record a run, which a load can do without.
    pub fn missing_record_rights(&self, client: &mut Client) -> Result<Vec<String>> {
        let [runs, rejects] = ["lookbook_run", "lookbook_reject"]
            .map(|table| format!("{}.{table}", quoted(&self.schema)));
        let rows = client.query(
            "SELECT pg_catalog.format('GRANT %s ON %s TO %I', pg_catalog.string_agg(r.name, ', ' ORDER BY r.n), t.oid, current_user) \
             FROM (VALUES ($1, 1, 'SELECT'), ($1, 2, 'INSERT'), ($1, 3, 'UPDATE'), ($2, 2, 'INSERT')) AS r (place, n, name), \
               LATERAL (SELECT pg_catalog.to_regclass(r.place) AS oid) AS t \
             WHERE NOT pg_catalog.has_table_privilege(t.oid, r.name) GROUP BY t.oid",
            &[&runs, &rejects],
        )?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Reading, writing and replacing rows, and taking the numbers that columns default to.
    fn missing_on(&self, client: &mut Client, table: &str) -> Result<Vec<String>> {
        let columns: Option<Vec<&str>> = (self.is_mapped && *table == self.garment).then(|| {
            let columns = self.columns.iter();
            columns.map(|(_, column)| column.as_str()).collect()
        });
        let rows = client.query(
            "SELECT pg_catalog.format('GRANT %s ON %s TO %I', pg_catalog.string_agg(r.name, ', ' ORDER BY r.n), t.oid, current_user) \
             FROM (SELECT pg_catalog.to_regclass($1) AS oid) AS t, \
               (VALUES (1, 'SELECT'), (2, 'INSERT'), (3, 'DELETE')) AS r (n, name) \
             WHERE NOT pg_catalog.has_table_privilege(t.oid, r.name) \
               AND NOT (r.name <> 'DELETE' AND $2::pg_catalog.text[] IS NOT NULL AND NOT EXISTS ( \
                 SELECT FROM pg_catalog.unnest($2::pg_catalog.text[]) AS c (name) \
                 WHERE NOT pg_catalog.has_column_privilege(t.oid, c.name, r.name))) \
             GROUP BY t.oid \
             UNION ALL \
             SELECT pg_catalog.format('GRANT USAGE ON SEQUENCE %s TO %I', s.oid, current_user) \
             FROM pg_catalog.pg_attribute a, \
               LATERAL (SELECT pg_catalog.to_regclass(pg_catalog.pg_get_serial_sequence($1, a.attname)) AS oid) AS s \
             WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped AND s.oid IS NOT NULL \
               AND (a.attidentity = '' OR $3) AND NOT pg_catalog.has_sequence_privilege(s.oid, 'USAGE')",
            // The loader takes the photos' numbers itself.
            &[&table, &columns, &(*table == self.photo)],
        )?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Making the list of photos, and with it the rest of the loader's own tables.
    fn missing_to_create(&self, client: &mut Client) -> Result<Vec<String>> {
        let row = client.query_opt(
            "SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
               AND pg_catalog.has_schema_privilege(n.oid, 'CREATE'), current_user::text \
             FROM pg_catalog.pg_namespace n WHERE n.nspname = $1",
            &[&self.schema],
        )?;
        if let Some(row) = row {
            let role: String = row.get(1);
            let grant = format!(
                "GRANT USAGE, CREATE ON SCHEMA {} TO {}",
                quoted(&self.schema),
                quoted(&role)
            );
            return Ok(match row.get(0) {
                true => Vec::new(),
                false => vec![grant],
            });
        }
        let row = client.query_one(
            "SELECT pg_catalog.has_database_privilege(current_database(), 'CREATE'), \
               pg_catalog.format('CREATE SCHEMA %I AUTHORIZATION %I', $1::pg_catalog.text, current_user)",
            &[&self.schema],
        )?;
        Ok(match row.get(0) {
            true => Vec::new(),
            false => vec![row.get(1)],
        })
    }

    /// Where the extension keeps the record of models, only the table's owner writes it: whether this role may.
    pub fn may_record_model(&self, client: &mut Client) -> Result<bool> {
        if self.extension.is_none() || !self.is_mapped {
            return Ok(true);
        }
        let row = client.query_one(
            "SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') FROM pg_catalog.pg_class c \
             WHERE c.oid = pg_catalog.to_regclass($1)",
            &[&self.garment],
        )?;
        Ok(row.get(0))
    }
}
