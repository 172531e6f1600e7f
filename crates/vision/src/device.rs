//! Where models run, and with how many threads.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

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
