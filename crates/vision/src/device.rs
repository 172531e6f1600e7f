//! Where models run, and with how many threads.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Device {
    /// CUDA device 0 when it can start, else the CPU; `provider()` says which.
    Auto,
    /// The CPU.
    #[default]
    Cpu,
    /// This CUDA device, or an error.
    Cuda(u32),
    /// This device by TensorRT, with CUDA for what it cannot run, or an error.
    TensorRt(u32),
    /// The CPU by OpenVINO, or an error.
    OpenVino,
    /// The same, float models in bfloat16 where the processor computes in it; those in integers stay so.
    OpenVinoBf16,
}

impl Device {
    /// Whether OpenVINO is what was asked for.
    pub fn is_openvino(self) -> bool {
        matches!(self, Self::OpenVino | Self::OpenVinoBf16)
    }
}

/// What runs a model: an execution provider of ONNX Runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provider {
    /// ONNX Runtime's own, on the CPU.
    Cpu,
    /// OpenVINO, on the CPU.
    OpenVino,
    /// CUDA, on a GPU.
    Cuda,
    /// TensorRT, on a GPU.
    TensorRt,
}

impl Provider {
    /// `CPU`, `OpenVINO`, `CUDA` or `TensorRT`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::OpenVino => "OpenVINO",
            Self::Cuda => "CUDA",
            Self::TensorRt => "TensorRT",
        }
    }

    /// Whether runs take the time of a GPU and not of the processor.
    pub fn is_gpu(self) -> bool {
        matches!(self, Self::Cuda | Self::TensorRt)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Device {
    type Err = Error;

    /// `auto`, `cpu`, `openvino`, `openvino:bf16`, `cuda`, `cuda:N`, `tensorrt` or `tensorrt:N`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, number) = match text.trim().split_once(':') {
            Some((name, number)) => (name, Some(number)),
            None => (text.trim(), None),
        };
        // No sign, no space: what u16 would let through.
        let is_number = |number: &&str| number.bytes().all(|byte| byte.is_ascii_digit());
        let device = match (name, number) {
            ("auto", None) => Some(Self::Auto),
            ("cpu", None) => Some(Self::Cpu),
            ("openvino", None) => Some(Self::OpenVino),
            ("openvino", Some("bf16")) => Some(Self::OpenVinoBf16),
            ("cuda" | "tensorrt", number) => number
                .map_or(Some("0"), |number| Some(number).filter(is_number))
                .and_then(|number| number.parse::<u16>().ok())
                .map(|number| match name {
                    "cuda" => Self::Cuda(number.into()),
                    _ => Self::TensorRt(number.into()),
                }),
            _ => None,
        };
        device.ok_or_else(|| Error::InvalidSetting {
            setting: "device",
            found: text.to_owned(),
            expected: "auto, cpu, openvino, openvino:bf16, cuda, cuda:N, tensorrt or tensorrt:N",
        })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::TensorRt(number) => write!(f, "tensorrt:{number}"),
            Self::OpenVino => f.write_str("openvino"),
            Self::OpenVinoBf16 => f.write_str("openvino:bf16"),
        }
    }
}

/// How to open a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SessionOptions {
    /// Where to run.
    pub device: Device,
    /// Threads within one operator, this one included; 0: one for each processor this process may
    /// use. Operators run one after another.
    pub threads: usize,
    /// Photos in every run of a model that takes any number, incomplete runs filled up; 0: any number.
    /// OpenVINO computes in fixed shapes a quarter faster, and takes 0 as 1.
    pub batch: usize,
}
