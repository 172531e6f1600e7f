//! Recall and microseconds of the index in memory: no PostgreSQL, one thread.
//!
//!     cargo run --release -p lookbook-ann --example bench -- [fm784|synthetic] [rows] [queries] [built|grown] [settings]
//!
//! `fm784` is Fashion-MNIST from `LOOKBOOK_DATA` (default `../shared/data`); `synthetic` draws unit vectors of 256
//! dimensions on a curved sheet of 24, dense as image embeddings are. `grown` inserts row by row instead of building. Settings are recalls, by comma.
//! The search is driven as PostgreSQL's executor drives it for LIMIT 10, exact distances included.

use std::io::Read;

use lookbook_ann::build::{BuildRow, BulkWriter, Clusters, Plan, Sampler, Workers};
use lookbook_ann::memory::MemoryStore;
use lookbook_ann::{
    Bound, HeapTid, Index, Metric, Options, PageStore, PageTxn, Row, Search, SearchOptions,
    SearchStats, empty_index,
};
use lookbook_vecmath::kernel;

type Failure = Box<dyn std::error::Error>;
const NEIGHBOURS: usize = 10;

struct Data {
    dims: usize,
    rows: Vec<f32>,
    queries: Vec<f32>,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |at: usize| arguments.get(at).map(String::as_str);
    let number = |at: usize| argument(at).and_then(|text| text.parse::<usize>().ok());
    let data = match argument(0).unwrap_or("fm784") {
        "fm784" => fashion(number(1).unwrap_or(60_000), number(2).unwrap_or(1_000))?,
        _ => synthetic(number(1).unwrap_or(200_000), number(2).unwrap_or(500)),
    };
    let truth = truth(&data);
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
        "{:>7} {:>7} {:>8} | {:>6} {:>6} {:>8} {:>8} {:>8} | {:>6} {:>6}",
        "setting", "recall", "µs", "centr.", "lists", "codes", "refined", "rows", "list", "code"
    );
    let settings = argument(4).unwrap_or("0.8,0.9,0.95,0.98,0.99,0.995,1");
    for recall in settings.split(',') {
        measure(&store, &index, &data, &truth, recall.parse()?)?;
    }
    Ok(())
}

