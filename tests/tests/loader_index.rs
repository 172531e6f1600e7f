//! The loader's index: made after a first load, never touched again; vectors lie in the table itself.

mod loader_support;
mod sql_support;

use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use loader_support::{Outcome, Shop};
use lookbook_tests::{Cluster, signal};
use postgres::Client;
use sql_support::bmp;

const PATIENCE: Duration = Duration::from_secs(60);

/// Definition, validity and file of every lookbook index of the shop.
const INDEXES: &str = "SELECT pg_get_indexdef(c.oid), i.indisvalid, c.relfilenode
    FROM pg_class c JOIN pg_am m ON m.oid = c.relam JOIN pg_index i ON i.indexrelid = c.oid
    WHERE m.amname = 'lookbook' ORDER BY c.oid";

fn shop(name: &str) -> Result<Shop<'static>> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, name)?;
    shop.put_many(40)?;
    Ok(shop)
}

fn indexes(shop: &Shop<'_>) -> Result<Vec<String>> {
    let listed = shop.database.psql(INDEXES)?;
    Ok(listed.lines().map(str::to_owned).collect())
}

/// Every garment is in the index that the loader made.
fn check_index(shop: &Shop<'_>) -> Result<()> {
    let counts = shop.database.psql(
        "SELECT lookbook_index_check('garment_embedding_category_label_idx') = count(*), count(*) > 0 FROM garment",
    )?;
    ensure!(counts == "t|t", "{counts}");
    Ok(())
}

#[test]
fn a_first_load_makes_the_index_and_increments_leave_it_alone() -> Result<()> {
    let shop = shop("index_made")?;
    shop.put("own.bmp", &bmp(8, 8, [200, 0, 0]))?;
    let first = shop.load()?.expect(0)?;
    first.expect_stdout(&[
        "index public.garment_embedding_category_label_idx made in",
        "MB",
    ])?;
    let made = indexes(&shop)?;
    ensure!(made.len() == 1, "{made:?}");
    ensure!(
        made[0].starts_with(
            "CREATE INDEX garment_embedding_category_label_idx ON public.garment USING lookbook (embedding, category, label)|t|"
        ),
        "{made:?}"
    );
    check_index(&shop)?;

    shop.put("more.bmp", &bmp(8, 8, [1, 2, 3]))?;
    shop.put("own.bmp", &bmp(8, 8, [9, 9, 9]))?;
    let increment = shop.load()?.expect(0)?;
    increment.expect_stdout(&[
        "loaded 2 photos",
        "(1 replaced)",
        "index public.garment_embedding_category_label_idx was there and has the new rows",
    ])?;
    ensure!(
        indexes(&shop)? == made,
        "{:?} was {made:?}",
        indexes(&shop)?
    );
    shop.load()?
        .expect(0)?
        .expect_stdout(&["loaded 0 photos", "was there and has the new rows"])?;
    ensure!(
        indexes(&shop)? == made,
        "{:?} was {made:?}",
        indexes(&shop)?
    );
    // Rows of replaced photos stay in the index until a vacuum.
    shop.database.psql("VACUUM garment")?;
    check_index(&shop)
}

#[test]
fn an_index_of_the_shops_own_is_kept_and_none_is_added() -> Result<()> {
    let shop = shop("own_index")?;
    shop.run(["load", "photos", "--limit", "5", "--no-index"])?
        .expect(0)?
        .expect_stdout(&["no index, as asked by --no-index"])?;
    ensure!(indexes(&shop)?.is_empty());
    shop.database
        .psql("CREATE INDEX mine ON garment USING lookbook (embedding)")?;
    let before = indexes(&shop)?;
    shop.load()?
        .expect(0)?
        .expect_stdout(&["index public.mine was there and has the new rows"])?;
    ensure!(indexes(&shop)? == before, "{before:?}");
    Ok(())
}

#[test]
fn an_index_that_searches_cannot_use_is_not_the_index() -> Result<()> {
    let shop = shop("other_index")?;
    shop.run(["load", "photos", "--limit", "5", "--no-index"])?
        .expect(0)?;
    shop.database.psql(
        "CREATE INDEX ON garment USING lookbook (embedding embedding_cosine_ops);
         CREATE INDEX ON garment USING lookbook (embedding) WHERE category = 'nothing'",
    )?;
    shop.run(["doctor"])?.expect_stdout(&[
        "warning  index",
        "none on the embedding",
        "CREATE INDEX ON",
    ])?;
    shop.load()?
        .expect(0)?
        .expect_stdout(&["index public.garment_embedding_category_label_idx made in"])?;
    ensure!(indexes(&shop)?.len() == 3);
    check_index(&shop)
}

#[test]
fn a_dropped_index_comes_back_unless_it_is_not_wanted() -> Result<()> {
    let shop = shop("dropped_index")?;
    shop.load()?.expect(0)?;
    shop.database
        .psql("DROP INDEX garment_embedding_category_label_idx")?;
    shop.run(["load", "photos", "--no-index"])?
        .expect(0)?
        .expect_stdout(&["no index, as asked by --no-index"])?;
    ensure!(indexes(&shop)?.is_empty());
    shop.load()?.expect(0)?.expect_stdout(&["made in"])?;
    check_index(&shop)
}

