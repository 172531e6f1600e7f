//! Which model filled an embedding column (`lookbook_embedding_column`).
//!
//! Invariant: vectors of two models never meet in one column.

use anyhow::{Result, bail};
use postgres::{Client, GenericClient};

use super::{ModelRow, Tables, tables::LOCK_CLASS};

const ATTRIBUTE: &str = "embedding";

/// Name and sha256 of the model that filled `garment.embedding`, if a loader recorded it.
pub fn embedding_column_model(
    client: &mut impl GenericClient,
    tables: &Tables,
) -> Result<Option<(String, String)>> {
    let row = client.query_opt(
        "SELECT model_name::text, model_sha256::text FROM lookbook_embedding_column \
         WHERE relation = pg_catalog.to_regclass($1) AND attribute = $2",
        &[&tables.garment, &ATTRIBUTE],
    )?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

/// Records that `model` fills `garment.embedding`. Refused when another one did and there are rows, or,
/// beside other shards, may be soon.
pub fn claim_embedding_column(
    client: &mut Client,
    tables: &Tables,
    model: &ModelRow,
    is_shared: bool,
) -> Result<()> {
    let mut change = client.transaction()?;
    // Of two shards that begin at the same moment the second sees what the first recorded.
    change.execute(
        "SELECT pg_catalog.pg_advisory_xact_lock($1, pg_catalog.hashtext($2))",
        &[&LOCK_CLASS, &tables.garment],
    )?;
    if check_embedding_column(&mut change, tables, model, is_shared)? {
        return Ok(());
    }
    change.execute(
        "INSERT INTO lookbook_embedding_column (relation, attribute, model_name, model_sha256) \
         VALUES (pg_catalog.to_regclass($1), $2, $3, $4) \
         ON CONFLICT (relation, attribute) DO UPDATE \
         SET model_name = EXCLUDED.model_name, model_sha256 = EXCLUDED.model_sha256",
        &[&tables.garment, &ATTRIBUTE, &model.name, &model.sha256],
    )?;
    Ok(change.commit()?)
}

/// Fails where [`claim_embedding_column`] would; whether the record is there already.
pub fn check_embedding_column(
    client: &mut impl GenericClient,
    tables: &Tables,
    model: &ModelRow,
    is_shared: bool,
) -> Result<bool> {
    let recorded = embedding_column_model(client, tables)?;
    let foreign = match recorded {
        Some((_, sha256)) if sha256 == model.sha256 => return Ok(true),
        Some(other) if is_shared || has_rows(client, tables)? => Some(other),
        Some(_) => None,
        None => unrecorded_model(client, tables, model)?,
    };
    if let Some((name, sha256)) = foreign {
        bail!(
            "{garment}.embedding was filled by model {name:?} (sha256 {}...), this load would use {:?} (sha256 {}...), \
             and vectors of two models cannot be compared: load with --embed-model {name}, or into another schema with \
             --schema NAME, or give all rows vectors of the other model with lookbook reembed, or empty the tables \
             first with TRUNCATE {photo}, {garment}",
            short(&sha256),
            model.name,
            short(&model.sha256),
            garment = tables.garment,
            photo = tables.photo,
        );
    }
    Ok(false)
}

fn has_rows(client: &mut impl GenericClient, tables: &Tables) -> Result<bool> {
    let query = format!("SELECT EXISTS (SELECT FROM {})", tables.garment);
    Ok(client.query_one(&query, &[])?.get(0))
}

/// A model other than `model` that photos name, where nobody recorded the column's: a table
/// restored without its record, for instance.
fn unrecorded_model(
    client: &mut impl GenericClient,
    tables: &Tables,
    model: &ModelRow,
) -> Result<Option<(String, String)>> {
    let query = format!(
        "SELECT coalesce(m.name::text, 'unknown'), p.embed_model FROM {} p \
         LEFT JOIN lookbook_model m ON m.sha256 = p.embed_model WHERE p.embed_model <> $1 LIMIT 1",
        tables.photo
    );
    let row = client.query_opt(&query, &[&model.sha256])?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

fn short(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}
