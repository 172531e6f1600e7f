//! kill -9 while the index is written: committed rows are found, the rest is gone, every invariant holds.
//!
//! Rounds of seeded moments in a time box. `LOOKBOOK_SOAK_MINUTES=10` gives each test that many minutes
//! (`make soak-index`).

mod index_support;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use index_support::{
    BY_INDEX_EXACTLY, TimeBox, check_index, database, expect_crash_at_most, expect_exact,
    wait_until,
};
use lookbook_tests::{Cluster, Database, Random, signal};
use postgres::Client;

const ALL: &str = "SELECT id, v <-> look(7) FROM look ORDER BY v <-> look(7)";

/// Kills the backend `pid`, which is there, or in every third round the postmaster, and waits until the server is
/// back.
fn crash(cluster: &Cluster, database: &Database<'_>, pid: i32, round: u64) -> Result<()> {
    if round % 3 == 2 {
        cluster.kill_9()?;
        return cluster.start_server();
    }
    let mut watcher = database.connect()?;
    signal("KILL", u32::try_from(pid)?)?;
    // All sessions end with it.
    wait_until("the end of all sessions", || {
        Ok(watcher.batch_execute("SELECT").is_err())
    })?;
    wait_until("recovery", || Ok(database.connect().is_ok()))
}

fn process_id(client: &mut Client) -> Result<i32> {
    Ok(client.query_one("SELECT pg_backend_pid()", &[])?.get(0))
}

/// The index is sound, holds every row of the table, and stays so after a vacuum.
fn check_all(database: &Database<'_>) -> Result<i64> {
    let mut client = database.connect()?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    let rows: i64 = client.query_one("SELECT count(*) FROM look", &[])?.get(0);
    ensure!(check_index(&mut client, "looks")? >= rows);
    assert_eq!(expect_exact(&mut client, "looks", ALL)? as i64, rows);
    client.batch_execute("VACUUM look")?;
    assert_eq!(check_index(&mut client, "looks")?, rows);
    assert_eq!(expect_exact(&mut client, "looks", ALL)? as i64, rows);
    Ok(rows)
}

/// Runs `work` in a session of its own, and the crash in the middle of it: `true`. `false`: it was over before its
/// moment came, and nothing crashed.
fn crash_during(
    cluster: &Cluster,
    database: &Database<'_>,
    round: u64,
    moment: Duration,
    work: impl FnOnce(&mut Client) -> Result<(), postgres::Error> + Send,
) -> Result<bool> {
    let mut client = database.connect()?;
    let pid = process_id(&mut client)?;
    scope(|scope| {
        // The session outlives its work, so the process to be killed is there whenever the work ends.
        let working = scope.spawn(move || (work(&mut client), client));
        sleep(moment);
        let crashed = if working.is_finished() {
            Ok(false)
        } else {
            let crashed = crash(cluster, database, pid, round);
            // Work without end must end all the same.
            crashed
                .map(|()| true)
                .inspect_err(|_| drop(cluster.kill_9()))
        };
        let (done, client) = working
            .join()
            .map_err(|_| anyhow::anyhow!("the worker panicked"))?;
        drop(client);
        expect_crash_at_most(done)?;
        crashed
    })
}

