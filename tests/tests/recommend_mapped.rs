//! Recommendations from tables of a shop's own, by `lookbook_map_catalogue`.

mod index_support;
mod sql_support;

use std::collections::HashSet;

use anyhow::{Result, ensure};
use index_support::{database, error_of, expect_plan, plan_of};
use lookbook_tests::{Cluster, check_output, workspace};
use sql_support::import_embedder;

/// A table of a shop's own: another schema, other names, keys that are numbers.
const OWN_TABLE: &str = r#"
    CREATE SCHEMA "Shop";
    CREATE TABLE "Shop".product_image ("image id" int PRIMARY KEY, product_id bigint NOT NULL, kind varchar(20) NOT NULL,
      look embedding(32));
    INSERT INTO "Shop".product_image SELECT n, n / 3, (ARRAY['upper', 'lower'])[n / 3 % 2 + 1], look(n) FROM generate_series(1, 4000) n;
    CREATE INDEX own_looks ON "Shop".product_image USING lookbook (look, kind);
    CREATE INDEX own_product ON "Shop".product_image (product_id);
    ANALYZE"#;
const MAP_OWN: &str = r#"SELECT lookbook_map_catalogue('reco', '"Shop".product_image', product => 'product_id', embedding => 'look',
    category => 'kind', garment_id => 'image id')"#;

#[test]
fn any_table_can_be_mapped_and_its_keys_keep_their_types() -> Result<()> {
    let (database, mut client) = database(Cluster::shared()?, "recommend_mapped")?;
    client.batch_execute(OWN_TABLE)?;
    client.batch_execute(MAP_OWN)?;
    client.batch_execute(MAP_OWN)?;
    client.batch_execute("SET lookbook.recall = 1")?;
    for query in [
        "SELECT * FROM reco.nearest_products(look(7), 5, 'upper')",
        "SELECT * FROM reco.similar_products(7)",
        "SELECT * FROM reco.similar_products(7, 5, 0.5)",
        r"SELECT * FROM reco.shop_the_look('\x00')",
        "SELECT s.* FROM reco.nearest_garments(look(7), NULL, 'upper') s WHERE s.product > 100 ORDER BY s.distance LIMIT 5",
    ] {
        let plan = plan_of(&mut client, query)?;
        ensure!(
            plan.contains("Index Scan using own_looks")
                && plan.contains("Index Cond: ((kind)::text ="),
            "{query}: {plan}"
        );
    }
    expect_plan(
        &mut client,
        "SELECT * FROM reco.similar_products(7)",
        &["own_product"],
    )?;
    let found = client.query(
        "SELECT product, garment_id, photo_id, distance FROM reco.similar_products(7::bigint, 5)",
        &[],
    )?;
    let products: HashSet<i64> = found.iter().map(|row| row.get(0)).collect();
    ensure!(
        products.len() == 5 && !products.contains(&7) && found[0].get::<_, i32>(1) > 0,
        "{found:?}"
    );

    // A dump brings the functions along, and whatever was made of them.
    client.batch_execute(
        "CREATE MATERIALIZED VIEW related AS SELECT p.product_id, s.product
           FROM (SELECT DISTINCT product_id FROM \"Shop\".product_image WHERE product_id < 20) p
           CROSS JOIN LATERAL reco.similar_products(p.product_id, 3) s",
    )?;
    let dump = check_output(database.program("pg_dump").arg("--no-owner"))?.stdout;
    let copy = Cluster::shared()?.empty_database("recommend_mapped_copy")?;
    copy.psql(&String::from_utf8(dump)?)?;
    let query = "SELECT product, distance FROM reco.similar_products(7, 5)";
    ensure!(copy.psql(query)? == database.psql(query)?);
    ensure!(copy.psql("SELECT count(*) FROM related")? == "60");

    // Mapped again with the same types: what hangs on the functions stays, and so does a SELECT that somebody wrote.
    client.batch_execute(
        "CREATE ROLE mapped_reader;
         REVOKE EXECUTE ON FUNCTION reco.similar_products(bigint, bigint) FROM PUBLIC;
         GRANT EXECUTE ON FUNCTION reco.similar_products(bigint, bigint) TO mapped_reader",
    )?;
    let before = database.psql(query)?;
    client.batch_execute(MAP_OWN)?;
    let kept: (bool, bool) = {
        let row = client.query_one(
            "SELECT has_function_privilege('mapped_reader', f, 'EXECUTE'), NOT has_function_privilege('public', f, 'EXECUTE')
             FROM (SELECT 'reco.similar_products(bigint,bigint)'::regprocedure::oid AS f) AS f",
            &[],
        )?;
        (row.get(0), row.get(1))
    };
    ensure!(kept == (true, true), "{kept:?}");
    ensure!(database.psql(query)? == before);
    client.batch_execute(
        r#"CREATE OR REPLACE FUNCTION reco.lookbook_catalogue() RETURNS TABLE (garment_id integer, photo_id bigint, product bigint,
             category text, label text, score real, box box, embedding embedding) LANGUAGE sql STABLE PARALLEL SAFE ROWS 100000 AS
             'SELECT "image id", NULL::bigint, product_id, kind::text, NULL::text, NULL::real, NULL::box, look
              FROM "Shop".product_image WHERE product_id < 100'"#,
    )?;
    client.batch_execute(MAP_OWN)?;
    let all: i64 = client
        .query_one(
            "SELECT count(*) FROM reco.nearest_products(look(7), NULL)",
            &[],
        )?
        .get(0);
    ensure!(all == 100, "{all}: the SELECT of the shop is gone");
    client.batch_execute(
        "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA reco FROM mapped_reader; DROP ROLE mapped_reader",
    )?;

    // Its table may be dropped before it, and it goes with the extension; not what somebody wrote.
    client.batch_execute("DROP MATERIALIZED VIEW related; DROP TABLE \"Shop\".product_image")?;
    let (code, _) = error_of(&mut client, query)?;
    ensure!(code == "42P01", "{code}");
    client.batch_execute("DROP FUNCTION look, reco.lookbook_catalogue; DROP EXTENSION lookbook")?;
    let left: i64 = client
        .query_one(
            "SELECT count(*) FROM pg_proc WHERE pronamespace = 'reco'::regnamespace",
            &[],
        )?
        .get(0);
    ensure!(left == 0, "{left} functions stay");
    Ok(())
}

