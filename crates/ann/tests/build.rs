//! A bulk-built index against brute force: exactness, recall by setting, size, and what a grown one loses.

mod common;

use common::*;
use lookbook_ann::build::{BuildRow, BulkWriter, Clusters, Plan, Sampler, Target, Workers};
use lookbook_ann::memory::MemoryStore;
use lookbook_ann::{HeapTid, Index, Metric, Options};

const DIMS: usize = 48;

fn rows(numbers: &mut Numbers, count: u64) -> Model {
    let row = |numbers: &mut Numbers, tid: u64| {
        let vector = match tid % 97 {
            0 => None,
            1 => Some(vec![0.0; DIMS]),
            2 => Some(vec![1e30; DIMS]),
            _ => Some(numbers.vector(DIMS, 150)),
        };
        ModelRow {
            vector,
            words: vec![(tid % 7) as u32],
        }
    };
    (0..count)
        .map(|tid| (HeapTid(tid), row(numbers, tid)))
        .collect()
}

fn build(store: &MemoryStore, options: &Options, model: &Model) -> Index {
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

#[test]
fn a_built_index_holds_and_is_exact_at_recall_one() {
    for (seed, metric) in [
        (1, Metric::L2),
        (2, Metric::Cosine),
        (3, Metric::InnerProduct),
    ] {
        for (bits, lists) in [(8, 0), (4, 3), (6, 700)] {
            let mut numbers = Numbers(seed);
            let model = rows(&mut numbers, 2_000);
            let options = Options {
                filter_columns: 1,
                list_rows: 40,
                bits,
                lists,
                ..Options::new(DIMS, metric)
            };
            let store = MemoryStore::with_log();
            let mut index = build(&store, &options, &model);
            index.calibrate(&store).expect("calibrate");
            let info = index.check(&store).expect("every invariant holds");
            assert_eq!((info.rows + info.aside_rows, info.orphan_pages), (2_000, 0));
            assert!(info.calibration.lists > 0, "the index was calibrated");
            let query = numbers.vector(DIMS, 150);
            let found = limit(
                &mut search(&store, &index, Some(&query), 1.0, vec![]),
                &model,
                metric,
                &query,
                50,
            );
            let distances =
                |rows: Vec<(f64, HeapTid)>| rows.iter().map(|row| row.0).collect::<Vec<_>>();
            assert_eq!(
                distances(found),
                distances(nearest(&model, metric, &query, 50))
            );
            let all = drain(
                &mut search(&store, &index, Some(&query), 0.9, vec![]),
                &model,
                metric,
                Some(&query),
            );
            assert_eq!(all.len(), 2_000);
            for tid in (5_000..5_100).map(HeapTid) {
                let row = ModelRow {
                    vector: Some(numbers.vector(DIMS, 150)),
                    words: vec![1],
                };
                insert(&store, &mut index, tid, &row);
            }
            index.check(&store).expect("every invariant holds");
        }
    }
}

fn recall(
    store: &MemoryStore,
    index: &Index,
    model: &Model,
    metric: Metric,
    setting: f32,
) -> (f64, usize) {
    let mut numbers = Numbers(4711);
    let (mut right, mut codes) = (0, 0);
    for _ in 0..100 {
        let query = numbers.vector(DIMS, 150);
        let expected = nearest(model, metric, &query, 10);
        let mut search = search(store, index, Some(&query), setting, vec![]);
        let found = limit(&mut search, model, metric, &query, 10);
        right += found.iter().filter(|row| row.0 <= expected[9].0).count();
        codes += search.stats().codes;
    }
    (right as f64 / 1000.0, codes)
}

#[test]
fn measured_recall_is_not_below_the_setting_by_more_than_a_hundredth() {
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        let model = rows(&mut Numbers(9), 6_000);
        let options = Options {
            filter_columns: 1,
            list_rows: 40,
            ..Options::new(DIMS, metric)
        };
        let store = MemoryStore::new();
        let mut index = build(&store, &options, &model);
        index.calibrate(&store).expect("calibrate");
        for setting in [0.9, 0.95, 0.98, 0.99] {
            let (found, _) = recall(&store, &index, &model, metric, setting);
            assert!(
                found >= f64::from(setting) - 0.01,
                "{metric:?}: {found} at {setting}"
            );
        }
    }
}

