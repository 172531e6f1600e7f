//! How many threads decode at once, by what decoding and inference were measured to cost.
//!
//! Inference limits a load on a CPU, and decoders that run beside it only take its cores and its caches
//! away. Invariant: when inference has nothing to do, every decoder may run.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use super::pipeline::Meters;

/// Photos before costs mean something.
const ENOUGH: u64 = 16;
/// More decoders than the shares say, so that their queue is never empty.
const MARGIN: f64 = 1.5;
/// How often a waiting decoder looks again.
const PERIOD: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct Split {
    threads: usize,
    decoding: Mutex<usize>,
    done: Condvar,
}

/// Leave to decode one photo.
pub struct Turn<'a>(&'a Split);

impl Split {
    pub fn new(threads: usize) -> Self {
        Self {
            threads,
            decoding: Mutex::new(0),
            done: Condvar::new(),
        }
    }

    /// Waits for a turn to decode. `is_starving` says whether inference waits for photos.
    pub fn turn(&self, meters: &Meters, is_starving: impl Fn() -> bool) -> Turn<'_> {
        let mut decoding = self.decoding.lock().unwrap_or_else(PoisonError::into_inner);
        while *decoding >= self.allowed(meters) && !is_starving() {
            let waited = self.done.wait_timeout(decoding, PERIOD);
            decoding = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *decoding += 1;
        Turn(self)
    }

    /// Decoders at once, by the processor time that each stage took for a photo.
    pub fn allowed(&self, meters: &Meters) -> usize {
        let of = |meter: &super::Meter| match meter.photos() {
            photos if photos >= ENOUGH => Some(meter.processor().as_secs_f64() / photos as f64),
            _ => None,
        };
        let costs = [
            of(&meters.decode),
            of(&meters.detect),
            of(&meters.crop),
            of(&meters.embed),
        ];
        let [Some(decode), Some(detect), Some(crop), Some(embed)] = costs else {
            return self.threads;
        };
        threads_for(decode, decode + detect + crop + embed, self.threads)
    }
}

fn threads_for(decode: f64, all: f64, threads: usize) -> usize {
    let share = decode / all.max(f64::MIN_POSITIVE);
    ((share * MARGIN * threads as f64).ceil() as usize).clamp(1, threads.max(1))
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self
            .0
            .decoding
            .lock()
            .unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.done.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoders_get_the_threads_that_they_are_worth() {
        assert_eq!(threads_for(1.0, 30.0, 16), 1);
        assert_eq!(threads_for(10.0, 30.0, 16), 8);
        // Inference on a GPU takes no processor time.
        assert_eq!(threads_for(9.0, 10.0, 16), 16);
        assert_eq!(threads_for(0.0, 0.0, 2), 1);
    }
}
