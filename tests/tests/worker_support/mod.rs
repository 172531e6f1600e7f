//! What the suites of the inference worker share: a database with tiny models, and its statistics.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lookbook_tests::{Cluster, Database};
use postgres::Client;

use crate::sql_support::{bmp, import_detector, import_embedder};

/// What a busy machine may need.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A database whose default models are the tiny ones, in a server of its own.
pub fn tiny<'c>(cluster: &'c Cluster, name: &str) -> Result<Database<'c>> {
    let database = cluster.database(name)?;
    let mut client = database.connect()?;
    import_embedder(&mut client, "mean", "GlobalAveragePool")?;
    import_detector(&mut client, "boxes")?;
    client.batch_execute(
        "SELECT lookbook_model_default('mean'); SELECT lookbook_model_default('boxes')",
    )?;
    Ok(database)
}

/// A number of `lookbook_worker`; `None` without a worker, or where it is NULL.
pub fn number(client: &mut Client, column: &str) -> Result<Option<i64>> {
    let sql = format!("SELECT {column}::bigint FROM lookbook_worker");
    Ok(client.query_opt(&sql, &[])?.and_then(|row| row.get(0)))
}

/// Waits until `column` of `lookbook_worker` is as `wanted`.
pub fn wait_for(
    client: &mut Client,
    column: &str,
    wanted: impl Fn(Option<i64>) -> bool,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = number(client, column)?;
        if wanted(found) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{column} stays at {found:?}");
        sleep(Duration::from_millis(10));
    }
}

/// A photo that no other call of a test has, so that nothing is remembered.
pub fn photo(number: u8) -> Vec<u8> {
    bmp(
        20 + u32::from(number),
        30,
        [number.wrapping_mul(7), 90, number],
    )
}
