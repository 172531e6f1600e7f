//! Random histories against brute force, after every operation and after every record of the log.

mod common;

use std::collections::BTreeSet;

use common::*;
use lookbook_ann::memory::MemoryStore;
use lookbook_ann::{Filter, HeapTid, Index, Metric, Options};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn options(dims: usize, metric: Metric) -> Options {
    Options {
        list_rows: 16,
        filter_columns: 1,
        ..Options::new(dims, metric)
    }
}

fn row(numbers: &mut Numbers, dims: usize) -> ModelRow {
    let words = vec![numbers.below(5) as u32];
    let vector = match numbers.below(40) {
        0 => None,
        1 => Some(vec![0.0; dims]),
        2 => Some(numbers.vector(dims, 6).iter().map(|x| x * 1e25).collect()),
        _ => Some(numbers.vector(dims, 6)),
    };
    ModelRow { vector, words }
}

/// One step of a history: mostly inserts, some deletes with vacuum, some clean-ups.
fn step(
    store: &MemoryStore,
    index: &mut Index,
    model: &mut Model,
    numbers: &mut Numbers,
    dims: usize,
    inserts: u64,
) {
    match numbers.below(inserts + 3) {
        0 => {
            let share = numbers.below(4);
            let dead: BTreeSet<HeapTid> = model
                .keys()
                .copied()
                .filter(|_| numbers.below(4) < share)
                .collect();
            let removed = index
                .bulk_delete(store, &mut |tid| dead.contains(&tid))
                .expect("vacuum");
            assert_eq!(removed.removed, dead.len());
            assert_eq!(removed.kept, model.len() - dead.len());
            model.retain(|tid, _| !dead.contains(tid));
        }
        1 => {
            let left = index.cleanup(store).expect("cleanup");
            assert_eq!(left, index.check(store).expect("every invariant holds"));
            assert_eq!(left.orphan_pages, 0);
        }
        _ => {
            let row = row(numbers, dims);
            let tid = HeapTid(
                (0..)
                    .find(|t| !model.contains_key(&HeapTid(*t)))
                    .expect("a number"),
            );
            insert(store, index, tid, &row);
            model.insert(tid, row);
        }
    }
}

fn assert_holds(store: &MemoryStore, index: &mut Index, model: &Model, numbers: &mut Numbers) {
    let info = index.check(store).expect("every invariant holds");
    assert_eq!(info.rows + info.aside_rows, model.len());
    let Options {
        dimensions, metric, ..
    } = *index.options();
    let query = numbers.vector(dimensions, 6);
    for recall in [0.9, 1.0] {
        let mut search = search(store, index, Some(&query), recall, Vec::new());
        let all = drain(&mut search, model, metric, Some(&query));
        assert_eq!(all.len(), model.len(), "every row comes, once");
    }
    let expected = nearest(model, metric, &query, 12);
    let mut exact = search(store, index, Some(&query), 1.0, Vec::new());
    let found = limit(&mut exact, model, metric, &query, expected.len());
    let distances = |rows: &[(f64, HeapTid)]| rows.iter().map(|row| row.0).collect::<Vec<_>>();
    assert_eq!(distances(&found), distances(&expected), "recall 1 is exact");
    let word = numbers.below(5) as u32;
    let filter = Filter::new(0, vec![word]);
    let mut filtered = search(store, index, Some(&query), 0.9, vec![filter]);
    let rows = drain(&mut filtered, model, metric, Some(&query));
    assert_eq!(
        rows.len(),
        model.values().filter(|row| row.words == [word]).count()
    );
}

