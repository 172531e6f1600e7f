//! Two sessions at one index, step by step: what each does is right whatever the other has done in between, committed or
//! not. The same pairs between any two pages: `crates/ann/tests/one_split.rs` and `concurrency.rs`.

mod index_support;

use std::thread::{scope, spawn};

use anyhow::{Context, Result, anyhow, ensure};
use index_support::{
    BY_INDEX_EXACTLY, check_index, database, expect_exact, info, truth_of, wait_until,
};
use lookbook_tests::{Cluster, Database};
use postgres::Client;

const ALL: &str = "SELECT id, v <-> look(7) FROM look ORDER BY v <-> look(7)";

/// Puts rows into one cloud, and so into one list for as long as that is not split.
fn insert(client: &mut Client, first: i64, rows: i64) -> Result<()> {
    let sql = "INSERT INTO look SELECT n, look(n * 40 + 7) FROM generate_series($1::bigint, $2::bigint) n";
    client.execute(sql, &[&first, &(first + rows - 1)])?;
    Ok(())
}

/// A table with an index and so many rows of one cloud, and two sessions.
fn start<'c>(
    cluster: &'c Cluster,
    name: &str,
    rows: i64,
) -> Result<(Database<'c>, Client, Client)> {
    let (database, mut one) = database(cluster, name)?;
    one.batch_execute(
        "CREATE TABLE look (id bigint, v embedding(32));
         CREATE INDEX looks ON look USING lookbook (v)",
    )?;
    insert(&mut one, 1, rows)?;
    one.batch_execute(BY_INDEX_EXACTLY)?;
    let other = database.connect()?;
    Ok((database, one, other))
}

/// Sound and complete, before a vacuum and after it.
fn expect_rows(client: &mut Client, rows: i64) -> Result<()> {
    assert_eq!(expect_exact(client, "looks", ALL)? as i64, rows);
    check_index(client, "looks")?;
    client.batch_execute("VACUUM look")?;
    assert_eq!(check_index(client, "looks")?, rows);
    assert_eq!(expect_exact(client, "looks", ALL)? as i64, rows);
    Ok(())
}

#[test]
fn inserts_into_one_list_lose_none_of_each_other() -> Result<()> {
    let (database, mut one, mut other) = start(Cluster::shared()?, "insert_insert", 20)?;
    one.batch_execute("BEGIN")?;
    other.batch_execute("BEGIN")?;
    for step in 0..20 {
        insert(&mut one, 1_000 + step * 5, 5)?;
        insert(&mut other, 2_000 + step * 3, 3)?;
    }
    one.batch_execute("ROLLBACK")?;
    other.batch_execute("COMMIT")?;
    expect_rows(&mut one, 80)?;
    // All at once.
    scope(|scope| -> Result<()> {
        let mut writers = Vec::new();
        for writer in 1..=4 {
            let mut client = database.connect()?;
            writers.push(scope.spawn(move || -> Result<()> {
                (0..120).try_for_each(|n| insert(&mut client, writer * 10_000 + n * 2, 2))
            }));
        }
        for writer in writers {
            writer.join().map_err(|_| anyhow!("a writer panicked"))??;
        }
        Ok(())
    })?;
    expect_rows(&mut one, 80 + 4 * 240)
}

#[test]
fn an_insert_and_the_split_of_its_list_lose_nothing_of_each_other() -> Result<()> {
    let (_, mut one, mut other) = start(Cluster::shared()?, "insert_split", 300)?;
    one.batch_execute("BEGIN")?;
    insert(&mut one, 1_000, 10)?;
    let lists = info(&mut other, "looks", "lists")?;
    insert(&mut other, 2_000, 800)?;
    ensure!(info(&mut other, "looks", "lists")? > lists, "no split");
    insert(&mut one, 1_010, 10)?;
    one.batch_execute("COMMIT")?;
    expect_rows(&mut one, 1_120)?;
    // Split by what is never committed.
    other.batch_execute("BEGIN")?;
    insert(&mut other, 5_000, 900)?;
    insert(&mut one, 3_000, 50)?;
    other.batch_execute("ROLLBACK")?;
    insert(&mut one, 3_050, 50)?;
    expect_rows(&mut one, 1_220)
}

/// What a session's cursor gives in parts, with `step` between them, is what its snapshot has.
fn scan_with(
    client: &mut Client,
    parts: i64,
    mut step: impl FnMut(i64) -> Result<()>,
) -> Result<()> {
    let truth = truth_of(client, ALL)?;
    client.batch_execute(&format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; DECLARE near NO SCROLL CURSOR FOR {ALL}"
    ))?;
    let part = truth.len() as i64 / parts;
    let mut found: Vec<f64> = Vec::new();
    for number in 0..parts {
        let rows = client.query(&format!("FETCH {part} FROM near"), &[])?;
        found.extend(rows.iter().map(|row| row.get::<_, f64>(1)));
        step(number)?;
    }
    let rows = client.query("FETCH ALL FROM near", &[])?;
    found.extend(rows.iter().map(|row| row.get::<_, f64>(1)));
    client.batch_execute("COMMIT")?;
    let truth: Vec<f64> = truth.iter().filter_map(|row| row.1).collect();
    ensure!(
        found == truth,
        "{} rows of {}, or in another order",
        found.len(),
        truth.len()
    );
    Ok(())
}

