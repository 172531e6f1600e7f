//! What every stage of a load is made of: a way to stop, a measure of how busy it is, taking work
//! one by one or in batches, and a bound on the pixels in flight.
//!
//! Knows nothing of photos. Invariant: a stage ends when its input ends or a stop was asked for,
//! and then lets go of its ends of the queues, so that the stages around it end too.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use rustix::time::{ClockId, clock_gettime};

use super::batch::BatchSize;

/// How long an inference stage waits for its batch to fill once it has something. When it is the
/// slowest stage its queue is full and it never waits; otherwise it has time to spare.
const BATCH_PATIENCE: Duration = Duration::from_millis(10);

/// Photos per transaction at most, and how long a finished photo waits at most.
const COMMIT_PHOTOS: usize = 512;
const COMMIT_PERIOD: Duration = Duration::from_secs(2);

/// Asks all stages to end; the first error wins.
#[derive(Debug, Default)]
pub struct Stop {
    requested: AtomicBool,
    error: Mutex<Option<anyhow::Error>>,
}

impl Stop {
    /// Stop in good order: what is finished is still written.
    pub fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
    }

    /// Stop because of an error.
    pub fn fail(&self, error: anyhow::Error) {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
        self.request();
    }

    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    pub fn take_error(&self) -> Option<anyhow::Error> {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// How busy a stage is.
#[derive(Debug)]
pub struct Meter {
    pub name: &'static str,
    pub workers: usize,
    busy_ns: AtomicU64,
    processor_ns: AtomicU64,
    photos: AtomicU64,
}

/// Processor time of this thread until now.
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Meter {
    pub fn new(name: &'static str, workers: usize) -> Self {
        Self {
            name,
            workers,
            busy_ns: AtomicU64::new(0),
            processor_ns: AtomicU64::new(0),
            photos: AtomicU64::new(0),
        }
    }

    /// Runs `work` for that many photos and counts its time.
    pub fn run<T>(&self, photos: usize, work: impl FnOnce() -> T) -> T {
        let (start, processor) = (Instant::now(), thread_time());
        let done = work();
        let processor = thread_time().saturating_sub(processor);
        self.processor_ns
            .fetch_add(nanoseconds(processor), Ordering::Relaxed);
        self.busy_ns
            .fetch_add(nanoseconds(start.elapsed()), Ordering::Relaxed);
        self.photos.fetch_add(photos as u64, Ordering::Relaxed);
        done
    }

    /// Time that the stage's workers were busy, on average.
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy_ns.load(Ordering::Relaxed)) / (self.workers.max(1) as u32)
    }

    /// Processor time of the stage's threads, all together.
    pub fn processor(&self) -> Duration {
        Duration::from_nanos(self.processor_ns.load(Ordering::Relaxed))
    }

    pub fn photos(&self) -> u64 {
        self.photos.load(Ordering::Relaxed)
    }
}

/// A stage that works on one thing at a time. `None` drops it.
pub fn each<I, O>(
    stop: &Stop,
    meter: &Meter,
    input: &Receiver<I>,
    output: &Sender<O>,
    mut work: impl FnMut(I) -> Option<O>,
) {
    for item in input {
        if stop.is_requested() {
            return;
        }
        let done = meter.run(1, || work(item));
        if let Some(done) = done
            && output.send(done).is_err()
        {
            return;
        }
    }
}

/// A stage that works on batches of at least one thing, up to the size that `sizes` gives, as counted by
/// `weight`; `work` is told the size.
pub fn in_batches<I, O>(
    stop: &Stop,
    meter: &Meter,
    (input, output): (&Receiver<I>, &Sender<O>),
    (sizes, weight): (&BatchSize, impl Fn(&I) -> usize),
    mut work: impl FnMut(Vec<I>, usize) -> Vec<O>,
) {
    while let Ok(first) = input.recv() {
        let size = sizes.next();
        let mut held = weight(&first);
        let mut batch = vec![first];
        let deadline = Instant::now() + BATCH_PATIENCE;
        while held < size
            && let Ok(next) = input.recv_deadline(deadline)
        {
            held += weight(&next);
            batch.push(next);
        }
        if stop.is_requested() {
            return;
        }
        let start = sizes.time();
        let finished = meter.run(batch.len(), || work(batch, size));
        sizes.record(size, held, sizes.time().saturating_sub(start));
        for done in finished {
            if output.send(done).is_err() {
                return;
            }
        }
    }
}

