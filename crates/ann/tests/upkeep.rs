//! What vacuum and check do beside taking rows out: calibrate after large deletes, and call nothing damage that others
//! did meanwhile.

mod common;

use std::collections::BTreeSet;

use common::*;
use lookbook_ann::memory::MemoryStore;
use lookbook_ann::{HeapTid, Index, Metric, Options};

const DIMS: usize = 16;

fn row(numbers: &mut Numbers) -> ModelRow {
    ModelRow {
        vector: Some(numbers.vector(DIMS, 40)),
        words: vec![],
    }
}

fn grown(numbers: &mut Numbers, rows: u64) -> (MemoryStore, Index) {
    let store = MemoryStore::new();
    let options = Options {
        list_rows: 16,
        ..Options::new(DIMS, Metric::L2)
    };
    let mut index = create(&store, &options);
    for tid in (0..rows).map(HeapTid) {
        insert(&store, &mut index, tid, &row(numbers));
    }
    (store, index)
}

#[test]
fn a_vacuum_after_large_deletes_calibrates_again() {
    let (store, mut index) = grown(&mut Numbers(95_000), 1_500);
    index.calibrate(&store).expect("calibration");
    let before = index.info(&store).expect("info");
    assert_eq!(before.calibration.lists as usize, before.lists);
    // A few: what was measured stays.
    index
        .bulk_delete(&store, &mut |tid| tid.0 % 20 == 1)
        .expect("vacuum");
    let few = index.cleanup(&store).expect("cleanup");
    assert_eq!(few.calibration, before.calibration);
    index
        .bulk_delete(&store, &mut |tid| !tid.0.is_multiple_of(15))
        .expect("vacuum");
    let after = index.cleanup(&store).expect("cleanup");
    assert!(2 * after.lists <= before.lists, "{} lists", after.lists);
    let calibrated = index.info(&store).expect("info").calibration.lists;
    assert_eq!(calibrated as usize, after.lists);
}

/// While a check reads, a vacuum takes rows out whose TIDs are used again at once, lists get leaves, and radii grow.
#[test]
fn a_check_calls_nothing_damage_that_others_do_meanwhile() {
    let mut numbers = Numbers(96_000);
    let (base, mut index) = grown(&mut numbers, 60);
    // As after a vacuum that was broken off: the next one needs no latch, which the check holds.
    base.interrupt_after(Some(0));
    assert!(index.bulk_delete(&base, &mut |_| false).is_err());
    base.interrupt_after(None);
    let quiet = base.fork(false);
    index.check(&quiet).expect("every invariant holds");
    for at in 0..quiet.reads() {
        let store = base.fork(false);
        let mut theirs = Numbers(at);
        store.at_read(at, move |store| {
            let mut index = Index::open(store).expect("open");
            let dead: BTreeSet<HeapTid> = (0..60).filter(|n| n % 4 == 0).map(HeapTid).collect();
            index
                .bulk_delete(store, &mut |tid| dead.contains(&tid))
                .expect("vacuum");
            for tid in dead.into_iter().chain((1_000..1_400).map(HeapTid)) {
                let mut row = row(&mut theirs);
                // Far out, and most of them in one list: nobody splits it.
                if let Some(vector) = &mut row.vector {
                    vector[0] += 4.0;
                }
                insert(store, &mut index, tid, &row);
            }
        });
        let mut index = Index::open(&store).expect("open");
        if let Err(error) = index.check(&store) {
            panic!("page {at}: {error}");
        }
        store.forget_action();
        let info = index.check(&store).expect("every invariant holds");
        assert_eq!(info.rows, 460, "page {at}");
    }
}

#[test]
fn an_index_of_other_vectors_says_so_and_one_that_was_emptied_begins_anew() {
    let mut numbers = Numbers(21);
    let (store, mut index) = grown(&mut numbers, 800);
    let far = |numbers: &mut Numbers| {
        let near = row(numbers).vector.unwrap_or_default();
        ModelRow {
            vector: Some(near.into_iter().map(|x| x + 20.0).collect()),
            words: vec![],
        }
    };
    let drift = |index: &mut Index| index.info(&store).expect("info").drift;
    assert!(drift(&mut index) < 1.0, "{}", drift(&mut index));
    for tid in (1_000..1_800).map(HeapTid) {
        insert(&store, &mut index, tid, &far(&mut numbers));
    }
    index
        .bulk_delete(&store, &mut |tid| tid.0 < 1_000)
        .expect("vacuum");
    let moved = index.cleanup(&store).expect("cleanup");
    assert!(moved.drift > 10.0, "{}", moved.drift);

    index.bulk_delete(&store, &mut |_| true).expect("vacuum");
    assert_eq!(index.cleanup(&store).expect("cleanup").lists, 1);
    let model: Model = (2_000..2_800)
        .map(|tid| (HeapTid(tid), far(&mut numbers)))
        .collect();
    for (tid, row) in &model {
        insert(&store, &mut index, *tid, row);
    }
    assert!(drift(&mut index) < 1.0, "{}", drift(&mut index));
    index.check(&store).expect("every invariant holds");
    let query = far(&mut numbers).vector.unwrap_or_default();
    let expected = nearest(&model, Metric::L2, &query, 800);
    let mut found = search(&store, &index, Some(&query), 1.0, vec![]);
    let found = limit(&mut found, &model, Metric::L2, &query, 800);
    assert_eq!(found, expected);
    // The pages of the old mean are swept like all that nothing leads to.
    assert_eq!(index.cleanup(&store).expect("cleanup").orphan_pages, 0);
}

#[test]
fn giant_lists_are_divided_by_a_vacuum_and_not_by_who_adds_a_row() {
    let mut numbers = Numbers(22);
    let mut model: Model = (0..3_000)
        .map(|tid| (HeapTid(tid), row(&mut numbers)))
        .collect();
    for row in model.values_mut().step_by(2) {
        row.vector = Some(vec![1.0; DIMS]);
    }
    let store = MemoryStore::new();
    let options = Options {
        list_rows: 16,
        lists: 2,
        ..Options::new(DIMS, Metric::L2)
    };
    let mut index = build(&store, &options, &model);
    let built = index.info(&store).expect("info");
    assert!(built.longest_list >= 1_500, "{}", built.longest_list);
    for tid in (5_000..5_064).map(HeapTid) {
        insert(&store, &mut index, tid, &row(&mut numbers));
    }
    assert_eq!(index.info(&store).expect("info").lists, built.lists);
    index.cleanup(&store).expect("cleanup");
    let info = index.check(&store).expect("every invariant holds");
    assert_eq!(info.rows, 3_064);
    // Fewer than a list is split at, and what moved to one from its neighbours.
    assert!(info.longest_list < 48, "{}", info.longest_list);
}