#[test]
fn a_mapping_that_cannot_be_says_why() -> Result<()> {
    let (_database, mut client) = database(Cluster::shared()?, "recommend_mapping_errors")?;
    client.batch_execute(
        "CREATE TABLE shoe (id int, sku text, category text, embedding real[]);
         CREATE TABLE boot (id int, sku text, kind text, embedding embedding(3), height real, about json);
         CREATE TEMP TABLE passing (id int, photo_id int, sku text, category text, embedding embedding(3));
         CREATE SCHEMA mine; CREATE FUNCTION mine.similar_products(text) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    )?;
    for (arguments, code, part) in [
        (
            "'reco', 'shoe'",
            "42804",
            "is of type real[], not embedding",
        ),
        (
            "'reco', 'boot'",
            "42703",
            "has no column \"category\" to be the category",
        ),
        (
            "'reco', 'boot', category => 'kind', box => 'frame'",
            "42703",
            "has no column \"frame\" to be the box",
        ),
        (
            "'reco', 'boot', category => 'kind', box => 'height'",
            "42804",
            "is of type real, not box",
        ),
        (
            "'reco', 'boot', category => 'kind', score => 'kind'",
            "42804",
            "is of type text, not a number",
        ),
        (
            "'public', 'boot', category => 'kind'",
            "22023",
            "holds the functions of lookbook itself",
        ),
        (
            "'mine', 'boot', category => 'kind'",
            "42723",
            "did not make it",
        ),
        ("NULL, 'boot'", "22004", "one of them is NULL"),
        (
            "'pg_catalog', 'boot', category => 'kind'",
            "22023",
            "belongs to PostgreSQL",
        ),
        (
            "'reco', 'boot', category => 'kind', product => 'about'",
            "42804",
            "is of type json, whose values cannot be compared",
        ),
        ("'reco', 'passing'", "42809", "is temporary"),
        (
            "'reco', 'boot', category => 'kind', fold => -0.1",
            "22023",
            "fold must be a distance of 0 or more",
        ),
        (
            "'reco', 'boot', category => 'kind', fold => 'NaN'",
            "22023",
            "fold must be a distance of 0 or more",
        ),
    ] {
        let statement = format!("SELECT lookbook_map_catalogue({arguments})");
        let (found, message) = error_of(&mut client, &statement)?;
        ensure!(
            found == code && message.contains(part),
            "{arguments}: {found} {message}"
        );
    }
    let missing: bool = client
        .query_one("SELECT to_regnamespace('reco') IS NULL", &[])?
        .get(0);
    ensure!(missing, "a refused mapping leaves no schema");
    // Before a load there is nothing to read.
    let (code, message) = error_of(&mut client, "SELECT * FROM similar_products('a')")?;
    ensure!(
        code == "42P01" && message.contains("garment"),
        "{code} {message}"
    );
    Ok(())
}

