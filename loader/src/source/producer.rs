//! Items that are pushed rather than pulled: a thread of its own makes them, one ahead at most.
//!
//! Invariant: the thread starts when the first item is asked for and ends when nobody asks any more;
//! whatever happens in it, an end without an error means that everything was given.

use std::thread;

use anyhow::{Context, Result, anyhow};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Found, Items};
use crate::messages;

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
    Box::new(Produced::Waiting(Some(Box::new(work))))
}

type Work = Box<dyn FnOnce(&Sink) -> Result<()> + Send>;

enum Produced {
    Waiting(Option<Work>),
    Running(Receiver<Result<Found>>),
}

impl Iterator for Produced {
    type Item = Result<Found>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Self::Waiting(work) = self {
            match start(work.take()?) {
                Ok(receiver) => *self = Self::Running(receiver),
                Err(error) => return Some(Err(error)),
            }
        }
        match self {
            Self::Running(receiver) => receiver.recv().ok(),
            Self::Waiting(_) => None,
        }
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
}
