//! What others do between two pages of a running operation: no row is lost, doubled or bounded wrongly.

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use common::*;
use lookbook_ann::memory::MemoryStore;
use lookbook_ann::{HeapTid, Index, Metric, Options};

const DIMS: usize = 24;
const OLD: u64 = 260;

fn row(numbers: &mut Numbers) -> ModelRow {
    ModelRow {
        vector: Some(numbers.vector(DIMS, 3)),
        words: vec![],
    }
}

fn grown(numbers: &mut Numbers, rows: u64, metric: Metric) -> (MemoryStore, Index, Model) {
    let store = MemoryStore::new();
    let options = Options {
        list_rows: 16,
        ..Options::new(DIMS, metric)
    };
    let mut index = create(&store, &options);
    let mut model = Model::new();
    for tid in (0..rows).map(HeapTid) {
        let row = row(numbers);
        insert(&store, &mut index, tid, &row);
        model.insert(tid, row);
    }
    (store, index, model)
}

/// Rows that the others added and deleted; what failed for want of the latch is not among them.
#[derive(Default)]
struct Others {
    added: Model,
    deleted: BTreeSet<HeapTid>,
}

/// Leaves an index as a vacuum does that is broken off: rows then do not move, and the next vacuum needs no latch.
fn break_off_a_vacuum(store: &MemoryStore, index: &mut Index) {
    let interrupted = index.bulk_delete(store, &mut |_| {
        store.interrupt_after(Some(0));
        false
    });
    store.interrupt_after(None);
    assert!(interrupted.is_err());
}

/// What another process does, all at once.
fn disturb(store: &MemoryStore, numbers: &mut Numbers, others: &mut Others, vacuuming: bool) {
    let mut index = Index::open(store).expect("open");
    for tid in (0..20 + numbers.below(60)).map(|i| HeapTid(10_000 + i)) {
        let row = row(numbers);
        if try_insert(store, &mut index, tid, &row).is_ok() {
            others.added.insert(tid, row);
        }
    }
    let is_possible = !store.is_latched() || vacuuming;
    if numbers.below(2) == 0 && is_possible {
        let share = 1 + numbers.below(9);
        let dead: BTreeSet<HeapTid> = (0..OLD)
            .filter(|_| numbers.below(10) < share)
            .map(HeapTid)
            .collect();
        index
            .bulk_delete(store, &mut |tid| dead.contains(&tid))
            .expect("vacuum");
        others.deleted = dead;
    }
    if numbers.below(2) == 0 && !store.is_latched() {
        index.cleanup(store).expect("cleanup");
    }
}

#[test]
fn a_search_meets_any_change_between_any_two_of_its_pages() {
    let (mut restarted, mut cases) = (0, 0);
    for seed in 0..150 {
        let mut numbers = Numbers(seed);
        let metric = [Metric::L2, Metric::Cosine, Metric::InnerProduct][seed as usize % 3];
        // Now and then so few rows that the change gives the index its frame.
        let rows = if seed % 5 == 0 { 28 } else { OLD };
        let (store, index, model) = grown(&mut numbers, rows, metric);
        let query = numbers.vector(DIMS, 3);
        let recall = if seed % 2 == 0 { 1.0 } else { 0.9 };
        // The second time: the lists are known then, as they are in the search below.
        let mut quiet = 0;
        for _ in 0..2 {
            let before = store.reads();
            let mut search = search(&store, &index, Some(&query), recall, vec![]);
            drain(&mut search, &model, metric, Some(&query));
            quiet = store.reads() - before;
        }
        let others = Rc::new(RefCell::new(Others::default()));
        let at = store.reads() + 1 + numbers.below(quiet);
        let (mut theirs, shared) = (numbers.clone(), others.clone());
        store.at_read(at, move |store| {
            disturb(store, &mut theirs, &mut shared.borrow_mut(), false)
        });
        let mut search = search(&store, &index, Some(&query), recall, vec![]);
        let found: BTreeSet<HeapTid> = drain(&mut search, &model, metric, Some(&query))
            .iter()
            .map(|found| found.tid)
            .collect();
        store.forget_action();
        let others = others.borrow();
        for tid in model.keys().filter(|tid| !others.deleted.contains(tid)) {
            assert!(found.contains(tid), "seed {seed}: {tid:?} is lost");
        }
        cases += 1;
        restarted += usize::from(store.reads() - at > 2 * quiet);
        let mut index = Index::open(&store).expect("open");
        index.check(&store).expect("every invariant holds");
    }
    assert!(
        restarted > cases / 20,
        "only {restarted} of {cases} searches met a change that mattered"
    );
}

