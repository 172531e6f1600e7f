//! What stands behind every kind of model: a session that matches its manifest, fed in batches.
//!
//! Owns the check of declared inputs against the manifest and the batch axis. Photos go in as
//! [`Tensor`]s in any number; outputs come back chunk by chunk.

use half::f16;

use crate::cancel::Cancel;
use crate::device::SessionOptions;
use crate::error::Error;
use crate::manifest::Manifest;
use crate::manifest_parts::{Dtype, Family, Layout, Output, PoseOutput};
use crate::preprocess::{Preprocessor, Tensor, TensorData};
use crate::session::{Runtime, Session};
use crate::tensors::{Element, InputValues, OutputTensor, Port};

/// Photos of one run at most: bounds the memory of activations; larger batches gain nothing.
const MAX_BATCH: usize = 32;

/// The batch axis of the ONNX file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Batch {
    /// Any size.
    Dynamic,
    /// Exactly this size; the last chunk is filled up with zeros.
    Fixed(usize),
    /// No batch axis (torchvision's detectors).
    Absent,
}

#[derive(Debug)]
pub(crate) struct Model {
    session: Session,
    manifest: Manifest,
    preprocessor: Preprocessor,
    batch: Batch,
}

impl Model {
    /// Opens `onnx`, which must be the file the manifest names and must declare what it says.
    pub(crate) fn open(
        runtime: &Runtime,
        manifest: Manifest,
        onnx: &[u8],
        options: &SessionOptions,
    ) -> Result<Self, Error> {
        manifest.check_digest(onnx)?;
        let session = Session::open(runtime, manifest.name(), onnx, options)?;
        let batch = check_input(&manifest, &session.inputs())?;
        let outputs = session.outputs();
        for (key, name) in wanted(&manifest) {
            if !outputs.iter().any(|port| port.name == name) {
                let found = quoted(outputs.iter().map(|port| port.name.as_str()));
                return Err(mismatch(
                    &manifest,
                    format!("{key} is \"{name}\", but the outputs of the ONNX file are {found}"),
                ));
            }
        }
        let preprocessor = Preprocessor::new(&manifest);
        Ok(Self {
            session,
            manifest,
            preprocessor,
            batch,
        })
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(crate) fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    pub(crate) fn provider(&self) -> &'static str {
        self.session.provider()
    }

    pub(crate) fn set_cancel(&mut self, cancel: &Cancel) {
        self.session.set_cancel(cancel);
    }

    /// Photos that go into one run.
    pub(crate) fn chunk_size(&self) -> usize {
        match self.batch {
            Batch::Dynamic => MAX_BATCH,
            Batch::Fixed(size) => size,
            Batch::Absent => 1,
        }
    }

    /// Runs at most [`Model::chunk_size`] photos; the outputs come in the manifest's order.
    pub(crate) fn run(&mut self, tensors: &[&Tensor]) -> Result<Vec<OutputTensor>, Error> {
        let input = self.manifest.input();
        let (height, width) = (input.height as usize, input.width as usize);
        let axes = match input.layout {
            Layout::Nchw => [3, height, width],
            Layout::Nhwc => [height, width, 3],
        };
        let count = match self.batch {
            Batch::Fixed(size) => size,
            Batch::Dynamic | Batch::Absent => tensors.len(),
        };
        let mut shape = axes.to_vec();
        if self.batch != Batch::Absent {
            shape.insert(0, count);
        }
        let length = 3 * height * width * count;
        let names: Vec<&str> = wanted(&self.manifest)
            .into_iter()
            .map(|(_, name)| name)
            .collect();
        let data: Vec<&TensorData> = tensors.iter().map(|tensor| &tensor.data).collect();
        match input.dtype {
            Dtype::F32 => {
                let values = joined(&data, length, |data| match data {
                    TensorData::F32(values) => values,
                    _ => &[],
                });
                self.session.run(InputValues::F32(&values), &shape, &names)
            }
            Dtype::F16 => {
                let values = joined::<f16>(&data, length, |data| match data {
                    TensorData::F16(values) => values,
                    _ => &[],
                });
                self.session.run(InputValues::F16(&values), &shape, &names)
            }
            Dtype::U8 => {
                let values = joined(&data, length, |data| match data {
                    TensorData::U8(values) => values,
                    _ => &[],
                });
                self.session.run(InputValues::U8(&values), &shape, &names)
            }
            Dtype::I32 => {
                let values = joined(&data, length, |data| match data {
                    TensorData::I32(values) => values,
                    _ => &[],
                });
                self.session.run(InputValues::I32(&values), &shape, &names)
            }
        }
    }
}

