//! kill -9 of the server amid everything at once: COPY, inserts, updates, deletes, rollbacks, searches, vacuums, splits,
//! index builds, changes of models. After every recovery what was acknowledged is there, the index finds all of it and is
//! sound, and a vacuum leaves no page that nobody knows.
//!
//! 10 kills in `make test`; `make crash-test KILLS=200` for more.

mod crash_support;
mod index_support;
mod sql_support;

use std::thread::{scope, sleep};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use crash_support::journal::Journal;
use crash_support::models::Keeper;
use crash_support::{Counts, SCHEMA, keep_building, keep_searching, keep_vacuuming};
use index_support::{BY_INDEX_EXACTLY, check_index, database, expect_exact, info};
use lookbook_tests::{Cluster, Database, Random};
use postgres::Client;

const KILLS: u64 = 10;
const WRITERS: i64 = 3;

/// Everything at once until the server is killed.
fn one_kill(
    cluster: &Cluster,
    database: &Database<'_>,
    (journals, keeper): (&mut [Journal], &mut Keeper),
    random: &mut Random,
    counts: &Counts,
) -> Result<()> {
    let kills_all = random.below(2) == 0;
    let moment = Duration::from_millis(80 + random.below(700) as u64);
    let mut seed = || Random(random.next());
    scope(|scope| -> Result<()> {
        let mut workers = Vec::new();
        for journal in journals {
            let mut client = database.connect()?;
            workers.push(scope.spawn(move || journal.write(&mut client, counts)));
        }
        let mut client = database.connect()?;
        workers.push(scope.spawn(move || keeper.keep_changing(&mut client, counts)));
        type Work = fn(&mut Client, &mut Random, &Counts) -> Result<()>;
        let work: [Work; 3] = [keep_searching, keep_vacuuming, keep_building];
        for work in work {
            let (mut client, mut random) = (database.connect()?, seed());
            workers.push(scope.spawn(move || work(&mut client, &mut random, counts)));
        }
        sleep(moment);
        // A postmaster alone leaves sessions that end what they are doing; together they stop where they are.
        let killed = if kills_all {
            cluster.kill_9_all()
        } else {
            cluster.kill_9()
        };
        let started = killed.and_then(|()| cluster.start_server());
        for worker in workers {
            worker.join().map_err(|_| anyhow!("a worker panicked"))??;
        }
        started
    })
}

/// What `index` gives for all rows is what the table has.
fn expect_all(client: &mut Client, index: &str, operator: &str, rows: usize) -> Result<()> {
    let query = format!("SELECT id, v {operator} look(7) FROM look ORDER BY v {operator} look(7)");
    let found = expect_exact(client, index, &query)?;
    ensure!(found == rows, "{index} found {found} rows of {rows}");
    Ok(())
}

/// What must hold after a crash; gives the pages of the index that is never built anew.
fn check_all(
    database: &Database<'_>,
    journals: &mut [Journal],
    keeper: &mut Keeper,
) -> Result<i64> {
    let mut client = database.connect()?;
    keeper.check(&mut client)?;
    let mut rows = 0;
    for journal in journals {
        rows += journal.check(&mut client)?;
    }
    let damaged: i64 = client
        .query_one("SELECT count(*) FROM look WHERE v <> look(n)", &[])?
        .get(0);
    ensure!(damaged == 0, "{damaged} vectors came back damaged");
    client.batch_execute(BY_INDEX_EXACTLY)?;
    // What PostgreSQL leaves of a concurrent build that was broken off.
    let invalid = client.query(
        "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid AND indrelid = 'look'::regclass",
        &[],
    )?;
    for index in invalid {
        client.batch_execute(&format!("DROP INDEX {}", index.get::<_, String>(0)))?;
    }
    client.batch_execute(
        "CREATE INDEX IF NOT EXISTS others ON look USING lookbook (v embedding_cosine_ops)",
    )?;
    for vacuumed in [false, true] {
        if vacuumed {
            client.batch_execute("VACUUM (INDEX_CLEANUP ON) look")?;
        }
        for (index, operator) in [("looks", "<->"), ("others", "<=>")] {
            let entries = check_index(&mut client, index)?;
            ensure!(
                entries as usize == rows || !vacuumed && entries as usize > rows,
                "{index} has {entries} entries for {rows} rows"
            );
            expect_all(&mut client, index, operator, rows)?;
            let orphans = info(&mut client, index, "orphan_pages")?;
            ensure!(
                orphans == 0 || !vacuumed,
                "{orphans} pages of {index} belong to nobody"
            );
        }
    }
    expect_no_larger_than_the_table(&mut client)?;
    info(&mut client, "looks", "pages")
}

