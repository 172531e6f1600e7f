//! Inserts, updates, deletes, searches and vacuums at once, on a primary and on its replica: every search is
//! compared with the exact answer of its own snapshot.
//!
//! Some seconds in `make test`; `LOOKBOOK_SOAK_MINUTES=10` gives each test that many minutes
//! (`make soak-index`).

mod index_support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::scope;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use index_support::drawn::{compare_in_snapshot, drawn_search};
use index_support::{
    BY_INDEX_EXACTLY, PATIENCE, TimeBox, catch_up, check_index, database, expect_exact, rows_of,
    truth_of,
};
use lookbook_tests::{Cluster, Database, Random};
use postgres::{Client, IsolationLevel};

const ALL: &str = "SELECT id, v <-> look(7) FROM look ORDER BY v <-> look(7)";

const SCHEMA: &str = "
    CREATE TABLE look (id bigint PRIMARY KEY, category int, v embedding(32));
    CREATE INDEX looks ON look USING lookbook (v, category);
    INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series(1, 1500) n";

/// One row or some, put in, changed or taken out.
fn change(client: &mut Client, random: &mut Random, worker: i64) -> Result<()> {
    let own = |random: &mut Random| worker * 1_000_000 + random.below(1_500);
    let id = own(random);
    let changed = match random.below(10) {
        0..5 => client.execute(
            "INSERT INTO look VALUES ($1, $2::bigint % 10, look($2)) ON CONFLICT (id) DO UPDATE SET v = excluded.v",
            &[&id, &random.below(1_000_000)],
        ),
        5..7 => client.execute("DELETE FROM look WHERE id BETWEEN $1 AND $1 + 4", &[&id]),
        7 => client.execute("UPDATE look SET category = (category + 1) % 10 WHERE id = $1", &[&id]),
        8 => client.execute(
            "INSERT INTO look SELECT $1::bigint + n, n % 10, look($1::bigint + n) FROM generate_series(1, 60) n
             ON CONFLICT (id) DO UPDATE SET v = CASE WHEN excluded.id % 50 > 0 THEN excluded.v END",
            &[&id],
        ),
        _ => client.execute("DELETE FROM look WHERE id % 97 = $1::bigint % 97 AND id / 1000000 = $2", &[&id, &worker]),
    };
    changed.context("a change")?;
    Ok(())
}

/// So much is done, however busy the machine is.
const LEAST_CHANGES: u64 = 101;
const LEAST_SEARCHES: u64 = 21;

