//! What goes on while servers are killed: writers that know what they committed, searches compared with the truth,
//! vacuums, index builds, changes of models.

pub mod journal;
pub mod models;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lookbook_tests::Random;
use postgres::{Client, IsolationLevel};

use crate::index_support::BY_INDEX_EXACTLY;

/// The vector of a row follows from `n`, so a row that came back damaged is seen.
pub const SCHEMA: &str = "
    CREATE TABLE look (id bigint PRIMARY KEY, category int NOT NULL, n bigint NOT NULL,
                       v embedding(32) GENERATED ALWAYS AS (look(n)) STORED);
    CREATE INDEX looks ON look USING lookbook (v, category);
    CREATE INDEX others ON look USING lookbook (v embedding_cosine_ops)";

/// How much was done.
#[derive(Debug, Default)]
pub struct Counts {
    pub changes: AtomicU64,
    pub searches: AtomicU64,
    pub vacuums: AtomicU64,
    pub builds: AtomicU64,
    pub models: AtomicU64,
}

impl Counts {
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Was some of everything done?
    pub fn has_all(&self) -> bool {
        let Counts {
            changes,
            searches,
            vacuums,
            builds,
            models,
        } = self;
        let mut all = [changes, searches, vacuums, builds, models].into_iter();
        all.all(|counter| counter.load(Ordering::Relaxed) > 0)
    }
}

/// A search by the index in one snapshot with the truth. An error is of the server; the result says what was wrong.
fn search(client: &mut Client, random: &mut Random) -> Result<Result<()>, postgres::Error> {
    let (query, category) = (random.below(1_000_000), random.below(10));
    let limit = [1, 10, 100, 10_000][random.below(4) as usize];
    let operator = ["<->", "<=>"][random.below(2) as usize];
    let condition = [
        "true".to_owned(),
        format!("category = {category}"),
        format!("id % 10 = {category}"),
    ];
    let condition = &condition[random.below(3) as usize];
    let query = format!(
        "SELECT v {operator} look({query}) FROM look WHERE {condition} ORDER BY v {operator} look({query}) LIMIT {limit}"
    );
    let mut snapshot = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .start()?;
    let of = |rows: Vec<postgres::Row>| -> Vec<f64> { rows.iter().map(|row| row.get(0)).collect() };
    let found = of(snapshot.query(&query, &[])?);
    snapshot.batch_execute(
        "SET LOCAL enable_indexscan = off; SET LOCAL enable_seqscan = on; SET LOCAL enable_sort = on",
    )?;
    let truth = of(snapshot.query(&query, &[])?);
    snapshot.commit()?;
    let compare = || {
        ensure!(
            found == truth,
            "{query}: {} rows of {}\nfound {:?}\ntruth {:?}",
            found.len(),
            truth.len(),
            &found[..found.len().min(12)],
            &truth[..truth.len().min(12)]
        );
        Ok(())
    };
    Ok(compare())
}

/// Searches until the server is gone.
pub fn keep_searching(client: &mut Client, random: &mut Random, counts: &Counts) -> Result<()> {
    until_gone(client.batch_execute(BY_INDEX_EXACTLY))?;
    while let Some(compared) = until_gone(search(client, random))? {
        compared?;
        Counts::add(&counts.searches);
    }
    Ok(())
}

/// Vacuums, and a checkpoint now and then, until the server is gone.
pub fn keep_vacuuming(client: &mut Client, random: &mut Random, counts: &Counts) -> Result<()> {
    loop {
        let statement = match random.below(8) {
            0 => "CHECKPOINT",
            1 => "VACUUM (FREEZE, INDEX_CLEANUP ON) look",
            2..5 => "VACUUM (INDEX_CLEANUP ON) look",
            _ => "VACUUM look",
        };
        if until_gone(client.batch_execute(statement))?.is_none() {
            return Ok(());
        }
        Counts::add(&counts.vacuums);
        sleep(Duration::from_millis(random.below(60) as u64));
    }
}

/// Builds one of the indexes anew in every way there is, until the server is gone.
pub fn keep_building(client: &mut Client, random: &mut Random, counts: &Counts) -> Result<()> {
    loop {
        let statements: &[&str] = match random.below(5) {
            0 => &["REINDEX INDEX others"],
            1 | 2 => &["REINDEX INDEX CONCURRENTLY others"],
            3 => &[
                "DROP INDEX others",
                "CREATE INDEX others ON look USING lookbook (v embedding_cosine_ops)",
            ],
            _ => &[
                "DROP INDEX CONCURRENTLY others",
                "CREATE INDEX CONCURRENTLY others ON look USING lookbook (v embedding_cosine_ops)",
            ],
        };
        for statement in statements {
            if until_gone(client.batch_execute(statement))
                .with_context(|| (*statement).to_owned())?
                .is_none()
            {
                return Ok(());
            }
        }
        Counts::add(&counts.builds);
        sleep(Duration::from_millis(random.below(120) as u64));
    }
}

/// `None`: the server is gone. Any other error is one.
pub fn until_gone<T>(done: Result<T, postgres::Error>) -> Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) => {
            crate::index_support::expect_crash_at_most(Err(error))?;
            Ok(None)
        }
    }
}
