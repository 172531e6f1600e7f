//! kill -9 at a bad moment: what was committed stays, what was not is gone, the next session works.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lookbook_tests::{Cluster, Database, signal};
use postgres::Client;

const DIMENSIONS: i32 = 64;
const PATIENCE: Duration = Duration::from_secs(60);

const SCHEMA: &str = "
    CREATE TABLE look (batch bigint, n int, vector embedding(64));
    CREATE INDEX ON look USING btree (vector);";

fn insert_batch(client: &mut Client, batch: i64, rows: i32) -> Result<(), postgres::Error> {
    let sql = "INSERT INTO look SELECT $1::bigint, n, array_agg(sin(n * d + $1::bigint))::real[]::embedding
               FROM generate_series(1, $2) AS n, generate_series(1, $3::int) AS d GROUP BY n";
    client.execute(sql, &[&batch, &rows, &DIMENSIONS]).map(drop)
}

/// Every row that the table holds, read through its index and through its heap.
fn check_rows(database: &Database<'_>) -> Result<(i64, i64)> {
    let mut client = database.connect()?;
    let row = client.query_one(
        "SELECT count(*), count(DISTINCT batch), coalesce(bool_and(embedding_dims(vector) = 64), true),
                coalesce(bool_and(vector <-> vector = 0), true)
         FROM look",
        &[],
    )?;
    ensure!(
        row.get::<_, bool>(2) && row.get::<_, bool>(3),
        "a row came back damaged"
    );
    client.batch_execute("SET enable_seqscan = off; SET enable_sort = off")?;
    let by_index = client
        .query("SELECT vector::text FROM look ORDER BY vector", &[])?
        .len();
    ensure!(
        i64::try_from(by_index)? == row.get::<_, i64>(0),
        "the index lost rows"
    );
    Ok((row.get(0), row.get(1)))
}

/// Waits until the server has thrown out all sessions after the death of one, and is back.
fn wait_for_recovery(database: &Database<'_>, mut watcher: Client) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while watcher.batch_execute("SELECT").is_ok() {
        ensure!(
            Instant::now() < deadline,
            "the server did not notice the death of a backend"
        );
        sleep(Duration::from_millis(20));
    }
    while let Err(error) = database.connect() {
        ensure!(Instant::now() < deadline, "no recovery: {error:?}");
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn a_killed_backend_takes_its_own_statement_and_nothing_else() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let database = cluster.database("killed_backend")?;
    let mut client = database.connect()?;
    client.batch_execute(SCHEMA)?;
    insert_batch(&mut client, 1, 200)?;

    let victim: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let writer = spawn(move || insert_batch(&mut client, 2, 1_000_000));
    let mut watcher = database.connect()?;
    let deadline = Instant::now() + PATIENCE;
    while watcher
        .query(
            "SELECT FROM pg_stat_activity WHERE pid = $1 AND state = 'active'",
            &[&victim],
        )?
        .is_empty()
    {
        ensure!(Instant::now() < deadline, "the writer never started");
        sleep(Duration::from_millis(10));
    }
    sleep(Duration::from_millis(200));
    signal("KILL", u32::try_from(victim)?)?;
    ensure!(
        writer.join().is_ok_and(|result| result.is_err()),
        "a killed backend answered"
    );

    wait_for_recovery(&database, watcher)?;
    assert_eq!(check_rows(&database)?, (200, 1));
    insert_batch(&mut database.connect()?, 3, 200)?;
    assert_eq!(check_rows(&database)?, (400, 2));
    Ok(())
}

#[test]
fn acknowledged_batches_survive_a_killed_postmaster() -> Result<()> {
    const ROWS: i32 = 50;
    let cluster = Cluster::start(&[])?;
    let database = cluster.database("killed_postmaster")?;
    let mut client = database.connect()?;
    client.batch_execute(SCHEMA)?;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&acknowledged);
    let writer = spawn(move || {
        for batch in 1.. {
            if insert_batch(&mut client, batch, ROWS).is_err() {
                return;
            }
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    let deadline = Instant::now() + PATIENCE;
    while acknowledged.load(Ordering::SeqCst) < 10 {
        ensure!(
            Instant::now() < deadline && !writer.is_finished(),
            "the writer does not get on"
        );
        sleep(Duration::from_millis(5));
    }
    cluster.kill_9()?;
    if writer.join().is_err() {
        bail!("the writer panicked");
    }
    cluster.start_server()?;

    let (rows, batches) = check_rows(&database)?;
    assert_eq!(rows, batches * i64::from(ROWS), "a batch came back in part");
    let acknowledged = i64::try_from(acknowledged.load(Ordering::SeqCst))?;
    ensure!(
        (acknowledged..=acknowledged + 1).contains(&batches),
        "{acknowledged} batches were acknowledged, {batches} are there"
    );
    Ok(())
}

#[test]
fn models_and_inference_work_after_a_crash() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let database = cluster.database("models_after")?;
    let photo =
        std::fs::read(lookbook_tests::workspace().join("tests/catalogue/queries/camel-coat.jpg"))
            .context("the query photo of the drawn catalogue")?;
    let embed = |client: &mut Client| -> Result<String> {
        Ok(client
            .query_one("SELECT embed_image($1)::text", &[&photo])?
            .get(0))
    };
    let before = embed(&mut database.connect()?)?;
    cluster.kill_9()?;
    cluster.start_server()?;
    assert_eq!(embed(&mut database.connect()?)?, before);
    Ok(())
}
