//! The tables' side: whether a load could write them, which model filled them, their index, the runs.

use anyhow::Result;
use lookbook_vision::Output;
use postgres::{Client, error::SqlState};

use super::{Report, server::Defaults};
use crate::{
    args::DoctorArgs,
    database::{
        Extensions, IndexBuilder, ModelRow, READ_ONLY, RecordedRun, Target, VectorKind, WRITE,
        check_embedding_column, embedding_column_model, has_rows, is_read_only_by_default,
        last_run, model_by_sha256, name_of_filler, unrecorded_model,
    },
    messages::{count, render},
    recommendations::{self, Unread},
    runtime::ModelFiles,
};

/// Checking an index reads all of it.
const INDEX_CHECK_TIMEOUT: &str = "SET statement_timeout = '60s'";

/// Checks the tables that `args` name.
pub fn check(
    args: &DoctorArgs,
    (mut client, extensions): (Client, Extensions),
    defaults: &Defaults,
    report: &mut Report,
) {
    let target = match target_of(args, &mut client, &extensions) {
        Ok(target) => target,
        Err(error) => {
            let advice = "lookbook load --help lists the roles of --into-map";
            report.fail("target", render(&error), advice);
            return;
        }
    };
    if target.is_mapped {
        report.ok(
            "target",
            format!("{}, {}", target.garment, target.mapping()),
        );
        link_index(&mut client, &target, report);
    }
    rights(&mut client, &target, defaults, report);
    let exist = target.exist(&mut client);
    match &exist {
        Ok(false) if !target.is_mapped => match fit(&mut client, &target, defaults) {
            Ok(()) => report.ok(
                "tables",
                format!(
                    "none in schema {:?} yet: lookbook load makes them",
                    target.schema
                ),
            ),
            // One of the two names is taken.
            Err(error) => report.fail("tables", render(&error), ""),
        },
        Ok(_) => tables(&mut client, &target, defaults, report),
        Err(error) => report.fail("tables", render(error), ""),
    }
    if matches!(exist, Ok(true)) {
        recommending(&mut client, &target, report);
        runs(&mut client, &target.schema, report);
        index(client, target, report);
    }
}

fn target_of(args: &DoctorArgs, client: &mut Client, extensions: &Extensions) -> Result<Target> {
    let args = &args.target;
    match &args.into {
        Some(table) => Target::mapped(client, &args.schema, table, &args.roles(), extensions),
        None => {
            let vector = match args.pgvector {
                true => VectorKind::Vector,
                false => VectorKind::Embedding,
            };
            Target::own(&args.schema, vector, extensions)
        }
    }
}

fn link_index(client: &mut Client, target: &Target, report: &mut Report) {
    match target.missing_index(client) {
        Ok(None) => {}
        Ok(Some(statement)) => report.warn(
            "target index",
            "none finds the rows of a photo: whenever one is replaced the whole table is read",
            statement,
        ),
        Err(error) => report.fail("target index", render(&error), ""),
    }
}

fn rights(client: &mut Client, target: &Target, defaults: &Defaults, report: &mut Report) {
    if matches!(is_read_only_by_default(client), Ok(true)) {
        return report.fail("rights", READ_ONLY, WRITE);
    }
    let missing = target.missing_rights(client).and_then(|needed| {
        let records = target.missing_record_rights(client)?;
        Ok((needed, records))
    });
    match missing {
        Ok((needed, records)) if needed.is_empty() && records.is_empty() => {
            report.ok("rights", "may load");
        }
        Ok((needed, records)) if needed.is_empty() => report.warn(
            "rights",
            "may load, and its runs are not recorded in lookbook_run",
            records.join("; "),
        ),
        Ok((needed, records)) => report.fail(
            "rights",
            format!("this role lacks {}", count(needed.len() as u64, "right")),
            [needed, records].concat().join("; "),
        ),
        Err(error) => report.fail("rights", render(&error), ""),
    }
    let recorded = embedding_column_model(client, target);
    let is_recordable = target.may_record_model(client);
    if let (Ok(None), Ok(false), Some(model)) = (recorded, is_recordable, &defaults.embed_row) {
        report.fail(
            "model record",
            format!(
                "only the owner of {} may say which model fills it",
                target.garment
            ),
            format!("let the owner run: {}", target.record_statement(model)),
        );
    }
}

