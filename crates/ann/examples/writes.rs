//! What writing costs in memory: CPU, records of the log and bytes changed by inserts and by a vacuum.
//!
//!     cargo run --release -p lookbook-ann --example writes -- [fm784|emb256|synthetic] [rows] [inserts]
//!
//! Builds an index of `rows` rows, opens it and inserts so many more one by one, then deletes every fifth row and vacuums.
//! A record's bytes are counted as Generic XLog counts them: pieces of a page that differ, four bytes and 20 a page on top.

mod common;

use std::time::{Duration, Instant};

use common::*;
use lookbook_ann::memory::MemoryStore;
use lookbook_ann::{HeapTid, Index, Metric, Options, Row};

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |at: usize| arguments.get(at).map(String::as_str);
    let number = |at: usize| argument(at).and_then(|text| text.parse::<usize>().ok());
    let inserts = number(2).unwrap_or(20_000);
    let rows = number(1).unwrap_or(200_000);
    let mut data = data(
        argument(0).unwrap_or("emb256"),
        Some(rows + inserts),
        Some(1),
    )?;
    let added = data.rows.split_off((data.count() - inserts) * data.dims);
    let store = MemoryStore::new();
    let options = Options::new(data.dims, Metric::L2);
    let mut index = build(&store, &options, &data)?;
    index.calibrate(&store)?;
    println!("{:?}", index.info(&store)?);

    let started = cpu_seconds()?;
    for _ in 0..10_000 {
        Index::open(&store)?;
    }
    println!("open: {:.1} µs", (cpu_seconds()? - started) * 1e2);

    store.count_changes(true);
    let started = cpu_seconds()?;
    let mut slowest = Duration::ZERO;
    for (tid, row) in added.chunks_exact(data.dims).enumerate() {
        let before = Instant::now();
        let tid = HeapTid((data.count() + tid) as u64);
        let row = Row {
            tid,
            vector: Some(row),
            words: &[],
        };
        index.insert(&store, row)?;
        slowest = slowest.max(before.elapsed());
    }
    report("insert", cpu_seconds()? - started, inserts, &store);
    println!("the slowest took {slowest:.1?}");

    let started = cpu_seconds()?;
    let removed = index.bulk_delete(&store, &mut |tid| tid.0 % 5 == 0)?;
    report(
        "bulk delete",
        cpu_seconds()? - started,
        removed.removed,
        &store,
    );
    let started = cpu_seconds()?;
    index.cleanup(&store)?;
    report("cleanup", cpu_seconds()? - started, removed.removed, &store);
    println!("{:?}", index.info(&store)?);
    Ok(())
}

fn report(what: &str, seconds: f64, operations: usize, store: &MemoryStore) {
    let (records, bytes) = store.count_changes(true);
    let each = |total: f64| total / operations as f64;
    println!(
        "{what}: {operations} in {seconds:.2} s CPU, {:.1} µs, {:.2} records and {:.0} bytes of log each",
        each(seconds * 1e6),
        each(records as f64),
        each(bytes as f64),
    );
}
