//! Everything that can go wrong between a photo's bytes and its vectors.
//!
//! Each variant carries what a user needs: the thing, the reason and what to do. [`Error::code`]
//! gives the stable name that reject files and SQLSTATE tables are keyed by; texts may change,
//! codes do not.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Why a photo, a manifest, a model or a run was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No bytes at all.
    #[error("image is empty (0 bytes); send the content of an image file")]
    ImageEmpty,
    /// The first bytes belong to none of the formats read here.
    #[error(
        "not an image: the data starts with {found}; expected JPEG, PNG, WebP, GIF, BMP or TIFF"
    )]
    NotAnImage {
        /// What the data starts with, in words.
        found: String,
    },
    /// A known format with a feature that is not read here.
    #[error("{format} image is not supported: {reason}; convert it to a plain JPEG or PNG")]
    ImageUnsupported {
        /// Format name, such as `TIFF`.
        format: &'static str,
        /// What about it is not supported.
        reason: String,
    },
    /// The data stops before the picture is complete.
    #[error("{format} image is truncated: {reason}; copy or download the file again")]
    ImageTruncated {
        /// Format name, such as `JPEG`.
        format: &'static str,
        /// Where it stops.
        reason: String,
    },
    /// The data is damaged.
    #[error("{format} image is damaged: {reason}; save it again from its source")]
    ImageCorrupt {
        /// Format name, such as `PNG`.
        format: &'static str,
        /// What the codec met.
        reason: String,
    },
    /// More bytes than [`crate::Limits::max_bytes`].
    #[error("image of {bytes} bytes exceeds the limit of {limit} bytes; shrink it")]
    ImageTooManyBytes {
        /// Size of the data in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// More pixels than [`crate::Limits::max_pixels`].
    #[error("image of {width} x {height} pixels exceeds the limit of {limit} pixels; shrink it")]
    ImageTooManyPixels {
        /// Width that the header states.
        width: u32,
        /// Height that the header states.
        height: u32,
        /// The limit in pixels.
        limit: u64,
    },
    /// Decoding would cost more memory or work than the limits allow.
    #[error("{format} image needs {reason}; save it again as a plain JPEG or PNG")]
    ImageTooCostly {
        /// Format name.
        format: &'static str,
        /// What it needs and what is allowed.
        reason: String,
    },
    /// The manifest is not valid.
    #[error("model manifest: {key}: {reason}")]
    ManifestInvalid {
        /// Path of the key, such as `input.width`.
        key: String,
        /// What was found and what is allowed.
        reason: String,
    },
    /// The ONNX file is not the one that the manifest describes.
    #[error(
        "model \"{model}\": the ONNX file has sha256 {found}, its manifest says {expected}; \
         use the file that belongs to the manifest, or correct the manifest's sha256"
    )]
    ModelDigest {
        /// Name in the manifest.
        model: String,
        /// Digest of the file given.
        found: String,
        /// Digest in the manifest.
        expected: String,
    },
    /// The bytes are not an ONNX model.
    #[error("model \"{model}\" is not a valid ONNX file: {reason}")]
    ModelInvalid {
        /// Name in the manifest.
        model: String,
        /// What is wrong.
        reason: String,
    },
    /// A valid ONNX model that cannot be used here.
    #[error("model \"{model}\" cannot be used: {reason}; {remedy}")]
    ModelUnsupported {
        /// Name in the manifest.
        model: String,
        /// What it uses.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Inputs or outputs of the ONNX file differ from what the manifest says.
    #[error("model \"{model}\" does not match its manifest: {reason}")]
    ModelMismatch {
        /// Name in the manifest.
        model: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// The ONNX Runtime library is absent, is something else, or is too old.
    #[error("ONNX Runtime cannot be loaded from {}: {reason}", library.display())]
    RuntimeMissing {
        /// The path tried.
        library: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The execution provider that was asked for cannot start.
    #[error(
        "device {device} cannot be used: {reason}; use device cpu or auto, or install what is missing"
    )]
    ProviderUnavailable {
        /// The device asked for, as in [`crate::Device`].
        device: String,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// ONNX Runtime failed in a run.
    #[error("model \"{model}\" failed: {reason}")]
    Inference {
        /// Name in the manifest.
        model: String,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// A run needed more memory than the process may have.
    #[error("model \"{model}\" needs more memory than it may have")]
    OutOfMemory {
        /// Name in the manifest.
        model: String,
    },
    /// The process may not have the memory that the pixels take. Not the photo's fault: it fits the limits.
    #[error("there is not enough memory to decode this {format} image now")]
    NoMemoryToDecode {
        /// Of the image.
        format: &'static str,
    },
    /// Someone called [`crate::Cancel::cancel`].
    #[error("inference was cancelled")]
    Cancelled,
    /// A setting of the caller cannot be understood.
    #[error("invalid {setting}: \"{found}\"; expected {expected}")]
    InvalidSetting {
        /// Which setting.
        setting: &'static str,
        /// What was given.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
}

/// Stable names of the ways to fail; see [`Error::code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// `image_empty`
    ImageEmpty,
    /// `not_an_image`
    NotAnImage,
    /// `image_unsupported`
    ImageUnsupported,
    /// `image_truncated`
    ImageTruncated,
    /// `image_corrupt`
    ImageCorrupt,
    /// `image_too_large`: bytes, pixels, memory or work beyond the limits.
    ImageTooLarge,
    /// `manifest_invalid`
    ManifestInvalid,
    /// `model_digest_mismatch`
    ModelDigestMismatch,
    /// `model_invalid`
    ModelInvalid,
    /// `model_unsupported`
    ModelUnsupported,
    /// `model_mismatch`
    ModelMismatch,
    /// `runtime_missing`: absent, not ONNX Runtime, or too old.
    RuntimeMissing,
    /// `provider_unavailable`
    ProviderUnavailable,
    /// `inference_failed`
    InferenceFailed,
    /// `out_of_memory`
    OutOfMemory,
    /// `cancelled`
    Cancelled,
    /// `invalid_setting`
    InvalidSetting,
}

impl ErrorCode {
    /// The stable snake_case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ImageEmpty => "image_empty",
            Self::NotAnImage => "not_an_image",
            Self::ImageUnsupported => "image_unsupported",
            Self::ImageTruncated => "image_truncated",
            Self::ImageCorrupt => "image_corrupt",
            Self::ImageTooLarge => "image_too_large",
            Self::ManifestInvalid => "manifest_invalid",
            Self::ModelDigestMismatch => "model_digest_mismatch",
            Self::ModelInvalid => "model_invalid",
            Self::ModelUnsupported => "model_unsupported",
            Self::ModelMismatch => "model_mismatch",
            Self::RuntimeMissing => "runtime_missing",
            Self::ProviderUnavailable => "provider_unavailable",
            Self::InferenceFailed => "inference_failed",
            Self::OutOfMemory => "out_of_memory",
            Self::Cancelled => "cancelled",
            Self::InvalidSetting => "invalid_setting",
        }
    }

    /// Whether the photo is to blame, and another photo may well succeed.
    pub fn is_image_fault(self) -> bool {
        matches!(
            self,
            Self::ImageEmpty
                | Self::NotAnImage
                | Self::ImageUnsupported
                | Self::ImageTruncated
                | Self::ImageCorrupt
                | Self::ImageTooLarge
        )
    }
}

