//! A bulk-built index against brute force: exactness, recall by setting, size, and what a grown one loses.

mod common;

use common::*;
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

#[test]
fn equal_rows_are_built_into_lists_of_the_usual_length() {
    let mut numbers = Numbers(12);
    let options = Options {
        list_rows: 40,
        ..Options::new(DIMS, Metric::L2)
    };
    for (what, others) in [("all", 0), ("half", 2)] {
        let model: Model = (0..6_000)
            .map(|tid| {
                let vector = match others {
                    2 if tid % 2 == 0 => numbers.vector(DIMS, 150),
                    _ => vec![1.0; DIMS],
                };
                let row = ModelRow {
                    vector: Some(vector),
                    words: vec![],
                };
                (HeapTid(tid), row)
            })
            .collect();
        let store = MemoryStore::new();
        let mut index = build(&store, &options, &model);
        let info = index.check(&store).expect("every invariant holds");
        assert_eq!(info.rows, 6_000, "{what}");
        assert!(info.longest_list <= 120, "{what}: {}", info.longest_list);
        assert!(info.lists < 300, "{what}: {}", info.lists);
        let query = numbers.vector(DIMS, 150);
        let search = &mut search(&store, &index, Some(&query), 1.0, vec![]);
        let found = limit(search, &model, Metric::L2, &query, 10);
        let distances =
            |rows: Vec<(f64, HeapTid)>| rows.iter().map(|row| row.0).collect::<Vec<_>>();
        let expected = nearest(&model, Metric::L2, &query, 10);
        assert_eq!(distances(found), distances(expected), "{what}");
    }
}

#[test]
fn bounds_hold_for_numbers_of_any_size() {
    let mut numbers = Numbers(37);
    let sizes = [
        1e-45f32, 1e-43, 1e-38, 1e-32, 1e-20, 1e-9, 1.0, 1e9, 1e16, 1e37,
    ];
    let vector = |numbers: &mut Numbers, size: f32| -> Vec<f32> {
        (0..4).map(|_| size * (8.0 * numbers.float())).collect()
    };
    let mut model = Model::new();
    for tid in 0..3_000 {
        let size = sizes[numbers.below(sizes.len() as u64) as usize];
        let row = ModelRow {
            vector: Some(vector(&mut numbers, size)),
            words: vec![],
        };
        model.insert(HeapTid(tid), row);
    }
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        let store = MemoryStore::new();
        let index = build(&store, &Options::new(4, metric), &model);
        for size in sizes {
            for _ in 0..8 {
                let query = vector(&mut numbers, size);
                // Both assert that bounds hold.
                let mut all = search(&store, &index, Some(&query), 1.0, vec![]);
                drain(&mut all, &model, metric, Some(&query));
                let mut near = search(&store, &index, Some(&query), 1.0, vec![]);
                let found = limit(&mut near, &model, metric, &query, 10);
                let nearest = nearest(&model, metric, &query, 10);
                let distances =
                    |rows: &[(f64, HeapTid)]| rows.iter().map(|row| row.0).collect::<Vec<_>>();
                assert_eq!(
                    distances(&found),
                    distances(&nearest),
                    "{metric:?} of {query:?}"
                );
            }
        }
    }
}
