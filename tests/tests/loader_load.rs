//! `lookbook load`: every photo is loaded, skipped or rejected with its reason, and the exit code
//! says which.

mod loader_support;
mod sql_support;

use std::fs;
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use image::{DynamicImage, ImageFormat};
use loader_support::Shop;
use lookbook_tests::{Cluster, check_output};
use sql_support::bmp;

const RED: [u8; 3] = [255, 0, 0];

fn tiny(name: &str) -> Result<Shop<'static>> {
    Shop::with_tiny_models(Cluster::shared()?, name)
}

#[test]
fn a_folder_becomes_one_photo_per_file_and_one_row_per_garment() -> Result<()> {
    let shop = tiny("folder")?;
    shop.put("a.bmp", &bmp(16, 32, RED))?;
    shop.put("shoes/misnamed.jpg", &bmp(20, 10, [0, 255, 0]))?;
    shop.put("notes.txt", b"not a photo by its name")?;
    let loaded = shop.load()?.expect(0)?;
    loaded.expect_stdout(&[
        "loaded 2 photos with 4 garments",
        "0 rejected",
        "detect",
        "CPU",
    ])?;
    let rows = shop.database.psql(
        "SELECT p.path, p.sku, p.width, p.height, p.attributes, g.sku, g.category, g.label, round(g.score::numeric, 2), g.box
         FROM photo p JOIN garment g ON g.photo_id = p.id ORDER BY p.path, g.category DESC",
    )?;
    let expected = "\
a.bmp|a|16|32||a|upper|shirt|0.90|(8,32),(0,0)
a.bmp|a|16|32||a|footwear|shoe|0.80|(16,32),(8,16)
shoes/misnamed.jpg|shoes/misnamed|20|10||shoes/misnamed|upper|shirt|0.90|(10,10),(0,0)
shoes/misnamed.jpg|shoes/misnamed|20|10||shoes/misnamed|footwear|shoe|0.80|(20,10),(10,5)";
    ensure!(rows == expected, "{rows}");
    let stored = shop
        .database
        .psql("SELECT encode(sha256, 'hex') FROM photo WHERE path = 'a.bmp'")?;
    let sum = check_output(Command::new("sha256sum").arg(shop.photos().join("a.bmp")))?;
    ensure!(
        String::from_utf8(sum.stdout)?.starts_with(&stored),
        "{stored}"
    );
    let recorded = shop.database.psql(
        "SELECT relation, attribute, model_name, model_sha256 = (SELECT DISTINCT embed_model FROM photo)
         FROM lookbook_embedding_column",
    )?;
    ensure!(recorded == "garment|embedding|mean|t", "{recorded}");
    let telemetry = shop.path("cache/Microsoft");
    ensure!(
        !telemetry.exists(),
        "ONNX Runtime was left to tell its maker of this machine"
    );
    ensure!(
        !shop.path("lookbook-rejects.csv").exists(),
        "nothing was rejected"
    );
    Ok(())
}

#[test]
fn a_photo_without_garments_is_one_row_of_category_photo() -> Result<()> {
    let shop = Shop::with_shipped_models(Cluster::shared()?, "no_garment")?;
    shop.put("grey.bmp", &bmp(60, 40, [128, 128, 128]))?;
    shop.load()?.expect(0)?;
    let row = shop
        .database
        .psql("SELECT category, label, score IS NULL, box FROM garment")?;
    ensure!(row == "photo|photo|t|(60,40),(0,0)", "{row}");
    Ok(())
}

