//! Tables kept in step with their source and their model: after every change, and every kill, they hold
//! what a load from nothing would have made.

mod loader_support;
mod sql_support;

use std::{
    fs,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use loader_support::{MAXIMUM, Shop};
use lookbook_tests::{Cluster, check_output};
use postgres::Client;
use sql_support::{bmp, import_embedder};

const RED: [u8; 3] = [255, 0, 0];
const BLUE: [u8; 3] = [0, 0, 255];
const PATIENCE: Duration = Duration::from_secs(90);
/// Enough that work is caught in the middle: it is committed after 512 photos.
const MANY: usize = 4_000;

fn tiny(name: &str) -> Result<Shop<'static>> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, name)?;
    import_embedder(&mut shop.database.connect()?, "brightest", MAXIMUM)?;
    Ok(shop)
}

/// The tables are those that a load of the folder from nothing makes, but for ids.
fn expect_as_fresh(shop: &Shop<'_>, embed_model: &str) -> Result<()> {
    expect_as_fresh_of(shop, &["photos"], embed_model)
}

fn expect_as_fresh_of(shop: &Shop<'_>, source: &[&str], embed_model: &str) -> Result<()> {
    shop.database.psql("DROP SCHEMA IF EXISTS fresh CASCADE")?;
    let fresh = ["--schema", "fresh", "--no-index", "--embed-model"];
    shop.run([&["load"], source, &fresh, &[embed_model]].concat())?
        .expect(0)?;
    let rows = |schema: &str| {
        format!(
            "SELECT p.path, p.sku, p.sha256, p.width, p.height, p.detect_model, p.embed_model, p.attributes::text,
               g.sku, g.category, g.label, g.score, g.box::text
             FROM {schema}.photo p LEFT JOIN {schema}.garment g ON g.photo_id = p.id"
        )
    };
    let (kept, fresh) = (rows("public"), rows("fresh"));
    // A vector's last digits depend on the size of the batch it was made in.
    let differences = shop.database.psql(&format!(
        "SELECT (SELECT count(*) FROM ({kept} EXCEPT ALL {fresh}) a), (SELECT count(*) FROM ({fresh} EXCEPT ALL {kept}) b),
           (SELECT count(*) FROM public.photo p JOIN public.garment g ON g.photo_id = p.id
              LEFT JOIN (fresh.photo fp JOIN fresh.garment fg ON fg.photo_id = fp.id)
                ON fp.path = p.path AND fg.category = g.category AND fg.box ~= g.box
            WHERE l2_distance(g.embedding, fg.embedding) < 1e-4 IS NOT TRUE),
           (SELECT model_name FROM lookbook_embedding_column WHERE relation = 'public.garment'::regclass)"
    ))?;
    ensure!(
        differences == format!("0|0|0|{embed_model}"),
        "{differences}"
    );
    Ok(())
}

/// Waits until `condition` holds and stops the work there: it goes on when the session is dropped, which holds a
/// lock on `table`.
fn hold_when(shop: &Shop<'_>, child: &mut Child, table: &str, condition: &str) -> Result<Client> {
    let mut session = shop.database.connect()?;
    loop {
        shop.wait_until(child, condition, PATIENCE)?;
        session.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN SHARE MODE"))?;
        // The condition may have come true in a transaction that was rolled back since.
        if session.query_one(condition, &[])?.get(0) {
            return Ok(session);
        }
        session.batch_execute("COMMIT")?;
    }
}

fn start(shop: &Shop<'_>, args: &[&str]) -> Result<Child> {
    let mut command = shop.lookbook(args)?;
    Ok(command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?)
}

