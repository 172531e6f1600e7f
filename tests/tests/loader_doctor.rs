//! `lookbook doctor`: what is wrong is found, and what it says to do mends it.

mod loader_support;
mod sql_support;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use loader_support::{MAXIMUM, Outcome, Shop};
use lookbook_tests::Cluster;
use serde_json::Value;
use sql_support::{bmp, import_embedder};

const RED: [u8; 3] = [255, 0, 0];

fn tiny(name: &str) -> Result<Shop<'static>> {
    Shop::with_tiny_models(Cluster::shared()?, name)
}

/// Status of each check, by its name.
fn checks(outcome: &Outcome) -> Result<BTreeMap<String, (String, String)>> {
    let report: Value =
        serde_json::from_str(&outcome.stdout).with_context(|| outcome.to_string())?;
    let checks = report["checks"].as_array().context("a list of checks")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(checks
        .iter()
        .map(|check| {
            let said = format!("{} {}", text(&check["found"]), text(&check["advice"]));
            (text(&check["check"]), (text(&check["status"]), said))
        })
        .collect())
}

fn is(outcome: &Outcome, check: &str, status: &str, part: &str) -> Result<()> {
    let checks = checks(outcome)?;
    let (found, said) = checks
        .get(check)
        .with_context(|| format!("{check}: {outcome}"))?;
    ensure!(
        found == status && said.contains(part),
        "{check} is {found}: {said}"
    );
    Ok(())
}

#[test]
fn the_doctor_finds_what_is_wrong_and_says_what_to_do() -> Result<()> {
    let shop = tiny("doctor")?;
    let examine = |args: &[&str]| shop.run(["doctor", "--json"].iter().chain(args));
    let healthy = examine(&[])?;
    for check in [
        "server",
        "extension",
        "pgvector",
        "detector",
        "embedder",
        "embed_image",
        "tables",
        "runtime",
        "device",
    ] {
        is(&healthy, check, "ok", "")?;
    }
    is(&healthy, "device", "ok", "CPU")?;
    shop.put("a.bmp", &bmp(16, 32, RED))?;
    shop.load()?.expect(0)?;
    let loaded = examine(&[])?;
    is(&loaded, "index", "ok", "2 rows, every page is sound")?;
    is(&loaded, "tables", "ok", "filled by model \"mean\"")?;
    is(&loaded, "runs", "ok", "complete")?;

    shop.database.psql(
        "DO $$ BEGIN EXECUTE (SELECT 'DROP INDEX ' || indexrelid::regclass FROM pg_index i JOIN pg_class c ON c.oid = indexrelid
           JOIN pg_am m ON m.oid = relam WHERE amname = 'lookbook'); END $$;
         UPDATE lookbook_run SET status = 'running'; SELECT lookbook_model_default('garment-embedder')",
    )?;
    let ill = examine(&[])?.expect(2)?;
    is(
        &ill,
        "index",
        "warning",
        "CREATE INDEX ON \"public\".\"garment\"",
    )
    .or_else(|_| is(&ill, "index", "warning", "CREATE INDEX ON"))?;
    is(&ill, "runs", "warning", "killed")?;
    is(&ill, "tables", "warning", "lookbook reembed")?;

    let cuda = examine(&["--device", "cuda"])?.expect(1)?;
    is(&cuda, "device", "failure", "CUDA")?;
    let library = examine(&["--onnxruntime", "/nowhere.so"])?.expect(1)?;
    is(&library, "runtime", "failure", "/nowhere.so")?;
    for (version, files) in [
        ("9.0.0", "the server has the files of"),
        ("0.0.9", "ALTER EXTENSION lookbook UPDATE"),
    ] {
        let update = "UPDATE pg_extension SET extversion = '{}' WHERE extname = 'lookbook'";
        shop.database.psql(&update.replace("{}", version))?;
        is(&examine(&[])?, "extension", "warning", files)?;
    }
    shop.database.psql("DROP EXTENSION lookbook CASCADE")?;
    let without = examine(&[])?.expect(1)?;
    is(
        &without,
        "extension",
        "failure",
        "CREATE EXTENSION lookbook",
    )?;
    let gone = shop
        .run(["doctor", "-d", "postgresql:///x?host=/nowhere"])?
        .expect(1)?;
    gone.expect_stdout(&["FAILURE  server", "-> name the database"])?;
    Ok(())
}

/// The statement that a check says the owner of the table should run.
fn statement(outcome: &Outcome, check: &str, begin: &str) -> Result<String> {
    let checks = checks(outcome)?;
    let (_, said) = checks.get(check).with_context(|| outcome.to_string())?;
    let at = said.find(begin).with_context(|| said.clone())?;
    Ok(said[at..].to_owned())
}

#[test]
fn a_column_without_the_record_of_its_model_gets_it_from_the_doctor() -> Result<()> {
    let shop = tiny("doctor_record")?;
    import_embedder(&mut shop.database.connect()?, "brightest", MAXIMUM)?;
    shop.put("a.bmp", &bmp(16, 32, RED))?;
    shop.load()?.expect(0)?;
    let examine = || shop.run(["doctor", "--json"]);
    let record = "SELECT model_name, attribute FROM lookbook_embedding_column WHERE relation = 'garment'::regclass";
    // As after the dump of an owner who may not read our tables, once before and once after the default changed.
    for (default, status) in [("mean", "warning"), ("brightest", "failure")] {
        shop.database.psql(&format!(
            "DELETE FROM lookbook_embedding_column; SELECT lookbook_model_default('{default}')"
        ))?;
        let restored = examine()?;
        is(&restored, "tables", status, "record")?;
        shop.database
            .psql(&statement(&restored, "tables", "INSERT INTO")?)?;
        assert_eq!(shop.database.psql(record)?, "mean|embedding");
    }
    Ok(())
}

#[test]
fn tables_in_another_schema_than_the_extension_are_mapped_as_load_and_doctor_say() -> Result<()> {
    let shop = tiny("doctor_schema")?;
    shop.put("a.bmp", &bmp(16, 32, RED))?;
    let map = "SELECT public.lookbook_map_catalogue('looks', 'looks.garment')";
    let load = ["load", "photos", "--schema", "looks"];
    shop.run(load)?.expect(0)?.expect_stderr(&[map])?;
    let again = shop.run(load)?.expect(0)?;
    ensure!(!again.stderr.contains("lookbook_map_catalogue"), "{again}");
    let examine = || shop.run(["doctor", "--json", "--schema", "looks"]);
    let unread = examine()?;
    is(&unread, "recommendations", "warning", "public.garment")?;
    assert_eq!(statement(&unread, "recommendations", "SELECT")?, map);
    shop.database.psql(map)?;
    let found = "SELECT count(*) > 0 FROM looks.nearest_garments((SELECT embedding FROM looks.garment LIMIT 1), 5)";
    assert_eq!(shop.database.psql(found)?, "t");
    ensure!(!checks(&examine()?)?.contains_key("recommendations"));
    // In the extension's own schema there is nothing to say.
    let plain = shop.load()?.expect(0)?;
    ensure!(!plain.stderr.contains("recommendations"), "{plain}");
    Ok(())
}
