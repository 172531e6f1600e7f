//! A source that says which category its products are of: what is worn with a product is not taken for it.

mod loader_support;
mod sql_support;

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use loader_support::Shop;
use lookbook_tests::{Cluster, check_output};
use sql_support::{bmp, detector_manifest, import, onnx};

const MAP: &[&str] = &["--map", "sells=kind"];
const LOAD: &[&str] = &["load", "list.csv", "--map", "sells=kind"];
const GARMENTS: &str =
    "SELECT p.sku, p.sells, g.sku, g.category, g.label, g.score IS NOT NULL, g.box
     FROM photo p JOIN garment g ON g.photo_id = p.id ORDER BY p.path, g.category, g.label";

/// Four photos in which the tiny detector finds a shirt and a shoe, and a list that says what they sell.
fn shop(name: &str) -> Result<Shop<'static>> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, name)?;
    for (name, colour) in [("a", 10), ("b", 20), ("c", 30), ("d", 40)] {
        shop.put(&format!("{name}.bmp"), &bmp(16, 16, [255, colour, 0]))?;
    }
    fs::write(
        shop.path("list.csv"),
        "path,sku,kind,price\nphotos/a.bmp,A,upper,1\nphotos/b.bmp,B,footwear,1\nphotos/c.bmp,C,lower,1\nphotos/d.bmp,D,,1\n",
    )?;
    Ok(shop)
}

#[test]
fn what_is_worn_with_a_product_has_none() -> Result<()> {
    let shop = shop("sells")?;
    shop.run(LOAD)?
        .expect(0)?
        .expect_stdout(&["loaded 4 photos with 9 garments"])?;
    let found = shop.database.psql(GARMENTS)?;
    let expected = "A|upper||footwear|shoe|t|(16,16),(8,8)
A|upper|A|upper|shirt|t|(8,16),(0,0)
B|footwear|B|footwear|shoe|t|(16,16),(8,8)
B|footwear||upper|shirt|t|(8,16),(0,0)
C|lower||footwear|shoe|t|(16,16),(8,8)
C|lower|C|lower|photo|f|(16,16),(0,0)
C|lower||upper|shirt|t|(8,16),(0,0)
D||D|footwear|shoe|t|(16,16),(8,8)
D||D|upper|shirt|t|(8,16),(0,0)";
    ensure!(found == expected, "{found}");
    ensure!(
        shop.database
            .psql("SELECT DISTINCT attributes FROM photo")?
            == "{\"price\": \"1\"}"
    );

    // Recommendations: products by what they are, and beside a garment what is worn with it.
    let recommended = shop.database.psql(
        "SELECT string_agg(product, ' ' ORDER BY product) FROM similar_products('A', NULL);
         SELECT string_agg(product, ' ' ORDER BY product) FROM nearest_products('[1,0,0]', NULL, 'footwear');
         SELECT string_agg(l.category || ' ' || l.product, ', ' ORDER BY l.product)
         FROM garment g, LATERAL complete_the_look(g.id, NULL) l WHERE g.sku = 'A'",
    )?;
    ensure!(
        recommended == "D\nB D\nfootwear B, footwear D",
        "{recommended}"
    );
    let searched = shop.run(["search", "photos/a.bmp"])?.expect(0)?;
    let ranks = searched.stdout.lines().filter_map(|line| {
        let rank = line.split_whitespace().next()?;
        rank.parse::<u32>().ok()
    });
    ensure!(ranks.count() == 4, "A and D, B and D: {searched}");

    shop.run(LOAD)?.expect(0)?.expect_stdout(&["4 skipped"])?;
    let list = fs::read_to_string(shop.path("list.csv"))?;
    fs::write(
        shop.path("list.csv"),
        list.replace("C,lower", "C,upper")
            .replace("D,,", "D,upper,"),
    )?;
    shop.run(LOAD)?
        .expect(0)?
        .expect_stdout(&["(2 replaced)", "2 skipped"])?;
    let sold = shop
        .database
        .psql("SELECT string_agg(sku || ' ' || category, ', ' ORDER BY sku) FROM garment")?;
    ensure!(sold == "A upper, B footwear, C upper, D upper", "{sold}");
    Ok(())
}

#[test]
fn a_garment_that_the_source_knows_of_may_have_a_low_score() -> Result<()> {
    let shop = shop("sells_score")?;
    let mut client = shop.database.connect()?;
    let model = onnx::detector();
    let mut manifest = detector_manifest(&mut client, "strict", &model)?;
    manifest["output"]["score_threshold"] = 0.85.into();
    import(&mut client, "strict", &manifest, &model)?;
    let strict = |args: &[&str]| {
        shop.run([args, &["--detect-model", "strict"]].concat())?
            .expect(0)
    };
    // The shoe, with 0.8, is none but where it is known to be there.
    strict(LOAD)?;
    let found = shop.database.psql(GARMENTS)?;
    let expected = "A|upper|A|upper|shirt|t|(8,16),(0,0)
B|footwear|B|footwear|shoe|t|(16,16),(8,8)
B|footwear||upper|shirt|t|(8,16),(0,0)
C|lower|C|lower|photo|f|(16,16),(0,0)
C|lower||upper|shirt|t|(8,16),(0,0)
D||D|upper|shirt|t|(8,16),(0,0)";
    ensure!(found == expected, "{found}");
    Ok(())
}