#[test]
fn a_sync_loads_what_is_new_or_changed_and_prunes_what_is_gone() -> Result<()> {
    let shop = tiny("synced")?;
    shop.put_many(30)?;
    shop.run(["sync", "photos"])?
        .expect(0)?
        .expect_stdout(&["loaded 30 photos", "no photo is gone"])?;
    shop.put("new/a.bmp", &bmp(20, 30, RED))?;
    // Links share their bytes: 16 and 0 are one file.
    shop.put("00000.bmp", &bmp(8, 8, BLUE))?;
    fs::remove_file(shop.photos().join("00003.bmp"))?;
    fs::remove_file(shop.photos().join("00029.bmp"))?;
    shop.run(["sync", "photos"])?.expect(0)?.expect_stdout(&[
        "loaded 3 photos",
        "(2 replaced)",
        "kept 2 photos gone from the source: --prune deletes them",
    ])?;
    assert_eq!(shop.photo_count()?, 31);
    shop.run(["sync", "photos", "--prune"])?
        .expect(0)?
        .expect_stdout(&["loaded 0 photos", "deleted 2 photos gone from the source"])?;
    expect_as_fresh(&shop, "mean")?;
    let pruned = shop
        .database
        .psql("SELECT pruned FROM lookbook_run ORDER BY id DESC LIMIT 1")?;
    assert_eq!(pruned, "2");
    Ok(())
}

#[test]
fn a_sync_refuses_to_delete_more_than_a_share_or_on_a_doubtful_word() -> Result<()> {
    let shop = tiny("prune_limit")?;
    shop.put_many(30)?;
    shop.load()?.expect(0)?;
    for number in 0..10 {
        fs::remove_file(shop.photos().join(format!("{number:05}.bmp")))?;
    }
    shop.put("new.bmp", &bmp(20, 30, RED))?;
    shop.run(["sync", "photos", "--prune"])?
        .expect(1)?
        .expect_stderr(&[
            "10 of 30 photos (33 %) are gone from the source, more than --prune-limit 0.2 allows",
            "nothing was deleted",
        ])?;
    // What is new was loaded all the same.
    assert_eq!(shop.photo_count()?, 31);
    shop.run(["sync", "photos", "--prune", "--limit", "3"])?
        .expect(1)?
        .expect_stderr(&["--prune and --limit do not go together"])?;
    // A folder that leads back to itself cannot be listed whole.
    std::os::unix::fs::symlink(shop.photos(), shop.photos().join("loop"))?;
    shop.run(["sync", "photos", "--prune", "--prune-limit", "0.5"])?
        .expect(1)?
        .expect_stderr(&["could not be listed whole", "nothing was deleted"])?;
    assert_eq!(shop.photo_count()?, 31);
    fs::remove_file(shop.photos().join("loop"))?;
    shop.run(["sync", "photos", "--prune", "--prune-limit", "0.5"])?
        .expect(0)?;
    expect_as_fresh(&shop, "mean")
}

#[test]
fn photos_behind_a_link_that_leads_nowhere_are_not_gone() -> Result<()> {
    let shop = tiny("unmounted")?;
    shop.put_many(20)?;
    let (share, off) = (shop.path("nas"), shop.path("off"));
    fs::create_dir(&share)?;
    for name in ["a.bmp", "b.bmp", "c.bmp"] {
        fs::write(share.join(name), bmp(8, 8, RED))?;
    }
    std::os::unix::fs::symlink(&share, shop.photos().join("nas"))?;
    shop.load()?.expect(0)?;
    fs::rename(&share, &off)?;
    shop.run(["sync", "photos", "--prune"])?
        .expect(1)?
        .expect_stderr(&[
            "nas: ",
            "[unreadable]",
            "the source seems to lack 3 photos, but could not be listed whole",
        ])?;
    ensure!(shop.photo_count()? == 23);
    fs::rename(&off, &share)?;
    shop.run(["sync", "photos", "--prune"])?
        .expect(0)?
        .expect_stdout(&["no photo is gone"])?;
    Ok(())
}