fn seeded(cases: u32) -> ProptestConfig {
    let rng_seed = RngSeed::Fixed(20_261_120);
    ProptestConfig {
        cases,
        rng_seed,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(seeded(12))]

    #[test]
    fn any_history_answers_as_brute_force_does(seed: u64, metric in 0..3usize, dims in 1..80usize) {
        let metric = [Metric::L2, Metric::Cosine, Metric::InnerProduct][metric];
        let store = MemoryStore::new();
        let mut index = create(&store, &options(dims, metric));
        let (mut model, mut numbers) = (Model::new(), Numbers(seed));
        for round in 0..400 {
            step(&store, &mut index, &mut model, &mut numbers, dims, 60);
            if round % 40 == 0 {
                assert_holds(&store, &mut index, &model, &mut numbers);
            }
        }
        assert_holds(&store, &mut index, &model, &mut numbers);
    }

    #[test]
    fn a_crash_after_any_record_loses_nothing_that_was_done(seed: u64, metric in 0..3usize) {
        let metric = [Metric::L2, Metric::Cosine, Metric::InnerProduct][metric];
        let (store, dims) = (MemoryStore::with_log(), 20);
        let mut index = create(&store, &options(dims, metric));
        let (mut model, mut numbers) = (Model::new(), Numbers(seed));
        // The state after each operation, and where the log was.
        let mut states = vec![(store.log_len(), model.clone())];
        for _ in 0..150 {
            step(&store, &mut index, &mut model, &mut numbers, dims, 20);
            states.push((store.log_len(), model.clone()));
        }
        let replica = MemoryStore::new();
        let mut done = 0;
        for record in 0..store.log_len() {
            replica.apply(&store, record);
            while done + 1 < states.len() && states[done + 1].0 <= record + 1 {
                done += 1;
            }
            if record + 1 < states[0].0 {
                continue;
            }
            let (before, after) = (&states[done].1, &states[(done + 1).min(states.len() - 1)].1);
            assert_between(&replica, before, after, metric, dims);
        }
    }

    #[test]
    fn an_index_goes_on_after_a_crash_anywhere(seed: u64) {
        let (store, dims) = (MemoryStore::with_log(), 20);
        let mut index = create(&store, &options(dims, Metric::L2));
        let (mut model, mut numbers) = (Model::new(), Numbers(seed));
        for _ in 0..120 {
            step(&store, &mut index, &mut model, &mut numbers, dims, 20);
        }
        for _ in 0..6 {
            let records = 1 + numbers.below(store.log_len() as u64) as usize;
            let crashed = store.replay(records);
            let mut index = Index::open(&crashed).expect("open");
            let mut search = search(&crashed, &index, Some(&[1.0; 20]), 1.0, Vec::new());
            // What was there is not compared here: take all of it as the model.
            let mut model = Model::new();
            while let Some(found) = search.next_row().expect("search") {
                model.insert(found.tid, ModelRow { vector: None, words: vec![0] });
            }
            let all: Vec<HeapTid> = model.keys().copied().collect();
            index.cleanup(&crashed).expect("cleanup");
            let info = index.check(&crashed).expect("check");
            assert_eq!((info.orphan_pages, info.rows + info.aside_rows), (0, model.len()));
            index.bulk_delete(&crashed, &mut |_| true).expect("vacuum");
            index.cleanup(&crashed).expect("cleanup");
            let mut model = Model::new();
            for tid in all.into_iter().chain((1000..1100).map(HeapTid)) {
                let row = row(&mut numbers, dims);
                insert(&crashed, &mut index, tid, &row);
                model.insert(tid, row);
            }
            assert_holds(&crashed, &mut index, &model, &mut numbers);
        }
    }
}

/// The index holds what it held before an operation, or part of what the operation changes.
fn assert_between(store: &MemoryStore, before: &Model, after: &Model, metric: Metric, dims: usize) {
    let mut index = Index::open(store).expect("open");
    index.check(store).expect("every invariant holds");
    let query = Numbers(5).vector(dims, 6);
    let known: Model = before
        .iter()
        .chain(after)
        .map(|(tid, row)| (*tid, row.clone()))
        .collect();
    let mut search = search(store, &index, Some(&query), 1.0, Vec::new());
    let found: BTreeSet<HeapTid> = drain(&mut search, &known, metric, Some(&query))
        .iter()
        .map(|found| found.tid)
        .collect();
    for tid in before.keys().filter(|tid| after.contains_key(tid)) {
        assert!(found.contains(tid), "{tid:?} is lost");
    }
    assert!(
        found.iter().all(|tid| known.contains_key(tid)),
        "a row came back"
    );
}