#[test]
fn bad_files_are_rejected_with_code_and_reason_and_the_good_ones_are_loaded() -> Result<()> {
    let shop = tiny("bad_files")?;
    let good = bmp(40, 40, RED);
    let jpeg: &[u8] = include_bytes!("../catalogue/photos/beige-blazer-worn.jpg");
    shop.put("good.bmp", &good)?;
    shop.put("empty.jpg", b"")?;
    shop.put("text.png", b"this is a text")?;
    shop.put("html.webp", b"<!doctype html><title>404 Not Found</title>")?;
    shop.put("cut.jpg", &jpeg[..jpeg.len() / 2])?;
    shop.put("cut.bmp", &good[..good.len() / 2])?;
    let mut png = Vec::new();
    image::RgbImage::from_fn(40, 40, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]))
        .write_to(&mut Cursor::new(&mut png), ImageFormat::Png)?;
    let middle = png.len() / 2;
    png[middle] ^= 0xff;
    shop.put("damaged.png", &png)?;
    shop.put("phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")?;
    let mut bomb = bmp(1, 1, RED);
    bomb[18..26].copy_from_slice(&[0x60, 0xea, 0, 0, 0x60, 0xea, 0, 0]); // 60,000 x 60,000 pixels
    shop.put("bomb.bmp", &bomb)?;
    fs::File::create(shop.photos().join("huge.tiff"))?.set_len(65 << 20)?;
    symlink("nowhere.jpg", shop.photos().join("dangling.jpg"))?;
    // Reading it fails for every user, root included.
    symlink("/proc/self/mem", shop.photos().join("unreadable.jpg"))?;
    check_output(Command::new("mkfifo").arg(shop.photos().join("pipe.jpg")))?;
    let latin1 = std::ffi::OsStr::from_bytes(b"caf\xe9.bmp");
    fs::write(shop.photos().join(latin1), &good)?;

    let outcome = shop.load()?.expect(2)?;
    outcome.expect_stdout(&["loaded 1 photo with", "13 rejected", "lookbook-rejects.csv"])?;
    let mut found: Vec<(String, String)> = Vec::new();
    for [path, code, reason] in shop.rejects()? {
        ensure!(reason.len() > 10, "{path}: {reason:?} is no reason");
        found.push((path, code));
    }
    found.sort();
    let expected = [
        ("bomb.bmp", "image_too_large"),
        ("caf\u{fffd}.bmp", "path_not_utf8"),
        ("cut.bmp", "image_truncated"),
        ("cut.jpg", "image_truncated"),
        ("damaged.png", "image_corrupt"),
        ("dangling.jpg", "not_found"),
        ("empty.jpg", "image_empty"),
        ("html.webp", "not_an_image"),
        ("huge.tiff", "image_too_large"),
        ("phone.heic", "image_unsupported"),
        ("pipe.jpg", "not_a_file"),
        ("text.png", "not_an_image"),
        ("unreadable.jpg", "unreadable"),
    ];
    let found: Vec<(&str, &str)> = found
        .iter()
        .map(|(path, code)| (path.as_str(), code.as_str()))
        .collect();
    ensure!(found == expected, "{found:?}");
    shop.check_complete(1)
}

#[test]
fn a_rerun_skips_what_is_loaded_and_replaces_what_changed() -> Result<()> {
    let shop = tiny("rerun")?;
    shop.put("a.bmp", &bmp(16, 16, RED))?;
    shop.put("b.bmp", &bmp(16, 16, [0, 255, 0]))?;
    shop.load()?.expect(0)?;
    let all = "SELECT id, path, sha256, width, loaded_at FROM photo ORDER BY path";
    let before = shop.database.psql(all)?;
    let ids = "SELECT path, id FROM photo WHERE path IN ('a.bmp', 'b.bmp') ORDER BY path";
    let ids_before = shop.database.psql(ids)?;
    let garments_before = shop.database.psql("SELECT * FROM garment ORDER BY id")?;

    let again = shop.load()?.expect(0)?;
    again.expect_stdout(&["loaded 0 photos", "2 skipped"])?;
    assert_eq!(shop.database.psql(all)?, before);
    assert_eq!(
        shop.database.psql("SELECT * FROM garment ORDER BY id")?,
        garments_before
    );

    shop.put("b.bmp", &bmp(32, 16, [0, 0, 255]))?;
    shop.put("c.bmp", &bmp(8, 8, RED))?;
    let changed = shop.load()?.expect(0)?;
    changed.expect_stdout(&["loaded 2 photos", "(1 replaced)", "1 skipped"])?;
    shop.check_complete(3)?;
    assert_eq!(shop.database.psql(ids)?, ids_before);
    let widths = shop
        .database
        .psql("SELECT path, width FROM photo ORDER BY path")?;
    assert_eq!(widths, "a.bmp|16\nb.bmp|32\nc.bmp|8");
    let blue = shop.database.psql(
        "SELECT count(*), bool_and(embedding <-> '[0,0,1]' < 0.1)
         FROM garment g JOIN photo p ON p.id = g.photo_id WHERE p.path = 'b.bmp'",
    )?;
    assert_eq!(blue, "2|t");
    Ok(())
}

