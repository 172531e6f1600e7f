//! Whether an operator class is one of ours: it has a metric or a hash.

use super::{HASH_PROC, METRIC_PROC};
use pgrx::{PgSqlErrorCode, ereport, pg_guard, pg_sys};

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn amvalidate(class: pg_sys::Oid) -> bool {
    // SAFETY: PostgreSQL's contract of amvalidate: the class exists.
    let (family, input) = unsafe {
        (
            pg_sys::get_opclass_family(class),
            pg_sys::get_opclass_input_type(class),
        )
    };
    let has = |number: u16| {
        // SAFETY: a look-up in the catalogue.
        let function = unsafe { pg_sys::get_opfamily_proc(family, input, input, number as i16) };
        function != pg_sys::InvalidOid
    };
    let is_one = has(HASH_PROC) != has(METRIC_PROC);
    if !is_one {
        ereport!(
            INFO,
            PgSqlErrorCode::ERRCODE_INVALID_OBJECT_DEFINITION,
            format!(
                "an operator class of lookbook needs support function {HASH_PROC} (hash of a filter column) or {METRIC_PROC} (metric of an embedding), and not both"
            )
        );
    }
    is_one
}

/// Support function 2 of `embedding_l2_ops`.
#[pgrx::pg_extern]
fn lookbook_metric_l2() -> i32 {
    lookbook_ann::Metric::L2 as i32
}

/// Support function 2 of `embedding_cosine_ops`.
#[pgrx::pg_extern]
fn lookbook_metric_cosine() -> i32 {
    lookbook_ann::Metric::Cosine as i32
}

/// Support function 2 of `embedding_ip_ops`.
#[pgrx::pg_extern]
fn lookbook_metric_inner_product() -> i32 {
    lookbook_ann::Metric::InnerProduct as i32
}
