//! Interrupted loads: nothing committed is lost, and the same command goes on.

mod loader_support;
mod sql_support;

use anyhow::{Context, Result, ensure};
use loader_support::{Outcome, Shop};
use lookbook_tests::{Cluster, signal};
use sql_support::{bmp, embedder_manifest, import, onnx};

/// Enough that a load is caught in the middle: it commits after 512 photos.
const MANY: usize = 6_000;

fn skipped(outcome: &Outcome) -> Result<i64> {
    let (before, _) = outcome
        .stdout
        .split_once(" skipped")
        .context("skipped photos are counted")?;
    let number = before.rsplit(' ').next().context("a number comes first")?;
    Ok(number.parse()?)
}

#[test]
fn a_load_killed_by_9_keeps_what_it_committed_and_a_rerun_does_the_rest() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "killed")?;
    shop.put_many(MANY)?;
    let (mut child, hold) = shop.start_load()?;
    child.kill()?;
    child.wait()?;
    drop(hold);
    let committed = shop.photo_count()?;
    ensure!(
        (1..MANY as i64).contains(&committed),
        "{committed} photos were committed before the kill"
    );
    let rest = shop.load()?.expect(0)?;
    ensure!(
        skipped(&rest)? >= committed,
        "{committed} were committed: {rest}"
    );
    shop.check_complete(MANY)
}

#[test]
fn ctrl_c_ends_in_good_order_with_exit_code_2_and_says_how_to_go_on() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "interrupted")?;
    shop.put_many(MANY)?;
    let (child, hold) = shop.start_load()?;
    signal("INT", child.id())?;
    drop(hold);
    let outcome = Outcome::from(child.wait_with_output()?).expect(2)?;
    let outcome = outcome.expect_stdout(&["interrupted with", "run the same command again"])?;
    let committed = shop.photo_count()?;
    ensure!(
        outcome
            .stdout
            .contains(&format!("loaded {committed} photos")),
        "{committed} photos are in the table: {outcome}"
    );
    ensure!(
        committed < MANY as i64,
        "the load was over before the interrupt"
    );
    let rest = shop.load()?.expect(0)?;
    assert_eq!(skipped(&rest)?, committed);
    shop.check_complete(MANY)
}

#[test]
fn a_server_that_stops_mid_way_is_a_clear_error_and_a_rerun_does_the_rest() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let shop = Shop::with_tiny_models(&cluster, "gone")?;
    shop.put_many(MANY)?;
    for stop in [Cluster::stop, Cluster::kill_9] {
        shop.database
            .psql("DROP TABLE IF EXISTS garment, photo; DELETE FROM lookbook_embedding_column")?;
        let (child, hold) = shop.start_load()?;
        stop(&cluster)?;
        drop(hold);
        let outcome = Outcome::from(child.wait_with_output()?).expect(1)?;
        outcome.expect_stderr(&[
            "the connection to the database was lost",
            "what it committed stays (",
            "run the same command again",
        ])?;
        shop.load()?
            .expect(1)?
            .expect_stderr(&["cannot connect to database gone"])?;
        cluster.start_server()?;
        let committed = shop.photo_count()?;
        ensure!(
            (1..MANY as i64).contains(&committed),
            "{committed} photos were committed"
        );
        let rest = shop.load()?.expect(0)?;
        assert_eq!(skipped(&rest)?, committed);
        shop.check_complete(MANY)?;
    }
    Ok(())
}

#[test]
fn two_loads_at_once_never_mix_their_rows() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "two_at_once")?;
    shop.put_many(MANY)?;
    let (first, hold) = shop.start_load()?;
    drop(hold);
    // It waits a while for the first to end, then gives up.
    let second = shop.load()?;
    Outcome::from(first.wait_with_output()?).expect(0)?;
    if second.code == Some(0) {
        second.expect_stdout(&["loaded 0 photos"])?;
    } else {
        second
            .expect(1)?
            .expect_stderr(&["another lookbook load is writing to schema \"public\""])?;
    }
    shop.check_complete(MANY)
}

#[test]
fn a_table_in_use_by_another_load_is_said_so() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "locked")?;
    shop.put_many(16)?;
    let mut other = shop.database.connect()?;
    // The key that docs/loader.md names.
    other.batch_execute("SELECT pg_advisory_lock(1819242347, hashtext('public'))")?;
    let refused = shop.load()?.expect(1)?;
    refused.expect_stderr(&[
        "another lookbook load is writing to schema \"public\"",
        "run this again",
    ])?;
    drop(other);
    shop.load()?.expect(0)?;
    shop.check_complete(16)
}