#[test]
fn equal_bytes_under_two_paths_are_two_photos() -> Result<()> {
    let shop = tiny("twins")?;
    for name in ["a.bmp", "copies/a.bmp", "z.png"] {
        shop.put(name, &bmp(16, 16, RED))?;
    }
    shop.load()?.expect(0)?;
    shop.check_complete(3)?;
    assert_eq!(
        shop.database
            .psql("SELECT count(DISTINCT sha256) FROM photo")?,
        "1"
    );
    Ok(())
}

#[test]
fn a_manifest_names_products_and_keeps_its_other_columns() -> Result<()> {
    let shop = tiny("manifest")?;
    shop.put("one.bmp", &bmp(16, 16, RED))?;
    shop.put("two.bmp", &bmp(16, 16, RED))?;
    let manifest = "sku,path,brand,price\nS-1,photos/one.bmp,\"Acme, Inc.\",9.50\n,photos/two.bmp,,\nS-3,photos/gone.bmp,x,1\n";
    fs::write(shop.path("catalogue.csv"), manifest)?;
    let outcome = shop.run(["load", "catalogue.csv"])?.expect(2)?;
    outcome.expect_stdout(&["loaded 2 photos", "1 rejected"])?;
    let rows = shop.database.psql(
        "SELECT p.path, p.sku, p.attributes, string_agg(DISTINCT g.sku, ',')
         FROM photo p JOIN garment g ON g.photo_id = p.id GROUP BY p.id ORDER BY p.path",
    )?;
    let expected = "photos/one.bmp|S-1|{\"brand\": \"Acme, Inc.\", \"price\": \"9.50\"}|S-1\n\
                    photos/two.bmp|photos/two|{}|photos/two";
    ensure!(rows == expected, "{rows}");
    let rejects = shop.rejects()?;
    ensure!(
        rejects.len() == 1 && rejects[0][..2] == ["photos/gone.bmp", "not_found"],
        "{rejects:?}"
    );
    // A corrected manifest is a change of the photos it is about.
    fs::write(
        shop.path("catalogue.csv"),
        manifest
            .replace("S-1", "S-9")
            .replace("photos/gone.bmp", "photos/../photos/one.bmp"),
    )?;
    let corrected = shop.run(["load", "catalogue.csv"])?.expect(0)?;
    corrected.expect_stdout(&["loaded 2 photos", "(1 replaced)", "1 skipped"])?;
    let skus = shop
        .database
        .psql("SELECT DISTINCT sku FROM garment ORDER BY 1")?;
    assert_eq!(skus, "S-3\nS-9\nphotos/two");
    Ok(())
}

#[test]
fn a_wrong_manifest_is_refused_with_its_line_and_loads_nothing() -> Result<()> {
    let shop = tiny("wrong_manifest")?;
    shop.put("one.bmp", &bmp(16, 16, RED))?;
    for (content, reason) in [
        (
            "file,sku\nphotos/one.bmp,1\n",
            "line 1: no column named path",
        ),
        (
            "path\nphotos/one.bmp\nphotos/one.bmp\n",
            "line 3: path \"photos/one.bmp\" is already on line 2",
        ),
        (
            "path,sku\nphotos/one.bmp\n",
            "line 2 has 1 columns, the header has 2",
        ),
    ] {
        fs::write(shop.path("wrong.csv"), content)?;
        shop.run(["load", "wrong.csv"])?
            .expect(1)?
            .expect_stderr(&["wrong.csv", reason])?;
    }
    assert_eq!(shop.photo_count()?, 0);
    Ok(())
}

