//! What a build takes of memory, by an allocator that counts. One test, because the count is the process's.

use lookbook_ann::build::{BuildRow, BulkWriter, Clusters, Plan, Sampler, Target, Workers};
use lookbook_ann::{AppendPages, BlockId, HeapTid, Metric, Options, PageBytes, Result};
use peak_alloc::PeakAlloc;

mod common;
use common::Numbers;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const DIMS: usize = 64;
const ROWS: u64 = 60_000;
const BATCH: u64 = 1_000;
const MIB: usize = 1 << 20;

/// Takes pages and keeps none.
struct Nowhere(u32);

impl AppendPages for Nowhere {
    fn next_block(&self) -> Result<BlockId> {
        Ok(BlockId(self.0))
    }

    fn append(&mut self, _: &PageBytes) -> Result<()> {
        self.0 += 1;
        Ok(())
    }
}

/// The most that was in use while `work` ran, beyond what was before.
fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let result = work();
    (result, MEMORY.peak_usage().saturating_sub(before))
}

#[test]
fn a_build_takes_what_its_plan_was_given_and_little_more() {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .expect("threads");
    let workers = Workers {
        pool: &pool,
        check: &|| Ok(()),
    };
    let options = Options {
        list_rows: 40,
        ..Options::new(DIMS, Metric::L2)
    };
    let given = 4 * MIB;
    let plan = Plan::new(&options, ROWS, given);
    assert_eq!(plan.sample_rows, given / (4 * DIMS), "the sample fills it");

    let mut numbers = Numbers(1);
    let ((), sampling) = peak(|| drop(sample(&options, plan, &mut numbers)));
    assert!(sampling < given + MIB / 4, "sampling took {sampling}");

    let sampler = sample(&options, plan, &mut numbers);
    let (clusters, training) =
        peak(|| Clusters::train(sampler, plan.lists, workers).expect("train"));
    // Beyond the sample, which was there before: centroids and their copies.
    let centroids = clusters.lists() * DIMS * 4;
    let allowed = 6 * centroids + MIB / 2;
    assert!(
        training < allowed,
        "training took {training}, not {allowed}"
    );

    let mut rows = batch(&mut numbers, 0);
    let (records, encoding) = peak(|| clusters.encode(&rows, workers).expect("encode"));
    let batch_bytes = BATCH as usize * (clusters.record_bytes() + 3 * 4 * DIMS + 256);
    assert!(
        encoding < batch_bytes,
        "encoding took {encoding}, not {batch_bytes}"
    );

    // One list of all rows, and as many rows without vector: neither is kept until the end.
    let ((), writing) = peak(|| {
        let mut writer = BulkWriter::new(Nowhere(1), &clusters);
        for _ in 0..ROWS / BATCH {
            for row in &records {
                writer.push(Target::List(0), &row.record).expect("push");
            }
        }
        rows.iter_mut().for_each(|row| row.vector = None);
        let nulls = clusters.encode(&rows, workers).expect("encode");
        for _ in 0..ROWS / BATCH {
            for row in &nulls {
                writer.push(Target::Nulls, &row.record).expect("push");
            }
        }
    });
    // The pages of a list are kept until its end is known, up to 512 of them.
    assert!(writing < 5 * MIB, "writing took {writing}");
}

fn sample(options: &Options, plan: Plan, numbers: &mut Numbers) -> Sampler {
    let mut sampler = Sampler::new(options, plan.sample_rows).expect("options");
    for _ in 0..ROWS {
        sampler.offer(&numbers.vector(DIMS, 500)).expect("a row");
    }
    sampler
}

fn batch(numbers: &mut Numbers, first: u64) -> Vec<BuildRow> {
    (first..first + BATCH)
        .map(|tid| BuildRow {
            tid: HeapTid(tid),
            vector: Some(numbers.vector(DIMS, 500)),
            words: Vec::new(),
        })
        .collect()
}
