//! Encoded rows in the order of their lists: a tuplesort, which spills to temporary files.

use lookbook_ann::build::Target;
use pgrx::{pg_sys, varlena_to_byte_slice};
use std::ptr::null_mut;

/// Columns of a sorted tuple: the place of the list as int8, the record as bytea.
const COLUMNS: i32 = 2;
const VARLENA_HEADER: usize = size_of::<i32>();

/// A sort in progress. What it allocates goes with the current memory context and the resource owner.
pub(super) struct RecordSort {
    state: *mut pg_sys::Tuplesortstate,
    /// Rows on their way in.
    entering: *mut pg_sys::TupleTableSlot,
    /// Rows on their way out.
    leaving: *mut pg_sys::TupleTableSlot,
    /// The record on its way in, as a datum.
    datum: Vec<u8>,
}

impl RecordSort {
    /// A sort with so much memory, in bytes.
    pub(super) fn new(memory: usize) -> Self {
        let kilobytes = i32::try_from(memory / 1024).unwrap_or(i32::MAX).max(64);
        // SAFETY: PostgreSQL copies the arrays; the descriptor lives as long as the memory context.
        unsafe {
            let descriptor = pg_sys::CreateTemplateTupleDesc(COLUMNS);
            for (column, name, kind) in [
                (1, c"list", pg_sys::INT8OID),
                (2, c"record", pg_sys::BYTEAOID),
            ] {
                pg_sys::TupleDescInitEntry(descriptor, column, name.as_ptr(), kind, -1, 0);
            }
            let state = pg_sys::tuplesort_begin_heap(
                descriptor,
                1,
                [1].as_mut_ptr(),
                [pg_sys::Oid::from(pg_sys::Int8LessOperator)].as_mut_ptr(),
                [pg_sys::InvalidOid].as_mut_ptr(),
                [false].as_mut_ptr(),
                kilobytes,
                null_mut(),
                Default::default(),
            );
            Self {
                state,
                entering: pg_sys::MakeSingleTupleTableSlot(
                    descriptor,
                    &raw const pg_sys::TTSOpsVirtual,
                ),
                leaving: pg_sys::MakeSingleTupleTableSlot(
                    descriptor,
                    &raw const pg_sys::TTSOpsMinimalTuple,
                ),
                datum: Vec::new(),
            }
        }
    }

    /// Adds a row.
    pub(super) fn put(&mut self, target: Target, record: &[u8]) {
        self.datum.clear();
        self.datum.resize(VARLENA_HEADER, 0);
        self.datum.extend_from_slice(record);
        // SAFETY: the datum is a varlena of that length, at an address that malloc aligned; the slot
        // has two columns; the sort copies the row.
        unsafe {
            pgrx::set_varsize_4b(self.datum.as_mut_ptr().cast(), self.datum.len() as i32);
            let slot = self.entering;
            // What ExecClearTuple does with a slot that owns nothing.
            (*slot).tts_nvalid = 0;
            (*slot).tts_flags |= pg_sys::TTS_FLAG_EMPTY as u16;
            *(*slot).tts_values = pg_sys::Datum::from(key(target));
            *(*slot).tts_values.add(1) = pg_sys::Datum::from(self.datum.as_mut_ptr());
            *(*slot).tts_isnull = false;
            *(*slot).tts_isnull.add(1) = false;
            pg_sys::ExecStoreVirtualTuple(slot);
            pg_sys::tuplesort_puttupleslot(self.state, slot);
        }
    }

    /// Sorts what was put in.
    pub(super) fn sort(&mut self) {
        // SAFETY: every row is in.
        unsafe { pg_sys::tuplesort_performsort(self.state) }
    }

    /// The next row in order; its record lives until the next call.
    pub(super) fn next(&mut self) -> Option<(Target, &[u8])> {
        // SAFETY: sorted; the slot holds the tuple until it gets another.
        unsafe {
            let slot = self.leaving;
            if !pg_sys::tuplesort_gettupleslot(self.state, true, false, slot, null_mut()) {
                return None;
            }
            pg_sys::slot_getsomeattrs_int(slot, COLUMNS);
            let target = target((*(*slot).tts_values).value() as i64);
            let record = (*(*slot).tts_values.add(1)).cast_mut_ptr();
            Some((target, varlena_to_byte_slice(record)))
        }
    }

    /// Gives memory and files back.
    pub(super) fn end(self) {
        // SAFETY: nobody uses them any more.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.entering);
            pg_sys::ExecDropSingleTupleTableSlot(self.leaving);
            pg_sys::tuplesort_end(self.state);
        }
    }
}

/// Lists by number, then the rows that are in none.
const BEHIND_LISTS: i64 = 1 << 32;

fn key(target: Target) -> i64 {
    match target {
        Target::List(list) => i64::from(list),
        Target::Nulls => BEHIND_LISTS,
        Target::Unordered => BEHIND_LISTS + 1,
        Target::Boundless => BEHIND_LISTS + 2,
    }
}

fn target(key: i64) -> Target {
    match u32::try_from(key) {
        Ok(list) => Target::List(list),
        Err(_) if key == BEHIND_LISTS => Target::Nulls,
        Err(_) if key == BEHIND_LISTS + 1 => Target::Unordered,
        Err(_) => Target::Boundless,
    }
}