#[test]
fn exit_code_1_names_the_thing_the_reason_and_what_to_do() -> Result<()> {
    let shop = tiny("fatal")?;
    shop.run(["load", "missing"])?
        .expect(1)?
        .expect_stderr(&["cannot open missing: No such file"])?;
    shop.load()?
        .expect(1)?
        .expect_stderr(&["photos has no photos"])?;
    shop.put("text.jpg", b"a text")?;
    shop.load()?
        .expect(1)?
        .expect_stderr(&["none of 1 photo could be loaded"])?;
    shop.run(["load"])?
        .expect(1)?
        .expect_stderr(&["required arguments", "lookbook load"])?;
    shop.run(["load", "photos", "--max-error-rate", "2"])?
        .expect(1)?
        .expect_stderr(&["from 0 to 1"])?;
    shop.put("good.bmp", &bmp(4, 4, RED))?;
    shop.run(["load", "photos", "--device", "cuda"])?
        .expect(1)?
        .expect_stderr(&["cuda"])?;
    shop.run(["load", "photos", "--device", "tpu"])?
        .expect(1)?
        .expect_stderr(&["tpu", "auto"])?;
    let elsewhere = [
        "load",
        "photos",
        "-d",
        "postgresql://u:s3cret@localhost:1/nowhere",
    ];
    let refused = shop.run(elsewhere)?.expect(1)?;
    ensure!(!refused.stderr.contains("s3cret"), "{refused}");
    refused.expect_stderr(&["cannot connect to database nowhere at localhost, port 1"])?;
    let mut unset = shop.lookbook(["load", "photos"])?;
    let unset = loader_support::Outcome::of(
        unset
            .env_remove("LOOKBOOK_DATABASE")
            .env_remove("DATABASE_URL"),
    )?;
    unset.expect(1)?.expect_stderr(&["--database URL"])?;
    fs::write(shop.path("library.so"), b"not a library")?;
    let broken = shop
        .run(["load", "photos", "--onnxruntime", "library.so"])?
        .expect(1)?;
    broken.expect_stderr(&["library.so"])?;
    let absent = shop
        .run(["load", "photos", "--onnxruntime", "absent.so"])?
        .expect(1)?;
    absent.expect_stderr(&["absent.so"])?;
    assert_eq!(shop.photo_count()?, 0);
    shop.run(["--help"])?
        .expect(0)?
        .expect_stdout(&["Exit codes"])?;
    let slip = shop.run(["load", "photos", "--nope"])?.expect(1)?;
    ensure!(
        slip.stderr
            .starts_with("lookbook: error: unexpected argument '--nope'"),
        "{slip}"
    );
    Ok(())
}

#[test]
fn a_database_without_the_extension_is_told_what_to_run() -> Result<()> {
    let shop = tiny("has_extension")?;
    shop.put("good.bmp", &bmp(4, 4, RED))?;
    let bare = Cluster::shared()?.empty_database("bare")?;
    let refused = shop.run(["load", "photos", "-d", &bare.url()])?.expect(1)?;
    refused.expect_stderr(&["database bare", "CREATE EXTENSION lookbook"])?;
    Ok(())
}

#[test]
fn too_many_rejects_stop_a_load_where_a_limit_is_given() -> Result<()> {
    let shop = tiny("error_rate")?;
    for number in 0..30 {
        shop.put(&format!("bad{number:02}.jpg"), b"a text")?;
    }
    shop.put("good.bmp", &bmp(4, 4, RED))?;
    let stopped = shop
        .run(["load", "photos", "--max-error-rate", "0.1"])?
        .expect(1)?;
    stopped.expect_stderr(&[
        "rejected, more than --max-error-rate 0.1 allows",
        "run the same command again",
    ])?;
    shop.load()?.expect(2)?;
    shop.check_complete(1)
}

#[test]
fn an_existing_file_that_is_no_rejects_list_is_not_overwritten() -> Result<()> {
    let shop = tiny("rejects_file")?;
    shop.put("bad.jpg", b"a text")?;
    fs::write(shop.path("thesis.csv"), "years of work")?;
    let refused = shop
        .run(["load", "photos", "--rejects", "thesis.csv"])?
        .expect(1)?;
    refused.expect_stderr(&["thesis.csv exists and is not a list of rejects"])?;
    assert_eq!(
        fs::read_to_string(shop.path("thesis.csv"))?,
        "years of work"
    );
    Ok(())
}

#[test]
fn tables_go_into_the_schema_of_choice_and_wrong_ones_are_named() -> Result<()> {
    let shop = tiny("schema")?;
    shop.put("a.bmp", &bmp(4, 4, RED))?;
    shop.run(["load", "photos", "--schema", "Spring \"26\""])?
        .expect(0)?;
    let count = shop
        .database
        .psql("SELECT count(*) FROM \"Spring \"\"26\"\"\".garment")?;
    assert_eq!(count, "2");
    shop.database
        .psql("CREATE SCHEMA old; CREATE TABLE old.photo (id int, path text)")?;
    let refused = shop.run(["load", "photos", "--schema", "old"])?.expect(1)?;
    refused.expect_stderr(&[
        "\"old\".photo.id is int4, it must be int8",
        "\"old\".photo has no column sku (text)",
        "--schema NAME",
    ])?;
    assert_eq!(
        shop.database
            .psql("SELECT to_regclass('old.garment') IS NULL")?,
        "t"
    );
    Ok(())
}

