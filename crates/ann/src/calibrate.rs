//! Measuring which slack reaches which recall, with rows of the index as queries.
//!
//! For each sampled row its nearest rows are found with generous slack. A neighbour is found by a search if its list's
//! key and its sign code's bound are not above the key of the last row that settles before its own turn to be given
//! out comes (`search/order.rs`), whose keys are bounds, not distances; both are linear in their slack, so each neighbour says what slack it needs, and the table is two quantiles. What a recall allows to miss
//! is shared out: most to lists, whose slack is dear.

use crate::calibration::{Calibration, LEVELS, Slack, depth};
use crate::chain;
use crate::directory;
use crate::error::Result;
use crate::index::{Index, change_meta};
use crate::options::Metric;
use crate::page::{f32_at, u16_at, u48_at};
use crate::query::{Query, Trust};
use crate::random::Random;
use crate::rounding::bf16;
use crate::search::{Search, Trace, wanted};
use crate::store::PageStore;
use crate::structure;

/// Queries sampled, and neighbours asked of each: the tenth part of a per cent that the last level speaks of is
/// about one neighbour.
const QUERIES: usize = 300;
const NEIGHBOURS: usize = 10;
/// Rows looked at for them: bounds and distances order rows differently, so until none whose bound comes later can be nearer, as
/// the executor does; but where errors are large beside the gaps between rows, not all.
const LOOKED_AT: usize = 40;
const MOST_LOOKED_AT: usize = 320;
/// With this slack and depth next to nothing is missed: for distances, and for inner products.
const GENEROUS: [(Slack, f32); 2] = [
    (
        Slack {
            list: 0.6,
            code: 4.0,
        },
        0.65,
    ),
    (
        Slack {
            list: 0.9,
            code: 4.0,
        },
        0.0,
    ),
];
/// Of what may be missed, the shares of lists and of sign codes; the rest is for the sample: it is small, and rows are easier
/// queries than what is not in the index.
const LIST_SHARE: f32 = 0.45;
const CODE_SHARE: f32 = 0.2;
/// With fewer lists there is little to save.
const FEWEST_LISTS: usize = 8;
/// Fewer neighbours say nothing.
const FEWEST: usize = 200;

impl Index {
    /// Measures and stores the table. Holds the latch. An index with very few rows keeps the table it has.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`], [`crate::Error::Interrupted`].
    pub fn calibrate<S: PageStore>(&mut self, store: &S) -> Result<()> {
        let _latch = store.latch()?;
        self.refresh(store)?;
        self.calibrate_latched(store)
    }

    pub(crate) fn calibrate_latched<S: PageStore>(&mut self, store: &S) -> Result<()> {
        let Some(directory) = self.meta.directory else {
            return Ok(());
        };
        let lists = directory::all(store, &self.space, directory)?.unwrap_or_default();
        let mut random = Random::new(self.meta.options.seed, 5);
        let (mut list, mut code) = (Vec::new(), Vec::new());
        for query in self.sample(store, &lists, &mut random)? {
            store.check_interrupts()?;
            self.needs(store, &query, &mut list, &mut code)?;
        }
        if list.len() < FEWEST {
            return Ok(());
        }
        code.sort_by(f32::total_cmp);
        let mut last = Slack::LEAST;
        let slacks = LEVELS.map(|level| {
            let missed = 1.0 - level;
            // What is found by depth needs no slack.
            let depth = depth(level);
            let mut list: Vec<f32> = list
                .iter()
                .map(|&(slack, least)| if least <= depth { -1.0 } else { slack })
                .collect();
            list.sort_by(f32::total_cmp);
            last = Slack {
                list: quantile(&list, missed * LIST_SHARE).clamp(last.list, 1.0),
                code: quantile(&code, missed * CODE_SHARE).clamp(last.code, Slack::CERTAIN.code),
            };
            last
        });
        let calibration = Calibration {
            lists: lists.len() as u32,
            slacks,
        };
        change_meta(store, |meta| meta.calibration = calibration)?;
        self.refresh(store)
    }

    /// Are there twice as many lists as when it was calibrated?
    pub(crate) fn has_outgrown(&self, lists: usize) -> bool {
        lists >= FEWEST_LISTS && lists >= 2 * self.meta.calibration.lists as usize
    }

    /// Are there half as many? What a vacuum took out in great numbers need not have been like the rest.
    pub(crate) fn has_shrunk(&self, lists: usize) -> bool {
        lists >= FEWEST_LISTS && 2 * lists <= self.meta.calibration.lists as usize
    }