/// Neither table nor index gives a page back, so both show how many rows, dead ones with them, were there at once:
/// the index may not show many times more than the table.
fn expect_no_larger_than_the_table(client: &mut Client) -> Result<()> {
    client.batch_execute(
        "CREATE TABLE anew AS TABLE look; CREATE INDEX anews ON anew USING lookbook (v, category)",
    )?;
    client.batch_execute("VACUUM anew")?;
    let grown = |client: &mut Client, relation: &str, anew: &str| -> Result<(i64, i64)> {
        let sizes = "SELECT pg_relation_size($1::text::regclass) / 8192, pg_relation_size($2::text::regclass) / 8192";
        let row = client.query_one(sizes, &[&relation, &anew])?;
        Ok((row.get(0), row.get(1)))
    };
    let (table, table_anew) = grown(client, "look", "anew")?;
    let (index, index_anew) = grown(client, "looks", "anews")?;
    client.batch_execute("DROP TABLE anew")?;
    ensure!(
        index <= 3 * index_anew * table / (2 * table_anew.max(1)) + 50,
        "{index} pages of the index, {index_anew} when built anew; {table} of the table, {table_anew} when written anew"
    );
    Ok(())
}

#[test]
fn everything_committed_is_found_after_every_kill() -> Result<()> {
    let kills = match std::env::var("LOOKBOOK_KILLS") {
        Ok(kills) => kills.parse().context("LOOKBOOK_KILLS is a number")?,
        Err(_) => KILLS,
    };
    let cluster = Cluster::start(&["max_wal_size=64MB", "autovacuum=off"])?;
    let (database, mut client) = database(&cluster, "crash_mix")?;
    client.batch_execute(SCHEMA)?;
    let mut random = Random(2_026);
    let mut journals: Vec<Journal> = (0..WRITERS)
        .map(|writer| Journal::new(writer, Random(random.next())))
        .collect();
    let mut keeper = Keeper::new(&mut client, Random(random.next()))?;
    drop(client);
    let counts = Counts::default();
    let mut pages = Vec::new();
    // On a busy machine some more, until each kind of work was done.
    for kill in 1..=3 * kills {
        if kill > kills && counts.has_all() {
            break;
        }
        let workers = (&mut journals[..], &mut keeper);
        one_kill(&cluster, &database, workers, &mut random, &counts)
            .with_context(|| format!("before kill {kill}"))?;
        let now = check_all(&database, &mut journals, &mut keeper)
            .with_context(|| format!("after kill {kill}"))?;
        pages.push(now);
    }
    eprintln!("{} kills: {counts:?}, pages {pages:?}", pages.len());
    ensure!(counts.has_all(), "{counts:?}");
    expect_flat(&pages)
}

/// The table stays about as large, so the index must, too.
fn expect_flat(pages: &[i64]) -> Result<()> {
    let (first, last) = pages.split_at(pages.len() / 2);
    let most = |pages: &[i64]| pages.iter().copied().max().unwrap_or(0);
    ensure!(
        most(last) <= most(first) * 3 / 2 + 50,
        "the index grows: {pages:?} pages"
    );
    Ok(())
}