#[test]
fn an_extension_in_a_schema_of_its_own_is_found() -> Result<()> {
    let cluster = Cluster::shared()?;
    let shop = Shop::with_shipped_models(cluster, "own_schema")?;
    shop.database
        .psql("DROP EXTENSION lookbook; CREATE SCHEMA ext; CREATE EXTENSION lookbook SCHEMA ext")?;
    shop.put("a.bmp", &bmp(40, 40, RED))?;
    shop.load()?.expect(0)?;
    let photo = shop.photos().join("a.bmp");
    let photo = photo.to_str().context("a path in UTF-8")?;
    shop.run(["search", photo])?
        .expect(0)?
        .expect_stdout(&["0.0000"])?;
    Ok(())
}

#[test]
fn progress_as_json_is_one_object_per_line_and_ends_with_the_summary() -> Result<()> {
    let shop = tiny("json")?;
    shop.put_many(40)?;
    shop.put("bad.jpg", b"a text")?;
    let outcome = shop
        .run(["load", "photos", "--progress", "json", "--limit", "41"])?
        .expect(2)?;
    let lines: Vec<serde_json::Value> = outcome
        .stdout
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let (summary, progress) = lines.split_last().context("there are lines")?;
    ensure!(!progress.is_empty() && progress.iter().all(|line| line["event"] == "progress"));
    assert_eq!(summary["event"], "summary");
    assert_eq!(summary["counts"]["loaded"], 40);
    assert_eq!(summary["counts"]["rejected"], 1);
    let stages: Vec<&str> = summary["stages"]
        .as_array()
        .context("stages are a list")?
        .iter()
        .filter_map(|stage| stage["stage"].as_str())
        .collect();
    assert_eq!(
        stages,
        ["read", "decode", "detect", "crop", "embed", "write"]
    );
    Ok(())
}

#[test]
fn a_limit_takes_the_first_photos_in_order() -> Result<()> {
    let shop = tiny("limit")?;
    shop.put_many(20)?;
    shop.run(["load", "photos", "--limit", "3"])?.expect(0)?;
    assert_eq!(
        shop.database
            .psql("SELECT min(path), max(path), count(*) FROM photo")?,
        "00000.bmp|00002.bmp|3"
    );
    Ok(())
}

#[test]
fn garments_that_somebody_deleted_are_made_anew() -> Result<()> {
    let shop = tiny("deleted")?;
    shop.put_many(20)?;
    shop.load()?.expect(0)?;
    shop.load()?.expect(0)?.expect_stdout(&["20 skipped"])?;
    shop.database
        .psql("DELETE FROM garment WHERE photo_id IN (SELECT id FROM photo ORDER BY id LIMIT 5)")?;
    shop.load()?
        .expect(0)?
        .expect_stdout(&["loaded 5 photos", "(5 replaced)", "15 skipped"])?;
    shop.check_complete(20)?;
    shop.database.psql("TRUNCATE garment")?;
    shop.load()?.expect(0)?.expect_stdout(&["(20 replaced)"])?;
    shop.check_complete(20)
}

