//! Rows of the loader in a shop's own tables, with its keys.

mod loader_support;
mod sql_support;

use std::fs;

use anyhow::{Result, ensure};
use loader_support::{Outcome, Shop};
use lookbook_tests::Cluster;
use postgres::Client;
use sql_support::bmp;

const RED: [u8; 3] = [255, 0, 0];
const GREEN: [u8; 3] = [0, 255, 0];

/// A shop whose photos sit in a table, with numbers for keys, and a table that refers to them.
const SHOP: &str = r#"
    CREATE TABLE product (id bigint PRIMARY KEY, name text);
    INSERT INTO product SELECT n, 'article ' || n FROM generate_series(1, 9) n;
    CREATE TABLE product_image (id int PRIMARY KEY, product_id bigint, data bytea);
    CREATE SCHEMA "Web";
    CREATE TABLE "Web"."product look" (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      image_id int NOT NULL REFERENCES product_image ON DELETE CASCADE,
      product_id bigint NOT NULL REFERENCES product ON DELETE CASCADE,
      kind varchar(20), place box, certainty double precision, look embedding(3), extra jsonb, made_by text,
      seen_at timestamptz NOT NULL DEFAULT now());
    CREATE INDEX ON "Web"."product look" (image_id)"#;
const INTO: &[&str] = &[
    "--into",
    r#""Web"."product look""#,
    "--into-map",
    "key=image_id,sku=product_id,category=kind,box=place,score=certainty,embedding=look,attributes=extra,embed_model=made_by",
];
const QUERY: &str =
    "SELECT id, product_id AS sku, data AS image, 'studio' AS light FROM product_image ORDER BY id";

fn from_sql<'a>(verb: &'a str, target: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec![verb, "--from-sql", QUERY];
    args.extend(target);
    args
}

fn put_image(client: &mut Client, id: i32, product: i64, colour: [u8; 3]) -> Result<()> {
    client.execute(
        "INSERT INTO product_image VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET data = EXCLUDED.data",
        &[&id, &product, &bmp(16, 16, colour)],
    )?;
    Ok(())
}

/// The rows of the shop's table are those that the loader's own tables get from the same source.
fn expect_as_own(shop: &Shop<'_>, looks: &str) -> Result<()> {
    shop.database.psql("DROP SCHEMA IF EXISTS own CASCADE")?;
    shop.run(from_sql("load", &["--schema", "own", "--no-index"]))?;
    let own = "SELECT p.path::int, g.sku::bigint, g.category, g.box::text, g.score::float8, g.embedding::text, p.attributes,
                 p.embed_model FROM own.garment g JOIN own.photo p ON p.id = g.photo_id";
    let differences = shop.database.psql(&format!(
        "SELECT (SELECT count(*) FROM ({looks} EXCEPT ALL {own}) a), (SELECT count(*) FROM ({own} EXCEPT ALL {looks}) b),
           (SELECT count(*) > 0 FROM ({looks}) c)"
    ))?;
    ensure!(differences == "0|0|t", "{differences}");
    Ok(())
}

const LOOKS: &str = r#"SELECT image_id, product_id, kind::text, place::text, certainty, look::text, extra, made_by FROM "Web"."product look""#;

