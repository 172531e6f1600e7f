//! Models and the loader: they come from the database, they do not mix, and `lookbook model` keeps
//! them.

mod loader_support;
mod sql_support;

use std::{
    fs,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use loader_support::{AVERAGE, MAXIMUM, Shop};
use lookbook_tests::{Cluster, signal, workspace};
use sql_support::{bmp, embedder_manifest, import_detector, import_embedder, onnx};

const RED: [u8; 3] = [255, 0, 0];

#[test]
fn two_embedders_never_fill_one_column() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "mixing")?;
    import_embedder(&mut shop.database.connect()?, "brightest", MAXIMUM)?;
    shop.put("a.bmp", &bmp(4, 4, RED))?;
    shop.load()?.expect(0)?;
    shop.put("b.bmp", &bmp(4, 4, RED))?;

    let refused = shop
        .run(["load", "photos", "--embed-model", "brightest"])?
        .expect(1)?;
    refused.expect_stderr(&[
        "\"public\".garment.embedding was filled by model \"mean\"",
        "this load would use \"brightest\"",
        "--embed-model mean",
        "--schema NAME",
        "TRUNCATE",
    ])?;
    shop.check_complete(1)?;
    // The record of the column is not all: the photos' rows say it too.
    shop.database
        .psql("DELETE FROM lookbook_embedding_column")?;
    let refused = shop
        .run(["load", "photos", "--embed-model", "brightest"])?
        .expect(1)?;
    refused.expect_stderr(&["was filled by model \"mean\""])?;

    // The ways out that the message names.
    shop.run([
        "load",
        "photos",
        "--embed-model",
        "brightest",
        "--schema",
        "other",
    ])?
    .expect(0)?;
    shop.load()?.expect(0)?;
    shop.check_complete(2)?;
    shop.database.psql("TRUNCATE photo, garment")?;
    shop.run(["load", "photos", "--embed-model", "brightest"])?
        .expect(0)?;
    let recorded = shop.database.psql(
        "SELECT relation, model_name FROM lookbook_embedding_column ORDER BY relation::text",
    )?;
    assert_eq!(recorded, "garment|brightest\nother.garment|brightest");
    shop.check_complete(2)
}

#[test]
fn a_model_that_filled_a_column_is_not_removed_by_accident() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "filled")?;
    import_embedder(&mut shop.database.connect()?, "brightest", MAXIMUM)?;
    shop.put("a.bmp", &bmp(4, 4, RED))?;
    let load = ["load", "photos", "--embed-model", "brightest"];
    shop.run(load)?.expect(0)?;
    let remove = ["model", "remove", "brightest"];
    shop.run(remove)?.expect(1)?.expect_stderr(&[
        "\"brightest\" filled public.garment.embedding",
        "lookbook reembed",
        "--force",
    ])?;
    // Another model has its bytes, so nothing is missed.
    shop.database.psql(
        "SELECT lookbook_model_import('same', jsonb_set(manifest, '{name}', '\"same\"'), onnx) \
         FROM lookbook_model WHERE name = 'brightest'",
    )?;
    shop.run(remove)?.expect(0)?;
    shop.put("b.bmp", &bmp(4, 4, RED))?;
    shop.load()?.expect(1)?.expect_stderr(&[
        "filled by model \"brightest\"",
        "load with --embed-model same",
    ])?;
    shop.run(["doctor"])?
        .expect_stdout(&["--embed-model same keeps the old one"])?;
    shop.run(["model", "remove", "same", "--force"])?
        .expect(0)?;
    let gone = "\"brightest\" is not among the models that you may use here";
    let refused = shop.load()?.expect(1)?;
    ensure!(!refused.stderr.contains("--embed-model"), "{refused}");
    refused.expect_stderr(&[gone, "lookbook model add", "lookbook reembed"])?;
    shop.run(["doctor"])?
        .expect_stdout(&[gone, "lookbook reembed", "lookbook model add"])?;
    Ok(())
}

