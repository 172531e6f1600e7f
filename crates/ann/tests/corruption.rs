//! Damaged pages: an error or another answer, never a panic and never an endless walk.

mod common;

use common::*;
use lookbook_ann::memory::MemoryStore;
use lookbook_ann::{
    BlockId, Columns, Error, HeapTid, Index, Metric, Options, PAGE_BYTES, PageBytes, PageStore,
    Result, Search, SearchOptions,
};

/// Lists, a directory, a frame, and every so many rows one without a vector.
fn sound(numbers: &mut Numbers, rows: u64, list_rows: u32, nulls: u64) -> MemoryStore {
    let store = MemoryStore::new();
    let options = Options {
        list_rows,
        filter_columns: 1,
        ..Options::new(40, Metric::L2)
    };
    let mut index = create(&store, &options);
    for tid in (0..rows).map(HeapTid) {
        let vector = (tid.0 % nulls != 0).then(|| numbers.vector(40, 3));
        let words = vec![1];
        insert(&store, &mut index, tid, &ModelRow { vector, words });
    }
    store
}

fn damaged(numbers: &mut Numbers, rows: u64) -> MemoryStore {
    let store = sound(numbers, rows, 16, 30);
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
    store
}

/// Searches to the end; gives the number of rows.
fn search_all(store: &MemoryStore, index: &Index, query: &[f32], recall: f32) -> Result<usize> {
    let options = SearchOptions {
        recall,
        ..SearchOptions::default()
    };
    let mut search = Search::new(store, index.clone(), Some(query), &options)?;
    let mut rows = 0;
    while search.next_row()?.is_some() {
        rows += 1;
    }
    Ok(rows)
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
        errors += usize::from(store.tried(|| index.check(&store)).is_err());
        let dims = index.options().dimensions;
        let words = vec![1; index.options().filter_columns];
        let query = numbers.vector(dims, 3);
        for recall in [0.9, 1.0] {
            let _ = store.tried(|| search_all(&store, &index, &query, recall));
        }
        for tid in (500..540).map(HeapTid) {
            let row = ModelRow {
                vector: Some(numbers.vector(dims, 3)),
                words: words.clone(),
            };
            let done = store.tried(|| try_insert(&store, &mut index, tid, &row));
            errors += usize::from(done.is_err());
        }
        let _ = store.tried(|| index.bulk_delete(&store, &mut |tid| tid.0 % 2 == 0));
        let _ = store.tried(|| index.cleanup(&store));
        let _ = store.tried(|| index.info(&store));
    }
    assert!(errors > 20, "{errors} errors: the damage did not matter");
}

const NEXT: std::ops::Range<usize> = 8..16;
const OWNER: std::ops::Range<usize> = 24..32;

/// Every operation that comes to a page with this link must say that it is damaged, and none may go on for ever.
fn expect_damage(sound: &MemoryStore, block: BlockId, kind: u8, link: &[u8]) {
    let mut numbers = Numbers(5);
    let store = sound.fork(false);
    let old = store.read(block).expect("memory")[NEXT].to_vec();
    for (at, (old, new)) in NEXT.zip(old.iter().zip(link)) {
        store.corrupt(block, at, old ^ new);
    }
    let what = format!("page {block} of kind {kind} leads to {link:?}");
    let mut index = Index::open(&store).expect("the first page is sound");
    let query = numbers.vector(40, 3);
    let is_corrupt = |result: Result<()>, operation: &str| {
        let is_corrupt = matches!(result, Err(Error::Corrupt { .. }));
        assert!(is_corrupt, "{operation}: {what}: {result:?}");
    };
    let checked = store.tried(|| index.check(&store));
    is_corrupt(checked.map(drop), "check");
    for recall in [0.9, 1.0] {
        let found = store.tried(|| search_all(&store, &index, &query, recall));
        is_corrupt(found.map(drop), "search");
    }
    is_corrupt(store.tried(|| index.info(&store)).map(drop), "info");
    for tid in (5_000..5_060).map(HeapTid) {
        let vector = (tid.0 % 10 != 0).then(|| numbers.vector(40, 3));
        let words = vec![1];
        let _ = store.tried(|| try_insert(&store, &mut index, tid, &ModelRow { vector, words }));
    }
    let store = store.fork(false);
    let deleted = store.tried(|| index.bulk_delete(&store, &mut |_| false));
    is_corrupt(deleted.map(drop), "bulk_delete");
    is_corrupt(store.tried(|| index.cleanup(&store)).map(drop), "cleanup");
}

#[test]
fn a_chain_that_runs_in_a_circle_or_into_another_is_damage_to_whoever_walks_it() {
    // Long lists and chains without vectors; then a long directory.
    for (rows, list_rows, nulls, wanted) in [(4_000, 2_000, 2, &[3, 6][..]), (4_500, 16, 30, &[4])]
    {
        let store = sound(&mut Numbers(7), rows, list_rows, nulls);
        let mut index = Index::open(&store).expect("open");
        index.cleanup(&store).expect("sound");
        let blocks = store.block_count().expect("memory");
        let pages: Vec<(BlockId, PageBytes)> = (0..blocks)
            .map(|block| (BlockId(block), *store.read(BlockId(block)).expect("memory")))
            .collect();
        for &kind in wanted {
            let of_kind = || pages.iter().filter(|(_, page)| page[2] == kind);
            assert!(of_kind().count() > 1, "one page of kind {kind}");
            for (block, page) in of_kind() {
                let incarnation = &page[4..8];
                let own = [&block.0.to_le_bytes(), incarnation].concat();
                expect_damage(&store, *block, kind, &page[OWNER]);
                expect_damage(&store, *block, kind, &own);
                let other = of_kind().find(|(_, other)| other[OWNER] != page[OWNER]);
                if let Some((_, other)) = other {
                    expect_damage(&store, *block, kind, &other[OWNER]);
                }
            }
        }
    }
}

#[test]
fn a_lost_frame_is_damage_and_not_an_index_that_changes_too_fast() {
    let store = sound(&mut Numbers(3), 200, 16, 30);
    let blocks = store.block_count().expect("memory");
    let frame = (0..blocks)
        .map(BlockId)
        .find(|block| store.read(*block).expect("memory")[2] == 7);
    let frame = frame.expect("a frame");
    store.corrupt(frame, 4, 2);
    match Index::open(&store) {
        Err(Error::Corrupt { block, .. }) => assert_eq!(block, frame),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_first_page_that_its_columns_contradict_is_damaged() {
    let store = sound(&mut Numbers(3), 10, 16, 30);
    let columns = Columns {
        dimensions: Some(40),
        metric: Metric::L2,
        filter_columns: 1,
    };
    let opened = |columns| Index::open(&store).and_then(|index| index.expect(columns));
    opened(columns).expect("sound");
    let dimensions = None;
    opened(Columns {
        dimensions,
        ..columns
    })
    .expect("nothing is said of them");
    for (offset, flip) in [(32, 1), (36, 1), (38, 2), (163, 0x80)] {
        store.corrupt(BlockId(0), offset, flip);
        let found = opened(columns);
        assert!(
            matches!(found, Err(Error::Corrupt { .. })),
            "{offset}: {found:?}"
        );
        store.corrupt(BlockId(0), offset, flip);
    }
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
