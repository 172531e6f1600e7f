//! What the columns of an index are: the embedding first, filter columns behind it.
//!
//! Turns datums into what the index keeps: elements, and one 32-bit hash per filter column.

use super::errors::{or_raise, refuse};
use super::store::BufferStore;
use super::{HASH_PROC, METRIC_PROC};
use crate::embedding::Embedding;
use lookbook_ann::{Columns, HeapTid, Index, MAX_FILTER_COLUMNS, Metric, Options};
use pgrx::{FromDatum, PgSqlErrorCode, PgTupleDesc, pg_sys};

/// The word of a NULL in a filter column: no condition that the index tests accepts NULL.
const NULL_WORD: u32 = 0;

/// The number of the embedding's column, from 1 as in PostgreSQL.
pub(super) const EMBEDDING_COLUMN: pg_sys::AttrNumber = 1;

/// What `CREATE INDEX` asked for.
///
/// # Safety
/// `index` is an open index of this access method.
pub(super) unsafe fn options_of(index: pg_sys::Relation) -> Options {
    // SAFETY: the caller's promise: an open relation has a descriptor.
    let filter_columns = unsafe { filter_columns(index) };
    if filter_columns > MAX_FILTER_COLUMNS {
        refuse(
            PgSqlErrorCode::ERRCODE_TOO_MANY_COLUMNS,
            format!(
                "a lookbook index has at most {MAX_FILTER_COLUMNS} filter columns, not {filter_columns}"
            ),
            "Leave out the columns that select least.",
        );
    }
    // SAFETY: as above.
    let metric = unsafe { metric_of(index, EMBEDDING_COLUMN) };
    let Some(metric) = metric else {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_OBJECT_DEFINITION,
            "the first column of a lookbook index must be an embedding",
            "Filter columns follow it: USING lookbook (embedding, category).",
        );
    };
    for column in 2..=filter_columns as pg_sys::AttrNumber + 1 {
        // SAFETY: as above.
        if unsafe { metric_of(index, column) }.is_some() {
            refuse(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "a lookbook index has one embedding",
                "Create one index for each embedding.",
            );
        }
    }
    // SAFETY: as above.
    let Some(dimensions) = (unsafe { dimensions_of(index) }) else {
        // SAFETY: as above; the number of a column that is an expression is 0.
        let is_expression = unsafe { (*(*index).rd_index).indkey.values.as_slice(1) == [0] };
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "column does not have dimensions",
            match is_expression {
                true => {
                    "Cast the expression to a fixed number of them: USING lookbook ((l2_normalize(…)::embedding(256)))."
                }
                false => {
                    "Give the column a fixed number of dimensions: ALTER TABLE … ALTER COLUMN … TYPE embedding(256)."
                }
            },
        );
    };
    let mut options = Options::new(dimensions, metric);
    options.filter_columns = filter_columns;
    // SAFETY: as above.
    unsafe { super::options::of(index) }.apply(&mut options);
    or_raise(options.validate(), index);
    options
}

/// Opens an index whose first page says what its columns do.
pub(super) fn open(store: &BufferStore) -> lookbook_ann::Result<Index> {
    let relation = store.relation();
    let index = Index::open(store)?;
    // SAFETY: the relation of a store is open, an index of ours.
    unsafe {
        let metric = metric_of(relation, EMBEDDING_COLUMN);
        index.expect(Columns {
            dimensions: dimensions_of(relation),
            // An operator class of others, without one: nothing is said.
            metric: metric.unwrap_or(index.options().metric),
            filter_columns: filter_columns(relation),
        })?;
    }
    Ok(index)
}

/// # Safety
/// `index` is an open index of this access method.
unsafe fn filter_columns(index: pg_sys::Relation) -> usize {
    // SAFETY: the caller's promise: an open relation has a descriptor.
    unsafe { (*(*index).rd_att).natts as usize - 1 }
}

/// The dimensions that the embedding's column is declared with.
///
/// # Safety
/// `index` is an open index of this access method.
pub(super) unsafe fn dimensions_of(index: pg_sys::Relation) -> Option<usize> {
    // SAFETY: the caller's promise: an open relation has a descriptor.
    let descriptor = unsafe { PgTupleDesc::from_pg_unchecked((*index).rd_att) };
    let column = descriptor.get(0)?;
    let mut typmod = column.atttypmod;
    // SAFETY: looks into the catalogue; a domain may have the dimensions.
    unsafe { pg_sys::getBaseTypeAndTypmod(column.atttypid, &raw mut typmod) };
    usize::try_from(typmod).ok().filter(|found| *found > 0)
}

