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
/// The share of what rows of a list differ by that its *v* may typically be off by.
const BLUR: f32 = 1.0 / 32.0;

/// A list as a query sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Centre {
    /// *v* of its centroid, and how far that can be off.
    pub v: f32,
    pub doubt: f32,
    /// The squared distance of the plane in the middle between its centroid and the nearest one: how far the query
    /// would have to go to be in this list.
    pub plane: f32,
    pub shape: Shape,
}

/// The lists of a catalogue as a query sees them: what [`Centre`] says of each.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    vs: Vec<f32>,
    planes: Vec<f32>,
    /// What rounding took off the point that centroids were multiplied with.
    lost: f32,
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
        let Centre {
            v, doubt, shape, ..
        } = centre;
        let (slack, v, doubt) = match self.trust {
            Trust::Slack(slack, _) => (slack.code, *v, 0.0),
            Trust::Certain => (0.0, v - doubt, *doubt),
        };
        let spread = self.spread(v + 2.0 * doubt);
        // Every rounding of the bound, and a row that is not where its code was taken.
        let (far, about) = (spread + shape.radius, self.length + spread + shape.radius);
        let relative = 4e-6 + (self.point.len() as f32).sqrt() * 1e-7;
        let margin = 2.0 * far * shape.slop + 2.0 * (far + about) * about * relative;
        self.terms(v, spread, slack, margin)
    }

    /// Terms for a list whose centroid is this *v* away, with so many standard deviations taken off.
    pub fn terms_around(&self, v: f32, slack: f32) -> BoundTerms {
        self.terms(v, self.spread(v), slack, 0.0)
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

    /// Measures every centroid. Bytes do where lists are wide; where they are narrow beside the way to them, as those of tight
    /// groups, what rounding took off the query is more than their rows differ by, and is multiplied, too.
    pub fn measure_lists(&self, space: &Space, catalogue: &Catalogue) -> Measured {
        let squared = self.length * self.length;
        let mut vs = match self.metric {
            Metric::InnerProduct => catalogue.measure(space, &self.coarse, |along, _| -2.0 * along),
            Metric::L2 | Metric::Cosine => catalogue.measure(space, &self.coarse, |along, norm| {
                squared + norm - 2.0 * along
            }),
        };
        vs.truncate(catalogue.lists.len());
        let mut measured = Measured {
            vs,
            planes: Vec::new(),
            lost: self.coarse.lost(),
        };
        if self.is_blurred(catalogue, &measured) {
            let rest = self.coarse.rest(&self.point);
            let along = catalogue.measure(space, &rest, |along, _| along);
            for (v, along) in measured.vs.iter_mut().zip(along) {
                *v -= 2.0 * along;
            }
            measured.lost = rest.lost();
        }
        measured.planes = self.planes(space, catalogue, &measured.vs);
        measured
    }

    /// Is the *v* of the nearest list off by a good part of what its rows differ by?
    fn is_blurred(&self, catalogue: &Catalogue, measured: &Measured) -> bool {
        let Some((nearest, least)) = nearest(&measured.vs) else {
            return false;
        };
        let differing = match self.metric {
            Metric::InnerProduct => 2.0 * self.length * catalogue.typical[nearest],
            Metric::L2 | Metric::Cosine => least,
        };
        // Errors lie in any direction: they are seldom more than this share of their limit.
        let typical = 1.0 / (self.point.len() as f32).sqrt();
        2.0 * catalogue.doubt(nearest, measured.lost, self.length) * typical > BLUR * differing
    }

    /// For lists whose centroids have these *v*: the squared distance of the plane in the middle between each and the
    /// nearest. Zeros when keys do not depend on it.
    fn planes(&self, space: &Space, catalogue: &Catalogue, vs: &[f32]) -> Vec<f32> {
        match nearest(vs) {
            Some((nearest, least)) if self.metric != Metric::InnerProduct && !self.is_certain() => {
                let apart = catalogue.distances_to(space, nearest);
                vs.iter()
                    .zip(apart.iter())
                    .map(|(v, apart)| {
                        let farther = (v - least).max(0.0);
                        farther * farther / (4.0 * apart).max(f32::MIN_POSITIVE)
                    })
                    .collect()
            }
            _ => vec![0.0; vs.len()],
        }
    }

    /// A list of the catalogue as it was measured.
    pub fn centre(&self, catalogue: &Catalogue, measured: &Measured, list: usize) -> Centre {
        Centre {
            v: measured.vs[list],
            doubt: 2.0 * catalogue.doubt(list, measured.lost, self.length),
            plane: measured.planes[list],
            shape: catalogue.lists[list].shape,
        }
    }

    /// The keys of lists; never NaN.
    ///
    /// A row at distance δ from the query is found if the key of its list is at most δ². Near rows lie in any direction
    /// from the query, so of δ only a share goes toward one other list: [`Slack::list`](crate::Slack) says which share
    /// is allowed for. Far rows lie where the data is; they are found by the angle at which they are seen from their
    /// own centroid. A list's key is the lesser of both.
    pub fn list_keys(&self, catalogue: &Catalogue, measured: &Measured) -> Vec<f32> {
        let Trust::Slack(slack, depth) = self.trust else {
            return (0..catalogue.lists.len())
                .map(|list| self.certain_key(&self.centre(catalogue, measured, list)))
                .collect();
        };
        let Measured { vs, planes, .. } = measured;
        let lists = vs.iter().zip(planes.iter().zip(&catalogue.typical));
        match self.metric {
            Metric::InnerProduct => {
                let length = 2.0 * slack.list * self.length;
                lists
                    .map(|(v, (_, reach))| or_first(v - length * reach))
                    .collect()
            }
            Metric::L2 | Metric::Cosine => {
                let share = 1.0 / (slack.list * slack.list).max(1e-6);
                lists
                    .map(|(v, (plane, reach))| {
                        let (near, far) = (plane * share, angle_key(*v, *reach, depth));
                        or_first(if near < far { near } else { far })
                    })
                    .collect()
            }
        }
    }

    /// Below the *v* of every row of the list.
    fn certain_key(&self, centre: &Centre) -> f32 {
        let Centre {
            v, doubt, shape, ..
        } = centre;
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

    /// Takes the error of the first row seen as the typical one. Certainty takes nothing off that could be given back.
    pub fn note_error(&mut self, record: &[u8]) {
        if !self.is_certain() && self.typical_error.is_none() {
            let (_, error, _) = factors(record);
            self.typical_error = Some(f64::from(error)).filter(|error| error.is_finite());
        }
    }

    /// On the same scale as another query of the same search.
    pub fn with_typical_error_of(mut self, other: &Query) -> Query {
        self.typical_error = other.typical_error;
        self
    }

    /// The key of a row, decoded at this *v* and known up to `error`.
    pub fn row_key(&self, v: f32, error: f64) -> f32 {
        let typical = self.typical_error.unwrap_or(0.0);
        match self.metric {
            Metric::InnerProduct => v + (2.0 * self.true_length * (typical - error)) as f32,
            Metric::L2 | Metric::Cosine => {
                let distance = (f64::from(v).max(0.0).sqrt() - error).max(0.0);
                (distance + typical).powi(2) as f32
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
        let typical = self.typical_error.unwrap_or(0.0);
        let (key, bound) = match self.metric {
            Metric::InnerProduct => {
                let x_length = row_length + self.frame_length + error;
                let product = step * f64::from(sum);
                let off = self.true_length * error
                    + self.slop * x_length
                    + 2.0 * relative * self.true_length * x_length * 1.001;
                (
                    2.0 * (-product - off + self.true_length * typical),
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
                ((distance + typical).powi(2), bound)
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

    /// The least slack at which a list's key is not above `v`, and the least depth.
    pub fn list_slack(&self, centre: &Centre, v: f32) -> (f32, f32) {
        let reach = centre.shape.typical;
        let (slack, depth) = match self.metric {
            Metric::InnerProduct => ((centre.v - v) / (2.0 * self.length * reach), f32::INFINITY),
            Metric::L2 | Metric::Cosine => {
                let distance = centre.v.max(0.0).sqrt();
                let cosine = (distance * distance + reach * reach - v) / (2.0 * distance * reach);
                let depth = if cosine * reach > distance {
                    (1.0 - v / (reach * reach)).max(0.0).sqrt()
                } else {
                    cosine
                };
                ((centre.plane / v.max(f32::MIN_POSITIVE)).sqrt(), depth)
            }
        };
        let slack = if slack.is_nan() { 0.0 } else { slack };
        (slack.clamp(-1.0, 1.0), depth)
    }

    /// `⟨p, b⟩` for the signs of a code, as a search has it from its tables.
    pub fn sign_product(&self, code: &[u8]) -> f32 {
        self.tables.product(code)
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

/// Number and *v* of the list with the least.
fn nearest(vs: &[f32]) -> Option<(usize, f32)> {
    let lists = vs.iter().copied().enumerate();
    lists.min_by(|a, b| a.1.total_cmp(&b.1))
}

/// What a damaged page says nothing about comes first.
fn or_first(key: f32) -> f32 {
    if key.is_nan() { f32::NEG_INFINITY } else { key }
}

/// The *v* of a row at `reach` from its centroid, seen from there at this cosine to the query: the smallest over all distances of
/// the query that are at least that of *v* `centroid`.
fn angle_key(centroid: f32, reach: f32, cosine: f32) -> f32 {
    let distance = centroid.max(0.0).sqrt();
    let least = cosine * reach;
    let distance = if distance > least { distance } else { least };
    distance * distance + reach * reach - 2.0 * cosine * distance * reach
}
