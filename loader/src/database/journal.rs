//! The books of every run: `lookbook_run` and `lookbook_reject` in the schema that is loaded into.
//!
//! Written over a connection of its own, beside the batches; another one where that breaks. Invariants: a run that cannot be recorded
//! still runs; a run that ended without saying so (killed, or cut off) is marked by the next one, because
//! a live run holds an advisory lock on its number.

use anyhow::{Context, Result};
use postgres::{Client, types::Json};
use serde_json::Value;

use super::{connect_anywhere, quoted};
use crate::source::Reject;

/// Namespace of the advisory locks of live runs: "lrun".
const RUN_CLASS: i32 = 0x6c72_756e;

/// For what a run writes of itself: it names its schemas, and somebody may have triggers there.
const ROLE_PATH: &str = "RESET search_path";

/// What is known of a run at its start.
#[derive(Debug)]
pub struct RunStart<'a> {
    pub verb: &'static str,
    pub source: &'a str,
    pub shard: Option<String>,
    /// Name and sha256 of the detector, then of the embedder.
    pub models: [Option<(&'a str, &'a str)>; 2],
    /// Where they run.
    pub devices: Value,
}

/// What a run counted, now or at its end.
#[derive(Debug, Default, Clone, Copy)]
pub struct RunCounts {
    pub total: u64,
    pub loaded: u64,
    pub replaced: u64,
    pub garments: u64,
    pub skipped: u64,
    pub rejected: u64,
    pub pruned: u64,
}

/// How a run ended.
#[derive(Debug)]
pub struct RunEnd {
    /// `complete`, `partial`, `interrupted` or `failed`.
    pub status: &'static str,
    pub error: Option<String>,
    pub images_per_second: f64,
    /// Stages, times, memory: the summary.
    pub report: Value,
}

/// An open record.
pub struct Journal {
    url: Option<String>,
    client: Client,
    runs: String,
    rejects: String,
    id: i64,
}

impl Journal {
    /// Makes the tables where they are missing, marks runs that were killed, and begins a record.
    /// The schema must be there.
    pub fn open(url: Option<&str>, schema: &str, start: &RunStart<'_>) -> Result<Self> {
        let mut client = connect_anywhere(url)?;
        let (runs, rejects) = tables(schema);
        ensure(&mut client, &runs, &rejects)
            .with_context(|| format!("cannot make the tables {runs} and {rejects}"))?;
        mark_killed(&mut client, &runs)?;
        client.batch_execute(ROLE_PATH)?;
        let [detector, embedder] = start.models;
        let row = client.query_one(
            &format!(
                "INSERT INTO {runs} (verb, source, shard, detect_model, detect_sha256, embed_model, \
                   embed_sha256, devices, loader_version, loader_host, loader_pid) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING id"
            ),
            &[
                &start.verb,
                &start.source,
                &start.shard,
                &detector.map(|model| model.0),
                &detector.map(|model| model.1),
                &embedder.map(|model| model.0),
                &embedder.map(|model| model.1),
                &Json(&start.devices),
                &env!("CARGO_PKG_VERSION"),
                &host(),
                &i64::from(std::process::id()),
            ],
        )?;
        let id: i64 = row.get(0);
        client.execute(
            "SELECT pg_catalog.pg_advisory_lock($1, $2)",
            &[&RUN_CLASS, &lock_key(id)],
        )?;
        Ok(Self {
            url: url.map(str::to_owned),
            client,
            runs,
            rejects,
            id,
        })
    }

    /// The number of this run.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// Whether the connection is gone; the next call tries another one.
    pub fn is_broken(&self) -> bool {
        self.client.is_closed()
    }

    fn execute(
        &mut self,
        statement: &str,
        values: &[&(dyn postgres::types::ToSql + Sync)],
    ) -> Result<()> {
        if self.client.is_closed() {
            self.client = connect_anywhere(self.url.as_deref())?;
            self.client.batch_execute(ROLE_PATH)?;
            // Not waited for: the server may not have noticed yet that the other one is gone.
            self.client.execute(
                "SELECT pg_catalog.pg_try_advisory_lock($1, $2)",
                &[&RUN_CLASS, &lock_key(self.id)],
            )?;
        }
        self.client.execute(statement, values)?;
        Ok(())
    }

