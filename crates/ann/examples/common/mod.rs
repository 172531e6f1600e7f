//! What the examples share: the sets, exact neighbours, an index built or grown in memory, and the executor's side of
//! a search.
//!
//! Sets: `fm784` is Fashion-MNIST from `LOOKBOOK_DATA` (default `../shared/data`); `emb256` is what the recipe under
//! `scripts/bench` wrote to `LOOKBOOK_BENCH` (default `.lookbook/bench`); `synthetic` draws unit vectors of 256 dimensions
//! on a curved sheet of 24, dense as image embeddings are; `groups:SPREAD` draws 20 groups of 64 dimensions around normal
//! centres, `outliers:COUNT` normal vectors with so many rows of numbers up to a million among them.
#![allow(dead_code, reason = "each example uses its part")]

use std::io::Read;

use lookbook_ann::build::{BuildRow, BulkWriter, Clusters, Plan, Sampler, Workers};
use lookbook_ann::memory::MemoryStore;
use lookbook_ann::{Bound, HeapTid, Index, Options, PageStore, PageTxn, Row, Search, empty_index};
use lookbook_vecmath::kernel;

pub type Failure = Box<dyn std::error::Error>;
pub const NEIGHBOURS: usize = 10;

pub struct Data {
    pub dims: usize,
    pub rows: Vec<f32>,
    pub queries: Vec<f32>,
}

impl Data {
    pub fn count(&self) -> usize {
        self.rows.len() / self.dims
    }
}

/// A set by its name.
pub fn data(name: &str, rows: Option<usize>, queries: Option<usize>) -> Result<Data, Failure> {
    match name {
        "fm784" => fashion(rows.unwrap_or(60_000), queries.unwrap_or(1_000)),
        "emb256" => embeddings(rows.unwrap_or(1_000_000), queries.unwrap_or(500)),
        "synthetic" => Ok(synthetic(rows.unwrap_or(200_000), queries.unwrap_or(500))),
        _ => match name.split_once(':') {
            Some(("groups", spread)) => Ok(groups(
                rows.unwrap_or(20_000),
                queries.unwrap_or(200),
                spread.parse()?,
            )),
            Some(("outliers", count)) => Ok(outliers(
                rows.unwrap_or(20_000),
                queries.unwrap_or(200),
                count.parse()?,
            )),
            _ => Err(format!(
                "no set named {name}: fm784, emb256, synthetic, groups:0.01 or outliers:20"
            )
            .into()),
        },
    }
}

/// The first rows and queries of the recipe's files, which are little-endian `f32` without a header.
fn embeddings(rows: usize, queries: usize) -> Result<Data, Failure> {
    const DIMS: usize = 256;
    let folder = std::env::var("LOOKBOOK_BENCH").unwrap_or_else(|_| ".lookbook/bench".into());
    let read = |name: &str, count: usize| -> Result<Vec<f32>, Failure> {
        let path = format!("{folder}/{name}");
        let file = std::fs::File::open(&path)
            .map_err(|why| format!("{path}: {why}; run the recipe, or set LOOKBOOK_BENCH"))?;
        let mut numbers = Vec::with_capacity(count * DIMS);
        let mut file = std::io::BufReader::with_capacity(1 << 20, file);
        let mut vector = [0; 4 * DIMS];
        while numbers.len() < count * DIMS && file.read_exact(&mut vector).is_ok() {
            let (bytes, _) = vector.as_chunks::<4>();
            numbers.extend(bytes.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        }
        Ok(numbers)
    };
    Ok(Data {
        dims: DIMS,
        rows: read("emb256.f32", rows)?,
        queries: read("emb256.queries.f32", queries)?,
    })
}

/// Does a row pass a condition that this share of the rows pass, drawn at random?
pub fn passes(row: u64, share: f64) -> bool {
    let mixed = (row ^ (row >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    share >= 1.0 || ((mixed >> 11) as f64) < share * (1u64 << 53) as f64
}

/// What the executor does for LIMIT 10 behind a condition of its own: rows wait until their distance is not above the last
/// bound, and then they pass or not.
pub fn limit(
    search: &mut Search<'_, MemoryStore>,
    data: &Data,
    query: &[f32],
    share: f64,
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
            let row = waiting.pop().map(|row| row.1);
            out.extend(row.filter(|&row| passes(row, share)));
            if out.len() == NEIGHBOURS {
                return Ok(out);
            }
        }
    }
    Ok(out)
}

/// CPU time of this thread: what others do on the machine does not count.
pub fn cpu_seconds() -> Result<f64, Failure> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split(' ').next().ok_or("no schedstat")?;
    Ok(nanoseconds.parse::<f64>()? / 1e9)
}

pub fn create(store: &MemoryStore, options: &Options) -> Result<Index, Failure> {
    let mut txn = store.begin();
    let (_, handle) = txn.allocate(|_| true)?;
    *txn.page_mut(handle) = *empty_index(options)?;
    txn.commit()?;
    Ok(Index::open(store)?)
}

pub fn build(store: &MemoryStore, options: &Options, data: &Data) -> Result<Index, Failure> {
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

pub fn grow(store: &MemoryStore, options: &Options, data: &Data) -> Result<Index, Failure> {
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

/// The true neighbours of every query among the rows that pass.
pub fn truth(data: &Data, share: f64) -> Vec<Vec<u64>> {
    let kernels = kernel::active();
    data.queries
        .chunks_exact(data.dims)
        .map(|query| {
            let mut best: Vec<(f32, u64)> = vec![(f32::INFINITY, 0); NEIGHBOURS];
            let rows = data.rows.chunks_exact(data.dims).enumerate();
            for (row, x) in rows.filter(|row| passes(row.0 as u64, share)) {
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

/// The sum of four uniform numbers is normal enough.
fn normal() -> impl FnMut() -> f32 {
    let mut state = 11u64;
    move || {
        (0..4)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
            })
            .sum::<f32>()
            * 1.7
    }
}

fn groups(rows: usize, queries: usize, spread: f32) -> Data {
    const DIMS: usize = 64;
    const GROUPS: usize = 20;
    let mut normal = normal();
    let centres: Vec<f32> = (0..GROUPS * DIMS).map(|_| normal()).collect();
    let mut draw = |count: usize| {
        (0..count * DIMS)
            .map(|i| centres[i % centres.len()] + spread * normal())
            .collect()
    };
    Data {
        dims: DIMS,
        rows: draw(rows),
        queries: draw(queries),
    }
}

fn outliers(rows: usize, queries: usize, count: usize) -> Data {
    const DIMS: usize = 64;
    let mut normal = normal();
    let mut draw = |rows: usize, count: usize| {
        (0..rows)
            .flat_map(|row| {
                let is_outlier = count > 0 && row % (rows / count) == 0;
                std::array::from_fn::<f32, DIMS, _>(|_| match normal() {
                    x if is_outlier => 3e5 * x.abs(),
                    x => x,
                })
            })
            .collect()
    };
    Data {
        dims: DIMS,
        rows: draw(rows, count),
        queries: draw(queries, 0),
    }
}

fn synthetic(rows: usize, queries: usize) -> Data {
    const DIMS: usize = 256;
    const SHEET: usize = 24;
    let mut normal = normal();
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