#[test]
fn numbers_are_kept_or_refused_and_never_make_a_photo_new() -> Result<()> {
    let shop = tiny("numbers")?;
    shop.put("a.bmp", &bmp(8, 8, RED))?;
    let list = |row: &str| fs::write(shop.path("list.jsonl"), format!("{row}\n"));
    list(
        r#"{"path": "photos/a.bmp", "x": 1e16, "y": -0.0, "z": 3.3333333333333333, "ean": 18446744073709551615}"#,
    )?;
    shop.run(["load", "list.jsonl"])?.expect(0)?;
    let found = shop.database.psql("SELECT attributes FROM photo")?;
    ensure!(
        found
            == r#"{"x": 10000000000000000, "y": 0.0, "z": 3.3333333333333335, "ean": 18446744073709551615}"#,
        "{found}"
    );
    shop.run(["load", "list.jsonl"])?
        .expect(0)?
        .expect_stdout(&["1 skipped"])?;
    list(r#"{"path": "photos/a.bmp", "ean": 12345678901234567890123}"#)?;
    shop.run(["load", "list.jsonl"])?
        .expect(1)?
        .expect_stderr(&[
            "line 1",
            "12345678901234567890123 has more digits than are kept: write it as a text, in quotes",
        ])?;
    let query = "SELECT 'b' AS id, 12345678901234567890123 AS ean, 'photos/a.bmp' AS image";
    shop.run(["load", "--from-sql", query])?.expect(1)?;
    ensure!(shop.rejects()?[0][1] == "metadata_invalid");
    Ok(())
}

#[test]
fn a_list_does_not_quote_what_lies_outside_of_its_folder() -> Result<()> {
    let shop = tiny("elsewhere")?;
    shop.put("a.bmp", &bmp(16, 16, RED))?;
    fs::create_dir(shop.path("lists"))?;
    for file in ["secret.txt", "lists/note.txt"] {
        fs::write(shop.path(file), "hunter2 and more\n")?;
    }
    let secret = shop.path("secret.txt").display().to_string();
    let list = format!("path\n../photos/a.bmp\n../secret.txt\n{secret}\nnote.txt\n");
    fs::write(shop.path("lists/list.csv"), list)?;
    shop.run(["load", "lists/list.csv"])?.expect(2)?;
    let mut reasons = shop.rejects()?;
    reasons.sort();
    let quoted: Vec<(&str, bool)> = reasons
        .iter()
        .map(|[path, _, reason]| (path.as_str(), reason.contains("hunter2")))
        .collect();
    let expected = [
        ("../secret.txt", false),
        (&*secret, false),
        ("note.txt", true),
    ];
    ensure!(quoted == expected, "{reasons:?}");
    ensure!(shop.photo_count()? == 1);
    Ok(())
}

/// The peak of a load's memory in bytes.
fn peak_of(shop: &Shop<'_>, folder: &str) -> Result<f64> {
    let args = ["load", folder, "--threads", "8", "--metrics-file", "m.prom"];
    shop.run(args)?.expect(0)?;
    let numbers = fs::read_to_string(shop.path("m.prom"))?;
    let mut lines = numbers.lines();
    let line = lines.find(|line| line.starts_with("lookbook_run_peak_memory_bytes"));
    let value = line.and_then(|line| line.rsplit(' ').next());
    Ok(value.context("the metrics have a peak")?.parse()?)
}

#[test]
fn large_photos_are_decoded_within_the_bound_of_memory() -> Result<()> {
    // 15 bytes for each of 16 million pixels while one is decoded: eight at once would take 1.8 GiB.
    let shop = tiny("memory")?;
    let mut png = Cursor::new(Vec::new());
    DynamicImage::new_rgba16(4_000, 4_000).write_to(&mut png, ImageFormat::Png)?;
    let png = png.into_inner();
    for number in 0..8 {
        shop.put(&format!("{number}.bmp"), &bmp(16, 16, RED))?;
        fs::create_dir_all(shop.path("large"))?;
        fs::write(shop.path(&format!("large/{number}.png")), &png)?;
    }
    let small = peak_of(&shop, "photos")?;
    let large = peak_of(&shop, "large")?;
    let bound = f64::from(512 << 20) + 8.0 * png.len() as f64 + f64::from(128 << 20);
    ensure!(large - small < bound, "{small} and {large}");
    Ok(())
}

#[test]
fn what_is_no_path_is_not_looked_for_among_files() -> Result<()> {
    let shop = tiny("no_path")?;
    shop.put("a.bmp", &bmp(8, 8, RED))?;
    for (value, reason) in [
        ("//cdn.example.com/a.jpg", "is a URL without a scheme"),
        (
            "ftp://example.com/a.jpg",
            "is a URL of a kind that is not read (ftp): http, https and s3 are",
        ),
        ("data:image/png;base64,AAAA", "holds the photo itself"),
    ] {
        fs::write(
            shop.path("list.csv"),
            format!("path\nphotos/a.bmp\n\"{value}\"\n"),
        )?;
        shop.run(["load", "list.csv"])?
            .expect(1)?
            .expect_stderr(&["line 3", value, reason])?;
    }
    Ok(())
}
