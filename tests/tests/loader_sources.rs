//! Every kind of source gives the same rows as a folder of the same photos, a rerun skips what is
//! loaded, and what cannot be had is rejected with its code.

mod loader_support;
mod sql_support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use loader_support::{Outcome, Shop};
use lookbook_tests::{Cluster, check_output};
use sql_support::bmp;

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
    ensure!(
        shop.rejects()?
            .iter()
            .any(|[_, code, _]| code == "archive_damaged")
    );
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
    shop.run([
        "load",
        "--from-sql",
        "DELETE FROM shop_image RETURNING id, data AS image",
    ])?
    .expect(1)?;
    ensure!(shop.database.psql("SELECT count(*) FROM shop_image")? == "3");
    Ok(())
}

/// Answers by path until the test ends.
fn serve() -> Result<u16> {
    static FLAKY: AtomicUsize = AtomicUsize::new(0);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let _ = answer(stream, &FLAKY);
            });
        }
    });
    Ok(port)
}

fn answer(mut stream: TcpStream, flaky: &AtomicUsize) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    let path = request.split(' ').nth(1).unwrap_or_default();
    let photo = bmp(16, 16, RED);
    let respond = |mut stream: &TcpStream, head: &str, body: &[u8]| -> Result<()> {
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        )?;
        Ok(stream.write_all(body)?)
    };
    match path {
        "/good.bmp" => respond(&stream, "200 OK", &photo),
        "/moved.bmp" => respond(&stream, "302 Found\r\nLocation: /good.bmp", b""),
        "/flaky.bmp" if flaky.fetch_add(1, Ordering::SeqCst) == 0 => {
            respond(&stream, "503 Service Unavailable\r\nRetry-After: 0", b"")
        }
        "/flaky.bmp" => respond(&stream, "200 OK", &photo),
        "/inside.bmp" => respond(
            &stream,
            "302 Found\r\nLocation: http://127.0.0.2:1/x.bmp",
            b"",
        ),
        "/loop.bmp" => respond(&stream, "302 Found\r\nLocation: /loop.bmp", b""),
        "/large.bmp" => Ok(write!(
            stream,
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 99999999\r\n\r\n"
        )?),
        "/silent.bmp" => {
            thread::sleep(Duration::from_secs(120));
            Ok(())
        }
        "/shelf/summer/a.bmp" | "/shelf/summer/shoes/b.bmp" => respond(
            &stream,
            "200 OK\r\nETag: \"1\"\r\nLast-Modified: Wed, 01 Jan 2025 00:00:00 GMT",
            &photo,
        ),
        _ if path.starts_with("/shelf?") && path.contains("list-type=2") => {
            let objects: String = ["a.bmp", "notes.txt", "shoes/b.bmp"]
                .iter()
                .map(|key| format!("<Contents><Key>summer/{key}</Key><LastModified>2025-01-01T00:00:00.000Z</LastModified><ETag>&quot;1&quot;</ETag><Size>{}</Size></Contents>", photo.len()))
                .collect();
            let list = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><IsTruncated>false</IsTruncated>{objects}</ListBucketResult>"
            );
            respond(&stream, "200 OK", list.as_bytes())
        }
        _ => respond(&stream, "404 Not Found", b""),
    }
}

#[test]
fn a_store_is_a_folder_and_its_address_is_judged_too() -> Result<()> {
    let shop = tiny("store")?;
    let endpoint = format!("http://127.0.0.1:{}", serve()?);
    let load = |allow: &[&str], plain: &str| {
        let args = ["load", "s3://shelf/summer", "--retries", "0"];
        let mut command = shop.lookbook(args.iter().chain(allow))?;
        command
            .env("AWS_ENDPOINT_URL", &endpoint)
            .env("AWS_ALLOW_HTTP", plain)
            .env("AWS_ACCESS_KEY_ID", "shop")
            .env("AWS_SECRET_ACCESS_KEY", "secret");
        Outcome::of(&mut command)
    };
    let allow = ["--allow-private-addresses=127.0.0.1"];
    load(&[], "true")?
        .expect(1)?
        .expect_stderr(&["s3://shelf/summer", "--allow-private-addresses"])?;
    load(&allow, "false")?
        .expect(1)?
        .expect_stderr(&["AWS_ALLOW_HTTP"])?;
    load(&allow, "true")?
        .expect(0)?
        .expect_stdout(&["loaded 2 photos", "1 file without"])?;
    let loaded = shop
        .database
        .psql("SELECT path, sku FROM photo ORDER BY path")?;
    ensure!(loaded == "a.bmp|a\nshoes/b.bmp|shoes/b", "{loaded}");
    load(&allow, "true")?
        .expect(0)?
        .expect_stdout(&["2 skipped"])?;
    Ok(())
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
