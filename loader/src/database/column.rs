//! Which model filled a column of vectors: `lookbook_embedding_column`, of the extension or, where the server has
//! none, of our own.
//!
//! Invariant: vectors of two models never meet in one column.

use anyhow::{Result, bail};
use postgres::{Client, GenericClient, error::SqlState};

use super::{
    ModelRow, Target,
    catalog::{columns_of, exists},
    lock::LOCK_CLASS,
    quoted,
};

/// Name and sha256 of the model that filled the target's column, if a loader recorded it.
pub fn embedding_column_model(
    client: &mut impl GenericClient,
    target: &Target,
) -> Result<Option<(String, String)>> {
    if target.extension.is_none() && !exists(client, &target.record)? {
        return Ok(None);
    }
    let row = client.query_opt(
        &format!(
            "SELECT model_name::text, model_sha256::text FROM {} \
             WHERE relation = pg_catalog.to_regclass($1) AND attribute = $2::text::name",
            target.record
        ),
        &[&target.garment, &target.embedding()],
    )?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

/// Records that `model` fills the target's column. Refused when another one did and there are rows, or,
/// beside other shards, may be soon.
pub fn claim_embedding_column(
    client: &mut Client,
    target: &Target,
    model: &ModelRow,
    is_shared: bool,
) -> Result<()> {
    let mut change = client.transaction()?;
    // Of two shards that begin at the same moment the second sees what the first recorded.
    change.execute(
        "SELECT pg_catalog.pg_advisory_xact_lock($1, pg_catalog.hashtext($2))",
        &[&LOCK_CLASS, &format!("{} model", target.garment)],
    )?;
    if check_embedding_column(&mut change, target, model, is_shared)? {
        return Ok(());
    }
    record_model(&mut change, target, target.embedding(), model).map_err(|error| {
        let is_refused = error
            .downcast_ref::<postgres::Error>()
            .is_some_and(|error| error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE));
        match is_refused {
            true => error.context(format!(
                "only the owner of {} may say which model fills it; let the owner run: {}",
                target.garment,
                target.record_statement(model)
            )),
            false => error,
        }
    })?;
    Ok(change.commit()?)
}

/// Says that vectors in that column are of `model`.
pub(super) fn record_model(
    client: &mut impl GenericClient,
    target: &Target,
    column: &str,
    model: &ModelRow,
) -> Result<()> {
    client.execute(
        &format!(
            "INSERT INTO {} (relation, attribute, model_name, model_sha256) \
             VALUES (pg_catalog.to_regclass($1), $2::text::name, $3, $4) ON CONFLICT (relation, attribute) DO UPDATE \
             SET model_name = EXCLUDED.model_name, model_sha256 = EXCLUDED.model_sha256",
            target.record
        ),
        &[&target.garment, &column, &model.name, &model.sha256],
    )?;
    Ok(())
}

/// Fails where [`claim_embedding_column`] would; whether the record is there already.
pub fn check_embedding_column(
    client: &mut impl GenericClient,
    target: &Target,
    model: &ModelRow,
    is_shared: bool,
) -> Result<bool> {
    let recorded = embedding_column_model(client, target)?;
    let is_recorded = recorded.is_some();
    let foreign = match recorded {
        Some((name, sha256))
            if sha256 == model.sha256 && !looks_otherwise(client, target, &name, model)? =>
        {
            return Ok(true);
        }
        Some(other) if is_shared || has_rows(client, target)? => Some(other),
        Some(_) => None,
        None => unrecorded_model(client, target, model)?,
    };
    if let Some((name, sha256)) = foreign {
        let Target { garment, photo, .. } = target;
        let elsewhere = match target.is_mapped {
            true => "into another table",
            false => "into another schema with --schema NAME",
        };
        let keep = match name_of_filler(client, target, &name, &sha256)? {
            Some(name) => format!("load with --embed-model {name}"),
            None => format!(
                "{name:?} is not among the models that you may use here: store it again with lookbook model add and load with it"
            ),
        };
        bail!(
            "{garment}.{column} was filled by model {name:?} (sha256 {}...), this load would use {:?} (sha256 {}...{}), \
             and vectors of two models cannot be compared: {keep}, or {elsewhere}, or give all rows \
             vectors of the other model with lookbook reembed, or empty the tables first with TRUNCATE {photo}, {garment}",
            short(&sha256),
            model.name,
            short(&model.sha256),
            match sha256 == model.sha256 {
                true => ", with another manifest",
                false => "",
            },
            column = target.embedding(),
        );
    }
    if target.is_mapped && !is_recorded && has_rows(client, target)? {
        bail!(
            "{}.{} holds vectors already, and nobody recorded of which model: vectors of two models cannot be compared; load \
             into a column of its own, or, if they are of model {:?}, say so: {}",
            target.garment,
            target.embedding(),
            model.name,
            target.record_statement(model)
        );
    }
    Ok(false)
}