#[test]
fn what_a_relation_is_called_is_nobodys_code() -> Result<()> {
    let (_database, mut client) = database(Cluster::shared()?, "recommend_mapped_names")?;
    client.batch_execute(
        r#"CREATE SCHEMA "a'b";
           CREATE TYPE "a'b"."$x$ product text '\1%1$s" AS ENUM ('upper', 'lower')"#,
    )?;
    for (at, name) in [
        "t$function$; CREATE TABLE stolen(); SELECT $function$",
        "product text, '\\1 %2$L %%",
        "lookbook_catalogue() public.nearest_products(",
    ]
    .into_iter()
    .enumerate()
    {
        client.batch_execute(&format!(
            r#"CREATE TABLE "a'b"."{name}" (id bigint, photo_id bigint, sku text, "c$function$%s" "a'b"."$x$ product text '\1%1$s", embedding embedding(32));
               INSERT INTO "a'b"."{name}" SELECT n, n, n::text, 'upper', look(n) FROM generate_series(1, 50) n;
               SELECT lookbook_map_catalogue('m%1$s $function$ {at}', c.oid, category => 'c$function$%s') FROM pg_class c WHERE relname = $name${name}$name$"#,
        ))?;
        let found = client.query(
            &format!(r#"SELECT product FROM "m%1$s $function$ {at}".similar_products('7', 3)"#),
            &[],
        )?;
        ensure!(found.len() == 3, "{name}: {found:?}");
    }
    let stolen: bool = client
        .query_one("SELECT to_regclass('stolen') IS NOT NULL", &[])?
        .get(0);
    ensure!(!stolen, "a name was executed");
    Ok(())
}

#[test]
fn arguments_come_as_drivers_send_them() -> Result<()> {
    let (_database, mut client) = database(Cluster::shared()?, "recommend_mapped_arguments")?;
    client.batch_execute(
        "CREATE TABLE small (id smallint PRIMARY KEY, photo_id smallint, sku smallint, category text, embedding embedding(32));
         INSERT INTO small SELECT n, n / 2, n, 'upper', look(n) FROM generate_series(1, 300) n;
         CREATE INDEX small_sku ON small (sku);
         ANALYZE small;
         SELECT lookbook_map_catalogue('small_reco', 'small')",
    )?;
    for query in [
        "SELECT product FROM small_reco.similar_products(7, 3)",
        "SELECT product FROM small_reco.similar_products(7::bigint, 3)",
        "SELECT product FROM small_reco.similar_products(7::bigint, 3::bigint)",
        "SELECT product FROM small_reco.similar_products(7::smallint, 3, 0.3::double precision)",
        "SELECT product FROM small_reco.nearest_products(look(7), 3, 'upper', 0.1::double precision)",
        "SELECT product FROM small_reco.complete_the_look(8, 3)",
    ] {
        let found = client.query(query, &[])?;
        ensure!(found.len() == 3, "{query}: {} rows", found.len());
        let _: i16 = found[0].get(0);
    }
    expect_plan(
        &mut client,
        "SELECT * FROM small_reco.similar_products(7)",
        &["small_sku"],
    )
}

#[test]
fn names_come_from_variables_and_parameters_of_text() -> Result<()> {
    let (_database, mut client) = database(Cluster::shared()?, "recommend_mapped_text")?;
    client.batch_execute(
        r#"CREATE TABLE item (id int, photo_id int, sku text, category text, embedding embedding(32));
         CREATE TABLE tenant (schema text, own text); INSERT INTO tenant VALUES ('by_column', 'by_collation');
         DO $$ DECLARE t text := 'by_variable'; BEGIN PERFORM lookbook_map_catalogue(t, 'item'); END $$;
         PREPARE map(text) AS SELECT lookbook_map_catalogue($1, 'item'); EXECUTE map('by_parameter');
         SELECT lookbook_map_catalogue(schema, 'item'), lookbook_map_catalogue(own, 'item', product => own_sku)
           FROM tenant, LATERAL (SELECT 'sku'::text AS own_sku) AS own_sku"#,
    )?;
    let made: i64 = client
        .query_one(
            "SELECT count(*) FROM pg_proc WHERE pronamespace::regnamespace::text LIKE 'by\\_%' AND proname = 'shop_the_look'",
            &[],
        )?
        .get(0);
    ensure!(made == 4, "{made} mappings");
    Ok(())
}

#[test]
fn a_view_is_of_the_model_that_filled_the_table_below() -> Result<()> {
    let (database, mut client) = database(Cluster::shared()?, "recommend_mapped_view")?;
    client.batch_execute(
        "CREATE TABLE base (id bigint, photo_id bigint, sku text, category text, look embedding(32));
         CREATE VIEW several AS SELECT id, photo_id, sku, category, look AS embedding FROM base WHERE id < 9;
         CREATE VIEW fewer AS SELECT * FROM several WHERE id < 5;
         INSERT INTO lookbook_embedding_column VALUES ('base', 'look', 'mine', repeat('a', 64));
         SELECT lookbook_map_catalogue('fewer_reco', 'fewer')",
    )?;
    let body: String = client
        .query_one(
            "SELECT prosrc FROM pg_proc WHERE oid = 'fewer_reco.shop_the_look'::regproc",
            &[],
        )?
        .get(0);
    ensure!(body.contains("'public.base.look'"), "{body}");
    client.batch_execute("DELETE FROM lookbook_embedding_column")?;
    let output = database.try_psql("SELECT lookbook_map_catalogue('fewer_reco', 'fewer')")?;
    let notice = output.stderr;
    ensure!(
        notice.contains("nothing says which model filled")
            && notice.contains(
                "INSERT INTO public.lookbook_embedding_column SELECT 'public.fewer', 'embedding'"
            ),
        "{notice}"
    );
    Ok(())
}

#[test]
fn categories_of_an_enum_and_keys_of_a_domain_are_mapped() -> Result<()> {
    let (_database, mut client) = database(Cluster::shared()?, "recommend_mapped_types")?;
    client.batch_execute(
        "CREATE TYPE kind AS ENUM ('upper', 'lower'); CREATE DOMAIN sku AS text CHECK (VALUE LIKE 'S%');
         CREATE TABLE item (id int PRIMARY KEY, photo_id int, sku sku NOT NULL, kind kind NOT NULL, embedding embedding(32));
         INSERT INTO item SELECT n, n, 'S' || n / 3, (ARRAY['upper', 'lower'])[n / 3 % 2 + 1]::kind, look(n)
           FROM generate_series(1, 4000) n;
         CREATE INDEX item_looks ON item USING lookbook (embedding, kind); ANALYZE item;
         SELECT lookbook_map_catalogue('reco', 'item', category => 'kind'); SET lookbook.recall = 1",
    )?;
    let found = "SELECT array_agg(product ORDER BY distance) FROM reco.nearest_products(look(7), 5, 'lower', NULL)";
    let expected = "SELECT array_agg(sku ORDER BY d) FROM (SELECT sku::text, min(embedding <-> look(7)) AS d FROM item
        WHERE kind = 'lower' GROUP BY sku ORDER BY d LIMIT 5) AS nearest";
    let found: Vec<String> = client.query_one(found, &[])?.get(0);
    let expected: Vec<String> = client.query_one(expected, &[])?.get(0);
    ensure!(
        found == expected && found.len() == 5,
        "{found:?} {expected:?}"
    );
    let like: i64 = client
        .query_one(
            "SELECT count(*) FROM reco.similar_products('S7', 4) WHERE product <> 'S7' AND category = 'lower'",
            &[],
        )?
        .get(0);
    ensure!(like == 4, "{like}");
    for query in [
        "SELECT * FROM reco.nearest_products(look(7), 5, 'lower')",
        "SELECT * FROM reco.nearest_garments(look(7), 5, 'lower')",
        "SELECT * FROM reco.similar_products('S7')",
        "SELECT * FROM reco.similar_products('S7', 5, 0.5)",
        r"SELECT * FROM reco.shop_the_look('\x00')",
        "SELECT * FROM reco.complete_the_look(7)",
    ] {
        let plan = plan_of(&mut client, query)?;
        ensure!(
            plan.contains("Index Scan using item_looks") && plan.contains("Index Cond: (kind ="),
            "{query}: {plan}"
        );
    }
    let of_no_kind: i64 = client
        .query_one(
            "SELECT count(*) FROM reco.nearest_garments(look(7), 5, 'hat')",
            &[],
        )?
        .get(0);
    ensure!(of_no_kind == 0, "{of_no_kind}");
    // Names that need quoting, and a mapping that is made anew where the column became text.
    client.batch_execute(
        r#"CREATE SCHEMA "S\hop"; CREATE TYPE "S\hop"."Ki nd" AS ENUM ('upper', 'lower');
         CREATE TABLE "S\hop".item AS SELECT id, photo_id, sku, kind::text::"S\hop"."Ki nd" AS kind, embedding FROM item;
         SELECT lookbook_map_catalogue('S\hop', '"S\hop".item', category => 'kind')"#,
    )?;
    let similar =
        r#"SELECT count(*) FROM "S\hop".similar_products('S7', 4) WHERE category = 'lower'"#;
    let quoted: i64 = client.query_one(similar, &[])?.get(0);
    client.batch_execute(
        r#"ALTER TABLE "S\hop".item ALTER kind TYPE text; SELECT lookbook_map_catalogue('S\hop', '"S\hop".item', category => 'kind')"#,
    )?;
    let as_text: i64 = client.query_one(similar, &[])?.get(0);
    let left: bool = client
        .query_one(
            r#"SELECT to_regproc('"S\hop".lookbook_category') IS NOT NULL"#,
            &[],
        )?
        .get(0);
    ensure!(
        (quoted, as_text, left) == (4, 4, false),
        "{quoted} {as_text} {left}"
    );
    Ok(())
}

