//! The vocabulary of a manifest: the enums and groups of values that its JSON is made of.
//!
//! Types and key names only; the ranges of values are checked by `manifest_rules.rs`, and inputs other
//! than the picture are in `constants.rs`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::constants::Constant;
use crate::error::Error;
use crate::manifest_rules;

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Image to vector.
    Embedder,
    /// Image to boxes.
    Detector,
    /// Image to key points.
    Pose,
}

impl Kind {
    /// `embedder`, `detector` or `pose`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Embedder => "embedder",
            Self::Detector => "detector",
            Self::Pose => "pose",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "embedder" => Ok(Self::Embedder),
            "detector" => Ok(Self::Detector),
            "pose" => Ok(Self::Pose),
            _ => Err(Error::InvalidSetting {
                setting: "model kind",
                found: text.to_owned(),
                expected: "embedder, detector or pose",
            }),
        }
    }
}

/// Order of the axes of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Batch, channel, row, column.
    Nchw,
    /// Batch, row, column, channel.
    Nhwc,
}

/// Element type of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// Unsigned byte: the pixels as they are.
    U8,
    /// 32-bit integer: the pixels as they are, 0 to 255.
    I32,
}

impl Dtype {
    /// Whether pixels go in unchanged.
    pub fn takes_pixels(self) -> bool {
        matches!(self, Self::U8 | Self::I32)
    }
}

/// Order of the colour channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Colour {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
}

/// How a picture is fitted to the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// To width × height, whatever the aspect ratio.
    Stretch,
    /// Keep the aspect ratio, centre, fill with `pad`.
    Letterbox,
    /// Keep the aspect ratio, cover, cut the centre out; see [`Input::crop_share`].
    Crop,
}

/// Pillow's resampling filters, antialiased on reduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// No interpolation.
    Nearest,
    /// Triangle.
    Bilinear,
    /// Cubic with a = −0.5.
    Bicubic,
    /// Windowed sinc of three lobes.
    Lanczos3,
}

/// What the model eats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct Input {
    /// Name of the ONNX input.
    pub name: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Axes.
    pub layout: Layout,
    /// Element type.
    pub dtype: Dtype,
    /// Channels.
    pub colour: Colour,
    /// How to fit.
    pub resize: Resize,
    /// How to resample.
    pub filter: Filter,
    /// Share of the covered width and height that a crop keeps, 0.5 to 1; default 1. `crop` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop_share: Option<f64>,
    /// Fill of a letterbox, 0 to 255, in the order of `colour`. Default 0.
    #[serde(
        default,
        deserialize_with = "manifest_rules::three",
        skip_serializing_if = "Option::is_none"
    )]
    pub pad: Option<[u8; 3]>,
    /// Factor of the pixel, default 1/255. Absent for `u8` and `i32`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Subtracted after scaling, default 0. Absent for `u8` and `i32`.
    #[serde(
        default,
        deserialize_with = "manifest_rules::three",
        skip_serializing_if = "Option::is_none"
    )]
    pub mean: Option<[f64; 3]>,
    /// Divides at last, default 1. Absent for `u8` and `i32`.
    #[serde(
        default,
        deserialize_with = "manifest_rules::three",
        skip_serializing_if = "Option::is_none"
    )]
    pub std: Option<[f64; 3]>,
    /// Further inputs of the ONNX file, which get the same values in every run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constants: Vec<Constant>,
}

/// How a feature map becomes one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// The output is the vector.
    None,
    /// Mean over the spatial axes.
    Mean,
    /// Maximum over the spatial axes.
    Max,
    /// The first token of a transformer, `[N, tokens, dimensions]`.
    ClassToken,
}

/// Output of an embedder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct EmbedderOutput {
    /// Name of the ONNX output.
    pub name: String,
    /// Length of the vector, 1 to 16,000.
    pub dimensions: usize,
    /// How to reduce.
    pub pool: Pool,
    /// Scale to length 1.
    pub normalize: bool,
}

/// How a detector writes its boxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// `[N, 4 + classes, anchors]`.
    YoloV8,
    /// `[N, anchors, 5 + classes]`.
    YoloV5,
    /// `[N, boxes, 6]`, `[boxes, 6]` or `[boxes, 7]`, after the model's own NMS.
    YoloNms,
    /// Logits and boxes of queries; with softmax the last class is "no object".
    Detr,
    /// Boxes, labels and scores after the model's own NMS, with or without a batch axis.
    Torchvision,
}