    pub fn reject(&mut self, rejects: &[Reject]) -> Result<()> {
        let column = |of: fn(&Reject) -> &str| rejects.iter().map(of).collect::<Vec<&str>>();
        let id = self.id;
        self.execute(
            &format!(
                "INSERT INTO {} (run, path, code, reason) \
                 SELECT $1, * FROM ROWS FROM (pg_catalog.unnest($2::pg_catalog.text[]), \
                   pg_catalog.unnest($3::pg_catalog.text[]), pg_catalog.unnest($4::pg_catalog.text[]))",
                self.rejects
            ),
            &[
                &id,
                &column(|reject| &reject.path),
                &column(|reject| &reject.code),
                // PostgreSQL text holds no zero byte, and a reason may quote a file.
                &rejects
                    .iter()
                    .map(|reject| reject.reason.replace('\0', " "))
                    .collect::<Vec<String>>(),
            ],
        )
    }

    /// So far; what a killed run leaves.
    pub fn progress(&mut self, counts: &RunCounts) -> Result<()> {
        self.update(counts, "seen_at = pg_catalog.clock_timestamp()", &[])
    }

    pub fn finish(&mut self, counts: &RunCounts, end: &RunEnd) -> Result<()> {
        let rate = end.images_per_second;
        // A run that was thought to be killed, as its lock was not there for a while, says so itself.
        let set = "status = $9, error = $10, images_per_second = $11, report = $12, \
                   seen_at = pg_catalog.clock_timestamp(), ended_at = pg_catalog.clock_timestamp()";
        let report = Json(&end.report);
        self.update(counts, set, &[&end.status, &end.error, &rate, &report])
    }

    /// As if it had not been.
    pub fn delete(&mut self) -> Result<()> {
        let id = self.id;
        self.execute(&format!("DELETE FROM {} WHERE id = $1", self.runs), &[&id])
    }

    fn update(
        &mut self,
        counts: &RunCounts,
        set: &str,
        more: &[&(dyn postgres::types::ToSql + Sync)],
    ) -> Result<()> {
        let of = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let numbers = [
            of(counts.total),
            of(counts.loaded),
            of(counts.replaced),
            of(counts.garments),
            of(counts.skipped),
            of(counts.rejected),
            of(counts.pruned),
        ];
        let id = self.id;
        let mut values: Vec<&(dyn postgres::types::ToSql + Sync)> = vec![&id];
        values.extend(
            numbers
                .iter()
                .map(|n| n as &(dyn postgres::types::ToSql + Sync)),
        );
        values.extend(more);
        let update = format!(
            "UPDATE {} SET photos = $2, loaded = $3, replaced = $4, garments = $5, skipped = $6, \
               rejected = $7, pruned = $8, {set} WHERE id = $1",
            self.runs
        );
        self.execute(&update, &values)
    }
}

/// A run that is recorded.
#[derive(Debug)]
pub struct RecordedRun {
    pub id: i64,
    pub status: String,
    pub error: Option<String>,
}

/// The newest run of a schema; one that says it is running and holds no lock was killed.
pub fn last_run(client: &mut Client, schema: &str) -> Result<Option<RecordedRun>> {
    let (runs, _) = tables(schema);
    let is_there = client.query_one("SELECT pg_catalog.to_regclass($1) IS NOT NULL", &[&runs])?;
    if !is_there.get::<_, bool>(0) {
        return Ok(None);
    }
    let newest = format!(
        "SELECT id, CASE WHEN status = 'running' AND NOT EXISTS (
             SELECT FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND l.classid = $1::int4::oid
             AND l.objid::bigint = r.id & 4294967295
             AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())) THEN 'killed' ELSE status END, error
         FROM {runs} r ORDER BY id DESC LIMIT 1"
    );
    let row = client.query_opt(&newest, &[&RUN_CLASS])?;
    Ok(row.map(|row| RecordedRun {
        id: row.get(0),
        status: row.get(1),
        error: row.get(2),
    }))
}

