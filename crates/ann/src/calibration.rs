//! How much slack reaches which recall: the table in the meta page.

use crate::options::Metric;

/// The recalls of the table.
pub const LEVELS: [f32; 8] = [0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999];

/// For each of [`LEVELS`] the cosine between query and row, seen from a list's centroid, that is allowed for where many rows
/// are wanted. It hardly depends on the data: measured on fashion-mnist-784 and two sets of a million embeddings, neighbours 900 to
/// 1000 of a query are found to 0.96–0.99 at 0.5, to 0.995 at 0.55, to 0.999 at 0.6.
const DEPTHS: [f32; LEVELS.len()] = [0.4, 0.45, 0.5, 0.55, 0.58, 0.6, 0.62, 0.65];

/// What a search takes off its optimistic bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slack {
    /// Of a list: the share of its distance to the query that a row may lie in the direction of the list, from the
    /// list that the query is in. For inner products the cosine between query and row, seen from the centroid. 1 would be certain.
    pub list: f32,
    /// Of a sign code: standard deviations of its error (ε of RaBitQ).
    pub code: f32,
}

impl Slack {
    /// What no table falls below.
    pub(crate) const LEAST: Slack = Slack {
        list: -1.0,
        code: 0.0,
    };
    /// What no table exceeds.
    pub(crate) const CERTAIN: Slack = Slack {
        list: 1.0,
        code: 8.0,
    };
}

/// Slack for each of [`LEVELS`], never falling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// How many lists there were when it was measured; 0: never, these are defaults.
    pub lists: u32,
    /// One for each level.
    pub slacks: [Slack; LEVELS.len()],
}

impl Calibration {
    /// Before anything was measured: generous values, so that the index errs on the slow side. The best inner
    /// products are at the rim of their lists, so there nothing is taken off.
    pub(crate) fn unmeasured(metric: Metric) -> Calibration {
        let list = match metric {
            Metric::InnerProduct => [1.0; LEVELS.len()],
            Metric::L2 | Metric::Cosine => [0.15, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.65],
        };
        let code = [0.5, 0.9, 1.2, 1.5, 1.8, 2.1, 2.4, 3.2];
        let slack = |i| Slack {
            list: list[i],
            code: code[i],
        };
        Calibration {
            lists: 0,
            slacks: std::array::from_fn(slack),
        }
    }

    /// The slack for a recall, between the levels by interpolation.
    pub fn slack(&self, recall: f32) -> Slack {
        Slack {
            list: between(recall, |i| self.slacks[i].list),
            code: between(recall, |i| self.slacks[i].code),
        }
    }
}

/// The cosine that is allowed for where many rows are wanted; see [`DEPTHS`].
pub(crate) fn depth(recall: f32) -> f32 {
    between(recall, |i| DEPTHS[i])
}

/// What lies at a recall between the levels.
fn between(recall: f32, at_level: impl Fn(usize) -> f32) -> f32 {
    match LEVELS.iter().position(|&level| level >= recall) {
        Some(0) => at_level(0),
        None => at_level(LEVELS.len() - 1),
        Some(i) => {
            let share = (recall - LEVELS[i - 1]) / (LEVELS[i] - LEVELS[i - 1]);
            at_level(i - 1) + share * (at_level(i) - at_level(i - 1))
        }
    }
}
