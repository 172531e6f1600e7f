//! Another model for a table of the shop: what it is, who may read it and what was not loaded stay as they were.

mod loader_support;
mod sql_support;

use std::fs;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use loader_support::{Outcome, Shop};
use lookbook_tests::{Cluster, pgvector, signal};
use postgres::Client;
use sql_support::{bmp, embedder_manifest, import, onnx};

const PATIENCE: Duration = Duration::from_secs(60);
const DOUBLED: [&str; 4] = ["reembed", "photos", "--embed-model", "doubled"];
/// A transaction that everything which is older than it waits for.
const OLD_SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1";
const IDLE_READER: &str = "BEGIN; SELECT count(*) FROM garment";
/// The loader waits for a lock of that type.
const WAITS_FOR_TABLE: &str = "l.locktype = 'relation'";
const WAITS_FOR_OTHERS: &str = "l.locktype = 'virtualxid'";
const BROKEN: &str = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";

/// An embedder of the same dimensions, whose vectors are twice as long.
fn import_doubled(client: &mut Client, name: &str) -> Result<String> {
    let model = onnx::scaled_embedder(2.0);
    let manifest = embedder_manifest(client, name, &model)?;
    Ok(import(client, name, &manifest, &model)?)
}

/// Starts the loader and waits until it waits for a lock.
fn start(shop: &Shop<'_>, args: &[&str], waits: &str) -> Result<Child> {
    let mut command = shop.lookbook(args)?;
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let waits = format!(
        "SELECT count(*) > 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
         WHERE a.application_name = 'lookbook' AND a.datname = current_database() AND NOT l.granted AND {waits}"
    );
    let mut client = shop.database.connect()?;
    let deadline = Instant::now() + PATIENCE;
    while !client.query_one(&waits, &[])?.get::<_, bool>(0) {
        if child.try_wait()?.is_some() || Instant::now() > deadline {
            child.kill()?;
            bail!(
                "it does not wait: {}",
                Outcome::from(child.wait_with_output()?)
            );
        }
        sleep(Duration::from_millis(20));
    }
    Ok(child)
}

/// It ends soon.
fn end(mut child: Child) -> Result<Outcome> {
    let deadline = Instant::now() + PATIENCE / 4;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            bail!(
                "it does not end: {}",
                Outcome::from(child.wait_with_output()?)
            );
        }
        sleep(Duration::from_millis(20));
    }
    Ok(child.wait_with_output()?.into())
}

fn interrupt(child: Child) -> Result<()> {
    signal("INT", child.id())?;
    end(child)?
        .expect(2)?
        .expect_stderr(&["interrupted; the vectors that were made are kept"])?;
    Ok(())
}

fn kill(shop: &Shop<'_>, mut child: Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    shop.wait_for_the_end(PATIENCE / 6)
}

/// Whoever comes now is not kept waiting for long.
fn read(shop: &Shop<'_>) -> Result<()> {
    shop.database
        .psql("SET statement_timeout = '5s'; SELECT count(*) FROM garment")?;
    Ok(())
}

/// With sixteen photos that are loaded, and another model.
fn loaded(name: &str) -> Result<(Shop<'static>, Client)> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, name)?;
    let mut client = shop.database.connect()?;
    shop.put_many(16)?;
    shop.load()?.expect(0)?;
    import_doubled(&mut client, "doubled")?;
    Ok((shop, client))
}

#[test]
fn readers_go_on_while_a_change_of_models_waits_for_one_of_them() -> Result<()> {
    let (shop, mut idle) = loaded("reembed_waits")?;
    idle.batch_execute(IDLE_READER)?;
    let child = start(&shop, &DOUBLED, WAITS_FOR_TABLE)?;
    read(&shop)?;
    interrupt(child)?;
    let child = start(&shop, &DOUBLED, WAITS_FOR_TABLE)?;
    kill(&shop, child)?;
    read(&shop)?;
    let child = start(&shop, &DOUBLED, WAITS_FOR_TABLE)?;
    // More than a try.
    sleep(Duration::from_secs(2));
    idle.batch_execute("COMMIT")?;
    end(child)?
        .expect(0)?
        .expect_stderr(&["waiting for \"public\".garment, which sessions "])?;
    Ok(())
}

