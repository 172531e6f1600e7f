//! `lookbook_index_info` and `lookbook_index_check`.

use super::columns::{self, dimensions_of};
use super::errors::{or_raise, refuse};
use super::store::BufferStore;
use lookbook_ann::{Error, Index, Info, LEVELS};
use pgrx::prelude::*;
use pgrx::{JsonB, PgRelation, PgSqlErrorCode, pg_sys};
use serde_json::json;

#[pg_extern]
fn lookbook_index_info(index: pg_sys::Oid) -> JsonB {
    with_index(index, |store, index| {
        let info = steady(store, || index.info(store));
        let calibration: Vec<_> = LEVELS
            .iter()
            .zip(&info.calibration.slacks)
            .map(|(recall, slack)| {
                json!({"recall": short(*recall), "list": short(slack.list), "code": short(slack.code)})
            })
            .collect();
        let rows = info.rows + info.aside_rows;
        JsonB(json!({
            "rows": info.rows,
            "dead_rows": info.dead_rows,
            "aside_rows": info.aside_rows,
            "lists": info.lists,
            "longest_list": info.longest_list,
            "dimensions": info.options.dimensions,
            "bits": info.options.bits,
            "filter_columns": info.options.filter_columns,
            "pages": info.pages,
            "free_pages": info.free_pages,
            "orphan_pages": info.orphan_pages,
            "bytes": info.pages * pg_sys::BLCKSZ as usize,
            "bytes_per_row": (info.pages * pg_sys::BLCKSZ as usize) / rows.max(1),
            "drift": (info.drift * 100.0).round() / 100.0,
            "calibration": calibration,
        }))
    })
}

/// A number with the digits that it has as a `float4`.
fn short(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_| number.into())
}

#[pg_extern]
fn lookbook_index_check(index: pg_sys::Oid) -> i64 {
    let Info {
        rows, aside_rows, ..
    } = with_index(index, |store, index| {
        // SAFETY: the store's relation is open, an index of ours.
        if unsafe { dimensions_of(store.relation()) }.is_none() {
            let dimensions = index.options().dimensions;
            ereport!(
                WARNING,
                PgSqlErrorCode::ERRCODE_WARNING,
                "the column of this index has lost its dimensions, and so it cannot be built again",
                format!(
                    "REINDEX, VACUUM FULL, TRUNCATE and a restored dump need them: ALTER TABLE … ALTER COLUMN … TYPE embedding({dimensions})."
                )
            );
        }
        steady(store, || index.check(store))
    });
    (rows + aside_rows) as i64
}

/// What `pass` gives. On a standby replay waits for no latch, so a pass may meet structure half changed: damage is what the next
/// pass finds again.
fn steady(store: &BufferStore, mut pass: impl FnMut() -> lookbook_ann::Result<Info>) -> Info {
    let relation = store.relation();
    // SAFETY: reads a flag in shared memory.
    if !unsafe { pg_sys::RecoveryInProgress() } {
        return or_raise(pass(), relation);
    }
    let mut before = None;
    for _ in 0..STANDBY_PASSES {
        match pass() {
            Err(found @ Error::Corrupt { .. }) => {
                let text = found.to_string();
                if before.as_ref() == Some(&text) {
                    return or_raise(Err(found), relation);
                }
                before = Some(text);
            }
            done => return or_raise(done, relation),
        }
    }
    refuse(
        PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
        format!("replay changed the index during each of {STANDBY_PASSES} passes over it"),
        "pg_wal_replay_pause() stops replay for a while; or ask the primary.",
    )
}

/// Passes on a standby, after which it is given up.
const STANDBY_PASSES: usize = 10;

fn with_index<T>(oid: pg_sys::Oid, work: impl FnOnce(&BufferStore, &mut Index) -> T) -> T {
    // SAFETY: a shared lock on the relation, if it exists; kept until the end of the transaction.
    let relation =
        unsafe { PgRelation::with_lock(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
    // SAFETY: the relation is open; only an index has an access method's routine.
    let is_ours = unsafe {
        let routine = (*relation.as_ptr()).rd_indam;
        !routine.is_null()
            && (*routine)
                .ambuild
                .is_some_and(|build| std::ptr::fn_addr_eq(build, AMBUILD))
    };
    if !is_ours {
        refuse(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("\"{}\" is not a lookbook index", relation.name()),
            "Indexes of tables are listed by \\d in psql.",
        );
    }
    if !relation.is_index() {
        refuse(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!(
                "\"{}\" is the index of a partitioned table",
                relation.name()
            ),
            "Name the index of one of its partitions.",
        );
    }
    may_read_table(oid, &relation);
    // SAFETY: reads the relation's row of the catalogue, and a flag in shared memory.
    let is_absent = unsafe {
        (*(*relation.as_ptr()).rd_rel).relpersistence == pg_sys::RELPERSISTENCE_UNLOGGED as i8
            && pg_sys::RecoveryInProgress()
    };
    if is_absent {
        refuse(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("unlogged index \"{}\" is not on a standby", relation.name()),
            "Ask the primary.",
        );
    }
    // SAFETY: open and locked until `relation` is dropped.
    let store = unsafe { BufferStore::new(relation.as_ptr()) };
    let mut index = or_raise(columns::open(&store), relation.as_ptr());
    work(&store, &mut index)
}

/// Whoever may read the table may look into its index.
fn may_read_table(index: pg_sys::Oid, relation: &PgRelation) {
    // SAFETY: look-ups in the catalogue; the index is open and so has a table.
    let may_read = unsafe {
        let table = pg_sys::IndexGetRelation(index, false);
        pg_sys::pg_class_aclcheck(table, pg_sys::GetUserId(), pg_sys::ACL_SELECT.into())
    };
    if may_read != pg_sys::AclResult::ACLCHECK_OK {
        refuse(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("permission denied for index {}", relation.name()),
            "GRANT SELECT on its table allows it.",
        );
    }
}

const AMBUILD: unsafe extern "C-unwind" fn(
    pg_sys::Relation,
    pg_sys::Relation,
    *mut pg_sys::IndexInfo,
) -> *mut pg_sys::IndexBuildResult = super::build::ambuild;