/// Vectors of clusters around normal centres, whose rows lie so close that codes err by more than what neighbours differ by.
fn tight(numbers: &mut Numbers, centres: &[Vec<f32>], spread: f32) -> Vec<f32> {
    let centre = &centres[numbers.below(centres.len() as u64) as usize];
    centre
        .iter()
        .map(|x| x + spread * normal(numbers))
        .collect()
}

fn normal(numbers: &mut Numbers) -> f32 {
    let uniform =
        |numbers: &mut Numbers| (numbers.below(1 << 24) as f64 + 0.5) / f64::from(1 << 24);
    let (a, b) = (uniform(numbers), uniform(numbers));
    ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
}

#[test]
fn recall_is_kept_where_codes_err_by_more_than_neighbours_differ() {
    const TIGHT_DIMS: usize = 64;
    for (metric, bits, clusters, spread) in [
        (Metric::L2, 8, 8, 0.1),
        (Metric::Cosine, 8, 8, 0.1),
        (Metric::InnerProduct, 8, 8, 0.1),
        (Metric::L2, 4, 60, 0.3),
        (Metric::InnerProduct, 4, 60, 0.3),
    ] {
        let mut numbers = Numbers(31);
        let centres: Vec<Vec<f32>> = (0..clusters)
            .map(|_| (0..TIGHT_DIMS).map(|_| normal(&mut numbers)).collect())
            .collect();
        let model: Model = (0..16_000)
            .map(|tid| {
                let vector = Some(tight(&mut numbers, &centres, spread));
                (
                    HeapTid(tid),
                    ModelRow {
                        vector,
                        words: vec![],
                    },
                )
            })
            .collect();
        let options = Options {
            bits,
            ..Options::new(TIGHT_DIMS, metric)
        };
        let store = MemoryStore::new();
        let mut index = build(&store, &options, &model);
        index.calibrate(&store).expect("calibrate");
        for setting in [0.9, 0.98] {
            let (mut right, mut codes, mut refined) = (0, 0, 0);
            for _ in 0..100 {
                let query = tight(&mut numbers, &centres, spread);
                let expected = nearest(&model, metric, &query, 10);
                let mut search = search(&store, &index, Some(&query), setting, vec![]);
                let found = limit(&mut search, &model, metric, &query, 10);
                right += found.iter().filter(|row| row.0 <= expected[9].0).count();
                codes += search.stats().codes;
                refined += search.stats().refined;
            }
            let found = right as f64 / 1000.0;
            eprintln!(
                "{metric:?} {bits} bits at {setting}: {found}, {codes} codes, {refined} refined"
            );
            assert!(
                found >= f64::from(setting) - 0.01,
                "{metric:?}, {bits} bits: {found} at {setting}"
            );
        }
    }
}

#[test]
fn a_grown_index_is_nearly_as_good_as_a_built_one() {
    let model = rows(&mut Numbers(10), 5_000);
    let options = Options {
        filter_columns: 1,
        list_rows: 40,
        ..Options::new(DIMS, Metric::L2)
    };
    let (store, grown_store) = (MemoryStore::new(), MemoryStore::new());
    let mut built = build(&store, &options, &model);
    let mut grown = create(&grown_store, &options);
    for (tid, row) in &model {
        insert(&grown_store, &mut grown, *tid, row);
    }
    built.calibrate(&store).expect("calibrate");
    grown.calibrate(&grown_store).expect("calibrate");
    let (built_recall, built_codes) = recall(&store, &built, &model, Metric::L2, 0.95);
    let (grown_recall, grown_codes) = recall(&grown_store, &grown, &model, Metric::L2, 0.95);
    eprintln!("built {built_recall} of {built_codes} codes, grown {grown_recall} of {grown_codes}");
    assert!(
        built_recall >= 0.94 && grown_recall >= 0.94,
        "{built_recall} {grown_recall}"
    );
}
