//! `--device`: one device, or several GPUs that share the work.

use std::{fmt, fs, str::FromStr};

use lookbook_vision::Device;

/// At least one device; several are GPUs of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices(Vec<Device>);

impl Devices {
    /// What a verb uses that needs one only.
    pub fn first(&self) -> Device {
        self.0.first().copied().unwrap_or_default()
    }

    pub fn all(&self) -> &[Device] {
        &self.0
    }
}

impl FromStr for Devices {
    type Err = String;

    /// `cpu`, `auto`, `openvino`, `openvino:bf16`, `cuda`, `cuda:1`, `cuda:0,2`, `cuda:all`, and the same of `tensorrt`.
    fn from_str(text: &str) -> Result<Self, String> {
        let one = |text: &str| {
            text.parse()
                .map_err(|error: lookbook_vision::Error| error.to_string())
        };
        let Some((kind, numbers)) = text.split_once(':') else {
            return Ok(Self(vec![one(text)?]));
        };
        let numbers: Vec<String> = match numbers {
            "all" => match gpus() {
                0 => {
                    return Err(
                        "no NVIDIA GPU is visible here (there is no /dev/nvidia0)".to_owned()
                    );
                }
                count => (0..count).map(|number| number.to_string()).collect(),
            },
            some => some.split(',').map(str::to_owned).collect(),
        };
        let devices: Vec<Device> = numbers
            .iter()
            .map(|number| one(&format!("{kind}:{number}")))
            .collect::<Result<_, String>>()?;
        for (at, device) in devices.iter().enumerate() {
            if devices[..at].contains(device) {
                return Err(format!("{device} is named twice"));
            }
        }
        Ok(Self(devices))
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(Device::to_string).collect();
        f.write_str(&names.join(" and "))
    }
}

/// GPUs that this machine, or this container, was given.
fn gpus() -> usize {
    let names = fs::read_dir("/dev").into_iter().flatten().flatten();
    let is_gpu = |name: &str| {
        let number = name.strip_prefix("nvidia").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    names
        .filter(|item| item.file_name().to_str().is_some_and(is_gpu))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_gpus_are_a_list_of_numbers() {
        let devices = |text: &str| text.parse::<Devices>().map(|devices| devices.0);
        assert_eq!(devices("auto"), Ok(vec![Device::Auto]));
        assert_eq!(devices("cuda:1"), Ok(vec![Device::Cuda(1)]));
        assert_eq!(
            devices("cuda:0,2"),
            Ok(vec![Device::Cuda(0), Device::Cuda(2)])
        );
        assert_eq!(devices("tensorrt"), Ok(vec![Device::TensorRt(0)]));
        assert_eq!(devices("openvino:bf16"), Ok(vec![Device::OpenVinoBf16]));
        for wrong in [
            "cuda:0,0",
            "cuda:0,",
            "cuda:x",
            "gpu",
            "cpu:1",
            "cuda:0,cuda:1",
        ] {
            assert!(devices(wrong).is_err(), "{wrong}");
        }
        match gpus() {
            0 => assert!(devices("cuda:all").unwrap_err().contains("no NVIDIA GPU")),
            count => assert_eq!(devices("cuda:all").unwrap().len(), count),
        }
    }
}
