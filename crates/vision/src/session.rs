//! ONNX Runtime, behind one door.
//!
//! The only file that names `ort`. Owns loading the library, the one environment of the process,
//! devices, threads, runs and their cancelling; knows nothing of images, boxes or vectors.
//!
//! Kept here, for the sake of a PostgreSQL backend:
//! * Nothing of ONNX Runtime exists before [`Runtime::load`]; never call it before `fork`.
//! * Threads that ONNX Runtime starts inherit the mask of the thread that starts them, so every
//!   call that may start one runs with all signals blocked ([`SignalsBlocked`]) and restores the
//!   mask after it. A signal meant for the process is then handled by a thread that knows how.
//! * Idle threads sleep (spinning is off), telemetry is off, no pool is shared between sessions.
//! * A run stops soon after [`Cancel::cancel`] from any other thread: infer on a helper thread and
//!   let the main thread wait, check for interrupts, and cancel.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use half::f16;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use ort::environment::Environment;
use ort::ep::{self, ExecutionProvider};
use ort::logging::LogLevel;
use ort::session::{RunOptions, Session as OrtSession, builder::SessionBuilder};
use ort::value::{DynValue, Outlet, TensorElementType, TensorRef, ValueType};

use crate::error::Error;
use crate::onnx;

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// CUDA device 0 when it can start, else the CPU; `provider()` says which.
    Auto,
    /// The CPU.
    #[default]
    Cpu,
    /// This CUDA device, or an error.
    Cuda(u32),
}

impl FromStr for Device {
    type Err = Error;

    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let device = match text.trim() {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            other => other
                .strip_prefix("cuda:")
                .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|number| number.parse::<u16>().ok())
                .map(|number| Self::Cuda(number.into())),
        };
        device.ok_or_else(|| Error::InvalidSetting {
            setting: "device",
            found: text.to_owned(),
            expected: "auto, cpu, cuda or cuda:N",
        })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// How to open a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionOptions {
    /// Where to run.
    pub device: Device,
    /// Threads within one operator, this one included; 0: one for each processor this process may
    /// use. Operators run one after another.
    pub threads: usize,
}

/// The loaded library with the one environment of this process.
#[derive(Clone)]
pub struct Runtime {
    environment: Environment,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runtime")
    }
}

/// Path and environment of the first successful load; kept to the end of the process, because the
/// library must never be unloaded while one of its threads may run.
static LOADED: Mutex<Option<(PathBuf, Runtime)>> = Mutex::new(None);

impl Runtime {
    /// Loads `libonnxruntime.so` from an absolute path.
    ///
    /// A second call with the same path gives the same runtime; another path is refused, since a
    /// process holds one environment. Nothing is searched for: neither the loader's path nor
    /// environment variables decide which code runs.
    ///
    /// # Errors
    /// [`Error::RuntimeMissing`] when the file is absent, is no ONNX Runtime, or is too old.
    pub fn load(library: &Path) -> Result<Self, Error> {
        let missing = |reason: String| Error::RuntimeMissing {
            library: library.into(),
            reason,
        };
        let mut loaded = lock(&LOADED);
        if let Some((path, runtime)) = loaded.as_ref() {
            if path == library {
                return Ok(runtime.clone());
            }
            return Err(missing(format!(
                "this process already uses {}; start a new session to change it",
                path.display()
            )));
        }
        if !library.is_absolute() {
            return Err(missing("the path must be absolute".to_owned()));
        }
        if !library.is_file() {
            return Err(missing(
                "no such file; install the library (it is libonnxruntime.so of the Python wheel \
                 \"onnxruntime\", \"make install\" puts it in place) or correct the path"
                    .to_owned(),
            ));
        }
        let _blocked = SignalsBlocked::new();
        let environment = ort::init_from(library)
            .map_err(|error| missing(explain_load(&error)))?
            .with_name("lookbook")
            .with_telemetry(false)
            .build()
            .map_err(|error| missing(error.message().to_owned()))?;
        // Every failure comes back as an error; ONNX Runtime's own lines would only clutter a
        // server log.
        environment.set_log_level(LogLevel::Fatal);
        let runtime = Self { environment };
        *loaded = Some((library.to_owned(), runtime.clone()));
        Ok(runtime)
    }
}