/// What a load would refuse, and which model filled the column.
fn tables(client: &mut Client, target: &Target, defaults: &Defaults, report: &mut Report) {
    // Negative until it is first analysed.
    let rows = client.query_opt(
        "SELECT c.reltuples::bigint FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass($1) AND c.reltuples >= 0",
        &[&target.garment],
    );
    let found = match rows {
        Ok(Some(row)) => format!("{}, about {} rows", target.garment, row.get::<_, i64>(0)),
        _ => target.garment.clone(),
    };
    let recorded = match embedding_column_model(client, target) {
        Ok(recorded) => recorded,
        Err(error) => return report.fail("tables", render(&error), ""),
    };
    let default = defaults.embed_row.as_ref();
    if let (Some((name, sha256)), Some(default)) = (&recorded, default)
        && *sha256 != default.sha256
    {
        let found = format!(
            "{found}, filled by model {name:?}; the default is {:?}",
            default.name
        );
        return match name_of_filler(client, target, name, sha256) {
            Ok(Some(name)) => report.warn(
                "tables",
                found,
                format!(
                    "the two cannot be compared: lookbook reembed gives every row the new one, --embed-model {name} keeps the old one"
                ),
            ),
            Ok(None) => report.warn(
                "tables",
                format!("{found}, and {name:?} is not among the models that you may use here"),
                "the two cannot be compared: lookbook reembed gives every row the new one; to keep the old one, store it \
                 again with lookbook model add",
            ),
            Err(error) => report.fail("tables", render(&error), ""),
        };
    }
    if let Err(error) = fit(client, target, defaults) {
        return report.fail("tables", render(&error), "");
    }
    match (recorded, default) {
        (Some((name, _)), _) => report.ok("tables", format!("{found}, filled by model {name:?}")),
        (None, Some(model)) => unrecorded(client, target, model, found, report),
        (None, None) => report.ok("tables", found),
    }
}

/// Fails where the tables cannot hold what the default models find.
fn fit(client: &mut Client, target: &Target, defaults: &Defaults) -> Result<()> {
    let output = |files: &ModelFiles| files.manifest().output().clone();
    if let Some(Output::Embedder(output)) = defaults.embedder.as_ref().map(output) {
        target.check_there(client, output.dimensions)?;
    }
    if let Some(Output::Detector(output)) = defaults.detector.as_ref().map(output) {
        target.check_labels(client, &output.labels, &[])?;
    }
    Ok(())
}

/// Tables restored without the record of their model, say.
fn unrecorded(
    client: &mut Client,
    target: &Target,
    model: &ModelRow,
    found: String,
    report: &mut Report,
) {
    if let Err(error) = check_embedding_column(client, target, model, false) {
        let advice = match filler(client, target, model) {
            Ok(Some(filler)) => format!(
                "nothing records it: let the owner of {} run: {}",
                target.garment,
                target.record_statement(&filler)
            ),
            _ => String::new(),
        };
        return report.fail("tables", render(&error), advice);
    }
    match has_rows(client, target) {
        Ok(false) => report.ok("tables", found),
        Ok(true) => report.warn(
            "tables",
            format!("{found}, and nothing records which model filled them: recommendations go by the default model"),
            format!(
                "let the owner of {} run: {}",
                target.garment,
                target.record_statement(model)
            ),
        ),
        Err(error) => report.fail("tables", render(&error), ""),
    }
}

/// The model that the photos name, where it is another than `model`.
fn filler(client: &mut Client, target: &Target, model: &ModelRow) -> Result<Option<ModelRow>> {
    match unrecorded_model(client, target, model)? {
        Some((_, sha256)) => model_by_sha256(client, &sha256),
        None => Ok(None),
    }
}

fn recommending(client: &mut Client, target: &Target, report: &mut Report) {
    match recommendations::unread(client, target) {
        Ok(None) => {}
        Ok(Some(Unread { found, statement })) => {
            report.warn("recommendations", found, statement);
        }
        Err(error) => report.warn("recommendations", render(&error), ""),
    }
}

fn runs(client: &mut Client, schema: &str, report: &mut Report) {
    match last_run(client, schema) {
        Ok(None) => report.ok("runs", "none is recorded"),
        Ok(Some(run)) => {
            let RecordedRun { id, status, error } = run;
            let last = format!("the last, {id},");
            match status.as_str() {
                "failed" => report.warn(
                    "runs",
                    format!("{last} failed: {}", error.unwrap_or_default()),
                    "mend that and run the same command again",
                ),
                "killed" => report.warn(
                    "runs",
                    format!("{last} was killed"),
                    "run the same command again: it goes on where that one ended",
                ),
                _ => report.ok("runs", format!("{last} is {status}")),
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
    let is_mapped = target.is_mapped;
    let mut builder = IndexBuilder::new(client, target);
    let found = match builder.find() {
        Ok(Some(found)) => found,
        Ok(None) => {
            let statement = match is_mapped {
                true => builder.statement_for_owner(),
                false => builder.statement(),
            };
            let found =
                "none on the embedding that orders all rows by <->: searches read every row";
            report.warn(
                "index",
                found,
                statement.unwrap_or_else(|error| render(&error)),
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
        Err(error) => {
            let is_forbidden = error
                .downcast_ref::<postgres::Error>()
                .is_some_and(|error| error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE));
            report.fail(
                "index",
                format!("{}: {}", found.name, render(&error)),
                match is_forbidden {
                    true => "GRANT SELECT on its table to this role".to_owned(),
                    false => format!("REINDEX INDEX {}", found.name),
                },
            );
        }
    }
}
