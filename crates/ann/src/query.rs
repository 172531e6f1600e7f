//! A query, prepared once for all lists: point, look-up tables, and the arithmetic of every bound.
//!
//! All keys of the search are in one unit, *v*: the squared distance, or for inner products `−2⟨q, x⟩`
//! without the part that is the same for all rows. Two kinds of bounds: *optimistic* ones use
//! the calibrated slack and are only good for choosing what to look at next; *certain* ones hold whatever
//! happens, rounding included. See [`crate::code`] for the formulas.

use lookbook_vecmath::kernel::codes::{BoundTerms, LANES, TABLE_MAX, Tables};

use crate::calibration::Slack;
use crate::error::Result;
use crate::options::Metric;
use crate::page::refinement::factors;
use crate::rounding::{U, down, norm, sum_error};
use crate::space::{Placed, Space};

/// Standard deviations taken off the sign-code bound of a *centroid*: there are few lists, and a missed one
/// costs many rows.
const CENTROID_SLACK: f32 = 3.0;

/// What is known about the distances that a query has to rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    /// They can be bounded.
    Ordered,
    /// They are numbers, but too large to compute with.
    Boundless,
    /// They are all NaN: a zero vector under cosine.
    Unordered,
    /// They are all NULL: there is no query.
    Null,
}

/// How much the bounds take off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Trust {
    /// By calibration.
    Slack(Slack),
    /// Nothing is left to chance: recall 1.
    Certain,
}

/// A list as the directory describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Upper limit of the distance of its rows to the centroid.
    pub radius: f32,
    /// Root of the mean squared distance.
    pub typical: f32,
    /// Upper limit of how far a row can be from where its sign code was taken.
    pub slop: f32,
}

/// A prepared query.
#[derive(Debug)]
pub(crate) struct Query {
    pub nature: Nature,
    metric: Metric,
    trust: Trust,
    /// Relative to the frame, but for inner products.
    pub point: Vec<f32>,
    length: f32,
    /// Of the query as the user gave it (or normalised).
    true_length: f64,
    /// `⟨q, m⟩`, inner products only.
    along_frame: f64,
    frame_length: f64,
    /// How far `point` can be from the exact one.
    slop: f64,
    low: Vec<u8>,
    high: Vec<u8>,
    gain: f32,
    offset: f32,
    table_error: f32,
}

impl Query {
    /// Prepares `vector`; `None`: the query is NULL.
    ///
    /// # Errors
    /// [`crate::Error::Dimensions`].
    pub fn new(space: &Space, vector: Option<&[f32]>, trust: Trust) -> Result<Query> {
        let metric = space.options.metric;
        let zero = || (vec![0.0; space.dims()], 0.0, 0.0);
        let (nature, (point, slop, true_length)) = match vector {
            None => (Nature::Null, zero()),
            Some(x) => match space.place(x)? {
                Placed::Boundless => (Nature::Boundless, zero()),
                Placed::Unordered => (Nature::Unordered, zero()),
                Placed::Point { y, slop } => {
                    let length = if metric == Metric::Cosine {
                        1.0
                    } else {
                        norm(x)
                    };
                    let (point, slop) = match metric {
                        Metric::InnerProduct => space.rotate(x),
                        Metric::L2 | Metric::Cosine => (y, slop),
                    };
                    (Nature::Ordered, (point, slop, length))
                }
            },
        };
        let mut query = Query::bare(metric, trust, point);
        let along = |(p, m): (&f32, &f32)| f64::from(*p) * f64::from(*m);
        query.along_frame = query.point.iter().zip(&space.frame).map(along).sum();
        query.frame_length = norm(&space.frame);
        (query.nature, query.slop, query.true_length) = (nature, slop, true_length);
        Ok(query)
    }

    /// A query for the centroids nearest to a point of the rotated space.
    pub fn neighbour(y: &[f32]) -> Query {
        let slack = Slack {
            list: 0.0,
            code: 0.0,
        };
        Query::bare(Metric::L2, Trust::Slack(slack), y.to_vec())
    }

    /// A row of the index as a query.
    pub fn of_row(space: &Space, y: &[f32], trust: Trust) -> Query {
        let mut point = y.to_vec();
        if space.options.metric == Metric::InnerProduct {
            point
                .iter_mut()
                .zip(&space.frame)
                .for_each(|(p, m)| *p += m);
        }
        Query::bare(space.options.metric, trust, point)
    }

    /// The *v* of a point.
    pub fn measure(&self, y: &[f32]) -> f32 {
        let kernels = lookbook_vecmath::kernel::active();
        match self.metric {
            Metric::InnerProduct => -2.0 * kernels.inner_product(&self.point, y),
            Metric::L2 | Metric::Cosine => kernels.l2_squared(&self.point, y),
        }
    }