#[test]
fn garments_go_into_a_table_of_the_shop_under_its_keys() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "into")?;
    let mut client = shop.database.connect()?;
    client.batch_execute(SHOP)?;
    for id in 1..=6 {
        put_image(&mut client, id, id.into(), RED)?;
    }
    // A product that is not there, in a source that knows no foreign key.
    put_image(&mut client, 7, 404, RED)?;
    let load = || shop.run(from_sql("load", INTO));
    let mut dry = from_sql("load", INTO);
    dry.push("--dry-run");
    shop.run(dry)?
        .expect(2)?
        .expect_stdout(&["would load 6 photos with 12 garments", "1 rejected"])?;
    ensure!(
        shop.database
            .psql("SELECT to_regclass('\"Web_product look_photo\"')")?
            .is_empty()
    );
    load()?.expect(2)?.expect_stdout(&[
        "loaded 6 photos with 12 garments",
        "1 rejected",
        "no index yet, searches are exact; the table's owner may run: CREATE INDEX CONCURRENTLY ON \"Web\".\"product look\" \
         USING lookbook (\"look\", \"kind\")",
    ])?;
    let [path, code, reason] = &shop.rejects()?[0];
    ensure!(
        path == "7" && code == "sku_unknown" && reason.contains("product has no row whose id is"),
        "{path} {code} {reason}"
    );
    client.batch_execute("DELETE FROM product_image WHERE id = 7")?;
    expect_as_own(&shop, LOOKS)?;
    load()?
        .expect(0)?
        .expect_stdout(&["loaded 0 photos", "6 skipped"])?;

    // A changed photo, one whose rows the shop deleted, one that is gone, one that is new.
    put_image(&mut client, 1, 1, GREEN)?;
    client.batch_execute(
        r#"DELETE FROM "Web"."product look" WHERE image_id = 2; DELETE FROM product_image WHERE id = 3"#,
    )?;
    put_image(&mut client, 8, 8, GREEN)?;
    let mut sync = from_sql("sync", INTO);
    sync.extend(["--prune", "--prune-limit", "0.5"]);
    shop.run(sync)?.expect(0)?.expect_stdout(&[
        "loaded 3 photos with 6 garments (2 replaced)",
        "deleted 1 photo gone from the source",
    ])?;
    expect_as_own(&shop, LOOKS)?;

    let recorded = shop.database.psql(
        "SELECT string_agg(verb || ' ' || status || ' ' || loaded || ' ' || rejected, ', ' ORDER BY id) FROM lookbook_run;
         SELECT relation, attribute, model_name FROM lookbook_embedding_column WHERE relation::text LIKE '%look%'",
    )?;
    ensure!(
        recorded
            == "load partial 6 1, load complete 0 0, sync complete 3 0\n\"Web\".\"product look\"|look|mean",
        "{recorded}"
    );
    shop.put("query.bmp", &bmp(16, 16, GREEN))?;
    let mut search = vec!["search", "photos/query.bmp", "-k", "2"];
    search.extend(INTO);
    let found = shop.run(search)?.expect(0)?;
    found.expect_stdout(&["upper", "footwear", " 8 "])?;
    Ok(())
}

