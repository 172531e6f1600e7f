//! The database's side: server, extension, models, tables, index, runs.

use std::io::Cursor;

use anyhow::{Context, Result};
use image::{ImageFormat, RgbImage};
use postgres::Client;

use super::Report;
use crate::{
    args::DoctorArgs,
    database::{
        IndexBuilder, ModelKind, ModelRow, Target, VectorKind, choose_model, connect,
        connect_to_server, embedding_column_model,
    },
    messages::render,
    runtime::ModelFiles,
};

/// Versions of PostgreSQL that the extension is built for.
const SERVERS: std::ops::RangeInclusive<i32> = 14..=18;
/// Checking an index reads all of it.
const INDEX_CHECK_TIMEOUT: &str = "SET statement_timeout = '60s'";

/// The default models, detector and embedder, as far as they could be read.
pub struct Defaults {
    pub detector: Option<ModelFiles>,
    pub embedder: Option<ModelFiles>,
}

/// Checks what can be asked of the server; `None` when there is none.
pub fn check(args: &DoctorArgs, report: &mut Report) -> Option<Defaults> {
    let url = args.database.url.as_deref();
    let (mut client, server) = match connect_to_server(url) {
        Ok(connected) => connected,
        Err(error) => {
            let advice = "name the database with --database URL, and see that the server runs and lets you in";
            report.fail("server", render(&error), advice);
            return None;
        }
    };
    version(&mut client, &server, report);
    pgvector(&mut client, report);
    if !extension(&mut client, report) {
        return None;
    }
    let mut client = match connect(url) {
        Ok(client) => client,
        Err(error) => {
            report.fail("extension", render(&error), "");
            return None;
        }
    };
    let defaults = models(&mut client, report);
    inference(&mut client, report);
    let target = Target::own(&args.schema, VectorKind::Embedding, true);
    match target.exist(&mut client) {
        Ok(true) => {
            column(&mut client, &target, report);
            runs(&mut client, &args.schema, report);
            index(client, target, report);
        }
        Ok(false) => report.ok(
            "tables",
            format!(
                "none in schema {:?} yet: lookbook load makes them",
                args.schema
            ),
        ),
        Err(error) => report.fail("tables", render(&error), ""),
    }
    Some(defaults)
}

fn version(client: &mut Client, server: &str, report: &mut Report) {
    let asked = client.query_one(
        "SELECT pg_catalog.current_setting('server_version'), \
         pg_catalog.current_setting('server_version_num')::int / 10000, pg_catalog.pg_is_in_recovery()",
        &[],
    );
    match asked {
        Ok(row) => {
            let found = format!("PostgreSQL {}, {server}", row.get::<_, String>(0));
            let major: i32 = row.get(1);
            if !SERVERS.contains(&major) {
                report.warn("server", found, "lookbook is built for PostgreSQL 14 to 18");
            } else if row.get(2) {
                report.warn(
                    "server",
                    format!("{found}, a replica"),
                    "searches work here; load into the primary",
                );
            } else {
                report.ok("server", found);
            }
        }
        Err(error) => report.fail("server", render(&error.into()), ""),
    }
}

fn extension(client: &mut Client, report: &mut Report) -> bool {
    let loader = env!("CARGO_PKG_VERSION");
    let asked = client.query_one(
        "SELECT (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'lookbook'), \
         (SELECT default_version FROM pg_catalog.pg_available_extensions WHERE name = 'lookbook')",
        &[],
    );
    let row = match asked {
        Ok(row) => row,
        Err(error) => {
            report.fail("extension", render(&error.into()), "");
            return false;
        }
    };
    let (installed, available): (Option<String>, Option<String>) = (row.get(0), row.get(1));
    match (installed, available) {
        (None, None) => {
            let advice =
                "install it on the server: make install PG_CONFIG=... in the sources of lookbook";
            report.fail("extension", "the server does not have it", advice);
            return false;
        }
        (None, Some(version)) => {
            let found = format!("version {version} is on the server, and not in this database");
            report.fail("extension", found, "CREATE EXTENSION lookbook");
            return false;
        }
        (Some(installed), Some(available)) if installed != available => report.warn(
            "extension",
            format!("version {installed}, and the server offers {available}"),
            "ALTER EXTENSION lookbook UPDATE",
        ),
        (Some(installed), _) if installed != loader => report.warn(
            "extension",
            format!("version {installed}, this loader is {loader}"),
            "install loader and extension of one release",
        ),
        (Some(installed), _) => report.ok("extension", format!("version {installed}")),
    }
    true
}

fn pgvector(client: &mut Client, report: &mut Report) {
    let asked = client.query_one(
        "SELECT (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'vector'), \
         (SELECT default_version FROM pg_catalog.pg_available_extensions WHERE name = 'vector'), \
         EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'lookbook_pgvector')",
        &[],
    );
    match asked {
        Ok(row) => {
            let (installed, available): (Option<String>, Option<String>) = (row.get(0), row.get(1));
            let found = match (installed, available, row.get::<_, bool>(2)) {
                (Some(version), _, true) => {
                    format!("version {version}, with casts (lookbook_pgvector)")
                }
                (Some(version), _, false) => {
                    format!(
                        "version {version}; CREATE EXTENSION lookbook_pgvector adds casts to and from it"
                    )
                }
                (None, Some(version), _) => {
                    format!("version {version} is on the server, not in this database")
                }
                (None, None, _) => "not there, and not needed".to_owned(),
            };
            report.ok("pgvector", found);
        }
        Err(error) => report.warn("pgvector", render(&error.into()), ""),
    }
}