#[test]
fn a_photo_that_the_shop_refers_to_is_not_pruned_and_the_others_are() -> Result<()> {
    let shop = tiny("referred")?;
    shop.put_many(20)?;
    shop.load()?.expect(0)?;
    shop.database.psql(
        "CREATE TABLE favourite (photo bigint REFERENCES photo);
         INSERT INTO favourite SELECT id FROM photo WHERE path = '00017.bmp'",
    )?;
    for number in 16..20 {
        fs::remove_file(shop.photos().join(format!("{number:05}.bmp")))?;
    }
    shop.run(["sync", "photos", "--prune"])?
        .expect(0)?
        .expect_stdout(&["deleted 3 photos gone from the source"])?
        .expect_stderr(&["kept 1 photo gone from the source", "favourite"])?;
    ensure!(shop.photo_count()? == 17);
    Ok(())
}

#[test]
fn a_shard_prunes_its_own_part_only() -> Result<()> {
    let shop = tiny("prune_shard")?;
    shop.put_many(60)?;
    shop.load()?.expect(0)?;
    for number in 20..60 {
        fs::remove_file(shop.photos().join(format!("{number:05}.bmp")))?;
    }
    let sync = |shard: &str| {
        shop.run([
            "sync",
            "photos",
            "--prune",
            "--prune-limit",
            "1",
            "--shard",
            shard,
        ])
    };
    sync("1/2")?.expect(0)?;
    let left = shop.photo_count()?;
    ensure!((25..55).contains(&left), "{left} of 60 photos are left");
    sync("2/2")?.expect(0)?;
    expect_as_fresh(&shop, "mean")
}

#[test]
fn a_sync_killed_by_9_is_found_out_and_a_rerun_does_the_rest() -> Result<()> {
    let shop = tiny("sync_killed")?;
    shop.put_many(MANY)?;
    shop.load()?.expect(0)?;
    for number in 100..300 {
        fs::remove_file(shop.photos().join(format!("{number:05}.bmp")))?;
    }
    // All links change with their file.
    for file in 0..16 {
        shop.put(&format!("{file:05}.bmp"), &bmp(8, 8, [90, file * 16, 200]))?;
    }
    let args = ["sync", "photos", "--prune"];
    let mut child = start(&shop, &args)?;
    let begun = "SELECT count(DISTINCT loaded_at::text) FILTER (WHERE loaded_at > (SELECT started_at FROM lookbook_run
        WHERE verb = 'sync')) > 0 FROM photo";
    let hold = hold_when(&shop, &mut child, "photo", begun)?;
    child.kill()?;
    child.wait()?;
    drop(hold);
    shop.wait_for_the_end(PATIENCE)?;
    let replaced: i64 = shop.database.connect()?.query_one(
        "SELECT count(*) FROM photo WHERE loaded_at > (SELECT started_at FROM lookbook_run WHERE verb = 'sync')", &[])?.get(0);
    ensure!(
        (1..MANY as i64 - 200).contains(&replaced),
        "{replaced} photos were replaced before the kill"
    );
    shop.run(args)?.expect(0)?;
    let runs = "SELECT string_agg(verb || ' ' || status, ', ' ORDER BY id), bool_and(ended_at IS NOT NULL) FROM lookbook_run";
    assert_eq!(
        shop.database.psql(runs)?,
        "load complete, sync killed, sync complete|t"
    );
    expect_as_fresh(&shop, "mean")
}

/// Readers compare the column with the record of its model, in one statement, all the while.
fn read_on(shop: &Shop<'_>, is_over: &AtomicBool, new: &AtomicU64) -> Result<u64> {
    let mut client = shop.database.connect()?;
    let mut old = 0;
    while !is_over.load(Ordering::Relaxed) {
        let row = client.query_one(
            "SELECT (SELECT model_name FROM lookbook_embedding_column WHERE relation = 'garment'::regclass AND attribute = 'embedding'),
               count(*) FILTER (WHERE g.embedding = o.embedding), count(*)
             FROM garment g JOIN old_vectors o ON o.id = g.id",
            &[],
        )?;
        let (model, same, all): (String, i64, i64) = (row.get(0), row.get(1), row.get(2));
        match model.as_str() {
            "mean" if same == all => old += 1,
            "brightest" if same == 0 => {
                new.fetch_add(1, Ordering::Relaxed);
            }
            _ => bail!("a mix: {same} of {all} rows have the old vector, and the model is {model}"),
        }
    }
    Ok(old)
}

