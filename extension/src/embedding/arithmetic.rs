//! `+`, `-`, `*`, `||` and `subvector`.

use super::errors::OrReport;
use super::{Embedding, NewEmbedding};
use lookbook_vecmath::{Error, arithmetic, check_same_dimensions};
use pgrx::prelude::*;

type ElementWise = fn(&[f32], &[f32], &mut [f32]) -> Result<(), Error>;

#[pg_extern]
fn embedding_add<'a>(a: Embedding<'a>, b: Embedding<'a>) -> NewEmbedding<'a> {
    element_wise(arithmetic::add, a, b)
}

#[pg_extern]
fn embedding_sub<'a>(a: Embedding<'a>, b: Embedding<'a>) -> NewEmbedding<'a> {
    element_wise(arithmetic::subtract, a, b)
}

#[pg_extern]
fn embedding_mul<'a>(a: Embedding<'a>, b: Embedding<'a>) -> NewEmbedding<'a> {
    element_wise(arithmetic::multiply, a, b)
}

fn element_wise<'a>(
    operation: ElementWise,
    a: Embedding<'a>,
    b: Embedding<'a>,
) -> NewEmbedding<'a> {
    check_same_dimensions(&a, &b).or_report();
    let mut result = NewEmbedding::zeroed(a.len());
    operation(&a, &b, result.elements_mut()).or_report();
    result
}

#[pg_extern]
fn embedding_scale(value: Embedding<'_>, factor: f64) -> NewEmbedding<'_> {
    let mut result = NewEmbedding::zeroed(value.len());
    arithmetic::scale(&value, factor, result.elements_mut()).or_report();
    result
}

/// The commuted operator's function.
#[pg_extern]
fn embedding_scale_by(factor: f64, value: Embedding<'_>) -> NewEmbedding<'_> {
    embedding_scale(value, factor)
}

#[pg_extern]
fn embedding_concat<'a>(a: Embedding<'a>, b: Embedding<'a>) -> NewEmbedding<'a> {
    let mut result = NewEmbedding::zeroed(a.len() + b.len());
    let (left, right) = result.elements_mut().split_at_mut(a.len());
    left.copy_from_slice(&a);
    right.copy_from_slice(&b);
    result
}

/// `count` elements from the `start`th, counted from 1 as in `substring`: what lies outside is left
/// out.
#[pg_extern]
fn embedding_subvector(value: Embedding<'_>, start: i32, count: i32) -> NewEmbedding<'_> {
    let within = |position: i64| position.clamp(0, value.len() as i64) as usize;
    let first = within(i64::from(start) - 1);
    let end = within(i64::from(start) - 1 + i64::from(count));
    NewEmbedding::from_slice(&value[first..end.max(first)])
}