#[test]
fn a_search_between_two_rows_meets_any_change() {
    for seed in 0..60 {
        let mut numbers = Numbers(1000 + seed);
        let (store, mut index, mut model) = grown(&mut numbers, OLD, Metric::L2);
        let query = numbers.vector(DIMS, 3);
        let mut running = search(&store, &index, Some(&query), 0.95, vec![]);
        let mut found = BTreeSet::new();
        let mut tid = 20_000;
        for _ in 0..OLD {
            let Some(row) = running.next_row().expect("search") else {
                break;
            };
            assert!(
                found.insert(row.tid),
                "seed {seed}: {:?} came twice",
                row.tid
            );
            for _ in 0..numbers.below(4) {
                let added = self::row(&mut numbers);
                insert(&store, &mut index, HeapTid(tid), &added);
                tid += 1;
            }
            if numbers.below(40) == 0 {
                let dead = HeapTid(numbers.below(OLD));
                index
                    .bulk_delete(&store, &mut |tid| tid == dead)
                    .expect("vacuum");
                index.cleanup(&store).expect("cleanup");
                model.remove(&dead);
            }
        }
        while let Some(row) = running.next_row().expect("search") {
            assert!(
                found.insert(row.tid),
                "seed {seed}: {:?} came twice",
                row.tid
            );
        }
        assert!(
            model.keys().all(|tid| found.contains(tid)),
            "seed {seed}: a row is lost"
        );
    }
}

#[test]
fn an_insert_or_vacuum_meets_any_change_between_any_two_of_its_pages() {
    for seed in 0..200 {
        let mut numbers = Numbers(5000 + seed);
        let (store, mut index, mut model) = grown(&mut numbers, 20 + seed, Metric::L2);
        let vacuuming = seed % 3 == 0;
        if vacuuming {
            break_off_a_vacuum(&store, &mut index);
        }
        let others = Rc::new(RefCell::new(Others::default()));
        let at = store.reads() + 1 + numbers.below(400);
        let (mut theirs, shared) = (numbers.clone(), others.clone());
        store.at_read(at, move |store| {
            disturb(
                store,
                &mut theirs,
                &mut shared.borrow_mut(),
                vacuuming && seed % 2 == 0,
            )
        });
        let mut mine = BTreeSet::new();
        if seed % 2 == 0 {
            for tid in (30_000..30_040).map(HeapTid) {
                let row = row(&mut numbers);
                // The change may hold the latch at no time but inside itself.
                insert(&store, &mut index, tid, &row);
                model.insert(tid, row);
            }
        } else {
            mine = (0..OLD).filter(|i| i % 3 == 0).map(HeapTid).collect();
            index
                .bulk_delete(&store, &mut |tid| mine.contains(&tid))
                .expect("vacuum");
            if seed % 4 == 1 {
                index.cleanup(&store).expect("cleanup");
            }
        }
        store.forget_action();
        let others = others.borrow();
        model.retain(|tid, _| !others.deleted.contains(tid) && !mine.contains(tid));
        model.extend(others.added.clone());
        let mut index = Index::open(&store).expect("open");
        index
            .check(&store)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let query = numbers.vector(DIMS, 3);
        let mut search = search(&store, &index, Some(&query), 1.0, vec![]);
        let found: BTreeSet<HeapTid> = drain(&mut search, &model, Metric::L2, Some(&query))
            .iter()
            .map(|f| f.tid)
            .collect();
        let expected: BTreeSet<HeapTid> = model.keys().copied().collect();
        assert_eq!(found, expected, "seed {seed}");
    }
}

