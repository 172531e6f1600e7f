//! Where others may create in the extension's schema, nothing of theirs runs in its functions.

mod sql_support;

use std::fs;

use anyhow::{Context, Result, ensure};
use lookbook_tests::{Cluster, Database, workspace};
use postgres::Client;
use sql_support::import_embedder;

/// A small shop, and everything that reads it, also by enum categories and keys that are integers.
const SHOP: &str = "
    CREATE TABLE garment (id bigint PRIMARY KEY, photo_id bigint, sku text, category text, label text, score real, box box,
      embedding embedding(3));
    INSERT INTO garment SELECT n, n / 2, 'S' || n / 4, (ARRAY['upper', 'lower'])[n % 2 + 1], 'x', 0.5, '(1,1),(0,0)',
      ARRAY[n, n % 7, n % 3]::real[]::embedding FROM generate_series(1, 60) AS n;
    CREATE TYPE kind AS ENUM ('upper', 'lower');
    CREATE TABLE item (id int, photo_id int, sku int, category kind, embedding embedding(3));
    INSERT INTO item SELECT id, photo_id, substr(sku, 2)::int, category::kind, embedding FROM garment;
    INSERT INTO lookbook_embedding_column SELECT relation, 'embedding', name, sha256
      FROM lookbook_model, unnest(ARRAY['garment', 'item']::regclass[]) AS relation WHERE name = 'kept';
    CREATE ROLE alike_reader";

/// For each function of the extension and each of PostgreSQL's that their bodies name, and for the operators: others of
/// the same name and of types that fit as well or better. Any of them that is called is an error.
const LOOK_ALIKES: &str = r"
    SET search_path = pg_catalog;
    DO $$
    DECLARE
      types CONSTANT text[] := ARRAY['name', 'text', 'name[]', 'bigint', 'integer', 'numeric', 'real', 'boolean', 'regclass',
        'jsonb', 'public.embedding'];
      trap CONSTANT text := 'RETURNS boolean LANGUAGE plpgsql AS ''BEGIN RAISE EXCEPTION ''''trapped in %'''', $1; END''';
      ours record;
      called text;
      a text;
      b text;
    BEGIN
      FOR called IN
        SELECT DISTINCT word[1] FROM pg_proc AS p, regexp_matches(p.prosrc, '\m([a-z_0-9]+)\(', 'g') AS word
        WHERE p.pronamespace = 'public'::regnamespace AND p.prolang <> 13
          AND EXISTS (SELECT FROM pg_proc AS q WHERE q.proname = word[1]) LOOP
        FOREACH a IN ARRAY types LOOP
          FOREACH b IN ARRAY types || ''::text LOOP
            BEGIN
              EXECUTE format('CREATE FUNCTION public.%I(%s) %s', called, concat_ws(', ', a, nullif(b, '')), trap);
            EXCEPTION WHEN duplicate_function OR syntax_error THEN
              NULL;
            END;
          END LOOP;
        END LOOP;
      END LOOP;
      -- Ours with other numbers, and without the last arguments.
      FOR ours IN SELECT p.proname, proargs.types FROM pg_proc AS p, LATERAL (
          SELECT array_agg(format_type(t.oid, NULL) ORDER BY t.place) AS types
          FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS t(oid, place)) AS proargs
        WHERE p.pronamespace = 'public'::regnamespace AND p.prokind = 'f' AND p.pronargs > 2
          AND EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e') LOOP
        FOREACH a IN ARRAY ARRAY['integer', 'numeric', 'real', 'bigint'] LOOP
          FOR count IN 3 .. cardinality(ours.types) LOOP
            BEGIN
              EXECUTE format('CREATE FUNCTION public.%I(%s) %s', ours.proname,
                replace(replace(array_to_string(ours.types[:count], ', '), 'bigint', a), 'double precision', a), trap);
              EXECUTE format('CREATE FUNCTION public.%I(%s) %s', ours.proname,
                replace(array_to_string(ours.types[:count], ', '), 'double precision', a), trap);
            EXCEPTION WHEN duplicate_function OR feature_not_supported THEN
              NULL;
            END;
          END LOOP;
        END LOOP;
      END LOOP;
      FOREACH a IN ARRAY types LOOP
        FOREACH b IN ARRAY types LOOP
          EXECUTE format('CREATE FUNCTION public.trap(%s, %s) %s', a, b, trap);
          FOREACH called IN ARRAY ARRAY['=', '<>', '<', '<=', '>', '>=', '||', '->>', '+', '-', '*', '/', '<->'] LOOP
            BEGIN
              EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.trap)', called, a, b);
            EXCEPTION WHEN duplicate_function THEN
              NULL;
            END;
          END LOOP;
        END LOOP;
      END LOOP;
    END $$;
    SET search_path = public, shop";

