//! The arithmetic of every bound: of lists, of sign codes, of rows; and the slack that a row would have needed.

use lookbook_vecmath::kernel::codes::BoundTerms;

use super::{Query, Shape, Trust};
use crate::catalogue::Catalogue;
use crate::options::Metric;
use crate::page::refinement::factors;
use crate::rounding::{U, down, sum_error};
use crate::space::Space;

/// Standard deviations taken off the sign-code bound of a *centroid*: there are few lists, and a missed one
/// costs many rows.
const CENTROID_SLACK: f32 = 3.0;

/// A list as a query sees it: *v* of its centroid, and how far that can be off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Centre {
    pub v: f32,
    pub doubt: f32,
    pub shape: Shape,
}

impl Query {
    /// Terms for the sign codes of the directory, whose centroid is the frame itself: bounds of the *v* of
    /// centroids.
    pub fn directory_terms(&self) -> BoundTerms {
        let base = match self.metric {
            Metric::InnerProduct => 0.0,
            Metric::L2 | Metric::Cosine => self.length * self.length,
        };
        self.terms(
            base,
            self.length,
            CENTROID_SLACK,
            self.length * self.length * 1e-4,
        )
    }

    /// Terms for the sign codes of a list.
    pub fn list_terms(&self, centre: &Centre) -> BoundTerms {
        let Centre { v, doubt, shape } = centre;
        let (slack, v, doubt) = match self.trust {
            Trust::Slack(slack) => (slack.code, *v, 0.0),
            Trust::Certain => (0.0, v - doubt, *doubt),
        };
        let spread = self.spread(v + 2.0 * doubt);
        // Every rounding of the bound, and a row that is not where its code was taken.
        let (far, about) = (spread + shape.radius, self.length + spread + shape.radius);
        let relative = 4e-6 + (self.point.len() as f32).sqrt() * 1e-7;
        let margin = 2.0 * far * shape.slop + 2.0 * (far + about) * about * relative;
        self.terms(v, spread, slack, margin)
    }

    fn terms(&self, base: f32, spread: f32, slack: f32, margin: f32) -> BoundTerms {
        let root = ((self.point.len() - 1) as f32).sqrt();
        let certain = self.is_certain();
        let base = if certain { base - margin } else { base };
        BoundTerms {
            constant_weight: if self.metric == Metric::InnerProduct {
                0.0
            } else {
                1.0
            },
            // ∞ − ∞ and ∞·0 come of a boundless row in the list: then nothing is ruled out.
            base: if base.is_nan() {
                f32::NEG_INFINITY
            } else {
                base
            },
            gain: self.tables.gain,
            offset: if certain {
                self.tables.offset + self.tables.error
            } else {
                self.tables.offset
            },
            // Never 0: a boundless row has an infinite radius, and 0·∞ would make it a dead one.
            spread: if certain {
                spread * 1.0001
            } else {
                spread * (slack / root).min(1.0)
            }
            .max(f32::MIN_POSITIVE),
        }
    }

    /// The length that errors of a list's sign codes are multiplied by.
    fn spread(&self, centroid: f32) -> f32 {
        match self.metric {
            Metric::InnerProduct => self.length,
            Metric::L2 | Metric::Cosine => centroid.max(0.0).sqrt(),
        }
    }

    /// *v* of every centroid.
    pub fn measure_lists(&self, space: &Space, catalogue: &Catalogue) -> Vec<f32> {
        let squared = self.length * self.length;
        match self.metric {
            Metric::InnerProduct => catalogue.measure(space, &self.coarse, |along, _| -2.0 * along),
            Metric::L2 | Metric::Cosine => catalogue.measure(space, &self.coarse, |along, norm| {
                squared + norm - 2.0 * along
            }),
        }
    }

    /// A list of the catalogue whose centroid has this *v*.
    pub fn centre(&self, catalogue: &Catalogue, list: usize, v: f32) -> Centre {
        Centre {
            v,
            doubt: 2.0 * catalogue.doubt(list, &self.coarse, self.length),
            shape: catalogue.lists[list].shape,
        }
    }

    /// The keys of lists whose centroids have these *v*; never NaN.
    pub fn list_keys(&self, catalogue: &Catalogue, vs: &[f32]) -> Vec<f32> {
        let slack = match self.trust {
            Trust::Slack(slack) => slack.list,
            Trust::Certain => {
                let lists = vs.iter().take(catalogue.lists.len()).enumerate();
                return lists
                    .map(|(list, &v)| self.certain_key(&self.centre(catalogue, list, v)))
                    .collect();
            }
        };
        let lists = vs.iter().zip(&catalogue.typical);
        let mut keys: Vec<f32> = match self.metric {
            Metric::InnerProduct => {
                let length = 2.0 * slack * self.length;
                lists
                    .map(|(v, reach)| or_first(v - length * reach))
                    .collect()
            }
            // A row at `reach` from the centroid in a direction with cosine `slack` to the query; the smallest over
            // all distances that are at least the centroid's.
            Metric::L2 | Metric::Cosine => lists
                .map(|(v, reach)| {
                    let distance = v.max(0.0).sqrt().max(slack * reach);
                    (distance * distance + reach * reach - 2.0 * slack * distance * reach).max(0.0)
                })
                .collect(),
        };
        keys.truncate(catalogue.lists.len());
        keys
    }