#[test]
fn acknowledged_inserts_survive_a_kill_at_any_moment() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let (database, mut client) = database(&cluster, "killed_inserts")?;
    client.batch_execute(
        "CREATE TABLE look (id bigint, category int, v embedding(32));
         CREATE INDEX looks ON look USING lookbook (v, category)",
    )?;
    drop(client);
    let mut random = Random(11);
    let time = TimeBox::of_seconds(6);
    let acknowledged = AtomicI64::new(0);
    let mut round = 0;
    while round < 3 || time.has_left() {
        let first = acknowledged.load(Ordering::SeqCst);
        let moment = Duration::from_millis(30 + random.below(300) as u64);
        crash_during(&cluster, &database, round, moment, |client| {
            for batch in first.. {
                // Some in one transaction, so that lists split again and again inside of it.
                let rows = if batch % 7 == 6 { 600 } else { 20 };
                client.execute(
                    "INSERT INTO look SELECT $1::bigint * 1000 + n, n, look($1::bigint * 1000 + n) FROM generate_series(1, $2::bigint) n",
                    &[&batch, &rows],
                )?;
                acknowledged.store(batch + 1, Ordering::SeqCst);
            }
            Ok(())
        })?;
        check_all(&database)?;
        let mut client = database.connect()?;
        let row = client.query_one("SELECT count(DISTINCT id / 1000), count(*) FROM look", &[])?;
        let (batches, rows): (i64, i64) = (row.get(0), row.get(1));
        let known = acknowledged.load(Ordering::SeqCst);
        ensure!(
            (known..=known + 1).contains(&batches),
            "{known} batches were acknowledged, {batches} are there"
        );
        let whole: i64 = (0..batches)
            .map(|batch| if batch % 7 == 6 { 600 } else { 20 })
            .sum();
        assert_eq!(rows, whole, "a batch came back in part");
        acknowledged.store(batches, Ordering::SeqCst);
        if rows > 8_000 {
            client.batch_execute("TRUNCATE look")?;
            acknowledged.store(0, Ordering::SeqCst);
        }
        round += 1;
    }
    eprintln!("{round} rounds");
    Ok(())
}

#[test]
fn a_build_that_is_killed_leaves_no_index_and_can_be_done_again() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let (database, mut client) = database(&cluster, "killed_builds")?;
    client.batch_execute(
        "CREATE TABLE look (id bigint, category int, v embedding(32));
         INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series(1, 15000) n",
    )?;
    drop(client);
    let mut random = Random(12);
    let time = TimeBox::of_seconds(4);
    let (mut round, mut crashes) = (0, 0);
    while round < 3 || time.has_left() {
        let moment = Duration::from_millis(random.below(350) as u64);
        let crashed = crash_during(&cluster, &database, round, moment, |client| {
            client.batch_execute("CREATE INDEX looks ON look USING lookbook (v, category)")
        })?;
        crashes += i32::from(crashed);
        let mut client = database.connect()?;
        let there: bool = client
            .query_one("SELECT to_regclass('looks') IS NOT NULL", &[])?
            .get(0);
        ensure!(
            there || crashed,
            "a build that was not disturbed left nothing"
        );
        if there {
            check_all(&database)?;
            client.batch_execute("DROP INDEX looks")?;
        }
        round += 1;
    }
    database.psql("CREATE INDEX looks ON look USING lookbook (v, category)")?;
    assert_eq!(check_all(&database)?, 15_000);
    eprintln!("{crashes} crashes in {round} rounds");
    ensure!(crashes > 0);
    Ok(())
}

#[test]
fn a_vacuum_that_is_killed_loses_no_live_row_and_keeps_no_dead_one() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let (database, mut client) = database(&cluster, "killed_vacuums")?;
    client.batch_execute(
        "CREATE TABLE look (id bigint, category int, v embedding(32));
         CREATE INDEX looks ON look USING lookbook (v, category)",
    )?;
    drop(client);
    let mut random = Random(13);
    let time = TimeBox::of_seconds(5);
    let (mut round, mut crashes) = (0, 0);
    while round < 3 || time.has_left() {
        let mut client = database.connect()?;
        client.batch_execute(
            "INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series(1, 4000) n WHERE n NOT IN (SELECT id FROM look)",
        )?;
        let deleted = random.below(5);
        client.batch_execute(&format!(
            "DELETE FROM look WHERE id % 5 IN ({deleted}, {})",
            (deleted + 2) % 5
        ))?;
        let moment = Duration::from_millis(random.below(40) as u64);
        let crashed = crash_during(&cluster, &database, round, moment, |client| {
            // Until it is killed: the second and later ones have the first one's rest.
            for _ in 0..20 {
                client.batch_execute("VACUUM look")?;
                client.batch_execute("DELETE FROM look WHERE id % 100 = 3")?;
                client.batch_execute(
                    "INSERT INTO look SELECT n, 3, look(n) FROM generate_series(3, 4000, 100) n",
                )?;
            }
            Ok(())
        })?;
        crashes += i32::from(crashed);
        check_all(&database)?;
        round += 1;
    }
    eprintln!("{crashes} crashes in {round} rounds");
    ensure!(crashes > 0);
    Ok(())
}

