//! What the view `lookbook_worker` shows.

use super::{INFERENCE_LOCK, SOCKET, SUPERVISOR_LOCK, is_locked};
use crate::inference::ask_worker;
use crate::settings::errors::UserError;
use lookbook_worker::client::connect;
use lookbook_worker::protocol::{Call, Reply};
use pgrx::prelude::*;
use pgrx::{JsonB, pg_sys};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Numbers of the inference process, or the supervisor alone while there is none: looking starts
/// nothing. NULL when there is no supervisor either.
#[pg_extern]
fn lookbook_worker_stats() -> Result<Option<JsonB>, UserError> {
    let Some(supervisor) = supervisor() else {
        return Ok(None);
    };
    let mut stats = match inference()? {
        Some(stats) => stats,
        None => json!({ "supervisor_pid": supervisor }),
    };
    // Names of models may be private; who may see everybody's statistics may see them.
    // SAFETY: reads the catalogue.
    let sees_all = unsafe {
        pg_sys::has_privs_of_role(
            pg_sys::GetUserId(),
            pg_sys::Oid::from(pg_sys::ROLE_PG_READ_ALL_STATS),
        )
    };
    if !sees_all && let Value::Object(fields) = &mut stats {
        fields.remove("loaded");
    }
    Ok(Some(JsonB(stats)))
}

/// Process id of the supervisor that holds the lock.
fn supervisor() -> Option<u32> {
    if !is_locked(SUPERVISOR_LOCK) {
        return None;
    }
    fs::read_to_string(SUPERVISOR_LOCK)
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn inference() -> Result<Option<Value>, UserError> {
    if !is_locked(INFERENCE_LOCK) {
        return Ok(None);
    }
    let Ok(Some(stream)) = connect(Path::new(SOCKET)) else {
        return Ok(None);
    };
    match ask_worker(&stream, &Call::Stats)? {
        Some(Reply::Stats(json)) => Ok(serde_json::from_str(&json).ok()),
        _ => Ok(None),
    }
}
