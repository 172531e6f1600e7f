//! One photo, one vector: the loader, `detect_garments`, `embed_image` of the crop and
//! `lookbook search` agree.

mod loader_support;
mod sql_support;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use image::{ImageFormat, RgbImage};
use loader_support::{Shop, drawn_photos, name_of};
use lookbook_tests::{Cluster, openvino, shared_data};
use postgres::Client;

/// What the issue asks of two computations of one vector.
const SAME: f64 = 0.99999;
/// Of the box's size on each side: the crop rule of docs/architecture.md.
const CROP_MARGIN: f64 = 0.05;

/// Photos of people with several garments, and of garments alone, as PNG: no two decoders differ.
fn fill(shop: &Shop<'_>, files: &[impl AsRef<Path>]) -> Result<()> {
    for file in files {
        let file = file.as_ref();
        let pixels = image::open(file)?.to_rgb8();
        let target = shop.photos().join(name_of(file)?).with_extension("png");
        pixels.save_with_format(target, ImageFormat::Png)?;
    }
    Ok(())
}

/// Every garment row equals `embed_image` of the crop that the rule cuts; returns how many there are.
fn check_crops(shop: &Shop<'_>, client: &mut Client) -> Result<usize> {
    let rows = client.query(
        "SELECT p.path, g.category, (g.box[1])[0], (g.box[1])[1], (g.box[0])[0], (g.box[0])[1], g.embedding::text
         FROM garment g JOIN photo p ON p.id = g.photo_id ORDER BY g.id",
        &[],
    )?;
    for row in &rows {
        let (path, category): (&str, &str) = (row.get(0), row.get(1));
        let pixels = image::open(shop.photos().join(path))?.to_rgb8();
        let [x1, y1, x2, y2] = [2, 3, 4, 5].map(|column| row.get::<_, f64>(column));
        let margin = if category == "photo" {
            0.0
        } else {
            CROP_MARGIN
        };
        let (dx, dy) = ((x2 - x1) * margin, (y2 - y1) * margin);
        let crop = cut(&pixels, [x1 - dx, y1 - dy, x2 + dx, y2 + dy]);
        let mut png = Vec::new();
        crop.write_to(&mut std::io::Cursor::new(&mut png), ImageFormat::Png)?;
        let cosine: f64 = client
            .query_one(
                "SELECT 1 - (embed_image($1) <=> $2::text::embedding)",
                &[&png, &row.get::<_, &str>(6)],
            )?
            .get(0);
        ensure!(cosine > SAME, "{category} of {path}: cosine {cosine}");
    }
    Ok(rows.len())
}

/// Rounded outward and clipped.
fn cut(pixels: &RgbImage, [x1, y1, x2, y2]: [f64; 4]) -> RgbImage {
    let (left, top) = (x1.floor().max(0.0) as u32, y1.floor().max(0.0) as u32);
    let right = (x2.ceil() as u32).min(pixels.width());
    let bottom = (y2.ceil() as u32).min(pixels.height());
    image::imageops::crop_imm(pixels, left, top, right - left, bottom - top).to_image()
}

/// `detect_garments` of the file gives exactly the photo's rows: categories, boxes, vectors.
fn check_detect_garments(client: &mut Client, path: &str, bytes: &[u8]) -> Result<()> {
    let differing: i64 = client
        .query_one(
            "WITH loaded AS (SELECT category, label, score, box, embedding, row_number() OVER (ORDER BY g.id) AS n
                             FROM garment g JOIN photo p ON p.id = g.photo_id
                             WHERE p.path = $1 AND category <> 'photo'),
                  seen AS (SELECT category, label, score, box, embedding, row_number() OVER () AS n
                           FROM detect_garments($2))
             SELECT count(*) FROM loaded FULL JOIN seen USING (n)
             WHERE (loaded.category, loaded.label) IS DISTINCT FROM (seen.category, seen.label)
                OR abs(loaded.score - seen.score) > 1e-4
                OR (loaded.box[0] <-> seen.box[0]) > 0.05 OR (loaded.box[1] <-> seen.box[1]) > 0.05
                OR 1 - (loaded.embedding <=> seen.embedding) < 0.99999",
            &[&path, &bytes],
        )?
        .get(0);
    ensure!(
        differing == 0,
        "{path}: {differing} garments differ between the loader and SQL"
    );
    Ok(())
}

#[test]
fn the_loaders_vector_equals_embed_image_of_the_same_crop() -> Result<()> {
    let shop = Shop::with_shipped_models(Cluster::shared()?, "crops")?;
    fill(&shop, &drawn_photos(12)?)?;
    shop.run(["load", "photos", "--batch", "5"])?.expect(0)?;
    shop.check_complete(12)?;
    let garments = check_crops(&shop, &mut shop.database.connect()?)?;
    ensure!(
        garments > 12,
        "{garments} garments are too few to prove anything"
    );
    Ok(())
}

