//! From a view of a photo to the model's input, as the manifest says.
//!
//! Owns fitting, resampling, channel order and normalising, once for all kinds of models. Knows
//! nothing of ONNX Runtime. Resampling is `fast_image_resize`, whose convolution follows Pillow's
//! (antialiased on reduction, 8-bit fixed point); `tests/golden` holds Pillow's own results.
//! The pixels around a view never bleed into it: a view is resampled as if it were cut out first.

use std::sync::Arc;

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ImageView, ResizeAlg, ResizeOptions, Resizer};
use half::f16;

use crate::geometry::Geometry;
use crate::manifest::Manifest;
use crate::manifest_parts::{Colour, Dtype, Filter, Input, Layout, Resize};
use crate::photo::View;

/// Turns views into input tensors; cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct Preprocessor {
    input: Arc<Input>,
    /// Value of each byte, per output channel.
    tables: Arc<[[f32; 256]; 3]>,
}

/// One photo's input values without the batch axis, and where they came from.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub(crate) data: TensorData,
    pub(crate) geometry: Geometry,
}

#[derive(Debug, Clone)]
pub(crate) enum TensorData {
    F32(Vec<f32>),
    F16(Vec<f16>),
    U8(Vec<u8>),
    I32(Vec<i32>),
}

impl Tensor {
    /// The values as f32, in the layout of the manifest.
    pub fn to_f32(&self) -> Vec<f32> {
        match &self.data {
            TensorData::F32(values) => values.clone(),
            TensorData::F16(values) => values.iter().map(|half| half.to_f32()).collect(),
            TensorData::U8(values) => values.iter().map(|&byte| byte.into()).collect(),
            TensorData::I32(values) => values.iter().map(|&value| value as f32).collect(),
        }
    }

    /// How input pixels map to the photo.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }
}

impl Preprocessor {
    /// What the manifest's input asks for.
    pub fn new(manifest: &Manifest) -> Self {
        let input = manifest.input();
        let scale = input.scale.unwrap_or(1.0 / 255.0);
        let mean = input.mean.unwrap_or([0.0; 3]);
        let std = input.std.unwrap_or([1.0; 3]);
        let mut tables = [[0.0; 256]; 3];
        for (channel, table) in tables.iter_mut().enumerate() {
            for (pixel, value) in table.iter_mut().enumerate() {
                *value = ((pixel as f64 * scale - mean[channel]) / std[channel]) as f32;
            }
        }
        Self {
            input: Arc::new(input.clone()),
            tables: Arc::new(tables),
        }
    }

    /// What black and white become, in the first channel of the output.
    pub(crate) fn extremes(&self) -> [f32; 2] {
        [self.tables[0][0], self.tables[0][255]]
    }

    /// Fits, resamples and normalises one view.
    pub fn prepare(&self, view: &View<'_>) -> Tensor {
        let fit = Fit::new(&self.input, view);
        let canvas = self.draw(view, &fit);
        let data = match self.input.dtype {
            Dtype::F32 => TensorData::F32(self.arrange(&canvas, &self.tables)),
            Dtype::F16 => {
                let halves = self.tables.map(|table| table.map(f16::from_f32));
                TensorData::F16(self.arrange(&canvas, &halves))
            }
            Dtype::U8 => TensorData::U8(self.arrange(&canvas, &bytes(|byte| byte))),
            Dtype::I32 => TensorData::I32(self.arrange(&canvas, &bytes(i32::from))),
        };
        Tensor {
            data,
            geometry: fit.geometry,
        }
    }

    /// The input picture in RGB: the resampled view, surrounded by the fill of a letterbox.
    fn draw(&self, view: &View<'_>, fit: &Fit) -> Vec<U8x3> {
        let resized = resample(view, fit, self.input.filter);
        let (width, height) = (self.input.width as usize, self.input.height as usize);
        let (inner_width, inner_height) = (fit.size.0 as usize, fit.size.1 as usize);
        if (inner_width, inner_height) == (width, height) {
            return resized;
        }
        let mut pad = self.input.pad.unwrap_or([0; 3]);
        if self.input.colour == Colour::Bgr {
            pad.reverse();
        }
        let mut canvas = vec![U8x3::new(pad); width * height];
        let (left, top) = (fit.place.0 as usize, fit.place.1 as usize);
        for row in 0..inner_height {
            let at = (top + row) * width + left;
            canvas[at..at + inner_width]
                .copy_from_slice(&resized[row * inner_width..(row + 1) * inner_width]);
        }
        canvas
    }

