//! A decoded photo and rectangles of it.
//!
//! Owns the relation between the full-size photo, in whose pixels all boxes are, and the pixels at
//! hand, which a JPEG may have decoded at a reduced scale. Knows nothing of file formats.

use image::RgbImage;

use crate::geometry::BoundingBox;

/// RGB pixels of an upright photo, maybe at reduced scale.
#[derive(Clone, PartialEq)]
pub struct Photo {
    pixels: RgbImage,
    width: u32,
    height: u32,
}

impl std::fmt::Debug for Photo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Photo")
            .field("width", &self.width)
            .field("height", &self.height)
            .field("decoded", &self.pixels.dimensions())
            .finish()
    }
}

impl Photo {
    /// A photo whose pixels are all at hand.
    pub fn from_pixels(pixels: RgbImage) -> Self {
        let (width, height) = pixels.dimensions();
        Self {
            pixels,
            width,
            height,
        }
    }

    /// A photo of `width` by `height` of which `pixels` is a reduced copy.
    pub(crate) fn reduced(pixels: RgbImage, width: u32, height: u32) -> Self {
        Self {
            pixels,
            width,
            height,
        }
    }

    /// Full-size width in pixels, after orientation.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Full-size height in pixels, after orientation.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The pixels at hand: as many as the full size has, or fewer.
    pub fn pixels(&self) -> &RgbImage {
        &self.pixels
    }

    /// The rectangle of the whole photo.
    pub fn bounds(&self) -> BoundingBox {
        BoundingBox {
            x1: 0.0,
            y1: 0.0,
            x2: self.width as f32,
            y2: self.height as f32,
        }
    }

    /// All of it.
    pub fn whole(&self) -> View<'_> {
        View {
            photo: self,
            bounds: self.bounds(),
        }
    }

    /// The whole pixels that cover `bbox` (full-size pixels), clipped to the photo, never empty.
    pub fn crop(&self, bbox: BoundingBox) -> View<'_> {
        View {
            photo: self,
            bounds: bbox.rounded_outward(self.width, self.height),
        }
    }
}

/// A rectangle of a photo: the unit that models look at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View<'a> {
    photo: &'a Photo,
    bounds: BoundingBox,
}

impl<'a> View<'a> {
    /// The photo it is a part of.
    pub fn photo(&self) -> &'a Photo {
        self.photo
    }

    /// The rectangle in full-size pixels: whole numbers, inside the photo, not empty.
    pub fn bounds(&self) -> BoundingBox {
        self.bounds
    }

    /// Left, top, width and height in the pixels at hand; fractions when they are reduced.
    pub(crate) fn decoded_box(&self) -> [f64; 4] {
        let (columns, rows) = self.photo.pixels.dimensions();
        let x = f64::from(columns) / f64::from(self.photo.width);
        let y = f64::from(rows) / f64::from(self.photo.height);
        let bounds = self.bounds;
        [
            f64::from(bounds.x1) * x,
            f64::from(bounds.y1) * y,
            f64::from(bounds.width()) * x,
            f64::from(bounds.height()) * y,
        ]
    }
}
