//! What models of every kind share: opening with a check of the kind, and running in chunks.
//!
//! Owns the delegation to [`Model`]. What the outputs mean is in `detector.rs`, `embedder.rs` and
//! `pose.rs`, each of which adds the one thing its kind does.

use crate::cancel::Cancel;
use crate::device::{Provider, SessionOptions};
use crate::error::Error;
use crate::manifest::Manifest;
use crate::manifest_parts::{DetectorOutput, EmbedderOutput, Kind, Output, PoseOutput, Resize};
use crate::model::Model;
use crate::photo::View;
use crate::preprocess::{Preprocessor, Tensor, covered};
use crate::session::Runtime;
use crate::tensors::OutputTensor;

/// A model of one kind, ready to run: a [`crate::Detector`], an [`crate::Embedder`] or a
/// [`crate::PoseEstimator`].
#[derive(Debug)]
pub struct Opened<O> {
    pub(crate) model: Model,
    pub(crate) output: O,
}

/// The part of a manifest that tells a kind from the others.
pub trait KindOutput: Clone {
    /// The kind.
    const KIND: Kind;

    /// The output of a model of this kind.
    fn of(output: &Output) -> Option<&Self>;
}

impl KindOutput for EmbedderOutput {
    const KIND: Kind = Kind::Embedder;

    fn of(output: &Output) -> Option<&Self> {
        match output {
            Output::Embedder(output) => Some(output),
            _ => None,
        }
    }
}

impl KindOutput for DetectorOutput {
    const KIND: Kind = Kind::Detector;

    fn of(output: &Output) -> Option<&Self> {
        match output {
            Output::Detector(output) => Some(output),
            _ => None,
        }
    }
}

impl KindOutput for PoseOutput {
    const KIND: Kind = Kind::Pose;

    fn of(output: &Output) -> Option<&Self> {
        match output {
            Output::Pose(output) => Some(output),
            _ => None,
        }
    }
}

impl<O: KindOutput> Opened<O> {
    /// Opens a model of this kind.
    ///
    /// # Errors
    /// Digest, ONNX file, declared inputs and outputs, and device are checked; see the `Model*`,
    /// [`Error::ProviderUnavailable`] and [`Error::ManifestInvalid`] variants.
    pub fn open(
        runtime: &Runtime,
        manifest: Manifest,
        onnx: &[u8],
        options: &SessionOptions,
    ) -> Result<Self, Error> {
        let Some(output) = O::of(manifest.output()).cloned() else {
            return Err(Error::ManifestInvalid {
                key: "kind".to_owned(),
                reason: format!(
                    "model \"{}\" is of kind {}; expected {}",
                    manifest.name(),
                    manifest.kind(),
                    O::KIND
                ),
            });
        };
        Ok(Self {
            model: Model::open(runtime, manifest, onnx, options)?,
            output,
        })
    }
}

impl<O> Opened<O> {
    /// What runs the model.
    pub fn provider(&self) -> Provider {
        self.model.provider()
    }

    /// The model's manifest.
    pub fn manifest(&self) -> &Manifest {
        self.model.manifest()
    }

    /// Photos that go into one run.
    pub fn batch_size(&self) -> usize {
        self.model.chunk_size()
    }

    /// Lets `cancel` stop the runs of this model.
    pub fn set_cancel(&mut self, cancel: &Cancel) {
        self.model.set_cancel(cancel);
    }

    /// What turns views into this model's input, on any thread.
    pub fn preprocessor(&self) -> Preprocessor {
        self.model.preprocessor().clone()
    }

    /// The longer side in pixels that a photo has when it is fitted to the input. A crop's depends on the photo: here, one
    /// with sides of 2 to 3.
    pub(crate) fn longest_side(&self) -> u32 {
        let input = self.manifest().input();
        match input.resize {
            Resize::Stretch | Resize::Letterbox => input.width.max(input.height),
            Resize::Crop => {
                let (width, height) = covered(input);
                width.max(height).saturating_mul(3) / 2
            }
        }
    }

    /// Prepares `views` and runs them, chunk by chunk; see [`Opened::run_prepared`].
    pub(crate) fn run_views<R>(
        &mut self,
        views: &[View<'_>],
        read: impl Fn(&Self, &[OutputTensor], &[Tensor]) -> Result<Vec<R>, Error>,
    ) -> Result<Vec<R>, Error> {
        let preprocessor = self.preprocessor();
        let mut results = Vec::with_capacity(views.len());
        for chunk in views.chunks(self.batch_size()) {
            let tensors: Vec<Tensor> = chunk
                .iter()
                .map(|view| preprocessor.prepare(view))
                .collect();
            results.extend(self.run_prepared(&tensors, &read)?);
        }
        Ok(results)
    }

    /// Runs `tensors`, chunk by chunk; `read` makes one result of each tensor of a chunk.
    pub(crate) fn run_prepared<R>(
        &mut self,
        tensors: &[Tensor],
        read: impl Fn(&Self, &[OutputTensor], &[Tensor]) -> Result<Vec<R>, Error>,
    ) -> Result<Vec<R>, Error> {
        let mut results = Vec::with_capacity(tensors.len());
        for chunk in tensors.chunks(self.batch_size()) {
            let refs: Vec<&Tensor> = chunk.iter().collect();
            let outputs = self.model.run(&refs)?;
            results.extend(read(self, &outputs, chunk)?);
        }
        Ok(results)
    }
}
