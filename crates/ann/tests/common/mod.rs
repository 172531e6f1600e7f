//! A brute-force model of an index, and what an executor does with a search.
#![allow(dead_code, reason = "each suite uses its part")]

use std::collections::BTreeMap;

use lookbook_ann::build::{BuildRow, BulkWriter, Clusters, Plan, Sampler, Target, Workers};
use lookbook_ann::memory::MemoryStore;
use lookbook_ann::{
    Bound, Filter, Found, HeapTid, Index, Metric, Options, PageStore, PageTxn, Row, Search,
    SearchOptions, empty_index,
};

/// splitmix64.
#[derive(Clone)]
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// A point near one of `clouds` centres, far from the origin: like image embeddings.
    pub fn vector(&mut self, dims: usize, clouds: u64) -> Vec<f32> {
        let mut centre = Numbers(self.below(clouds) * 7919 + 13);
        (0..dims)
            .map(|_| 1.0 + centre.float() + 0.3 * self.float())
            .collect()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ModelRow {
    pub vector: Option<Vec<f32>>,
    pub words: Vec<u32>,
}

/// What the index should hold.
pub type Model = BTreeMap<HeapTid, ModelRow>;

/// An index with the page of an empty one.
pub fn create(store: &MemoryStore, options: &Options) -> Index {
    let page = empty_index(options).expect("good options");
    let mut txn = store.begin();
    let (_, handle) = txn.allocate(|_| true).expect("memory");
    *txn.page_mut(handle) = *page;
    txn.commit().expect("memory");
    Index::open(store).expect("a new index")
}

pub fn insert(store: &MemoryStore, index: &mut Index, tid: HeapTid, row: &ModelRow) {
    try_insert(store, index, tid, row).expect("insert");
}

pub fn try_insert(
    store: &MemoryStore,
    index: &mut Index,
    tid: HeapTid,
    row: &ModelRow,
) -> lookbook_ann::Result<()> {
    index.insert(
        store,
        Row {
            tid,
            vector: row.vector.as_deref(),
            words: &row.words,
        },
    )
}

/// A bulk-built index.
pub fn build(store: &MemoryStore, options: &Options, model: &Model) -> Index {
    create(store, options);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .expect("threads");
    let workers = Workers {
        pool: &pool,
        check: &|| Ok(()),
    };
    let plan = Plan::new(options, model.len() as u64, 64 << 20);
    let mut sampler = Sampler::new(options, plan.sample_rows).expect("options");
    for row in model.values().filter_map(|row| row.vector.as_ref()) {
        sampler.offer(row).expect("a row");
    }
    let clusters = Clusters::train(sampler, plan.lists, workers).expect("train");
    let batch: Vec<BuildRow> = model
        .iter()
        .map(|(tid, row)| BuildRow {
            tid: *tid,
            vector: row.vector.clone(),
            words: row.words.clone(),
        })
        .collect();
    let mut encoded = clusters.encode(&batch, workers).expect("encode");
    encoded.sort_by_key(|row| row.target);
    let mut writer = BulkWriter::new(store, &clusters);
    for row in &encoded {
        assert_eq!(row.record.len(), clusters.record_bytes());
        writer.push(row.target, &row.record).expect("push");
    }
    assert_eq!(
        encoded
            .iter()
            .filter(|row| row.target == Target::Nulls)
            .count(),
        model.values().filter(|row| row.vector.is_none()).count()
    );
    let (index, written) = writer.finish(store).expect("finish");
    assert_eq!(written, model.len());
    index
}

/// The distance as the operator computes it; `None`: NaN.
pub fn exact(metric: Metric, a: &[f32], b: &[f32]) -> Option<f64> {
    let kernels = lookbook_vecmath::kernel::active();
    let distance = match metric {
        Metric::L2 => f64::from(kernels.l2_squared(a, b)).sqrt(),
        Metric::InnerProduct => -f64::from(kernels.inner_product(a, b)),
        Metric::Cosine => {
            let [ab, aa, bb] = kernels.cosine_terms(a, b).map(f64::from);
            1.0 - (ab / (aa * bb).sqrt()).clamp(-1.0, 1.0)
        }
    };
    (!distance.is_nan()).then_some(distance)
}

/// All rows that a search gives out, each bound checked against the exact distance, each row once.
pub fn drain(
    search: &mut Search<'_, MemoryStore>,
    model: &Model,
    metric: Metric,
    query: Option<&[f32]>,
) -> Vec<Found> {
    let mut all: Vec<Found> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    while let Some(found) = search.next_row().expect("search") {
        assert!(seen.insert(found.tid), "{:?} came twice", found.tid);
        if let Some(row) = model.get(&found.tid) {
            check_bound(found, metric, query, row.vector.as_deref());
        }
        all.push(found);
    }
    all
}

fn check_bound(found: Found, metric: Metric, query: Option<&[f32]>, vector: Option<&[f32]>) {
    let (Some(query), Some(vector)) = (query, vector) else {
        assert_eq!(found.bound, Bound::Null);
        return;
    };
    match (found.bound, exact(metric, query, vector)) {
        (Bound::AtLeast(bound), Some(distance)) => {
            assert!(
                bound <= distance,
                "{bound} is above the distance {distance}"
            );
        }
        // An unordered row may hide behind any number only if it is NaN for the operator too.
        (Bound::Unordered, None) | (Bound::AtLeast(_), None) => {}
        (bound, distance) => panic!("{bound:?} for {distance:?}"),
    }
}

pub fn search<'s>(
    store: &'s MemoryStore,
    index: &Index,
    query: Option<&[f32]>,
    recall: f32,
    filters: Vec<Filter>,
) -> Search<'s, MemoryStore> {
    let options = SearchOptions {
        recall,
        filters,
        limit: None,
    };
    Search::new(store, index.clone(), query, &options).expect("search")
}