/// The tensors' values one after another, filled up to `length`.
fn joined<T: Copy + Default>(
    data: &[&TensorData],
    length: usize,
    values: impl Fn(&TensorData) -> &[T],
) -> Vec<T> {
    let mut all = Vec::with_capacity(length);
    for data in data {
        all.extend_from_slice(values(data));
    }
    all.resize(length, T::default());
    all
}

/// Manifest keys and names of the outputs that are read, in a fixed order.
fn wanted(manifest: &Manifest) -> Vec<(&'static str, &str)> {
    match manifest.output() {
        Output::Embedder(output) => vec![("output.name", output.name.as_str())],
        Output::Detector(output) => {
            let names = &output.names;
            let mut all = vec![("output.names.boxes", names.boxes.as_str())];
            all.extend(
                names
                    .logits
                    .as_deref()
                    .map(|name| ("output.names.logits", name)),
            );
            all.extend(
                names
                    .labels
                    .as_deref()
                    .map(|name| ("output.names.labels", name)),
            );
            all.extend(
                names
                    .scores
                    .as_deref()
                    .map(|name| ("output.names.scores", name)),
            );
            all
        }
        Output::Pose(PoseOutput::Movenet(output)) => vec![("output.name", output.name.as_str())],
        Output::Pose(PoseOutput::Heatmaps(output)) => {
            let offsets = output.names.offsets.as_deref();
            let mut all = vec![("output.names.heatmaps", output.names.heatmaps.as_str())];
            all.extend(offsets.map(|name| ("output.names.offsets", name)));
            all
        }
    }
}

fn check_input(manifest: &Manifest, ports: &[Port]) -> Result<Batch, Error> {
    let input = manifest.input();
    let refuse = |reason: String| Err(mismatch(manifest, reason));
    let [port] = ports else {
        let found = quoted(ports.iter().map(|port| port.name.as_str()));
        return refuse(format!(
            "the ONNX file must have one input, it has {}: {found}",
            ports.len()
        ));
    };
    if port.name != input.name {
        return refuse(format!(
            "input.name is \"{}\", but the input of the ONNX file is \"{}\"",
            input.name, port.name
        ));
    }
    let expected = match input.dtype {
        Dtype::F32 => Element::F32,
        Dtype::F16 => Element::F16,
        Dtype::U8 => Element::U8,
        Dtype::I32 => Element::I32,
    };
    if port.element != expected {
        return refuse(format!(
            "input.dtype is {expected}, but the input of the ONNX file is {}",
            port.element
        ));
    }
    let unbatched = matches!(
        manifest.output(),
        Output::Detector(output) if output.family == Family::Torchvision
    );
    let (width, height) = (i64::from(input.width), i64::from(input.height));
    let axes = match input.layout {
        Layout::Nchw => [3, height, width],
        Layout::Nhwc => [height, width, 3],
    };
    let (batch, found) = match port.shape.as_slice() {
        [batch, rest @ ..] if rest.len() == 3 => (Some(*batch), rest),
        rest if rest.len() == 3 && unbatched => (None, rest),
        other => {
            return refuse(format!(
                "the input of the ONNX file has shape {other:?}; expected 4 axes, batch first"
            ));
        }
    };
    if axes
        .iter()
        .zip(found)
        .any(|(expected, found)| *found >= 0 && found != expected)
    {
        return refuse(format!(
            "input.width, height and layout give the axes {axes:?} after the batch, but the input of \
             the ONNX file has {found:?} (-1 is any size)"
        ));
    }
    match batch {
        None => Ok(Batch::Absent),
        Some(size) if size < 0 => {
            // Torchvision's outputs carry no batch axis, so photos cannot be told apart in them.
            Ok(if unbatched {
                Batch::Fixed(1)
            } else {
                Batch::Dynamic
            })
        }
        Some(size) => match usize::try_from(size) {
            Ok(size) if (1..=MAX_BATCH).contains(&size) && (size == 1 || !unbatched) => {
                Ok(Batch::Fixed(size))
            }
            _ => refuse(format!(
                "the batch axis of the ONNX file is fixed at {size}; expected a dynamic one, or 1{}",
                if unbatched {
                    String::new()
                } else {
                    format!(" to {MAX_BATCH}")
                }
            )),
        },
    }
}

/// The error of a model that is not what its manifest says.
pub(crate) fn mismatch(manifest: &Manifest, reason: String) -> Error {
    Error::ModelMismatch {
        model: manifest.name().to_owned(),
        reason,
    }
}

fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("\"{name}\"")).collect();
    names.join(", ")
}
