//! ONNX Runtime, behind one door.
//!
//! The only file that names `ort`. Owns loading the library, the one environment of the process,
//! devices, threads and runs; knows nothing of images, boxes or vectors.
//!
//! Kept here, for the sake of a PostgreSQL backend:
//! * Nothing of ONNX Runtime exists before [`Runtime::load`]; never call it before `fork`.
//! * Threads that ONNX Runtime starts inherit the mask of the thread that starts them, so every
//!   call that may start one runs with all signals blocked ([`SignalsBlocked`]) and restores the
//!   mask after it. A signal meant for the process is then handled by a thread that knows how.
//! * Idle threads sleep (spinning is off), telemetry is off ([`keep_telemetry_off`]), no pool is shared between sessions.
//! * A run stops soon after [`Cancel::cancel`] from any other thread: infer on a helper thread and
//!   let the main thread wait, check for interrupts, and cancel. By OpenVINO, to which the whole model is one
//!   operator, it stops when it is over.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, fs};

use half::f16;
use ndarray::ArrayD;
use ort::environment::Environment;
use ort::ep::{
    self, ArbitrarilyConfigurableExecutionProvider, ExecutionProvider, ExecutionProviderDispatch,
};
use ort::logging::LogLevel;
use ort::session::{RunOptions, Session as OrtSession, SessionInputValue, builder::SessionBuilder};
use ort::value::{
    DynValue, Outlet, PrimitiveTensorElementType, TensorElementType, TensorRef, ValueType,
};

use crate::cancel::Cancel;
use crate::device::{Device, Provider, SessionOptions};
use crate::error::Error;
use crate::explain::{explain_commit, is_out_of_memory};
use crate::onnx;
use crate::signals::SignalsBlocked;
use crate::tensors::{Element, InputTensor, InputValues, OutputTensor, Port};

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
        // What it guards is valid at every step, so a poisoned lock is as good.
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
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
        keep_telemetry_off();
        let _blocked = SignalsBlocked::here();
        // ONNX Runtime looks for its providers beside the file by whose name it was opened: not a link's.
        let file = fs::canonicalize(library).map_err(|error| missing(error.to_string()))?;
        let environment = ort::init_from(file)
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

/// What ONNX Runtime looks for before it tells Microsoft of the machine and keeps a device id in the user's cache.
const NO_TELEMETRY: &str = "ORT_DISABLE_TELEMETRY";

