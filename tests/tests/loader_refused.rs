//! What a shop's own table refuses, changes or drops costs the photos that it is of, and nothing else.

mod loader_support;
mod sql_support;

use std::fs;

use anyhow::{Result, ensure};
use loader_support::Shop;
use lookbook_tests::Cluster;
use sql_support::bmp;

const RED: [u8; 3] = [255, 0, 0];

#[test]
fn one_photo_that_a_constraint_or_a_trigger_of_the_shop_refuses_costs_itself_only() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "into_constraints")?;
    shop.put_many(16)?;
    // A key of two columns is not looked up beforehand; two garments of one category cannot share a key here.
    shop.database.psql(
        "CREATE TABLE product (shop int, sku text, PRIMARY KEY (shop, sku));
         INSERT INTO product SELECT 1, to_char(n, 'FM00000') FROM generate_series(0, 15) n WHERE n <> 3;
         CREATE TABLE look (shop int NOT NULL DEFAULT 1, key text, sku text, category text, embedding embedding(3),
           FOREIGN KEY (shop, sku) REFERENCES product, CHECK (key <> '00005.bmp'), UNIQUE (sku, category));
         CREATE FUNCTION no_nine() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN IF NEW.key = '00009.bmp' THEN RAISE EXCEPTION 'nine is out of stock'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER no_nine BEFORE INSERT ON look FOR EACH ROW EXECUTE FUNCTION no_nine();
         INSERT INTO look (key, sku, category) VALUES ('of the shop', '00011', 'upper')",
    )?;
    let load = || shop.run(["load", "photos", "--into", "look"]);
    load()?
        .expect(2)?
        .expect_stdout(&["loaded 12 photos with 24 garments", "4 rejected"])?;
    let mut rejects = shop.rejects()?;
    rejects.sort();
    let reasons = [
        ("00003.bmp", "violates foreign key constraint"),
        ("00005.bmp", "violates check constraint"),
        ("00009.bmp", "nine is out of stock"),
        (
            "00011.bmp",
            "duplicate key value violates unique constraint",
        ),
    ];
    ensure!(rejects.len() == reasons.len(), "{rejects:?}");
    for ([path, code, reason], (of, part)) in rejects.iter().zip(reasons) {
        ensure!(
            path == of && code == "row_refused" && reason.contains(part),
            "{path} {code} {reason}"
        );
    }
    let rows = "SELECT count(DISTINCT key), count(*) FROM look WHERE embedding IS NOT NULL; SELECT count(*) FROM look_photo";
    ensure!(shop.database.psql(rows)? == "12|24\n12");
    shop.database
        .psql("DELETE FROM look WHERE key = 'of the shop'")?;
    load()?.expect(2)?.expect_stdout(&[
        "loaded 1 photo with 2 garments",
        "12 skipped",
        "3 rejected",
    ])?;
    Ok(())
}

#[test]
fn whatever_a_value_is_refused_for_costs_its_photo_only() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "into_any_refusal")?;
    let mut client = shop.database.connect()?;
    shop.put_many(20)?;
    let long = format!("{}.bmp", "n".repeat(200));
    for (rule, code) in [
        (
            "RAISE EXCEPTION 'embargoed' USING ERRCODE = 'SH001'",
            "embargoed",
        ),
        ("PERFORM 1 / 0", "division by zero"),
        ("PERFORM 'x'::int", "invalid input syntax for type integer"),
    ] {
        client.batch_execute(&format!(
            "DROP TABLE IF EXISTS look, look_photo;
             CREATE TABLE look (key text, embedding embedding(3)); CREATE INDEX ON look (key);
             CREATE OR REPLACE FUNCTION rule() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN IF NEW.key ~ '00003' THEN {rule}; END IF; RETURN NEW; END $$;
             CREATE TRIGGER rule BEFORE INSERT ON look FOR EACH ROW EXECUTE FUNCTION rule()"
        ))?;
        shop.run(["load", "photos", "--into", "look"])?
            .expect(2)?
            .expect_stdout(&["loaded 19 photos", "1 rejected"])?;
        let [path, found, reason] = &shop.rejects()?[0];
        ensure!(
            path == "00003.bmp" && found == "row_refused" && reason.contains(code),
            "{path} {found} {reason}"
        );
    }
    // A path that no index entry holds, in the loader's own list.
    client.batch_execute("DROP TABLE look, look_photo; CREATE TABLE look (key text, embedding embedding(3)); CREATE INDEX ON look (key)")?;
    let names: String = (0..40)
        .map(|n| format!("{n}{}/", "x".repeat(n * 3)))
        .collect();
    fs::write(
        shop.path("list.csv"),
        format!(
            "file,id\nphotos/00001.bmp,a\nphotos/00002.bmp,{long}\nphotos/00003.bmp,{}\n",
            scrambled(&names)
        ),
    )?;
    shop.run([
        "load",
        "list.csv",
        "--map",
        "image=file,key=id",
        "--into",
        "look",
    ])?
    .expect(2)?
    .expect_stdout(&["loaded 2 photos", "1 rejected"])?;
    ensure!(shop.rejects()?[0][1] == "row_refused");
    Ok(())
}

