//! A table that others keep out of, for a moment.
//!
//! Invariant: nobody waits behind us for longer than one try; between two tries those who came later have their turn,
//! and Ctrl-C ends the waiting.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use postgres::{GenericClient, Transaction};
use thiserror::Error;

use crate::{database::retry, interrupt, messages};

/// How long all tries may take together.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);
const TRY: &str = "SET LOCAL lock_timeout = '1s'";
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// Who is kept out.
#[derive(Debug, Clone, Copy)]
pub(super) enum KeptOut {
    Writers,
    Everybody,
}

#[derive(Debug, Error)]
#[error(
    "{table} was in use by {sessions} all the time, and a change of its columns or indexes needs it alone for a moment: nothing \
     was changed; let them end (pg_terminate_backend ends one), then run the same command again"
)]
pub(super) struct InUse {
    table: String,
    sessions: String,
}

/// Keeps others out of `table` until `change` ends. Holds nothing while it waits but what `change` has already.
pub(super) fn lock(
    change: &mut Transaction<'_>,
    table: &str,
    kept_out: KeptOut,
    deadline: Instant,
) -> Result<()> {
    let mode = match kept_out {
        KeptOut::Writers => "SHARE",
        KeptOut::Everybody => "ACCESS EXCLUSIVE",
    };
    let lock = format!("{TRY}; LOCK TABLE {table} IN {mode} MODE");
    let mut is_said = false;
    loop {
        let mut attempt = change.transaction()?;
        match attempt.batch_execute(&lock) {
            Ok(()) => return Ok(attempt.commit()?),
            Err(error) if !retry::is_in_the_way(&error) => return Err(error.into()),
            Err(_) => attempt.rollback()?,
        }
        interrupt::check()?;
        let sessions = users_of(change, table)?;
        if Instant::now() >= deadline {
            let table = table.to_owned();
            return Err(InUse { table, sessions }.into());
        }
        if !is_said {
            is_said = true;
            messages::note(format_args!(
                "waiting for {table}, which {sessions} use: its columns and indexes change while nobody does"
            ));
        }
        thread::sleep(PAUSE);
    }
}

/// The sessions that use a table or its partitions, in words.
fn users_of(client: &mut impl GenericClient, table: &str) -> Result<String> {
    let row = client.query_one(
        "SELECT pg_catalog.string_agg(DISTINCT l.pid::text, ', ') FROM pg_catalog.pg_locks l \
         WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_catalog.pg_backend_pid() \
           AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) \
           AND l.relation IN (SELECT pg_catalog.to_regclass($1)::pg_catalog.oid UNION ALL \
             SELECT relid FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass($1)))",
        &[&table],
    )?;
    let pids: Option<String> = row.get(0);
    Ok(pids.map_or_else(
        || "other sessions".to_owned(),
        |pids| format!("sessions {pids}"),
    ))
}
