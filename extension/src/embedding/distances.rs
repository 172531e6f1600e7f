//! Distances and norms as SQL functions: what stands behind `<->`, `<=>` and `<#>`.
//!
//! A sequential scan calls these once per row: nothing is allocated but what detoasting needs.

use super::errors::OrReport;
use super::{Embedding, NewEmbedding};
use lookbook_vecmath::{arithmetic, distance};
use pgrx::prelude::*;

#[pg_extern]
fn embedding_l2_distance(a: Embedding<'_>, b: Embedding<'_>) -> f64 {
    distance::l2(&a, &b).or_report()
}

#[pg_extern]
fn embedding_l2_squared_distance(a: Embedding<'_>, b: Embedding<'_>) -> f64 {
    distance::l2_squared(&a, &b).or_report()
}

#[pg_extern]
fn embedding_inner_product(a: Embedding<'_>, b: Embedding<'_>) -> f64 {
    distance::inner_product(&a, &b).or_report()
}

#[pg_extern]
fn embedding_negative_inner_product(a: Embedding<'_>, b: Embedding<'_>) -> f64 {
    -distance::inner_product(&a, &b).or_report()
}

#[pg_extern]
fn embedding_cosine_distance(a: Embedding<'_>, b: Embedding<'_>) -> f64 {
    distance::cosine(&a, &b).or_report()
}

#[pg_extern]
fn embedding_l1_distance(a: Embedding<'_>, b: Embedding<'_>) -> f64 {
    distance::l1(&a, &b).or_report()
}

#[pg_extern]
fn embedding_dims(value: Embedding<'_>) -> i32 {
    value.len() as i32
}

#[pg_extern]
fn embedding_norm(value: Embedding<'_>) -> f64 {
    distance::norm(&value)
}

#[pg_extern]
fn embedding_l2_normalize(value: Embedding<'_>) -> NewEmbedding<'_> {
    let mut result = NewEmbedding::zeroed(value.len());
    arithmetic::l2_normalize(&value, result.elements_mut()).or_report();
    result
}
