//! Building: sample the table, cluster the sample, encode every row, sort, write, calibrate.
//!
//! The leader alone talks to PostgreSQL; the threads of a pool do mathematics, with every signal
//! blocked. Memory is `maintenance_work_mem`: first the sample's, then the sort's.

mod progress;
mod sample;
mod sort;
mod table;

pub(super) use progress::ambuildphasename;

use super::columns::options_of;
use super::errors::{or_raise, refuse};
use super::known;
use super::store::{BufferAppender, BufferStore, body_of, prepare_header};
use lookbook_ann::build::{BuildRow, BulkWriter, Clusters, Workers};
use lookbook_ann::{AppendPages, Index, PageBytes, PageStore, empty_index};
use lookbook_vision::SignalsBlocked;
use pgrx::{PgBox, PgSqlErrorCode, check_for_interrupts, pg_guard, pg_sys};
use progress::Phase;
use rayon::{ThreadPool, ThreadPoolBuilder};
use sort::RecordSort;
use std::thread::available_parallelism;
use table::{Blocks, Table};

/// Rows that are encoded at once: enough to keep the pool busy.
const BATCH_ROWS: usize = 8_192;
/// What a batch may take, in bytes of vectors.
const BATCH_BYTES: usize = 8 << 20;
/// Rows written between two looks at interrupts and progress.
const ROWS_PER_REPORT: usize = 1_000;

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn ambuild(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
) -> *mut pg_sys::IndexBuildResult {
    // SAFETY: PostgreSQL's contract of ambuild: both relations are open, the index has no pages.
    let (store, options, mut table) = unsafe {
        known::forget((*index).rd_id);
        let options = options_of(index);
        (
            BufferStore::new(index),
            options,
            Table::new(heap, index, info),
        )
    };
    let first = or_raise(empty_index(&options), index);
    or_raise(append(&store, &first), index);

    // SAFETY: a backend-local number of kilobytes.
    let memory = unsafe { pg_sys::maintenance_work_mem } as usize * 1024;
    let pool = start_pool();
    let workers = Workers {
        pool: &pool,
        check: &|| {
            check_for_interrupts!();
            Ok(())
        },
    };
    Phase::Sampling.begin(0);
    let sample = or_raise(sample::draw(&mut table, &options, memory), index);
    Phase::Clustering.begin(sample.sampler.rows() as u64);
    let clusters = or_raise(
        Clusters::train(sample.sampler, sample.plan.lists, workers),
        index,
    );

    Phase::Encoding.begin(sample.rows);
    let batch_bytes = BATCH_BYTES.min(memory / 8);
    let batch_rows = (batch_bytes / (4 * options.dimensions)).clamp(1, BATCH_ROWS);
    // The rest is for the batch, its codes, the centroids and what the allocator keeps.
    let mut sort = RecordSort::new(memory / 8 * 5);
    let mut batch: Vec<BuildRow> = Vec::with_capacity(batch_rows);
    let mut rows = 0;
    let mut encode = |batch: &mut Vec<BuildRow>| {
        for row in or_raise(clusters.encode(batch, workers), index) {
            sort.put(row.target, &row.record);
        }
        rows += batch.len() as u64;
        progress::rows_done(rows);
        batch.clear();
    };
    let heap_rows = table.scan(Blocks::All, &mut |tid, row| {
        batch.push(BuildRow {
            tid,
            vector: row.vector.map(|vector| vector.to_vec()),
            words: row.words,
        });
        if batch.len() == batch_rows {
            encode(&mut batch);
        }
    });
    encode(&mut batch);

    Phase::Sorting.begin(rows);
    sort.sort();
    Phase::Writing.begin(rows);
    let mut built = or_raise(write(&store, &clusters, &mut sort), index);
    sort.end();

    Phase::Calibrating.begin(0);
    or_raise(built.calibrate(&store), index);

    // SAFETY: a node of the current memory context.
    let mut result = unsafe { PgBox::<pg_sys::IndexBuildResult>::alloc0() };
    result.heap_tuples = heap_rows;
    result.index_tuples = rows as f64;
    result.into_pg()
}

/// Writes the sorted rows as pages.
fn write(
    store: &BufferStore,
    clusters: &Clusters,
    sort: &mut RecordSort,
) -> lookbook_ann::Result<Index> {
    let mut writer = BulkWriter::new(BufferAppender::new(store)?, clusters);
    let mut written = 0;
    while let Some((target, record)) = sort.next() {
        writer.push(target, record)?;
        written += 1;
        if written % ROWS_PER_REPORT == 0 {
            store.check_interrupts()?;
            progress::rows_done(written as u64);
        }
    }
    Ok(writer.finish(store)?.0)
}

/// One thread for each worker that PostgreSQL would take for a build, and one for the leader, which
/// waits meanwhile.
fn start_pool() -> ThreadPool {
    // SAFETY: a backend-local number.
    let workers = unsafe { pg_sys::max_parallel_maintenance_workers }.max(0) as usize;
    let cores = available_parallelism().map_or(1, usize::from);
    let _blocked = SignalsBlocked::here();
    let pool = ThreadPoolBuilder::new()
        .num_threads((workers + 1).min(cores))
        .thread_name(|number| format!("lookbook build {number}"))
        .build();
    pool.unwrap_or_else(|error| {
        refuse(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
            format!("could not start threads for the build: {error}"),
            "max_parallel_maintenance_workers limits their number.",
        )
    })
}

fn append(store: &BufferStore, page: &PageBytes) -> lookbook_ann::Result<()> {
    BufferAppender::new(store)?.append(page)
}

/// The initialisation fork of an unlogged index: what it is after a crash.
#[pg_guard]
pub(super) unsafe extern "C-unwind" fn ambuildempty(index: pg_sys::Relation) {
    // SAFETY: PostgreSQL's contract of ambuildempty. The fork is logged although the index is not:
    // the page is logged whole, and the buffer is locked and dirty before that (`xloginsert.c`).
    unsafe {
        let first = or_raise(empty_index(&options_of(index)), index);
        let buffer = pg_sys::ReadBufferExtended(
            index,
            pg_sys::ForkNumber::INIT_FORKNUM,
            pg_sys::InvalidBlockNumber,
            pg_sys::ReadBufferMode::RBM_NORMAL,
            std::ptr::null_mut(),
        );
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32);
        let page = pg_sys::BufferGetPage(buffer);
        prepare_header(page);
        body_of(page).as_mut().copy_from_slice(&*first);
        // What START_CRIT_SECTION does: nothing between the change and its record may fail.
        pg_sys::CritSectionCount += 1;
        pg_sys::MarkBufferDirty(buffer);
        pg_sys::log_newpage_buffer(buffer, false);
        pg_sys::CritSectionCount -= 1;
        pg_sys::UnlockReleaseBuffer(buffer);
    }
}