#[test]
fn an_index_that_was_begun_keeps_nobody_out_and_is_made_anew() -> Result<()> {
    let (shop, mut old) = loaded("reembed_index")?;
    old.batch_execute(OLD_SNAPSHOT)?;
    interrupt(start(&shop, &DOUBLED, WAITS_FOR_OTHERS)?)?;
    ensure!(shop.database.psql(BROKEN)? == "1");
    kill(&shop, start(&shop, &DOUBLED, WAITS_FOR_OTHERS)?)?;
    shop.load()?.expect(0)?;
    old.batch_execute("COMMIT")?;
    old.batch_execute(IDLE_READER)?;
    let child = start(&shop, &["reembed", "--abandon"], WAITS_FOR_TABLE)?;
    read(&shop)?;
    interrupt(child)?;
    // The broken one is dropped while this one reads.
    let child = start(&shop, &DOUBLED, WAITS_FOR_OTHERS)?;
    read(&shop)?;
    old.batch_execute("COMMIT")?;
    end(child)?.expect(0)?;
    let index = "SELECT lookbook_index_check('garment_embedding_category_label_idx')";
    ensure!(shop.database.psql(index)? == "32");
    ensure!(shop.database.psql(BROKEN)? == "0");
    Ok(())
}

#[test]
fn a_swap_that_waits_for_a_reader_writes_nothing_meanwhile() -> Result<()> {
    let (shop, mut idle) = loaded("reembed_swap")?;
    let mut old = shop.database.connect()?;
    old.batch_execute(OLD_SNAPSHOT)?;
    let child = start(&shop, &DOUBLED, WAITS_FOR_OTHERS)?;
    idle.batch_execute(IDLE_READER)?;
    old.batch_execute("COMMIT")?;
    // Some tries.
    sleep(Duration::from_secs(4));
    read(&shop)?;
    interrupt(child)?;
    let model = "SELECT model_name FROM lookbook_embedding_column WHERE attribute = 'embedding'";
    ensure!(shop.database.psql(model)? == "mean");
    let child = start(&shop, &DOUBLED, WAITS_FOR_TABLE)?;
    idle.batch_execute("COMMIT")?;
    end(child)?.expect(0)?;
    ensure!(shop.database.psql(model)? == "doubled");
    let written = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'photo'";
    let written = shop.database.psql(written)?;
    ensure!(written == "16", "{written}");
    Ok(())
}