#[test]
fn a_change_of_models_killed_by_9_goes_on_and_readers_never_see_a_mix() -> Result<()> {
    let shop = tiny("reembed_killed")?;
    shop.put_many(MANY)?;
    shop.load()?.expect(0)?;
    // The left half of each photo has a black pixel: its average is not its maximum.
    shop.database.psql(
        "CREATE TABLE old_vectors AS SELECT id, embedding FROM garment WHERE category = 'upper'",
    )?;
    let args = ["reembed", "--embed-model", "brightest", "--root", "photos"];
    let is_over = AtomicBool::new(false);
    let new = AtomicU64::new(0);
    let old = thread::scope(|scope| -> Result<u64> {
        let reader = scope.spawn(|| read_on(&shop, &is_over, &new));
        let work = || -> Result<()> {
            let mut child = start(&shop, &args)?;
            let filled = "SELECT count(embedding_next) > 0 FROM garment";
            let hold = hold_when(&shop, &mut child, "garment", filled)?;
            child.kill()?;
            child.wait()?;
            drop(hold);
            shop.wait_for_the_end(PATIENCE)?;
            let filled: i64 = shop
                .database
                .connect()?
                .query_one("SELECT count(embedding_next) FROM garment", &[])?
                .get(0);
            ensure!(
                (1..2 * MANY as i64).contains(&filled),
                "{filled} rows were filled before the kill"
            );
            // Loads go on with the model that the column has.
            shop.put("late.bmp", &bmp(20, 30, RED))?;
            shop.load()?.expect(0)?.expect_stdout(&["loaded 1 photo"])?;
            // It goes on, and begins nothing anew.
            let rest = "SELECT count(*) FROM garment WHERE embedding_next IS NULL";
            let rest = shop.database.psql(rest)?;
            shop.run(args)?
                .expect(0)?
                .expect_stdout(&[&format!("{rest} garments of ")])?;
            Ok(())
        };
        let worked = work();
        let deadline = Instant::now() + PATIENCE;
        while new.load(Ordering::Relaxed) == 0 && !reader.is_finished() && Instant::now() < deadline
        {
            sleep(Duration::from_millis(5));
        }
        is_over.store(true, Ordering::Relaxed);
        let read = reader
            .join()
            .map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        worked?;
        read
    })?;
    let new = new.into_inner();
    ensure!(
        old > 0 && new > 0,
        "the reader saw {old} times the old and {new} times the new model"
    );
    expect_as_fresh(&shop, "brightest")?;
    let index = shop.database.psql(
        "SELECT lookbook_index_check(indexrelid) = (SELECT count(*) FROM garment), indisvalid, indexrelid::regclass::text NOT LIKE '%_next'
         FROM pg_index i JOIN pg_class c ON c.oid = indexrelid JOIN pg_am m ON m.oid = relam WHERE amname = 'lookbook' AND indrelid = 'public.garment'::regclass",
    )?;
    assert_eq!(index, "t|t|t");
    let runs = "SELECT string_agg(verb || ' ' || status, ', ' ORDER BY id) FROM lookbook_run";
    assert_eq!(
        shop.database.psql(runs)?,
        "load complete, reembed killed, load complete, reembed complete"
    );
    let columns = "SELECT attribute, model_name FROM lookbook_embedding_column WHERE relation = 'public.garment'::regclass";
    assert_eq!(shop.database.psql(columns)?, "embedding|brightest");
    // And once more there is nothing to do.
    shop.run(args)?
        .expect(0)?
        .expect_stderr(&["is of model \"brightest\" already"])?;
    Ok(())
}

