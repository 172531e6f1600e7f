//! What the suites of the index share: seeded vectors made by the server, answers with and without the
//! index, and what EXPLAIN says.
#![allow(dead_code, reason = "each suite uses its part")]

pub mod drawn;

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lookbook_tests::{Cluster, Database};
use postgres::Client;

/// Dimensions of `look`: two groups of sign codes, and little work.
pub const DIMENSIONS: i32 = 32;
pub const PATIENCE: Duration = Duration::from_secs(60);

/// `look(n)` is the vector of row `n`: one of 40 clouds, and its place in it, both by hash. No two are equal.
pub const LOOKS: &str = "
    CREATE FUNCTION look(n bigint, dimensions int DEFAULT 32) RETURNS embedding
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
      SELECT array_agg((sin((n % 40) * 12.9898 + d * 78.233)
        + 0.7 * (hashint8extended(n * 16384 + d, 42) % 1000000) / 1000000.0)::real ORDER BY d)::real[]::embedding
      FROM generate_series(1, dimensions) AS d
    $$;";

/// A database with [`LOOKS`] and a connection to it.
pub fn database<'c>(cluster: &'c Cluster, name: &str) -> Result<(Database<'c>, Client)> {
    let database = cluster.database(name)?;
    let mut client = database.connect()?;
    client.batch_execute(LOOKS)?;
    Ok((database, client))
}

/// As [`database`], with a table `look (id bigint, category int, v embedding(32))` of so many rows.
pub fn catalogue<'c>(
    cluster: &'c Cluster,
    name: &str,
    rows: i64,
) -> Result<(Database<'c>, Client)> {
    let (database, mut client) = database(cluster, name)?;
    client.batch_execute(&format!(
        "CREATE TABLE look (id bigint, category int, v embedding({DIMENSIONS}));
         INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series(1, {rows}) AS n"
    ))?;
    Ok((database, client))
}

/// A connection to [`catalogue`] of the shared cluster, with the index `looks` on `(v, category)` and statistics.
pub fn indexed(name: &str, rows: i64) -> Result<Client> {
    let (_, mut client) = catalogue(Cluster::shared()?, name, rows)?;
    client
        .batch_execute("CREATE INDEX looks ON look USING lookbook (v, category); ANALYZE look")?;
    Ok(client)
}

/// Sessions that must use the index, with every answer exact.
pub const BY_INDEX_EXACTLY: &str = "SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off; SET lookbook.recall = 1";

/// What `query` gives by way of the index, as the session stands.
pub fn rows_of(client: &mut Client, query: &str) -> Result<Vec<(i64, Option<f64>)>> {
    let rows = client.query(query, &[]).with_context(|| query.to_owned())?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// What `query` gives without any index: the truth.
pub fn truth_of(client: &mut Client, query: &str) -> Result<Vec<(i64, Option<f64>)>> {
    let mut change = client.transaction()?;
    change.batch_execute(
        "SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_indexonlyscan = off;
         SET LOCAL enable_seqscan = on; SET LOCAL enable_sort = on",
    )?;
    let rows = change.query(query, &[]).with_context(|| query.to_owned())?;
    change.rollback()?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The plan, one line per node and detail.
pub fn plan_of(client: &mut Client, query: &str) -> Result<String> {
    let rows = client.query(&format!("EXPLAIN (COSTS OFF) {query}"), &[])?;
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(lines.join("\n"))
}

pub fn expect_plan(client: &mut Client, query: &str, parts: &[&str]) -> Result<()> {
    let plan = plan_of(client, query)?;
    for part in parts {
        ensure!(
            plan.contains(part),
            "{part:?} is not in the plan of {query}:\n{plan}"
        );
    }
    Ok(())
}

/// `query` (id and distance, nearest first) is answered by `index`, and exactly as without it. The session
/// has recall 1. Rows of equal distance may come in any order.
pub fn expect_exact(client: &mut Client, index: &str, query: &str) -> Result<usize> {
    expect_plan(client, query, &[&format!("using {index} on")])?;
    let (found, truth) = (rows_of(client, query)?, truth_of(client, query)?);
    let distances = |rows: &[(i64, Option<f64>)]| -> Vec<Option<u64>> {
        rows.iter().map(|row| row.1.map(f64::to_bits)).collect()
    };
    ensure!(
        distances(&found) == distances(&truth),
        "{query}: {} rows of {}\nfound {:?}\ntruth {:?}",
        found.len(),
        truth.len(),
        &found[..found.len().min(20)],
        &truth[..truth.len().min(20)]
    );
    let mut ids: Vec<i64> = found.iter().map(|row| row.0).collect();
    ids.sort_unstable();
    ids.dedup();
    ensure!(ids.len() == found.len(), "{query}: a row came twice");
    Ok(found.len())
}

/// The share of the true rows that were found; equal distances count as equal rows.
pub fn recall(found: &[(i64, Option<f64>)], truth: &[(i64, Option<f64>)]) -> f64 {
    let Some((_, Some(farthest))) = truth.last() else {
        return 1.0;
    };
    let near = found
        .iter()
        .filter(|row| row.1.is_some_and(|distance| distance <= *farthest));
    near.count() as f64 / truth.len() as f64
}

/// Runs `check` of the index: every invariant, and as many rows as the table has visible ones or dead ones
/// not yet vacuumed.
pub fn check_index(client: &mut Client, index: &str) -> Result<i64> {
    let row = client
        .query_one("SELECT lookbook_index_check($1::text::regclass)", &[&index])
        .with_context(|| format!("checking {index}"))?;
    Ok(row.get(0))
}

/// A number of `lookbook_index_info`.
pub fn info(client: &mut Client, index: &str, key: &str) -> Result<i64> {
    let row = client.query_one(
        "SELECT (lookbook_index_info($1::text::regclass)->>$2)::bigint",
        &[&index, &key],
    )?;
    row.get::<_, Option<i64>>(0)
        .with_context(|| format!("lookbook_index_info has no {key}"))
}

/// Kilobytes of memory of its own that a backend holds.
pub fn own_memory_kb(pid: i32) -> Result<i64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kilobytes.context("RssAnon in kB")?.trim().parse()?)
}

