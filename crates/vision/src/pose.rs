//! From views to the key points of a person.
//!
//! Owns the two forms in which pose models write their points, and the rule that calls a photo a full
//! front view. One person per photo: the models that are read here look for one.

use ndarray::{ArrayView2, ArrayView4, ArrayViewD, Axis, Ix4, aview1, s};

use crate::error::Error;
use crate::families::{finite, floats, probability, shape_error};
use crate::geometry::Geometry;
use crate::manifest_parts::{Activation, HeatmapsOutput, Input, Layout, PoseOutput};
use crate::model::mismatch;
use crate::opened::Opened;
use crate::photo::View;
use crate::preprocess::Tensor;
use crate::tensors::OutputTensor;

/// The key points in the order of COCO; left is the person's left.
pub const KEYPOINT_NAMES: [&str; 17] = [
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
];
const POINTS: usize = KEYPOINT_NAMES.len();

/// Score above which a point counts as seen.
const SEEN: f32 = 0.5;
/// What heat may be. Networks that regress it (HRNet, ViTPose) aim at 0 to 1 and miss it by tenths either way, in some
/// photos and not in others; logits are far below 0 wherever there is no point.
const HEAT: std::ops::RangeInclusive<f32> = -1.0..=2.0;
/// Places in [`KEYPOINT_NAMES`], of each of which one point must be seen.
const FULL_FRONT: [&[usize]; 4] = [&[0], &[1, 2], &[11, 12], &[15, 16]];

/// One point of a person.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Keypoint {
    /// One of [`KEYPOINT_NAMES`].
    pub name: &'static str,
    /// Across, in pixels of the full-size oriented photo, inside the view.
    pub x: f32,
    /// Down, likewise.
    pub y: f32,
    /// Confidence, 0 to 1.
    pub score: f32,
}

/// The points of the one person of a photo, in the order of [`KEYPOINT_NAMES`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pose(pub [Keypoint; POINTS]);

impl Pose {
    /// Whether the nose, an eye, a hip and an ankle are seen, each with a score above 0.5: a person from
    /// the front, from head to foot.
    pub fn is_full_front(&self) -> bool {
        let is_seen = |&at: &usize| self.0[at].score > SEEN;
        FULL_FRONT.iter().all(|group| group.iter().any(is_seen))
    }
}

/// A pose model, ready to run.
pub type PoseEstimator = Opened<PoseOutput>;

