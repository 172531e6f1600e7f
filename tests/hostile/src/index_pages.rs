//! A sound index with bytes of its pages overwritten: every codec gives a value or an error, whoever reads or writes.
//!
//! The input is patches of four bytes: block, offset (two, little-endian), new byte.

use lookbook_ann::memory::MemoryStore;
use lookbook_ann::{
    BlockId, HeapTid, Index, Metric, Options, PAGE_BYTES, PageStore, PageTxn, Result, Row, Search,
    SearchOptions, empty_index,
};

const DIMENSIONS: usize = 24;
const ROWS: u64 = 60;

thread_local! {
    static SOUND: MemoryStore = sound();
}

fn vector(n: u64) -> Vec<f32> {
    (0..DIMENSIONS as u64)
        .map(|d| ((n * 31 + d * 17) % 97) as f32 / 97.0 + (n % 3) as f32)
        .collect()
}

/// Several lists, a frame, a directory, a row without a vector.
fn sound() -> MemoryStore {
    let store = MemoryStore::with_log();
    let options = Options {
        list_rows: 16,
        filter_columns: 1,
        ..Options::new(DIMENSIONS, Metric::L2)
    };
    let mut txn = store.begin();
    let (_, handle) = txn.allocate(|_| true).expect("memory");
    *txn.page_mut(handle) = *empty_index(&options).expect("good options");
    txn.commit().expect("memory");
    let mut index = Index::open(&store).expect("a new index");
    for tid in 0..ROWS {
        let vector = (tid % 20 != 0).then(|| vector(tid));
        insert(&store, &mut index, tid, vector.as_deref()).expect("memory");
    }
    store
}

fn insert(store: &MemoryStore, index: &mut Index, tid: u64, vector: Option<&[f32]>) -> Result<()> {
    index.insert(
        store,
        Row {
            tid: HeapTid(tid),
            vector,
            words: &[tid as u32 % 2],
        },
    )
}

/// Whether the index is still sound.
pub fn index_pages(patches: &[u8]) -> bool {
    let store = SOUND.with(|sound| sound.replay(sound.log_len()));
    let blocks = store.block_count().expect("memory");
    for patch in patches.as_chunks::<4>().0.iter().take(64) {
        let block = BlockId(u32::from(patch[0]) % blocks);
        let offset = usize::from(u16::from_le_bytes([patch[1], patch[2]])) % PAGE_BYTES;
        let old = store.read(block).expect("memory")[offset];
        store.corrupt(block, offset, old ^ patch[3]);
    }
    let Ok(mut index) = Index::open(&store) else {
        return false;
    };
    let is_sound = store.tried(|| index.check(&store)).is_ok();
    let dimensions = index.options().dimensions;
    let query = vec![0.5; dimensions];
    for recall in [0.9, 1.0] {
        let _ = store.tried(|| search(&store, &index, &query, recall));
    }
    if dimensions == DIMENSIONS && index.options().filter_columns == 1 {
        for tid in 500..520 {
            let _ = store.tried(|| insert(&store, &mut index, tid, Some(&vector(tid))));
        }
    }
    let _ = store.tried(|| index.bulk_delete(&store, &mut |tid| tid.0 % 2 == 0));
    let _ = store.tried(|| index.cleanup(&store));
    let _ = store.tried(|| index.info(&store));
    is_sound
}

/// Searches to the end.
fn search(store: &MemoryStore, index: &Index, query: &[f32], recall: f32) -> Result<()> {
    let options = SearchOptions {
        recall,
        ..SearchOptions::default()
    };
    let mut search = Search::new(store, index.clone(), Some(query), &options)?;
    while search.next_row()?.is_some() {}
    Ok(())
}