#[test]
fn the_loaders_rows_equal_detect_garments() -> Result<()> {
    let shop = Shop::with_shipped_models(Cluster::shared()?, "rows")?;
    let mut client = shop.database.connect()?;
    // JPEGs as they are, one of them larger than the pipeline decodes.
    for file in drawn_photos(8)? {
        fs::copy(&file, shop.photos().join(name_of(&file)?))?;
    }
    let small = image::open(&drawn_photos(2)?[1])?.to_rgb8();
    let (width, height) = (small.width() * 6, small.height() * 6);
    image::imageops::resize(&small, width, height, image::imageops::FilterType::Triangle)
        .save_with_format(shop.photos().join("large.jpg"), ImageFormat::Jpeg)?;
    shop.run(["load", "photos", "--batch", "4"])?.expect(0)?;
    shop.check_complete(9)?;
    let sizes = shop
        .database
        .psql("SELECT width, height FROM photo WHERE path = 'large.jpg'")?;
    assert_eq!(sizes, format!("{width}|{height}"));
    for item in fs::read_dir(shop.photos())? {
        let file = item?.path();
        check_detect_garments(&mut client, name_of(&file)?, &fs::read(&file)?)?;
    }
    Ok(())
}

#[test]
fn street_photos_agree_too() -> Result<()> {
    let Some(folder) = shared_data("detection/images")? else {
        return Ok(());
    };
    let mut files: Vec<_> = fs::read_dir(folder)?
        .map(|item| Ok(item?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    files.truncate(6);
    let shop = Shop::with_shipped_models(Cluster::shared()?, "street")?;
    fill(&shop, &files)?;
    shop.load()?.expect(0)?;
    let mut client = shop.database.connect()?;
    let garments = check_crops(&shop, &mut client)?;
    ensure!(
        garments >= 12,
        "{garments} garments in six photos of whole outfits"
    );
    for file in &files {
        let png = shop.photos().join(name_of(file)?).with_extension("png");
        check_detect_garments(&mut client, name_of(&png)?, &fs::read(&png)?)?;
    }
    Ok(())
}

#[test]
fn openvino_agrees_with_itself_in_sql_and_nearly_with_the_cpu() -> Result<()> {
    let Some(library) = openvino()? else {
        return Ok(());
    };
    let shop = Shop::with_shipped_models(Cluster::shared()?, "openvino")?;
    let files = drawn_photos(24)?;
    for file in &files {
        fs::copy(file, shop.photos().join(name_of(file)?))?;
    }
    shop.run(["load", "photos", "--schema", "by_cpu"])?
        .expect(0)?;
    shop.run(["load", "photos", "--device", "openvino"])?
        .expect(0)?
        .expect_stdout(&["OpenVINO"])?;
    shop.check_complete(24)?;

    let mut client = shop.database.connect()?;
    client.batch_execute(&format!(
        "SET lookbook.onnxruntime = '{}'; SET lookbook.device = 'openvino'",
        library.display()
    ))?;
    for file in files.iter().step_by(4) {
        check_detect_garments(&mut client, name_of(file)?, &fs::read(file)?)?;
    }

    // A box at the threshold may be found by one alone, and boxes differ by a pixel or two, and so do crops.
    let row = client.query_one(
        "WITH pair AS (
           SELECT a.embedding <-> b.embedding AS distance
           FROM (photo p JOIN garment a ON a.photo_id = p.id)
           FULL JOIN (by_cpu.photo q JOIN by_cpu.garment b ON b.photo_id = q.id)
             ON q.path = p.path AND b.category = a.category AND (b.box[0] <-> a.box[0]) < 12 AND (b.box[1] <-> a.box[1]) < 12)
         SELECT count(*), count(distance), percentile_cont(0.5) WITHIN GROUP (ORDER BY distance) FROM pair",
        &[],
    )?;
    let (all, both, median): (i64, i64, Option<f64>) = (row.get(0), row.get(1), row.get(2));
    let median = median.context("no garment is found by both")?;
    ensure!(
        both * 10 >= all * 9 && all >= 24 && median < 0.08,
        "{both} of {all} garments are found by both, half of them within {median}"
    );
    ensure!(median > 0.0, "both are the same: was it OpenVINO?");
    Ok(())
}

#[test]
fn search_prints_the_rows_that_plain_sql_gives() -> Result<()> {
    let shop = Shop::with_shipped_models(Cluster::shared()?, "search")?;
    fill(&shop, &drawn_photos(16)?)?;
    shop.load()?.expect(0)?;
    let mut client = shop.database.connect()?;
    let path: String = client
        .query_one(
            "SELECT p.path FROM photo p JOIN garment g ON g.photo_id = p.id WHERE g.category <> 'photo'
             GROUP BY p.path ORDER BY count(*) DESC, p.path LIMIT 1",
            &[],
        )?
        .get(0);
    let query = shop.photos().join(&path);
    let bytes = fs::read(&query)?;
    let expected = client.query(
        "SELECT q.category, near.sku, near.path, near.distance
         FROM detect_garments($1) AS q, LATERAL (
           SELECT g.sku, p.path, g.embedding <-> q.embedding AS distance FROM garment g JOIN photo p ON p.id = g.photo_id
           WHERE g.category = q.category ORDER BY g.embedding <-> q.embedding LIMIT 3) AS near",
        &[&bytes],
    )?;
    ensure!(!expected.is_empty(), "no garment in {path}");

    let query = query.to_str().context("a path in UTF-8")?;
    let html = ["--html", "sheet.html", "--root", "photos", "-k", "3", "-v"];
    let outcome = shop.run(["search", query].iter().chain(&html))?.expect(0)?;
    let outcome = outcome.expect_stderr(&[
        "ORDER BY g.embedding <-> $1 LIMIT 3",
        "WHERE g.category = $2",
    ])?;
    let printed: Vec<Vec<&str>> = outcome
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| {
            fields
                .first()
                .is_some_and(|rank| rank.parse::<usize>().is_ok())
        })
        .collect();
    ensure!(printed.len() == expected.len(), "{outcome}");
    for (row, fields) in expected.iter().zip(&printed) {
        let (category, sku, path): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        ensure!(
            fields[1] == sku && fields[3] == category && fields[5] == path,
            "{fields:?}: {outcome}"
        );
        let distance: f64 = fields[2].parse()?;
        ensure!(
            (distance - row.get::<_, f64>(3)).abs() < 2e-3,
            "{fields:?}: {outcome}"
        );
    }
    ensure!(
        printed[0][2] == "0.0000",
        "a photo of the catalogue finds itself: {outcome}"
    );

    let sheet = fs::read_to_string(shop.path("sheet.html"))?;
    for row in &expected {
        ensure!(
            sheet.contains(row.get::<_, &str>(1)),
            "{} is missing",
            row.get::<_, &str>(1)
        );
    }
    ensure!(!sheet.contains("src=\"http") && !sheet.contains("class=\"missing\""));
    ensure!(sheet.matches("data:image/jpeg").count() > expected.len());
    Ok(())
}