/// What PostgreSQL's executor gives for LIMIT `limit`: rows wait until their exact distance is not above the
/// bound of the last row that the index gave (`IndexNextWithReorder`).
pub fn limit(
    search: &mut Search<'_, MemoryStore>,
    model: &Model,
    metric: Metric,
    query: &[f32],
    limit: usize,
) -> Vec<(f64, HeapTid)> {
    let mut waiting: Vec<(f64, HeapTid)> = Vec::new();
    let mut out = Vec::new();
    let mut last = f64::NEG_INFINITY;
    loop {
        while waiting
            .last()
            .is_some_and(|&(distance, _)| distance <= last)
            && out.len() < limit
        {
            out.extend(waiting.pop());
        }
        if out.len() == limit {
            return out;
        }
        match search.next_row().expect("search") {
            Some(Found {
                tid,
                bound: Bound::AtLeast(bound),
            }) => {
                last = bound;
                let vector = model[&tid]
                    .vector
                    .as_ref()
                    .expect("rows with a bound have a vector");
                // NaN is after all numbers, as in `nearest`.
                let Some(distance) = exact(metric, query, vector) else {
                    continue;
                };
                assert!(
                    bound <= distance,
                    "index returned tuples in wrong order: {bound:e}, {distance:e} of {vector:?} and {query:?}"
                );
                let place = waiting.partition_point(|other| other.0.total_cmp(&distance).is_ge());
                waiting.insert(place, (distance, tid));
            }
            Some(_) | None => last = f64::INFINITY,
        }
        if last == f64::INFINITY && waiting.is_empty() {
            return out;
        }
    }
}

/// The nearest rows by brute force.
pub fn nearest(model: &Model, metric: Metric, query: &[f32], limit: usize) -> Vec<(f64, HeapTid)> {
    let mut all: Vec<(f64, HeapTid)> = model
        .iter()
        .filter_map(|(tid, row)| Some((exact(metric, query, row.vector.as_ref()?)?, *tid)))
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.truncate(limit);
    all
}