impl PoseEstimator {
    /// The pose in each view, in order.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Inference`]; [`Error::ModelMismatch`] when the outputs are not
    /// what the manifest says.
    pub fn estimate(&mut self, views: &[View<'_>]) -> Result<Vec<Pose>, Error> {
        self.run_views(views, Self::read)
    }

    /// The pose of each prepared tensor, in order; see [`PoseEstimator::estimate`].
    pub fn estimate_prepared(&mut self, tensors: &[Tensor]) -> Result<Vec<Pose>, Error> {
        self.run_prepared(tensors, Self::read)
    }

    /// The pose in one view; see [`PoseEstimator::estimate`].
    pub fn estimate_one(&mut self, view: &View<'_>) -> Result<Pose, Error> {
        let poses = self.estimate(std::slice::from_ref(view))?;
        let pose = poses.into_iter().next();
        pose.ok_or_else(|| mismatch(self.manifest(), "it gave no pose".to_owned()))
    }

    fn read(&self, outputs: &[OutputTensor], tensors: &[Tensor]) -> Result<Vec<Pose>, Error> {
        let input = self.manifest().input();
        let size = (input.width as f32, input.height as f32);
        let raw = match (&self.output, outputs) {
            (PoseOutput::Movenet(output), [points]) => {
                read_movenet(&output.name, size, points, tensors.len())
            }
            (PoseOutput::Heatmaps(output), [heatmaps, rest @ ..]) => {
                Maps::new(output, input, heatmaps, rest.first(), tensors.len())
                    .and_then(|maps| (0..tensors.len()).map(|at| maps.read(at)).collect())
            }
            _ => Err("it gave no output".to_owned()),
        };
        let raw = raw.map_err(|reason| mismatch(self.manifest(), reason))?;
        let poses = raw.into_iter().zip(tensors);
        Ok(poses
            .map(|(points, tensor)| in_photo(&points, tensor.geometry()))
            .collect())
    }
}

/// A point in input pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
struct RawPoint {
    x: f32,
    y: f32,
    score: f32,
}

fn in_photo(points: &[RawPoint; POINTS], geometry: &Geometry) -> Pose {
    Pose(std::array::from_fn(|at| {
        let RawPoint { x, y, score } = points[at];
        let (x, y) = geometry.point_to_photo(x, y);
        Keypoint {
            name: KEYPOINT_NAMES[at],
            x,
            y,
            score,
        }
    }))
}

/// `[N, 1, 17, 3]`, or without the axis of one person: y and x in shares of the input, and the score.
fn read_movenet(
    name: &str,
    (width, height): (f32, f32),
    tensor: &OutputTensor,
    count: usize,
) -> Result<Vec<[RawPoint; POINTS]>, String> {
    let values = floats(name, tensor)?;
    match *tensor.shape() {
        [photos, 1, POINTS, 3] | [photos, POINTS, 3] if photos >= count => {}
        _ => {
            let expected = format!("[{count}, 1, {POINTS}, 3]: y, x and score of each point");
            return Err(shape_error(name, tensor, count, &expected));
        }
    }
    let photo = |photo: ArrayViewD<'_, f32>| {
        let mut points = [RawPoint {
            x: 0.0,
            y: 0.0,
            score: 0.0,
        }; POINTS];
        for (point, value) in points.iter_mut().zip(photo.rows()) {
            finite(name, value.slice(s![..2]))?;
            *point = RawPoint {
                x: value[1] * width,
                y: value[0] * height,
                score: probability(name, value[2])?,
            };
        }
        Ok(points)
    };
    values.outer_iter().take(count).map(photo).collect()
}

/// Heat maps with or without offsets, of several photos: `[photos, channels, rows, columns]`.
struct Maps<'a> {
    output: &'a HeatmapsOutput,
    heat: ArrayView4<'a, f32>,
    offsets: Option<ArrayView4<'a, f32>>,
}

impl<'a> Maps<'a> {
    fn new(
        output: &'a HeatmapsOutput,
        input: &Input,
        heatmaps: &'a OutputTensor,
        offsets: Option<&'a OutputTensor>,
        count: usize,
    ) -> Result<Self, String> {
        let name = &output.names.heatmaps;
        let layout = input.layout;
        let axes = |channels| match layout {
            Layout::Nchw => format!("[{count}, {channels}, rows, columns]"),
            Layout::Nhwc => format!("[{count}, rows, columns, {channels}]"),
        };
        let heat = channels_first(floats(name, heatmaps)?, layout)
            .filter(|maps| maps.len_of(Axis(0)) >= count && maps.len_of(Axis(1)) == POINTS)
            .filter(|maps| !maps.is_empty())
            .ok_or_else(|| shape_error(name, heatmaps, count, &axes(POINTS)))?;
        let (_, _, rows, columns) = heat.dim();
        let fits = |cells: usize, side: u32| {
            let (side, stride) = (side as usize, (output.stride as usize).max(1));
            [side / stride, side.div_ceil(stride)].contains(&cells)
        };
        if !fits(rows, input.height) || !fits(columns, input.width) {
            return Err(format!(
                "output \"{name}\" has {rows} rows and {columns} columns, which an input of {} x {} pixels does not have at \
                 output.stride {}: {} would fit",
                input.width,
                input.height,
                output.stride,
                (f64::from(input.height) / rows as f64).round()
            ));
        }
        let offsets = offsets.zip(output.names.offsets.as_deref());
        let offsets = offsets.map(|(tensor, name)| {
            channels_first(floats(name, tensor)?, layout)
                .filter(|maps| maps.len_of(Axis(0)) >= count)
                .filter(|maps| maps.shape()[1..] == [2 * POINTS, rows, columns])
                .ok_or_else(|| {
                    let expected = format!(
                        "{} of {rows} rows and {columns} columns, as the heat maps have",
                        axes(2 * POINTS)
                    );
                    shape_error(name, tensor, count, &expected)
                })
        });
        Ok(Self {
            output,
            heat,
            offsets: offsets.transpose()?,
        })
    }