    /// The values that `tables` has for the bytes of each output channel, in the layout of the input.
    fn arrange<T: Copy>(&self, canvas: &[U8x3], tables: &[[T; 256]; 3]) -> Vec<T> {
        let source = match self.input.colour {
            Colour::Rgb => [0, 1, 2],
            Colour::Bgr => [2, 1, 0],
        };
        let mut all = Vec::with_capacity(3 * canvas.len());
        match self.input.layout {
            Layout::Nchw => {
                for (table, from) in tables.iter().zip(source) {
                    all.extend(canvas.iter().map(|pixel| table[usize::from(pixel.0[from])]));
                }
            }
            Layout::Nhwc => {
                for pixel in canvas {
                    all.extend([0, 1, 2].map(|c| tables[c][usize::from(pixel.0[source[c]])]));
                }
            }
        }
        all
    }
}

/// The same value of each byte for every channel.
fn bytes<T: Copy>(value: impl Fn(u8) -> T) -> [[T; 256]; 3] {
    [std::array::from_fn(|byte| value(byte as u8)); 3]
}

/// Which part of the view goes where on the input.
struct Fit {
    /// Size in input pixels of the resampled picture.
    size: (u32, u32),
    /// Where it lies on the input.
    place: (u32, u32),
    /// The part of the view that is resampled, in shares of its size: left, top, width, height.
    source: [f64; 4],
    geometry: Geometry,
}

impl Fit {
    fn new(input: &Input, view: &View<'_>) -> Self {
        let (width, height) = (f64::from(input.width), f64::from(input.height));
        let bounds = view.bounds();
        let (w, h) = (f64::from(bounds.width()), f64::from(bounds.height()));
        let full = [0.0, 0.0, 1.0, 1.0];
        let whole = (input.width, input.height);
        let geometry = |scaled: (f64, f64), offset| Geometry {
            view: bounds,
            scale: (scaled.0 / w, scaled.1 / h),
            offset,
        };
        match input.resize {
            Resize::Stretch => Self {
                size: whole,
                place: (0, 0),
                source: full,
                geometry: geometry((width, height), (0.0, 0.0)),
            },
            Resize::Letterbox => {
                let ratio = (width / w).min(height / h);
                let size = (
                    ((w * ratio).round() as u32).clamp(1, input.width),
                    ((h * ratio).round() as u32).clamp(1, input.height),
                );
                let place = ((input.width - size.0) / 2, (input.height - size.1) / 2);
                let scaled = (f64::from(size.0), f64::from(size.1));
                let offset = (f64::from(place.0), f64::from(place.1));
                Self {
                    size,
                    place,
                    source: full,
                    geometry: geometry(scaled, offset),
                }
            }
            Resize::Crop => {
                let scaled = covering((w, h), covered(input));
                // The middle's lower half pixel, as Hugging Face's processors take it.
                let cut = (
                    ((scaled.0 - width) / 2.0).floor(),
                    ((scaled.1 - height) / 2.0).floor(),
                );
                let source = [
                    cut.0 / scaled.0,
                    cut.1 / scaled.1,
                    width / scaled.0,
                    height / scaled.1,
                ];
                Self {
                    size: whole,
                    place: (0, 0),
                    source,
                    geometry: geometry(scaled, (-cut.0, -cut.1)),
                }
            }
        }
    }
}

/// Width and height in pixels that a view covers before the input is cut out of it. A side is rounded down as timm
/// does (224 of 0.9 is 248); torchvision's and Hugging Face's 256 is 224 of 0.875.
pub(crate) fn covered(input: &Input) -> (u32, u32) {
    let share = input.crop_share.unwrap_or(1.0);
    let side = |side: u32| (f64::from(side) / share + WRITTEN_SHARE).floor() as u32;
    (side(input.width), side(input.height))
}

