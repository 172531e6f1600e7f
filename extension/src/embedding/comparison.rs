//! The order of embeddings, for btree, DISTINCT and merge joins: element by element, then by length,
//! as PostgreSQL orders arrays; and hashes that agree with it. Elements are never NaN, and -0 equals 0.

use super::Embedding;
use pgrx::prelude::*;
use std::cmp::Ordering;
use std::ffi::c_int;

fn compare(a: Embedding<'_>, b: Embedding<'_>) -> Ordering {
    a.partial_cmp(&b).unwrap_or(Ordering::Equal)
}

#[pg_extern]
fn embedding_lt(a: Embedding<'_>, b: Embedding<'_>) -> bool {
    compare(a, b).is_lt()
}

#[pg_extern]
fn embedding_le(a: Embedding<'_>, b: Embedding<'_>) -> bool {
    compare(a, b).is_le()
}

#[pg_extern]
fn embedding_eq(a: Embedding<'_>, b: Embedding<'_>) -> bool {
    compare(a, b).is_eq()
}

#[pg_extern]
fn embedding_ne(a: Embedding<'_>, b: Embedding<'_>) -> bool {
    compare(a, b).is_ne()
}

#[pg_extern]
fn embedding_ge(a: Embedding<'_>, b: Embedding<'_>) -> bool {
    compare(a, b).is_ge()
}

#[pg_extern]
fn embedding_gt(a: Embedding<'_>, b: Embedding<'_>) -> bool {
    compare(a, b).is_gt()
}

#[pg_extern]
fn embedding_cmp(a: Embedding<'_>, b: Embedding<'_>) -> i32 {
    compare(a, b) as i32
}

unsafe extern "C-unwind" {
    /// `common/hashfn.h`; never raises.
    fn hash_bytes(bytes: *const u8, length: c_int) -> u32;
    fn hash_bytes_extended(bytes: *const u8, length: c_int, seed: u64) -> u64;
}

/// The elements in memory, equal ones as equal bytes.
fn canonical(value: &[f32]) -> Vec<u8> {
    // -0 + 0 is 0.
    let elements = value.iter().map(|element| element + 0.0);
    elements.flat_map(f32::to_ne_bytes).collect()
}

#[pg_extern]
fn embedding_hash(value: Embedding<'_>) -> i32 {
    let bytes = canonical(&value);
    // SAFETY: reads that many bytes, some ten thousand at most.
    unsafe { hash_bytes(bytes.as_ptr(), bytes.len() as c_int) }.cast_signed()
}

#[pg_extern]
fn embedding_hash_extended(value: Embedding<'_>, seed: i64) -> i64 {
    let bytes = canonical(&value);
    // SAFETY: as above.
    unsafe { hash_bytes_extended(bytes.as_ptr(), bytes.len() as c_int, seed.cast_unsigned()) }
        .cast_signed()
}
