//! The database's side: server, extensions, models, and inference inside of it.

use std::io::Cursor;

use anyhow::{Context, Result};
use image::{ImageFormat, RgbImage};
use postgres::Client;

use super::{Report, target};
use crate::{
    args::DoctorArgs,
    database::{ModelKind, ModelRow, connect_to_server, connect_to_target, ours},
    messages::render,
    runtime::ModelFiles,
    shelf::Shelf,
};

/// Versions of PostgreSQL that the extension is built for.
const SERVERS: std::ops::RangeInclusive<i32> = 14..=18;

/// The default models, as far as they could be read.
pub struct Defaults {
    pub detector: Option<ModelFiles>,
    pub embedder: Option<ModelFiles>,
    pub embed_row: Option<ModelRow>,
    pub estimator: Option<ModelFiles>,
}

/// Checks what can be asked of the server; `None` when there is none.
pub fn check(args: &DoctorArgs, report: &mut Report) -> Option<Defaults> {
    let url = args.database.url.as_deref();
    let (mut client, server) = match connect_to_server(url) {
        Ok(connected) => connected,
        Err(error) => {
            // Of our own errors each says what to do.
            let advice = match error.is::<postgres::Error>() {
                true => {
                    "name the database with --database URL, and see that the server runs and lets you in"
                }
                false => "",
            };
            report.fail("server", render(&error), advice);
            return None;
        }
    };
    version(&mut client, &server, report);
    pgvector(&mut client, report);
    let may_lack_extension = args.target.may_lack_extension();
    if !extension(&mut client, may_lack_extension, report) {
        return None;
    }
    let (mut client, extensions) = match connect_to_target(url, may_lack_extension) {
        Ok(connected) => connected,
        Err(error) => {
            report.fail("extension", render(&error), "");
            return None;
        }
    };
    let shelf = match Shelf::of(extensions.lookbook.is_some(), &args.target.model_file) {
        Ok(shelf) => shelf,
        Err(error) => {
            report.fail("models", render(&error), "");
            return None;
        }
    };
    let defaults = models(&mut client, &shelf, report);
    if extensions.lookbook.is_some() {
        inference(&mut client, report);
    }
    target::check(args, (client, extensions), &defaults, report);
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

/// Whether a load would go on.
fn extension(client: &mut Client, may_be_missing: bool, report: &mut Report) -> bool {
    let loader = env!("CARGO_PKG_VERSION");
    let asked = client.query_one(
        "SELECT (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'lookbook'), \
         (SELECT default_version FROM pg_catalog.pg_available_extensions WHERE name = 'lookbook'), \
         EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'vector')",
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
        (None, _) if may_be_missing && row.get(2) => report.ok(
            "extension",
            "not in this database: vectors are pgvector's, models come from files",
        ),
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
        (Some(installed), Some(available)) if is_newer(&installed, &available) => report.warn(
            "extension",
            format!("version {installed}, and the server has the files of {available}"),
            format!("install lookbook {installed} on the server: make install PG_CONFIG=... in its sources"),
        ),
        (Some(installed), Some(available)) if installed != available => report.warn(
            "extension",
            format!("version {installed}, and the server offers {available}"),
            match available == loader {
                true => "ALTER EXTENSION lookbook UPDATE".to_owned(),
                false => format!("ALTER EXTENSION lookbook UPDATE, and install the loader of lookbook {available}"),
            },
        ),
        (Some(installed), _) if installed != loader => report.warn(
            "extension",
            format!("version {installed}, this loader is {loader}"),
            match is_newer(&installed, loader) {
                true => format!("install the loader of lookbook {installed}"),
                false => format!("install lookbook {loader} on the server, then ALTER EXTENSION lookbook UPDATE"),
            },
        ),
        (Some(installed), _) => report.ok("extension", format!("version {installed}")),
    }
    true
}

/// Whether a version is higher than another.
fn is_newer(version: &str, other: &str) -> bool {
    let numbers = |version: &str| -> Vec<u64> {
        let parts = version.split('.');
        parts.map_while(|part| part.parse().ok()).collect()
    };
    numbers(version) > numbers(other)
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

fn models(client: &mut Client, shelf: &Shelf, report: &mut Report) -> Defaults {
    let mut read = |check, kind: ModelKind| {
        let row = match kind {
            // A load goes on without.
            ModelKind::Pose => shelf.choose_if_any(client, kind, None),
            _ => shelf.choose(client, kind, None).map(Some),
        };
        let read = row.and_then(|row| match row {
            Some(row) => Ok(Some((shelf.files(client, &row)?, row))),
            None => Ok(None),
        });
        match read {
            Ok(Some((files, row))) => {
                let sha256 = row.sha256.get(..12).unwrap_or_default();
                report.ok(check, format!("{} (sha256 {sha256}...)", row.name));
                Some((files, row))
            }
            Ok(None) => {
                report.ok(check, "none: full_front_pose stays NULL");
                None
            }
            Err(error) => {
                let advice = match matches!(shelf, Shelf::Files(_)) {
                    true => "name one with --model-file NAME.onnx",
                    false => {
                        "lookbook model list shows what there is, lookbook model add stores one"
                    }
                };
                report.fail(check, render(&error), advice);
                None
            }
        }
    };
    let detector = read("detector", ModelKind::Detector);
    let (embedder, embed_row) = read("embedder", ModelKind::Embedder).unzip();
    Defaults {
        detector: detector.map(|(files, _)| files),
        embedder,
        embed_row,
        estimator: read("pose model", ModelKind::Pose).map(|(files, _)| files),
    }
}

/// One small picture through the model, inside of the server.
fn inference(client: &mut Client, report: &mut Report) {
    let embedded = picture().and_then(|picture| {
        let (dims, embed) = (
            ours(client, "embedding_dims")?,
            ours(client, "embed_image")?,
        );
        let query = format!("SELECT {dims}({embed}($1::bytea, NULL::text))");
        Ok(client.query_one(&query, &[&picture])?)
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