#[test]
fn definitions_of_indexes_keep_all_but_the_column_and_what_cannot_be_made_is_refused() -> Result<()>
{
    let shop = Shop::with_tiny_models(Cluster::shared()?, "reembed_definitions")?;
    let mut client = shop.database.connect()?;
    shop.put_many(16)?;
    client.batch_execute(
        "CREATE TABLE look (id bigserial, key text, kind text, look embedding(3), box box); CREATE INDEX ON look (key);
         CREATE INDEX lk ON look (id) WHERE kind <> 'look' AND look IS NOT NULL;
         CREATE INDEX part ON look USING lookbook ((subvector(look, 1, 2)::embedding(2)));
         CREATE INDEX \"all USING look\" ON look USING lookbook (look, kind)",
    )?;
    import_doubled(&mut client, "doubled")?;
    let map = "embedding=look,category=kind";
    let into = ["--into", "look", "--into-map", map];
    let args = |args: &[&'static str]| [args, &into].concat();
    let indexes =
        "SELECT indexrelid::regclass, indisvalid, pg_get_indexdef(indexrelid) FROM pg_index
         WHERE indrelid = 'look'::regclass ORDER BY indexrelid::regclass::text";
    shop.run(args(&["load", "photos"]))?.expect(0)?;
    let before = shop.database.psql(indexes)?;
    shop.run(args(&DOUBLED))?.expect(0)?;
    let after = shop.database.psql(indexes)?;
    ensure!(before == after, "{before}\n{after}");

    let wider = args(&["reembed", "photos", "--embed-model", "garment-embedder"]);
    shop.run(&wider)?.expect(1)?.expect_stderr(&[
        "index part of \"public\".\"look\" is made for vectors of 2 dimensions, and those of model \"garment-embedder\" have 256: drop it",
    ])?;
    let begun = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'look'::regclass AND attname = 'look_next'";
    ensure!(shop.database.psql(begun)? == "0");
    // One that was begun, and that nobody wants any more.
    client.batch_execute("DROP INDEX part")?;
    client.batch_execute(OLD_SNAPSHOT)?;
    interrupt(start(&shop, &wider, WAITS_FOR_OTHERS)?)?;
    client.batch_execute("COMMIT")?;
    ensure!(shop.database.psql(BROKEN)? == "1");
    client.batch_execute("DROP INDEX \"all USING look\"")?;
    shop.run(&wider)?.expect(0)?;
    let left = shop.database.psql(indexes)?;
    ensure!(
        left.lines().count() == 2 && !left.contains("_next"),
        "{left}"
    );
    Ok(())
}

#[test]
fn expressions_that_name_dimensions_are_refused_for_others_only() -> Result<()> {
    if !pgvector()? {
        return Ok(());
    }
    let shop = Shop::with_tiny_models(Cluster::shared()?, "reembed_halves")?;
    let mut client = shop.database.connect()?;
    shop.put_many(16)?;
    client.batch_execute(
        "CREATE EXTENSION vector; CREATE TABLE look (key text, embedding vector(3), box box); CREATE INDEX ON look (key);
         CREATE INDEX halves ON look USING hnsw ((embedding::halfvec(3)) halfvec_l2_ops)",
    )?;
    import_doubled(&mut client, "doubled")?;
    let run = |args: &[&str]| shop.run(args.iter().chain(&["--into", "look"]));
    let wider = ["reembed", "photos", "--embed-model", "garment-embedder"];
    run(&["load", "photos"])?.expect(0)?;
    run(&DOUBLED)?.expect(0)?;
    let refused = |index: &str| -> Result<()> {
        run(&wider)?.expect(1)?.expect_stderr(&[
            &format!("index {index} of"),
            "3 dimensions",
            "drop it",
        ])?;
        Ok(())
    };
    refused("halves")?;
    client.batch_execute(
        "DROP INDEX halves;
         CREATE INDEX bits ON look USING hnsw ((binary_quantize(embedding)::bit(3)) bit_hamming_ops)",
    )?;
    refused("bits")?;
    // It names none.
    client.batch_execute(
        "DROP INDEX bits; CREATE INDEX norms ON look (vector_norm(embedding)) WHERE embedding IS NOT NULL",
    )?;
    run(&wider)?.expect(0)?;
    ensure!(shop.database.psql(BROKEN)? == "0");
    Ok(())
}

#[test]
fn a_domain_stays_or_is_refused() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "reembed_domain")?;
    let mut client = shop.database.connect()?;
    shop.put_many(16)?;
    client.batch_execute(
        "CREATE DOMAIN lookvec AS embedding(3) CHECK (embedding_dims(VALUE) = 3);
         CREATE TABLE look (key text, look lookvec, box box); CREATE INDEX ON look (key); CREATE INDEX ON look USING lookbook (look)",
    )?;
    import_doubled(&mut client, "doubled")?;
    let into = ["--into", "look", "--into-map", "embedding=look"];
    let run = |args: &[&str]| shop.run(args.iter().chain(&into));
    run(&["load", "photos"])?.expect(0)?;
    run(&["reembed", "photos", "--embed-model", "garment-embedder"])?
        .expect(1)?
        .expect_stderr(&[
            "is of domain public.lookvec, for vectors of 3 dimensions, and those of model \"garment-embedder\" have 256",
            "ALTER COLUMN \"look\" TYPE public.embedding(3)",
        ])?;
    run(&DOUBLED)?
        .expect(0)?
        .expect_stderr(&["public.lookvec has constraints"])?;
    let of_domain = "SELECT atttypid::regtype, (SELECT count(look) FROM look) FROM pg_attribute
         WHERE attrelid = 'look'::regclass AND attname = 'look'";
    ensure!(shop.database.psql(of_domain)? == "lookvec|32");
    client.batch_execute("ALTER DOMAIN lookvec SET NOT NULL")?;
    run(&["reembed", "photos", "--embed-model", "mean"])?
        .expect(1)?
        .expect_stderr(&["is of domain public.lookvec, which takes no NULL"])?;
    Ok(())
}