#[test]
fn photos_that_are_gone_or_changed_hold_up_a_change_of_models() -> Result<()> {
    let shop = tiny("reembed_missing")?;
    for name in ["a.bmp", "b.bmp", "c.bmp"] {
        shop.put(name, &bmp(40, 40, RED))?;
    }
    shop.load()?.expect(0)?;
    let reembed = |more: &[&str]| {
        let args = ["reembed", "--embed-model", "brightest", "--root", "photos"];
        shop.run(args.iter().chain(more))
    };
    fs::remove_file(shop.photos().join("a.bmp"))?;
    shop.put("b.bmp", &bmp(40, 40, BLUE))?;
    reembed(&["--drop-missing"])?.expect(1)?.expect_stderr(&[
        "1 photos of photos are not those that were loaded",
        "(b.bmp)",
        "nothing was swapped",
        "lookbook sync",
    ])?;
    let rejects = "SELECT path, code FROM lookbook_reject ORDER BY path";
    assert_eq!(
        shop.database.psql(rejects)?,
        "a.bmp|not_found\nb.bmp|changed"
    );
    shop.run(["sync", "photos"])?.expect(0)?;
    reembed(&[])?.expect(1)?.expect_stderr(&[
        "1 of 3 photos (33 %) are not in photos (a.bmp)",
        "or delete their rows with --drop-missing",
    ])?;
    reembed(&["--drop-missing"])?.expect(1)?.expect_stderr(&[
        "1 of 3 photos (33 %) are not in photos, more than --prune-limit 0.2 allows (a.bmp)",
        "run this again with a higher limit",
    ])?;
    assert_eq!(shop.photo_count()?, 3);
    reembed(&["--drop-missing", "--prune-limit", "0.5"])?
        .expect(0)?
        .expect_stderr(&["deleted 1 photo gone from the source"])?;
    expect_as_fresh(&shop, "brightest")
}

#[test]
fn photos_of_a_query_are_not_deleted_because_no_folder_has_them() -> Result<()> {
    let shop = tiny("reembed_query")?;
    let mut client = shop.database.connect()?;
    client.batch_execute("CREATE TABLE image (id int PRIMARY KEY, data bytea)")?;
    for id in 1..=3 {
        let put = "INSERT INTO image VALUES ($1, $2)";
        client.execute(put, &[&id, &bmp(40, 40, RED)])?;
    }
    let query = "SELECT id, id AS sku, data AS image FROM image";
    shop.run(["load", "--from-sql", query])?.expect(0)?;
    for more in [&[][..], &["--drop-missing"]] {
        let args = ["reembed", "--embed-model", "brightest", "--root", "photos"];
        let refused = shop.run(args.iter().chain(more))?.expect(1)?;
        let refused = refused.expect_stderr(&[
            "3 of 3 photos (100 %) are not in photos",
            "name what was loaded, as lookbook load was given it",
        ])?;
        ensure!(!refused.stderr.contains("their rows with --drop-missing"));
        assert_eq!(shop.photo_count()?, 3);
    }
    // The query itself has them, but for one.
    client.batch_execute("DELETE FROM image WHERE id = 2")?;
    let reembed = |more: &[&str]| {
        let args = ["reembed", "--embed-model", "brightest", "--from-sql", query];
        shop.run(args.iter().chain(more))
    };
    let change = "UPDATE image SET data = $1 WHERE id = 3";
    client.execute(change, &[&bmp(40, 40, BLUE)])?;
    reembed(&["--drop-missing"])?
        .expect(1)?
        .expect_stderr(&["are not those that were loaded", "(3)"])?;
    shop.run(["sync", "--from-sql", query])?.expect(0)?;
    reembed(&[])?.expect(1)?.expect_stderr(&[
        "1 of 3 photos (33 %) are not in SELECT id, id AS sku, data AS image FROM image (2)",
        "or delete their rows with --drop-missing",
    ])?;
    reembed(&["--drop-missing", "--prune-limit", "0.5"])?
        .expect(0)?
        .expect_stderr(&["deleted 1 photo gone from the source"])?;
    expect_as_fresh_of(&shop, &["--from-sql", query], "brightest")
}