#[test]
fn updates_and_vacuums_at_once_survive_kills() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let (database, mut client) = database(&cluster, "killed_mix")?;
    client.batch_execute(
        "CREATE TABLE look (id bigint PRIMARY KEY, category int, v embedding(32));
         CREATE INDEX looks ON look USING lookbook (v, category);
         INSERT INTO look SELECT n, 0, look(n) FROM generate_series(1, 3000) n",
    )?;
    drop(client);
    let mut random = Random(14);
    let time = TimeBox::of_seconds(5);
    let mut round = 0;
    while round < 3 || time.has_left() {
        let moment = Duration::from_millis(50 + random.below(400) as u64);
        let seed = random.next();
        let is_over = &AtomicBool::new(false);
        scope(|scope| -> Result<()> {
            let mut vacuumer = database.connect()?;
            let vacuuming = scope.spawn(move || -> Result<(), postgres::Error> {
                while !is_over.load(Ordering::SeqCst) {
                    vacuumer.batch_execute("VACUUM look")?;
                }
                Ok(())
            });
            let crashed = crash_during(&cluster, &database, round, moment, |client| {
                let mut random = Random(seed);
                loop {
                    let (id, other) = (1 + random.below(3_000), random.below(1_000_000));
                    client.execute(
                        "UPDATE look SET v = look($2), category = category + 1 WHERE id = $1",
                        &[&id, &other],
                    )?;
                }
            });
            is_over.store(true, Ordering::SeqCst);
            let vacuumed = vacuuming
                .join()
                .map_err(|_| anyhow::anyhow!("the vacuum panicked"))?;
            ensure!(crashed?, "updates without end ended");
            expect_crash_at_most(vacuumed)
        })?;
        assert_eq!(check_all(&database)?, 3_000);
        round += 1;
    }
    eprintln!("{round} rounds");
    Ok(())
}

#[test]
fn an_unlogged_index_is_empty_and_usable_after_a_crash() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let (database, mut client) = database(&cluster, "unlogged")?;
    client.batch_execute(
        "CREATE UNLOGGED TABLE look (id bigint, category int, v embedding(32));
         CREATE INDEX looks ON look USING lookbook (v, category);
         INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series(1, 3000) n",
    )?;
    drop(client);
    cluster.kill_9()?;
    cluster.start_server()?;
    assert_eq!(check_all(&database)?, 0);
    let mut client = database.connect()?;
    client.batch_execute(
        "INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series(1, 3000) n",
    )?;
    assert_eq!(check_all(&database)?, 3_000);
    // A clean restart keeps it.
    drop(client);
    cluster.restart()?;
    assert_eq!(check_all(&database)?, 3_000);
    Ok(())
}

#[test]
fn a_backup_taken_while_rows_come_is_consistent() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let (database, mut client) = database(&cluster, "backup")?;
    client.batch_execute(
        "CREATE TABLE look (id bigint, category int, v embedding(32));
         CREATE INDEX looks ON look USING lookbook (v, category)",
    )?;
    let copy = scope(|scope| -> Result<Cluster> {
        let mut writer = database.connect()?;
        let (end, is_over) = std::sync::mpsc::channel::<()>();
        let writing = scope.spawn(move || -> Result<()> {
            let mut batch = 0_i64;
            while is_over.try_recv().is_err() {
                writer.execute(
                    "INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series($1::bigint * 50, $1::bigint * 50 + 49) n",
                    &[&batch],
                )?;
                batch += 1;
            }
            Ok(())
        });
        let copy = cluster.replica(&["hot_standby=on"]);
        end.send(()).context("the writer has ended")?;
        writing
            .join()
            .map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        copy
    })?;
    let promoted = copy
        .connect("postgres", "backup")?
        .query_one("SELECT pg_promote()", &[])?;
    ensure!(promoted.get::<_, bool>(0));
    let copied = copy.existing_database("backup");
    let rows = check_all(&copied)?;
    ensure!(rows % 50 == 0, "{rows} rows");
    check_all(&database)?;
    Ok(())
}