/// SQLSTATE and message of a statement that must fail.
pub fn error_of(client: &mut Client, sql: &str) -> Result<(String, String)> {
    match client.batch_execute(sql) {
        Ok(()) => anyhow::bail!("this must fail: {sql}"),
        Err(error) => {
            let error = error
                .as_db_error()
                .with_context(|| format!("{sql}: {error}"))?;
            let hint = error
                .hint()
                .map(|hint| format!(" | {hint}"))
                .unwrap_or_default();
            let detail = error
                .detail()
                .map(|detail| format!(" | {detail}"))
                .unwrap_or_default();
            Ok((
                error.code().code().to_owned(),
                format!("{}{detail}{hint}", error.message()),
            ))
        }
    }
}

/// A statement was done, or a crash of the server took its session; any other error is one.
pub fn expect_crash_at_most(done: Result<(), postgres::Error>) -> Result<()> {
    let Err(error) = done else { return Ok(()) };
    // admin_shutdown, crash_shutdown, cannot_connect_now: what a dying server still says. Mostly it says nothing.
    let is_of_a_crash = match error.as_db_error() {
        Some(said) => ["57P01", "57P02", "57P03"].contains(&said.code().code()),
        None => true,
    };
    ensure!(is_of_a_crash, "this is not of a crash: {error:?}");
    Ok(())
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition()? {
        ensure!(Instant::now() < deadline, "{what} does not happen");
        sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Waits until the replica has replayed what the primary has logged, written out or not.
pub fn catch_up(primary: &mut Client, replica: &mut Client) -> Result<()> {
    let logged: String = primary
        .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])?
        .get(0);
    wait_until(&format!("replay within {PATIENCE:?}"), || {
        let row = replica.query_one(
            "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn",
            &[&logged],
        )?;
        Ok(row.get(0))
    })
}

/// How long rounds go on: some seconds in `make test`, minutes with `LOOKBOOK_SOAK_MINUTES`.
#[derive(Debug)]
pub struct TimeBox(Instant);

impl TimeBox {
    pub fn of_seconds(seconds: u64) -> Self {
        let minutes: Option<u64> = std::env::var("LOOKBOOK_SOAK_MINUTES")
            .ok()
            .map(|text| text.parse().expect("LOOKBOOK_SOAK_MINUTES is a number"));
        let time = minutes.map_or(seconds, |minutes| minutes * 60);
        Self(Instant::now() + Duration::from_secs(time))
    }

    pub fn seconds_left(&self) -> u64 {
        self.0
            .saturating_duration_since(Instant::now())
            .as_secs()
            .max(1)
    }

    pub fn has_left(&self) -> bool {
        Instant::now() < self.0
    }
}
