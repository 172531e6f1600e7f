//! The loader on a server that cannot install lookbook: pgvector's types, models from files.

mod loader_support;
mod sql_support;

use std::fs;

use anyhow::{Result, ensure};
use loader_support::{AVERAGE, Outcome, Shop};
use lookbook_tests::{Cluster, pgvector};
use postgres::Client;
use sql_support::{bmp, detector_manifest, embedder_manifest, onnx};

/// Writes `boxes`, `mean` and `doubled` as files with their manifests.
fn write_models(shop: &Shop<'_>, client: &mut Client) -> Result<()> {
    let (boxes, mean, doubled) = (
        onnx::detector(),
        onnx::embedder(AVERAGE),
        onnx::scaled_embedder(2.0),
    );
    let manifests = [
        ("boxes", detector_manifest(client, "boxes", &boxes)?, &boxes),
        ("mean", embedder_manifest(client, "mean", &mean)?, &mean),
        (
            "doubled",
            embedder_manifest(client, "doubled", &doubled)?,
            &doubled,
        ),
    ];
    for (name, manifest, onnx) in manifests {
        fs::write(shop.path(&format!("{name}.json")), manifest.to_string())?;
        fs::write(shop.path(&format!("{name}.onnx")), onnx)?;
    }
    Ok(())
}

/// Those that a search lists: photos of one colour are as near as each other, in any order.
fn distances(search: &Outcome) -> Vec<&str> {
    let rows = search.stdout.lines().map(str::split_whitespace);
    let ranked = rows.filter_map(|mut row| row.next()?.parse::<u32>().ok().and(row.nth(1)));
    ranked.collect()
}

#[test]
fn a_server_with_pgvector_only_takes_the_same_rows_with_models_from_files() -> Result<()> {
    if !pgvector()? {
        return Ok(());
    }
    let cluster = Cluster::shared()?;
    let ours = Shop::with_tiny_models(cluster, "managed_ours")?;
    let managed = Shop::without_extension(cluster, "managed")?;
    write_models(&managed, &mut managed.database.connect()?)?;
    for shop in [&ours, &managed] {
        shop.put_many(40)?;
        shop.put("query.bmp", &bmp(16, 16, [80, 90, 200]))?;
    }
    let models = ["--model-file", "boxes.onnx", "--model-file", "mean.onnx"];
    let run = |args: &[&str]| -> Result<Outcome> { managed.run(args.iter().chain(&models)) };
    run(&["load", "photos"])?
        .expect(1)?
        .expect_stderr(&["does not have the extension"])?;
    run(&["load", "photos", "--pgvector"])?
        .expect(1)?
        .expect_stderr(&["has neither lookbook nor pgvector: run CREATE EXTENSION vector"])?;
    managed
        .database
        .psql("CREATE SCHEMA extensions; CREATE EXTENSION vector SCHEMA extensions")?;
    run(&["load", "photos", "--pgvector"])?
        .expect(0)?
        .expect_stdout(&[
            "loaded 41 photos with 82 garments",
            "index public.garment_embedding_idx made",
        ])?;
    ours.load()?.expect(0)?;
    let rows = "SELECT p.path, p.sku, encode(p.sha256, 'hex'), p.detect_model, p.embed_model, g.category, g.label, g.score, g.box, g.embedding::text
                FROM photo p JOIN garment g ON g.photo_id = p.id ORDER BY p.path, g.category";
    ensure!(managed.database.psql(rows)? == ours.database.psql(rows)?);
    run(&["load", "photos", "--pgvector"])?
        .expect(0)?
        .expect_stdout(&["41 skipped"])?;
    let index = managed.database.psql(
        "SELECT indexdef LIKE '%USING hnsw (embedding extensions.vector_l2_ops)%' FROM pg_indexes
        WHERE indexname = 'garment_embedding_idx'",
    )?;
    ensure!(index == "t", "{index}");

    let search = ["search", "photos/query.bmp", "-k", "3"];
    let there = run(&[&search[..], &["--pgvector"]].concat())?.expect(0)?;
    let here = ours.run(search)?.expect(0)?;
    ensure!(
        distances(&there) == distances(&here) && distances(&here).len() == 6,
        "{there}{here}"
    );

    // Models do not mix there either, and are changed in the same way.
    let other = [
        "--pgvector",
        "--model-file",
        "doubled.onnx",
        "--embed-model",
        "doubled",
    ];
    run(&[&["load", "photos"][..], &other].concat())?
        .expect(1)?
        .expect_stderr(&[".embedding was filled by model \"mean\""])?;
    managed
        .database
        .psql("CREATE TABLE before AS SELECT photo_id, box, embedding FROM garment")?;
    run(&[&["reembed", "--root", "photos"][..], &other].concat())?
        .expect(0)?
        .expect_stdout(&["82 garments of 41 photos got vectors of model doubled"])?;
    let changed = managed.database.psql(
        "SELECT model_name FROM lookbook_embedding_column;
         SELECT count(*) FROM garment g JOIN before b ON b.photo_id = g.photo_id AND b.box ~= g.box
         WHERE extensions.vector_norm(g.embedding) / extensions.vector_norm(b.embedding) BETWEEN 1.999 AND 2.001",
    )?;
    ensure!(changed == "doubled\n82", "{changed}");

    // A table of the shop with pgvector's type.
    managed.database.psql(
        "CREATE TABLE look (file text NOT NULL, category text, vectors extensions.vector(3) NOT NULL); CREATE INDEX ON look (file)",
    )?;
    run(&[
        "load",
        "photos",
        "--into",
        "look",
        "--into-map",
        "key=file,embedding=vectors",
    ])?
    .expect(0)?
    .expect_stdout(&[
        "loaded 41 photos",
        "CREATE INDEX CONCURRENTLY ON \"public\".\"look\" USING hnsw (\"vectors\" extensions.vector_l2_ops)",
    ])?;
    let same = managed.database.psql("SELECT count(*) FROM look");
    ensure!(same? == "82");
    half_precision(&managed, &models)?;
    // On a server that has the extension models are its rows.
    ours.run(["load", "photos", "--model-file", "mean.onnx"])?
        .expect(1)?
        .expect_stderr(&["--model-file is for servers without the extension"])?;
    Ok(())
}