#[test]
fn a_mapping_that_cannot_work_is_refused_with_the_column_its_type_and_what_would_be_right()
-> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "into_refused")?;
    shop.put_many(16)?;
    let cases: [(&str, &str, &[&str]); 14] = [
        ("", "", &["there is no such table"]),
        (
            "CREATE VIEW look AS SELECT 1 AS key",
            "",
            &["it is no table"],
        ),
        (
            "CREATE TABLE look (file text, v embedding(3))",
            "key=file",
            &["no column for the vectors", "the columns are file, v"],
        ),
        (
            "CREATE TABLE look (file text, embedding embedding(3))",
            "",
            &[
                "no column says of which photo a row is",
                "--into-map key=COLUMN",
            ],
        ),
        (
            "CREATE TABLE look (key text, embedding real[])",
            "",
            &[
                "\"public\".\"look\".embedding is of type real[], the embedding needs embedding, or pgvector's vector",
            ],
        ),
        (
            "CREATE TABLE look (key text, embedding embedding(4))",
            "",
            &["is embedding(4), the model gives 3 dimensions"],
        ),
        (
            "CREATE TABLE look (key text, embedding embedding(3), label int)",
            "",
            &[
                "label is of type integer, the label needs text, varchar or an enum (--into-map label= leaves it out",
            ],
        ),
        (
            "CREATE TABLE look (key text, embedding embedding(3), season text NOT NULL)",
            "",
            &["season (text) is NOT NULL, has no default and no role"],
        ),
        (
            "CREATE TABLE look (key text PRIMARY KEY, embedding embedding(3))",
            "",
            &["(key) is unique, but there is one row for each garment"],
        ),
        (
            "CREATE TABLE look (key text, embedding embedding(3), category varchar(5))",
            "",
            &["category takes 5 characters, and the detector may find \"footwear\": ALTER TABLE"],
        ),
        (
            "CREATE TABLE look (key text, embedding embedding(3), detect_model varchar(40))",
            "",
            &["detect_model takes 40 characters, the detect_model has 64"],
        ),
        (
            "CREATE TABLE look (key text, embedding embedding(3), score real NOT NULL)",
            "",
            &["score is NOT NULL, but a photo in which nothing was found has none"],
        ),
        (
            // As one of ICU is that takes A for a, which not every server is built with.
            "CREATE COLLATION loose (locale = 'C'); \
             UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'loose'; \
             CREATE TABLE look (key text COLLATE loose, embedding embedding(3))",
            "",
            &["look\".key has a collation by which keys that differ may be equal"],
        ),
        (
            "CREATE TABLE look (key text, embedding embedding(3)); INSERT INTO look VALUES ('x', '[1,2,3]')",
            "",
            &[
                "holds vectors already, and nobody recorded of which model",
                "INSERT INTO public.lookbook_embedding_column",
            ],
        ),
    ];
    for (ddl, map, expected) in cases {
        shop.database.psql(ddl)?;
        let mut args = vec!["load", "photos", "--into", "look"];
        if !map.is_empty() {
            args.extend(["--into-map", map]);
        }
        let refused = shop.run(args)?.expect(1)?;
        refused.expect_stderr(expected)?;
        let drop = if ddl.starts_with("CREATE VIEW") {
            "DROP VIEW look"
        } else {
            "DROP TABLE IF EXISTS look"
        };
        shop.database.psql(drop)?;
    }
    shop.run(["load", "photos", "--into", "look", "--into-map", "image=x"])?
        .expect(1)?
        .expect_stderr(&["there is no role \"image\" in a target; the roles are key"])?;
    ensure!(
        shop.database
            .psql("SELECT to_regclass('look_photo')")?
            .is_empty()
    );
    Ok(())
}

#[test]
fn a_table_is_not_filled_a_second_time_by_another_list_of_photos() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "into_lists")?;
    shop.put_many(16)?;
    shop.database.psql(
        "CREATE SCHEMA web; CREATE SCHEMA reco;
         CREATE TABLE web.look (key text, embedding embedding(3)); CREATE INDEX ON web.look (key);
         CREATE TABLE web_look (key text, embedding embedding(3)); CREATE INDEX ON web_look (key)",
    )?;
    let load = |into: &str, more: &[&str]| {
        let args = ["load", "photos", "--into", into];
        shop.run(args.iter().chain(more))
    };
    load("web.look", &[])?.expect(0)?;
    // Two tables whose lists would have one name; another list of one table; a new name.
    load("web_look", &[])?.expect(1)?.expect_stderr(&[
        "\"public\".\"web_look_photo\" lists the photos of \"web\".\"look\"",
        "--schema NAME",
    ])?;
    for more in [&[][..], &["--dry-run"]] {
        let elsewhere = [&["--schema", "reco"], more].concat();
        load("web.look", &elsewhere)?.expect(1)?.expect_stderr(&[
            "are listed in \"public\".\"web_look_photo\" already",
            "name its schema with --schema public",
        ])?;
    }
    shop.database.psql("ALTER TABLE web.look RENAME TO looks")?;
    let mend = "ALTER TABLE \"public\".\"web_look_photo\" RENAME TO \"web_looks_photo\"";
    load("web.looks", &[])?.expect(1)?.expect_stderr(&[mend])?;
    shop.database.psql(mend)?;
    load("web.looks", &[])?
        .expect(0)?
        .expect_stdout(&["16 skipped"])?;
    load("web_look", &[])?.expect(0)?;
    // A dump keeps names and no oids; a list of an earlier release says nothing and is taken over.
    for comment in ["'lookbook: photos of \"web\".\"looks\", oid 1'", "NULL"] {
        shop.database
            .psql(&format!("COMMENT ON TABLE web_looks_photo IS {comment}"))?;
        load("web.looks", &[])?
            .expect(0)?
            .expect_stdout(&["16 skipped"])?;
        let said = "SELECT obj_description('web_looks_photo'::regclass) = format('lookbook: photos of \"web\".\"looks\", oid %s', 'web.looks'::regclass::oid)";
        assert_eq!(shop.database.psql(said)?, "t");
    }
    Ok(())
}

