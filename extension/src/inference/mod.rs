//! Vision inside a backend: results remembered; the rest asked of the worker, or done here.
//!
//! Everything here belongs to one backend and dies with it. Nothing of ONNX Runtime exists before
//! the first inference in this process, and none takes place while there is a worker. No query runs
//! while a model is borrowed, so nothing here is entered twice.

mod background;
mod call_site;
mod functions;
mod memo;
mod planner;
mod remote;
mod sessions;

use crate::models::{self, Model};
use crate::settings;
use crate::settings::errors::{self, UserError};
use lookbook_vision::{
    Cancel, Detector, DetectorOutput, Device, Embedder, EmbedderOutput, Error, Garment, KindOutput,
    Limits, Manifest, Opened, Pose, PoseEstimator, PoseOutput, Runtime, SessionOptions,
    check_model_with, decode, decode_side, decode_side_alone,
};
use lookbook_worker::protocol::{Call, Refusal, Reply, Run, Task};
use memo::{Key, Memo, Value};
use pgrx::pg_sys;
pub(crate) use remote::ask_worker;
use sessions::{SessionKey, Sessions};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::rc::Rc;

type Elements = Rc<[f32]>;

/// What one backend has loaded and computed.
struct Backend {
    embedders: Sessions<Embedder>,
    detectors: Sessions<Detector>,
    estimators: Sessions<PoseEstimator>,
    memo: Memo,
    /// The device that the memo's results were computed on.
    memo_device: Device,
    counts: Counts,
}

#[derive(Default, Clone, Copy)]
struct Counts {
    session_loads: i64,
    inferences: i64,
    memo_hits: i64,
}

/// What `lookbook_session_stats()` shows.
struct Stats {
    sessions: usize,
    session_loads: i64,
    inferences: i64,
    memo_hits: i64,
    memo_entries: usize,
    memo_bytes: usize,
}

thread_local! {
    static BACKEND: RefCell<Backend> = RefCell::new(Backend {
        embedders: Sessions::new(),
        detectors: Sessions::new(),
        estimators: Sessions::new(),
        memo: Memo::new(),
        memo_device: Device::Cpu,
        counts: Counts::default(),
    });
}

/// Why there is no result: the photo or model at fault, or what a user is told already.
enum Failure {
    Vision(Refusal),
    User(UserError),
}

impl Failure {
    fn is_image_fault(&self) -> bool {
        matches!(self, Failure::Vision(refusal) if refusal.code.is_image_fault())
    }
}

impl From<UserError> for Failure {
    fn from(error: UserError) -> Self {
        Failure::User(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Vision(error.into())
    }
}

impl From<Failure> for UserError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Vision(refusal) => errors::from_vision(refusal),
            Failure::User(error) => error,
        }
    }
}

/// What every call reads of the settings.
struct Circumstances {
    options: SessionOptions,
    limits: Limits,
}

impl Circumstances {
    fn current() -> Result<Circumstances, UserError> {
        let options = SessionOptions {
            device: settings::device()?,
            threads: settings::threads(),
            batch: 0,
        };
        Ok(Circumstances {
            options,
            limits: settings::limits(),
        })
    }

    fn key(&self, image: &[u8], model: &Model, detector: Option<&Model>) -> Key {
        Key {
            image: Sha256::digest(image).into(),
            model: model.fingerprint,
            detector: detector.map(|model| model.fingerprint),
            max_image_pixels: self.limits.max_pixels,
        }
    }

    /// A request to the worker.
    fn call(&self, task: Task, models: &[&Model]) -> Call {
        Call::Run(Run {
            task,
            models: models.iter().map(|model| model.fingerprint).collect(),
            options: self.options,
            limits: self.limits,
            library: settings::onnxruntime_library()
                .to_string_lossy()
                .into_owned(),
        })
    }

    fn session(&self, model: &Model) -> SessionKey {
        SessionKey {
            fingerprint: model.fingerprint,
            options: self.options,
        }
    }
}

