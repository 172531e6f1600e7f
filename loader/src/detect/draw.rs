//! Drawing boxes and labels into a picture: lines, filled rectangles and an 8 × 8 bitmap font.
//!
//! Knows colours and pixels only. Invariant: whatever the box, nothing is drawn outside.

use font8x8::legacy::BASIC_LEGACY;
use image::{Rgb, RgbImage};

const GLYPH_SIDE: u32 = 8;
/// Picture pixels per line pixel and per font pixel.
const SIDE_PER_LINE: u32 = 300;
const SIDE_PER_FONT: u32 = 500;

/// A box in pixels of the picture, with what to write above it.
#[derive(Debug)]
pub struct Labelled {
    pub left: f32,
    pub top: f32,
    pub right: f32,
    pub bottom: f32,
    pub text: String,
    pub colour: [u8; 3],
}

/// A colour per category that is told apart also by most colour-blind people (Okabe and Ito).
pub fn colour_of(category: &str) -> [u8; 3] {
    match category {
        "upper" => [230, 159, 0],
        "lower" => [86, 180, 233],
        "full_body" => [204, 121, 167],
        "footwear" => [0, 158, 115],
        "accessory" => [240, 228, 66],
        _ => [213, 94, 0],
    }
}

/// Draws the boxes, then the labels on top of them.
pub fn draw(picture: &mut RgbImage, boxes: &[Labelled]) {
    let side = picture.width().max(picture.height());
    let thickness = (side / SIDE_PER_LINE).max(2);
    for labelled in boxes {
        outline(picture, labelled, thickness);
    }
    for labelled in boxes {
        label(picture, labelled, (side / SIDE_PER_FONT).max(1));
    }
}

fn outline(picture: &mut RgbImage, labelled: &Labelled, thickness: u32) {
    let colour = Rgb(labelled.colour);
    let (left, right) = (
        pixel(labelled.left, picture.width()),
        pixel(labelled.right, picture.width()),
    );
    let (top, bottom) = (
        pixel(labelled.top, picture.height()),
        pixel(labelled.bottom, picture.height()),
    );
    let (width, height) = (right.saturating_sub(left), bottom.saturating_sub(top));
    fill(picture, (left, top), (width, thickness), colour);
    fill(
        picture,
        (left, bottom.saturating_sub(thickness)),
        (width, thickness),
        colour,
    );
    fill(picture, (left, top), (thickness, height), colour);
    fill(
        picture,
        (right.saturating_sub(thickness), top),
        (thickness, height),
        colour,
    );
}

fn label(picture: &mut RgbImage, labelled: &Labelled, scale: u32) {
    let letters = labelled.text.chars().count() as u32;
    let (width, height) = ((letters * GLYPH_SIDE + 2) * scale, (GLYPH_SIDE + 2) * scale);
    // Above the box, so that it hides nothing of what is in there; inside of the picture wherever the box is.
    let left = pixel(labelled.left, picture.width().saturating_sub(width));
    let top = pixel(labelled.top, picture.height()).saturating_sub(height);
    fill(picture, (left, top), (width, height), Rgb(labelled.colour));
    let [red, green, blue] = labelled.colour.map(u32::from);
    let is_light = 299 * red + 587 * green + 114 * blue > 128_000;
    let ink = if is_light { Rgb([0; 3]) } else { Rgb([255; 3]) };
    for (at, letter) in labelled.text.chars().enumerate() {
        let glyph = BASIC_LEGACY[if letter.is_ascii() {
            letter as usize
        } else {
            '?' as usize
        }];
        let corner = (left + scale * (1 + at as u32 * GLYPH_SIDE), top + scale);
        for (row, bits) in (0..).zip(glyph) {
            for column in (0..GLYPH_SIDE).filter(|column| bits >> column & 1 == 1) {
                let place = (corner.0 + column * scale, corner.1 + row * scale);
                fill(picture, place, (scale, scale), ink);
            }
        }
    }
}

fn fill(
    picture: &mut RgbImage,
    (left, top): (u32, u32),
    (width, height): (u32, u32),
    colour: Rgb<u8>,
) {
    let right = left.saturating_add(width).min(picture.width());
    let bottom = top.saturating_add(height).min(picture.height());
    for y in top..bottom {
        for x in left..right {
            picture.put_pixel(x, y, colour);
        }
    }
}

/// From 0 to `limit`; NaN becomes 0.
fn pixel(coordinate: f32, limit: u32) -> u32 {
    (coordinate.round() as u32).min(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(left: f32, top: f32, right: f32, bottom: f32, text: &str) -> Labelled {
        Labelled {
            left,
            top,
            right,
            bottom,
            text: text.to_owned(),
            colour: colour_of("lower"),
        }
    }

    #[test]
    fn a_box_is_drawn_on_its_edges_and_not_inside() {
        let mut picture = RgbImage::new(100, 80);
        draw(&mut picture, &[labelled(10.0, 20.0, 90.0, 70.0, "")]);
        let colour = Rgb(colour_of("lower"));
        for edge in [(10, 45), (89, 45), (50, 20), (50, 69)] {
            assert_eq!(picture.get_pixel(edge.0, edge.1), &colour, "{edge:?}");
        }
        for outside in [(9, 45), (90, 45), (50, 45), (50, 70)] {
            assert_eq!(
                picture.get_pixel(outside.0, outside.1),
                &Rgb([0; 3]),
                "{outside:?}"
            );
        }
    }

    #[test]
    fn a_label_is_above_its_box_and_inside_of_the_picture() {
        let colour = Rgb(colour_of("lower"));
        let is_label = |picture: &RgbImage, x, y| picture.get_pixel(x, y) == &colour;
        let mut picture = RgbImage::new(100, 80);
        draw(
            &mut picture,
            &[labelled(40.0, 30.0, 99.0, 70.0, "headwear")],
        );
        // As wide as eight letters and a pixel on both sides: it ends where the picture does.
        assert!(is_label(&picture, 34, 20) && is_label(&picture, 99, 20));
        assert!(!is_label(&picture, 33, 20) && !is_label(&picture, 60, 35));
        let mut picture = RgbImage::new(100, 80);
        draw(&mut picture, &[labelled(0.0, 4.0, 99.0, 70.0, "hat")]);
        assert!(is_label(&picture, 0, 0));
    }

    #[test]
    fn nothing_is_drawn_outside_whatever_the_box() {
        for size in [1, 7, 300] {
            let mut picture = RgbImage::new(size, 3);
            let far = f32::MAX;
            draw(
                &mut picture,
                &[
                    labelled(-far, -far, far, far, "upper 0.99 ünïcode"),
                    labelled(f32::NAN, 2.0, 1.0, -1.0, "x"),
                    labelled(far, far, far, far, "far away"),
                ],
            );
        }
    }
}