/// Keeps ONNX Runtime from sending anything: from 1.31 on its Linux builds resolve and call a host of their maker as soon as
/// there is an environment, and its API can say no only after that. [`Runtime::load`] does it, too; a program calls this
/// first, before it has threads, because the environment belongs to the process.
#[allow(
    unsafe_code,
    reason = "nothing else reaches the library before it starts"
)]
pub fn keep_telemetry_off() {
    if std::env::var_os(NO_TELEMETRY).is_some_and(|value| value == "1") {
        return;
    }
    // SAFETY: our programs call this before they start a thread; a library's user who does not may lose a race with a
    // thread that reads the environment at this moment through libc.
    unsafe {
        std::env::set_var(NO_TELEMETRY, "1");
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

fn port_of(outlet: &Outlet) -> Port {
    let (element, shape) = match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => (element_of(*ty), shape.to_vec()),
        ValueType::Sequence(_) => (Element::Other("a sequence"), Vec::new()),
        ValueType::Map { .. } => (Element::Other("a map"), Vec::new()),
        ValueType::Optional(_) => (Element::Other("an optional"), Vec::new()),
    };
    Port {
        name: outlet.name().to_owned(),
        element,
        shape,
    }
}

fn element_of(ty: TensorElementType) -> Element {
    match ty {
        TensorElementType::Float32 => Element::F32,
        TensorElementType::Float16 => Element::F16,
        TensorElementType::Uint8 => Element::U8,
        TensorElementType::Int64 => Element::I64,
        TensorElementType::Int32 => Element::I32,
        TensorElementType::Float64 => Element::F64,
        TensorElementType::String => Element::Other("string"),
        TensorElementType::Bool => Element::Other("bool"),
        TensorElementType::Bfloat16 => Element::Other("bf16"),
        TensorElementType::Int8 => Element::Other("i8"),
        TensorElementType::Int16 => Element::Other("i16"),
        TensorElementType::Uint16 => Element::Other("u16"),
        TensorElementType::Uint32 => Element::Other("u32"),
        TensorElementType::Uint64 => Element::Other("u64"),
        _ => Element::Other("an unusual element type"),
    }
}

/// A model ready to run.
pub(crate) struct Session {
    session: OrtSession,
    model: String,
    provider: Provider,
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
    /// Checks the ONNX bytes and opens them on the device. `batch_axis` is the name of the axis that
    /// [`SessionOptions::batch`] fixes.
    pub(crate) fn open(
        runtime: &Runtime,
        model: &str,
        onnx: &[u8],
        batch_axis: Option<&str>,
        options: &SessionOptions,
    ) -> Result<Self, Error> {
        onnx::check(model, onnx)?;
        let _blocked = SignalsBlocked::here();
        let opening = Opening {
            runtime,
            model,
            onnx,
            batch_axis,
            options,
        };
        let (session, provider) = opening.open(options.device)?;
        Ok(Self {
            session,
            model: model.to_owned(),
            provider,
            cancel: Cancel::new(),
        })
    }

    pub(crate) fn provider(&self) -> Provider {
        self.provider
    }

    pub(crate) fn set_cancel(&mut self, cancel: &Cancel) {
        self.cancel = cancel.clone();
    }

    pub(crate) fn inputs(&self) -> Vec<Port> {
        self.session.inputs().iter().map(port_of).collect()
    }

    pub(crate) fn outputs(&self) -> Vec<Port> {
        self.session.outputs().iter().map(port_of).collect()
    }

    /// Runs the model on its inputs and returns the outputs named by `wanted`, in that order.
    pub(crate) fn run(
        &mut self,
        inputs: Vec<InputTensor<'_>>,
        wanted: &[&str],
    ) -> Result<Vec<OutputTensor>, Error> {
        let model = self.model.as_str();
        let failed = |reason: String| Error::Inference {
            model: model.to_owned(),
            reason,
        };
        let inputs = inputs
            .into_iter()
            .map(|input| Ok((input.name, value_of(input.shape, input.values)?)))
            .collect::<ort::Result<Vec<_>>>()
            .map_err(|error| failed(error.message().to_owned()))?;
        let options =
            Arc::new(RunOptions::new().map_err(|error| failed(error.message().to_owned()))?);

        let terminated = Arc::clone(&options);
        let in_progress = self.cancel.begin(move || {
            // Setting a flag in the run's options does not fail once the options exist.
            let _ = terminated.terminate();
        })?;
        let _blocked = SignalsBlocked::here();
        let result = self.session.run_with_options(inputs, &options);
        drop(in_progress);
        let outputs = result.map_err(|error| {
            if self.cancel.is_cancelled() {
                Error::Cancelled
            } else if is_out_of_memory(error.message()) {
                Error::OutOfMemory {
                    model: model.to_owned(),
                }
            } else {
                failed(error.message().trim_end().to_owned())
            }
        })?;
        wanted
            .iter()
            .map(|&name| {
                let value = outputs
                    .get(name)
                    .ok_or_else(|| failed(format!("no output \"{name}\"")))?;
                extract(model, name, value)
            })
            .collect()
    }
}

fn value_of(shape: Vec<usize>, values: InputValues<'_>) -> ort::Result<SessionInputValue<'_>> {
    Ok(match values {
        InputValues::F32(values) => TensorRef::from_array_view((shape, values))?.into(),
        InputValues::F16(values) => TensorRef::from_array_view((shape, values))?.into(),
        InputValues::U8(values) => TensorRef::from_array_view((shape, values))?.into(),
        InputValues::I32(values) => TensorRef::from_array_view((shape, values))?.into(),
        InputValues::I64(values) => TensorRef::from_array_view((shape, values))?.into(),
        InputValues::Bool(values) => TensorRef::from_array_view((shape, values))?.into(),
    })
}

/// An output of the model, named `name`.
fn extract(model: &str, name: &str, value: &DynValue) -> Result<OutputTensor, Error> {
    let unsupported = |reason: String| Error::ModelUnsupported {
        model: model.to_owned(),
        reason: format!("output \"{name}\" {reason}"),
        remedy: "export that output as a tensor of float32, or of int64 where it numbers classes",
    };
    let ValueType::Tensor { ty, .. } = value.dtype() else {
        return Err(unsupported("is not a tensor".to_owned()));
    };
    let values = match element_of(*ty) {
        Element::F32 => array(value, |float: f32| float).map(OutputTensor::Float),
        Element::F16 => array(value, f16::to_f32).map(OutputTensor::Float),
        Element::F64 => array(value, |double: f64| double as f32).map(OutputTensor::Float),
        Element::I64 => array(value, |integer: i64| integer).map(OutputTensor::Integer),
        Element::I32 => array(value, |integer: i32| integer.into()).map(OutputTensor::Integer),
        other => return Err(unsupported(format!("has elements of type {other}"))),
    };
    values.map_err(|fault| match fault {
        Fault::NoMemory => Error::OutOfMemory {
            model: model.to_owned(),
        },
        Fault::Unreadable(reason) => unsupported(reason),
    })
}

/// Why a tensor could not be copied.
enum Fault {
    NoMemory,
    Unreadable(String),
}

fn array<T: PrimitiveTensorElementType + Copy, A>(
    value: &DynValue,
    convert: impl Fn(T) -> A,
) -> Result<ArrayD<A>, Fault> {
    let (shape, values) = value
        .try_extract_tensor()
        .map_err(|error| Fault::Unreadable(error.message().to_owned()))?;
    let sizes: Vec<usize> = shape
        .iter()
        .map(|&size| usize::try_from(size).unwrap_or(0))
        .collect();
    // As large as the model likes: a failed allocation is no end of the process.
    let mut converted = Vec::new();
    converted
        .try_reserve_exact(values.len())
        .map_err(|_| Fault::NoMemory)?;
    converted.extend(values.iter().map(|&element| convert(element)));
    ArrayD::from_shape_vec(sizes, converted)
        .map_err(|error| Fault::Unreadable(format!("has a shape of its own: {error}")))
}

/// Where ONNX Runtime looks for files that a model names: nowhere, though [`onnx::check`] refuses such models. Without, it
/// takes the current folder, which is the data directory in a process of the server. Nor does it guess another format than
/// the one that was checked.
const NO_FOLDER: &str = "/dev/null";

/// A session that is being opened.
struct Opening<'a> {
    runtime: &'a Runtime,
    model: &'a str,
    onnx: &'a [u8],
    batch_axis: Option<&'a str>,
    options: &'a SessionOptions,
}

impl Opening<'_> {
    fn open(&self, device: Device) -> Result<(OrtSession, Provider), Error> {
        Ok(match device {
            Device::Cpu => (self.on_cpu()?, Provider::Cpu),
            Device::OpenVino | Device::OpenVinoBf16 => {
                let openvino = self.openvino(device)?;
                (self.on(device, &[openvino])?, Provider::OpenVino)
            }
            Device::Cuda(number) => {
                let cuda = self.cuda(device, number)?;
                (self.on(device, &[cuda])?, Provider::Cuda)
            }
            Device::TensorRt(number) => {
                // What TensorRT cannot run is CUDA's.
                let both = [self.tensorrt(device, number)?, self.cuda(device, number)?];
                (self.on(device, &both)?, Provider::TensorRt)
            }
            Device::Auto => match self.open(Device::Cuda(0)) {
                Ok(opened) => opened,
                Err(_) => (self.on_cpu()?, Provider::Cpu),
            },
        })
    }

    fn on_cpu(&self) -> Result<OrtSession, Error> {
        self.builder()
            .and_then(|mut builder| builder.commit_from_memory(self.onnx))
            .map_err(|error| explain_commit(self.model, error.message()))
    }

    /// By these providers, or an error; never quietly by another.
    fn on(
        &self,
        device: Device,
        providers: &[ExecutionProviderDispatch],
    ) -> Result<OrtSession, Error> {
        let mut builder = self
            .builder()
            .and_then(|builder| Ok(builder.with_execution_providers(providers)?))
            .map_err(|error| unavailable(device, error.message()))?;
        builder.commit_from_memory(self.onnx).map_err(|error| {
            // A model that fails here and loads on the CPU failed because of the device.
            match self.on_cpu() {
                Ok(_) => unavailable(device, error.message()),
                Err(cause) => cause,
            }
        })
    }

    fn cuda(&self, device: Device, number: u32) -> Result<ExecutionProviderDispatch, Error> {
        if !ep::CUDA::is_available().unwrap_or(false) {
            return Err(unavailable(
                device,
                "this ONNX Runtime library is built without CUDA (the one of the Python wheel \
                 \"onnxruntime-gpu\" has it)",
            ));
        }
        let cuda = ep::CUDA::default().with_device_id(device_id(number));
        Ok(cuda.build().error_on_failure())
    }

    fn tensorrt(&self, device: Device, number: u32) -> Result<ExecutionProviderDispatch, Error> {
        if !ep::TensorRT::is_available().unwrap_or(false) {
            return Err(unavailable(
                device,
                "this ONNX Runtime library is built without TensorRT; --device cuda needs none",
            ));
        }
        let tensorrt = ep::TensorRT::default().with_device_id(device_id(number));
        Ok(tensorrt.build().error_on_failure())
    }

    /// OpenVINO on the processor, with the threads of the session.
    fn openvino(&self, device: Device) -> Result<ExecutionProviderDispatch, Error> {
        if !ep::OpenVINO::is_available().unwrap_or(false) {
            return Err(unavailable(
                device,
                "this ONNX Runtime library is built without OpenVINO (the one of the Python wheel \
                 \"onnxruntime-openvino\" has it: make openvino)",
            ));
        }
        // What is left in float of a model in integers is little, and OpenVINO 2025.4 cannot open all of them with it.
        let precision = match device {
            Device::OpenVinoBf16 if !onnx::is_in_integers(self.onnx) => "bf16",
            _ => "f32",
        };
        // Pinned, all sessions of one thread would share the first processor.
        let config = format!(
            r#"{{"CPU": {{"ENABLE_CPU_PINNING": "NO", "INFERENCE_PRECISION_HINT": "{precision}"}}}}"#
        );
        let openvino = ep::OpenVINO::default()
            .with_device_type("CPU")
            .with_num_threads(processor_threads(self.options.threads))
            .with_num_streams(1)
            .with_arbitrary_config("load_config", config);
        Ok(openvino.build().error_on_failure())
    }

    fn builder(&self) -> ort::Result<SessionBuilder> {
        let builder = OrtSession::builder(&self.runtime.environment)?
            .with_intra_threads(processor_threads(self.options.threads))?
            .with_inter_threads(1)?
            .with_parallel_execution(false)?
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            .with_deterministic_compute(true)?
            .with_config_entry("session.load_model_format", "ONNX")?
            .with_config_entry(
                "session.model_external_initializers_file_folder_path",
                NO_FOLDER,
            )?;
        let batch = match self.options.device {
            device if device.is_openvino() => self.options.batch.max(1),
            _ => self.options.batch,
        };
        match (self.batch_axis, i64::try_from(batch)) {
            (Some(axis), Ok(batch @ 1..)) => Ok(builder.with_dimension_override(axis, batch)?),
            _ => Ok(builder),
        }
    }
}