#[test]
fn what_counts_as_the_same_picture_is_told_for_vectors_of_another_scale() -> Result<()> {
    let (_database, mut client) = database(Cluster::shared()?, "recommend_mapped_fold")?;
    client.batch_execute(
        "CREATE TABLE item (id int PRIMARY KEY, photo_id int, sku int, category text, embedding embedding(32));
         INSERT INTO item SELECT n, n % 600, n, (ARRAY['upper', 'lower'])[n / 600 + 1], 0.01 * look(n) FROM generate_series(1, 1199) n;
         SELECT lookbook_map_catalogue('far', 'item');
         SELECT lookbook_map_catalogue('near', 'item', fold => 0.002);
         SELECT lookbook_map_catalogue('none', 'item', fold => NULL);
         INSERT INTO item SELECT 2000 + n, NULL, 2000 + n, 'upper', embedding FROM item, generate_series(1, 3) AS n WHERE id = 47",
    )?;
    let mut rows = |query: &str| -> Result<i64> {
        Ok(client
            .query_one(&format!("SELECT count(*) FROM {query}"), &[])?
            .get(0))
    };
    for call in [
        "similar_products(7, 5)",
        "similar_products(7, 5, 0.3)",
        "complete_the_look(7, 5)",
        "nearest_products(0.01 * look(7), 5)",
    ] {
        let folded = rows(&format!("far.{call}"))?;
        let kept = rows(&format!("near.{call}"))?;
        ensure!(
            folded < 5 && kept == 5,
            "{call}: {folded} by the default, {kept} by a fold of that scale"
        );
    }
    // The same picture under four articles.
    let copies = "WHERE product = 47 OR product > 2000";
    ensure!(rows(&format!("near.similar_products(7, 1000) {copies}"))? == 1);
    ensure!(rows(&format!("none.similar_products(7, 1200) {copies}"))? == 4);
    Ok(())
}

