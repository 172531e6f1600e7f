//! What the worker has done since its start.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// Counts and times; requests that only ask for these are not among them.
#[derive(Debug)]
pub(super) struct Stats {
    started: SystemTime,
    pub(super) requests: u64,
    pub(super) errors: u64,
    /// Turned away because the queue was full.
    pub(super) refused: u64,
    /// Whose caller gave up.
    pub(super) cancelled: u64,
    batches: u64,
    batched_requests: u64,
    largest_batch: usize,
    queue: Duration,
    longest_queue: Duration,
    inference: Duration,
}

impl Stats {
    pub(super) fn new() -> Stats {
        Stats {
            started: SystemTime::now(),
            requests: 0,
            errors: 0,
            refused: 0,
            cancelled: 0,
            batches: 0,
            batched_requests: 0,
            largest_batch: 0,
            queue: Duration::ZERO,
            longest_queue: Duration::ZERO,
            inference: Duration::ZERO,
        }
    }

    pub(super) fn taken(&mut self, waited: impl Iterator<Item = Duration>) {
        let mut size = 0;
        for wait in waited {
            size += 1;
            self.queue += wait;
            self.longest_queue = self.longest_queue.max(wait);
        }
        self.batches += 1;
        self.batched_requests += size as u64;
        self.largest_batch = self.largest_batch.max(size);
    }

    pub(super) fn ran(&mut self, time: Duration) {
        self.inference += time;
    }

    pub(super) fn describe(&self) -> Value {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        json!({
            "pid": std::process::id(),
            "started_s": started.as_secs_f64(),
            "memory_bytes": memory_bytes("VmRSS:"),
            "requests": self.requests,
            "errors": self.errors,
            "refused": self.refused,
            "cancelled": self.cancelled,
            "batches": self.batches,
            "batched_requests": self.batched_requests,
            "largest_batch": self.largest_batch,
            "queue_ms": ms(self.queue),
            "longest_queue_ms": ms(self.longest_queue),
            "inference_ms": ms(self.inference),
        })
    }
}

/// Memory of this process by a line of proc_pid_status(5); `None` where the kernel does not say.
pub(super) fn memory_bytes(line: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let size = status.lines().find_map(|found| found.strip_prefix(line))?;
    let kibibytes: u64 = size.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes << 10)
}