fn explain_load(error: &ort::LoadDynamicError) -> String {
    match error {
        ort::LoadDynamicError::BadVersion { version_str, .. } => format!(
            "version {version_str} is too old; install ONNX Runtime 1.{} or later",
            ort::MINOR_VERSION
        ),
        ort::LoadDynamicError::MissingApi { .. } => {
            "the library is not ONNX Runtime (OrtGetApiBase is absent); correct the path".to_owned()
        }
        other => format!("{other}; install the library again"),
    }
}

/// A switch that stops runs from another thread.
///
/// Clones share one state. Give it to an embedder or detector with `set_cancel`; after
/// [`Cancel::cancel`] the run in progress ends within about one operator, and it and every later
/// run return [`Error::Cancelled`] until another switch is set.
#[derive(Clone, Default)]
pub struct Cancel {
    state: Arc<CancelState>,
}

#[derive(Default)]
struct CancelState {
    cancelled: AtomicBool,
    running: Mutex<Vec<Arc<RunOptions>>>,
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel")
            .field("cancelled", &self.is_cancelled())
            .finish()
    }
}

impl Cancel {
    /// A switch that is not yet thrown.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the runs in progress and all later ones. Returns at once.
    pub fn cancel(&self) {
        let running = lock(&self.state.running);
        self.state.cancelled.store(true, Ordering::SeqCst);
        for options in running.iter() {
            // Setting a flag in the run's options does not fail once the options exist.
            let _ = options.terminate();
        }
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.state.cancelled.load(Ordering::SeqCst)
    }

    /// [`Error::Cancelled`] once the switch is thrown.
    pub fn check(&self) -> Result<(), Error> {
        if self.is_cancelled() {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }

    fn begin(&self, options: &Arc<RunOptions>) -> Result<RunInProgress<'_>, Error> {
        let mut running = lock(&self.state.running);
        self.check()?;
        running.push(Arc::clone(options));
        Ok(RunInProgress {
            cancel: self,
            options: Arc::clone(options),
        })
    }
}

/// Takes the run off the switch when it ends, however it ends.
struct RunInProgress<'a> {
    cancel: &'a Cancel,
    options: Arc<RunOptions>,
}

impl Drop for RunInProgress<'_> {
    fn drop(&mut self) {
        lock(&self.cancel.state.running).retain(|other| !Arc::ptr_eq(other, &self.options));
    }
}

/// Blocks signals in this thread while it lives, except those a fault of the thread itself raises.
struct SignalsBlocked {
    before: Option<SigSet>,
}

impl SignalsBlocked {
    fn new() -> Self {
        let mut blocked = SigSet::all();
        for fault in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGFPE,
            Signal::SIGILL,
            Signal::SIGTRAP,
            Signal::SIGABRT,
            Signal::SIGSYS,
        ] {
            blocked.remove(fault);
        }
        Self {
            before: blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok(),
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        if let Some(before) = self.before.as_ref() {
            // Setting a mask that the kernel itself returned cannot fail.
            let _ = before.thread_set_mask();
        }
    }
}

/// Element types that pass through here; a model with others is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    F16,
    U8,
    I64,
    I32,
    Other(&'static str),
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::U8 => "u8",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::Other(name) => name,
        })
    }
}

/// An input or output as the ONNX file declares it; −1 stands for a size known only at run time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) element: Element,
    pub(crate) shape: Vec<i64>,
}

impl Port {
    fn of(outlet: &Outlet) -> Self {
        let (element, shape) = match outlet.dtype() {
            ValueType::Tensor { ty, shape, .. } => (element_of(*ty), shape.to_vec()),
            ValueType::Sequence(_) => (Element::Other("a sequence"), Vec::new()),
            ValueType::Map { .. } => (Element::Other("a map"), Vec::new()),
            ValueType::Optional(_) => (Element::Other("an optional"), Vec::new()),
        };
        Self {
            name: outlet.name().to_owned(),
            element,
            shape,
        }
    }
}