/// The embedding of a whole image.
fn embedding_of(
    image: &[u8],
    embedder: &Model,
    function: pg_sys::Oid,
) -> Result<Elements, Failure> {
    let now = Circumstances::current()?;
    check_size(image, &now.limits)?;
    let key = now.key(image, embedder, None);
    if let Some(Value::Embedding(elements)) = remembered(&key, now.options.device) {
        return Ok(elements);
    }
    let models = [embedder];
    let elements = match remote::ask(&now.call(Task::Embed, &models), image, &models, function)? {
        Some(Reply::Embedding(elements)) => elements.into(),
        Some(_) => return Err(remote::confused().into()),
        None => embedding_here(image, embedder, &now, function)?,
    };
    count_inference();
    remember(key, Value::Embedding(Rc::clone(&elements)));
    Ok(elements)
}

fn embedding_here(
    image: &[u8],
    embedder: &Model,
    now: &Circumstances,
    function: pg_sys::Oid,
) -> Result<Elements, Failure> {
    load::<EmbedderOutput>(embedder, now, function)?;
    let cancel = Cancel::new();
    BACKEND.with_borrow_mut(|backend| {
        let session = loaded(backend.embedders.find(&now.session(embedder)))?;
        session.set_cancel(&cancel);
        let work = || {
            let photo = decode(image, &now.limits, Some(decode_side(None, session)))?;
            cancel.check()?;
            Ok::<_, Error>(session.embed(&[photo.whole()])?.pop().unwrap_or_default())
        };
        Ok(background::run(&cancel, work)??.into())
    })
}

/// The garments of an image with the embeddings of their crops.
fn garments_of(
    image: &[u8],
    detector: &Model,
    embedder: &Model,
    function: pg_sys::Oid,
) -> Result<Rc<[Garment]>, Failure> {
    let now = Circumstances::current()?;
    check_size(image, &now.limits)?;
    let key = now.key(image, embedder, Some(detector));
    if let Some(Value::Garments(garments)) = remembered(&key, now.options.device) {
        return Ok(garments);
    }
    let models = [detector, embedder];
    let call = now.call(Task::Garments, &models);
    let garments = match remote::ask(&call, image, &models, function)? {
        Some(Reply::Garments(garments)) => garments.into(),
        Some(_) => return Err(remote::confused().into()),
        None => garments_here(image, detector, embedder, &now, function)?,
    };
    count_inference();
    remember(key, Value::Garments(Rc::clone(&garments)));
    Ok(garments)
}

fn garments_here(
    image: &[u8],
    detector: &Model,
    embedder: &Model,
    now: &Circumstances,
    function: pg_sys::Oid,
) -> Result<Rc<[Garment]>, Failure> {
    load::<EmbedderOutput>(embedder, now, function)?;
    load::<DetectorOutput>(detector, now, function)?;
    let cancel = Cancel::new();
    BACKEND.with_borrow_mut(|backend| {
        let embed = loaded(backend.embedders.find(&now.session(embedder)))?;
        let detect = loaded(backend.detectors.find(&now.session(detector)))?;
        embed.set_cancel(&cancel);
        detect.set_cancel(&cancel);
        let work = || {
            let photo = decode(image, &now.limits, Some(decode_side(Some(detect), embed)))?;
            cancel.check()?;
            lookbook_vision::garments(detect, embed, &photo)
        };
        Ok(background::run(&cancel, work)??.into())
    })
}

/// The pose of the person in an image.
fn pose_of(image: &[u8], estimator: &Model, function: pg_sys::Oid) -> Result<Pose, Failure> {
    let now = Circumstances::current()?;
    check_size(image, &now.limits)?;
    let key = now.key(image, estimator, None);
    if let Some(Value::Pose(pose)) = remembered(&key, now.options.device) {
        return Ok(*pose);
    }
    let models = [estimator];
    let pose = match remote::ask(&now.call(Task::Pose, &models), image, &models, function)? {
        Some(Reply::Pose(pose)) => *pose,
        Some(_) => return Err(remote::confused().into()),
        None => pose_here(image, estimator, &now, function)?,
    };
    count_inference();
    remember(key, Value::Pose(Box::new(pose)));
    Ok(pose)
}

fn pose_here(
    image: &[u8],
    estimator: &Model,
    now: &Circumstances,
    function: pg_sys::Oid,
) -> Result<Pose, Failure> {
    load::<PoseOutput>(estimator, now, function)?;
    let cancel = Cancel::new();
    BACKEND.with_borrow_mut(|backend| {
        let session = loaded(backend.estimators.find(&now.session(estimator)))?;
        session.set_cancel(&cancel);
        let work = || {
            let photo = decode(image, &now.limits, Some(decode_side_alone(session)))?;
            cancel.check()?;
            session.estimate_one(&photo.whole())
        };
        Ok(background::run(&cancel, work)??)
    })
}