    fn read(&self, photo: usize) -> Result<[RawPoint; POINTS], String> {
        let name = &self.output.names.heatmaps;
        let stride = self.output.stride as f32;
        let mut points = [RawPoint {
            x: 0.0,
            y: 0.0,
            score: 0.0,
        }; POINTS];
        for (number, point) in points.iter_mut().enumerate() {
            let ([row, column], heat) = self.hottest(self.heat.slice(s![photo, number, .., ..]))?;
            let score = match self.output.activation {
                Activation::None | Activation::Softmax => heat.clamp(0.0, 1.0),
                Activation::Sigmoid => 1.0 / (1.0 + (-heat).exp()),
            };
            let [down, across] = match &self.offsets {
                Some(offsets) => {
                    let offset = |channel| offsets[[photo, channel, row, column]];
                    let found = [offset(number), offset(number + POINTS)];
                    let name = self.output.names.offsets.as_deref().unwrap_or(name);
                    finite(name, aview1(&found))?;
                    found
                }
                None => [stride / 2.0; 2],
            };
            *point = RawPoint {
                x: column as f32 * stride + across,
                y: row as f32 * stride + down,
                score,
            };
        }
        Ok(points)
    }

    /// The first cell with the most heat, by row and column, and the heat.
    fn hottest(&self, map: ArrayView2<'_, f32>) -> Result<([usize; 2], f32), String> {
        let name = &self.output.names.heatmaps;
        let is_heat = self.output.activation != Activation::Sigmoid;
        let mut most = ([0, 0], f32::NEG_INFINITY);
        for ((row, column), &heat) in map.indexed_iter() {
            if !heat.is_finite() {
                return Err(format!("output \"{name}\" has {heat} where heat should be"));
            }
            if is_heat && !HEAT.contains(&heat) {
                return Err(format!(
                    "output \"{name}\" has heat of {heat}; expected 0 to 1 (apply the sigmoid in the export, or set \
                     output.activation to sigmoid)"
                ));
            }
            if heat > most.1 {
                most = ([row, column], heat);
            }
        }
        Ok(most)
    }
}

/// Maps as `[photos, channels, rows, columns]`, whatever their layout.
fn channels_first(maps: ArrayViewD<'_, f32>, layout: Layout) -> Option<ArrayView4<'_, f32>> {
    let maps = maps.into_dimensionality::<Ix4>().ok()?;
    Some(match layout {
        Layout::Nchw => maps,
        Layout::Nhwc => maps.permuted_axes([0, 3, 1, 2]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pose(seen: &[&str], score: f32) -> Pose {
        Pose(KEYPOINT_NAMES.map(|name| Keypoint {
            name,
            x: 1.0,
            y: 1.0,
            score: if seen.contains(&name) { score } else { 0.1 },
        }))
    }

    #[test]
    fn a_full_front_view_shows_nose_eye_hip_and_ankle() {
        let whole = ["nose", "right_eye", "left_hip", "right_ankle"];
        assert!(pose(&whole, 0.51).is_full_front());
        assert!(!pose(&whole, 0.5).is_full_front(), "above 0.5, not at it");
        assert!(pose(&KEYPOINT_NAMES, 0.9).is_full_front());
        for left_out in whole {
            let seen: Vec<&str> = whole.into_iter().filter(|name| *name != left_out).collect();
            assert!(!pose(&seen, 0.9).is_full_front(), "without {left_out}");
        }
        let others: Vec<&str> = KEYPOINT_NAMES
            .into_iter()
            .filter(|name| !name.ends_with("ankle"))
            .collect();
        assert!(!pose(&others, 0.9).is_full_front());
    }
}