/// How far below a whole pixel a side may end: the share of 232 of 240 pixels is written 0.966667.
const WRITTEN_SHARE: f64 = 0.01;

/// Width and height of a view of `(w, h)` that covers a rectangle: the one side that decides is met, the other is cut
/// off to whole pixels, as Hugging Face and torchvision do.
fn covering((w, h): (f64, f64), (width, height): (u32, u32)) -> (f64, f64) {
    let (width, height) = (f64::from(width), f64::from(height));
    if width * h >= height * w {
        (width, (h * width / w).floor().max(height))
    } else {
        ((w * height / h).floor().max(width), height)
    }
}

fn resample(view: &View<'_>, fit: &Fit, filter: Filter) -> Vec<U8x3> {
    let pixels = view.photo().pixels();
    // Cut out the whole pixels that the view touches; a view of a photo decoded at reduced scale
    // may begin and end within a pixel, which the resampler's own box expresses.
    let [left, top, width, height] = view.decoded_box();
    let (x, y) = (left.floor(), top.floor());
    let columns = ((left + width).ceil().min(f64::from(pixels.width())) - x).max(1.0);
    let rows = ((top + height).ceil().min(f64::from(pixels.height())) - y).max(1.0);
    let source_left = (left - x) + fit.source[0] * width;
    let source_top = (top - y) + fit.source[1] * height;
    let source_width = (fit.source[2] * width).min(columns - source_left);
    let source_height = (fit.source[3] * height).min(rows - source_top);

    let image =
        TypedImageRef::<U8x3>::from_buffer(pixels.width(), pixels.height(), pixels.as_raw())
            .expect("an RgbImage holds width × height × 3 bytes");
    let cut = TypedCroppedImage::from_ref(&image, x as u32, y as u32, columns as u32, rows as u32)
        .expect("a view lies inside its photo");
    let (source_x, source_y) = ((source_left, source_width), (source_top, source_height));
    let (width, height) = fit.size;
    let algorithm = match filter {
        Filter::Nearest => return resized(&cut, fit.size, source_x, source_y, ResizeAlg::Nearest),
        Filter::Bilinear => FilterType::Bilinear,
        Filter::Bicubic => FilterType::CatmullRom,
        Filter::Lanczos3 => FilterType::Lanczos3,
    };
    let algorithm = ResizeAlg::Convolution(algorithm);
    // Rows, then columns: Pillow's order, and each pass rounds to bytes. The resampler alone would
    // take columns first, which differs by up to a dozen levels at hard edges.
    let rows_first = u64::from(width) * rows as u64 <= MOST_BETWEEN;
    let (first, box_of_first) = if rows_first {
        ((width, rows as u32), (source_x, (0.0, rows)))
    } else {
        ((columns as u32, height), ((0.0, columns), source_y))
    };
    let between = resized(&cut, first, box_of_first.0, box_of_first.1, algorithm);
    let between = TypedImageRef::new(first.0, first.1, &between)
        .expect("the first pass fills its whole image");
    let whole = |size: u32| (0.0, f64::from(size));
    let (source_x, source_y) = if rows_first {
        (whole(width), source_y)
    } else {
        (source_x, whole(height))
    };
    resized(&between, fit.size, source_x, source_y, algorithm)
}

/// Pixels between the two passes up to which rows go first. Beyond it (a strip of a few columns and
/// millions of rows) the order only serves to bound memory.
const MOST_BETWEEN: u64 = 1 << 24;

/// One call of the resampler; `x` and `y` are start and length of the source box.
fn resized(
    source: &impl ImageView<Pixel = U8x3>,
    size: (u32, u32),
    x: (f64, f64),
    y: (f64, f64),
    algorithm: ResizeAlg,
) -> Vec<U8x3> {
    let options = ResizeOptions::new()
        .resize_alg(algorithm)
        .use_alpha(false)
        .crop(x.0, y.0, x.1, y.1);
    let mut out = vec![U8x3::new([0; 3]); size.0 as usize * size.1 as usize];
    let mut image = TypedImage::from_pixels_slice(size.0, size.1, &mut out)
        .expect("the buffer has the size of the image");
    Resizer::new()
        .resize_typed(source, &mut image, &options)
        .expect("the source box lies inside the source");
    out
}
