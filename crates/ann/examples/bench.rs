//! Recall and microseconds of the index in memory: no PostgreSQL, one thread.
//!
//!     cargo run --release -p lookbook-ann --example bench -- [fm784|emb256|synthetic] [rows] [queries] [built|grown] [settings] [shares]
//!
//! `grown` inserts row by row instead of building. Settings are recalls, by comma. Shares, by comma, are of the rows that pass a
//! condition the index does not know. The sets are described in `common`.
//! The search is driven as PostgreSQL's executor drives it for LIMIT 10, exact distances included.

mod common;

use common::*;
use lookbook_ann::memory::MemoryStore;
use lookbook_ann::{Index, Metric, Options, Search, SearchOptions, SearchStats};

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |at: usize| arguments.get(at).map(String::as_str);
    let number = |at: usize| argument(at).and_then(|text| text.parse::<usize>().ok());
    let data = data(argument(0).unwrap_or("fm784"), number(1), number(2))?;
    let shares: Vec<f64> = argument(5)
        .unwrap_or("1")
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let truths: Vec<_> = shares.iter().map(|&share| truth(&data, share)).collect();
    let store = MemoryStore::new();
    let options = Options::new(data.dims, Metric::L2);
    let started = cpu_seconds()?;
    let mut index = if argument(3) == Some("grown") {
        grow(&store, &options, &data)?
    } else {
        build(&store, &options, &data)?
    };
    println!("built in {:.1} s", cpu_seconds()? - started);
    let started = cpu_seconds()?;
    index.calibrate(&store)?;
    println!("calibrated in {:.2} s", cpu_seconds()? - started);
    let info = index.info(&store)?;
    let used = (info.pages - info.free_pages) * 8192;
    println!(
        "{} rows, {} lists, longest {}, {} MB ({:.0} bytes a row), {} free pages",
        info.rows,
        info.lists,
        info.longest_list,
        used >> 20,
        used as f64 / info.rows as f64,
        info.free_pages,
    );
    println!(
        "{:>6} {:>7} {:>7} {:>8} | {:>6} {:>6} {:>8} {:>8} {:>8} | {:>6} {:>6}",
        "share",
        "setting",
        "recall",
        "µs",
        "centr.",
        "lists",
        "codes",
        "refined",
        "rows",
        "list",
        "code"
    );
    let settings = argument(4).unwrap_or("0.8,0.9,0.95,0.98,0.99,0.995,1");
    for (&share, truth) in shares.iter().zip(&truths) {
        for recall in settings.split(',') {
            measure(&store, &index, &data, truth, share, recall.parse()?)?;
        }
    }
    Ok(())
}

fn measure(
    store: &MemoryStore,
    index: &Index,
    data: &Data,
    truth: &[Vec<u64>],
    share: f64,
    recall: f32,
) -> Result<(), Failure> {
    let options = SearchOptions {
        recall,
        filters: Vec::new(),
        limit: None,
    };
    let (mut right, mut total) = (0, SearchStats::default());
    let started = cpu_seconds()?;
    for (query, truth) in data.queries.chunks_exact(data.dims).zip(truth) {
        let mut search = Search::new(store, index.clone(), Some(query), &options)?;
        let found = limit(&mut search, data, query, share)?;
        right += found.iter().filter(|row| truth.contains(row)).count();
        let stats = search.stats();
        total.centroids += stats.centroids;
        total.lists += stats.lists;
        total.codes += stats.codes;
        total.refined += stats.refined;
        total.rows += stats.rows;
    }
    let count = truth.len();
    let mean = (cpu_seconds()? - started) * 1e6 / count as f64;
    let slack = index.calibration().slack(recall);
    println!(
        "{share:>6} {recall:>7} {:>7.4} {mean:>8.1} | {:>6} {:>6} {:>8} {:>8} {:>8.1} | {:>6.3} {:>6.2}",
        right as f64 / (count * NEIGHBOURS) as f64,
        total.centroids / count,
        total.lists / count,
        total.codes / count,
        total.refined / count,
        total.rows as f64 / count as f64,
        slack.list,
        slack.code,
    );
    Ok(())
}