/// Starts a load whose index has to wait for `client`, and returns when it waits.
fn load_that_waits(shop: &Shop<'_>, client: &mut Client) -> Result<Child> {
    client.batch_execute("BEGIN; LOCK TABLE garment IN ROW EXCLUSIVE MODE")?;
    let mut load = shop.lookbook(["load", "photos"])?;
    let child = load.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut watcher = shop.database.connect()?;
    let deadline = Instant::now() + PATIENCE;
    while watcher
        .query(
            "SELECT FROM pg_locks WHERE relation = 'garment'::regclass AND NOT granted",
            &[],
        )?
        .is_empty()
    {
        ensure!(Instant::now() < deadline, "the index does not begin");
        sleep(Duration::from_millis(10));
    }
    Ok(child)
}

#[test]
fn ctrl_c_ends_the_making_of_the_index_and_a_rerun_makes_it() -> Result<()> {
    let shop = shop("index_interrupted")?;
    shop.run(["load", "photos", "--limit", "1", "--no-index"])?
        .expect(0)?;
    let mut blocker = shop.database.connect()?;
    let child = load_that_waits(&shop, &mut blocker)?;
    signal("INT", child.id())?;
    let outcome = Outcome::from(child.wait_with_output()?).expect(2)?;
    outcome.expect_stdout(&[
        "loaded 39 photos",
        "no index yet: the run was interrupted",
        "run the same command again",
    ])?;
    ensure!(indexes(&shop)?.is_empty());
    blocker.batch_execute("ROLLBACK")?;
    shop.load()?
        .expect(0)?
        .expect_stdout(&["loaded 0 photos", "made in"])?;
    check_index(&shop)
}

#[test]
fn a_loader_killed_by_9_takes_the_making_of_its_index_with_it() -> Result<()> {
    let shop = shop("index_killed")?;
    shop.run(["load", "photos", "--limit", "1", "--no-index"])?
        .expect(0)?;
    let mut blocker = shop.database.connect()?;
    let mut child = load_that_waits(&shop, &mut blocker)?;
    child.kill()?;
    child.wait()?;
    let deadline = Instant::now() + PATIENCE;
    let at_work = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'CREATE INDEX%'";
    while !blocker.query(at_work, &[])?.is_empty() {
        ensure!(
            Instant::now() < deadline,
            "the server goes on for a loader that is gone"
        );
        // One transaction sees one copy of the statistics.
        blocker.execute("SELECT pg_stat_clear_snapshot()", &[])?;
        sleep(Duration::from_millis(50));
    }
    blocker.batch_execute("ROLLBACK")?;
    ensure!(indexes(&shop)?.is_empty());
    shop.load()?.expect(0)?.expect_stdout(&["made in"])?;
    check_index(&shop)
}

#[test]
fn an_index_that_cannot_be_made_is_said_and_the_photos_stay() -> Result<()> {
    let shop = shop("index_refused")?;
    shop.run(["load", "photos", "--limit", "1", "--no-index"])?
        .expect(0)?;
    shop.database
        .psql("ALTER TABLE garment ALTER COLUMN embedding TYPE embedding")?;
    let refused = shop.load()?.expect(2)?;
    refused.expect_stdout(&[
        "loaded 39 photos",
        "no index: column does not have dimensions",
        "CREATE INDEX ON \"public\".garment USING lookbook (embedding, category, label)",
    ])?;
    shop.check_complete(40)
}

#[test]
fn progress_as_json_tells_what_became_of_the_index() -> Result<()> {
    let shop = shop("index_json")?;
    for action in ["made", "kept"] {
        let outcome = shop
            .run(["load", "photos", "--progress", "json"])?
            .expect(0)?;
        let last = outcome.stdout.lines().last().context("there are lines")?;
        let summary: serde_json::Value = serde_json::from_str(last)?;
        assert_eq!(summary["index"]["action"], action, "{summary}");
        assert_eq!(
            summary["index"]["name"],
            "public.garment_embedding_category_label_idx"
        );
        assert_eq!(summary["index"]["valid"], true);
    }
    Ok(())
}

#[test]
fn vectors_lie_in_the_table_itself_as_long_as_a_page_holds_them() -> Result<()> {
    let shop = shop("inline")?;
    shop.run(["load", "photos", "--no-index"])?.expect(0)?;
    // Rows as a bulky catalogue has them; texts stay with the vector, too.
    let sku = "catalogue/2026/spring/women/dresses/floral-maxi-dress-0123456789";
    for (dimensions, is_inline) in [
        (256, true),
        (512, true),
        (1_280, true),
        (1_536, true),
        (1_900, true),
        (2_048, false),
        (4_096, false),
    ] {
        let toast_bytes = shop.database.psql(&format!(
            "TRUNCATE garment;
             ALTER TABLE garment ALTER COLUMN embedding TYPE embedding({dimensions});
             INSERT INTO garment (photo_id, sku, category, label, score, box, embedding)
             SELECT p.id, '{sku}', 'full_body', 'dress', 0.5, '(9,9),(0,0)', v
             FROM (SELECT id FROM photo LIMIT 5) p,
                  (SELECT array_agg(sin(d))::real[]::embedding AS v FROM generate_series(1, {dimensions}) d) x;
             SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = 'garment'::regclass",
        ))?;
        ensure!(
            (toast_bytes == "0") == is_inline,
            "{dimensions} dimensions: {toast_bytes} bytes lie outside of the table"
        );
    }
    Ok(())
}