/// What is asked before and after: nobody's look-alike is nearer to it than the extension's own, as every argument is of
/// the declared type.
const QUESTIONS: &[&str] = &[
    "SELECT product, distance FROM nearest_products('[1,2,3]'::embedding, 5::bigint, NULL::text, 0.2::float8)",
    "SELECT product, distance FROM nearest_products('[1,2,3]'::embedding, 5::bigint, 'upper'::text, 0.2::float8)",
    "SELECT product, distance FROM nearest_garments('[1,2,3]'::embedding, 5::bigint, 'upper'::text)",
    "SELECT product, distance FROM similar_garments(photo(), 5::bigint, NULL::text)",
    "SELECT product, distance FROM similar_products('S3'::text, 5::bigint)",
    "SELECT product, distance FROM similar_products('S3'::text, 5::bigint, 0.3::float8, 0.2::float8)",
    "SELECT product, distance FROM complete_the_look(8::bigint, 5::bigint)",
    "SELECT product, distance FROM shop_the_look(photo(), 5::bigint)",
    "SELECT product, distance FROM shop_the_look(blank(), 5::bigint)",
    "SELECT product, distance FROM try_shop_the_look(photo(), 5::bigint)",
    "SELECT category, score::float8 FROM detect_query(photo())",
    "SELECT product::text, distance FROM reco.nearest_products('[1,2,3]'::embedding, 5::bigint, 'upper'::text, 0.1::float8)",
    "SELECT product::text, distance FROM reco.similar_products(3::bigint, 5::bigint)",
    "SELECT product::text, distance FROM reco.similar_products(3::bigint, 5::bigint, 0.3::float8, 0.1::float8)",
    "SELECT product::text, distance FROM reco.complete_the_look(8::bigint, 5::bigint)",
    "SELECT product::text, distance FROM reco.shop_the_look(photo(), 5::bigint)",
    "SELECT product::text, distance FROM reco.shop_the_look(blank(), 5::bigint)",
];

/// Product and distance of each row.
type Answer = Vec<(Option<String>, Option<f64>)>;

fn answers(client: &mut Client) -> Result<Vec<Answer>> {
    QUESTIONS
        .iter()
        .map(|question| {
            let rows = client.query(*question, &[]).context(*question)?;
            ensure!(!rows.is_empty(), "nothing: {question}");
            Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
        })
        .collect()
}

fn shop(name: &str) -> Result<(Database<'static>, Client)> {
    let database = Cluster::shared()?.database(name)?;
    let mut client = database.connect()?;
    for model in ["kept", "mine"] {
        import_embedder(&mut client, model, "GlobalAveragePool")?;
    }
    client.batch_execute(SHOP)?;
    let mut blank = Vec::new();
    image::RgbImage::from_pixel(64, 64, image::Rgb([200, 100, 50])).write_to(
        &mut std::io::Cursor::new(&mut blank),
        image::ImageFormat::Png,
    )?;
    client
        .batch_execute("CREATE SCHEMA shop; CREATE TABLE shop.picture (name text, image bytea)")?;
    let worn = fs::read(workspace().join("tests/catalogue/photos/white-shirt-worn.jpg"))?;
    client.execute(
        "INSERT INTO shop.picture VALUES ('photo', $1), ('blank', $2)",
        &[&worn, &blank],
    )?;
    client.batch_execute(
        "CREATE FUNCTION shop.photo() RETURNS bytea LANGUAGE sql STABLE
           RETURN (SELECT image FROM shop.picture WHERE name = 'photo');
         CREATE FUNCTION shop.blank() RETURNS bytea LANGUAGE sql STABLE
           RETURN (SELECT image FROM shop.picture WHERE name = 'blank');
         SET search_path = public, shop",
    )?;
    Ok((database, client))
}

/// Operators of every pair of types that PostgreSQL's own leave free, made where the extension will be.
const PLANTED_BEFORE: &str = r"
    DO $$
    DECLARE
      types CONSTANT text[] := ARRAY['name', 'text', 'name[]', 'bigint', 'integer', 'numeric', 'real', 'double precision',
        'oid', 'regclass', 'json', 'jsonb', 'timestamptz'];
      called text;
      a text;
      b text;
    BEGIN
      FOREACH a IN ARRAY types LOOP
        FOREACH b IN ARRAY types LOOP
          EXECUTE format('CREATE FUNCTION public.trap(%s, %s) RETURNS boolean LANGUAGE sql RETURN true', a, b);
          FOREACH called IN ARRAY ARRAY['=', '<>', '<', '<=', '>', '>=', '||', '->', '->>', '+', '-', '*', '/', '~'] LOOP
            EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.trap)', called, a, b);
          END LOOP;
        END LOOP;
      END LOOP;
    END $$";