#[test]
fn one_file_with_two_manifests_is_two_models() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "manifests")?;
    let mut client = shop.database.connect()?;
    client.batch_execute(
        "SELECT lookbook_model_import('same', jsonb_set(manifest, '{name}', '\"same\"'), onnx),
           lookbook_model_import('turned', jsonb_set(jsonb_set(manifest, '{name}', '\"turned\"'), '{input,colour}', '\"bgr\"'), onnx)
         FROM lookbook_model WHERE name = 'mean'",
    )?;
    shop.put("a.bmp", &bmp(4, 4, RED))?;
    shop.load()?.expect(0)?;
    shop.run(["load", "photos", "--embed-model", "same"])?
        .expect(0)?;
    shop.run(["load", "photos", "--embed-model", "turned"])?
        .expect(1)?
        .expect_stderr(&["was filled by model \"mean\"", "with another manifest"])?;
    Ok(())
}

#[test]
fn another_detector_replaces_the_rows_of_each_photo() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "detectors")?;
    shop.put("a.bmp", &bmp(40, 40, [128, 128, 128]))?;
    shop.load()?.expect(0)?;
    assert_eq!(shop.database.psql("SELECT count(*) FROM garment")?, "2");
    let replaced = shop
        .run(["load", "photos", "--detect-model", "garment-detector"])?
        .expect(0)?;
    replaced.expect_stdout(&["loaded 1 photo", "(1 replaced)"])?;
    assert_eq!(shop.database.psql("SELECT category FROM garment")?, "photo");
    shop.run(["load", "photos", "--detect-model", "garment-detector"])?
        .expect(0)?
        .expect_stdout(&["1 skipped"])?;
    shop.check_complete(1)
}

#[test]
fn the_model_is_the_one_named_then_the_setting_then_the_default() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "choice")?;
    import_embedder(&mut shop.database.connect()?, "brightest", MAXIMUM)?;
    shop.put("a.bmp", &bmp(4, 4, RED))?;
    let filled_by = |schema: &str| {
        let sql = format!(
            "SELECT model_name FROM lookbook_embedding_column WHERE relation = '{schema}.garment'::regclass"
        );
        shop.database.psql(&sql)
    };
    shop.run(["load", "photos", "--schema", "a"])?.expect(0)?;
    assert_eq!(filled_by("a")?, "mean");
    shop.database
        .psql("ALTER DATABASE choice SET lookbook.embed_model = 'brightest'")?;
    shop.run(["load", "photos", "--schema", "b"])?.expect(0)?;
    assert_eq!(filled_by("b")?, "brightest");
    shop.run(["load", "photos", "--schema", "c", "--embed-model", "mean"])?
        .expect(0)?;
    assert_eq!(filled_by("c")?, "mean");
    let unknown = shop
        .run(["load", "photos", "--embed-model", "nothing"])?
        .expect(1)?;
    unknown.expect_stderr(&["no model \"nothing\"", "brightest", "garment-embedder"])?;
    let wrong_kind = shop
        .run(["load", "photos", "--embed-model", "boxes"])?
        .expect(1)?;
    wrong_kind.expect_stderr(&["\"boxes\" is of kind detector, not embedder"])?;
    Ok(())
}

#[test]
fn a_damaged_cached_model_is_fetched_again() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "cache")?;
    shop.put("a.bmp", &bmp(4, 4, RED))?;
    shop.load()?.expect(0)?;
    let cache = shop.path("cache/lookbook/models");
    let files: Vec<_> = fs::read_dir(&cache)?
        .map(|item| Ok(item?.path()))
        .collect::<Result<_>>()?;
    assert_eq!(files.len(), 2);
    let sizes: Vec<u64> = files
        .iter()
        .map(|file| Ok(file.metadata()?.len()))
        .collect::<Result<_>>()?;
    for file in &files {
        fs::write(file, b"damaged")?;
    }
    shop.put("b.bmp", &bmp(4, 4, RED))?;
    shop.load()?.expect(0)?;
    for (file, size) in files.iter().zip(sizes) {
        assert_eq!(file.metadata()?.len(), size);
    }
    // Without a usable folder the bytes come from the database each time.
    fs::remove_dir_all(shop.path("cache"))?;
    fs::write(shop.path("cache"), b"in the way")?;
    shop.put("c.bmp", &bmp(4, 4, RED))?;
    shop.load()?.expect(0)?;
    shop.check_complete(3)
}

