//! Items that are pushed rather than pulled: a thread of its own makes them, one ahead at most.
//!
//! Invariant: the thread starts when the first item is asked for and ends when nobody asks any more;
//! whatever happens in it, an end without an error means that everything was given, or that the user asked to stop.

use std::{thread, time::Duration};

use anyhow::{Context, Result, anyhow};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::{Found, Items};
use crate::{interrupt, messages};

/// How soon who waits for an item notices that the user asked to stop.
const WAKE: Duration = Duration::from_millis(100);

/// Where a producer puts what it makes.
pub struct Sink(Sender<Result<Found>>);

/// Nobody wants more.
#[derive(Debug)]
pub struct Gone;

impl Sink {
    pub fn give(&self, found: Found) -> Result<(), Gone> {
        self.0.send(Ok(found)).map_err(|_| Gone)
    }
}

/// What `work` gives, in its order; its error comes last.
pub fn produced(work: impl FnOnce(&Sink) -> Result<()> + Send + 'static) -> Items {
    cancellable(work, || ())
}

/// As [`produced`]; `cancel` is called when nobody asks any more while `work` is at it, as it may wait for others.
pub fn cancellable(
    work: impl FnOnce(&Sink) -> Result<()> + Send + 'static,
    cancel: impl FnOnce() + Send + 'static,
) -> Items {
    Box::new(Produced {
        work: Some(Box::new(work)),
        running: None,
        cancel: Some(Box::new(cancel)),
    })
}

type Work = Box<dyn FnOnce(&Sink) -> Result<()> + Send>;

struct Produced {
    /// Until it is started.
    work: Option<Work>,
    /// Until it ended.
    running: Option<Receiver<Result<Found>>>,
    cancel: Option<Box<dyn FnOnce() + Send>>,
}

impl Produced {
    fn cancel(&mut self) {
        if self.running.take().is_some()
            && let Some(cancel) = self.cancel.take()
        {
            cancel();
        }
    }
}

impl Iterator for Produced {
    type Item = Result<Found>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(work) = self.work.take() {
            match start(work) {
                Ok(receiver) => self.running = Some(receiver),
                Err(error) => return Some(Err(error)),
            }
        }
        loop {
            match self.running.as_ref()?.recv_timeout(WAKE) {
                Ok(found) => return Some(found),
                Err(RecvTimeoutError::Timeout) if !interrupt::is_requested() => {}
                Err(RecvTimeoutError::Timeout) => self.cancel(),
                Err(RecvTimeoutError::Disconnected) => self.running = None,
            }
        }
    }
}

impl Drop for Produced {
    fn drop(&mut self) {
        self.cancel();
    }
}

fn start(work: Work) -> Result<Receiver<Result<Found>>> {
    let (send, receive) = bounded(1);
    let sink = Sink(send);
    let run = move || {
        let ended = messages::contain(|| work(&sink));
        let ended = ended.unwrap_or_else(|panic| Err(anyhow!("internal error: {panic}")));
        if let Err(error) = ended {
            // Nobody may be there to hear it.
            let _ = sink.0.send(Err(error));
        }
    };
    thread::Builder::new()
        .name("source".to_owned())
        .spawn(run)
        .context("cannot start a thread to read the source")?;
    Ok(receive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Reject;

    #[test]
    fn an_error_or_a_panic_is_the_last_thing_to_come() {
        for (end, expected) in [("error", "broken"), ("panic", "internal error: boom")] {
            let mut items = produced(move |sink| {
                let _ = sink.give(Err(Reject::new("a", "x", "y")));
                match end {
                    "panic" => panic!("boom"),
                    _ => Err(anyhow!("broken")),
                }
            });
            assert!(items.next().unwrap().unwrap().is_err());
            assert_eq!(items.next().unwrap().unwrap_err().to_string(), expected);
            assert!(items.next().is_none());
        }
    }

    #[test]
    fn a_producer_ends_when_nobody_asks_any_more() {
        let (done, ended) = bounded(1);
        let mut items = produced(move |sink| {
            while sink.give(Err(Reject::new("a", "x", "y"))).is_ok() {}
            done.send(()).unwrap();
            Ok(())
        });
        items.next();
        drop(items);
        ended.recv().unwrap();
    }
    #[test]
    fn who_waits_for_others_when_nobody_asks_any_more_is_told() {
        let (cancel, cancelled) = bounded(1);
        let (done, ended) = bounded(1);
        let work = move |sink: &Sink| {
            let _ = sink.give(Err(Reject::new("a", "x", "y")));
            cancelled.recv().unwrap();
            done.send(()).unwrap();
            Ok(())
        };
        let mut items = cancellable(work, move || cancel.send(()).unwrap());
        items.next();
        drop(items);
        ended.recv().unwrap();
        let mut whole = cancellable(|_| Ok(()), || panic!("it had ended"));
        assert!(whole.next().is_none());
    }
}
