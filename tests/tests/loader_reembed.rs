//! Another model for a table of the shop: what it is, who may read it and what was not loaded stay as they were.

mod loader_support;
mod sql_support;

use anyhow::{Result, ensure};
use loader_support::Shop;
use lookbook_tests::Cluster;
use postgres::Client;
use sql_support::{bmp, embedder_manifest, import, onnx};

/// An embedder of the same dimensions, whose vectors are twice as long.
fn import_doubled(client: &mut Client, name: &str) -> Result<String> {
    let model = onnx::scaled_embedder(2.0);
    let manifest = embedder_manifest(client, name, &model)?;
    Ok(import(client, name, &manifest, &model)?)
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
    let state = format!(
        "SELECT attacl, attstattarget, col_description(attrelid, attnum) FROM pg_attribute
         WHERE attrelid = 'garment'::regclass AND attname = 'embedding';
         SELECT obj_description('{long}'::regclass, 'pg_class'), lookbook_index_check('{long}')"
    );
    let before = shop.database.psql(&state)?;
    shop.run(["reembed", "photos", "--embed-model", "doubled"])?
        .expect(0)?;
    let after = shop.database.psql(&state)?;
    client.batch_execute("DROP OWNED BY reembed_reader; DROP ROLE reembed_reader")?;
    ensure!(
        before == after && after.contains("for searches|32"),
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
        "1 rows of \"public\".\"look\" have vectors and are of no photo that was loaded (key: mine.jpg)",
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
    std::fs::remove_file(shop.photos().join("last.bmp"))?;
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
        .expect_stdout(&["2 garments of 1 photos got vectors"])?;

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
        .expect_stderr(&["1 photos of photos", "or embedded (00009a.bmp)"])?;
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