#[test]
fn models_make_the_round_trip_through_every_verb() -> Result<()> {
    let shop = Shop::with_shipped_models(Cluster::shared()?, "verbs")?;
    let mut client = shop.database.connect()?;
    let model = onnx::embedder(AVERAGE);
    let manifest = embedder_manifest(&mut client, "colours", &model)?.to_string();
    fs::write(shop.path("m.onnx"), &model)?;
    fs::write(shop.path("m.json"), &manifest)?;
    let add = [
        "model",
        "add",
        "colours",
        "--onnx",
        "m.onnx",
        "--manifest",
        "m.json",
    ];
    shop.run(add)?
        .expect(0)?
        .expect_stderr(&["stored model \"colours\""])?;
    shop.run(["model", "default", "colours"])?.expect(0)?;
    let listed = shop.run(["model", "list"])?.expect(0)?;
    let line = |name: &str| {
        listed
            .stdout
            .lines()
            .find(|line| line.contains(name))
            .unwrap_or_default()
            .to_owned()
    };
    ensure!(
        line("colours").contains("embedder") && line("colours").contains("yes"),
        "{listed}"
    );
    ensure!(
        line("garment-embedder").contains("shipped") && !line("garment-embedder").contains("yes"),
        "{listed}"
    );
    ensure!(line("garment-detector").contains("yes"), "{listed}");

    shop.run(["model", "export", "colours", "--out", "exported"])?
        .expect(0)?;
    ensure!(fs::read(shop.path("exported/colours.onnx"))? == model);
    let exported: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(shop.path("exported/colours.json"))?)?;
    ensure!(exported == serde_json::from_str::<serde_json::Value>(&manifest)?);
    shop.run(["model", "remove", "colours"])?
        .expect(1)?
        .expect_stderr(&[
            "\"colours\" is the default embedder",
            "\"garment-embedder\" would be it again",
            "--force",
        ])?;
    let removed = shop
        .run(["model", "remove", "colours", "--force"])?
        .expect(0)?;
    removed.expect_stderr(&["removed model \"colours\""])?;
    let again = shop.run([
        "model",
        "add",
        "again",
        "--onnx",
        "exported/colours.onnx",
        "--manifest",
        "exported/colours.json",
    ])?;
    ensure!(
        again.code == Some(0) || again.stderr.contains("name"),
        "{again}"
    );

    fs::write(shop.path("broken.onnx"), b"not a model")?;
    let broken = [
        "model",
        "add",
        "broken",
        "--onnx",
        "broken.onnx",
        "--manifest",
        "m.json",
    ];
    shop.run(broken)?
        .expect(1)?
        .expect_stderr(&["cannot store model \"broken\""])?;
    fs::write(shop.path("broken.json"), b"{")?;
    let broken = [
        "model",
        "add",
        "broken",
        "--onnx",
        "m.onnx",
        "--manifest",
        "broken.json",
    ];
    shop.run(broken)?
        .expect(1)?
        .expect_stderr(&["broken.json is not JSON"])?;
    shop.run(["model", "remove", "nothing"])?
        .expect(1)?
        .expect_stderr(&["nothing"])?;
    shop.run(["model", "remove", "garment-embedder"])?
        .expect(1)?;
    let absent = shop
        .run(["model", "export", "nothing", "--out", "x"])?
        .expect(1)?;
    absent.expect_stderr(&["no model \"nothing\"", "garment-detector"])?;
    Ok(())
}

