//! The sample that lists are made from: all rows of a small table, runs of blocks of a large one.

use super::table::{Blocks, Table};
use lookbook_ann::Options;
use lookbook_ann::build::{Plan, Sampler};
use pgrx::check_for_interrupts;

/// Runs that tell how many rows a block has.
const PROBES: u32 = 64;
/// Blocks of a run: more would make neighbours of the table into neighbours of the sample.
const RUN_BLOCKS: u32 = 4;

/// What a build knows before it begins.
pub(super) struct Sample {
    pub(super) plan: Plan,
    pub(super) sampler: Sampler,
    /// About so many rows will be indexed.
    pub(super) rows: u64,
}

/// Draws the sample, in two fifths of `memory` bytes: the rest is for clustering and what the process has.
pub(super) fn draw(
    table: &mut Table,
    options: &Options,
    memory: usize,
) -> lookbook_ann::Result<Sample> {
    let blocks = table.blocks();
    let probed = offer_runs(table, blocks, PROBES, &mut |_| Ok(()))?;
    let rows = (probed.rows as f64 * f64::from(blocks) / f64::from(probed.blocks.max(1))).ceil();
    let plan = Plan::new(options, rows as u64, memory / 5 * 2);
    let mut sampler = Sampler::new(options, plan.sample_rows)?;
    // A little more than needed, since runs differ.
    let share = 1.2 * plan.sample_rows as f64 / rows.max(1.0);
    let runs = (share * f64::from(blocks) / f64::from(RUN_BLOCKS)).ceil() as u32;
    offer_runs(table, blocks, runs.max(PROBES), &mut |vector| {
        sampler.offer(vector)
    })?;
    Ok(Sample {
        plan,
        sampler,
        rows: rows as u64,
    })
}

struct Offered {
    rows: u64,
    blocks: u32,
}

/// Offers the vectors of runs of blocks that are spread evenly over the table: of all blocks, if there
/// are no more.
fn offer_runs(
    table: &mut Table,
    blocks: u32,
    runs: u32,
    offer: &mut dyn FnMut(&[f32]) -> lookbook_ann::Result<()>,
) -> lookbook_ann::Result<Offered> {
    let mut offered = Offered { rows: 0, blocks: 0 };
    let is_whole = runs.saturating_mul(RUN_BLOCKS) >= blocks;
    let runs = if is_whole {
        u32::from(blocks > 0)
    } else {
        runs
    };
    for run in 0..runs {
        check_for_interrupts!();
        let stratum = |run: u32| (u64::from(blocks) * u64::from(run) / u64::from(runs)) as u32;
        let first = stratum(run);
        let count = if is_whole { blocks } else { RUN_BLOCKS };
        let mut result = Ok(());
        table.scan(Blocks::Run { first, count }, &mut |_, row| {
            offered.rows += 1;
            if let Some(vector) = row.vector
                && result.is_ok()
            {
                result = offer(&vector);
            }
        });
        result?;
        offered.blocks += count;
    }
    Ok(offered)
}
