//! Scans: rows by certain lower bounds of their distance.
//!
//! The index returns bounds, PostgreSQL computes the exact distances and re-sorts
//! (`xs_recheckorderby`, `nodeIndexscan.c`); a bound above the exact distance would be an error there.
//! Conditions on filter columns are tested by hash and rechecked.

use super::columns::{self, EMBEDDING_COLUMN, hash_word, item_pointer};
use super::errors::or_raise;
use super::store::BufferStore;
use super::{HASH_PROC, ahead, conditions, known, limit, options};
use crate::embedding::Embedding;
use lookbook_ann::{Bound, Filter, Search, SearchOptions};
use pgrx::{FromDatum, IntoDatum, PgMemoryContexts, pg_guard, pg_sys};

/// Lives in the scan's memory context and is dropped with it.
struct Scan {
    // Declared before the store it borrows from, so that it is dropped first.
    search: Option<Search<'static, BufferStore>>,
    store: Box<BufferStore>,
}

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn ambeginscan(
    index: pg_sys::Relation,
    keys: i32,
    order_bys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: PostgreSQL's contract of ambeginscan: the index stays open until amendscan, and the
    // descriptor lives in the current memory context, as what is made here does.
    unsafe {
        let scan = pg_sys::RelationGetIndexScan(index, keys, order_bys);
        let state = Scan {
            search: None,
            store: Box::new(BufferStore::new(index)),
        };
        (*scan).opaque = PgMemoryContexts::CurrentMemoryContext
            .leak_and_drop_on_delete(state)
            .cast();
        if order_bys > 0 {
            let count = order_bys as usize;
            (*scan).xs_orderbyvals = pg_sys::palloc0(count * size_of::<pg_sys::Datum>()).cast();
            (*scan).xs_orderbynulls = pg_sys::palloc0(count).cast();
        }
        scan
    }
}

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn amrescan(
    scan: pg_sys::IndexScanDesc,
    keys: pg_sys::ScanKey,
    key_count: i32,
    order_bys: pg_sys::ScanKey,
    order_by_count: i32,
) {
    // SAFETY: PostgreSQL's contract of amrescan: the arrays have that many keys, the descriptor has
    // room for them, and they may be the descriptor's own.
    unsafe {
        state(scan).search = None;
        if !keys.is_null() && key_count > 0 {
            std::ptr::copy(keys, (*scan).keyData, key_count as usize);
        }
        if !order_bys.is_null() && order_by_count > 0 {
            std::ptr::copy(order_bys, (*scan).orderByData, order_by_count as usize);
        }
    }
}

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn amgettuple(
    scan: pg_sys::IndexScanDesc,
    _direction: pg_sys::ScanDirection::Type,
) -> bool {
    // SAFETY: PostgreSQL's contract of amgettuple, and what `ambeginscan` made.
    unsafe {
        let index = (*scan).indexRelation;
        let state = state(scan);
        let search = match &mut state.search {
            Some(search) => search,
            empty => {
                count(scan);
                empty.insert(begin(scan, &state.store))
            }
        };
        let Some(found) = or_raise(search.next_row(), index) else {
            return false;
        };
        (*scan).xs_heaptid = item_pointer(found.tid);
        bring_near(scan, search, &state.store);
        (*scan).xs_recheck = (*scan).numberOfKeys > 0;
        (*scan).xs_recheckorderby = (*scan).numberOfOrderBys > 0;
        for at in 0..(*scan).numberOfOrderBys as usize {
            // A second distance in ORDER BY only breaks ties of the first: nothing is known of it.
            let (value, is_null) = match found.bound {
                Bound::AtLeast(least) if at == 0 => (least, false),
                Bound::AtLeast(_) => (f64::NEG_INFINITY, false),
                Bound::Unordered => (f64::NAN, false),
                Bound::Null => (0.0, true),
            };
            *(*scan).xs_orderbyvals.add(at) = value.into_datum().unwrap_or(pg_sys::Datum::null());
            *(*scan).xs_orderbynulls.add(at) = is_null;
        }
        true
    }
}

/// Brings rows near that the executor is going to ask for: first the one that the scan gives out now.
///
/// # Safety
/// `scan` is one of an executor; `search` and `store` are its own.
unsafe fn bring_near(
    scan: pg_sys::IndexScanDesc,
    search: &Search<'_, BufferStore>,
    store: &BufferStore,
) {
    // SAFETY: the caller's promise; the table of a scan is open until its end.
    unsafe {
        let table = (*scan).heapRelation;
        let Some(next) = search.next_tid().filter(|_| !table.is_null()) else {
            return;
        };
        if !ahead::is_plain(table) {
            return;
        }
        let ahead = &store.known().ahead;
        ahead.hold(table, (*scan).xs_heapfetch, (*scan).xs_heaptid);
        if search.stats().rows == 1 {
            search
                .coming_tids()
                .for_each(|tid| ahead.approach(item_pointer(tid)));
        }
        ahead.bring(table, item_pointer(next));
    }
}

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn amendscan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: as in amgettuple. The rest goes with the memory context.
    unsafe { state(scan) }.search = None;
}

/// # Safety
/// `scan` was made by `ambeginscan`, and nobody else uses its state now.
unsafe fn state<'a>(scan: pg_sys::IndexScanDesc) -> &'a mut Scan {
    // SAFETY: the caller's promise.
    unsafe { &mut *(*scan).opaque.cast::<Scan>() }
}