#[test]
fn a_check_of_a_model_can_be_interrupted_while_that_runs() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "slow_check")?;
    let model = onnx::slow_embedder(1 << 62);
    let manifest = embedder_manifest(&mut shop.database.connect()?, "slow", &model)?;
    fs::write(shop.path("slow.onnx"), model)?;
    fs::write(shop.path("slow.json"), manifest.to_string())?;
    for name in ["INT", "TERM"] {
        let mut command = shop.lookbook(["model", "check", "slow.onnx"])?;
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        thread::sleep(Duration::from_secs(2));
        let begin = Instant::now();
        signal(name, child.id())?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            begin.elapsed() < Duration::from_secs(20) && output.status.code() == Some(1),
            "{name}: {:?} after {:?}: {said}",
            output.status,
            begin.elapsed()
        );
        ensure!(
            said.contains("interrupted: the model was not examined"),
            "{said}"
        );
    }
    Ok(())
}

#[test]
fn a_sound_model_of_a_shipped_name_needs_another() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "shipped_name")?;
    let file = workspace().join("models/shipped/resnet-preact-64.onnx");
    let file = file.to_str().context("a path in UTF-8")?;
    let outcome = shop.run(["model", "check", file, "--json"])?;
    ensure!(
        outcome.stdout.contains("needs another name")
            && !outcome.stdout.contains("lookbook model add"),
        "{outcome}"
    );
    Ok(())
}

#[test]
fn a_model_that_is_not_mine_cannot_be_used() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "not_mine")?;
    import_detector(&mut shop.database.connect()?, "secret")?;
    shop.database
        .psql("CREATE ROLE clerk LOGIN; GRANT CREATE ON DATABASE not_mine TO clerk")?;
    shop.put("a.bmp", &bmp(4, 4, RED))?;
    let url = shop.database.url().replace("user=postgres", "user=clerk");
    let refused = shop
        .run(["load", "photos", "-d", &url, "--detect-model", "secret"])?
        .expect(1)?;
    refused.expect_stderr(&["no model \"secret\""])?;
    let own = ["load", "photos", "-d", &url, "--schema", "clerk"];
    let shipped = [
        "--detect-model",
        "garment-detector",
        "--embed-model",
        "garment-embedder",
    ];
    shop.run(own.iter().chain(&shipped))?.expect(0)?;
    assert_eq!(shop.database.psql("SELECT count(*) FROM clerk.photo")?, "1");
    Ok(())
}

#[test]
fn recommendations_look_at_a_picture_with_the_model_that_filled_the_column() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "own_model")?;
    let mut client = shop.database.connect()?;
    import_embedder(&mut client, "brightest", MAXIMUM)?;
    shop.put("a.bmp", &bmp(16, 16, [200, 30, 10]))?;
    shop.run(["load", "photos", "--embed-model", "brightest"])?
        .expect(0)?;
    let picture = bmp(16, 16, [200, 30, 10]);
    client.batch_execute("SELECT lookbook_map_catalogue('mapped', 'garment')")?;
    // The default embedder, `mean`, sees the black pixel of the picture.
    let distances = |client: &mut postgres::Client, schema: &str| -> Result<Vec<f64>> {
        let query = format!(
            "SELECT distance FROM {schema}.shop_the_look($1) UNION ALL
             SELECT distance FROM {schema}.similar_garments($1, 1) UNION ALL
             SELECT embedding <-> embed_image($1) FROM garment WHERE category = 'upper'"
        );
        let rows = client.query(&query, &[&picture])?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    };
    for schema in ["public", "mapped"] {
        let found = distances(&mut client, schema)?;
        let [upper, footwear, similar, by_default] = found.as_slice() else {
            anyhow::bail!("{schema}: {found:?}")
        };
        ensure!(
            *upper < 1e-6 && *footwear < 1e-6 && *similar < 1e-6 && *by_default > 1e-3,
            "{schema}: {found:?}"
        );
    }
    // Where nothing is recorded it is the default.
    client.batch_execute("DELETE FROM lookbook_embedding_column")?;
    ensure!(distances(&mut client, "public")?[2] > 1e-3);
    Ok(())
}