#[test]
fn a_change_of_models_reads_lists_and_archives_as_a_load_does() -> Result<()> {
    let list = ["list.csv", "--map", "key=look,image=file,sku=product"];
    for (name, source) in [
        ("reembed_list", &list[..]),
        ("reembed_archive", &["photos.tar", "--name-by-shard"]),
    ] {
        let shop = tiny(name)?;
        shop.put_many(16)?;
        let rows: String = (0..16)
            .map(|number| format!("{number},photos/{number:05}.bmp,P{}\n", number / 3))
            .collect();
        fs::write(shop.path("list.csv"), format!("look,file,product\n{rows}"))?;
        let mut tar = Command::new("tar");
        tar.current_dir(shop.path("."));
        check_output(tar.args(["-cf", "photos.tar", "photos"]))?;
        shop.run([&["load"], source].concat())?.expect(0)?;
        let reembed = [&["reembed", "--embed-model", "brightest"], source].concat();
        shop.run(reembed)?
            .expect(0)?
            .expect_stdout(&["32 garments of 16 photos got vectors of model brightest"])?;
        expect_as_fresh_of(&shop, source, "brightest")?;
    }
    Ok(())
}

#[test]
fn a_model_of_other_dimensions_takes_over_with_index_and_default() -> Result<()> {
    let shop = tiny("reembed_wider")?;
    shop.put_many(20)?;
    shop.load()?.expect(0)?;
    shop.database
        .psql("CREATE VIEW shown AS SELECT sku, embedding FROM garment")?;
    let args = [
        "reembed",
        "--model",
        "garment-embedder",
        "--root",
        "photos",
        "--make-default",
    ];
    shop.run(args)?
        .expect(1)?
        .expect_stderr(&["embedding cannot change its model", "view public.shown"])?;
    shop.database.psql("DROP VIEW shown")?;
    shop.run(args)?
        .expect(0)?
        .expect_stdout(&["40 garments of 20 photos got vectors of model garment-embedder"])?;
    expect_as_fresh(&shop, "garment-embedder")?;
    // The nightly load, which knows nothing of it.
    let nightly = shop.run(["load", "photos", "--embed-model", "mean"])?;
    nightly.expect(1)?.expect_stderr(&[
        "was filled by model \"garment-embedder\"",
        "load with --embed-model garment-embedder",
    ])?;
    let now = shop.database.psql(
        "SELECT format_type(atttypid, atttypmod), attnotnull, (SELECT name FROM lookbook_default_model WHERE kind = 'embedder' ORDER BY shipped LIMIT 1)
         FROM pg_attribute WHERE attrelid = 'public.garment'::regclass AND attname = 'embedding'",
    )?;
    assert_eq!(now, "embedding(256)|t|garment-embedder");
    let index = shop.database.psql(
        "SELECT pg_get_indexdef(indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = indexrelid JOIN pg_am m ON m.oid = relam
         WHERE amname = 'lookbook' AND indrelid = 'public.garment'::regclass",
    )?;
    ensure!(
        index.ends_with("USING lookbook (embedding, category, label)"),
        "{index}"
    );
    shop.load()?.expect(0)?.expect_stdout(&["20 skipped"])?;
    Ok(())
}

#[test]
fn a_change_of_models_can_be_given_up() -> Result<()> {
    let shop = tiny("reembed_abandoned")?;
    shop.put("a.bmp", &bmp(40, 40, RED))?;
    shop.put("b.bmp", &bmp(40, 40, RED))?;
    shop.load()?.expect(0)?;
    fs::rename(shop.photos().join("a.bmp"), shop.path("a.bmp"))?;
    shop.run(["reembed", "--model", "brightest", "--root", "photos"])?
        .expect(1)?;
    shop.run(["reembed", "--abandon"])?.expect(0)?;
    fs::rename(shop.path("a.bmp"), shop.photos().join("a.bmp"))?;
    let left = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'garment'::regclass AND attname = 'embedding_next'";
    assert_eq!(shop.database.psql(left)?, "0");
    expect_as_fresh(&shop, "mean")
}
