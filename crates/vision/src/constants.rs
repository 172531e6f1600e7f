//! Inputs of a model that are not the picture: the same values in every run.
//!
//! Owns their manifest form, its limits, and the values as a session takes them. Exports of whole models
//! have such inputs: the tokens of CLIP's text half, the mask of DETR, the sizes that RT-DETR scales its
//! boxes to. Knows nothing of ONNX Runtime.

use std::fmt;

use half::f16;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::tensors::InputValues;

/// Inputs beside the picture at most.
pub(crate) const MAX_CONSTANTS: usize = 16;
/// Elements of one: a mask of 4,096 by 4,096 pixels.
const MAX_ELEMENTS: usize = 1 << 24;
const MAX_AXES: usize = 8;
/// Above it a float skips integers, so that what the manifest says is not what the model gets.
const LARGEST_INTEGER: f64 = 9_007_199_254_740_992.0;

/// An input that gets the same values in every run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct Constant {
    /// Name of the ONNX input.
    pub name: String,
    /// Element type.
    pub dtype: ConstantDtype,
    /// Sizes of the axes; of one photo's values with `per_photo`.
    pub shape: Vec<usize>,
    /// One value for all elements, or one for each in the order of the axes.
    pub values: Vec<f64>,
    /// Whether a batch axis comes before `shape`, along which the values are repeated for each photo.
    #[serde(default, skip_serializing_if = "is_false")]
    pub per_photo: bool,
}

/// Element type of a [`Constant`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConstantDtype {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// Truth values: 0 and 1.
    Bool,
}

impl fmt::Display for ConstantDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::Bool => "bool",
        })
    }
}

impl ConstantDtype {
    /// Whether `value` is one of this type.
    fn holds(self, value: f64) -> bool {
        let is_whole = value.fract() == 0.0;
        match self {
            Self::F32 => value.is_finite() && value.abs() <= f64::from(f32::MAX),
            Self::F16 => value.is_finite() && value.abs() <= f64::from(f16::MAX),
            Self::I64 => is_whole && value.abs() <= LARGEST_INTEGER,
            Self::I32 => is_whole && (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&value),
            Self::Bool => value == 0.0 || value == 1.0,
        }
    }
}

impl Constant {
    /// Elements of `shape`; `None` beyond [`MAX_ELEMENTS`].
    fn elements(&self) -> Option<usize> {
        let product = self
            .shape
            .iter()
            .try_fold(1_usize, |all, &size| all.checked_mul(size));
        product.filter(|&all| all <= MAX_ELEMENTS)
    }

    /// Checks ranges; `key` is where it stands in the manifest.
    pub(crate) fn check(&self, key: &str) -> Result<(), Error> {
        let refuse = |part: &str, reason: String| {
            Err(Error::ManifestInvalid {
                key: format!("{key}.{part}"),
                reason,
            })
        };
        if !(1..=255).contains(&self.name.chars().count()) || self.name.contains('\0') {
            return refuse(
                "name",
                "expected 1 to 255 characters, without NUL".to_owned(),
            );
        }
        let (axes, elements) = (self.shape.len(), self.elements());
        let elements = match elements {
            Some(elements) if elements > 0 && axes <= MAX_AXES => elements,
            _ => {
                return refuse(
                    "shape",
                    format!(
                        "found {:?}; expected at most {MAX_AXES} axes of size 1 or more, with at most \
                         {MAX_ELEMENTS} elements",
                        self.shape
                    ),
                );
            }
        };
        if self.values.len() != 1 && self.values.len() != elements {
            return refuse(
                "values",
                format!(
                    "found {}; expected 1, or the {elements} of shape {:?}",
                    self.values.len(),
                    self.shape
                ),
            );
        }
        match self
            .values
            .iter()
            .position(|&value| !self.dtype.holds(value))
        {
            Some(at) => refuse(
                &format!("values[{at}]"),
                format!("{} is no value of dtype {}", self.values[at], self.dtype),
            ),
            None => Ok(()),
        }
    }

    /// The values for a run of `photos`, and their shape.
    pub(crate) fn filled(&self, photos: usize) -> (Vec<usize>, ConstantValues) {
        let mut shape = self.shape.clone();
        if self.per_photo {
            shape.insert(0, photos);
        }
        let length = shape.iter().product();
        let values = self.values.iter().copied().cycle().take(length);
        let values = match self.dtype {
            ConstantDtype::F32 => ConstantValues::F32(values.map(|v| v as f32).collect()),
            ConstantDtype::F16 => ConstantValues::F16(values.map(f16::from_f64).collect()),
            ConstantDtype::I64 => ConstantValues::I64(values.map(|v| v as i64).collect()),
            ConstantDtype::I32 => ConstantValues::I32(values.map(|v| v as i32).collect()),
            ConstantDtype::Bool => ConstantValues::Bool(values.map(|v| v != 0.0).collect()),
        };
        (shape, values)
    }
}

/// The values of a [`Constant`] in its element type.
#[derive(Debug)]
pub(crate) enum ConstantValues {
    F32(Vec<f32>),
    F16(Vec<f16>),
    I64(Vec<i64>),
    I32(Vec<i32>),
    Bool(Vec<bool>),
}

impl ConstantValues {
    pub(crate) fn as_input(&self) -> InputValues<'_> {
        match self {
            Self::F32(values) => InputValues::F32(values),
            Self::F16(values) => InputValues::F16(values),
            Self::I64(values) => InputValues::I64(values),
            Self::I32(values) => InputValues::I32(values),
            Self::Bool(values) => InputValues::Bool(values),
        }
    }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}