/// The name under which the model that filled a column can be used, if it can: the recorded one, or that of another
/// model with its bytes.
pub fn name_of_filler(
    client: &mut impl GenericClient,
    target: &Target,
    name: &str,
    sha256: &str,
) -> Result<Option<String>> {
    let Some(models) = target.ours("lookbook_model") else {
        return Ok(Some(name.to_owned()));
    };
    let found = client.query_opt(
        &format!(
            "SELECT name::text FROM {models} WHERE sha256 = $2 AND kind = 'embedder' ORDER BY name <> $1, name LIMIT 1"
        ),
        &[&name, &sha256],
    )?;
    Ok(found.map(|row| row.get(0)))
}

/// Whether the model of that name has the same bytes and prepares its input, or reads its output, in another way: then
/// its vectors are others, too.
fn looks_otherwise(
    client: &mut impl GenericClient,
    target: &Target,
    name: &str,
    model: &ModelRow,
) -> Result<bool> {
    let Some(models) = target.ours("lookbook_model") else {
        return Ok(false);
    };
    if name == model.name {
        return Ok(false);
    }
    let query = format!(
        "SELECT FROM {models} a JOIN {models} b ON b.name = $2 AND b.sha256 = a.sha256 \
         WHERE a.name = $1 AND (a.manifest -> 'input', a.manifest -> 'output') IS DISTINCT FROM (b.manifest -> 'input', b.manifest -> 'output')"
    );
    let found = client.query_opt(&query, &[&name, &model.name])?;
    Ok(found.is_some())
}

impl Target {
    /// What says that the column's vectors are of `model`.
    pub fn record_statement(&self, model: &ModelRow) -> String {
        let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
        format!(
            "INSERT INTO {} VALUES ({}, {}, {}, '{}')",
            self.record,
            literal(&self.garment),
            literal(self.embedding()),
            literal(&model.name),
            model.sha256
        )
    }
}

/// Whether the column has vectors.
pub fn has_rows(client: &mut impl GenericClient, target: &Target) -> Result<bool> {
    let query = format!(
        "SELECT EXISTS (SELECT FROM {} WHERE {} IS NOT NULL)",
        target.garment,
        quoted(target.embedding())
    );
    Ok(client.query_one(&query, &[])?.get(0))
}

/// A model other than `model` that photos name, where nobody recorded the column's: a table
/// restored without its record, for instance.
pub fn unrecorded_model(
    client: &mut impl GenericClient,
    target: &Target,
    model: &ModelRow,
) -> Result<Option<(String, String)>> {
    // A table of that name which is not ours is refused for its columns.
    let columns = columns_of(client, &target.photo)?;
    if !columns.iter().any(|column| column.name == "embed_model") {
        return Ok(None);
    }
    let name = match target.ours("lookbook_model") {
        Some(models) => format!(
            "coalesce((SELECT m.name::text FROM {models} m WHERE m.sha256 = p.embed_model LIMIT 1), 'unknown')"
        ),
        None => "'unknown'".to_owned(),
    };
    let query = format!(
        "SELECT {name}, p.embed_model FROM {} p WHERE p.embed_model <> $1 LIMIT 1",
        target.photo
    );
    let row = client.query_opt(&query, &[&model.sha256])?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

fn short(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}
