//! `WITH (lists = …, bits = …)` and the settings of searches.

use lookbook_ann::Options;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_guard, pg_sys};
use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, Ordering};

/// What PostgreSQL parses the reloptions into.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct IndexOptions {
    varlena: i32,
    lists: i32,
    bits: i32,
}

const MAX_LISTS: i32 = 1_000_000;
const DEFAULT_BITS: i32 = 8;

static KIND: AtomicU32 = AtomicU32::new(0);
static RECALL: GucSetting<f64> = GucSetting::<f64>::new(0.98);

impl IndexOptions {
    pub(super) fn apply(self, options: &mut Options) {
        options.lists = self.lists as u32;
        options.bits = self.bits as u32;
    }
}

/// The reloptions of an index.
///
/// # Safety
/// `index` is an open index of this access method.
pub(super) unsafe fn of(index: pg_sys::Relation) -> IndexOptions {
    // SAFETY: rd_options is what `amoptions` returned, or null.
    let parsed = unsafe { (*index).rd_options.cast::<IndexOptions>().as_ref() };
    parsed.copied().unwrap_or(IndexOptions {
        varlena: 0,
        lists: 0,
        bits: DEFAULT_BITS,
    })
}

/// The share of the true nearest rows that a search has to find.
pub(super) fn recall() -> f32 {
    RECALL.get() as f32
}

pub(super) fn register() {
    let lock = pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: called once from `_PG_init`; the strings are static.
    unsafe {
        let kind = pg_sys::add_reloption_kind();
        KIND.store(kind as u32, Ordering::Relaxed);
        pg_sys::add_int_reloption(
            kind as pg_sys::bits32,
            c"lists".as_ptr(),
            c"Lists that a build makes; 0 takes as many as suit the rows.".as_ptr(),
            0,
            0,
            MAX_LISTS,
            lock,
        );
        pg_sys::add_int_reloption(
            kind as pg_sys::bits32,
            c"bits".as_ptr(),
            c"Bits per dimension that the index keeps of a vector.".as_ptr(),
            DEFAULT_BITS,
            4,
            8,
            lock,
        );
    }
    GucRegistry::define_float_guc(
        c"lookbook.recall",
        c"Share of the true nearest rows that an index scan has to find.",
        c"1 reads lists until nothing nearer can be missing.",
        &RECALL,
        0.5,
        1.0,
        GucContext::Userset,
        GucFlags::default(),
    );
}

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn amoptions(
    reloptions: pg_sys::Datum,
    validate: bool,
) -> *mut pg_sys::bytea {
    let element = |name: &'static std::ffi::CStr, offset: usize| pg_sys::relopt_parse_elt {
        optname: name.as_ptr(),
        opttype: pg_sys::relopt_type::RELOPT_TYPE_INT,
        offset: offset as i32,
        #[cfg(feature = "pg18")]
        isset_offset: 0,
    };
    let elements = [
        element(c"lists", offset_of!(IndexOptions, lists)),
        element(c"bits", offset_of!(IndexOptions, bits)),
    ];
    // SAFETY: the elements describe `IndexOptions`; PostgreSQL copies what it keeps.
    unsafe {
        pg_sys::build_reloptions(
            reloptions,
            validate,
            KIND.load(Ordering::Relaxed) as pg_sys::relopt_kind::Type,
            size_of::<IndexOptions>(),
            elements.as_ptr(),
            elements.len() as i32,
        )
        .cast()
    }
}
