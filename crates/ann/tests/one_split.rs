//! One split, and one vacuum or search around it: whatever happens between any two pages of the one while the
//! other is at work. Where more than one list is split, the stamps of one hide that another left none.

mod common;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use common::*;
use lookbook_ann::memory::MemoryStore;
use lookbook_ann::{HeapTid, Index, Metric, Options};

/// Rows of the index before the split: some 24 lists, far from the next number at which a split calibrates, too.
const ROWS: u64 = 240;
/// From here on rows are counted that are added until a list is one row short of a split.
const BRINK: u64 = 10_000;
/// Where the list of [`Brink::of_clumps`] lies that rows move to.
const BESIDE: [f32; 2] = [0.0, 25.0];

/// An index one row before a list of it is split, with that row.
struct Brink {
    store: MemoryStore,
    model: Model,
    next: (HeapTid, ModelRow),
}

impl Brink {
    /// `dims`: few give each list few neighbours, many give a list several leaves.
    fn of(numbers: &mut Numbers, dims: usize, clouds: u64, rows: u64) -> Brink {
        Brink::grown(dims, rows, |_| numbers.vector(dims, clouds))
    }

    /// Clumps, in the order in which they come. The list to be split has one in the middle and one on either side; the
    /// middle one is nearer to the list at [`BESIDE`] than to either new one, and moves there. Nothing else moves, so no
    /// other stamp tells of it. Which of the two lists the directory names first follows from what came first.
    fn of_clumps(numbers: &mut Numbers, middle_first: bool) -> Brink {
        Brink::grown(4, 48, |number| {
            let clump = match number {
                0..16 => [1_000.0, 0.0],
                16..48 if (number < 32) == middle_first => [0.0, 0.0],
                16..48 => BESIDE,
                _ if number % 2 == 0 => [-100.0, 0.0],
                _ => [100.0, 0.0],
            };
            let mut vector: Vec<f32> = (0..4).map(|_| numbers.float()).collect();
            vector[0] += clump[0];
            vector[1] += clump[1];
            vector
        })
    }

    /// Grows until one row more splits a list, after so many `rows` at least.
    fn grown(dims: usize, rows: u64, mut vector: impl FnMut(u64) -> Vec<f32>) -> Brink {
        let options = Options {
            list_rows: 16,
            ..Options::new(dims, Metric::L2)
        };
        let mut store = MemoryStore::new();
        let mut index = create(&store, &options);
        let mut model = Model::new();
        for number in 0.. {
            // Those at the brink are never dead.
            let tid = HeapTid(number + if number < rows { 0 } else { BRINK });
            let row = ModelRow {
                vector: Some(vector(number)),
                words: vec![],
            };
            if number >= rows {
                let before = store.fork(false);
                let lists = index.info(&store).expect("info").lists;
                insert(&store, &mut index, tid, &row);
                if index.info(&store).expect("info").lists > lists {
                    store = before;
                    index.bulk_delete(&store, &mut |_| false).expect("vacuum");
                    let next = (tid, row);
                    return Brink { store, model, next };
                }
            } else {
                insert(&store, &mut index, tid, &row);
            }
            model.insert(tid, row);
            if number == 0 {
                // Rows do not move while it grows: then many are nearer to another list, and the split moves many.
                break_off_a_vacuum(&store);
            }
        }
        unreachable!("every list is split one day")
    }

    fn split(&self, store: &MemoryStore) {
        let mut index = Index::open(store).expect("open");
        insert(store, &mut index, self.next.0, &self.next.1);
    }

    /// The rows when the split is done and `dead` ones are gone.
    fn without(&self, dead: fn(HeapTid) -> bool) -> BTreeSet<HeapTid> {
        let tids = self.model.keys().copied().chain([self.next.0]);
        tids.filter(|tid| !dead(*tid)).collect()
    }
}

/// As after a vacuum that was broken off: the next one needs no latch, and rows do not move.
fn break_off_a_vacuum(store: &MemoryStore) {
    let mut index = Index::open(store).expect("open");
    // At the first list.
    store.interrupt_after(Some(0));
    let interrupted = index.bulk_delete(store, &mut |_| false);
    store.interrupt_after(None);
    assert!(interrupted.is_err());
}

/// A third of those before the brink.
fn is_dead(tid: HeapTid) -> bool {
    tid.0.is_multiple_of(3) && tid.0 < BRINK
}

/// Every entry, each once.
fn entries(store: &MemoryStore, case: &str) -> BTreeSet<HeapTid> {
    let mut index = Index::open(store).expect("open");
    index
        .check(store)
        .unwrap_or_else(|error| panic!("{case}: {error}"));
    let mut found = BTreeSet::new();
    let mut twice = Vec::new();
    index
        .bulk_delete(store, &mut |tid| {
            if !found.insert(tid) {
                twice.push(tid);
            }
            false
        })
        .expect("reading over");
    assert!(twice.is_empty(), "{case}: {twice:?} twice");
    found
}

