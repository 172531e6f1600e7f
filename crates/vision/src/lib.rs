//! Photos in, garments, vectors and poses out.
//!
//! Owns decoding of hostile image files, manifest-driven preprocessing, ONNX sessions, the families
//! of detector and pose output, and the crop rule. Knows nothing of PostgreSQL or of catalogues: the
//! extension and the loader call the same [`garments`], so their vectors agree by construction.
//!
//! ```text
//! bytes -> decode -> Photo -> View -> Preprocessor -> Tensor -> Session -> Detection | vector | Pose
//! ```
#![deny(unsafe_code)]

mod cancel;
mod check;
mod codecs;
mod constants;
mod decode;
mod detector;
mod device;
mod embedder;
mod error;
mod examine;
mod explain;
mod families;
mod geometry;
mod jpeg;
mod jpeg_header;
mod manifest;
mod manifest_parts;
mod manifest_rules;
mod model;
mod onnx;
mod opened;
mod photo;
mod pipeline;
mod ports;
mod pose;
mod preprocess;
mod protobuf;
mod quiet;
mod session;
mod signals;
mod sketch;
mod tensors;

pub use cancel::Cancel;
pub use check::{ModelReport, check_model, check_model_with};
pub use constants::{Constant, ConstantDtype};
pub use decode::{Limits, decode, decode_memory_bytes};
pub use detector::{Detection, Detector};
pub use device::{Device, Provider, SessionOptions};
pub use embedder::Embedder;
pub use error::{Error, ErrorCode};
pub use examine::{Finding, Sample, Verdict, examine};
pub use geometry::{BoundingBox, CROP_MARGIN, Geometry};
pub use manifest::{Manifest, sha256_hex};
pub use manifest_parts::{
    Activation, Colour, DetectorOutput, Dtype, EmbedderOutput, Family, Filter, Group,
    HeatmapsNames, HeatmapsOutput, Input, Kind, Label, Layout, MovenetOutput, Output, OutputNames,
    Pool, PoseOutput, Resize,
};
pub use onnx::check as check_onnx;
pub use opened::{KindOutput, Opened};
pub use photo::{Photo, View};
pub use pipeline::{Garment, decode_side, decode_side_alone, garments};
pub use pose::{KEYPOINT_NAMES, Keypoint, Pose, PoseEstimator};
pub use preprocess::{Preprocessor, Tensor};
pub use session::{Runtime, keep_telemetry_off};
pub use signals::SignalsBlocked;