/// The same rows in a column of half-precision numbers, which changes its model, too.
fn half_precision(managed: &Shop<'_>, models: &[&str]) -> Result<()> {
    let has_halfvec = "SELECT to_regtype('extensions.halfvec') IS NOT NULL";
    ensure!(
        managed.database.psql(has_halfvec)? == "t",
        "pgvector has halfvec since 0.7"
    );
    managed.database.psql(
        "CREATE TABLE half (key text NOT NULL, category text, box box, embedding extensions.halfvec(3)); CREATE INDEX ON half (key);
         CREATE INDEX half_vectors ON half USING hnsw (embedding extensions.halfvec_l2_ops)",
    )?;
    let run = |args: &[&str]| -> Result<Outcome> {
        managed.run(args.iter().chain(&["--into", "half"]).chain(models))
    };
    run(&["load", "photos"])?.expect(0)?.expect_stdout(&[
        "loaded 41 photos with 82 garments",
        "index public.half_vectors",
    ])?;
    let alike = "SELECT count(*) FROM half h JOIN look l ON l.file = h.key AND l.category = h.category
                 WHERE extensions.l2_distance(h.embedding::extensions.vector, l.vectors) BETWEEN 0 AND ";
    ensure!(managed.database.psql(&format!("{alike} 1e-3"))? == "82");
    run(&["search", "photos/query.bmp", "-k", "3"])?
        .expect(0)?
        .expect_stdout(&["query.bmp"])?;
    run(&["doctor"])?.expect_stdout(&[
        "ok       extension        not in this database",
        "ok       rights",
        "ok       index",
    ])?;
    run(&[
        "reembed",
        "--root",
        "photos",
        "--model-file",
        "doubled.onnx",
        "--embed-model",
        "doubled",
    ])?
    .expect(0)?
    .expect_stdout(&["82 garments of 41 photos got vectors of model doubled"])?;
    let doubled = "SELECT count(*), min(attribute.atttypid::regtype::text) FROM half h JOIN look l ON l.file = h.key AND l.category = h.category,
                   LATERAL (SELECT atttypid FROM pg_attribute WHERE attrelid = 'half'::regclass AND attname = 'embedding') attribute
                   WHERE extensions.l2_distance(h.embedding::extensions.vector, extensions.vector_add(l.vectors, l.vectors)) < 2e-3";
    let doubled = managed.database.psql(doubled)?;
    ensure!(doubled == "82|extensions.halfvec", "{doubled}");
    Ok(())
}