#[test]
fn a_role_with_timeouts_loads_all_the_same() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "timeouts")?;
    shop.put_many(600)?;
    shop.database
        .psql("ALTER DATABASE timeouts SET lock_timeout = '1ms'; ALTER DATABASE timeouts SET idle_session_timeout = '500ms';
               ALTER DATABASE timeouts SET statement_timeout = '100ms'")?;
    let mut holder = shop.database.cluster().connect("postgres", "timeouts")?;
    holder.batch_execute("SET statement_timeout = 0; SET idle_session_timeout = 0")?;
    shop.load()?.expect(0)?;
    // Somebody holds the table for longer than a role may wait.
    let holds = std::thread::spawn(move || {
        holder.batch_execute("BEGIN; LOCK TABLE photo IN SHARE MODE; SELECT pg_sleep(2); COMMIT")
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    shop.put("late.bmp", b"no photo")?;
    shop.put("later.bmp", &bmp(8, 8, [1, 2, 3]))?;
    shop.load()?.expect(2)?.expect_stdout(&["loaded 1 photo"])?;
    holds
        .join()
        .map_err(|_| anyhow::anyhow!("the holder ended early"))??;
    // From elsewhere: a session of this database has little time for whatever it says first.
    shop.database
        .cluster()
        .connect("postgres", "postgres")?
        .batch_execute("ALTER DATABASE timeouts RESET ALL")?;
    shop.check_complete(601)
}

#[test]
fn a_transaction_that_another_was_in_the_way_of_is_tried_again() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "in_the_way")?;
    let mut client = shop.database.connect()?;
    shop.put_many(16)?;
    shop.load()?.expect(0)?;
    let doubled = onnx::scaled_embedder(2.0);
    let manifest = embedder_manifest(&mut client, "doubled", &doubled)?;
    import(&mut client, "doubled", &manifest, &doubled)?;
    client.batch_execute(
        "CREATE SEQUENCE seen; CREATE TABLE way (code text);
         CREATE FUNCTION in_the_way() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF nextval('seen') <= 2 THEN RAISE EXCEPTION 'in the way' USING ERRCODE = (SELECT code FROM way); END IF;
           RETURN coalesce(NEW, OLD); END $$;
         CREATE TRIGGER in_the_way BEFORE INSERT OR UPDATE OR DELETE ON garment FOR EACH ROW EXECUTE FUNCTION in_the_way()",
    )?;
    let again = |code: &str, args: &[&str]| -> Result<Outcome> {
        shop.database.psql(&format!(
            "ALTER SEQUENCE seen RESTART; TRUNCATE way; INSERT INTO way VALUES ('{code}')"
        ))?;
        shop.run(args)?.expect(0)
    };
    for (number, code) in ["40P01", "40001", "55P03"].into_iter().enumerate() {
        shop.put(&format!("new{number}.bmp"), &bmp(8, 8, [9, 9, 9]))?;
        again(code, &["load", "photos"])?.expect_stdout(&["loaded 1 photo with"])?;
    }
    std::fs::remove_file(shop.photos().join("new0.bmp"))?;
    again("40P01", &["sync", "photos", "--prune"])?
        .expect_stdout(&["deleted 1 photo gone from the source"])?;
    again("40001", &["reembed", "photos", "--embed-model", "doubled"])?
        .expect_stdout(&["got vectors of model doubled"])?;
    // One that never ends costs its photo.
    client.batch_execute(
        "ALTER SEQUENCE seen INCREMENT -1 MINVALUE -1000000 MAXVALUE 100 RESTART 2",
    )?;
    shop.put("last.bmp", &bmp(8, 8, [9, 9, 9]))?;
    shop.run(["load", "photos", "--embed-model", "doubled"])?
        .expect(2)?
        .expect_stderr(&["last.bmp: in the way [row_refused]"])?;
    Ok(())
}

#[test]
fn what_a_failing_batch_committed_is_counted() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "counted")?;
    shop.put_many(60)?;
    // Of one photo a row is refused, so that its batch is halved; of another the disk is full.
    shop.database.psql(
        "CREATE TABLE look (file text CHECK (file <> '00003.bmp'), kind text, vector embedding(3));
         CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF NEW.file = '00055.bmp' THEN RAISE EXCEPTION 'the disk is full' USING ERRCODE = '53100'; END IF;
           RETURN NEW; END $$;
         CREATE TRIGGER full_disk BEFORE INSERT ON look FOR EACH ROW EXECUTE FUNCTION full_disk()",
    )?;
    let args = ["load", "photos", "--into", "look", "--into-map"];
    let map = "key=file,category=kind,embedding=vector";
    shop.run(args.into_iter().chain([map]))?
        .expect(1)?
        .expect_stderr(&["the disk is full"])?;
    let counts =
        "SELECT (SELECT loaded FROM lookbook_run), (SELECT count(DISTINCT file) FROM look)";
    let counts = shop.database.psql(counts)?;
    let (recorded, written) = counts.split_once('|').context("two counts")?;
    ensure!(recorded == written && written != "0", "{counts}");
    Ok(())
}
