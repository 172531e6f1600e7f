//! The threads that run models.
//!
//! Invariant: every job of a batch gets exactly one reply, whatever happens; a panic costs the
//! session it happened in, and nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use lookbook_vision::{
    Cancel, Error, ErrorCode, Manifest, Runtime, check_model_with, decode, decode_side,
    decode_side_alone, garments,
};
use nix::sys::resource::{Resource, getrlimit};

use super::batch;
use super::models::{Lease, Session};
use super::queue::{Batch, Job, Shared, Work};
use super::stats::memory_bytes;
use crate::protocol::{Refusal, Reply, Run};

/// Runs batches until there are no more.
pub(super) fn executor(shared: &Arc<Shared>, number: usize) {
    while let Some(mut batch) = shared.next_batch(number) {
        let started = Instant::now();
        let replies = catch_unwind(AssertUnwindSafe(|| {
            let replies = run(shared, &mut batch);
            match replies.iter().any(is_out_of_memory) && shared.make_room() {
                true => run(shared, &mut batch),
                false => replies,
            }
        }));
        let replies = replies.unwrap_or_else(|_| {
            for lease in &mut batch.leases {
                lease.session = None;
            }
            same(&batch, &Error::Inference {
                model: "?".to_owned(),
                reason: "inference failed unexpectedly; this is a bug in lookbook: please report it, \
                         with the image and the model"
                    .to_owned(),
            })
        });
        if replies.iter().any(is_out_of_memory) {
            // What a run that failed has taken goes with its session.
            for lease in &mut batch.leases {
                lease.session = None;
            }
            if is_memory_kept() {
                shared.lock().is_spent = true;
            }
        }
        shared.lock().stats.ran(started.elapsed());
        shared.finish(batch, replies);
    }
}

/// The same refusal for every job.
fn same(batch: &Batch, error: &Error) -> Vec<Reply> {
    let refused = |_| Reply::Refused(Refusal::from(error.clone()));
    batch.jobs.iter().map(refused).collect()
}

fn run(shared: &Shared, batch: &mut Batch) -> Vec<Reply> {
    let runtime = match runtime(shared) {
        Ok(runtime) => runtime,
        Err(error) => return same(batch, &error),
    };
    if let Some(error) = batch
        .leases
        .iter_mut()
        .find_map(|lease| open(shared, lease, &runtime).err())
    {
        return same(batch, &error);
    }
    let (jobs, cancel) = (&batch.jobs, &batch.cancel);
    let mut sessions: Vec<_> = batch
        .leases
        .iter_mut()
        .filter_map(|lease| Some((lease.session.as_mut()?, &lease.rule)))
        .collect();
    match sessions.as_mut_slice() {
        [(Session::Embedder(embedder), rule)] => {
            let images: Vec<_> = runs(jobs).map(|(run, image)| (image, run.limits)).collect();
            batch::embed(embedder, &images, cancel, rule)
                .into_iter()
                .map(|vector| reply(vector.map(Reply::Embedding)))
                .collect()
        }
        [
            (Session::Detector(detector), _),
            (Session::Embedder(embedder), _),
        ] => {
            detector.set_cancel(cancel);
            embedder.set_cancel(cancel);
            runs(jobs)
                .map(|(run, image)| {
                    let side = decode_side(Some(detector), embedder);
                    let found = decode(image, &run.limits, Some(side)).and_then(|photo| {
                        cancel.check()?;
                        garments(detector, embedder, &photo)
                    });
                    reply(found.map(Reply::Garments).map_err(Refusal::from))
                })
                .collect()
        }
        [(Session::Pose(estimator), _)] => {
            estimator.set_cancel(cancel);
            runs(jobs)
                .map(|(run, image)| {
                    let side = decode_side_alone(estimator);
                    let found = decode(image, &run.limits, Some(side)).and_then(|photo| {
                        cancel.check()?;
                        estimator.estimate_one(&photo.whole())
                    });
                    let pose = found.map(|pose| Reply::Pose(Box::new(pose)));
                    reply(pose.map_err(Refusal::from))
                })
                .collect()
        }
        [] => jobs
            .iter()
            .map(|job| match &job.work {
                Work::Check { manifest, onnx } => reply(check(&runtime, manifest, onnx, cancel)),
                Work::Run { .. } => reply(Err(kind_error())),
            })
            .collect(),
        _ => jobs.iter().map(|_| reply(Err(kind_error()))).collect(),
    }
}

fn runs(jobs: &[Job]) -> impl Iterator<Item = (&Run, &[u8])> {
    jobs.iter().filter_map(|job| match &job.work {
        Work::Run { run, image } => Some((run, image.as_slice())),
        Work::Check { .. } => None,
    })
}

/// Callers check kinds before they ask; a request that does not fit is theirs to mend.
fn kind_error() -> Refusal {
    Refusal::from(Error::ModelMismatch {
        model: "?".to_owned(),
        reason: "its kind is not the one that this task runs".to_owned(),
    })
}

fn is_out_of_memory(reply: &Reply) -> bool {
    matches!(reply, Reply::Refused(refusal) if refusal.code == ErrorCode::OutOfMemory)
}

/// Whether more than half of what the process may have is booked. ONNX Runtime's arena loses what it has just got when there
/// is no memory for its books of that (`BFCArena::Extend`, 1.31), and nothing but the end of the process gives it back.
fn is_memory_kept() -> bool {
    let booked = memory_bytes("VmData:").unwrap_or(0);
    getrlimit(Resource::RLIMIT_DATA).is_ok_and(|(limit, _)| booked > limit / 2)
}

fn reply(result: Result<Reply, Refusal>) -> Reply {
    result.unwrap_or_else(Reply::Refused)
}

/// The library is loaded at the first need, and then for good.
fn runtime(shared: &Shared) -> Result<Runtime, Error> {
    let library = shared.lock().library();
    let runtime = Runtime::load(&library)?;
    shared.lock().library = Some(library);
    Ok(runtime)
}

fn open(shared: &Shared, lease: &mut Lease, runtime: &Runtime) -> Result<(), Error> {
    if lease.session.is_some() {
        return Ok(());
    }
    let mut opened = lease.open(runtime);
    if matches!(&opened, Err(error) if error.code() == ErrorCode::OutOfMemory) && shared.make_room()
    {
        opened = lease.open(runtime);
    }
    let mut state = shared.lock();
    match &opened {
        Ok(()) => state.models.opened(lease),
        Err(error) => state.refuse_alike(lease, &Refusal::from(error.clone())),
    }
    drop(state);
    shared.ring();
    opened
}

fn check(
    runtime: &Runtime,
    manifest: &str,
    onnx: &[u8],
    cancel: &Cancel,
) -> Result<Reply, Refusal> {
    let manifest = Manifest::from_json(manifest)?;
    check_model_with(runtime, &manifest, onnx, cancel)?;
    Ok(Reply::Checked)
}