fn measure(
    store: &MemoryStore,
    index: &Index,
    data: &Data,
    truth: &[Vec<u64>],
    recall: f32,
) -> Result<(), Failure> {
    let options = SearchOptions {
        recall,
        filters: Vec::new(),
    };
    let (mut right, mut total) = (0, SearchStats::default());
    let started = cpu_seconds()?;
    for (query, truth) in data.queries.chunks_exact(data.dims).zip(truth) {
        let mut search = Search::new(store, index.clone(), Some(query), &options)?;
        let found = limit(&mut search, data, query)?;
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
        "{recall:>7} {:>7.4} {mean:>8.1} | {:>6} {:>6} {:>8} {:>8} {:>8.1} | {:>6.3} {:>6.2}",
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

/// What the executor does for LIMIT 10: rows wait until their distance is not above the last bound.
fn limit(
    search: &mut Search<'_, MemoryStore>,
    data: &Data,
    query: &[f32],
) -> Result<Vec<u64>, Failure> {
    let kernels = kernel::active();
    let mut waiting: Vec<(f64, u64)> = Vec::new();
    let mut out = Vec::new();
    while let Some(found) = search.next_row()? {
        let Bound::AtLeast(bound) = found.bound else {
            break;
        };
        let at = found.tid.0 as usize * data.dims;
        let exact = f64::from(kernels.l2_squared(query, &data.rows[at..at + data.dims])).sqrt();
        assert!(
            bound <= exact,
            "index returned tuples in wrong order: {bound} {exact}"
        );
        let place = waiting.partition_point(|other| other.0 > exact);
        waiting.insert(place, (exact, found.tid.0));
        while waiting.last().is_some_and(|last| last.0 <= bound) {
            out.extend(waiting.pop().map(|row| row.1));
            if out.len() == NEIGHBOURS {
                return Ok(out);
            }
        }
    }
    Ok(out)
}

/// CPU time of this thread: what others do on the machine does not count.
fn cpu_seconds() -> Result<f64, Failure> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split(' ').next().ok_or("no schedstat")?;
    Ok(nanoseconds.parse::<f64>()? / 1e9)
}

fn create(store: &MemoryStore, options: &Options) -> Result<Index, Failure> {
    let mut txn = store.begin();
    let (_, handle) = txn.allocate(|_| true)?;
    *txn.page_mut(handle) = *empty_index(options)?;
    txn.commit()?;
    Ok(Index::open(store)?)
}

fn build(store: &MemoryStore, options: &Options, data: &Data) -> Result<Index, Failure> {
    create(store, options)?;
    // The one worker is this thread, so that its time is counted.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread()
        .build()?;
    let workers = Workers {
        pool: &pool,
        check: &|| Ok(()),
    };
    let rows = data.rows.len() / data.dims;
    let plan = Plan::new(options, rows as u64, 128 << 20);
    let started = cpu_seconds()?;
    let mut sampler = Sampler::new(options, plan.sample_rows)?;
    for row in data.rows.chunks_exact(data.dims) {
        sampler.offer(row)?;
    }
    println!("{plan:?}: sampled after {:.1} s", cpu_seconds()? - started);
    let clusters = Clusters::train(sampler, plan.lists, workers)?;
    println!("clustered after {:.1} s", cpu_seconds()? - started);
    let mut encoded = Vec::new();
    for (batch, rows) in data.rows.chunks(8192 * data.dims).enumerate() {
        let rows: Vec<BuildRow> = rows
            .chunks_exact(data.dims)
            .enumerate()
            .map(|(i, row)| BuildRow {
                tid: HeapTid((batch * 8192 + i) as u64),
                vector: Some(row.to_vec()),
                words: Vec::new(),
            })
            .collect();
        encoded.extend(clusters.encode(&rows, workers)?);
    }
    println!("encoded after {:.1} s", cpu_seconds()? - started);
    encoded.sort_by_key(|row| row.target);
    let mut writer = BulkWriter::new(store, &clusters);
    for row in &encoded {
        writer.push(row.target, &row.record)?;
    }
    Ok(writer.finish(store)?.0)
}

fn grow(store: &MemoryStore, options: &Options, data: &Data) -> Result<Index, Failure> {
    let mut index = create(store, options)?;
    for (tid, row) in data.rows.chunks_exact(data.dims).enumerate() {
        index.insert(
            store,
            Row {
                tid: HeapTid(tid as u64),
                vector: Some(row),
                words: &[],
            },
        )?;
    }
    Ok(index)
}

/// The true neighbours of every query.
fn truth(data: &Data) -> Vec<Vec<u64>> {
    let kernels = kernel::active();
    data.queries
        .chunks_exact(data.dims)
        .map(|query| {
            let mut best: Vec<(f32, u64)> = vec![(f32::INFINITY, 0); NEIGHBOURS];
            for (row, x) in data.rows.chunks_exact(data.dims).enumerate() {
                let distance = kernels.l2_squared(query, x);
                if distance < best[NEIGHBOURS - 1].0 {
                    let at = best.partition_point(|other| other.0 <= distance);
                    best[at..].rotate_right(1);
                    best[at] = (distance, row as u64);
                }
            }
            best.into_iter().map(|row| row.1).collect()
        })
        .collect()
}

fn fashion(rows: usize, queries: usize) -> Result<Data, Failure> {
    let data = std::env::var("LOOKBOOK_DATA").unwrap_or_else(|_| "../shared/data".into());
    let read = |name: &str, count: usize| -> Result<Vec<f32>, Failure> {
        let path = format!("{data}/fashion-mnist/{name}-images-idx3-ubyte.gz");
        let mut child = std::process::Command::new("gzip")
            .args(["-dc", &path])
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        let mut bytes = Vec::new();
        child
            .stdout
            .take()
            .ok_or("no output")?
            .read_to_end(&mut bytes)?;
        if !child.wait()?.success() {
            return Err(format!("{path} cannot be read: set LOOKBOOK_DATA").into());
        }
        Ok(bytes[16..]
            .iter()
            .take(count * 784)
            .map(|&byte| f32::from(byte))
            .collect())
    };
    Ok(Data {
        dims: 784,
        rows: read("train", rows)?,
        queries: read("t10k", queries)?,
    })
}

fn synthetic(rows: usize, queries: usize) -> Data {
    const DIMS: usize = 256;
    const SHEET: usize = 24;
    let mut state = 11u64;
    let mut normal = move || {
        // The sum of four uniform numbers is normal enough.
        (0..4)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
            })
            .sum::<f32>()
            * 1.7
    };
    let axes: Vec<f32> = (0..2 * SHEET * DIMS).map(|_| normal()).collect();
    let centres: Vec<f32> = (0..200 * SHEET).map(|_| normal()).collect();
    let mut draw = |count: usize| {
        let mut out = Vec::with_capacity(count * DIMS);
        for _ in 0..count {
            let centre = ((normal() + 8.0) * 1e4) as usize % 200;
            let place: Vec<f32> = (0..SHEET)
                .map(|i| centres[centre * SHEET + i] + 0.7 * normal())
                .collect();
            let mut x = vec![0f32; DIMS];
            for (i, &along) in place.iter().enumerate() {
                let bend = (2.0 * along).sin();
                let axis = &axes[2 * i * DIMS..];
                for (d, x) in x.iter_mut().enumerate() {
                    *x += along * axis[d] + bend * axis[DIMS + d];
                }
            }
            let length = x.iter().map(|x| x * x).sum::<f32>().sqrt();
            out.extend(x.into_iter().map(|x| x / length));
        }
        out
    };
    Data {
        dims: DIMS,
        rows: draw(rows),
        queries: draw(queries),
    }
}
