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
}

impl FromStr for Device {
    type Err = Error;

    /// `auto`, `cpu`, `cuda`, `cuda:N`, `tensorrt` or `tensorrt:N`.
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
            expected: "auto, cpu, cuda, cuda:N, tensorrt or tensorrt:N",
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
}
