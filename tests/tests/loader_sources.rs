//! Every kind of source gives the same rows as a folder of the same photos, a rerun skips what is
//! loaded, and what cannot be had is rejected with its code.

mod loader_support;
mod sql_support;
mod web_support;

use std::ffi::OsStr;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use loader_support::{Outcome, Shop};
use lookbook_tests::{Cluster, check_output, signal};
use sql_support::bmp;
use web_support::serve;

const RED: [u8; 3] = [255, 0, 0];

fn tiny(name: &str) -> Result<Shop<'static>> {
    Shop::with_tiny_models(Cluster::shared()?, name)
}

/// What a test compares: everything but ids and times.
fn rows(shop: &Shop<'_>) -> Result<String> {
    shop.database.psql(
        "SELECT p.path, p.sku, p.attributes, encode(p.sha256, 'hex'), g.sku, g.category, g.box, g.embedding
         FROM photo p JOIN garment g ON g.photo_id = p.id ORDER BY p.path, g.category",
    )
}

#[test]
fn a_packed_folder_and_its_globs_give_the_rows_of_the_folder() -> Result<()> {
    let shop = tiny("packed")?;
    shop.put("a.bmp", &bmp(16, 16, RED))?;
    shop.put("shoes/b.bmp", &bmp(20, 10, [0, 255, 0]))?;
    shop.load()?.expect(0)?;
    let expected = rows(&shop)?;
    let pack =
        |args: &[&str]| check_output(Command::new("tar").current_dir(shop.photos()).args(args));
    pack(&["-cf", "../packed.tar", "."])?;
    pack(&["-czf", "../packed.tar.gz", "."])?;
    for source in ["packed.tar", "packed.tar.gz", "photos/**/*.bmp"] {
        let again = shop.run(["load", source])?.expect(0)?;
        again.expect_stdout(&["loaded 0 photos", "2 skipped"])?;
        shop.database.psql("TRUNCATE photo, garment")?;
        shop.run(["load", source])?
            .expect(0)?
            .expect_stdout(&["loaded 2 photos"])?;
        ensure!(rows(&shop)? == expected, "{source}: {}", rows(&shop)?);
    }
    let bytes = fs::read(shop.path("packed.tar"))?;
    fs::write(shop.path("cut.tar"), &bytes[..bytes.len() / 3])?;
    shop.run(["load", "cut.tar"])?;
    expect_damage(&shop)?;
    Ok(())
}

/// The archive that was read last is a reject.
fn expect_damage(shop: &Shop<'_>) -> Result<()> {
    let rejects = shop.rejects()?;
    let mut codes = rejects.iter().map(|[_, code, _]| code);
    ensure!(codes.any(|code| code == "archive_damaged"), "{rejects:?}");
    Ok(())
}

#[test]
fn an_archive_that_is_cut_between_two_members_is_not_whole() -> Result<()> {
    let shop = tiny("cut")?;
    let products =
        |of: &str| fs::write(shop.path("photos/2.json"), format!("{{\"sku\": \"{of}\"}}"));
    for name in ["1.bmp", "2.bmp", "3.bmp"] {
        shop.put(name, &bmp(8, 8, RED))?;
    }
    products("S2")?;
    let mut pack = Command::new("tar");
    let names = ["1.bmp", "2.bmp", "2.json", "3.bmp"];
    check_output(
        pack.current_dir(shop.photos())
            .args(["-cf", "../shelf.tar"])
            .args(names),
    )?;
    shop.run(["load", "shelf.tar"])?.expect(0)?;
    let told = || {
        shop.database
            .psql("SELECT string_agg(path || ' ' || sku, ', ' ORDER BY path) FROM photo")
    };
    let expected = "1.bmp 1, 2.bmp S2, 3.bmp 3";
    assert_eq!(told()?, expected);
    // A header, and the bytes of a photo, in blocks: behind the second photo, and behind nothing.
    let photo = 512 + bmp(8, 8, RED).len().next_multiple_of(512);
    let bytes = fs::read(shop.path("shelf.tar"))?;
    for length in [2 * photo, 0] {
        fs::write(shop.path("shelf.tar"), &bytes[..length])?;
        let sync = ["sync", "shelf.tar", "--prune", "--prune-limit", "1"];
        let sync = shop.run(sync)?;
        ensure!(sync.code != Some(0), "{sync:?}");
        assert_eq!(told()?, expected, "{length}");
        expect_damage(&shop)?;
    }
    Ok(())
}