impl FromStr for ErrorCode {
    type Err = ();

    /// The code that [`ErrorCode::as_str`] names so.
    fn from_str(name: &str) -> Result<Self, ()> {
        let all = [
            Self::ImageEmpty,
            Self::NotAnImage,
            Self::ImageUnsupported,
            Self::ImageTruncated,
            Self::ImageCorrupt,
            Self::ImageTooLarge,
            Self::ManifestInvalid,
            Self::ModelDigestMismatch,
            Self::ModelInvalid,
            Self::ModelUnsupported,
            Self::ModelMismatch,
            Self::RuntimeMissing,
            Self::ProviderUnavailable,
            Self::InferenceFailed,
            Self::OutOfMemory,
            Self::Cancelled,
            Self::InvalidSetting,
        ];
        all.into_iter().find(|code| code.as_str() == name).ok_or(())
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Error {
    /// The stable code of this error.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::ImageEmpty => ErrorCode::ImageEmpty,
            Self::NotAnImage { .. } => ErrorCode::NotAnImage,
            Self::ImageUnsupported { .. } => ErrorCode::ImageUnsupported,
            Self::ImageTruncated { .. } => ErrorCode::ImageTruncated,
            Self::ImageCorrupt { .. } => ErrorCode::ImageCorrupt,
            Self::ImageTooManyBytes { .. }
            | Self::ImageTooManyPixels { .. }
            | Self::ImageTooCostly { .. } => ErrorCode::ImageTooLarge,
            Self::ManifestInvalid { .. } => ErrorCode::ManifestInvalid,
            Self::ModelDigest { .. } => ErrorCode::ModelDigestMismatch,
            Self::ModelInvalid { .. } => ErrorCode::ModelInvalid,
            Self::ModelUnsupported { .. } => ErrorCode::ModelUnsupported,
            Self::ModelMismatch { .. } => ErrorCode::ModelMismatch,
            Self::RuntimeMissing { .. } => ErrorCode::RuntimeMissing,
            Self::ProviderUnavailable { .. } => ErrorCode::ProviderUnavailable,
            Self::Inference { .. } => ErrorCode::InferenceFailed,
            Self::OutOfMemory { .. } | Self::NoMemoryToDecode { .. } => ErrorCode::OutOfMemory,
            Self::Cancelled => ErrorCode::Cancelled,
            Self::InvalidSetting { .. } => ErrorCode::InvalidSetting,
        }
    }
}
