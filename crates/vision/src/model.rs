//! What stands behind every kind of model: a session that matches its manifest, fed in batches.
//!
//! Owns what goes into a run: photos as [`Tensor`]s in any number, and the constants of the manifest.
//! Outputs come back chunk by chunk. What the file declares is compared in `ports.rs`.

use std::borrow::Cow;

use half::f16;

use crate::cancel::Cancel;
use crate::device::{Provider, SessionOptions};
use crate::error::Error;
use crate::manifest::Manifest;
use crate::manifest_parts::{Dtype, Layout};
use crate::onnx;
use crate::ports::{self, Batch, MAX_BATCH, wanted};
use crate::preprocess::{Preprocessor, Tensor, TensorData};
use crate::session::{Runtime, Session};
use crate::tensors::{InputTensor, InputValues, OutputTensor};

#[derive(Debug)]
pub(crate) struct Model {
    session: Session,
    manifest: Manifest,
    preprocessor: Preprocessor,
    batch: Batch,
    masks: usize,
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
        let batch_axis = onnx::first_axis(onnx, &manifest.input().name);
        let session = Session::open(runtime, manifest.name(), onnx, batch_axis, options)?;
        let outputs = session.outputs();
        let batch = ports::compare(&manifest, &session.inputs(), &outputs)
            .map_err(|faults| mismatch(&manifest, faults.join("; ")))?;
        let preprocessor = Preprocessor::new(&manifest);
        let masks = ports::masks(&manifest, &outputs);
        Ok(Self {
            session,
            manifest,
            preprocessor,
            batch,
            masks,
        })
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(crate) fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    pub(crate) fn provider(&self) -> Provider {
        self.session.provider()
    }

    pub(crate) fn set_cancel(&mut self, cancel: &Cancel) {
        self.session.set_cancel(cancel);
    }

    /// Mask coefficients of each box; see [`ports::masks`].
    pub(crate) fn masks(&self) -> usize {
        self.masks
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
        let data: Vec<&TensorData> = tensors.iter().map(|tensor| &tensor.data).collect();
        let pixels = Pixels::of(input.dtype, &data, length);
        let constants: Vec<_> = input
            .constants
            .iter()
            .map(|constant| (constant.name.as_str(), constant.filled(count)))
            .collect();
        let mut inputs = vec![InputTensor {
            name: &input.name,
            shape,
            values: pixels.as_input(),
        }];
        inputs.extend(constants.iter().map(|(name, (shape, values))| InputTensor {
            name,
            shape: shape.clone(),
            values: values.as_input(),
        }));
        let names: Vec<&str> = wanted(&self.manifest)
            .into_iter()
            .map(|(_, name)| name)
            .collect();
        self.session.run(inputs, &names)
    }
}

/// The pictures of one run; one that fills it is not copied.
enum Pixels<'a> {
    F32(Cow<'a, [f32]>),
    F16(Cow<'a, [f16]>),
    U8(Cow<'a, [u8]>),
    I32(Cow<'a, [i32]>),
}

impl<'a> Pixels<'a> {
    fn of(dtype: Dtype, data: &[&'a TensorData], length: usize) -> Self {
        match dtype {
            Dtype::F32 => Self::F32(joined(data, length, |data| match data {
                TensorData::F32(values) => values,
                _ => &[],
            })),
            Dtype::F16 => Self::F16(joined(data, length, |data| match data {
                TensorData::F16(values) => values,
                _ => &[],
            })),
            Dtype::U8 => Self::U8(joined(data, length, |data| match data {
                TensorData::U8(values) => values,
                _ => &[],
            })),
            Dtype::I32 => Self::I32(joined(data, length, |data| match data {
                TensorData::I32(values) => values,
                _ => &[],
            })),
        }
    }

    fn as_input(&self) -> InputValues<'_> {
        match self {
            Self::F32(values) => InputValues::F32(values),
            Self::F16(values) => InputValues::F16(values),
            Self::U8(values) => InputValues::U8(values),
            Self::I32(values) => InputValues::I32(values),
        }
    }
}

/// The tensors' values one after another, filled up to `length`.
fn joined<'a, T: Copy + Default>(
    data: &[&'a TensorData],
    length: usize,
    values: impl Fn(&'a TensorData) -> &'a [T],
) -> Cow<'a, [T]> {
    if let [one] = data
        && values(one).len() == length
    {
        return values(one).into();
    }
    let mut all = Vec::with_capacity(length);
    for data in data {
        all.extend_from_slice(values(data));
    }
    all.resize(length, T::default());
    all.into()
}

/// The error of a model that is not what its manifest says.
pub(crate) fn mismatch(manifest: &Manifest, reason: String) -> Error {
    Error::ModelMismatch {
        model: manifest.name().to_owned(),
        reason,
    }
}