fn models(client: &mut Client, report: &mut Report) -> Defaults {
    let mut read = |check, kind: ModelKind| {
        let read = choose_model(client, kind, None)
            .and_then(|row: ModelRow| Ok((ModelFiles::of_row(client, &row)?, row)));
        match read {
            Ok((files, row)) => {
                let sha256 = row.sha256.get(..12).unwrap_or_default();
                report.ok(check, format!("{} (sha256 {sha256}...)", row.name));
                Some(files)
            }
            Err(error) => {
                let advice =
                    "lookbook model list shows what there is, lookbook model add stores one";
                report.fail(check, render(&error), advice);
                None
            }
        }
    };
    Defaults {
        detector: read("detector", ModelKind::Detector),
        embedder: read("embedder", ModelKind::Embedder),
    }
}

/// One small picture through the model, inside of the server.
fn inference(client: &mut Client, report: &mut Report) {
    let embedded = picture().and_then(|picture| {
        Ok(client.query_one("SELECT embedding_dims(embed_image($1))", &[&picture])?)
    });
    match embedded {
        Ok(row) => report.ok(
            "embed_image",
            format!("works in the server, {} dimensions", row.get::<_, i32>(0)),
        ),
        Err(error) => {
            let advice = "searches by photo in SQL fail: see the settings lookbook.onnxruntime, lookbook.embed_model and lookbook.device";
            report.fail("embed_image", render(&error), advice);
        }
    }
}

fn picture() -> Result<Vec<u8>> {
    let mut png = Cursor::new(Vec::new());
    RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8 * 4, y as u8 * 4, 128]))
        .write_to(&mut png, ImageFormat::Png)
        .context("cannot draw a test picture")?;
    Ok(png.into_inner())
}

fn column(client: &mut Client, target: &Target, report: &mut Report) {
    let rows = client.query_one(
        "SELECT greatest(c.reltuples, 0)::bigint FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass($1)",
        &[&target.garment],
    );
    let about = rows
        .map(|row| format!("about {} rows", row.get::<_, i64>(0)))
        .unwrap_or_default();
    let filled_by = embedding_column_model(client, target);
    let default = choose_model(client, ModelKind::Embedder, None);
    match (filled_by, default) {
        (Err(error), _) => report.fail("tables", render(&error), ""),
        (Ok(Some((name, sha256))), Ok(default)) if sha256 != default.sha256 => report.warn(
            "tables",
            format!("{}, {about}, filled by model {name:?}; the default is {:?}", target.garment, default.name),
            "the two cannot be compared: lookbook reembed gives every row the new one, --embed-model keeps the old one",
        ),
        (Ok(Some((name, _))), _) => report.ok("tables", format!("{}, {about}, filled by model {name:?}", target.garment)),
        (Ok(None), _) => report.ok("tables", format!("{}, {about}", target.garment)),
    }
}

fn runs(client: &mut Client, schema: &str, report: &mut Report) {
    match crate::database::last_run(client, schema) {
        Ok(None) => report.ok("runs", "none is recorded"),
        Ok(Some(run)) => {
            let found = format!("the last, {}, is {}", run.id, run.status);
            match run.status.as_str() {
                "failed" | "killed" => report.warn(
                    "runs",
                    format!(
                        "{found}{}",
                        run.error
                            .map(|error| format!(": {error}"))
                            .unwrap_or_default()
                    ),
                    "run the same command again: it goes on where that one ended",
                ),
                _ => report.ok("runs", found),
            }
        }
        Err(error) => report.warn("runs", render(&error), ""),
    }
}

fn index(mut client: Client, target: Target, report: &mut Report) {
    if let Err(error) = client.batch_execute(INDEX_CHECK_TIMEOUT) {
        report.warn("index", render(&error.into()), "");
        return;
    }
    let mut builder = IndexBuilder::new(client, target);
    let found = match builder.find() {
        Ok(Some(found)) => found,
        Ok(None) => {
            report.warn(
                "index",
                "none on the embedding: searches read every row",
                builder.statement(),
            );
            return;
        }
        Err(error) => {
            report.warn("index", render(&error), "");
            return;
        }
    };
    if !found.is_valid {
        report.warn(
            "index",
            format!("{} is not valid and not used", found.name),
            format!("REINDEX INDEX {}", found.name),
        );
        return;
    }
    if found.method != "lookbook" {
        report.ok("index", format!("{} ({})", found.name, found.method));
        return;
    }
    match builder.check(&found) {
        Ok(rows) => report.ok(
            "index",
            format!("{}, {rows} rows, every page is sound", found.name),
        ),
        Err(error) => report.fail(
            "index",
            format!("{}: {}", found.name, render(&error)),
            format!("REINDEX INDEX {}", found.name),
        ),
    }
}