#[test]
fn an_interrupted_operation_leaves_an_index_that_holds() {
    for seed in 0..80 {
        let mut numbers = Numbers(9000 + seed);
        let (store, mut index, model) = grown(&mut numbers, OLD, Metric::L2);
        let dead: BTreeSet<HeapTid> = (0..OLD).filter(|i| i % 2 == 0).map(HeapTid).collect();
        index
            .bulk_delete(&store, &mut |tid| dead.contains(&tid))
            .expect("vacuum");
        store.interrupt_after(Some(numbers.below(300)));
        let interrupted = index.cleanup(&store).is_err();
        store.interrupt_after(None);
        let mut index = Index::open(&store).expect("open");
        let info = index
            .check(&store)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(info.rows, model.len() - dead.len());
        index.cleanup(&store).expect("cleanup");
        let info = index.check(&store).expect("every invariant holds");
        assert_eq!(
            (info.orphan_pages, info.rows),
            (0, model.len() - dead.len()),
            "{interrupted}"
        );
    }
}

#[test]
fn deleting_everything_and_loading_again_leaves_no_bloat() {
    let mut numbers = Numbers(77);
    let (store, mut index, model) = grown(&mut numbers, 600, Metric::L2);
    index.cleanup(&store).expect("cleanup");
    let before = index.info(&store).expect("info");
    let rounds = 6;
    for _ in 0..rounds {
        index.bulk_delete(&store, &mut |_| true).expect("vacuum");
        index.cleanup(&store).expect("cleanup");
        for (tid, row) in &model {
            insert(&store, &mut index, *tid, row);
        }
    }
    index.cleanup(&store).expect("cleanup");
    let after = index.check(&store).expect("every invariant holds");
    assert_eq!(after.rows, 600);
    assert!(
        after.pages <= before.pages * 5 / 4,
        "{} pages became {}",
        before.pages,
        after.pages
    );
}

#[test]
fn growing_in_one_go_reuses_the_pages_of_replaced_lists() {
    let mut numbers = Numbers(78);
    let (store, mut index, _) = grown(&mut numbers, 3_000, Metric::L2);
    let info = index.check(&store).expect("every invariant holds");
    assert!(info.lists > 60, "{} lists", info.lists);
    assert!(
        info.free_pages < 20 + info.pages / 10,
        "{} of {} free",
        info.free_pages,
        info.pages
    );
}

/// Applies some records of the primary's log before each read of the replica.
fn follow(
    replica: &MemoryStore,
    primary: Rc<MemoryStore>,
    next: Rc<Cell<usize>>,
    mut pace: Numbers,
) {
    replica.at_read(replica.reads() + 1, move |replica| {
        for _ in 0..pace.below(4) {
            if next.get() < primary.log_len() {
                replica.apply(&primary, next.get());
                next.set(next.get() + 1);
            }
        }
        follow(replica, primary, next, pace);
    });
}

#[test]
fn a_search_on_a_replica_meets_every_record_between_its_pages() {
    for seed in 0..120 {
        replica_case(seed, DIMS, 28 + seed);
    }
    // So many dimensions that the directory has several leaves: a list may be replaced between them.
    for seed in 120..123 {
        replica_case(seed, 1_600, 500);
    }
}

fn replica_case(seed: u64, dims: usize, rows: u64) {
    let row = |numbers: &mut Numbers| {
        let vector = Some(numbers.vector(dims, 3));
        ModelRow {
            vector,
            words: vec![],
        }
    };
    let mut numbers = Numbers(40_000 + seed);
    let primary = Rc::new(MemoryStore::with_log());
    let options = Options {
        list_rows: 16,
        ..Options::new(dims, Metric::L2)
    };
    let mut index = create(&primary, &options);
    let mut model = Model::new();
    for tid in (0..rows).map(HeapTid) {
        let row = row(&mut numbers);
        insert(&primary, &mut index, tid, &row);
        model.insert(tid, row);
    }
    let start = primary.log_len();
    let visible: BTreeSet<HeapTid> = model.keys().copied().collect();
    for tid in (5_000..5_030 + numbers.below(60)).map(HeapTid) {
        let row = row(&mut numbers);
        insert(&primary, &mut index, tid, &row);
        model.insert(tid, row);
    }
    let dead: BTreeSet<HeapTid> = visible
        .iter()
        .copied()
        .filter(|_| numbers.below(4) == 0)
        .collect();
    if seed.is_multiple_of(3) {
        index
            .bulk_delete(&*primary, &mut |tid| dead.contains(&tid))
            .expect("vacuum");
        index.cleanup(&*primary).expect("cleanup");
    }
    index.check(&*primary).expect("every invariant holds");
    let replica = primary.replay(start);
    let query = numbers.vector(dims, 3);
    let mut running = search(
        &replica,
        &Index::open(&replica).expect("open"),
        Some(&query),
        1.0,
        vec![],
    );
    follow(
        &replica,
        primary.clone(),
        Rc::new(Cell::new(start)),
        numbers.clone(),
    );
    let found: BTreeSet<HeapTid> = drain(&mut running, &model, Metric::L2, Some(&query))
        .iter()
        .map(|f| f.tid)
        .collect();
    for tid in visible
        .iter()
        .filter(|tid| !seed.is_multiple_of(3) || !dead.contains(tid))
    {
        assert!(found.contains(tid), "seed {seed}: {tid:?} is lost");
    }
}

