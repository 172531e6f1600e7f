//! Two drawn pictures to try a model on, the same on every machine.
//!
//! Owns the drawing: a person in a red shirt, blue trousers and dark shoes before a light wall, and a green dress
//! with white stripes on a dark ground. Knows nothing of models.

use image::{Rgb, RgbImage};

const WIDTH: u32 = 384;
const HEIGHT: u32 = 512;
const SKIN: [u8; 3] = [222, 178, 150];

/// A filled outline; corners in pixels.
struct Shape {
    corners: &'static [(f32, f32)],
    colour: [u8; 3],
    /// Pixels from one light stripe to the next; 0: plain.
    stripes: u32,
}

const PERSON: [Shape; 10] = [
    // Hair, face, neck.
    plain(
        &[(160.0, 44.0), (224.0, 44.0), (232.0, 92.0), (152.0, 92.0)],
        [62, 42, 30],
    ),
    plain(
        &[(168.0, 62.0), (216.0, 62.0), (210.0, 108.0), (174.0, 108.0)],
        SKIN,
    ),
    plain(
        &[
            (182.0, 106.0),
            (202.0, 106.0),
            (204.0, 126.0),
            (180.0, 126.0),
        ],
        SKIN,
    ),
    // Hands.
    plain(
        &[
            (102.0, 262.0),
            (122.0, 262.0),
            (120.0, 284.0),
            (104.0, 284.0),
        ],
        SKIN,
    ),
    plain(
        &[
            (262.0, 262.0),
            (282.0, 262.0),
            (280.0, 284.0),
            (264.0, 284.0),
        ],
        SKIN,
    ),
    // Trousers, with the gap between the legs left out.
    plain(
        &[
            (140.0, 258.0),
            (244.0, 258.0),
            (250.0, 452.0),
            (204.0, 452.0),
            (192.0, 312.0),
            (180.0, 452.0),
            (134.0, 452.0),
        ],
        [44, 66, 120],
    ),
    // Shoes.
    plain(
        &[
            (126.0, 450.0),
            (182.0, 450.0),
            (182.0, 474.0),
            (118.0, 474.0),
        ],
        [34, 30, 32],
    ),
    plain(
        &[
            (202.0, 450.0),
            (258.0, 450.0),
            (266.0, 474.0),
            (202.0, 474.0),
        ],
        [34, 30, 32],
    ),
    // Shirt with sleeves, and its collar.
    plain(
        &[
            (150.0, 122.0),
            (234.0, 122.0),
            (268.0, 150.0),
            (286.0, 262.0),
            (258.0, 266.0),
            (246.0, 190.0),
            (248.0, 270.0),
            (136.0, 270.0),
            (138.0, 190.0),
            (126.0, 266.0),
            (98.0, 262.0),
            (116.0, 150.0),
        ],
        [188, 44, 48],
    ),
    plain(&[(172.0, 122.0), (212.0, 122.0), (192.0, 146.0)], SKIN),
];

const DRESS: [Shape; 2] = [
    Shape {
        corners: &[
            (132.0, 70.0),
            (160.0, 60.0),
            (192.0, 84.0),
            (224.0, 60.0),
            (252.0, 70.0),
            (284.0, 130.0),
            (252.0, 146.0),
            (244.0, 220.0),
            (312.0, 450.0),
            (72.0, 450.0),
            (140.0, 220.0),
            (132.0, 146.0),
            (100.0, 130.0),
        ],
        colour: [34, 130, 84],
        stripes: 24,
    },
    plain(
        &[
            (140.0, 214.0),
            (244.0, 214.0),
            (246.0, 230.0),
            (138.0, 230.0),
        ],
        [20, 20, 20],
    ),
];

const fn plain(corners: &'static [(f32, f32)], colour: [u8; 3]) -> Shape {
    Shape {
        corners,
        colour,
        stripes: 0,
    }
}

impl Shape {
    /// Whether the point lies inside: an odd number of edges to its right.
    fn covers(&self, x: f32, y: f32) -> bool {
        let ends = self.corners.iter().cycle().skip(1);
        let crossed = self
            .corners
            .iter()
            .zip(ends)
            .filter(|((x1, y1), (x2, y2))| {
                (*y1 > y) != (*y2 > y) && x < (x2 - x1) * (y - y1) / (y2 - y1) + x1
            });
        crossed.count() % 2 == 1
    }

    fn paint(&self, picture: &mut RgbImage) {
        for (x, y, pixel) in picture.enumerate_pixels_mut() {
            if !self.covers(x as f32 + 0.5, y as f32 + 0.5) {
                continue;
            }
            let is_light = self.stripes > 0 && y % self.stripes < self.stripes / 4;
            // A fold every 17 columns, so that cloth is not one flat colour.
            let shade = 6 * (x % 17 / 4) as u8;
            *pixel = match is_light {
                true => Rgb([240; 3]),
                false => Rgb(self.colour.map(|value| value.saturating_add(shade))),
            };
        }
    }
}

/// The person.
pub(crate) fn person() -> RgbImage {
    draw(&PERSON, |_, y| {
        let wall = 226 - (y / 40) as u8;
        if y < 440 {
            [wall, wall, wall - 6]
        } else {
            [168, 150, 128]
        }
    })
}

/// The dress.
pub(crate) fn dress() -> RgbImage {
    draw(&DRESS, |x, y| {
        [36 + (x / 24) as u8, 38 + (y / 32) as u8, 52]
    })
}

fn draw(shapes: &[Shape], ground: impl Fn(u32, u32) -> [u8; 3]) -> RgbImage {
    let mut picture = RgbImage::from_fn(WIDTH, HEIGHT, |x, y| Rgb(ground(x, y)));
    for shape in shapes {
        shape.paint(&mut picture);
    }
    picture
}
