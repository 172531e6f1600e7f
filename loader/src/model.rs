//! `lookbook model`: the model rows of a database by way of the extension's SQL functions, and the check
//! of a file before it becomes one.

mod check;

use std::{
    fs,
    path::{Component, Path},
};

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use postgres::Client;

use crate::{
    args::{ModelArgs, ModelVerb},
    database::{connect, fetch_onnx, model_of_name, ours},
    messages::{self, Ending},
    model_cache::hex_sha256,
};

pub fn run(args: &ModelArgs) -> Result<Ending> {
    if let ModelVerb::Check(args) = &args.verb {
        return check::run(args);
    }
    let mut client = connect(args.database.url.as_deref())?;
    match &args.verb {
        ModelVerb::List => list(&mut client)?,
        ModelVerb::Check(_) => {}
        ModelVerb::Add {
            name,
            onnx,
            manifest,
        } => add(&mut client, name, onnx, manifest)?,
        ModelVerb::Export { name, out } => export(&mut client, name, out)?,
        ModelVerb::Remove { name, force } => {
            if !force {
                check_unused(&mut client, name)?;
            }
            call(&mut client, "lookbook_model_drop", name)
                .with_context(|| format!("cannot remove model {name:?}"))?;
            messages::note(format_args!("removed model {name:?}"));
        }
        ModelVerb::Default { name } => {
            call(&mut client, "lookbook_model_default", name)
                .with_context(|| format!("cannot make model {name:?} the default"))?;
            messages::note(format_args!(
                "model {name:?} is the default of its kind now"
            ));
        }
    }
    Ok(Ending::Complete)
}

/// Calls a function of the extension that takes the name of a model.
fn call(client: &mut Client, function: &str, model: &str) -> Result<()> {
    let function = ours(client, function)?;
    client.execute(&format!("SELECT {function}($1::text)"), &[&model])?;
    Ok(())
}

fn list(client: &mut Client) -> Result<()> {
    let (models, defaults) = (
        ours(client, "lookbook_model")?,
        ours(client, "lookbook_default_model")?,
    );
    let query = format!(
        "SELECT m.name::text, m.kind::text, coalesce(m.manifest ->> 'version', ''), \
         pg_catalog.pg_size_pretty(pg_catalog.octet_length(m.onnx)::bigint), \
         CASE WHEN m.shipped THEN 'shipped' ELSE m.owner::text END, \
         m.name = (SELECT d.name FROM {defaults} d WHERE d.kind = m.kind \
                   ORDER BY d.shipped LIMIT 1), \
         pg_catalog.left(m.sha256::text, 12) \
         FROM {models} m ORDER BY m.kind, m.name"
    );
    let rows = client.query(&query, &[])?;
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "name", "kind", "version", "size", "owner", "default", "sha256",
    ]);
    for row in &rows {
        let is_default = row.get::<_, Option<bool>>(5).unwrap_or(false);
        let text = |column: usize| messages::shown(row.get::<_, String>(column));
        let default = if is_default { "yes" } else { "" };
        table.add_row([
            text(0),
            text(1),
            text(2),
            text(3),
            text(4),
            default.to_owned(),
            text(6),
        ]);
    }
    messages::print(table.trim_fmt())
}

fn add(client: &mut Client, name: &str, onnx: &Path, manifest: &Path) -> Result<()> {
    let bytes = fs::read(onnx).with_context(|| format!("cannot read {}", onnx.display()))?;
    let json = fs::read_to_string(manifest)
        .with_context(|| format!("cannot read {}", manifest.display()))?;
    serde_json::from_str::<serde_json::Value>(&json)
        .with_context(|| format!("{} is not JSON", manifest.display()))?;
    let import = ours(client, "lookbook_model_import")?;
    let row = client
        .query_one(
            &format!("SELECT {import}($1::text, $2::text::jsonb, $3::bytea)::text"),
            &[&name, &json, &bytes],
        )
        .with_context(|| format!("cannot store model {name:?}"))?;
    let sha256: String = row.get(0);
    messages::note(format_args!("stored model {name:?} (sha256 {sha256})"));
    Ok(())
}

/// Fails where something would miss the model: photos could not be compared with a column that it filled, and functions
/// would find no default of its kind, or another one.
fn check_unused(client: &mut Client, name: &str) -> Result<()> {
    let [models, defaults, filled] = [
        "lookbook_model",
        "lookbook_default_model",
        "lookbook_embedding_column",
    ]
    .map(|table| ours(client, table));
    let (models, defaults, filled) = (models?, defaults?, filled?);
    let columns = client.query(
        &format!(
            "SELECT f.relation::text || '.' || pg_catalog.quote_ident(f.attribute) FROM {filled} f \
             JOIN pg_catalog.pg_class c ON c.oid = f.relation JOIN {models} m ON m.sha256 = f.model_sha256 \
             WHERE m.name = $1 AND NOT EXISTS (SELECT FROM {models} o WHERE o.sha256 = m.sha256 AND o.name <> m.name) \
             ORDER BY 1"
        ),
        &[&name],
    )?;
    let columns: Vec<String> = columns.iter().map(|row| row.get(0)).collect();
    if !columns.is_empty() {
        bail!(
            "model {name:?} filled {}: without it no photo can be compared with what is there, nor loaded beside it; give \
             the rows vectors of another model with lookbook reembed first, or remove it all the same with --force \
             (lookbook model export {name} keeps a copy)",
            columns.join(", ")
        );
    }
    let default = client.query_opt(
        &format!(
            "SELECT kind, (SELECT o.name FROM {defaults} o WHERE o.kind = d.kind AND o.shipped) \
             FROM {defaults} d WHERE d.name = $1 AND NOT d.shipped"
        ),
        &[&name],
    )?;
    if let Some(default) = default {
        let (kind, shipped): (String, Option<String>) = (default.get(0), default.get(1));
        let then = match shipped {
            Some(shipped) => format!("{shipped:?} would be it again"),
            None => "there would be none".to_owned(),
        };
        bail!(
            "model {name:?} is the default {kind}, and {then}: make another the default with lookbook model default NAME, \
             or remove it all the same with --force"
        );
    }
    Ok(())
}

fn export(client: &mut Client, name: &str, out: &Path) -> Result<()> {
    let mut parts = Path::new(name).components();
    if !matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    ) {
        bail!("model {name:?} cannot be exported: its name is not a file name");
    }
    let model = model_of_name(client, name)?;
    let onnx = fetch_onnx(client, name)?;
    let found = hex_sha256(&onnx);
    if found != model.sha256 {
        bail!(
            "model {name:?} has bytes with sha256 {found}, its row says {}",
            model.sha256
        );
    }
    let manifest: serde_json::Value = serde_json::from_str(&model.manifest)
        .with_context(|| format!("the manifest of model {name:?}"))?;
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let manifest = format!("{manifest:#}\n");
    for (extension, bytes) in [("onnx", onnx.as_slice()), ("json", manifest.as_bytes())] {
        let file = out.join(format!("{name}.{extension}"));
        fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
        messages::print(messages::shown(file.display()))?;
    }
    Ok(())
}
