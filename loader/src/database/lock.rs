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
        wait_for(client, TRY_LOCK_SHARED, name, || {
            format!(
                "a lookbook load without --shard is writing to {of} of this database: let it finish, then run this again"
            )
        })?;
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

/// Takes a lock of the session, or fails after [`LOCK_PATIENCE`].
fn wait_for(
    client: &mut Client,
    lock: &str,
    name: &str,
    refusal: impl FnOnce() -> String,
) -> Result<()> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    while !client
        .query_one(lock, &[&LOCK_CLASS, &name])?
        .get::<_, bool>(0)
    {
        if Instant::now() >= deadline {
            bail!(refusal());
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
