//! Advisory locks: one loader at a time writes to a target, or its shards side by side.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use postgres::Client;

use super::Target;
use crate::shard::Shard;

/// Namespace of our advisory locks: "look".
pub(super) const LOCK_CLASS: i32 = 0x6c6f_6f6b;
/// A server takes a moment to notice that a killed loader is gone.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

const TRY_LOCK: &str = "SELECT pg_catalog.pg_try_advisory_lock($1, pg_catalog.hashtext($2))";
const TRY_LOCK_SHARED: &str =
    "SELECT pg_catalog.pg_try_advisory_lock_shared($1, pg_catalog.hashtext($2))";

impl Target {
    /// Keeps other loaders out of this target until the connection ends; a shard those of the same shard,
    /// and of no shard.
    pub fn lock(&self, client: &mut Client, shard: Option<&Shard>) -> Result<()> {
        let name = self.lock_name();
        let of = self.described();
        let Some(shard) = shard else {
            return wait_for(client, TRY_LOCK, name, || {
                format!(
                    "another lookbook load is writing to {of} of this database: let it finish, then run this again"
                )
            });
        };
        // Before the other: who has that one has this one.
        let division = format!("{name} of {}", shard.count());
        wait_for(client, TRY_LOCK_SHARED, &division, || {
            format!("the shards of {of} of this database are locked")
        })?;
        wait_for(client, TRY_LOCK_SHARED, name, || {
            format!(
                "a lookbook load without --shard is writing to {of} of this database: let it finish, then run this again"
            )
        })?;
        wait_until(
            client,
            |client| is_one_division(client, name, &division),
            || {
                format!(
                    "another lookbook load is writing shards of another number to {of} of this database, which hold other photos than \
                     shard {shard}: give all machines the same n of i/n"
                )
            },
        )?;
        wait_for(client, TRY_LOCK, &format!("{name} {shard}"), || {
            format!(
                "another lookbook load of shard {shard} is writing to {of} of this database: give each machine a shard of its own"
            )
        })
    }

    /// Whether this shard is the last one at work, which then keeps new ones out.
    pub fn outlast_other_shards(&self, client: &mut Client) -> Result<bool> {
        let name = self.lock_name();
        let unlock = "SELECT pg_catalog.pg_advisory_unlock_shared($1, pg_catalog.hashtext($2))";
        client.query_one(unlock, &[&LOCK_CLASS, &name])?;
        Ok(client.query_one(TRY_LOCK, &[&LOCK_CLASS, &name])?.get(0))
    }
}

/// Whether every session that loads a shard has the lock of this division, too.
fn is_one_division(client: &mut Client, name: &str, division: &str) -> Result<bool> {
    // As lock.h has advisory locks of two keys.
    let others = "WITH held AS (
           SELECT l.pid, l.objid::bigint AS key FROM pg_catalog.pg_locks l
           WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid = $1::integer::oid AND l.granted
             AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
         SELECT EXISTS (
           SELECT FROM held WHERE key = pg_catalog.hashtext($2)::bigint & 4294967295
             AND pid NOT IN (SELECT pid FROM held WHERE key = pg_catalog.hashtext($3)::bigint & 4294967295))";
    let row = client.query_one(others, &[&LOCK_CLASS, &name, &division])?;
    Ok(!row.get::<_, bool>(0))
}

/// Takes a lock of the session, or fails after [`LOCK_PATIENCE`].
fn wait_for(
    client: &mut Client,
    lock: &str,
    name: &str,
    refusal: impl FnOnce() -> String,
) -> Result<()> {
    let take = |client: &mut Client| Ok(client.query_one(lock, &[&LOCK_CLASS, &name])?.get(0));
    wait_until(client, take, refusal)
}

fn wait_until(
    client: &mut Client,
    is_so: impl Fn(&mut Client) -> Result<bool>,
    refusal: impl FnOnce() -> String,
) -> Result<()> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    while !is_so(client)? {
        if Instant::now() >= deadline {
            bail!(refusal());
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