/// The last stage: `commit` gets what came for one transaction. Its error ends the run.
pub fn in_commits<T>(
    input: &Receiver<T>,
    stop: &Stop,
    mut commit: impl FnMut(&mut Vec<T>) -> anyhow::Result<()>,
) {
    let mut photos = Vec::new();
    let mut oldest = Instant::now();
    loop {
        let received = input.recv_deadline(oldest + COMMIT_PERIOD);
        let is_over = matches!(received, Err(RecvTimeoutError::Disconnected));
        if photos.is_empty() {
            oldest = Instant::now();
        }
        photos.extend(received);
        let is_due = is_over || photos.len() >= COMMIT_PHOTOS || oldest.elapsed() >= COMMIT_PERIOD;
        if is_due && !photos.is_empty() {
            if let Err(error) = commit(&mut photos) {
                return stop.fail(error);
            }
            photos.clear();
        }
        if is_over {
            return;
        }
    }
}

/// A bound on bytes held by photos and by what decodes them: what keeps a catalogue of huge pictures from filling
/// the memory.
#[derive(Debug, Clone)]
pub struct Budget(Arc<(Mutex<u64>, Condvar)>, u64);

/// A share of the budget, given back on drop.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    bytes: u64,
}

impl Budget {
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new((Mutex::new(0), Condvar::new())), bytes)
    }

    /// Waits until that much is free; more than the whole budget waits until nothing else is held.
    pub fn take(&self, bytes: u64) -> Share {
        let (held, freed) = &*self.0;
        let held = held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = freed
            .wait_while(held, |held| *held > 0 && *held + bytes > self.1)
            .unwrap_or_else(PoisonError::into_inner);
        *held += bytes;
        Share {
            budget: self.clone(),
            bytes,
        }
    }

    fn give_back(&self, bytes: u64) {
        let (held, freed) = &*self.0;
        *held.lock().unwrap_or_else(PoisonError::into_inner) -= bytes;
        freed.notify_all();
    }
}

impl Share {
    /// Gives back what is above that much.
    pub fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.budget.give_back(self.bytes - bytes);
        self.bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use crossbeam_channel::{bounded, unbounded};

    use super::*;

    #[test]
    fn batches_fill_up_by_weight_and_nothing_is_lost() {
        let (send, input) = unbounded();
        let (output, results) = unbounded();
        (1..=6_usize).for_each(|weight| send.send(weight).unwrap());
        drop(send);
        let meter = Meter::new("test", 1);
        in_batches(
            &Stop::default(),
            &meter,
            (&input, &output),
            (&BatchSize::new(5, true), |w: &usize| *w),
            |batch, _| vec![batch],
        );
        drop(output);
        let batches: Vec<Vec<usize>> = results.iter().collect();
        assert_eq!(batches, [vec![1, 2, 3], vec![4, 5], vec![6]]);
        assert_eq!(meter.photos(), 6);
    }

    #[test]
    fn a_stage_ends_when_the_next_one_is_gone_or_a_stop_is_asked_for() {
        let (send, input) = unbounded();
        (0..3).for_each(|item| send.send(item).unwrap());
        let (output, results) = bounded::<i32>(1);
        drop(results);
        each(
            &Stop::default(),
            &Meter::new("test", 1),
            &input,
            &output,
            Some,
        );
        assert_eq!(input.len(), 2);
        let stop = Stop::default();
        stop.fail(anyhow::anyhow!("first"));
        stop.fail(anyhow::anyhow!("second"));
        each(
            &stop,
            &Meter::new("test", 1),
            &input,
            &output,
            |_| -> Option<i32> { panic!() },
        );
        assert_eq!(stop.take_error().unwrap().to_string(), "first");
    }

    #[test]
    fn a_budget_holds_back_what_does_not_fit_and_lets_one_giant_through() {
        let budget = Budget::new(10);
        let giant = budget.take(100);
        let waiting = thread::spawn({
            let budget = budget.clone();
            move || drop(budget.take(4))
        });
        thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished());
        drop(giant);
        waiting.join().unwrap();
        let (mut six, _four) = (budget.take(6), budget.take(4));
        six.shrink(1);
        let _five = budget.take(5);
    }
}