fn element_of(ty: TensorElementType) -> Element {
    match ty {
        TensorElementType::Float32 => Element::F32,
        TensorElementType::Float16 => Element::F16,
        TensorElementType::Uint8 => Element::U8,
        TensorElementType::Int64 => Element::I64,
        TensorElementType::Int32 => Element::I32,
        TensorElementType::Float64 => Element::Other("f64"),
        TensorElementType::String => Element::Other("string"),
        TensorElementType::Bool => Element::Other("bool"),
        _ => Element::Other("an unusual element type"),
    }
}

/// The values of one input, in the order of its shape.
#[derive(Debug, Clone, Copy)]
pub(crate) enum InputValues<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    U8(&'a [u8]),
}

/// The values of one output; f16 becomes f32, i32 becomes i64.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum OutputValues {
    Float(Vec<f32>),
    Integer(Vec<i64>),
}

/// One output of a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OutputTensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: OutputValues,
}

/// A model ready to run.
pub(crate) struct Session {
    session: OrtSession,
    model: String,
    provider: &'static str,
    cancel: Cancel,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("model", &self.model)
            .field("provider", &self.provider)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Checks the ONNX bytes and opens them on the device.
    pub(crate) fn open(
        runtime: &Runtime,
        model: &str,
        onnx: &[u8],
        options: &SessionOptions,
    ) -> Result<Self, Error> {
        onnx::check(model, onnx)?;
        let _blocked = SignalsBlocked::new();
        let (session, provider) = match options.device {
            Device::Cpu => (open_cpu(runtime, model, onnx, options.threads)?, "CPU"),
            Device::Cuda(number) => (
                open_cuda(runtime, model, onnx, options.threads, number)?,
                "CUDA",
            ),
            Device::Auto => match open_cuda(runtime, model, onnx, options.threads, 0) {
                Ok(session) => (session, "CUDA"),
                Err(_) => (open_cpu(runtime, model, onnx, options.threads)?, "CPU"),
            },
        };
        Ok(Self {
            session,
            model: model.to_owned(),
            provider,
            cancel: Cancel::new(),
        })
    }

    /// `CPU` or `CUDA`.
    pub(crate) fn provider(&self) -> &'static str {
        self.provider
    }

    pub(crate) fn set_cancel(&mut self, cancel: &Cancel) {
        self.cancel = cancel.clone();
    }

    pub(crate) fn inputs(&self) -> Vec<Port> {
        self.session.inputs().iter().map(Port::of).collect()
    }

    pub(crate) fn outputs(&self) -> Vec<Port> {
        self.session.outputs().iter().map(Port::of).collect()
    }

    /// Runs the model on its one input and returns the outputs named by `wanted`, in that order.
    pub(crate) fn run(
        &mut self,
        values: InputValues<'_>,
        shape: &[usize],
        wanted: &[&str],
    ) -> Result<Vec<OutputTensor>, Error> {
        let model = self.model.as_str();
        let failed = |reason: String| Error::Inference {
            model: model.to_owned(),
            reason,
        };
        let shape = shape.to_vec();
        let input = match values {
            InputValues::F32(values) => {
                TensorRef::from_array_view((shape, values)).map(|t| t.into_dyn())
            }
            InputValues::F16(values) => {
                TensorRef::from_array_view((shape, values)).map(|t| t.into_dyn())
            }
            InputValues::U8(values) => {
                TensorRef::from_array_view((shape, values)).map(|t| t.into_dyn())
            }
        }
        .map_err(|error| failed(error.message().to_owned()))?;
        let options =
            Arc::new(RunOptions::new().map_err(|error| failed(error.message().to_owned()))?);

        let in_progress = self.cancel.begin(&options)?;
        let _blocked = SignalsBlocked::new();
        let result = self.session.run_with_options(ort::inputs![input], &options);
        drop(in_progress);
        let outputs = result.map_err(|error| {
            if self.cancel.is_cancelled() {
                Error::Cancelled
            } else {
                failed(error.message().to_owned())
            }
        })?;
        wanted
            .iter()
            .map(|&name| {
                let value = outputs
                    .get(name)
                    .ok_or_else(|| failed(format!("no output \"{name}\"")))?;
                extract(value).map_err(|reason| failed(format!("output \"{name}\": {reason}")))
            })
            .collect()
    }
}

