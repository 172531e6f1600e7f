//! From views to vectors.
//!
//! Owns reading an embedder's output: checking its shape, pooling a feature map, normalising. A
//! vector that leaves is finite and has the manifest's length.

use ndarray::{ArrayD, ArrayView1, ArrayView2, ArrayView3};

use crate::error::Error;
use crate::families::short_of_photos;
use crate::manifest_parts::{EmbedderOutput, Layout, Pool};
use crate::model::mismatch;
use crate::opened::Opened;
use crate::photo::View;
use crate::preprocess::Tensor;
use crate::tensors::OutputTensor;

/// An image embedder, ready to run.
pub type Embedder = Opened<EmbedderOutput>;

impl Embedder {
    /// Length of the vectors.
    pub fn dimensions(&self) -> usize {
        self.output.dimensions
    }

    /// One vector per view, in order.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Inference`]; [`Error::ModelMismatch`] when the output is not
    /// what the manifest says.
    pub fn embed(&mut self, views: &[View<'_>]) -> Result<Vec<Vec<f32>>, Error> {
        self.run_views(views, Self::read)
    }

    /// One vector per prepared tensor, in order; see [`Embedder::embed`].
    pub fn embed_prepared(&mut self, tensors: &[Tensor]) -> Result<Vec<Vec<f32>>, Error> {
        self.run_prepared(tensors, Self::read)
    }

    /// The shape that the output has in a run of the one photo `view`.
    pub(crate) fn shape(&mut self, view: &[View<'_>]) -> Result<Vec<usize>, Error> {
        let shapes = self.run_views(view, |_, outputs, _| {
            Ok(outputs
                .iter()
                .map(|output| output.shape().to_vec())
                .collect())
        })?;
        Ok(shapes.concat())
    }

    fn read(&self, outputs: &[OutputTensor], tensors: &[Tensor]) -> Result<Vec<Vec<f32>>, Error> {
        let count = tensors.len();
        let name = &self.output.name;
        let refuse =
            |reason: String| mismatch(self.manifest(), format!("output \"{name}\" {reason}"));
        let [output] = outputs else {
            return Err(refuse("is missing".to_owned()));
        };
        let OutputTensor::Float(values) = output else {
            return Err(refuse("has integers; expected floats".to_owned()));
        };
        let maps = self.maps(values, count).map_err(&refuse)?;
        maps.outer_iter()
            .take(count)
            .map(|map| {
                let vector = pooled(map, self.output.pool);
                if let Some(at) = vector.iter().position(|value| !value.is_finite()) {
                    return Err(refuse(format!("has {} at dimension {at}", vector[at])));
                }
                if self.output.normalize {
                    normalized(vector).ok_or_else(|| {
                        refuse("has length zero and cannot be normalised".to_owned())
                    })
                } else {
                    Ok(vector)
                }
            })
            .collect()
    }

    /// The output as `[photos, channels, places]`, or why it has another shape.
    fn maps<'a>(
        &self,
        values: &'a ArrayD<f32>,
        count: usize,
    ) -> Result<ArrayView3<'a, f32>, String> {
        let (dimensions, pool) = (self.output.dimensions, self.output.pool);
        let layout = self.manifest().input().layout;
        let shape = values.shape();
        if let Some(short) = short_of_photos(shape, count) {
            return Err(short);
        }
        let refuse = || {
            let expected = match (pool, layout) {
                (Pool::None, _) => "[photos, dimensions]",
                (Pool::ClassToken, _) => "[photos, tokens, dimensions]",
                (_, Layout::Nchw) => "[photos, dimensions, rows, columns]",
                (_, Layout::Nhwc) => "[photos, rows, columns, dimensions]",
            };
            format!(
                "has shape {shape:?}; expected {expected} with {dimensions} dimensions and at least {count} \
                 photos (output.dimensions and output.pool say so){}",
                remedy(pool, dimensions, shape)
            )
        };
        let (photos, axes) = match shape {
            // A vector of one photo, without a batch axis.
            [size] if pool == Pool::None && count == 1 && *size == dimensions => (1, shape),
            [photos, axes @ ..] => (*photos, axes),
            [] => return Err(refuse()),
        };
        let (channels, places, channels_first) = match (pool, axes) {
            // Beside its own the vector may have axes of size 1, such as those of a pooled map.
            (Pool::None, axes) if axes.iter().filter(|&&size| size != 1).count() <= 1 => {
                (axes.iter().product(), 1, true)
            }
            (Pool::Mean | Pool::Max, &[first, second, third]) => {
                // Some take channels first and give them last (Swin): what has the vector's length are the channels.
                let channels_first = match layout {
                    Layout::Nchw => first == dimensions || third != dimensions,
                    Layout::Nhwc => first == dimensions && third != dimensions,
                };
                match channels_first {
                    true => (first, second * third, true),
                    false => (third, first * second, false),
                }
            }
            // Tokens of a transformer.
            (Pool::Mean | Pool::Max | Pool::ClassToken, &[tokens, channels]) => {
                (channels, tokens, false)
            }
            _ => return Err(refuse()),
        };
        if channels != dimensions || places == 0 || photos < count {
            return Err(refuse());
        }
        let maps = values.view();
        let maps = match channels_first {
            true => maps.into_shape_with_order((photos, channels, places)),
            false => maps
                .into_shape_with_order((photos, places, channels))
                .map(|tokens| tokens.permuted_axes([0, 2, 1])),
        };
        maps.map_err(|_| refuse())
    }
}

/// The pool that fits an output of this shape, where its last axis is a vector or it is a map.
fn remedy(pool: Pool, dimensions: usize, shape: &[usize]) -> &'static str {
    match (pool, shape) {
        (Pool::None | Pool::ClassToken, [_, _, _, _]) => {
            "; output.pool mean or max makes one vector of a map"
        }
        (Pool::None, &[_, _, last]) if last == dimensions => {
            "; output.pool class_token, where the first token is one, mean or max makes one vector of tokens"
        }
        (Pool::Mean | Pool::Max | Pool::ClassToken, &[_, last]) if last == dimensions => {
            "; it is a vector already, which output.pool none takes"
        }
        _ => "",
    }
}

/// One number of each channel of `[channels, places]`.
fn pooled(map: ArrayView2<'_, f32>, pool: Pool) -> Vec<f32> {
    let number = |values: ArrayView1<'_, f32>| match pool {
        Pool::None | Pool::ClassToken => values[0],
        Pool::Mean => {
            let sum: f64 = values.iter().copied().map(f64::from).sum();
            (sum / values.len() as f64) as f32
        }
        // Unlike f32::max this keeps a NaN, which is refused later.
        Pool::Max => values.fold(f32::NEG_INFINITY, |most, &value| {
            if value > most || value.is_nan() {
                value
            } else {
                most
            }
        }),
    };
    map.outer_iter().map(number).collect()
}

fn normalized(vector: Vec<f32>) -> Option<Vec<f32>> {
    let length = vector
        .iter()
        .map(|&value| f64::from(value).powi(2))
        .sum::<f64>()
        .sqrt();
    (length > 0.0).then(|| {
        vector
            .iter()
            .map(|&v| (f64::from(v) / length) as f32)
            .collect()
    })
}