#[test]
fn the_index_that_is_suggested_can_be_made() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "into_parts")?;
    shop.put_many(16)?;
    shop.database.psql(
        "CREATE TABLE look (key text, embedding embedding) PARTITION BY HASH (key);
         CREATE TABLE look_0 PARTITION OF look FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
    )?;
    let by_key = "CREATE INDEX ON \"public\".\"look\" (\"key\")";
    let widen =
        "ALTER TABLE \"public\".\"look\" ALTER COLUMN \"embedding\" TYPE embedding(DIMENSIONS)";
    let index = "CREATE INDEX ON \"public\".\"look\" USING lookbook (\"embedding\")";
    shop.run(["load", "photos", "--into", "look"])?
        .expect(0)?
        .expect_stderr(&[by_key])?
        .expect_stdout(&[&format!("{widen}, which an index needs; {index}")])?;
    let widen = widen.replace("DIMENSIONS", "3");
    shop.database.psql(&format!("{by_key}; {widen}; {index}"))?;
    Ok(())
}

#[test]
fn our_tables_refer_to_the_shops_products_and_photos_of_none_are_rejects() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "references")?;
    let mut client = shop.database.connect()?;
    client.batch_execute(
        "CREATE TABLE product (sku varchar(8) PRIMARY KEY); INSERT INTO product VALUES ('A'), ('B'), ('C');
         CREATE TABLE article (number int PRIMARY KEY, name text); INSERT INTO article VALUES (1), (2)",
    )?;
    for name in ["1", "2", "3", "4"] {
        shop.put(&format!("{name}.bmp"), &bmp(16, 16, RED))?;
    }
    fs::write(
        shop.path("list.csv"),
        "path,sku\nphotos/1.bmp,A\nphotos/2.bmp,B\nphotos/3.bmp,Z\nphotos/4.bmp,far too long\n",
    )?;
    let load = |key: &str| shop.run(["load", "list.csv", "--sku-references", key]);
    for (key, reason) in [
        ("shoe(sku)", "there is no table shoe"),
        ("product(id)", "has no column id; it has sku"),
        ("article(name)", "name is not unique"),
    ] {
        load(key)?.expect(1)?.expect_stderr(&[reason])?;
    }
    load("public.product(sku)")?
        .expect(2)?
        .expect_stdout(&["loaded 2 photos with 4 garments", "2 rejected"])?;
    let rejects: Vec<String> = shop
        .rejects()?
        .into_iter()
        .map(|[path, code, _]| path + " " + &code)
        .collect();
    ensure!(
        rejects.len() == 2
            && rejects.contains(&"photos/3.bmp sku_unknown".to_owned())
            && rejects.contains(&"photos/4.bmp sku_unknown".to_owned()),
        "{rejects:?}"
    );
    // The tables know by themselves from now on; a product that goes takes its photos along.
    shop.database
        .psql("INSERT INTO product VALUES ('Z'); DELETE FROM product WHERE sku = 'A'")?;
    shop.run(["load", "list.csv"])?.expect(2)?.expect_stdout(&[
        "loaded 1 photo with 2 garments",
        "1 skipped",
        "2 rejected",
    ])?;
    let left = "SELECT string_agg(DISTINCT path || ' ' || g.sku, ', ' ORDER BY path || ' ' || g.sku) FROM photo p JOIN garment g ON g.photo_id = p.id;
                SELECT count(*) FROM pg_index WHERE indrelid = 'garment'::regclass AND pg_get_indexdef(indexrelid) LIKE '%(sku)%'";
    let left = shop.database.psql(left)?;
    ensure!(left == "photos/2.bmp B, photos/3.bmp Z\n1", "{left}");

    fs::write(
        shop.path("numbers.csv"),
        "path,sku\nphotos/1.bmp,1\nphotos/2.bmp,02\nphotos/3.bmp,3\n",
    )?;
    shop.run([
        "load",
        "numbers.csv",
        "--schema",
        "numbered",
        "--sku-references",
        "article(number)",
    ])?
    .expect(2)?
    .expect_stdout(&["loaded 1 photo with 2 garments", "2 rejected"])?;
    let found = shop
        .database
        .psql("SELECT pg_typeof(sku), sku FROM numbered.garment LIMIT 1")?;
    ensure!(found == "integer|1", "{found}");
    Ok(())
}