#[test]
fn a_scan_gives_its_snapshot_while_its_lists_are_split() -> Result<()> {
    let (_, mut one, mut other) = start(Cluster::shared()?, "split_scan", 900)?;
    scan_with(&mut one, 6, |step| {
        let lists = info(&mut other, "looks", "lists")?;
        insert(&mut other, 10_000 * (step + 1), 700)?;
        ensure!(info(&mut other, "looks", "lists")? > lists, "no split");
        Ok(())
    })?;
    expect_rows(&mut one, 900 + 6 * 700)
}

#[test]
fn a_scan_gives_its_snapshot_while_its_lists_are_vacuumed() -> Result<()> {
    let (_, mut one, mut other) = start(Cluster::shared()?, "vacuum_scan", 3_000)?;
    // Gone for every snapshot, but not from the index: lists are written anew, shared out and dropped under the scan.
    one.batch_execute("DELETE FROM look WHERE id % 8 > 0")?;
    scan_with(&mut one, 4, |step| {
        other.batch_execute(&format!("DELETE FROM look WHERE id % 40 = {}", 8 * step))?;
        other.batch_execute("VACUUM (INDEX_CLEANUP ON) look")?;
        check_index(&mut other, "looks")?;
        Ok(())
    })?;
    expect_rows(&mut one, 75)
}

#[test]
fn an_insert_and_a_vacuum_lose_nothing_of_each_other() -> Result<()> {
    let (database, mut one, mut other) = start(Cluster::shared()?, "vacuum_insert", 1_000)?;
    one.batch_execute("DELETE FROM look WHERE id % 2 = 0; BEGIN")?;
    insert(&mut one, 2_000, 100)?;
    other.batch_execute("VACUUM (INDEX_CLEANUP ON) look")?;
    insert(&mut one, 3_000, 600)?;
    other.batch_execute("VACUUM (INDEX_CLEANUP ON) look")?;
    one.batch_execute("COMMIT")?;
    expect_rows(&mut one, 1_200)?;
    // Both at once, rows dying and coming in the places that the vacuum frees.
    let mut writer = database.connect()?;
    let writing = spawn(move || -> Result<()> {
        for n in 0..200 {
            insert(&mut writer, 10_000 + n * 4, 4)?;
            writer.execute(
                "DELETE FROM look WHERE id = $1::bigint",
                &[&(10_000 + n * 4)],
            )?;
        }
        Ok(())
    });
    let mut vacuums = 0;
    while vacuums == 0 || !writing.is_finished() {
        other.batch_execute("VACUUM (INDEX_CLEANUP ON) look")?;
        check_index(&mut other, "looks").context("beside a writer")?;
        vacuums += 1;
    }
    writing
        .join()
        .map_err(|_| anyhow!("the writer panicked"))??;
    expect_rows(&mut one, 1_200 + 600)
}

#[test]
fn an_index_is_built_anew_beside_a_scan_and_writers() -> Result<()> {
    let (database, mut one, mut other) = start(Cluster::shared()?, "reindex", 1_500)?;
    let mut builder = database.connect()?;
    let mut building = None;
    scan_with(&mut one, 3, |step| {
        if step == 0 {
            let mut builder = database.connect()?;
            building = Some(spawn(move || {
                builder.batch_execute("REINDEX INDEX CONCURRENTLY looks")
            }));
            // It waits for the scan's snapshot, with the new index there to be written to.
            wait_until("the new index", || {
                let row = other.query_one(
                    "SELECT count(*) FROM pg_index WHERE indrelid = 'look'::regclass AND indisready",
                    &[],
                )?;
                Ok(row.get::<_, i64>(0) == 2)
            })?;
        }
        insert(&mut other, 10_000 * (step + 1), 300)?;
        other.batch_execute(&format!(
            "DELETE FROM look WHERE id % 10 = {step}; UPDATE look SET v = look(id) WHERE id % 100 = 55"
        ))?;
        Ok(())
    })?;
    let building = building.context("the build began")?;
    building
        .join()
        .map_err(|_| anyhow!("the builder panicked"))??;
    let rows: i64 = one.query_one("SELECT count(*) FROM look", &[])?.get(0);
    expect_rows(&mut one, rows)?;
    // And beside a vacuum, which waits for it.
    let vacuuming = spawn(move || builder.batch_execute("VACUUM look"));
    other.batch_execute("REINDEX INDEX CONCURRENTLY looks")?;
    vacuuming
        .join()
        .map_err(|_| anyhow!("the vacuum panicked"))??;
    expect_rows(&mut one, rows)
}