fn extract(value: &DynValue) -> Result<OutputTensor, String> {
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err("is not a tensor".to_owned());
    };
    let sizes = shape
        .iter()
        .map(|&size| usize::try_from(size).unwrap_or(0))
        .collect();
    let text = |error: ort::Error| error.message().to_owned();
    let values = match element_of(*ty) {
        Element::F32 => {
            OutputValues::Float(value.try_extract_tensor::<f32>().map_err(text)?.1.to_vec())
        }
        Element::F16 => {
            let values = value.try_extract_tensor::<f16>().map_err(text)?.1;
            OutputValues::Float(values.iter().map(|half| half.to_f32()).collect())
        }
        Element::I64 => {
            OutputValues::Integer(value.try_extract_tensor::<i64>().map_err(text)?.1.to_vec())
        }
        Element::I32 => {
            let values = value.try_extract_tensor::<i32>().map_err(text)?.1;
            OutputValues::Integer(values.iter().map(|&value| value.into()).collect())
        }
        other => return Err(format!("has elements of type {other}")),
    };
    Ok(OutputTensor {
        shape: sizes,
        values,
    })
}

fn open_cpu(
    runtime: &Runtime,
    model: &str,
    onnx: &[u8],
    threads: usize,
) -> Result<OrtSession, Error> {
    builder(runtime, threads)
        .and_then(|mut builder| builder.commit_from_memory(onnx))
        .map_err(|error| explain_commit(model, error.message()))
}

fn open_cuda(
    runtime: &Runtime,
    model: &str,
    onnx: &[u8],
    threads: usize,
    number: u32,
) -> Result<OrtSession, Error> {
    let unavailable = |reason: &str| Error::ProviderUnavailable {
        device: Device::Cuda(number).to_string(),
        reason: reason.to_owned(),
    };
    if !ep::CUDA::is_available().unwrap_or(false) {
        return Err(unavailable(
            "this ONNX Runtime library is built without CUDA (the one of the Python wheel \
             \"onnxruntime-gpu\" has it)",
        ));
    }
    let device_id = i32::try_from(number).unwrap_or(i32::MAX);
    let provider = ep::CUDA::default()
        .with_device_id(device_id)
        .build()
        .error_on_failure();
    let mut builder = builder(runtime, threads)
        .and_then(|builder| Ok(builder.with_execution_providers([provider])?))
        .map_err(|error| unavailable(error.message()))?;
    builder.commit_from_memory(onnx).map_err(|error| {
        // A model that fails here and loads on the CPU failed because of the device.
        match open_cpu(runtime, model, onnx, threads) {
            Ok(_) => unavailable(error.message()),
            Err(cause) => cause,
        }
    })
}

fn builder(runtime: &Runtime, threads: usize) -> ort::Result<SessionBuilder> {
    // Zero would let ONNX Runtime pin its threads to processors, the same ones in every backend.
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    };
    let builder = OrtSession::builder(&runtime.environment)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        .with_parallel_execution(false)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        .with_deterministic_compute(true)?;
    Ok(builder)
}

/// Tells a model that this library does not know from one that is broken.
fn explain_commit(model: &str, message: &str) -> Error {
    let model = model.to_owned();
    let unknown = [
        "No Op registered for",
        "is not a registered function/op",
        "Could not find an implementation for",
        "opset",
        "Opset",
        "IR version",
        "ir_version",
    ];
    if unknown.iter().any(|part| message.contains(part)) {
        Error::ModelUnsupported {
            model,
            reason: format!(
                "the installed ONNX Runtime does not know one of its operators or its version \
                 ({message}); export it with standard operators, or install a newer ONNX Runtime"
            ),
        }
    } else {
        Error::ModelInvalid {
            model,
            reason: format!("ONNX Runtime refused it ({message})"),
        }
    }
}

/// A poisoned lock here guards plain values that are valid at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