#[test]
fn every_kind_of_list_may_say_it_and_a_wrong_word_is_found() -> Result<()> {
    let shop = shop("sells_sources")?;
    shop.run(LOAD)?.expect(0)?;
    let expected = shop.database.psql(GARMENTS)?;
    shop.database.psql(
        "CREATE TABLE image (id text, sku text, kind text, file text);
         INSERT INTO image SELECT path, sku, sells, path FROM photo;
         TRUNCATE photo, garment",
    )?;
    let from_sql = "SELECT id, sku, kind, file AS image FROM image";
    let query = |verb| [&[verb, "--from-sql", from_sql], MAP].concat();
    shop.run(query("load"))?.expect(0)?;
    let found = shop.database.psql(GARMENTS)?;
    ensure!(found == expected, "{found}");
    shop.database
        .psql("UPDATE image SET kind = 'Shoes' WHERE sku = 'B'")?;
    shop.run(query("load"))?
        .expect(2)?
        .expect_stdout(&["3 skipped", "1 rejected"])?;
    let [path, code, reason] = &shop.rejects()?[0];
    ensure!(
        path == "photos/b.bmp"
            && code == "category_invalid"
            && reason.contains("they are upper, lower, full_body, footwear, accessory"),
        "{path} {code} {reason}"
    );

    fs::write(
        shop.photos().join("a.json"),
        r#"{"sku": "A", "kind": "upper"}"#,
    )?;
    fs::write(shop.photos().join("b.json"), r#"{"kind": "Shoes"}"#)?;
    check_output(Command::new("tar").current_dir(shop.path("")).args([
        "-cf",
        "shard.tar",
        "photos/a.bmp",
        "photos/a.json",
        "photos/b.bmp",
        "photos/b.json",
    ]))?;
    shop.database.psql("TRUNCATE photo, garment")?;
    shop.run([&["load", "shard.tar"], MAP].concat())?
        .expect(2)?;
    let found = shop.database.psql(GARMENTS)?;
    ensure!(
        found == expected.lines().take(2).collect::<Vec<_>>().join("\n"),
        "{found}"
    );
    ensure!(shop.rejects()?[0][1] == "category_invalid");

    let list = fs::read_to_string(shop.path("list.csv"))?;
    fs::write(shop.path("list.csv"), list.replace("B,footwear", "B,shoes"))?;
    shop.run(LOAD)?.expect(1)?.expect_stderr(&[
        "list.csv",
        "line 3",
        "\"shoes\" is no category; they are upper, lower, full_body, footwear, accessory",
    ])?;
    shop.run(["load", "list.csv", "--map", "sells=other"])?
        .expect(1)?
        .expect_stderr(&["no column named other; the columns are path, sku, kind, price"])?;
    Ok(())
}

#[test]
fn a_table_of_the_shop_has_to_have_room_for_garments_of_no_product() -> Result<()> {
    let shop = shop("sells_into")?;
    shop.database.psql(
        "CREATE TYPE garment_kind AS ENUM ('upper', 'footwear', 'photo');
         CREATE TABLE look (key text, sku text NOT NULL, category text, embedding embedding(3));
         CREATE INDEX ON look (key)",
    )?;
    let load = || shop.run([LOAD, &["--into", "look"]].concat());
    load()?.expect(1)?.expect_stderr(&[
        "\"public\".\"look\".\"sku\" is NOT NULL",
        "ALTER TABLE \"public\".\"look\" ALTER COLUMN \"sku\" DROP NOT NULL",
    ])?;
    shop.database.psql(
        "ALTER TABLE look ALTER COLUMN sku DROP NOT NULL, ALTER COLUMN category TYPE garment_kind USING category::garment_kind",
    )?;
    load()?
        .expect(1)?
        .expect_stderr(&["lacks lower, full_body, accessory"])?;
    shop.database
        .psql("ALTER TABLE look ALTER COLUMN category TYPE text USING category::text")?;
    load()?.expect(0)?;
    let found = shop.database.psql(
        "SELECT key, sku, category FROM look WHERE sku IS NOT NULL OR key ~ 'a' ORDER BY key, category",
    )?;
    let expected = "photos/a.bmp||footwear
photos/a.bmp|A|upper
photos/b.bmp|B|footwear
photos/c.bmp|C|lower
photos/d.bmp|D|footwear
photos/d.bmp|D|upper";
    ensure!(found == expected, "{found}");
    Ok(())
}
