//! Which table of the shop a list of photos is of: a comment on the list says so.
//!
//! Invariant: a table is not filled by a second list unawares. The list's name alone does not tell: tables are
//! renamed, are loaded with another `--schema`, and `web.look` and `web_look` make the same name.

use anyhow::{Result, bail};
use postgres::GenericClient;

use super::{Target, catalog::exists};

/// Lists whose comment names a table that is there: the list, its schema, the table, whether the list is ours, and
/// whether the table is. A dump that is restored keeps the table's name, one that is renamed its oid.
const LISTS: &str = r#"
    WITH relation AS (
      SELECT c.oid, pg_catalog.format('"%s"."%s"', pg_catalog.replace(n.nspname, '"', '""'),
        pg_catalog.replace(c.relname, '"', '""')) AS name, n.nspname::text AS schema
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p'))
    SELECT l.name, l.schema, t.name, l.name = $1, t.name = $2
    FROM pg_catalog.pg_description d
    CROSS JOIN LATERAL pg_catalog.regexp_match(d.description, '^lookbook: photos of (.*), oid ([0-9]+)$') AS m
    JOIN relation l ON l.oid = d.objoid
    CROSS JOIN LATERAL (
      SELECT r.name FROM relation r WHERE r.name = m[1] OR r.oid::text = m[2] ORDER BY r.name = m[1] DESC LIMIT 1) AS t
    WHERE d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objsubid = 0"#;

impl Target {
    /// Fails where the list is another table's, and where the table has another list.
    pub(super) fn check_list(&self, client: &mut impl GenericClient) -> Result<()> {
        let is_there = exists(client, &self.photo)?;
        let Self { photo, garment, .. } = self;
        for row in client.query(LISTS, &[photo, garment])? {
            let (list, schema, table): (String, String, String) =
                (row.get(0), row.get(1), row.get(2));
            match (row.get(3), row.get(4)) {
                (true, false) => bail!(
                    "{photo} lists the photos of {table}, and cannot list those of {garment}, too: have its list in another \
                     schema with --schema NAME"
                ),
                (false, true) if !is_there => bail!(
                    "the photos of {garment} are listed in {list} already, and with a new list they would all be loaded a \
                     second time: {}; if other photos are to come into the same table, say so with a comment of your own on \
                     {list}",
                    match schema == self.schema {
                        true => format!(
                            "give the list its new name first, ALTER TABLE {list} RENAME TO {}",
                            photo
                                .rsplit_once("\".\"")
                                .map_or_else(String::new, |(_, name)| format!("\"{name}"))
                        ),
                        false => format!("name its schema with --schema {schema}"),
                    }
                ),
                _ => {}
            }
        }
        Ok(())
    }

    /// Says on the list which table it is of, where that is not said and this role may.
    pub(super) fn claim_list(&self, client: &mut impl GenericClient) -> Result<()> {
        let comment = client.query_opt(
            "SELECT pg_catalog.format('COMMENT ON TABLE %s IS %L', $1::pg_catalog.text, s.comment) \
             FROM pg_catalog.pg_class c, LATERAL pg_catalog.obj_description(c.oid, 'pg_class') AS d (found), \
               LATERAL (SELECT pg_catalog.format('lookbook: photos of %s, oid %s', $2::pg_catalog.text, \
                 pg_catalog.to_regclass($2)::pg_catalog.oid)) AS s (comment) \
             WHERE c.oid = pg_catalog.to_regclass($1) AND pg_catalog.pg_has_role(c.relowner, 'USAGE') \
               AND (d.found IS NULL OR (d.found LIKE 'lookbook: photos of %' AND d.found <> s.comment))",
            &[&self.photo, &self.garment],
        )?;
        if let Some(comment) = comment {
            client.batch_execute(comment.get(0))?;
        }
        Ok(())
    }
}
