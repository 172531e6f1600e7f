//! Which tables the recommending functions of a database read: `garment` in the extension's own schema, and what was
//! mapped.

use anyhow::Result;
use postgres::GenericClient;

use crate::database::{Target, VectorKind};

/// Tables of the loader that no recommending function reads.
pub struct Unread {
    pub found: String,
    /// Makes functions that do, in the schema of the tables.
    pub statement: String,
}

/// Looks whether the tables of `target`, which are there, are read. Mapped ones are the shop's to map.
pub fn unread(client: &mut impl GenericClient, target: &Target) -> Result<Option<Unread>> {
    let Some(extension) = &target.extension else {
        return Ok(None);
    };
    if target.is_mapped || target.vector != VectorKind::Embedding {
        return Ok(None);
    }
    let row = client.query_one(
        "SELECT g.name, pg_catalog.format('SELECT %s.lookbook_map_catalogue(%L, %L)', $2::pg_catalog.text, $3::pg_catalog.text, g.name), \
           EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.proname = 'lookbook_catalogue' \
                   AND pg_catalog.strpos(p.prosrc, ' ' || g.name) > 0) \
         FROM (SELECT pg_catalog.to_regclass($1)::pg_catalog.text) AS g(name)",
        &[&target.garment, extension, &target.schema],
    )?;
    let name: String = row.get(0);
    Ok((!row.get::<_, bool>(2)).then(|| Unread {
        found: format!(
            "recommendations (shop_the_look and the others) read {extension}.garment, not {name}"
        ),
        statement: row.get(1),
    }))
}
