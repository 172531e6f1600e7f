//! The settings of the inference worker. All but one are the server's: one worker serves everybody.

use super::onnxruntime_library;
use lookbook_worker::Settings;
use nix::unistd::{SysconfVar, sysconf};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::time::Duration;

/// Who runs models.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub(crate) enum WorkerMode {
    /// The worker; this connection where none can be had.
    #[name = c"auto"]
    Auto,
    /// The worker, or an error.
    #[name = c"on"]
    On,
    /// This connection.
    #[name = c"off"]
    Off,
}

static MODE: GucSetting<WorkerMode> = GucSetting::<WorkerMode>::new(WorkerMode::Auto);
static IDLE_TIMEOUT_S: GucSetting<i32> = GucSetting::<i32>::new(600);
static QUEUE_LIMIT: GucSetting<i32> = GucSetting::<i32>::new(256);
static THREADS: GucSetting<i32> = GucSetting::<i32>::new(0);
static MEMORY_MB: GucSetting<i32> = GucSetting::<i32>::new(0);

/// More descriptors than this a process seldom has.
const MAX_QUEUE_LIMIT: i32 = 10_000;
const MAX_THREADS: i32 = 1_024;
/// With less its process would not even start.
const LEAST_MEMORY_MB: u64 = 64;

pub(crate) fn mode() -> WorkerMode {
    MODE.get()
}

/// What the worker is told at its start, and again when the configuration is loaded anew.
pub(crate) fn of_server() -> Settings {
    let unsigned = |setting: &GucSetting<i32>| usize::try_from(setting.get()).unwrap_or(0);
    Settings {
        queue_limit: unsigned(&QUEUE_LIMIT),
        threads: unsigned(&THREADS),
        memory: memory(),
        idle_timeout: Duration::from_secs(unsigned(&IDLE_TIMEOUT_S) as u64),
        library: onnxruntime_library(),
    }
}

/// In bytes; 0: no limit.
fn memory() -> u64 {
    match MEMORY_MB.get() {
        0 => {
            let of_system = |what| sysconf(what).ok().flatten();
            let pages = of_system(SysconfVar::_PHYS_PAGES).unwrap_or(0);
            let page = of_system(SysconfVar::PAGE_SIZE).unwrap_or(0);
            u64::try_from(pages.saturating_mul(page) / 2).unwrap_or(0)
        }
        megabytes => {
            u64::try_from(megabytes).map_or(0, |megabytes| megabytes.max(LEAST_MEMORY_MB) << 20)
        }
    }
}

pub(super) fn register() {
    GucRegistry::define_enum_guc(
        c"lookbook.worker",
        c"Who runs models: auto, on or off.",
        c"on: one process for the whole server; off: each connection for itself; auto: the process, or the connection where it cannot be had.",
        &MODE,
        GucContext::Suset,
        GucFlags::default(),
    );
    define(
        c"lookbook.worker_idle_timeout",
        c"How long the inference worker keeps a model that nobody uses.",
        c"Its process ends when nothing was asked for as long, and starts again at the next call. 0 keeps all.",
        &IDLE_TIMEOUT_S,
        (0, i32::MAX),
        GucFlags::UNIT_S,
    );
    define(
        c"lookbook.worker_queue_limit",
        c"Requests that may wait for the inference worker.",
        c"One more gets an error at once.",
        &QUEUE_LIMIT,
        (1, MAX_QUEUE_LIMIT),
        GucFlags::default(),
    );
    define(
        c"lookbook.worker_threads",
        c"Batches that the inference worker runs at once.",
        c"0 is one for each processor. Each may open the model once more.",
        &THREADS,
        (0, MAX_THREADS),
        GucFlags::default(),
    );
    define(
        c"lookbook.worker_memory",
        c"Memory of its own that the inference worker may have.",
        c"A model that needs more is an error. 0 is half of the machine's, -1 sets no limit, 64MB is the least.",
        &MEMORY_MB,
        (-1, i32::MAX),
        GucFlags::UNIT_MB,
    );
}

fn define(
    name: &'static std::ffi::CStr,
    short: &'static std::ffi::CStr,
    long: &'static std::ffi::CStr,
    setting: &'static GucSetting<i32>,
    (min, max): (i32, i32),
    flags: GucFlags,
) {
    GucRegistry::define_int_guc(
        name,
        short,
        long,
        setting,
        min,
        max,
        GucContext::Sighup,
        flags,
    );
}