#[test]
fn categories_may_be_an_enum_that_has_them_all() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "into_enum")?;
    shop.put_many(16)?;
    shop.database.psql(
        "CREATE SCHEMA shop; CREATE TYPE shop.kind AS ENUM ('footwear', 'lower');
         CREATE TABLE look (key text, category shop.kind, label shop.kind, embedding embedding(3)); CREATE INDEX ON look (key)",
    )?;
    let into = ["--into", "look", "--into-map", "label="];
    let run = |args: &[&str]| shop.run(args.iter().chain(&into));
    let missing = "ALTER TYPE shop.kind ADD VALUE 'upper'; ALTER TYPE shop.kind ADD VALUE 'photo'";
    run(&["load", "photos"])?
        .expect(1)?
        .expect_stderr(&["which lacks upper, photo", missing])?;
    run(&["doctor"])?
        .expect(1)?
        .expect_stdout(&["FAILURE  tables", missing])?;
    shop.database.psql(missing)?;
    run(&["load", "photos"])?
        .expect(0)?
        .expect_stdout(&["loaded 16 photos with 32 garments"])?;
    let found = "SELECT string_agg(category || ' ' || n, ', ' ORDER BY category) FROM (SELECT category, count(*) n FROM look GROUP BY 1) c";
    ensure!(shop.database.psql(found)? == "footwear 16, upper 16");
    run(&["search", "photos/00003.bmp", "-k", "2"])?
        .expect(0)?
        .expect_stdout(&["00003.bmp", "footwear", "upper"])?;
    Ok(())
}

#[test]
fn columns_of_a_domain_take_what_its_type_takes() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "into_domain")?;
    shop.put_many(16)?;
    shop.database.psql(
        "CREATE DOMAIN short AS varchar(40) CHECK (VALUE <> ''); CREATE DOMAIN file AS short CHECK (VALUE NOT LIKE '%00007%');
         CREATE DOMAIN kind AS text NOT NULL; CREATE DOMAIN sure AS real CHECK (VALUE <= 1); CREATE DOMAIN look AS embedding(3);
         CREATE DOMAIN season AS text NOT NULL DEFAULT 'summer';
         CREATE TABLE garments (photo file, category kind, score sure, v look, season season); CREATE INDEX ON garments (photo)",
    )?;
    let run = |args: &[&str]| {
        let into = ["--into", "garments", "--into-map", "key=photo,embedding=v"];
        shop.run(args.iter().chain(&into))
    };
    run(&["load", "photos"])?
        .expect(2)?
        .expect_stdout(&["loaded 15 photos with 30 garments", "1 rejected"])?;
    let rejects = fs::read_to_string(shop.path("lookbook-rejects.csv"))?;
    ensure!(
        rejects.contains("00007.bmp,row_refused") && rejects.contains("check constraint"),
        "{rejects}"
    );
    shop.database
        .psql("CREATE INDEX ON garments USING lookbook (v, category); ANALYZE garments")?;
    let plan = shop.database.psql(
        "SET enable_seqscan = off; SET enable_sort = off;
         EXPLAIN (COSTS OFF) SELECT photo FROM garments WHERE category = 'upper' ORDER BY v <-> (SELECT v FROM garments LIMIT 1) LIMIT 2",
    )?;
    ensure!(
        plan.contains("garments_v_category_idx") && plan.contains("Index Cond"),
        "{plan}"
    );
    run(&["search", "photos/00003.bmp", "-k", "2"])?
        .expect(0)?
        .expect_stdout(&["00003.bmp", "footwear", "upper"])?;
    run(&["load", "photos"])?
        .expect(2)?
        .expect_stdout(&["15 skipped"])?;
    Ok(())
}