fn unavailable(device: Device, reason: &str) -> Error {
    Error::ProviderUnavailable {
        device: device.to_string(),
        reason: reason.trim_end().to_owned(),
    }
}

fn device_id(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Zero would let ONNX Runtime pin its threads to processors, the same ones in every backend.
/// More than there are processors would wait for each other, and take their stacks from everybody's memory.
fn processor_threads(asked: usize) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    match asked {
        0 => processors,
        count => count.min(processors),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Opening, Runtime};
    use crate::device::{Device, SessionOptions};
    use crate::error::Error;

    fn read(name: &str) -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
        std::fs::read(folder.join(name)).expect("a model of the tests")
    }

    /// As [`super::Session::open`] does it, but for the check.
    fn open_unchecked(onnx: &[u8]) -> Result<(), Error> {
        let library = std::env::var_os("LOOKBOOK_ONNXRUNTIME").map_or_else(
            || {
                Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join("../../.lookbook/onnxruntime/libonnxruntime.so")
            },
            Into::into,
        );
        let runtime = Runtime::load(&library.canonicalize().expect("ONNX Runtime"))?;
        let options = SessionOptions {
            device: Device::Cpu,
            threads: 1,
            batch: 0,
        };
        let opening = Opening {
            runtime: &runtime,
            model: "unchecked",
            onnx,
            batch_axis: None,
            options: &options,
        };
        opening.on_cpu().map(|_| ())
    }

    #[test]
    fn no_file_is_read_for_a_model_that_the_check_let_pass() {
        assert!(Path::new("Cargo.toml").is_file(), "what the models name");
        for name in ["two_graphs", "long_tags", "default"] {
            let onnx = read(&format!("external_data_{name}.onnx"));
            let error = open_unchecked(&onnx).expect_err(name).to_string();
            println!("{name}: {error}");
            assert!(error.contains(super::NO_FOLDER), "{name}: {error}");
        }
        open_unchecked(&read("embed.onnx")).expect("a model in one file");
    }

    #[test]
    fn a_model_is_read_in_the_format_that_was_checked() {
        // "ORTM" at the fifth byte is the mark of ONNX Runtime's own format; here it is within a name of the producer.
        let onnx = [b"\x12\x08  ORTM  ", read("embed.onnx").as_slice()].concat();
        open_unchecked(&onnx).expect("ONNX");
    }
}