/// Checks a model before its row is stored, also with one run on a generated image.
pub(crate) fn check_model(
    manifest: &Manifest,
    json: String,
    onnx: &[u8],
) -> Result<Result<(), Refusal>, UserError> {
    let library = settings::onnxruntime_library();
    let call = Call::Check {
        manifest: json,
        library: library.to_string_lossy().into_owned(),
    };
    match remote::ask(&call, onnx, &[], pg_sys::InvalidOid) {
        Ok(Some(Reply::Checked)) => return Ok(Ok(())),
        Ok(Some(_)) => return Err(remote::confused()),
        Ok(None) => {}
        Err(Failure::Vision(refusal)) => return Ok(Err(refusal)),
        Err(Failure::User(error)) => return Err(error),
    }
    let cancel = Cancel::new();
    let checked = background::run(&cancel, || {
        let runtime = Runtime::load(&library)?;
        check_model_with(&runtime, manifest, onnx, &cancel).map(|_report| ())
    })?;
    Ok(checked.map_err(Refusal::from))
}

/// Refuses before the digest is computed what the decoder would refuse after it.
fn check_size(image: &[u8], limits: &Limits) -> Result<(), Error> {
    let bytes = image.len() as u64;
    if bytes > limits.max_bytes {
        return Err(Error::ImageTooManyBytes {
            bytes,
            limit: limits.max_bytes,
        });
    }
    Ok(())
}

/// One more result that this backend did not remember.
fn count_inference() {
    BACKEND.with_borrow_mut(|backend| backend.counts.inferences += 1);
}

fn remembered(key: &Key, device: Device) -> Option<Value> {
    BACKEND.with_borrow_mut(|backend| {
        if backend.memo_device != device {
            backend.memo = Memo::new();
            backend.memo_device = device;
        }
        let found = backend.memo.find(key);
        backend.counts.memo_hits += i64::from(found.is_some());
        found
    })
}

fn remember(key: Key, value: Value) {
    BACKEND.with_borrow_mut(|backend| backend.memo.remember(key, value));
}

/// Where a backend keeps its models of a kind.
trait Kept: KindOutput + Send {
    fn sessions(backend: &mut Backend) -> &mut Sessions<Opened<Self>>;
}

impl Kept for EmbedderOutput {
    fn sessions(backend: &mut Backend) -> &mut Sessions<Embedder> {
        &mut backend.embedders
    }
}

impl Kept for DetectorOutput {
    fn sessions(backend: &mut Backend) -> &mut Sessions<Detector> {
        &mut backend.detectors
    }
}

impl Kept for PoseOutput {
    fn sessions(backend: &mut Backend) -> &mut Sessions<PoseEstimator> {
        &mut backend.estimators
    }
}

/// Opens a model unless this backend has it open.
fn load<O: Kept>(model: &Model, now: &Circumstances, function: pg_sys::Oid) -> Result<(), Failure> {
    let key = now.session(model);
    if BACKEND.with_borrow_mut(|backend| O::sessions(backend).contains(&key)) {
        return Ok(());
    }
    let manifest = Manifest::from_json(&model.manifest)?;
    let onnx = models::onnx(model, function)?;
    let library = settings::onnxruntime_library();
    let options = now.options;
    let opened = background::run(&Cancel::new(), move || {
        let runtime = Runtime::load(&library)?;
        Opened::<O>::open(&runtime, manifest, &onnx, &options)
    })??;
    BACKEND.with_borrow_mut(|backend| {
        backend.counts.session_loads += 1;
        O::sessions(backend).insert(key, opened);
    });
    Ok(())
}

/// Sessions are loaded just before they are used, in one call of one function.
fn loaded<T>(session: Option<&mut T>) -> Result<&mut T, UserError> {
    session.ok_or_else(|| {
        errors::error(
            pgrx::PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            "a loaded model vanished before its use",
        )
    })
}

fn stats() -> Stats {
    BACKEND.with_borrow(|backend| Stats {
        sessions: backend.embedders.len() + backend.detectors.len() + backend.estimators.len(),
        session_loads: backend.counts.session_loads,
        inferences: backend.counts.inferences,
        memo_hits: backend.counts.memo_hits,
        memo_entries: backend.memo.len(),
        memo_bytes: backend.memo.bytes(),
    })
}