#[test]
fn rows_that_take_no_new_vector_are_named() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "reembed_refused")?;
    let mut client = shop.database.connect()?;
    shop.put_many(16)?;
    client.batch_execute(
        "CREATE TABLE look (key text, embedding embedding(3), box box); CREATE INDEX ON look (key);
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF NEW.key <> '00003.bmp' THEN RETURN NEW; END IF;
           IF TG_ARGV[0] = 'raise' THEN RAISE EXCEPTION 'row is frozen'; END IF; RETURN NULL; END $$",
    )?;
    import_doubled(&mut client, "doubled")?;
    let run = |args: &[&str]| shop.run(args.iter().chain(&["--into", "look"]));
    run(&["load", "photos"])?.expect(0)?;
    client.batch_execute(
        "CREATE TABLE boxes AS SELECT key, box FROM look WHERE key = '00003.bmp' LIMIT 1;
         UPDATE look l SET box = NULL FROM boxes b WHERE l.key = b.key AND l.box ~= b.box",
    )?;
    run(&DOUBLED)?.expect(1)?.expect_stderr(&[
        "1 rows of \"public\".\"look\" (key: 00003.bmp) have vectors and no box",
    ])?;
    client.batch_execute(
        "UPDATE look l SET box = b.box FROM boxes b WHERE l.key = b.key AND l.box IS NULL;
         CREATE TRIGGER keep BEFORE UPDATE ON look FOR EACH ROW EXECUTE FUNCTION keep()",
    )?;
    run(&DOUBLED)?.expect(1)?.expect_stderr(&[
        "2 rows of \"public\".\"look\" (key: 00003.bmp, 00003.bmp) do not take their vectors of model \"doubled\"",
    ])?;
    client.batch_execute(
        "DROP TRIGGER keep ON look;
         CREATE TRIGGER keep BEFORE UPDATE ON look FOR EACH ROW EXECUTE FUNCTION keep('raise')",
    )?;
    run(&DOUBLED)?.expect(1)?.expect_stderr(&[
        "00003.bmp: \"public\".\"look\" refuses the new vectors of its rows: row is frozen [row_refused]",
        "embedded or written (00003.bmp)",
    ])?;
    client.batch_execute("DROP TRIGGER keep ON look")?;
    run(&DOUBLED)?
        .expect(0)?
        .expect_stdout(&["2 garments of 1 photo got vectors"])?;
    Ok(())
}

