//! Batches of which one part may be bad.
//!
//! Invariant: a photo that a model fails for costs only itself.

use lookbook_vision::{Embedder, Error, Tensor};

use super::stage::Stop;

/// Runs a batch; when it fails, each part alone, so that one bad photo costs only itself.
pub fn batch_or_singly<R>(
    tensors: &[Tensor],
    mut run: impl FnMut(&[Tensor]) -> Result<Vec<R>, Error>,
) -> Vec<Result<R, Error>> {
    match run(tensors) {
        Ok(results) => results.into_iter().map(Ok).collect(),
        Err(error) if tensors.len() == 1 => vec![Err(error)],
        Err(_) => tensors
            .iter()
            .flat_map(|tensor| match run(std::slice::from_ref(tensor)) {
                Ok(results) => results.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            })
            .collect(),
    }
}

/// The vectors of each photo, of which `counts` says how many of the tensors are its own.
pub fn embed_each(
    embedder: &mut Embedder,
    tensors: &[Tensor],
    batch_size: usize,
    counts: impl Iterator<Item = usize>,
) -> Vec<Result<Vec<Vec<f32>>, Error>> {
    let run = |chunk| batch_or_singly(chunk, |chunk| embedder.embed_prepared(chunk));
    let vectors: Vec<_> = tensors.chunks(batch_size).flat_map(run).collect();
    let mut vectors = vectors.into_iter();
    // All of its own are taken, whatever became of the first.
    let own = |count| vectors.by_ref().take(count).collect::<Vec<_>>();
    counts
        .map(own)
        .map(|own| own.into_iter().collect())
        .collect()
}

/// Pairs what succeeded with its result; `reject` gets the rest. When nothing of a batch did, the photos are not to
/// blame, and the run stops.
pub fn keep_good<T, R>(
    items: Vec<T>,
    results: Vec<Result<R, Error>>,
    stop: &Stop,
    mut reject: impl FnMut(T, Error),
) -> Vec<(T, R)> {
    if results.len() > 1
        && let Some(Err(error)) = results.first()
        && results.iter().all(Result::is_err)
    {
        let error = anyhow::Error::from(error.clone());
        stop.fail(error.context("a model failed for every photo of a batch"));
        return Vec::new();
    }
    let mut good = Vec::with_capacity(items.len());
    for (item, result) in items.into_iter().zip(results) {
        match result {
            Ok(result) => good.push((item, result)),
            Err(error) => reject(item, error),
        }
    }
    good
}