#[test]
fn what_was_planted_before_the_extension_is_no_part_of_it() -> Result<()> {
    let database = Cluster::shared()?.empty_database("look_alikes_before")?;
    let mut client = database.connect()?;
    client.batch_execute(PLANTED_BEFORE)?;
    client.batch_execute("CREATE EXTENSION lookbook; SELECT * FROM lookbook_worker")?;
    let bound = client.query(
        "SELECT DISTINCT pg_describe_object(d.classid, d.objid, 0), o.oid::regoperator::text
         FROM pg_depend AS d JOIN pg_operator AS o ON d.refclassid = 'pg_operator'::regclass AND d.refobjid = o.oid
         JOIN pg_proc AS p ON p.oid = o.oprcode AND p.proname = 'trap'",
        &[],
    )?;
    let bound: Vec<(String, String)> = bound.iter().map(|row| (row.get(0), row.get(1))).collect();
    ensure!(bound.is_empty(), "{bound:?}");
    Ok(())
}

#[test]
fn what_others_planted_is_not_run_by_the_functions_of_the_extension() -> Result<()> {
    let (_database, mut client) = shop("look_alikes")?;
    let map = "SELECT lookbook_map_catalogue('reco'::name, 'item'::regclass, 'sku'::name, 'embedding'::name, 'category'::name,
        'id'::name, 'photo_id'::name, 'label'::name, 'score'::name, 'box'::name, 0.1::float8)";
    client.batch_execute(map)?;
    let before = answers(&mut client)?;
    client.batch_execute(LOOK_ALIKES)?;
    let planted: i64 = client
        .query_one(
            "SELECT pg_catalog.count(*) FROM pg_catalog.pg_proc WHERE prosrc OPERATOR(pg_catalog.~) 'trapped'::text",
            &[],
        )?
        .get(0);
    ensure!(planted > 1_000, "{planted} look-alikes");

    ensure!(answers(&mut client)? == before);
    client.batch_execute(map)?;
    ensure!(answers(&mut client)? == before, "mapped anew");
    client.batch_execute(
        "SELECT lookbook_model_grant('mine'::text, 'alike_reader'::name);
         SELECT lookbook_model_grant('mine'::text, 'PUBLIC'::name);
         SELECT lookbook_model_revoke('mine'::text, 'alike_reader'::name);
         SELECT lookbook_model_default('mine'::text);
         SELECT lookbook_model_default('garment-embedder'::text);
         SELECT lookbook_model_export('mine'::text);
         CREATE TABLE shop.copy AS SELECT manifest, onnx FROM lookbook_model WHERE name OPERATOR(pg_catalog.=) 'mine'::text;
         SELECT lookbook_model_import('mine'::text, manifest, onnx) FROM shop.copy;
         SELECT lookbook_model_drop('mine'::text);
         SELECT lookbook_model_import('mine'::text, manifest, onnx) FROM shop.copy;
         SELECT * FROM lookbook_worker",
    )?;
    // Refusals are functions, too; and so is what row-level security asks.
    for (refused, code) in [
        (
            "lookbook_model_grant('mine'::text, 'nobody'::name)",
            "42704",
        ),
        ("lookbook_model_export('no such'::text)", "42704"),
        ("lookbook_model_drop('garment-embedder'::text)", "42501"),
        (
            "lookbook_model_import('mine'::text, '{}'::jsonb, ''::bytea)",
            "42710",
        ),
        (
            "similar_products('S3'::text, NULL::bigint, 0.3::float8, 0.2::float8)",
            "22004",
        ),
    ] {
        let outcome = client.batch_execute(&format!("SELECT * FROM {refused}"));
        let error = outcome
            .err()
            .with_context(|| format!("{refused} is not refused"))?;
        let found = error.code().map(|code| code.code().to_owned());
        ensure!(found.as_deref() == Some(code), "{refused}: {error:?}");
    }
    client.batch_execute(
        "SET ROLE alike_reader; SELECT name FROM public.lookbook_model; RESET ROLE; REVOKE ALL ON ALL TABLES IN SCHEMA public FROM alike_reader; DROP ROLE alike_reader",
    )?;
    Ok(())
}
