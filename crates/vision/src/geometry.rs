//! Boxes, and the mapping between a model's input and the photo.
//!
//! Every [`BoundingBox`] that leaves this crate is in pixels of the full-size, oriented photo, whatever
//! scale the photo was decoded at.

use crate::photo::Photo;

/// A share of the box's size added on each side before a garment is embedded.
pub const CROP_MARGIN: f32 = 0.05;

/// A rectangle in pixels of the full-size oriented photo; `x2` and `y2` are exclusive edges.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoundingBox {
    /// Left edge.
    pub x1: f32,
    /// Upper edge.
    pub y1: f32,
    /// Right edge.
    pub x2: f32,
    /// Lower edge.
    pub y2: f32,
}

impl BoundingBox {
    /// Width in pixels, never negative.
    pub fn width(&self) -> f32 {
        (self.x2 - self.x1).max(0.0)
    }

    /// Height in pixels, never negative.
    pub fn height(&self) -> f32 {
        (self.y2 - self.y1).max(0.0)
    }

    /// Area in square pixels.
    pub fn area(&self) -> f32 {
        self.width() * self.height()
    }

    /// Intersection over union; 0 when both are empty.
    pub fn iou(&self, other: &Self) -> f32 {
        let overlap = self.clipped_to(other).area();
        let union = self.area() + other.area() - overlap;
        if union > 0.0 { overlap / union } else { 0.0 }
    }

    /// The part inside `bounds`; empty (zero width or height) when they do not meet.
    pub fn clipped_to(&self, bounds: &Self) -> Self {
        let x1 = self.x1.clamp(bounds.x1, bounds.x2);
        let y1 = self.y1.clamp(bounds.y1, bounds.y2);
        Self {
            x1,
            y1,
            x2: self.x2.clamp(x1, bounds.x2),
            y2: self.y2.clamp(y1, bounds.y2),
        }
    }

    /// The crop rule of garments: grown by [`CROP_MARGIN`] of its size on each side, clipped to the
    /// photo and rounded outward, so at least one pixel each way.
    pub fn with_margin(&self, photo: &Photo) -> Self {
        let (dx, dy) = (self.width() * CROP_MARGIN, self.height() * CROP_MARGIN);
        Self {
            x1: self.x1 - dx,
            y1: self.y1 - dy,
            x2: self.x2 + dx,
            y2: self.y2 + dy,
        }
        .rounded_outward(photo.width(), photo.height())
    }

    /// Whole pixels that cover the box, inside a photo of `width` by `height`, never empty.
    pub fn rounded_outward(&self, width: u32, height: u32) -> Self {
        let (x1, x2) = outward(self.x1, self.x2, width);
        let (y1, y2) = outward(self.y1, self.y2, height);
        Self { x1, y1, x2, y2 }
    }
}

fn outward(low: f32, high: f32, size: u32) -> (f32, f32) {
    let size = size as f32;
    let low = finite_or(low, 0.0).floor().clamp(0.0, size - 1.0);
    let high = finite_or(high, size).ceil().clamp(low + 1.0, size);
    (low, high)
}

fn finite_or(value: f32, otherwise: f32) -> f32 {
    if value.is_nan() { otherwise } else { value }
}

/// How one input pixel maps to the photo: `photo = (input − offset) / scale + origin`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Geometry {
    /// The rectangle of the photo that was prepared; boxes are clipped to it.
    pub view: BoundingBox,
    /// Input pixels per photo pixel, across and down.
    pub scale: (f64, f64),
    /// Where the view's upper left corner lies in the input (positive: padding, negative: cut off).
    pub offset: (f64, f64),
}

impl Geometry {
    /// A box in input pixels as a box of the photo, clipped to the view.
    pub fn to_photo(&self, input: BoundingBox) -> BoundingBox {
        let (x1, y1) = self.mapped(input.x1, input.y1);
        let (x2, y2) = self.mapped(input.x2, input.y2);
        BoundingBox { x1, y1, x2, y2 }.clipped_to(&self.view)
    }

    /// A point in input pixels as a point of the photo, moved into the view.
    pub fn point_to_photo(&self, x: f32, y: f32) -> (f32, f32) {
        let (x, y) = self.mapped(x, y);
        let view = &self.view;
        (x.clamp(view.x1, view.x2), y.clamp(view.y1, view.y2))
    }

    fn mapped(&self, x: f32, y: f32) -> (f32, f32) {
        let back = |value: f32, offset: f64, scale: f64, origin: f32| {
            ((f64::from(value) - offset) / scale + f64::from(origin)) as f32
        };
        (
            back(x, self.offset.0, self.scale.0, self.view.x1),
            back(y, self.offset.1, self.scale.1, self.view.y1),
        )
    }
}