impl Family {
    /// Whether the model suppresses overlapping boxes, or needs no suppression.
    pub(crate) fn suppresses(self) -> bool {
        !matches!(self, Self::YoloV8 | Self::YoloV5)
    }

    /// What makes scores of the class numbers, where the manifest does not say.
    pub(crate) fn usual_activation(self) -> Activation {
        match self {
            Self::Detr => Activation::Softmax,
            Self::YoloV8 | Self::YoloV5 | Self::YoloNms | Self::Torchvision => Activation::None,
        }
    }
}

/// Names of a detector's ONNX outputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct OutputNames {
    /// Boxes, or boxes with scores.
    pub boxes: String,
    /// `detr` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logits: Option<String>,
    /// `torchvision` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
    /// `torchvision` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<String>,
}

/// Where on the body a garment is worn: the categories of `garment.category`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Tops, coats.
    Upper,
    /// Trousers, skirts.
    Lower,
    /// Dresses, overalls.
    FullBody,
    /// Shoes.
    Footwear,
    /// Bags, hats, jewellery.
    Accessory,
}

impl Group {
    /// From head to foot, then what else is worn.
    pub const ALL: [Self; 5] = [
        Self::Upper,
        Self::Lower,
        Self::FullBody,
        Self::Footwear,
        Self::Accessory,
    ];

    /// `upper`, `lower`, `full_body`, `footwear` or `accessory`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upper => "upper",
            Self::Lower => "lower",
            Self::FullBody => "full_body",
            Self::Footwear => "footwear",
            Self::Accessory => "accessory",
        }
    }
}

impl FromStr for Group {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|group| group.as_str() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            format!("{text:?} is no category; they are {names}")
        })
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One class of a detector; its place in the list is the class number of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct Label {
    /// What the class is called.
    pub name: String,
    /// Its category, or null to ignore it.
    pub group: Option<Group>,
}

/// Output of a detector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct DetectorOutput {
    /// Form of the outputs.
    pub family: Family,
    /// Names of the outputs.
    pub names: OutputNames,
    /// Classes in the order of the model; names of those with a group occur once.
    pub labels: Vec<Label>,
    /// What makes scores of the class numbers: `detr` has `softmax` (the default), `sigmoid` or `none`, `yolo_v8` and
    /// `yolo_v5` `none` (the default) or `sigmoid`, the others have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// Lowest score kept, 0 to 1.
    pub score_threshold: f64,
    /// Overlap above which the weaker box of a class goes, 0 to 1.
    pub iou_threshold: f64,
    /// Most boxes of one photo, 1 to 1,000.
    pub max_detections: usize,
}

impl DetectorOutput {
    pub(crate) fn activation(&self) -> Activation {
        self.activation.unwrap_or(self.family.usual_activation())
    }
}

/// Output of a pose model; its points are COCO's 17 in COCO's order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "snake_case", expecting = "an object")]
pub enum PoseOutput {
    /// `[N, 1, 17, 3]`: y and x in shares of the input, and the score.
    Movenet(MovenetOutput),
    /// Heat maps, and offsets from their cells (PoseNet, one person).
    Heatmaps(HeatmapsOutput),
}

/// Output of a pose model of family `movenet`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct MovenetOutput {
    /// Name of the ONNX output.
    pub name: String,
}

/// Output of a pose model of family `heatmaps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct HeatmapsOutput {
    /// Names of the outputs.
    pub names: HeatmapsNames,
    /// Input pixels from one cell to the next.
    pub stride: u32,
    /// What makes scores of the heat; default none.
    #[serde(default, skip_serializing_if = "Activation::is_none")]
    pub activation: Activation,
}

/// Names of the ONNX outputs of family `heatmaps`, whose axes have the order of the input's layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct HeatmapsNames {
    /// One map for each point.
    pub heatmaps: String,
    /// Two maps for each point, in input pixels: all of y, then all of x. Without them a point lies in
    /// the middle of its cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offsets: Option<String>,
}

/// What makes scores of a model's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// They are scores.
    #[default]
    None,
    /// 1 / (1 + e^−x).
    Sigmoid,
    /// e^x over the sum of all classes' e^x.
    Softmax,
}

impl Activation {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// What the model gives, by kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// A vector.
    Embedder(EmbedderOutput),
    /// Boxes.
    Detector(DetectorOutput),
    /// Key points.
    Pose(PoseOutput),
}
