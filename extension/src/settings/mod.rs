//! The settings of inference: names, defaults, help, and typed access.
//!
//! Invariant: `generation()` changes whenever one of them does, so that per-row code compares one
//! number instead of reading strings.

pub(crate) mod errors;
pub(crate) mod worker;

use crate::settings::errors::{self as report, UserError};
use lookbook_vision::{Device, Kind, Limits};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

static EMBED_MODEL: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static DETECT_MODEL: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static POSE_MODEL: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static DEVICE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"cpu"));
static ONNXRUNTIME: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(DEFAULT_ONNXRUNTIME));
static THREADS: GucSetting<i32> = GucSetting::<i32>::new(1);
static MAX_IMAGE_PIXELS: GucSetting<i32> = GucSetting::<i32>::new(100_000_000);
static MAX_IMAGE_BYTES: GucSetting<i32> = GucSetting::<i32>::new(64 << 20);

const DEFAULT_ONNXRUNTIME: &CStr = c"$libdir/lookbook/libonnxruntime.so";
const MAX_THREADS: i32 = 1024;

static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Changes whenever a setting of this module changes, also when a `SET` is rolled back.
pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// The name of the setting that chooses the model of a kind.
pub(crate) fn model_setting(kind: Kind) -> &'static str {
    match kind {
        Kind::Embedder => "lookbook.embed_model",
        Kind::Detector => "lookbook.detect_model",
        Kind::Pose => "lookbook.pose_model",
    }
}

/// The model that the session asks for, if it asks for one.
pub(crate) fn model(kind: Kind) -> Option<String> {
    let setting = match kind {
        Kind::Embedder => &EMBED_MODEL,
        Kind::Detector => &DETECT_MODEL,
        Kind::Pose => &POSE_MODEL,
    };
    Some(text(setting)).filter(|name| !name.is_empty())
}

pub(crate) fn device() -> Result<Device, UserError> {
    text(&DEVICE).parse::<Device>().map_err(report::from_vision)
}

/// `0` leaves the number to ONNX Runtime.
pub(crate) fn threads() -> usize {
    usize::try_from(THREADS.get()).unwrap_or(0)
}

pub(crate) fn limits() -> Limits {
    let unsigned = |setting: &GucSetting<i32>| u64::try_from(setting.get()).unwrap_or(0);
    Limits {
        max_bytes: unsigned(&MAX_IMAGE_BYTES),
        max_pixels: unsigned(&MAX_IMAGE_PIXELS),
    }
}

/// Where the ONNX Runtime library is, with `$libdir` expanded as in `CREATE FUNCTION`.
pub(crate) fn onnxruntime_library() -> PathBuf {
    let setting = text(&ONNXRUNTIME);
    let setting = if setting.is_empty() {
        DEFAULT_ONNXRUNTIME.to_string_lossy().into_owned()
    } else {
        setting
    };
    match setting.strip_prefix("$libdir") {
        Some(rest) => library_directory().join(rest.trim_start_matches('/')),
        None => PathBuf::from(setting),
    }
}

fn library_directory() -> &'static Path {
    // SAFETY: pkglib_path is a NUL-terminated array filled at server start and never written again.
    let path = unsafe { CStr::from_ptr((&raw const pg_sys::pkglib_path).cast::<c_char>()) };
    Path::new(OsStr::from_bytes(path.to_bytes()))
}