#[test]
fn a_mapped_table_changes_its_model_and_keeps_its_nulls() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "into_reembed")?;
    let mut client = shop.database.connect()?;
    shop.put_many(40)?;
    client.batch_execute(
        "CREATE TABLE look (id serial PRIMARY KEY, key varchar(80), embedding embedding(3), box box, note text, embed_model text);
         CREATE INDEX ON look (key); CREATE INDEX look_vectors ON look USING lookbook (embedding);
         INSERT INTO look (note) VALUES ('of the shop')",
    )?;
    let sha256 = import_doubled(&mut client, "doubled")?;
    let target = ["--into", "look"];
    let run = |args: &[&str]| shop.run(args.iter().chain(&target));
    run(&["load", "photos"])?
        .expect(0)?
        .expect_stdout(&["index public.look_vectors was there"])?;
    client.batch_execute(
        "CREATE TABLE before AS SELECT key, box, embedding FROM look WHERE key IS NOT NULL",
    )?;
    run(&["load", "photos", "--embed-model", "doubled"])?
        .expect(1)?
        .expect_stderr(&["was filled by model \"mean\"", "lookbook reembed"])?;
    run(&["reembed", "--root", "photos", "--embed-model", "doubled"])?
        .expect(0)?
        .expect_stdout(&["80 garments of 40 photos got vectors of model doubled"])?;
    let found = shop.database.psql(&format!(
        "SELECT count(*), count(*) FILTER (WHERE l2_distance(l.embedding, b.embedding * 2) < 1e-4), count(*) FILTER (WHERE embed_model = '{sha256}')
         FROM look l JOIN before b ON b.key = l.key AND b.box ~= l.box;
         SELECT embedding IS NULL, note FROM look WHERE key IS NULL;
         SELECT model_name FROM lookbook_embedding_column WHERE relation = 'look'::regclass;
         SELECT lookbook_index_check('look_vectors') >= 81"
    ))?;
    ensure!(found == "80|80|80\nt|of the shop\ndoubled\nt", "{found}");
    run(&["load", "photos", "--embed-model", "doubled"])?
        .expect(0)?
        .expect_stdout(&["40 skipped"])?;
    Ok(())
}

#[test]
fn a_partitioned_table_is_a_target_like_any_other() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "into_partitions")?;
    let mut client = shop.database.connect()?;
    shop.put_many(40)?;
    client.batch_execute(
        "CREATE TABLE look (id bigserial, key varchar(80), embedding embedding(3), box box) PARTITION BY HASH (id);
         CREATE TABLE look_0 PARTITION OF look FOR VALUES WITH (MODULUS 3, REMAINDER 0);
         CREATE TABLE look_1 PARTITION OF look FOR VALUES WITH (MODULUS 3, REMAINDER 1);
         CREATE TABLE look_2 PARTITION OF look FOR VALUES WITH (MODULUS 3, REMAINDER 2);
         CREATE INDEX ON look (key); CREATE INDEX look_vectors ON look USING lookbook (embedding)",
    )?;
    import_doubled(&mut client, "doubled")?;
    let target = ["--into", "look"];
    let run = |args: &[&str]| shop.run(args.iter().chain(&target));
    run(&["load", "photos"])?
        .expect(0)?
        .expect_stdout(&["index public.look_vectors was there"])?;
    client.batch_execute("CREATE TABLE before AS SELECT key, box, embedding FROM look")?;
    let is_sound = ["index", "public.look_vectors, 80 rows, every page is sound"];
    run(&["doctor"])?.expect(0)?.expect_stdout(&is_sound)?;
    let reembed = ["reembed", "photos", "--embed-model", "doubled"];
    run(&[&reembed[..], &["--make-default"]].concat())?
        .expect(0)?
        .expect_stdout(&["80 garments of 40 photos got vectors of model doubled"])?;
    let found = shop.database.psql(
        "SELECT count(*), count(*) FILTER (WHERE l2_distance(l.embedding, b.embedding * 2) < 1e-4)
         FROM look l JOIN before b ON b.key = l.key AND b.box ~= l.box;
         SELECT string_agg(c.relkind::text || ':' || i.indisvalid, ' ' ORDER BY c.relkind)
         FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam WHERE m.amname = 'lookbook'
           AND i.indrelid IN (SELECT relid FROM pg_partition_tree('look'));
         SELECT string_agg(DISTINCT attname, ' ') FROM pg_attribute
         WHERE attrelid IN (SELECT relid FROM pg_partition_tree('look')) AND attname LIKE 'embedding%'",
    )?;
    ensure!(
        found == "80|80\nI:true i:true i:true i:true\nembedding",
        "{found}"
    );
    run(&["doctor"])?.expect(0)?.expect_stdout(&is_sound)?;
    Ok(())
}