/// Inserts some rows before every few reads, so that lists split and rows move between them again and again.
fn keep_inserting(
    store: &MemoryStore,
    pause: u64,
    added: Rc<RefCell<Model>>,
    mut numbers: Numbers,
) {
    store.at_read(store.reads() + 1 + pause, move |store| {
        let mut index = Index::open(store).expect("open");
        for _ in 0..8 {
            let tid = HeapTid(50_000 + added.borrow().len() as u64);
            let row = few_dimensions(&mut numbers);
            // Nobody waits for the latch here.
            if try_insert(store, &mut index, tid, &row).is_ok() {
                added.borrow_mut().insert(tid, row);
            }
        }
        if added.borrow().len() < 240 {
            keep_inserting(store, pause, added, numbers);
        }
    });
}

/// With few dimensions a list has few neighbours, so most lists have no part in a split.
fn few_dimensions(numbers: &mut Numbers) -> ModelRow {
    ModelRow {
        vector: Some(numbers.vector(4, 1_000)),
        words: vec![],
    }
}

fn many_lists(numbers: &mut Numbers) -> (MemoryStore, Index, Model) {
    let store = MemoryStore::new();
    let options = Options {
        list_rows: 16,
        ..Options::new(4, Metric::L2)
    };
    let mut index = create(&store, &options);
    let mut model = Model::new();
    for tid in (0..1_200).map(HeapTid) {
        let row = few_dimensions(numbers);
        insert(&store, &mut index, tid, &row);
        model.insert(tid, row);
    }
    (store, index, model)
}

#[test]
fn a_search_loses_and_doubles_no_row_that_moves() {
    for seed in 0..24 {
        let mut numbers = Numbers(70_000 + seed);
        let (store, index, model) = many_lists(&mut numbers);
        let added = Rc::new(RefCell::new(Model::new()));
        keep_inserting(&store, 3 + seed % 7, added.clone(), numbers.clone());
        let query = few_dimensions(&mut numbers).vector.expect("a vector");
        let mut running = search(&store, &index, Some(&query), 0.9, vec![]);
        // Each row once is what `drain` asserts.
        let found: BTreeSet<HeapTid> = drain(&mut running, &model, Metric::L2, Some(&query))
            .iter()
            .map(|found| found.tid)
            .collect();
        store.forget_action();
        for tid in model.keys() {
            assert!(found.contains(tid), "seed {seed}: {tid:?} is lost");
        }
        let mut index = Index::open(&store).expect("open");
        index.check(&store).expect("every invariant holds");
    }
}

#[test]
fn a_vacuum_leaves_no_dead_row_that_would_have_moved() {
    for seed in 0..12 {
        let mut numbers = Numbers(80_000 + seed);
        let (store, mut index, mut model) = many_lists(&mut numbers);
        let added = Rc::new(RefCell::new(Model::new()));
        keep_inserting(&store, 3 + seed % 7, added.clone(), numbers.clone());
        index
            .bulk_delete(&store, &mut |tid| tid.0 < 50_000 && tid.0 % 3 == 0)
            .expect("vacuum");
        store.forget_action();
        model.retain(|tid, _| tid.0 % 3 != 0);
        model.extend(added.borrow().clone());
        let query = few_dimensions(&mut numbers).vector.expect("a vector");
        let mut search = search(&store, &index, Some(&query), 1.0, vec![]);
        let found = drain(&mut search, &model, Metric::L2, Some(&query));
        let found: BTreeSet<HeapTid> = found.iter().map(|found| found.tid).collect();
        let expected: BTreeSet<HeapTid> = model.keys().copied().collect();
        assert_eq!(found, expected, "seed {seed}");
    }
}
