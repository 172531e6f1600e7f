//! Plain values on their way into and out of a session, so that no other file names ONNX Runtime.

use std::fmt;

use half::f16;
use ndarray::ArrayD;

/// Element types that pass through here; a model with others is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    F16,
    F64,
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
            Self::F64 => "f64",
            Self::U8 => "u8",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::Other(name) => name,
        })
    }
}

/// An input or output as the ONNX file declares it: name, element type and shape, in which −1 is any size.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) element: Element,
    pub(crate) shape: Vec<i64>,
}

/// The values of one input, in the order of its shape.
#[derive(Debug, Clone, Copy)]
pub(crate) enum InputValues<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    U8(&'a [u8]),
    I32(&'a [i32]),
    I64(&'a [i64]),
    Bool(&'a [bool]),
}

/// One input of a run.
#[derive(Debug, Clone)]
pub(crate) struct InputTensor<'a> {
    pub(crate) name: &'a str,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: InputValues<'a>,
}

/// One output of a run; f16 and f64 become f32, i32 becomes i64.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum OutputTensor {
    Float(ArrayD<f32>),
    Integer(ArrayD<i64>),
}

impl OutputTensor {
    pub(crate) fn shape(&self) -> &[usize] {
        match self {
            Self::Float(values) => values.shape(),
            Self::Integer(values) => values.shape(),
        }
    }
}