#[test]
fn the_doctor_looks_at_a_table_of_the_shop_with_the_rights_of_the_role() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "into_doctor")?;
    shop.put_many(16)?;
    shop.database.psql(
        "CREATE TABLE product (sku text PRIMARY KEY); INSERT INTO product SELECT to_char(n, 'FM00000') FROM generate_series(0, 15) n;
         CREATE TABLE look (id serial, file text, sku text REFERENCES product, v embedding(3), season text NOT NULL);
         CREATE ROLE stockist LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC;
         SELECT lookbook_model_grant('mean', 'stockist'); SELECT lookbook_model_grant('boxes', 'stockist')",
    )?;
    let as_role = |args: &[&str]| {
        let into = ["--into", "look", "--into-map", "key=file,embedding=v"];
        let mut command = shop.lookbook(args.iter().chain(&into))?;
        let url = shop
            .database
            .url()
            .replace("user=postgres", "user=stockist");
        Outcome::of(command.env("LOOKBOOK_DATABASE", url))
    };
    shop.database
        .psql("ALTER TABLE look ENABLE ROW LEVEL SECURITY; GRANT SELECT ON look TO stockist")?;
    as_role(&["doctor"])?.expect(1)?.expect_stdout(&[
        "FAILURE  target",
        "row-level security",
        "BYPASSRLS",
    ])?;
    as_role(&["load", "photos"])?
        .expect(1)?
        .expect_stderr(&["row-level security holds there for this role"])?;
    shop.database
        .psql("ALTER TABLE look DISABLE ROW LEVEL SECURITY; REVOKE SELECT ON look FROM stockist")?;
    as_role(&["doctor"])?.expect(1)?.expect_stdout(&[
        "FAILURE  target",
        "season (text) is NOT NULL, has no default and no role",
    ])?;
    shop.database
        .psql("ALTER TABLE look ALTER season SET DEFAULT 'summer'")?;
    let ill = as_role(&["doctor"])?.expect(1)?;
    ill.expect_stdout(&[
        "ok       target           \"public\".\"look\", key=file,embedding=v,sku=sku",
        "warning  target index",
        "CREATE INDEX CONCURRENTLY ON \"public\".\"look\" (\"file\")",
        "FAILURE  rights",
        "FAILURE  model record",
    ])?;
    // What it says to run is what helps: first the rights, then the record, the role keeps the rest.
    for check in ["rights", "model record"] {
        let report = as_role(&["doctor", "--json"])?;
        let report: serde_json::Value = serde_json::from_str(&report.stdout)?;
        let advice = report["checks"].as_array().and_then(|checks| {
            let found = checks.iter().find(|found| found["check"] == check)?;
            found["advice"].as_str()
        });
        let advice = advice.unwrap_or_default();
        shop.database
            .psql(advice.trim_start_matches("let the owner run: "))?;
    }
    shop.database.psql("CREATE INDEX ON look (file)")?;
    let well = as_role(&["doctor"])?;
    let well = well.expect_stdout(&["ok       rights", "filled by model \"mean\""])?;
    ensure!(!well.stdout.contains("FAILURE"), "{well}");
    as_role(&["load", "photos"])?
        .expect(0)?
        .expect_stdout(&["loaded 16 photos with 32 garments"])?;
    as_role(&["load", "photos"])?
        .expect(0)?
        .expect_stdout(&["16 skipped"])?;
    as_role(&["doctor"])?
        .expect(2)?
        .expect_stdout(&["warning  index", "none on the embedding"])?;
    Ok(())
}