/// The metric of a column's operator class; `None`: the column is no embedding.
///
/// # Safety
/// `index` is an open index of this access method, with such a column.
unsafe fn metric_of(index: pg_sys::Relation, column: pg_sys::AttrNumber) -> Option<Metric> {
    // SAFETY: the caller's promise; the metric functions take no arguments.
    let number = unsafe {
        if pg_sys::index_getprocid(index, column, METRIC_PROC) == pg_sys::InvalidOid {
            return None;
        }
        let function = pg_sys::index_getprocinfo(index, column, METRIC_PROC);
        pg_sys::FunctionCall0Coll(function, pg_sys::InvalidOid).value() as i32
    };
    [Metric::L2, Metric::Cosine, Metric::InnerProduct]
        .into_iter()
        .find(|metric| *metric as i32 == number)
}

/// A row as the index takes it.
pub(super) struct IndexedRow<'a> {
    pub(super) vector: Option<Embedding<'a>>,
    pub(super) words: Vec<u32>,
}

/// Reads the values of an index row.
///
/// # Safety
/// `values` and `is_null` have one entry for each column of `index`, and live as long as the result.
pub(super) unsafe fn row<'a>(
    index: pg_sys::Relation,
    values: *mut pg_sys::Datum,
    is_null: *mut bool,
) -> IndexedRow<'a> {
    // SAFETY: the caller's promise; the first column is an embedding (`options_of`).
    unsafe {
        let vector = Embedding::from_polymorphic_datum(*values, *is_null, pg_sys::InvalidOid);
        let words = (1..=filter_columns(index))
            .map(|at| {
                if *is_null.add(at) {
                    return NULL_WORD;
                }
                let column = at as pg_sys::AttrNumber + 1;
                let hash = pg_sys::index_getprocinfo(index, column, HASH_PROC);
                hash_word(hash, *(*index).rd_indcollation.add(at), *values.add(at))
            })
            .collect();
        IndexedRow { vector, words }
    }
}

/// The word of a value.
///
/// # Safety
/// `hash` is a hash function of the value's type.
pub(super) unsafe fn hash_word(
    hash: *mut pg_sys::FmgrInfo,
    collation: pg_sys::Oid,
    value: pg_sys::Datum,
) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { pg_sys::FunctionCall1Coll(hash, collation, value).value() as u32 }
}

/// A heap TID as the index keeps it: block number, then offset, in 48 bits.
pub(super) fn heap_tid(pointer: &pg_sys::ItemPointerData) -> HeapTid {
    let block = u64::from(pointer.ip_blkid.bi_hi) << 16 | u64::from(pointer.ip_blkid.bi_lo);
    HeapTid(block << 16 | u64::from(pointer.ip_posid))
}

/// The reverse of [`heap_tid`].
pub(super) fn item_pointer(tid: HeapTid) -> pg_sys::ItemPointerData {
    pg_sys::ItemPointerData {
        ip_blkid: pg_sys::BlockIdData {
            bi_hi: (tid.0 >> 32) as u16,
            bi_lo: (tid.0 >> 16) as u16,
        },
        ip_posid: tid.0 as u16,
    }
}

/// The elements of an array that are not NULL.
///
/// # Safety
/// `array` is an array datum; the elements live as long as it does.
pub(super) unsafe fn array_elements(array: pg_sys::Datum) -> Vec<pg_sys::Datum> {
    // SAFETY: the caller's promise; `deconstruct_array` allocates what it returns.
    unsafe {
        let array = pg_sys::pg_detoast_datum(array.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let element = (*array).elemtype;
        let (mut length, mut by_value, mut align) = (0, false, 0);
        pg_sys::get_typlenbyvalalign(element, &mut length, &mut by_value, &mut align);
        let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            element,
            length.into(),
            by_value,
            align,
            &mut values,
            &mut nulls,
            &mut count,
        );
        (0..count as usize)
            .filter(|&at| !*nulls.add(at))
            .map(|at| *values.add(at))
            .collect()
    }
}