/// For `pg_stat_user_indexes`, and from version 18 for EXPLAIN ANALYZE.
///
/// # Safety
/// `scan` was made by `ambeginscan`.
unsafe fn count(scan: pg_sys::IndexScanDesc) {
    // SAFETY: the index is open; as `pgstat_count_index_scan` (`pgstat.h`) does.
    unsafe {
        let index = (*scan).indexRelation;
        #[cfg(not(feature = "pg14"))]
        if (*index).pgstat_info.is_null() && (*index).pgstat_enabled {
            pg_sys::pgstat_assoc_relation(index);
        }
        if let Some(info) = (*index).pgstat_info.as_mut() {
            #[cfg(any(feature = "pg14", feature = "pg15"))]
            let scans = &mut info.t_counts.t_numscans;
            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
            let scans = &mut info.counts.numscans;
            *scans += 1;
        }
        #[cfg(feature = "pg18")]
        if let Some(instrument) = (*scan).instrument.as_mut() {
            instrument.nsearches += 1;
        }
    }
}

/// Starts the search that the keys of the scan describe.
///
/// # Safety
/// `scan` was made by `ambeginscan` and has its keys; `store` is its store.
unsafe fn begin(scan: pg_sys::IndexScanDesc, store: &BufferStore) -> Search<'static, BufferStore> {
    // SAFETY: the store is boxed in the state of the scan, which drops the search first.
    let store: &'static BufferStore = unsafe { &*std::ptr::from_ref(store) };
    let index = store.relation();
    // SAFETY: the descriptor has that many keys.
    let (keys, order_bys) = unsafe {
        (
            slice((*scan).keyData, (*scan).numberOfKeys),
            slice((*scan).orderByData, (*scan).numberOfOrderBys),
        )
    };
    // Without an order every row that passes is wanted, in any order: as if the query were NULL.
    let query = order_bys.first().and_then(|key| {
        let is_null = key.sk_flags & pg_sys::SK_ISNULL as i32 != 0;
        // SAFETY: the operators of our classes have an embedding on their right.
        unsafe { Embedding::from_polymorphic_datum(key.sk_argument, is_null, pg_sys::InvalidOid) }
    });
    // SAFETY: the keys are of this index.
    let limits = || keys.iter().filter_map(|key| unsafe { limit::of_key(key) });
    let options = SearchOptions {
        // The planner expects it to be read to its end (`whole.rs`).
        recall: match limits().any(|limit| limit == f64::INFINITY) {
            true => 1.0,
            false => options::recall(),
        },
        limit: limits().reduce(f64::min).filter(|_| !order_bys.is_empty()),
        // SAFETY: the keys are of this index.
        filters: keys
            .iter()
            .filter(|key| key.sk_attno != EMBEDDING_COLUMN)
            .filter_map(|key| unsafe { filter(index, key) })
            .collect(),
    };
    let opened = known::open(store);
    or_raise(
        Search::new(store, opened, query.as_deref(), &options),
        index,
    )
}

/// # Safety
/// `first` points to `count` keys, or `count` is 0.
unsafe fn slice<'a>(first: pg_sys::ScanKey, count: i32) -> &'a [pg_sys::ScanKeyData] {
    if count <= 0 || first.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(first, count as usize) }
}

/// The hashes that a condition accepts; `None`: all.
///
/// # Safety
/// `key` is a condition on a filter column of `index`.
unsafe fn filter(index: pg_sys::Relation, key: &pg_sys::ScanKeyData) -> Option<Filter> {
    let column = key.sk_attno as usize - 2;
    if key.sk_flags & pg_sys::SK_ISNULL as i32 != 0 {
        let none = Filter::new(column, Vec::new());
        return (!conditions::is_fulfilled_by_null(key)).then_some(none);
    }
    // A scan may begin for each row of a join: nothing stays of its arrays, nor of what hashing leaves behind.
    // SAFETY: words are of no memory context; the catalogue says which hash function belongs to the type on the right; an
    // array has elements of that type.
    let words = unsafe {
        PgMemoryContexts::new("lookbook condition").switch_to(|_| {
            let mut other = pg_sys::FmgrInfo::default();
            let hash = hash_function(index, key, &mut other);
            let values = match key.sk_flags & pg_sys::SK_SEARCHARRAY as i32 {
                0 => vec![key.sk_argument],
                _ => columns::array_elements(key.sk_argument),
            };
            let words = values.into_iter();
            words
                .map(|value| hash_word(hash, key.sk_collation, value))
                .collect()
        })
    };
    Some(Filter::new(column, words))
}

/// The hash function of the type on the right of a condition: the column's, which remembers what it learnt of the type for
/// as long as the index is open, or that of another type of the family, put into `other`.
///
/// # Safety
/// As [`filter`].
unsafe fn hash_function(
    index: pg_sys::Relation,
    key: &pg_sys::ScanKeyData,
    other: &mut pg_sys::FmgrInfo,
) -> *mut pg_sys::FmgrInfo {
    let at = key.sk_attno as usize - 1;
    // SAFETY: the caller's promise: the arrays have an entry for each column.
    unsafe {
        let own = *(*index).rd_opcintype.add(at);
        let function = match key.sk_subtype {
            subtype if subtype == pg_sys::InvalidOid || subtype == own => pg_sys::InvalidOid,
            subtype => {
                let family = *(*index).rd_opfamily.add(at);
                pg_sys::get_opfamily_proc(family, subtype, subtype, HASH_PROC as i16)
            }
        };
        // None, too, for a type that is binary-coercible to the column's, such as an enum to anyenum.
        if function == pg_sys::InvalidOid {
            return pg_sys::index_getprocinfo(index, key.sk_attno, HASH_PROC);
        }
        pg_sys::fmgr_info(function, other);
        other
    }
}
