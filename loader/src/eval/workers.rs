//! Photos through models on every core, results in the order of the photos.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    interrupt,
    messages::{self, Ending},
};

/// Photos that a worker takes at once.
const TAKEN: usize = 8;

/// What came of one photo; a fault of the photo is its own.
pub type Outcome<R> = Result<R, String>;

/// Gives every item to one of `engines`, which run side by side. `work` gets a few items at a time and
/// returns one outcome for each; an error of it ends everything.
pub fn run<T: Sync, E: Send, R: Send>(
    items: &[T],
    engines: &mut [E],
    work: impl Fn(&mut E, &[T]) -> Result<Vec<Outcome<R>>> + Sync,
) -> Result<Vec<Outcome<R>>> {
    let bar = ProgressBar::new(items.len() as u64);
    bar.set_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} photos, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    messages::set_bar(Some(bar.clone()));
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Option<Outcome<R>>>> =
        Mutex::new(std::iter::repeat_with(|| None).take(items.len()).collect());
    let failed = thread::scope(|scope| {
        let work = &work;
        let (next, done, bar) = (&next, &done, &bar);
        let workers: Vec<_> = engines
            .iter_mut()
            .map(|engine| {
                scope.spawn(move || -> Result<()> {
                    loop {
                        let start = next.fetch_add(TAKEN, Ordering::Relaxed);
                        if start >= items.len() || interrupt::is_requested() {
                            return Ok(());
                        }
                        let taken = &items[start..items.len().min(start + TAKEN)];
                        let outcomes = work(engine, taken).inspect_err(|_| {
                            // The others need not go on.
                            next.store(items.len(), Ordering::Relaxed);
                        })?;
                        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                        for (at, outcome) in (start..).zip(outcomes) {
                            done[at] = Some(outcome);
                        }
                        bar.inc(taken.len() as u64);
                    }
                })
            })
            .collect();
        // All are waited for before the first error is looked at.
        let joined: Vec<Result<()>> = workers
            .into_iter()
            .map(|worker| match worker.join() {
                Ok(result) => result,
                Err(_) => Err(anyhow!("a worker ended by an internal error")),
            })
            .collect();
        joined.into_iter().collect::<Result<()>>()
    });
    bar.finish_and_clear();
    messages::set_bar(None);
    failed?;
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.into_iter()
        .collect::<Option<Vec<_>>>()
        .context("interrupted: nothing was measured")
}

/// What was made of the photos that could be used.
#[derive(Debug)]
pub struct Used<'a, T, R> {
    /// Place in the list, the item and what came of it, in the list's order.
    pub photos: Vec<(usize, &'a T, R)>,
    pub skipped: usize,
}

/// Warns of each photo that could not be used; an error where none could.
pub fn used<T, R>(items: &[T], outcomes: Vec<Outcome<R>>) -> Result<Used<'_, T, R>> {
    let mut used = Used {
        photos: Vec::new(),
        skipped: 0,
    };
    for (place, (item, outcome)) in items.iter().zip(outcomes).enumerate() {
        match outcome {
            Ok(made) => used.photos.push((place, item, made)),
            Err(reason) => {
                used.skipped += 1;
                if used.skipped == items.len() {
                    bail!("none of the {} photos could be used: {reason}", items.len());
                }
                messages::warn(reason);
            }
        }
    }
    Ok(used)
}

/// How a run ends that skipped so many photos.
pub fn ending(skipped: usize) -> Ending {
    if skipped == 0 {
        Ending::Complete
    } else {
        Ending::Partial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_come_in_the_order_of_the_items_whoever_worked_on_them() {
        let items: Vec<usize> = (0..1_000).collect();
        let mut engines = [0_usize; 4];
        let outcomes = run(&items, &mut engines, |count, items| {
            *count += items.len();
            let judge = |&item: &usize| {
                if item % 7 == 3 {
                    Err("odd".to_owned())
                } else {
                    Ok(2 * item)
                }
            };
            Ok(items.iter().map(judge).collect())
        })
        .unwrap();
        assert_eq!(engines.iter().sum::<usize>(), 1_000);
        for (item, outcome) in outcomes.iter().enumerate() {
            let expected = if item % 7 == 3 {
                Err("odd".to_owned())
            } else {
                Ok(2 * item)
            };
            assert_eq!(outcome, &expected);
        }
    }

    #[test]
    fn an_error_of_a_worker_ends_the_run() {
        let items: Vec<usize> = (0..1_000).collect();
        let error = run(
            &items,
            &mut [(), ()],
            |(), items| -> Result<Vec<Outcome<()>>> {
                if items.contains(&100) {
                    anyhow::bail!("the model broke");
                }
                Ok(items.iter().map(|_| Ok(())).collect())
            },
        );
        assert_eq!(error.unwrap_err().to_string(), "the model broke");
    }

    #[test]
    fn photos_that_cannot_be_used_are_counted_unless_none_can() {
        let outcomes = vec![Ok("a"), Err("broken".to_owned()), Ok("c")];
        let used = used(&[1, 2, 3], outcomes).unwrap();
        assert_eq!(used.photos, [(0, &1, "a"), (2, &3, "c")]);
        assert_eq!((used.skipped, ending(used.skipped)), (1, Ending::Partial));
        let none: Vec<Outcome<()>> = vec![Err("first".to_owned()), Err("last".to_owned())];
        let error = super::used(&[1, 2], none).unwrap_err().to_string();
        assert_eq!(error, "none of the 2 photos could be used: last");
        assert_eq!(ending(0), Ending::Complete);
    }
}
