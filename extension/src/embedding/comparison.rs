//! The order of embeddings, for btree, DISTINCT and merge joins: element by element, then by length,
//! as PostgreSQL orders arrays. Elements are never NaN, and -0 equals 0.

use super::Embedding;
use pgrx::prelude::*;
use std::cmp::Ordering;

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