    /// Rows with their heap TIDs, lists weighted by their rows.
    fn sample<S: PageStore>(
        &self,
        store: &S,
        lists: &[directory::ListEntry],
        random: &mut Random,
    ) -> Result<Vec<(u64, Vec<f32>)>> {
        let kind = directory::lists(&self.space);
        let mut found = Vec::new();
        let mut longest = 1;
        for _ in 0..4 * QUERIES {
            if found.len() == QUERIES || lists.is_empty() {
                break;
            }
            let list = &lists[random.below(lists.len())];
            let copied = structure::copy(store, kind, list.head, None)?;
            let rows = copied.map(|copied| copied.rows).unwrap_or_default();
            longest = longest.max(rows.len());
            if rows.is_empty() || random.below(longest) >= rows.len() {
                continue;
            }
            let row = &rows[random.below(rows.len())];
            let (y, error) = structure::point(&self.space, row);
            if error.is_finite() {
                found.push((u48_at(row, 0), y));
            }
        }
        Ok(found)
    }

    /// What slack each neighbour of a row needs.
    fn needs<S: PageStore>(
        &self,
        store: &S,
        (tid, y): &(u64, Vec<f32>),
        list: &mut Vec<(f32, f32)>,
        code: &mut Vec<f32>,
    ) -> Result<()> {
        let [distances, products] = GENEROUS;
        let (slack, depth) = match self.meta.options.metric {
            Metric::InnerProduct => products,
            Metric::L2 | Metric::Cosine => distances,
        };
        let query = Query::of_row(&self.space, y, Trust::Slack(slack, depth));
        let mut search = Search::of(store, self.clone(), query);
        let mut near: Vec<(f32, f32, Trace, Vec<u8>)> = Vec::new();
        // The nearest, farthest last.
        let mut nearest: Vec<f32> = Vec::new();
        while near.len() < MOST_LOOKED_AT && search.next_row()?.is_some() {
            // A row without codes.
            let Some(trace) = search.trace() else {
                continue;
            };
            let Some(record) = self.record(store, &trace)? else {
                continue;
            };
            if u48_at(&record, 0) == *tid {
                continue;
            }
            let (row, error) = structure::point(&self.space, &record);
            if !error.is_finite() {
                continue;
            }
            let v = search.query().measure(&row);
            nearest.insert(nearest.partition_point(|other| *other <= v), v);
            nearest.truncate(NEIGHBOURS);
            near.push((v, search.query().row_key(v, error), trace, record));
            let is_past = nearest.last().is_some_and(|&tenth| {
                nearest.len() == NEIGHBOURS
                    && search.query().row_key(v, error) > search.query().row_key(tenth, 0.0)
            });
            if near.len() >= LOOKED_AT && is_past {
                break;
            }
        }
        near.sort_by(|a, b| a.1.total_cmp(&b.1));
        let keys: Vec<f32> = near.iter().map(|near| near.1).collect();
        let mut near: Vec<_> = near.into_iter().enumerate().collect();
        near.sort_by(|a, b| a.1.0.total_cmp(&b.1.0));
        near.truncate(NEIGHBOURS);
        let fields = self.space.layout.row();
        for (given, (_, _, trace, record)) in &near {
            // How far a search has come when this row's turn is to be given out.
            let last = keys[(wanted(*given) - 1).min(keys.len() - 1)];
            list.push(search.query().list_slack(&trace.centre, last));
            let product = search
                .query()
                .sign_product(&record[fields.code..fields.refinement]);
            code.push(search.query().code_slack(
                trace.centre.v,
                [
                    f32_at(record, fields.constant),
                    bf16(u16_at(record, fields.factor)),
                    bf16(u16_at(record, fields.radius)),
                ],
                product,
                last,
            ));
        }
        Ok(())
    }

    fn record<S: PageStore>(&self, store: &S, trace: &Trace) -> Result<Option<Vec<u8>>> {
        let layout = &self.space.layout;
        let mut record = vec![0; layout.row().end];
        let copied = chain::with_leaf(
            store,
            trace.leaf,
            directory::lists(&self.space),
            |leaf, _| {
                leaf.copy_row(trace.slot, &mut record);
                Ok(())
            },
        )?;
        let bytes = &mut record[layout.row().refinement..];
        let found = copied.is_some()
            && chain::copy_refinement(store, layout, trace.leaf, &trace.links, trace.slot, bytes)?;
        Ok(found.then_some(record))
    }
}

/// The value that a share `missed` of the sorted values exceeds.
fn quantile(sorted: &[f32], missed: f32) -> f32 {
    let exceeding = (missed * sorted.len() as f32) as usize;
    sorted[sorted.len() - 1 - exceeding.min(sorted.len() - 1)]
}