#[test]
fn search_works_where_photos_are_gone_and_where_nothing_is_loaded() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "gone_photos")?;
    let file = shop.put("a.bmp", &sql_support::bmp(16, 16, [255, 0, 0]))?;
    let query = file.to_str().context("a path in UTF-8")?.to_owned();
    let early = shop.run(["search", &query])?.expect(1)?;
    early.expect_stderr(&["there is no table", "lookbook load"])?;
    shop.load()?.expect(0)?;
    let outcome = shop.run([
        "search",
        &query,
        "--root",
        "elsewhere",
        "--html",
        "sheet.html",
    ])?;
    outcome
        .expect(0)?
        .expect_stdout(&["upper (shirt 0.90)", "footwear (shoe 0.80)"])?
        .expect_stderr(&[
            "2 of 2 neighbours in the contact sheet without their picture: a.bmp: not in the folder of photos; --root FOLDER",
        ])?;
    let sheet = fs::read_to_string(shop.path("sheet.html"))?;
    ensure!(sheet.contains("not in the folder of photos"));
    let lower = shop
        .run(["search", &query, "--category", "lower"])?
        .expect(0)?;
    lower.expect_stdout(&["whole photo", "no garment of category lower"])?;
    shop.run(["search", &query, "--category", "shirt"])?
        .expect(1)?
        .expect_stderr(&[
            "'shirt'",
            "upper, lower, full_body, footwear, accessory, photo",
        ])?;
    let nowhere = shop.run(["search", &query, "--html", "no/such/folder/x.html"])?;
    let nowhere = nowhere.expect(1)?;
    ensure!(
        nowhere.stdout.is_empty()
            && nowhere
                .stderr
                .contains("cannot write no/such/folder/x.html"),
        "{nowhere}"
    );
    shop.put("text.jpg", b"a text")?;
    let text = shop.run(["search", "photos/text.jpg"])?.expect(1)?;
    text.expect_stderr(&["cannot use photos/text.jpg", "not an image"])?;
    Ok(())
}