#[test]
fn rights_comments_and_long_names_outlive_a_change_of_models() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "reembed_rights")?;
    let mut client = shop.database.connect()?;
    shop.put_many(16)?;
    shop.load()?.expect(0)?;
    import_doubled(&mut client, "doubled")?;
    let long = "i".repeat(60);
    client.batch_execute(&format!(
        "CREATE ROLE reembed_reader; GRANT SELECT (embedding, sku), UPDATE (embedding) ON garment TO reembed_reader;
         GRANT SELECT (embedding) ON garment TO PUBLIC;
         COMMENT ON COLUMN garment.embedding IS 'of the crop'; ALTER TABLE garment ALTER embedding SET STATISTICS 7;
         ALTER INDEX garment_embedding_category_label_idx RENAME TO {long}; COMMENT ON INDEX {long} IS 'for searches'"
    ))?;
    for statement in [
        "SET allow_in_place_tablespaces = on",
        "CREATE TABLESPACE reembed_space LOCATION ''",
        "CREATE INDEX dims ON garment (embedding_dims(embedding)) TABLESPACE reembed_space",
        "ALTER INDEX dims ALTER COLUMN 1 SET STATISTICS 77",
    ] {
        client.batch_execute(statement)?;
    }
    let state = format!(
        "SELECT attstattarget, spcname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
           JOIN pg_tablespace s ON s.oid = reltablespace WHERE relname = 'dims';
         SELECT attacl, attstattarget, col_description(attrelid, attnum) FROM pg_attribute
         WHERE attrelid = 'garment'::regclass AND attname = 'embedding';
         SELECT obj_description('{long}'::regclass, 'pg_class'), lookbook_index_check('{long}')"
    );
    let before = shop.database.psql(&state)?;
    shop.run(["reembed", "photos", "--embed-model", "doubled"])?
        .expect(0)?;
    let after = shop.database.psql(&state)?;
    client
        .batch_execute("DROP OWNED BY reembed_reader; DROP ROLE reembed_reader; DROP INDEX dims")?;
    client.batch_execute("DROP TABLESPACE reembed_space")?;
    ensure!(
        before == after
            && after.starts_with("77|reembed_space\n")
            && after.contains("for searches|32"),
        "{before}\n{after}"
    );
    Ok(())
}

#[test]
fn vectors_that_nobody_loaded_are_named_before_anything_is_done() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "reembed_foreign")?;
    let mut client = shop.database.connect()?;
    shop.put_many(16)?;
    client.batch_execute(
        "CREATE TABLE look (key text, embedding embedding(3), box box); CREATE INDEX ON look (key)",
    )?;
    import_doubled(&mut client, "doubled")?;
    shop.run(["load", "photos", "--into", "look"])?.expect(0)?;
    client.batch_execute("INSERT INTO look VALUES ('mine.jpg', '[1,2,3]', '(1,1),(0,0)')")?;
    let reembed = || {
        shop.run([
            "reembed",
            "photos",
            "--embed-model",
            "doubled",
            "--into",
            "look",
        ])
    };
    reembed()?.expect(1)?.expect_stderr(&[
        "1 rows of \"public\".\"look\" (key: mine.jpg) have vectors and are of no photo that was loaded",
        "UPDATE \"public\".\"look\" SET \"embedding\" = NULL",
    ])?;
    let columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'look'::regclass AND attname = 'embedding_next'";
    ensure!(shop.database.psql(columns)? == "0");
    // What is refused leaves no run that seems to be at work.
    let runs = shop
        .database
        .psql("SELECT count(*) FROM lookbook_run WHERE status IN ('running', 'killed')")?;
    ensure!(runs == "0", "{runs}");
    client.batch_execute("UPDATE look SET embedding = NULL WHERE key = 'mine.jpg'")?;
    reembed()?.expect(0)?;
    ensure!(
        shop.database
            .psql("SELECT count(*) FROM look WHERE embedding IS NULL")?
            == "1"
    );
    Ok(())
}