#[test]
fn an_archive_says_no_more_than_a_list_of_the_same_photos() -> Result<()> {
    let shop = tiny("archive_keys")?;
    for name in ["0.bmp", "1.bmp"] {
        shop.put(name, &bmp(8, 8, RED))?;
    }
    shop.put("0.json", br#"{"id": "K0"}"#)?;
    shop.put("1.json", br#"{"id": "K1", "prod": 7}"#)?;
    let names = ["-cf", "../shop.tar", "0.bmp", "0.json", "1.bmp", "1.json"];
    check_output(Command::new("tar").current_dir(shop.photos()).args(names))?;
    shop.database
        .psql("CREATE TABLE arch (key text, prod text, embedding embedding(3)); CREATE INDEX ON arch (key)")?;
    let load = |map| {
        let into = ["--into", "arch", "--into-map", "key=key,sku=prod"];
        shop.run([&["load", "shop.tar", "--map", map], &into[..]].concat())
    };
    load("key=id,sku=prod")?.expect(0)?;
    let found = shop
        .database
        .psql("SELECT DISTINCT key, prod FROM arch ORDER BY 1")?;
    assert_eq!(found, "K0|\nK1|7");
    load("key=idd,sku=produkt")?.expect(1)?;
    let mut codes: Vec<String> = shop
        .rejects()?
        .into_iter()
        .map(|[_, code, _]| code)
        .collect();
    codes.sort();
    assert_eq!(codes, ["key_missing", "key_missing", "metadata_invalid"]);
    Ok(())
}

#[test]
fn manifests_of_every_kind_map_their_columns() -> Result<()> {
    let shop = tiny("mapped")?;
    shop.put("a.bmp", &bmp(16, 16, RED))?;
    shop.put("b.bmp", &bmp(20, 10, RED))?;
    fs::write(
        shop.path("list.jsonl"),
        "{\"file\": \"photos/a.bmp\", \"product\": 7, \"price\": 9.5}\n{\"file\": \"photos/b.bmp\", \"product\": 8, \"price\": 1}\n",
    )?;
    let map = "image=file,sku=product";
    shop.run(["load", "list.jsonl", "--map", map])?.expect(0)?;
    let found = shop
        .database
        .psql("SELECT path, sku, attributes FROM photo ORDER BY path")?;
    ensure!(
        found == "photos/a.bmp|7|{\"price\": 9.5}\nphotos/b.bmp|8|{\"price\": 1}",
        "{found}"
    );
    shop.run(["load", "list.jsonl", "--map", "image=nothing"])?
        .expect(1)?
        .expect_stderr(&["list.jsonl", "line 1: no column named nothing"])?;
    shop.run(["load", "list.jsonl", "--map", "picture=file"])?
        .expect(1)?
        .expect_stderr(&["there is no role", "image, key, sku"])?;
    Ok(())
}

#[test]
fn photos_that_sit_in_a_table_are_loaded_by_a_query() -> Result<()> {
    let shop = tiny("from_sql")?;
    let mut client = shop.database.connect()?;
    client.batch_execute(
        "CREATE TABLE shop_image (id int, product text, price numeric, data bytea, file text)",
    )?;
    for (id, side) in [(1, 8_u32), (2, 16)] {
        let image = bmp(side, 8, RED);
        client.execute(
            "INSERT INTO shop_image VALUES ($1::int, 'P-' || $1::int, 9.5, $2, '../outside.bmp')",
            &[&id, &image],
        )?;
    }
    client.batch_execute("INSERT INTO shop_image VALUES (3, 'P-3', 1, NULL, NULL)")?;
    let query = "SELECT id, product, price, data AS image FROM shop_image ORDER BY id ;";
    let run = || shop.run(["load", "--from-sql", query, "--map", "sku=product"]);
    run()?
        .expect(2)?
        .expect_stdout(&["loaded 2 photos", "1 rejected"])?;
    let found = shop
        .database
        .psql("SELECT path, sku, attributes, width FROM photo ORDER BY path")?;
    ensure!(
        found == "1|P-1|{\"price\": 9.5}|8\n2|P-2|{\"price\": 9.5}|16",
        "{found}"
    );
    ensure!(shop.rejects()?[0][..2] == ["3", "image_missing"]);
    run()?
        .expect(2)?
        .expect_stdout(&["loaded 0 photos", "2 skipped"])?;
    shop.run([
        "load",
        "--from-sql",
        "SELECT id, file AS image FROM shop_image WHERE id < 3",
    ])?
    .expect(1)?;
    // Several readers share a source of paths: rejects are listed as they happen.
    let mut outside = shop.rejects()?;
    outside.sort();
    let outside: Vec<&[String]> = outside.iter().map(|reject| &reject[..2]).collect();
    ensure!(
        outside == [["1", "path_outside"], ["2", "path_outside"]],
        "{outside:?}"
    );
    shop.put("a.bmp", &bmp(8, 8, RED))?;
    let absolute = format!(
        "SELECT 9 AS id, '{}/a.bmp' AS image",
        shop.photos().display()
    );
    shop.run(["load", "--from-sql", &absolute, "--image-root", "photos"])?
        .expect(0)?;
    shop.run([
        "load",
        "--from-sql",
        "DELETE FROM shop_image RETURNING id, data AS image",
    ])?
    .expect(1)?;
    ensure!(shop.database.psql("SELECT count(*) FROM shop_image")? == "3");
    Ok(())
}

/// Images 1 and 2, the second of no product though a product has its number; and a table for their looks.
fn shop_with_an_image_of_no_product(name: &str) -> Result<Shop<'static>> {
    let shop = tiny(name)?;
    let mut client = shop.database.connect()?;
    client.batch_execute(
        r#"CREATE TABLE product (id bigint PRIMARY KEY); INSERT INTO product VALUES (1), (2);
           CREATE TABLE img (id int, product_id bigint, data bytea);
           CREATE TABLE look ("Img, ID" int, sku bigint REFERENCES product, v embedding(3)); CREATE INDEX ON look ("Img, ID")"#,
    )?;
    for (id, product) in [(1, Some(1_i64)), (2, None)] {
        client.execute(
            "INSERT INTO img VALUES ($1, $2, $3)",
            &[&id, &product, &bmp(16, 16, RED)],
        )?;
    }
    Ok(shop)
}

#[test]
fn a_photo_of_which_the_source_says_no_product_has_none_in_a_mapped_table() -> Result<()> {
    let shop = shop_with_an_image_of_no_product("no_product")?;
    let into = [
        "--into",
        "look",
        "--into-map",
        r#"key="Img, ID",embedding=v"#,
    ];
    let load = |source: &[&str]| shop.run([&["load"], source, &into].concat());
    let looks = || {
        shop.database
            .psql(r#"SELECT DISTINCT "Img, ID", coalesce(sku::text, 'none') FROM look ORDER BY 1"#)
    };
    let query = [
        "--from-sql",
        "SELECT id, product_id AS sku, data AS image FROM img",
    ];
    load(&query)?.expect(0)?;
    assert_eq!(looks()?, "1|1\n2|none");
    load(&query)?.expect(0)?.expect_stdout(&["2 skipped"])?;
    // It gets a product of the same number, and loses it.
    for (product, expected) in [("2", "1|1\n2|2"), ("NULL", "1|1\n2|none")] {
        shop.database.psql(&format!(
            "UPDATE img SET product_id = {product} WHERE id = 2"
        ))?;
        load(&query)?.expect(0)?.expect_stdout(&["1 skipped"])?;
        assert_eq!(looks()?, expected);
    }

    shop.put("a.bmp", &bmp(16, 16, RED))?;
    shop.put("b.bmp", &bmp(16, 16, RED))?;
    fs::write(
        shop.path("list.csv"),
        "id,sku,path\n1,2,photos/a.bmp\n2,,photos/b.bmp\n",
    )?;
    let keyless = ["--from-sql", "SELECT id, data AS image FROM img"];
    for (source, expected) in [
        (&["list.csv", "--map", "key=id"][..], "1|2\n2|none"),
        (&keyless, "1|none\n2|none"),
    ] {
        shop.database.psql("TRUNCATE look, look_photo")?;
        load(source)?.expect(0)?;
        assert_eq!(looks()?, expected);
    }
    shop.database
        .psql("TRUNCATE look, look_photo; ALTER TABLE look ALTER sku SET NOT NULL")?;
    load(&query)?.expect(2)?;
    let [path, code, reason] = &shop.rejects()?[0];
    ensure!(
        path == "2" && code == "sku_missing" && reason.contains("needs one"),
        "{path} {code} {reason}"
    );
    let again = r#"key="Img, ID",key=sku,embedding=v"#;
    shop.run(["load", "list.csv", "--into", "look", "--into-map", again])?
        .expect(1)?
        .expect_stderr(&["--into-map says more than once what takes the key"])?;
    Ok(())
}

#[test]
fn what_stands_in_for_a_product_is_never_taken_for_one() -> Result<()> {
    let shop = shop_with_an_image_of_no_product("stand_in")?;
    let query = "SELECT id, product_id AS sku, data AS image FROM img";
    let load = |more: &[&str]| shop.run([&["load", "--from-sql", query], more].concat());
    load(&[])?.expect(0)?;
    let found = shop
        .database
        .psql("SELECT path, sku FROM photo ORDER BY 1")?;
    assert_eq!(found, "1|1\n2|2");
    shop.database.psql("DROP TABLE garment, photo")?;
    load(&["--sku-references", "product(id)"])?.expect(2)?;
    ensure!(shop.rejects()?[0][..2] == ["2", "sku_missing"]);
    Ok(())
}

#[test]
fn a_row_whose_attributes_cannot_be_kept_costs_that_photo_only() -> Result<()> {
    let shop = tiny("attributes")?;
    shop.put("a.bmp", &bmp(16, 16, RED))?;
    let nested = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let query = format!(
        "SELECT id, 'photos/a.bmp' AS image, v FROM (VALUES ('large', to_jsonb(1e400::numeric)), ('deep', '{nested}'), ('good', '7'))
         AS t (id, v)"
    );
    for (query, said) in [
        (
            "SELECT 1 AS id, 'a' AS image, 'b' AS image",
            "two columns are named \"image\"",
        ),
        (
            "DELETE FROM lookbook_model RETURNING name AS id, onnx AS image",
            "the query has to be one that reads",
        ),
    ] {
        shop.run(["load", "--from-sql", query])?
            .expect(1)?
            .expect_stderr(&[said])?;
    }
    shop.run(["load", "--from-sql", &query])?
        .expect(2)?
        .expect_stdout(&["loaded 1 photo with", "2 rejected"])?;
    let mut rejects = shop.rejects()?;
    rejects.sort();
    let [deep, large] = rejects.as_slice() else {
        anyhow::bail!("{rejects:?}")
    };
    assert_eq!(deep[..2], ["deep", "metadata_invalid"]);
    assert_eq!(large[..2], ["large", "metadata_invalid"]);
    ensure!(
        large[2].ends_with("number out of range: cast its column to text"),
        "{}",
        large[2]
    );
    assert_eq!(
        shop.database.psql("SELECT path, attributes FROM photo")?,
        "good|{\"v\": 7}"
    );
    Ok(())
}

#[test]
fn a_query_or_a_list_without_rows_is_said_to_have_none() -> Result<()> {
    let shop = tiny("no_rows")?;
    fs::write(shop.path("list.csv"), "path,sku\n")?;
    let query = "SELECT 'a' AS id, 'a.jpg' AS image WHERE false";
    for source in [&["list.csv"][..], &["--from-sql", query]] {
        let load = shop.run([&["load"], source].concat())?;
        load.expect(1)?.expect_stderr(&["has no rows"])?;
    }
    Ok(())
}

/// The loader with a store and its credentials.
fn of_store<I: AsRef<OsStr>>(
    shop: &Shop<'_>,
    args: impl IntoIterator<Item = I>,
    endpoint: &str,
) -> Result<Command> {
    let mut command = shop.lookbook(args)?;
    command
        .env("AWS_ENDPOINT_URL", endpoint)
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_ACCESS_KEY_ID", "shop")
        .env("AWS_SECRET_ACCESS_KEY", "secret");
    Ok(command)
}

#[test]
fn a_store_is_a_folder_and_its_address_is_judged_too() -> Result<()> {
    let shop = tiny("store")?;
    let endpoint = format!("http://127.0.0.1:{}", serve()?);
    let load = |allow: &[&str], plain: &str| {
        let args = ["load", "s3://shelf/summer", "--retries", "0"];
        let mut command = of_store(&shop, args.iter().chain(allow), &endpoint)?;
        Outcome::of(command.env("AWS_ALLOW_HTTP", plain))
    };
    let allow = ["--allow-private-addresses=127.0.0.1"];
    load(&[], "true")?
        .expect(1)?
        .expect_stderr(&["s3://shelf/summer", "--allow-private-addresses"])?;
    load(&allow, "false")?
        .expect(1)?
        .expect_stderr(&["AWS_ALLOW_HTTP"])?;
    load(&allow, "true")?.expect(2)?.expect_stdout(&[
        "loaded 2 photos",
        "1 rejected",
        "1 file without",
    ])?;
    let rejects = shop.rejects()?;
    ensure!(
        rejects[0][..2] == ["new//a.bmp", "url_invalid"],
        "{rejects:?}"
    );
    let loaded = shop
        .database
        .psql("SELECT path, sku FROM photo ORDER BY path")?;
    ensure!(loaded == "a.bmp|a\nshoes/b.bmp|shoes/b", "{loaded}");
    load(&allow, "true")?
        .expect(2)?
        .expect_stdout(&["2 skipped"])?;
    let elsewhere = ["load", "s3://moved/", "--retries", "0", allow[0]];
    Outcome::of(&mut of_store(&shop, elsewhere, &endpoint)?)?
        .expect(1)?
        .expect_stderr(&["set AWS_REGION=eu-west-1"])?;
    for source in ["s3://shelf/summer", "s3://shelf/summer/a.bmp"] {
        let args = ["load", source, "--retries", "0", allow[0]];
        let mut unknown = of_store(&shop, args, &endpoint)?;
        unknown
            .env("AWS_METADATA_ENDPOINT", &endpoint)
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY");
        let said = Outcome::of(&mut unknown)?.expect(1)?;
        let rejects = fs::read_to_string(shop.path("lookbook-rejects.csv")).unwrap_or_default();
        let advice = "no credentials were found: set AWS_ACCESS_KEY_ID and";
        ensure!(
            (said.stderr + &rejects).contains(advice),
            "{source}: {rejects}"
        );
    }
    Ok(())
}

#[test]
fn a_store_that_is_busy_is_asked_again_when_it_says() -> Result<()> {
    let shop = tiny("busy_store")?;
    let endpoint = format!("http://127.0.0.1:{}", serve()?);
    let allow = "--allow-private-addresses=127.0.0.1";
    let args = ["load", "s3://slow/", "--retries", "3", allow];
    Outcome::of(&mut of_store(&shop, args, &endpoint)?)?
        .expect(2)?
        .expect_stdout(&["loaded 2 photos", "1 rejected"])?;
    let rejects = shop.rejects()?;
    let expected = "the server answered 503 Service Unavailable (SlowDown) (4 attempts)";
    ensure!(
        matches!(&rejects[..], [[path, code, reason]] if path == "c.bmp" && code == "http_503" && reason == expected),
        "{rejects:?}"
    );
    Ok(())
}

#[test]
fn a_password_in_a_url_is_used_and_not_kept() -> Result<()> {
    let shop = tiny("password")?;
    let port = serve()?;
    let url = format!("http://u:p%40x@127.0.0.1:{port}/locked.bmp");
    let named = format!("http://127.0.0.1:{port}/locked");
    let allow = "--allow-private-addresses=127.0.0.1";
    fs::write(shop.path("list.csv"), format!("url\n{url}\n"))?;
    for source in [
        &[url.as_str()][..],
        &["list.csv"],
        &["--from-sql", &format!("SELECT '{url}' AS url")],
    ] {
        shop.database.psql("DROP TABLE IF EXISTS garment, photo")?;
        shop.run([&["load", allow], source].concat())?.expect(0)?;
        let kept = shop.database.psql("SELECT path, sku FROM photo")?;
        assert_eq!(kept, format!("{named}.bmp|{named}"), "{source:?}");
    }
    Ok(())
}

#[test]
fn an_interrupt_does_not_wait_for_a_server_that_asks_for_patience() -> Result<()> {
    let shop = tiny("impatient")?;
    let port = serve()?;
    for page in ["busy", "silent"] {
        let url = format!("http://127.0.0.1:{port}/{page}.bmp");
        let args = ["load", &url, "--allow-private-addresses=127.0.0.1"];
        let mut load = shop.lookbook([&args[..], &["--timeout", "100"]].concat())?;
        let mut load = load.spawn()?;
        thread::sleep(Duration::from_secs(3));
        let asked = Instant::now();
        signal("INT", load.id())?;
        ensure!(load.wait()?.code() == Some(2), "{page}");
        ensure!(asked.elapsed() < Duration::from_secs(20), "{asked:?}");
    }
    Ok(())
}

#[test]
fn an_interrupt_ends_a_query_that_is_waited_for() -> Result<()> {
    let shop = tiny("sleepy")?;
    let query = "SELECT 1 AS id, ''::bytea AS image, pg_sleep(3600)";
    let mut load = shop.lookbook(["load", "--from-sql", query])?.spawn()?;
    let patience = Duration::from_secs(60);
    let asleep = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
    shop.wait_until(&mut load, asleep, patience)?;
    signal("INT", load.id())?;
    ensure!(load.wait()?.code() == Some(2));
    shop.wait_for_the_end(patience)
}

#[test]
fn urls_are_fetched_with_retries_and_limits_and_never_from_private_addresses_unasked() -> Result<()>
{
    let shop = tiny("urls")?;
    let base = format!("http://127.0.0.1:{}", serve()?);
    let names = [
        "good", "moved", "flaky", "inside", "loop", "large", "silent", "gone",
    ];
    let list: String = names
        .iter()
        .map(|name| format!("{base}/{name}.bmp,{name}\n"))
        .collect();
    fs::write(shop.path("urls.csv"), format!("url,sku\n{list}"))?;
    let load = |allow: &[&str]| {
        let args = [
            "load",
            "urls.csv",
            "--map",
            "key=sku",
            "--timeout",
            "5",
            "--retries",
            "1",
        ];
        shop.run(args.iter().chain(allow))
    };
    load(&[])?.expect(1)?;
    let refused = shop.rejects()?;
    ensure!(
        refused.len() == names.len()
            && refused.iter().all(|[_, code, _]| code == "private_address"),
        "{refused:?}"
    );
    load(&["--allow-private-addresses=127.0.0.1"])?
        .expect(2)?
        .expect_stdout(&["loaded 3 photos", "5 rejected"])?;
    let mut found: Vec<(String, String)> = shop
        .rejects()?
        .into_iter()
        .map(|[path, code, _]| (path, code))
        .collect();
    found.sort();
    let expected = [
        ("gone", "http_404"),
        ("inside", "private_address"),
        ("large", "image_too_large"),
        ("loop", "too_many_redirects"),
        ("silent", "timed_out"),
    ]
    .map(|(path, code)| (path.to_owned(), code.to_owned()));
    ensure!(found == expected, "{found:?}");
    let loaded = shop.database.psql("SELECT path FROM photo ORDER BY path")?;
    ensure!(loaded == "flaky\ngood\nmoved", "{loaded}");
    Ok(())
}
