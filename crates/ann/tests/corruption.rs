//! Damaged pages: an error or another answer, never a panic and never an endless loop.

mod common;

use common::*;
use lookbook_ann::memory::MemoryStore;
use lookbook_ann::{BlockId, Error, HeapTid, Index, Metric, Options, PAGE_BYTES, PageStore};

fn damaged(numbers: &mut Numbers, rows: u64) -> MemoryStore {
    let store = MemoryStore::new();
    let options = Options {
        list_rows: 16,
        filter_columns: 1,
        ..Options::new(40, Metric::L2)
    };
    let mut index = create(&store, &options);
    for tid in (0..rows).map(HeapTid) {
        let vector = (tid.0 % 30 != 0).then(|| numbers.vector(40, 3));
        insert(
            &store,
            &mut index,
            tid,
            &ModelRow {
                vector,
                words: vec![1],
            },
        );
    }
    let pages = store.block_count().expect("memory");
    for _ in 0..1 + numbers.below(3) {
        let block = BlockId(numbers.below(u64::from(pages)) as u32);
        // Half of them in the first bytes, where the numbers are.
        let range = if numbers.below(2) == 0 {
            128
        } else {
            PAGE_BYTES as u64
        };
        store.corrupt(block, numbers.below(range) as usize, 1 << numbers.below(8));
    }
    // What would run in a circle must ask whether it should stop.
    store.interrupt_after(Some(200_000));
    store
}

#[test]
fn flipped_bits_never_panic() {
    let mut errors = 0;
    for seed in 0..400 {
        let mut numbers = Numbers(seed);
        let store = damaged(&mut numbers, 100);
        let Ok(mut index) = Index::open(&store) else {
            errors += 1;
            continue;
        };
        errors += usize::from(index.check(&store).is_err());
        let dims = index.options().dimensions;
        let words = vec![1; index.options().filter_columns];
        let query = numbers.vector(dims, 3);
        let options = lookbook_ann::SearchOptions {
            recall: 0.9,
            filters: vec![],
            limit: None,
        };
        if let Ok(mut search) =
            lookbook_ann::Search::new(&store, index.clone(), Some(&query), &options)
        {
            let mut rows = 0;
            while rows < 1_000 && matches!(search.next_row(), Ok(Some(_))) {
                rows += 1;
            }
        }
        for tid in (500..540).map(HeapTid) {
            let row = ModelRow {
                vector: Some(numbers.vector(dims, 3)),
                words: words.clone(),
            };
            errors += usize::from(try_insert(&store, &mut index, tid, &row).is_err());
        }
        let _ = index.bulk_delete(&store, &mut |tid| tid.0 % 2 == 0);
        let _ = index.cleanup(&store);
        let _ = index.info(&store);
    }
    assert!(errors > 20, "{errors} errors: the damage did not matter");
}

#[test]
fn a_page_of_noise_is_named_by_block_and_offset() {
    for block in 0..5 {
        let mut numbers = Numbers(3);
        let store = MemoryStore::new();
        let mut index = create(&store, &Options::new(40, Metric::L2));
        for tid in (0..50).map(HeapTid) {
            let row = ModelRow {
                vector: Some(numbers.vector(40, 3)),
                words: vec![],
            };
            insert(&store, &mut index, tid, &row);
        }
        for offset in 0..PAGE_BYTES {
            store.corrupt(BlockId(block), offset, numbers.next() as u8);
        }
        let found = Index::open(&store).and_then(|mut index| index.check(&store));
        match found {
            Err(Error::Corrupt { block: found, .. }) => assert!(found.0 <= 6),
            Err(other) => panic!("{other}"),
            // A page that nothing names.
            Ok(info) => assert!(info.orphan_pages + info.free_pages > 0, "{info:?}"),
        }
    }
}