/// Reads that `work` makes.
fn reads_of(store: &MemoryStore, work: impl FnOnce(&MemoryStore)) -> u64 {
    let before = store.reads();
    work(store);
    store.reads() - before
}

fn vacuum(store: &MemoryStore) {
    let mut index = Index::open(store).expect("open");
    index.bulk_delete(store, &mut is_dead).expect("vacuum");
}

/// Runs `work` once for each of its pages, with `other` before the page; then `judge` gets the pages as they are.
fn between_any_two_pages(
    brink: &Brink,
    work: impl Fn(&MemoryStore),
    other: impl Fn(&MemoryStore) + 'static,
    mut judge: impl FnMut(&MemoryStore, u64),
) {
    let pages = reads_of(&brink.store.fork(false), &work);
    let other = Rc::new(other);
    for at in 0..pages {
        let store = brink.store.fork(true);
        let other = other.clone();
        store.at_read(at, move |store| other(store));
        work(&store);
        store.forget_action();
        judge(&store, at);
    }
}

#[test]
fn a_vacuum_misses_no_dead_row_around_a_split() {
    for seed in 0..12 {
        let mut numbers = Numbers(90_000 + seed);
        let brink = Rc::new(match seed {
            0..6 => Brink::of_clumps(&mut numbers, seed % 2 == 0),
            _ => Brink::of(&mut numbers, 4, 1_000, ROWS),
        });
        let (splitter, expected) = (brink.clone(), brink.without(is_dead));
        let mut pace = Numbers(seed);
        between_any_two_pages(
            &brink,
            vacuum,
            move |store| splitter.split(store),
            |store, at| {
                let case = format!("seed {seed}, page {at}");
                assert_eq!(entries(store, &case), expected, "{case}");
                // And after a crash at some record of it.
                let crashed = brink.store.fork(false);
                (0..pace.below(store.log_len() as u64) as usize)
                    .for_each(|record| crashed.apply(store, record));
                vacuum(&crashed);
                let mut found = entries(&crashed, &case);
                found.insert(brink.next.0);
                assert_eq!(found, expected, "{case}, after a crash");
            },
        );
    }
}

#[test]
fn a_split_copies_no_row_that_a_vacuum_takes_out_meanwhile() {
    // One leaf; then two, the second of which tells of what was done to the first; then the first split of all, which
    // codes the rows anew.
    for (dims, rows) in [(4, 200), (2_000, 60), (2_000, 20)] {
        for seed in 0..3 {
            let brink = Brink::of(&mut Numbers(91_000 + seed), dims, 3, rows);
            break_off_a_vacuum(&brink.store);
            let expected = brink.without(is_dead);
            let brink = Rc::new(brink);
            let splitter = brink.clone();
            between_any_two_pages(
                &brink,
                move |store| splitter.split(store),
                vacuum,
                |store, at| {
                    let case = format!("{dims} dimensions, {rows} rows, seed {seed}, page {at}");
                    assert_eq!(entries(store, &case), expected, "{case}");
                },
            );
        }
    }
}

#[test]
fn a_search_loses_and_doubles_no_row_around_a_split() {
    let mut records = 0;
    for seed in 0..12 {
        let mut numbers = Numbers(92_000 + seed);
        let (brink, query) = match seed {
            0..6 => (
                Brink::of_clumps(&mut numbers, seed % 2 == 0),
                vec![BESIDE[0], BESIDE[1], 0.0, 0.0],
            ),
            _ => (
                Brink::of(&mut numbers, 4, 1_000, ROWS),
                numbers.vector(4, 1_000),
            ),
        };
        let brink = Rc::new(brink);
        let found = RefCell::new(BTreeSet::new());
        let recall = if seed % 2 == 0 { 0.9 } else { 1.0 };
        let work = |store: &MemoryStore| {
            let index = Index::open(store).expect("open");
            let mut search = search(store, &index, Some(&query), recall, vec![]);
            // Each row once is what `drain` asserts.
            let rows = drain(&mut search, &brink.model, Metric::L2, Some(&query));
            *found.borrow_mut() = rows.iter().map(|row| row.tid).collect();
        };
        let splitter = brink.clone();
        between_any_two_pages(
            &brink,
            work,
            move |store| splitter.split(store),
            |store, at| {
                for tid in brink.model.keys() {
                    let case = format!("seed {seed}, page {at}");
                    assert!(found.borrow().contains(tid), "{case}: {tid:?} is lost");
                }
                records += store.log_len();
            },
        );
    }
    assert!(records > 0);
}