#[test]
fn a_photo_whose_rows_a_trigger_changes_or_drops_is_refused_and_keeps_what_it_had() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "into_triggers")?;
    shop.put_many(12)?;
    shop.put("Photo_A.bmp", &bmp(8, 8, RED))?;
    shop.database.psql(
        "CREATE TABLE look (key text, embedding embedding(3)); CREATE INDEX ON look (key);
         CREATE FUNCTION lowered() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN NEW.key := lower(NEW.key); RETURN CASE WHEN NEW.key < '00003.bmp' THEN NULL ELSE NEW END; END $$;
         CREATE TRIGGER lowered BEFORE INSERT ON look FOR EACH ROW EXECUTE FUNCTION lowered()",
    )?;
    let load = || shop.run(["load", "photos", "--into", "look"]);
    let counts = "SELECT count(*), count(DISTINCT key) FROM look; SELECT count(*) FROM look_photo";
    load()?
        .expect(2)?
        .expect_stdout(&["loaded 13 photos with 26 garments", "4 rejected"])?;
    let mut rejects = shop.rejects()?;
    rejects.sort();
    let paths: Vec<&str> = rejects.iter().map(|[path, ..]| path.as_str()).collect();
    assert_eq!(
        paths,
        ["00000.bmp", "00001.bmp", "00002.bmp", "Photo_A.bmp"]
    );
    for [path, code, reason] in &rejects {
        ensure!(
            code == "row_refused"
                && reason.contains("a trigger changed or dropped it: 0 of its 2 rows"),
            "{path} {code} {reason}"
        );
    }
    assert_eq!(shop.database.psql(counts)?, "26|13\n13");
    load()?
        .expect(2)?
        .expect_stdout(&["loaded 0 photos", "13 skipped", "4 rejected"])?;
    assert_eq!(shop.database.psql(counts)?, "26|13\n13");
    Ok(())
}

#[test]
fn a_photo_whose_rows_the_shop_does_not_let_go_keeps_them_and_gets_no_others() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "into_kept")?;
    shop.put_many(16)?;
    shop.database.psql(
        "CREATE TABLE look (key text, embedding embedding(3)); CREATE INDEX ON look (key);
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           RETURN CASE WHEN OLD.key <= '00001.bmp' THEN NULL ELSE OLD END; END $$;
         CREATE TRIGGER keep BEFORE DELETE ON look FOR EACH ROW EXECUTE FUNCTION keep()",
    )?;
    shop.run(["load", "photos", "--into", "look"])?.expect(0)?;
    let counts = "SELECT count(*), count(DISTINCT key) FROM look; SELECT count(*) FROM look_photo";
    assert_eq!(shop.database.psql(counts)?, "32|16\n16");
    for name in ["00001.bmp", "00002.bmp"] {
        shop.put(name, &bmp(9, 9, RED))?;
    }
    shop.run(["load", "photos", "--into", "look"])?
        .expect(2)?
        .expect_stdout(&["1 replaced", "1 rejected"])?;
    let [[path, code, reason]] = &shop.rejects()?[..] else {
        anyhow::bail!("other rejects")
    };
    ensure!(
        path == "00001.bmp" && code == "row_refused",
        "{path} {code}"
    );
    ensure!(
        reason.contains("keeps rows of it that were to be deleted"),
        "{reason}"
    );
    assert_eq!(shop.database.psql(counts)?, "32|16\n16");
    for name in ["00000.bmp", "00003.bmp"] {
        fs::remove_file(shop.photos().join(name))?;
    }
    shop.run([
        "sync",
        "photos",
        "--into",
        "look",
        "--prune",
        "--prune-limit",
        "0.5",
    ])?
    .expect(2)?
    .expect_stderr(&["kept 1 photo gone from the source", "keeps rows of it"])?;
    assert_eq!(shop.database.psql(counts)?, "30|15\n15");
    Ok(())
}

#[test]
fn a_table_from_which_another_inherits_is_refused() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "into_heirs")?;
    shop.put_many(1)?;
    shop.database.psql(
        "CREATE TABLE par (key text, embedding embedding(3)); CREATE TABLE kid () INHERITS (par)",
    )?;
    shop.run(["load", "photos", "--into", "par"])?
        .expect(1)?
        .expect_stderr(&["kid inherits from it"])?;
    shop.run(["load", "photos", "--into", "kid"])?.expect(0)?;
    Ok(())
}

/// Text of some thousands of characters that does not compress.
fn scrambled(seed: &str) -> String {
    let mut state: u64 = seed.len() as u64 + 1;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(b'a' + u8::try_from((state >> 33) % 26).unwrap_or(0))
    };
    (0..6_000).map(next).collect()
}