#[test]
fn keys_of_a_fixed_length_are_found_by_their_index() -> Result<()> {
    let (_database, mut client) = database(Cluster::shared()?, "recommend_mapped_char")?;
    client.batch_execute(
        "CREATE TABLE item (id int PRIMARY KEY, photo_id int, sku char(8) NOT NULL, category text, embedding embedding(32));
         INSERT INTO item SELECT n, n / 2, 'S' || n / 3, 'upper', look(n) FROM generate_series(1, 4000) n;
         CREATE INDEX item_sku ON item (sku); ANALYZE item;
         SELECT lookbook_map_catalogue('reco', 'item')",
    )?;
    expect_plan(
        &mut client,
        "SELECT * FROM reco.similar_products('S7')",
        &["item_sku"],
    )?;
    for call in [
        "similar_products('S7', 3)",
        "similar_products('S7'::text, 3, 0.3)",
    ] {
        let found = client.query(
            &format!("SELECT i.sku FROM reco.{call} AS s JOIN item AS i ON i.sku = s.product AND i.id = s.garment_id WHERE s.product <> 'S7'"),
            &[],
        )?;
        ensure!(found.len() == 3, "{call}: {found:?}");
    }
    Ok(())
}

#[test]
fn a_schema_that_reads_another_table_from_now_on_says_so() -> Result<()> {
    let (database, mut client) = database(Cluster::shared()?, "recommend_mapped_twice")?;
    client.batch_execute(
        "CREATE TABLE shirt (id int, photo_id int, sku text, category text, embedding embedding(3));
         CREATE TABLE shoe (LIKE shirt); ALTER TABLE shoe ALTER id TYPE bigint",
    )?;
    let said = |table: &str| -> Result<bool> {
        let map = format!("SELECT lookbook_map_catalogue('reco', '{table}')");
        let notice = database.try_psql(&map)?.stderr;
        Ok(notice.contains("no more"))
    };
    ensure!(!said("shirt")? && !said("shirt")?, "the same table");
    ensure!(
        said("shoe")? && !said("shoe")? && said("shirt")?,
        "another table"
    );
    Ok(())
}