    /// The least slack at which a list's key is not above `v`.
    pub fn list_slack(&self, centroid: f32, shape: &Shape, v: f32) -> f32 {
        let reach = shape.typical;
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

    fn bare(metric: Metric, trust: Trust, point: Vec<f32>) -> Query {
        let length = norm(&point);
        let mut query = Query {
            nature: Nature::Ordered,
            metric,
            trust,
            length: length as f32,
            true_length: length,
            along_frame: 0.0,
            frame_length: 0.0,
            slop: 0.0,
            low: vec![0; (2 * point.len()).next_multiple_of(4 * LANES)],
            high: vec![0; (2 * point.len()).next_multiple_of(4 * LANES)],
            gain: 0.0,
            offset: 0.0,
            table_error: 0.0,
            point,
        };
        query.tabulate();
        query
    }

    /// Builds the tables: for every four dimensions the sum over each subset, in steps of `gain/2` from the
    /// smallest.
    fn tabulate(&mut self) {
        let widest = self
            .point
            .chunks_exact(4)
            .map(|four| four.iter().map(|x| x.abs()).sum::<f32>())
            .fold(0f32, f32::max);
        let step = (widest / f32::from(TABLE_MAX)).max(f32::MIN_POSITIVE);
        let inverse = 1.0 / step;
        let (mut least, mut total) = (0f64, 0f64);
        for (i, four) in self.point.chunks_exact(4).enumerate() {
            let smallest: f32 = four.iter().map(|x| x.min(0.0)).sum();
            least += f64::from(smallest);
            total += four.iter().map(|&x| f64::from(x)).sum::<f64>();
            let table = if i % 2 == 0 {
                &mut self.low
            } else {
                &mut self.high
            };
            let table = &mut table[i / 2 * LANES..(i / 2 + 1) * LANES];
            let mut sums = [-smallest; LANES];
            for (bit, &x) in four.iter().enumerate() {
                let (without, with) = sums.split_at_mut(1 << bit);
                with.iter_mut()
                    .zip(without)
                    .for_each(|(with, without)| *with = *without + x);
            }
            for (entry, sum) in table.iter_mut().zip(sums) {
                *entry = (sum * inverse + 0.5).clamp(0.0, f32::from(TABLE_MAX)) as u8;
            }
        }
        self.gain = 2.0 * step;
        self.offset = (2.0 * least - total) as f32;
        // Half a step for each table, twice because ⟨p, b⟩ = 2·sum − total, and the rounding of the sums.
        self.table_error = (self.point.len() / 4) as f32 * step * 1.01
            + (self.point.len() as f32).sqrt() * self.length * 1e-5;
    }

    pub fn tables(&self) -> Tables<'_> {
        Tables {
            low: &self.low,
            high: &self.high,
        }
    }

    pub fn is_certain(&self) -> bool {
        self.trust == Trust::Certain
    }

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

    /// Terms for the sign codes of a list whose centroid has this *v*.
    pub fn list_terms(&self, centroid: f32, shape: &Shape) -> BoundTerms {
        let slack = match self.trust {
            Trust::Slack(slack) => slack.code,
            Trust::Certain => 0.0,
        };
        let spread = self.spread(centroid);
        // Every rounding of the bound, and a row that is not where its code was taken.
        let (far, about) = (spread + shape.radius, self.length + spread + shape.radius);
        let relative = 4e-6 + (self.point.len() as f32).sqrt() * 1e-7;
        let margin = 2.0 * far * shape.slop + 2.0 * (far + about) * about * relative;
        self.terms(centroid, spread, slack, margin)
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
            gain: self.gain,
            offset: if certain {
                self.offset + self.table_error
            } else {
                self.offset
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

    /// The key of a list whose centroid's *v* is at least `centroid`.
    pub fn list_key(&self, centroid: f32, shape: &Shape) -> f32 {
        let (reach, slack) = match self.trust {
            Trust::Slack(slack) => (shape.typical, slack.list),
            Trust::Certain => (shape.radius * 1.0001, 1.0),
        };
        let exact = self.is_certain();
        match self.metric {
            Metric::InnerProduct => {
                let rounding = if exact {
                    self.length * (self.length + reach) * 1e-5
                } else {
                    0.0
                };
                centroid - 2.0 * slack * self.length * reach - rounding
            }
            Metric::L2 | Metric::Cosine => {
                let mut distance = centroid.max(0.0).sqrt();
                if exact {
                    distance *= 1.0 - 1e-4;
                    return (distance - reach - self.length * 1e-5).max(0.0).powi(2);
                }
                // A row at `reach` from the centroid in a direction with cosine `slack` to the query; the
                // smallest over all distances that are at least `distance`.
                distance = distance.max(slack * reach);
                (distance * distance + reach * reach - 2.0 * slack * distance * reach).max(0.0)
            }
        }
    }

    /// The *v* of a centroid by its refinement codes; `sum` is what [`Query::partial`] gave.
    pub fn centroid(&self, step: f32, sum: f32) -> f32 {
        match self.metric {
            Metric::InnerProduct => -2.0 * step * sum,
            Metric::L2 | Metric::Cosine => sum,
        }
    }

    /// The sum over dimensions `from..` of packed codes that [`Query::row`] or [`Query::centroid`] take.
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
}