/// The two tables, quoted and with their schema.
fn tables(schema: &str) -> (String, String) {
    let qualified = |table| format!("{}.{table}", quoted(schema));
    (qualified("lookbook_run"), qualified("lookbook_reject"))
}

fn ensure(client: &mut Client, runs: &str, rejects: &str) -> Result<()> {
    let mut change = client.transaction()?;
    let are_there =
        "SELECT pg_catalog.to_regclass($1) IS NOT NULL AND pg_catalog.to_regclass($2) IS NOT NULL";
    let are_there: bool = change.query_one(are_there, &[&runs, &rejects])?.get(0);
    if are_there {
        return Ok(());
    }
    // Shards may begin at the same moment.
    change.execute(
        "SELECT pg_catalog.pg_advisory_xact_lock($1, pg_catalog.hashtext($2))",
        &[&RUN_CLASS, &runs],
    )?;
    change.batch_execute(&format!(
        "CREATE TABLE IF NOT EXISTS {runs} (
           id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
           verb text NOT NULL,
           source text NOT NULL,
           shard text,
           status text NOT NULL DEFAULT 'running'
             CHECK (status IN ('running', 'complete', 'partial', 'interrupted', 'failed', 'killed')),
           started_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
           seen_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
           ended_at timestamptz,
           detect_model text,
           detect_sha256 text,
           embed_model text,
           embed_sha256 text,
           devices jsonb,
           photos bigint NOT NULL DEFAULT 0,
           loaded bigint NOT NULL DEFAULT 0,
           replaced bigint NOT NULL DEFAULT 0,
           garments bigint NOT NULL DEFAULT 0,
           skipped bigint NOT NULL DEFAULT 0,
           rejected bigint NOT NULL DEFAULT 0,
           pruned bigint NOT NULL DEFAULT 0,
           images_per_second double precision,
           error text,
           report jsonb,
           loader_version text NOT NULL,
           loader_host text,
           loader_pid bigint NOT NULL);
         COMMENT ON TABLE {runs} IS 'Every run of the lookbook loader in this schema';
         COMMENT ON COLUMN {runs}.seen_at IS 'When the run last said how far it is; for a killed run, the last sign of life';
         CREATE TABLE IF NOT EXISTS {rejects} (
           run bigint NOT NULL REFERENCES {runs} ON DELETE CASCADE,
           path text NOT NULL,
           code text NOT NULL,
           reason text NOT NULL,
           rejected_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp());
         COMMENT ON TABLE {rejects} IS 'Photos that a run of the lookbook loader did not load, and why';
         CREATE INDEX IF NOT EXISTS lookbook_reject_run_idx ON {rejects} (run)"
    ))?;
    Ok(change.commit()?)
}

/// Runs that say they are running, and hold their lock no more.
fn mark_killed(client: &mut Client, runs: &str) -> Result<()> {
    let open = format!("SELECT id FROM {runs} WHERE status = 'running'");
    for row in client.query(&open, &[])? {
        let id: i64 = row.get(0);
        let mut change = client.transaction()?;
        let lock = "SELECT pg_catalog.pg_try_advisory_xact_lock($1, $2)";
        if change.query_one(lock, &[&RUN_CLASS, &lock_key(id)])?.get(0) {
            change.execute(
                &format!(
                    "UPDATE {runs} SET status = 'killed', ended_at = seen_at \
                     WHERE id = $1 AND status = 'running'"
                ),
                &[&id],
            )?;
        }
        change.commit()?;
    }
    Ok(())
}

/// Advisory locks take two int4; a run that shares the low half with a live one is marked later.
fn lock_key(id: i64) -> i32 {
    id as i32
}

fn host() -> Option<String> {
    let name = rustix::system::uname();
    name.nodename().to_str().ok().map(str::to_owned)
}
