//! How much slack reaches which recall: the table in the meta page.

use crate::options::Metric;

/// The recalls of the table.
pub const LEVELS: [f32; 8] = [0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999];

/// What a search takes off its optimistic bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slack {
    /// Of a list: the cosine between query and row, seen from the centroid, that is allowed for. 1 would be
    /// certain for rows at the typical distance from their centroid.
    pub list: f32,
    /// Of a sign code: standard deviations of its error (ε of RaBitQ).
    pub code: f32,
}

impl Slack {
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
            Metric::L2 | Metric::Cosine => [0.25, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0],
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
        let above = LEVELS.iter().position(|&level| level >= recall);
        match above {
            Some(0) => self.slacks[0],
            None => self.slacks[LEVELS.len() - 1],
            Some(i) => {
                let share = (recall - LEVELS[i - 1]) / (LEVELS[i] - LEVELS[i - 1]);
                let between = |from: f32, to: f32| from + share * (to - from);
                let (from, to) = (self.slacks[i - 1], self.slacks[i]);
                Slack {
                    list: between(from.list, to.list),
                    code: between(from.code, to.code),
                }
            }
        }
    }
}
