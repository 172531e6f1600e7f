//! How many photos go into one inference, found out on the load's own photos.
//!
//! Every size is tried on a few full batches, then the one whose fastest batch took the least time per photo
//! stays. No photo is processed for the measurement alone. Invariant: a size that was asked for is never changed.

use std::{
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::stage::thread_time;

/// On a CPU a batch saves little and costs memory; a GPU starves without one.
const CPU_SIZES: &[usize] = &[1, 2, 4, 8];
const GPU_SIZES: &[usize] = &[8, 16, MOST];

/// What one run takes at most.
const MOST: usize = 32;
/// Runs of a model of a fixed batch for which garments are gathered: only the last is filled up, with what is of no use.
const FILLED: usize = 8;

/// Full batches of a size that are measured, after one that is not: memory is taken in the first.
const MEASURED: u32 = 4;
/// A size that is never filled is given up: then this stage waits for others, and its size does not matter.
const FUTILE: u32 = 12;

#[derive(Debug)]
pub struct BatchSize {
    trials: Mutex<Vec<Trial>>,
    is_cpu: bool,
}

#[derive(Debug, Clone, Copy)]
struct Trial {
    size: usize,
    full: u32,
    futile: u32,
    /// Of the fastest batch, for one item: what else runs makes batches slower, never faster.
    fastest: Duration,
}

impl Trial {
    fn is_over(&self) -> bool {
        self.full > MEASURED || self.futile > FUTILE
    }

    fn cost(&self) -> Option<Duration> {
        (self.full > 1).then_some(self.fastest)
    }
}

impl BatchSize {
    /// Of what comes one by one, for a model that takes `most` in a run.
    pub fn of_photos(asked: usize, is_cpu: bool, most: usize) -> Self {
        Self::for_runs(1, asked, is_cpu, most)
    }

    /// Of what comes several at once and may overfill a batch.
    pub fn of_garments(asked: usize, is_cpu: bool, most: usize) -> Self {
        Self::for_runs(FILLED, asked, is_cpu, most)
    }

    /// A model of a fixed batch gets so many of its runs at once.
    fn for_runs(runs: usize, asked: usize, is_cpu: bool, most: usize) -> Self {
        match (asked, most) {
            (0, MOST..) | (1.., _) => Self::new(asked, is_cpu),
            (0, fixed) => Self::new(MOST.min(fixed * runs), is_cpu),
        }
    }

    /// 0: to be found out.
    pub fn new(asked: usize, is_cpu: bool) -> Self {
        let sizes = match (asked, is_cpu) {
            (0, true) => CPU_SIZES,
            (0, false) => GPU_SIZES,
            (asked, _) => &[asked],
        };
        let trial = |size: &usize| Trial {
            size: *size,
            full: 0,
            futile: 0,
            fastest: Duration::MAX,
        };
        Self {
            trials: Mutex::new(sizes.iter().map(trial).collect()),
            is_cpu,
        }
    }

    /// What two readings of tell how long a batch took: on a CPU, where stages compete for the cores, the thread's own time.
    pub fn time(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        if self.is_cpu {
            thread_time()
        } else {
            START.elapsed()
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Vec<Trial>) -> T) -> T {
        work(&mut self.trials.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The largest that may come.
    pub fn most(&self) -> usize {
        self.with(|trials| trials.iter().map(|trial| trial.size).max().unwrap_or(1))
    }

    /// For the next batch.
    pub fn next(&self) -> usize {
        self.with(
            |trials| match trials.iter().find(|trial| !trial.is_over()) {
                Some(trial) if trials.len() > 1 => trial.size,
                _ => best(trials),
            },
        )
    }

    /// The size that stays, or would if no more came.
    pub fn chosen(&self) -> usize {
        self.with(|trials| best(trials))
    }

    /// A batch for which [`Self::next`] gave `size` held that many and took that long.
    pub fn record(&self, size: usize, held: usize, time: Duration) {
        self.with(|trials| {
            let trial = trials.iter_mut().find(|trial| trial.size == size);
            let Some(trial) = trial.filter(|trial| !trial.is_over()) else {
                return;
            };
            if held < size {
                trial.futile += 1;
                return;
            }
            trial.full += 1;
            if trial.full > 1 {
                // A photo of many garments overfills a batch.
                trial.fastest = trial.fastest.min(time.div_f64(held as f64));
            }
        });
    }
}

/// The cheapest of those that were measured, else the largest of all.
fn best(trials: &[Trial]) -> usize {
    let measured = trials
        .iter()
        .filter_map(|trial| Some((trial.cost()?, trial.size)));
    let cheapest = measured.min();
    let largest = trials.iter().map(|trial| trial.size).max();
    cheapest.map_or(largest.unwrap_or(1), |(_, size)| size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        sizes: &BatchSize,
        batches: usize,
        cost: impl Fn(usize) -> u64,
        fill: impl Fn(usize) -> usize,
    ) {
        for _ in 0..batches {
            let size = sizes.next();
            sizes.record(size, fill(size), Duration::from_micros(cost(size)));
        }
    }

    #[test]
    fn the_size_that_takes_least_per_photo_stays() {
        let sizes = BatchSize::new(0, true);
        assert_eq!((sizes.next(), sizes.most()), (1, 8));
        // 4 is best: 100 for each batch and 10 for each photo, and beyond 4 memory runs short.
        run(
            &sizes,
            20,
            |n| 100 + 10 * n as u64 * if n > 4 { 9 } else { 1 },
            |n| n,
        );
        assert_eq!((sizes.chosen(), sizes.next()), (4, 4));
    }

    #[test]
    fn sizes_that_are_never_filled_are_given_up() {
        let sizes = BatchSize::new(0, true);
        run(&sizes, 200, |n| 10 * n as u64, |n| n.min(2));
        assert!([1, 2].contains(&sizes.chosen()), "{}", sizes.chosen());
        assert_eq!(sizes.next(), sizes.chosen());
    }

    #[test]
    fn a_model_of_a_fixed_batch_decides_and_garments_fill_its_runs() {
        let photos = |asked, most| BatchSize::of_photos(asked, true, most).most();
        let garments = |asked, most| BatchSize::of_garments(asked, true, most).most();
        assert_eq!((photos(0, 1), garments(0, 1)), (1, 8));
        assert_eq!((photos(0, 4), garments(0, 4)), (4, 32));
        assert_eq!((photos(0, 16), garments(0, 16)), (16, 32));
        // What takes any number is tried out.
        assert_eq!((photos(0, 32), garments(0, 32)), (8, 8));
        assert_eq!((photos(3, 1), garments(3, 1)), (3, 3));
    }

    #[test]
    fn a_size_that_was_asked_for_stays() {
        let sizes = BatchSize::new(5, false);
        run(&sizes, 50, |_| 1, |n| n);
        assert_eq!((sizes.next(), sizes.most(), sizes.chosen()), (5, 5, 5));
    }
}