#[test]
fn a_change_that_was_begun_is_not_forgotten_unless_it_is_told() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "reembed_begun")?;
    let mut client = shop.database.connect()?;
    shop.put_many(16)?;
    shop.put("last.bmp", &bmp(8, 8, [1, 2, 3]))?;
    shop.load()?.expect(0)?;
    import_doubled(&mut client, "doubled")?;
    import_doubled(&mut client, "doubled_too")?;
    client.batch_execute("UPDATE lookbook_model SET name = name WHERE false")?;
    fs::remove_file(shop.photos().join("last.bmp"))?;
    shop.run(["reembed", "photos", "--embed-model", "doubled"])?
        .expect(1)?;
    let made = "SELECT count(*) FILTER (WHERE embedding_next IS NOT NULL) FROM garment";
    ensure!(shop.database.psql(made)? == "32");
    shop.run(["reembed", "photos"])?
        .expect(0)?
        .expect_stderr(&["nothing to do", "a change to model \"doubled\" was begun"])?;
    shop.run(["reembed", "photos", "--embed-model", "resnet-preact-64"])?
        .expect(1)?
        .expect_stderr(&[
            "got vectors of model \"doubled\" already",
            "--abandon forgets them",
        ])?;
    ensure!(shop.database.psql(made)? == "32");
    shop.put("last.bmp", &bmp(8, 8, [1, 2, 3]))?;
    shop.run(["reembed", "photos", "--embed-model", "doubled"])?
        .expect(0)?
        .expect_stdout(&["2 garments of 1 photo got vectors"])?;

    // A column of the shop's own by that name is not ours to drop.
    client.batch_execute("ALTER TABLE garment ADD COLUMN embedding_next text")?;
    for args in [&["--embed-model", "mean"][..], &["--abandon"][..]] {
        shop.run([&["reembed", "photos"], args].concat())?
            .expect(1)?
            .expect_stderr(&["has a column \"embedding_next\"", "rename or drop it"])?;
    }
    Ok(())
}

#[test]
fn a_photo_that_the_new_model_fails_for_is_named_alone() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "reembed_failing")?;
    let mut client = shop.database.connect()?;
    shop.put_many(20)?;
    shop.put("00009a.bmp", &bmp(8, 8, [0, 0, 0]))?;
    shop.load()?.expect(0)?;
    // What is all black has no direction.
    let model = onnx::scaled_embedder(3.0);
    let mut manifest = embedder_manifest(&mut client, "directions", &model)?;
    manifest["output"]["normalize"] = true.into();
    import(&mut client, "directions", &manifest, &model)?;
    let reembed = ["reembed", "photos", "--embed-model", "directions"];
    shop.run([&reembed[..], &["--batch", "32"]].concat())?
        .expect(1)?
        .expect_stderr(&["1 photos of photos", "embedded or written (00009a.bmp)"])?;
    let found = shop.database.psql(
        "SELECT DISTINCT p.path FROM garment g JOIN photo p ON p.id = g.photo_id WHERE g.embedding_next IS NULL;
         SELECT path, code FROM lookbook_reject",
    )?;
    ensure!(
        found.lines().count() == 2 && found.matches("00009a.bmp").count() == 2,
        "{found}"
    );
    Ok(())
}

#[test]
fn a_path_that_leaves_the_folder_is_not_followed() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "reembed_outside")?;
    shop.put_many(16)?;
    shop.load()?.expect(0)?;
    import_doubled(&mut shop.database.connect()?, "doubled")?;
    fs::rename(shop.photos().join("00003.bmp"), shop.path("00003.bmp"))?;
    shop.database
        .psql("UPDATE photo SET path = '../00003.bmp' WHERE path = '00003.bmp'")?;
    let args = ["reembed", "--root", "photos", "--embed-model", "doubled"];
    shop.run(args.iter().chain(&["-v"]))?
        .expect(1)?
        .expect_stderr(&["../00003.bmp", "the path leaves the folder of --root"])?;
    Ok(())
}