    /// Below the *v* of every row of the list.
    fn certain_key(&self, centre: &Centre) -> f32 {
        let Centre { v, doubt, shape } = centre;
        let (v, reach) = (v - doubt, shape.radius * 1.0001);
        or_first(match self.metric {
            Metric::InnerProduct => {
                v - 2.0 * self.length * reach - self.length * (self.length + reach) * 1e-5
            }
            Metric::L2 | Metric::Cosine => {
                let distance = v.max(0.0).sqrt() * (1.0 - 1e-4);
                (distance - reach - self.length * 1e-5).max(0.0).powi(2)
            }
        })
    }

    /// The sum over dimensions `from..` of packed codes that [`Query::row`] takes.
    pub fn partial(&self, space: &Space, from: usize, packed: &[u8], bits: u32, step: f32) -> f32 {
        let dims = packed.len() / bits as usize * 8;
        let point = &self.point[from..from + dims];
        match self.metric {
            Metric::InnerProduct => space.kernels.dot(point, packed, bits),
            Metric::L2 | Metric::Cosine => {
                space.kernels.squared_distance(point, packed, bits, step)
            }
        }
    }

    /// Key and certain lower bound of the distance of a row, from its refinement record.
    pub fn row(&self, record: &[u8], bits: u32, sum: f32) -> (f32, f64) {
        let (step, error, _) = factors(record);
        let dims = self.point.len();
        let (step, error) = (f64::from(step), f64::from(error));
        // No element of ŷ is larger than half the range of the code.
        let row_length = step * f64::from((1u32 << bits) - 1) / 2.0 * (dims as f64).sqrt();
        let off = error + self.slop + 4.0 * U * (row_length + f64::from(self.length));
        let relative = sum_error(dims);
        let (key, bound) = match self.metric {
            Metric::InnerProduct => {
                let x_length = row_length + self.frame_length + error;
                let product = step * f64::from(sum);
                let off = self.true_length * error
                    + self.slop * x_length
                    + 2.0 * relative * self.true_length * x_length * 1.001;
                (
                    2.0 * (-product - off),
                    -product - self.along_frame - off - 1e-30,
                )
            }
            Metric::L2 | Metric::Cosine => {
                let distance = (f64::from(sum).max(0.0).sqrt() * (1.0 - relative) - off).max(0.0);
                let bound = if self.metric == Metric::Cosine {
                    // `1 − cos` is formed by the operator from three sums: an absolute error.
                    distance * distance / 2.0 - 4.0 * relative
                } else {
                    // The operator's squares vanish below 10⁻³⁸.
                    (distance * (1.0 - relative) - 1e-18).max(0.0)
                };
                (distance * distance, bound)
            }
        };
        if bound.is_finite() {
            (down(key), bound)
        } else {
            (f32::NEG_INFINITY, self.least())
        }
    }

    /// What every distance is at least.
    pub fn least(&self) -> f64 {
        match self.metric {
            Metric::L2 => 0.0,
            // The operator may come out a little below 0.
            Metric::Cosine => -4.0 * sum_error(self.point.len()),
            Metric::InnerProduct => f64::NEG_INFINITY,
        }
    }

    /// The least slack at which a list's key is not above `v`.
    pub fn list_slack(&self, centre: &Centre, v: f32) -> f32 {
        let (centroid, reach) = (centre.v, centre.shape.typical);
        let slack = match self.metric {
            Metric::InnerProduct => (centroid - v) / (2.0 * self.length * reach),
            Metric::L2 | Metric::Cosine => {
                let distance = centroid.max(0.0).sqrt();
                let slack = (distance * distance + reach * reach - v) / (2.0 * distance * reach);
                if slack * reach > distance {
                    (1.0 - v / (reach * reach)).max(0.0).sqrt()
                } else {
                    slack
                }
            }
        };
        if slack.is_nan() {
            0.0
        } else {
            slack.clamp(-1.0, 1.0)
        }
    }

    /// `⟨p, b⟩` for the signs of a code.
    pub fn sign_product(&self, code: &[u8]) -> f32 {
        let signed = |(i, &p): (usize, &f32)| {
            if code[i / 8] >> (i % 8) & 1 == 1 {
                p
            } else {
                -p
            }
        };
        self.point.iter().enumerate().map(signed).sum()
    }

    /// The least slack at which the bound of a sign code (constant, factor, radius) is not above `v`.
    pub fn code_slack(
        &self,
        centroid: f32,
        [constant, factor, radius]: [f32; 3],
        product: f32,
        v: f32,
    ) -> f32 {
        let weight = if self.metric == Metric::InnerProduct {
            0.0
        } else {
            1.0
        };
        let estimate = constant * weight + centroid - factor * product;
        let deviation = radius * self.spread(centroid) / ((self.point.len() - 1) as f32).sqrt();
        let slack = (estimate - v) / deviation;
        if slack.is_nan() { 0.0 } else { slack.max(0.0) }
    }
}

/// What a damaged page says nothing about comes first.
fn or_first(key: f32) -> f32 {
    if key.is_nan() { f32::NEG_INFINITY } else { key }
}