#[test]
fn a_reader_who_goes_away_costs_no_file_and_no_exit_code() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "reader_gone")?;
    for name in ["a.bmp", "b.bmp"] {
        shop.put(
            name,
            &sql_support::bmp(16, 16, [255, 0, name.as_bytes()[0]]),
        )?;
    }
    shop.put("text.jpg", b"a text")?;
    let unread = |args: &[&str]| -> Result<loader_support::Outcome> {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let both = writer.try_clone()?;
        let mut command = shop.lookbook(args)?;
        command.stdout(writer);
        if args.contains(&"--log-format=json") {
            command.stderr(both);
        }
        loader_support::Outcome::of(&mut command)
    };
    unread(&["load", "photos", "--progress=json", "--log-format=json"])?.expect(2)?;
    unread(&["load", "photos"])?.expect(2)?;
    ensure!(shop.photo_count()? == 2);
    let photos = ["photos/a.bmp", "photos/b.bmp"];
    let html = ["--html", "sheet.html", "--root", "photos"];
    unread(&[&["search"], &photos[..], &html].concat())?.expect(0)?;
    let sheet = fs::read_to_string(shop.path("sheet.html"))?;
    assert_eq!(
        ["<main>", "<section>"].map(|part| sheet.matches(part).count()),
        [1, 2]
    );
    unread(&[&["detect"], &photos[..], &["--out-dir", "out"]].concat())?.expect(0)?;
    for name in ["a", "b"] {
        ensure!(shop.path(&format!("out/{name}.detected.png")).exists());
    }
    // Who only lists need not go on.
    let list = [&["search"], &photos[..], &["photos/text.jpg"]].concat();
    unread(&list)?.expect(0)?;
    Ok(())
}

#[test]
fn detect_draws_its_boxes_into_a_png_with_and_without_a_database() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "detect")?;
    shop.put("a.bmp", &sql_support::bmp(200, 100, [10, 10, 10]))?;
    shop.put("text.jpg", b"a text")?;
    let drawn = shop
        .run(["detect", "photos/a.bmp", "--out", "a.png"])?
        .expect(0)?;
    drawn.expect_stdout(&[
        "2 garments (200 x 100)",
        "upper",
        "shirt",
        "0.90",
        "0,0 to 100,100",
    ])?;
    let picture = image::open(shop.path("a.png"))?.to_rgb8();
    assert_eq!(picture.dimensions(), (200, 100));
    ensure!(
        picture.get_pixel(0, 99).0 == [230, 159, 0],
        "the box of upper is drawn"
    );
    ensure!(
        picture.get_pixel(50, 60).0 == [10, 10, 10],
        "inside a box the photo stays"
    );

    let partial = shop
        .run([
            "detect",
            "photos/text.jpg",
            "photos/a.bmp",
            "--out-dir",
            "out",
        ])?
        .expect(2)?;
    partial.expect_stderr(&["photos/text.jpg", "not an image"])?;
    ensure!(shop.path("out/a.detected.png").exists());
    shop.run(["detect", "photos/text.jpg"])?.expect(1)?;

    shop.run(["model", "export", "boxes", "--out", "models"])?
        .expect(0)?;
    let nowhere = "postgresql://nobody@localhost:1/none";
    let mut alone = shop.lookbook([
        "detect",
        "photos/a.bmp",
        "--model-file",
        "models/boxes.onnx",
    ])?;
    let alone = loader_support::Outcome::of(alone.env("LOOKBOOK_DATABASE", nowhere))?;
    alone.expect(0)?.expect_stdout(&["2 garments"])?;
    // Either file stands for the model, as for `model check`.
    shop.run([
        "detect",
        "photos/a.bmp",
        "--model-file",
        "models/boxes.json",
    ])?
    .expect(0)?
    .expect_stdout(&["2 garments"])?;
    Ok(())
}

#[test]
fn detect_never_draws_over_a_photo() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "detect_over")?;
    let before = sql_support::bmp(200, 100, [10, 10, 10]);
    shop.put("a.png", &before)?;
    shop.put("a.detected.png", &before)?;
    let over = "is one of the photos and would be overwritten";
    for (args, part) in [
        (vec!["photos/a.png", "--out", "photos/a.png"], over),
        (
            vec!["photos/a.png", "--out", "photos/../photos/a.png"],
            over,
        ),
        (
            vec!["photos/a.png", "--out", "a.jpg"],
            "a.jpg does not end in .png",
        ),
        (
            vec![
                "photos/a.png",
                "photos/a.detected.png",
                "--out-dir",
                "photos",
            ],
            "photos/a.detected.png is one of the photos",
        ),
    ] {
        let args = ["detect"].into_iter().chain(args);
        shop.run(args)?.expect(1)?.expect_stderr(&[part])?;
    }
    for name in ["photos/a.png", "photos/a.detected.png"] {
        ensure!(fs::read(shop.path(name))? == before, "{name} was written");
    }
    ensure!(!shop.path("a.jpg").exists());
    Ok(())
}