fn text(setting: &GucSetting<Option<CString>>) -> String {
    setting
        .get()
        .map(|value| value.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Called once, from `_PG_init`.
pub(crate) fn register() {
    register_models();
    register_runtime();
    register_limits();
    worker::register();
    reserve_prefix();
}

/// Makes a misspelt `SET lookbook.…` an error (a warning at load, before PostgreSQL 15).
fn reserve_prefix() {
    // SAFETY: a static NUL-terminated string.
    unsafe {
        #[cfg(feature = "pg14")]
        pg_sys::EmitWarningsOnPlaceholders(c"lookbook".as_ptr());
        #[cfg(not(feature = "pg14"))]
        pg_sys::MarkGUCPrefixReserved(c"lookbook".as_ptr());
    }
}

fn register_models() {
    define_text(
        c"lookbook.embed_model",
        c"Model that embed_image() and detect_garments() embed with.",
        c"The name of a row of lookbook_model; empty takes the default of lookbook_default_model.",
        &EMBED_MODEL,
        GucContext::Userset,
        None,
    );
    define_text(
        c"lookbook.detect_model",
        c"Model that detect_garments() finds garments with.",
        c"The name of a row of lookbook_model; empty takes the default of lookbook_default_model.",
        &DETECT_MODEL,
        GucContext::Userset,
        None,
    );
    define_text(
        c"lookbook.pose_model",
        c"Model that garment_keypoints() and is_full_front_pose() look for a person with.",
        c"The name of a row of lookbook_model; empty takes the default of lookbook_default_model.",
        &POSE_MODEL,
        GucContext::Userset,
        None,
    );
}

fn register_runtime() {
    define_text(
        c"lookbook.device",
        c"Device that models run on: cpu, openvino, openvino:bf16, cuda, cuda:N or auto.",
        c"cuda that cannot start is an error; auto takes the first GPU that works, else the CPU.",
        &DEVICE,
        GucContext::Userset,
        Some(check_device),
    );
    define_text(
        c"lookbook.onnxruntime",
        c"Path of the ONNX Runtime library.",
        c"Loaded at the first inference of a connection; later changes count for new connections.",
        &ONNXRUNTIME,
        GucContext::Suset,
        None,
    );
    define_int(
        c"lookbook.inference_threads",
        c"Threads that one connection runs a model with.",
        c"0 leaves the number to ONNX Runtime, which takes every core.",
        &THREADS,
        (0, MAX_THREADS),
        GucFlags::default(),
    );
}

fn register_limits() {
    define_int(
        c"lookbook.max_image_pixels",
        c"Largest image that is decoded, in pixels.",
        c"Checked against the file's header, before memory is taken.",
        &MAX_IMAGE_PIXELS,
        (1, i32::MAX),
        GucFlags::default(),
    );
    define_int(
        c"lookbook.max_image_bytes",
        c"Largest image file that is decoded, in bytes.",
        c"Checked before the file is read.",
        &MAX_IMAGE_BYTES,
        (1, i32::MAX),
        GucFlags::UNIT_BYTE,
    );
}

fn define_text(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    context: GucContext,
    check: pg_sys::GucStringCheckHook,
) {
    // SAFETY: both hooks are extern "C-unwind" and do not panic.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            short,
            long,
            setting,
            context,
            GucFlags::default(),
            check,
            Some(text_changed),
            None,
        );
    }
}

fn define_int(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<i32>,
    (min, max): (i32, i32),
    flags: GucFlags,
) {
    // SAFETY: the hook is extern "C-unwind" and does not panic.
    unsafe {
        GucRegistry::define_int_guc_with_hooks(
            name,
            short,
            long,
            setting,
            min,
            max,
            GucContext::Userset,
            flags,
            None,
            Some(int_changed),
            None,
        );
    }
}

unsafe extern "C-unwind" fn text_changed(_value: *const c_char, _extra: *mut c_void) {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

unsafe extern "C-unwind" fn int_changed(_value: c_int, _extra: *mut c_void) {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

unsafe extern "C-unwind" fn check_device(
    new_value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: guc.c passes a pointer to the proposed value, which is NULL or NUL-terminated.
    let value = unsafe { (*new_value).as_ref().map(|text| CStr::from_ptr(text)) };
    let valid = value.is_some_and(|text| {
        text.to_str()
            .is_ok_and(|text| text.parse::<Device>().is_ok())
    });
    if !valid {
        // SAFETY: a static string, formatted in place, as GUC_check_errhint does.
        unsafe {
            pg_sys::GUC_check_errhint_string =
                c"Use cpu, openvino, openvino:bf16, cuda, cuda:N (N is a GPU's number) or auto."
                    .as_ptr()
                    .cast_mut();
        }
    }
    valid
}
