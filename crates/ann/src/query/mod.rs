//! A query, prepared once for all lists: point, look-up tables, and (in `bounds`) the arithmetic of every bound.
//!
//! All keys of the search are in one unit, *v*: the squared distance, or for inner products `−2⟨q, x⟩`
//! without the part that is the same for all rows. Two kinds of bounds: *optimistic* ones use
//! the calibrated slack and are only good for choosing what to look at next; *certain* ones hold whatever
//! happens, rounding included. See [`crate::code`] for the formulas.

mod bounds;
mod tables;

use lookbook_vecmath::kernel::codes::{Tables, kernels};

use crate::calibration::Slack;
use crate::catalogue::CoarsePoint;
use crate::error::Result;
use crate::options::Metric;
use crate::rounding::norm;
use crate::space::{Placed, Space};
use tables::SignTables;

pub(crate) use bounds::{Centre, Measured};

/// What is known about the distances that a query has to rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    /// They can be bounded.
    Ordered,
    /// They are numbers, but too large or too small to compute with.
    Boundless,
    /// They are all NaN: a zero vector under cosine.
    Unordered,
    /// They are all NULL: there is no query.
    Null,
}

/// How much the bounds take off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Trust {
    /// By calibration; and the cosine allowed for where many rows are wanted.
    Slack(Slack, f32),
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
    /// `⟨q, m⟩` and `‖m‖`, inner products only.
    along_frame: f64,
    frame_length: f64,
    /// How far `point` can be from the exact one.
    slop: f64,
    /// A typical error of refinement codes, once a row was seen. Keys of rows are their certain bounds raised by it, so that
    /// they are on a scale with the keys of lists and sign codes, which know nothing of that error; the same for all rows, so
    /// that their order is that of the bounds.
    typical_error: Option<f64>,
    tables: SignTables,
    coarse: CoarsePoint,
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
        if metric == Metric::InnerProduct {
            let along = |(p, m): (&f32, &f32)| f64::from(*p) * f64::from(*m);
            query.along_frame = query.point.iter().zip(&space.frame).map(along).sum();
            query.frame_length = norm(&space.frame);
        }
        (query.nature, query.slop, query.true_length) = (nature, slop, true_length);
        Ok(query)
    }

    /// A query for the centroids nearest to a point of the rotated space.
    pub fn neighbour(y: &[f32]) -> Query {
        let slack = Slack {
            list: 0.0,
            code: 0.0,
        };
        Query::bare(Metric::L2, Trust::Slack(slack, 0.0), y.to_vec())
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

    fn bare(metric: Metric, trust: Trust, point: Vec<f32>) -> Query {
        let length = norm(&point);
        Query {
            nature: Nature::Ordered,
            metric,
            trust,
            length: length as f32,
            true_length: length,
            along_frame: 0.0,
            frame_length: 0.0,
            slop: 0.0,
            typical_error: None,
            tables: SignTables::new(kernels(), &point, length as f32),
            coarse: CoarsePoint::new(&point),
            point,
        }
    }

    pub fn tables(&self) -> Tables<'_> {
        self.tables.views()
    }

    pub fn trust(&self) -> Trust {
        self.trust
    }

    pub fn is_certain(&self) -> bool {
        self.trust == Trust::Certain
    }
}