/// Runs all workers until the time is over and the least was done, or one of them fails; returns changes and searches
/// done.
fn run(
    database: &Database<'_>,
    searched: &[&Database<'_>],
    seconds: u64,
    seed: u64,
) -> Result<(u64, u64)> {
    let time = TimeBox::of_seconds(seconds);
    let has_failed = AtomicBool::new(false);
    let (changes, searches) = (AtomicU64::new(0), AtomicU64::new(0));
    let deadline = Instant::now() + PATIENCE;
    let goes_on = || {
        let is_little = changes.load(Ordering::Relaxed) < LEAST_CHANGES
            || searches.load(Ordering::Relaxed) < LEAST_SEARCHES;
        let goes_on = time.has_left() || is_little && Instant::now() < deadline;
        goes_on && !has_failed.load(Ordering::SeqCst)
    };
    scope(|scope| -> Result<()> {
        let mut workers = Vec::new();
        let guard = |result: Result<()>| {
            if result.is_err() {
                has_failed.store(true, Ordering::SeqCst);
            }
            result
        };
        for worker in 0..3 {
            let mut client = database.connect()?;
            let (goes_on, changes) = (&goes_on, &changes);
            workers.push(scope.spawn(move || {
                let mut random = Random(seed * 100 + worker);
                guard((|| {
                    while goes_on() {
                        change(&mut client, &mut random, worker as i64)?;
                        changes.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })())
            }));
        }
        for (number, database) in searched.iter().enumerate() {
            let mut client = database.connect()?;
            client.batch_execute(BY_INDEX_EXACTLY)?;
            let (goes_on, searches) = (&goes_on, &searches);
            workers.push(scope.spawn(move || {
                let mut random = Random(seed * 100 + 50 + number as u64);
                guard((|| {
                    while goes_on() {
                        compare_in_snapshot(&mut client, &drawn_search(&mut random, &["<->"]))??;
                        searches.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })())
            }));
        }
        let mut vacuumer = database.connect()?;
        let goes_on = &goes_on;
        workers.push(scope.spawn(move || {
            guard((|| {
                while goes_on() {
                    vacuumer.batch_execute("VACUUM look").context("a vacuum")?;
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
                Ok(())
            })())
        }));
        for worker in workers {
            worker.join().map_err(|_| anyhow!("a worker panicked"))??;
        }
        Ok(())
    })?;
    Ok((changes.into_inner(), searches.into_inner()))
}

/// Sound, complete, and the same as the table.
fn check_all(client: &mut Client) -> Result<i64> {
    client.batch_execute(BY_INDEX_EXACTLY)?;
    let rows: i64 = client.query_one("SELECT count(*) FROM look", &[])?.get(0);
    assert_eq!(expect_exact(client, "looks", ALL)? as i64, rows);
    for query in 0..20 {
        let category = query % 10;
        let query = format!(
            "SELECT id, v <-> look({query}) FROM look WHERE category = {category} ORDER BY v <-> look({query})"
        );
        expect_exact(client, "looks", &query)?;
    }
    Ok(rows)
}

#[test]
fn every_search_amid_changes_and_vacuums_is_exact_in_its_snapshot() -> Result<()> {
    let cluster = Cluster::start(&["autovacuum=off"])?;
    let (database, mut client) = database(&cluster, "mix")?;
    client.batch_execute(SCHEMA)?;
    let (changes, searches) = run(&database, &[&database, &database], 10, 21)?;
    eprintln!("{changes} changes, {searches} searches");
    ensure!(
        changes >= LEAST_CHANGES && searches >= LEAST_SEARCHES,
        "{changes} changes, {searches} searches"
    );
    check_index(&mut client, "looks")?;
    check_all(&mut client)?;
    client.batch_execute("VACUUM look")?;
    let rows = check_all(&mut client)?;
    assert_eq!(check_index(&mut client, "looks")?, rows);
    Ok(())
}

/// The answers of a replica are those of its primary, to the last bit.
fn expect_the_same(primary: &mut Client, replica: &mut Client) -> Result<()> {
    for query in 0..20 {
        let query = format!(
            "SELECT id, v <-> look({query}) FROM look ORDER BY v <-> look({query}) LIMIT 30"
        );
        assert_eq!(
            rows_of(primary, &query)?,
            rows_of(replica, &query)?,
            "{query}"
        );
    }
    Ok(())
}

#[test]
fn a_replica_answers_as_its_primary_while_changes_are_replayed() -> Result<()> {
    let cluster = Cluster::start(&["autovacuum=off"])?;
    let (database, mut client) = database(&cluster, "streamed")?;
    client.batch_execute(SCHEMA)?;
    let replica =
        cluster.replica(&["hot_standby_feedback=on", "max_standby_streaming_delay=-1"])?;
    let standby = replica.existing_database("streamed");
    let (changes, searches) = run(&database, &[&standby, &standby], 10, 22)?;
    eprintln!("{changes} changes, {searches} searches on the replica");
    ensure!(
        changes >= LEAST_CHANGES && searches >= LEAST_SEARCHES,
        "{changes} changes, {searches} searches"
    );

    client.batch_execute("VACUUM look")?;
    let mut reader = standby.connect()?;
    catch_up(&mut client, &mut reader)?;
    let rows = check_all(&mut client)?;
    assert_eq!(check_all(&mut reader)?, rows);
    // Byte for byte the same pages. Of dead rows some are left that the replica's feedback kept.
    let indexed = check_index(&mut reader, "looks")?;
    assert_eq!(check_index(&mut client, "looks")?, indexed);
    ensure!(indexed >= rows);
    expect_the_same(&mut client, &mut reader)?;
    // At less than full recall, too: the calibration is in the pages.
    for session in [&mut client, &mut reader] {
        session.batch_execute("SET lookbook.recall = 0.9")?;
    }
    expect_the_same(&mut client, &mut reader)?;
    Ok(())
}

#[test]
fn a_scan_of_a_replica_goes_on_while_its_lists_are_split_and_vacuumed() -> Result<()> {
    let cluster = Cluster::start(&["autovacuum=off"])?;
    let (_, mut client) = database(&cluster, "open_scan")?;
    client.batch_execute(SCHEMA)?;
    client.batch_execute(
        "INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series(10001, 12000) n",
    )?;
    let replica = cluster.replica(&[
        "hot_standby_feedback=on",
        "wal_receiver_status_interval=1s",
        "max_standby_streaming_delay=-1",
    ])?;
    let mut reader = replica.existing_database("open_scan").connect()?;
    catch_up(&mut client, &mut reader)?;
    reader.batch_execute(BY_INDEX_EXACTLY)?;
    let truth: Vec<i64> = truth_of(&mut reader, ALL)?
        .iter()
        .map(|row| row.0)
        .collect();
    let mut watcher = replica.existing_database("open_scan").connect()?;
    let mut snapshot = reader
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .start()?;
    snapshot.batch_execute(&format!("DECLARE near NO SCROLL CURSOR FOR {ALL}"))?;
    let mut found = Vec::new();
    for round in 0..5 {
        let rows = snapshot.query("FETCH 400 FROM near", &[])?;
        found.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
        let first = 100_000 * (round + 1);
        client.batch_execute(&format!(
            "INSERT INTO look SELECT n, n % 10, look(n * 40 + 7) FROM generate_series({first}, {first} + 1500) n;
             DELETE FROM look WHERE id % 7 = {round}"
        ))?;
        client.batch_execute("VACUUM look")?;
        catch_up(&mut client, &mut watcher)?;
    }
    let rows = snapshot.query("FETCH ALL FROM near", &[])?;
    found.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
    ensure!(found == truth, "{} rows of {}", found.len(), truth.len());
    snapshot.commit()?;
    check_all(&mut reader)?;
    Ok(())
}