#[test]
fn a_schema_of_any_name_holds_the_extension() -> Result<()> {
    let database = Cluster::shared()?.empty_database("recommend_mapped_schema")?;
    let mut client = database.connect()?;
    client.batch_execute(
        r#"CREATE SCHEMA "Vision%s Lib"; CREATE EXTENSION lookbook SCHEMA "Vision%s Lib";
         CREATE TABLE item (id int, photo_id int, sku text, category text, embedding "Vision%s Lib".embedding(3));
         INSERT INTO item SELECT n, n / 2, n::text, 'upper', ARRAY[n, 1, 2]::real[]::"Vision%s Lib".embedding FROM generate_series(1, 9) n;
         SELECT "Vision%s Lib".lookbook_map_catalogue('%1$s', 'item')"#,
    )?;
    for call in [
        "similar_products('3', 4)",
        "similar_products('3', 4, 0.3)",
        "complete_the_look(4, 4)",
    ] {
        let found = client.query(&format!(r#"SELECT product FROM "%1$s".{call}"#), &[])?;
        ensure!(found.len() == 4, "{call}: {} rows", found.len());
    }
    let made: bool = client
        .query_one(
            r#"SELECT prosrc LIKE '%"%1$s".embed_query(%' FROM pg_proc WHERE oid = '"%1$s".shop_the_look'::regproc"#,
            &[],
        )?
        .get(0);
    ensure!(made, "the copy embeds as its own schema says");
    Ok(())
}

#[test]
fn a_picture_is_embedded_by_the_model_of_the_catalogue_whichever_is_the_default() -> Result<()> {
    let database = Cluster::shared()?.database("recommend_mapped_model")?;
    let mut client = database.connect()?;
    for (model, pool) in [("kept", "GlobalAveragePool"), ("other", "GlobalMaxPool")] {
        import_embedder(&mut client, model, pool)?;
    }
    client.batch_execute(
        "CREATE TABLE garment (id bigint, photo_id bigint, sku text, category text, label text, score real, box box, embedding embedding(3));
         CREATE TABLE item (LIKE garment);
         INSERT INTO lookbook_embedding_column SELECT 'garment', 'embedding', name, sha256 FROM lookbook_model WHERE name = 'kept';
         INSERT INTO lookbook_embedding_column SELECT 'item', 'embedding', name, sha256 FROM lookbook_model WHERE name = 'other';
         SELECT lookbook_map_catalogue('reco', 'item')",
    )?;
    let default = |name: &str| -> Result<String> {
        Ok(database
            .try_psql(&format!("SELECT lookbook_model_default('{name}')"))?
            .stderr)
    };
    let notice = default("kept")?;
    ensure!(
        notice.contains("stay in public.item.embedding\n"),
        "{notice}"
    );
    let notice = default("other")?;
    ensure!(
        notice.contains("stay in public.garment.embedding\n"),
        "{notice}"
    );
    let photo = std::fs::read(workspace().join("tests/catalogue/photos/white-shirt-worn.jpg"))?;
    let row = client.query_one(
        "SELECT embed_query($1) = embed_image($1, 'kept'), reco.embed_query($1) = embed_image($1, 'other'),
           embed_image($1, 'kept') <> embed_image($1, 'other'),
           (SELECT count(*) FROM detect_query($1) AS d JOIN reco.detect_query($1) AS o USING (category, score)
            WHERE d.embedding <> o.embedding)",
        &[&photo],
    )?;
    let (own, mapped, differ, garments): (bool, bool, bool, i64) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    ensure!(own && mapped && differ && garments > 0, "{row:?}");
    Ok(())
}
