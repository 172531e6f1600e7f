//! Running requests that arrived together.
//!
//! Results must be those of the in-process path, bit by bit, and a CPU kernel may add in another
//! order when more rows come at once. So the first batch of each size is run both ways; a size whose
//! vectors differ is never batched again, and its photos go one by one. On a GPU batches are always
//! used: there, rounding differs from run to run anyway.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use lookbook_vision::{Cancel, Embedder, Error, Limits, Tensor, decode, decode_side};

use crate::protocol::Refusal;

/// Photos of one batch at most, so that nobody waits long for a batch to end.
pub(super) const MAX_BATCH: usize = 8;

/// What is known of each batch size of a model: whether it gives the vectors of single photos.
#[derive(Debug, Default)]
pub(super) struct BatchRule {
    verdicts: BTreeMap<usize, bool>,
}

impl BatchRule {
    /// Sizes in use, for people.
    pub(super) fn describe(&self) -> String {
        let sizes: Vec<String> = self
            .verdicts
            .iter()
            .filter(|(_, is_exact)| **is_exact)
            .map(|(size, _)| size.to_string())
            .collect();
        if sizes.is_empty() {
            "1".to_owned()
        } else {
            format!("1, {}", sizes.join(", "))
        }
    }
}

/// One vector or refusal for each image, in order.
pub(super) fn embed(
    embedder: &mut Embedder,
    images: &[(&[u8], Limits)],
    cancel: &Cancel,
    rule: &Mutex<BatchRule>,
) -> Vec<Result<Vec<f32>, Refusal>> {
    embedder.set_cancel(cancel);
    let preprocessor = embedder.preprocessor();
    let side = decode_side(None, embedder);
    let prepared: Vec<Result<Tensor, Error>> = images
        .iter()
        .map(|(image, limits)| {
            cancel.check()?;
            let photo = decode(image, limits, Some(side))?;
            Ok(preprocessor.prepare(&photo.whole()))
        })
        .collect();
    let tensors: Vec<Tensor> = prepared
        .iter()
        .filter_map(|tensor| tensor.as_ref().ok().cloned())
        .collect();
    let mut vectors = Vec::with_capacity(tensors.len());
    let mut rest = tensors.as_slice();
    while !rest.is_empty() {
        // Powers of two: few sizes to prove.
        let size = 1 << rest.len().ilog2();
        let (chunk, others) = rest.split_at(size);
        vectors.extend(embed_chunk(embedder, chunk, rule));
        rest = others;
    }
    let mut vectors = vectors.into_iter();
    prepared
        .into_iter()
        .map(|tensor| {
            tensor
                .and_then(|_| vectors.next().unwrap_or(Err(Error::Cancelled)))
                .map_err(Refusal::from)
        })
        .collect()
}

fn embed_chunk(
    embedder: &mut Embedder,
    tensors: &[Tensor],
    rule: &Mutex<BatchRule>,
) -> Vec<Result<Vec<f32>, Error>> {
    let size = tensors.len();
    let verdict = match rule
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .verdicts
        .get(&size)
    {
        _ if size == 1 || embedder.batch_size() < size => Some(false),
        _ if embedder.provider().is_gpu() => Some(true),
        known => known.copied(),
    };
    let batch = match verdict {
        Some(false) => None,
        // One bad photo spoils a batch: then each runs for itself, and the fault is its own.
        Some(true) | None => embedder.embed_prepared(tensors).ok(),
    };
    match (batch, verdict) {
        (Some(vectors), Some(true)) => vectors.into_iter().map(Ok).collect(),
        (batch, verdict) => {
            let singles: Vec<_> = tensors
                .iter()
                .map(|tensor| single(embedder, tensor))
                .collect();
            if let (Some(batch), None) = (batch, verdict)
                && let Some(is_exact) = agree(&batch, &singles)
            {
                rule.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .verdicts
                    .insert(size, is_exact);
            }
            singles
        }
    }
}

fn single(embedder: &mut Embedder, tensor: &Tensor) -> Result<Vec<f32>, Error> {
    let vectors = embedder.embed_prepared(std::slice::from_ref(tensor))?;
    Ok(vectors.into_iter().next().unwrap_or_default())
}

/// Whether all are equal bit by bit; `None` when a single one failed, which says nothing.
fn agree(batch: &[Vec<f32>], singles: &[Result<Vec<f32>, Error>]) -> Option<bool> {
    let mut is_exact = batch.len() == singles.len();
    for (together, alone) in batch.iter().zip(singles) {
        let alone = alone.as_ref().ok()?;
        is_exact &= together.len() == alone.len()
            && together
                .iter()
                .zip(alone)
                .all(|(a, b)| a.to_bits() == b.to_bits());
    }
    Some(is_exact)
}
