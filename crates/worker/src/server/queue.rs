//! Requests that wait, run and are answered, shared by the socket loop and the executors.
//!
//! Invariants: a request is in the queue, in one running batch, or among the answers; a run that
//! nobody waits for any more is cancelled, and known until it has ended.

use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lookbook_vision::Cancel;

use super::Settings;
use super::batch::MAX_BATCH;
use super::models::{Lease, Models};
use super::stats::Stats;
use crate::Fingerprint;
use crate::protocol::{Refusal, Reply, Run, Task};

/// A connection of the socket loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ConnectionId(pub(super) u64);

/// What is to be done.
pub(super) enum Work {
    Run { run: Run, image: Vec<u8> },
    Check { manifest: String, onnx: Vec<u8> },
}

impl Work {
    /// The models that must be known for it.
    pub(super) fn models(&self) -> &[Fingerprint] {
        match self {
            Work::Run { run, .. } => &run.models,
            Work::Check { .. } => &[],
        }
    }
}

pub(super) struct Job {
    pub(super) connection: ConnectionId,
    pub(super) work: Work,
    queued: Instant,
}

impl Job {
    pub(super) fn new(connection: ConnectionId, work: Work) -> Job {
        Job {
            connection,
            work,
            queued: Instant::now(),
        }
    }
}

/// Jobs that one executor runs together: of the same task, models and options.
pub(super) struct Batch {
    number: u64,
    pub(super) jobs: Vec<Job>,
    pub(super) leases: Vec<Lease>,
    pub(super) cancel: Cancel,
}

/// A batch as the socket loop sees it.
struct Running {
    batch: u64,
    cancel: Cancel,
    /// Those that still wait for it.
    waiting: Vec<ConnectionId>,
    /// Since when nobody does.
    abandoned: Option<Instant>,
}

pub(super) struct State {
    pub(super) settings: Settings,
    pub(super) models: Models,
    pub(super) stats: Stats,
    pub(super) answers: Vec<(ConnectionId, Reply)>,
    /// The library that this process has loaded, for good.
    pub(super) library: Option<PathBuf>,
    pub(super) executors: usize,
    pub(super) is_stopping: bool,
    /// Nothing new runs any more: memory is booked that nothing gives back.
    pub(super) is_spent: bool,
    queue: VecDeque<Job>,
    running: Vec<Running>,
    batches: u64,
}

/// The state, and the bells of both sides.
pub(super) struct Shared {
    state: Mutex<State>,
    work: Condvar,
    answered: UnixStream,
}

impl Shared {
    /// `answered` gets a byte whenever there are answers.
    pub(super) fn new(settings: Settings, answered: UnixStream) -> Shared {
        Shared {
            state: Mutex::new(State {
                settings,
                models: Models::default(),
                stats: Stats::new(),
                answers: Vec::new(),
                library: None,
                executors: 0,
                is_stopping: false,
                is_spent: false,
                queue: VecDeque::new(),
                running: Vec::new(),
                batches: 0,
            }),
            work: Condvar::new(),
            answered,
        }
    }

    /// What it guards is valid at every step, so a poisoned lock is as good.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes executors: there is work, or a session is free.
    pub(super) fn ring(&self) {
        self.work.notify_all();
    }

    /// Drops every session that does not run; whether there was one.
    pub(super) fn make_room(&self) -> bool {
        let idle = self.lock().models.take_idle();
        !idle.is_empty()
    }

    /// The next batch for executor `number`; `None` ends it.
    pub(super) fn next_batch(&self, number: usize) -> Option<Batch> {
        let mut state = self.lock();
        loop {
            if state.is_stopping || number >= state.settings.executors() {
                state.executors -= 1;
                return None;
            }
            if let Some(batch) = state.take_batch() {
                return Some(batch);
            }
            state = self
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes in the replies of a batch, one for each of its jobs.
    pub(super) fn finish(&self, batch: Batch, replies: Vec<Reply>) {
        let mut state = self.lock();
        let count = batch.jobs.len() as u64;
        for lease in batch.leases {
            state.models.give_back(lease, count);
        }
        for (job, reply) in batch.jobs.into_iter().zip(replies) {
            if let Work::Run { run, .. } = &job.work {
                state.models.unpin(run);
            }
            state.answer(job.connection, reply);
        }
        state
            .running
            .retain(|running| running.batch != batch.number);
        let is_awaited = !state.queue.is_empty();
        drop(state);
        if is_awaited {
            self.ring();
        }
        // A full pipe already says that there are answers.
        let _ = (&self.answered).write(&[0]);
    }
}

impl State {
    /// The library that models run with: the one loaded, else the one that the settings name.
    pub(super) fn library(&self) -> PathBuf {
        self.library
            .clone()
            .unwrap_or_else(|| self.settings.library.clone())
    }

    /// Requests that run and are waited for.
    pub(super) fn running(&self) -> usize {
        self.running
            .iter()
            .map(|running| running.waiting.len())
            .sum()
    }

    /// Since when nobody waits for each run that has not ended yet all the same.
    pub(super) fn abandoned(&self) -> impl Iterator<Item = Instant> {
        self.running.iter().filter_map(|running| running.abandoned)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.running.is_empty() && self.answers.is_empty()
    }

    /// Whether the process is of no more use, and all that ran is answered.
    pub(super) fn is_spent(&self) -> bool {
        self.is_spent && self.running.is_empty() && self.answers.is_empty()
    }

    pub(super) fn submit(&mut self, job: Job) {
        if let Work::Run { run, .. } = &job.work {
            self.models.pin(run);
        }
        self.queue.push_back(job);
    }

    /// The caller is gone: its request leaves the queue, or its run ends if nobody else waits.
    /// Whether there was one.
    pub(super) fn abandon(&mut self, connection: ConnectionId) -> bool {
        if let Some(at) = self
            .queue
            .iter()
            .position(|job| job.connection == connection)
        {
            self.take_out(at);
            return true;
        }
        let Some(running) = self
            .running
            .iter_mut()
            .find(|running| running.waiting.contains(&connection))
        else {
            return false;
        };
        running.waiting.retain(|waiting| *waiting != connection);
        if running.waiting.is_empty() {
            running.cancel.cancel();
            running.abandoned = Some(Instant::now());
        }
        true
    }

    fn take_out(&mut self, at: usize) -> Option<Job> {
        let job = self.queue.remove(at)?;
        if let Work::Run { run, .. } = &job.work {
            self.models.unpin(run);
        }
        Some(job)
    }

    /// A session could not be opened: refuses all who wait for one of the same kind.
    pub(super) fn refuse_alike(&mut self, lease: &Lease, refusal: &Refusal) {
        let mut at = 0;
        while let Some(job) = self.queue.get(at) {
            if matches!(&job.work, Work::Run { run, .. } if lease.is_for(run)) {
                if let Some(job) = self.take_out(at) {
                    self.stats.errors += 1;
                    self.answers
                        .push((job.connection, Reply::Refused(refusal.clone())));
                }
            } else {
                at += 1;
            }
        }
    }

    fn answer(&mut self, connection: ConnectionId, reply: Reply) {
        let is_waited_for = self
            .running
            .iter()
            .any(|running| running.waiting.contains(&connection));
        if !is_waited_for {
            return;
        }
        self.stats.errors += u64::from(matches!(reply, Reply::Refused(_)));
        self.answers.push((connection, reply));
    }

    /// The first request that can run now, with those like it: as many as are this executor's share.
    fn take_batch(&mut self) -> Option<Batch> {
        if self.is_spent {
            return None;
        }
        let executors = self.settings.executors();
        let (first, leases) =
            (0..self.queue.len()).find_map(|at| match &self.queue.get(at)?.work {
                Work::Check { .. } => Some((at, Vec::new())),
                Work::Run { run, .. } => Some((at, self.models.lease(run, executors)?)),
            })?;
        let like = match &self.queue.get(first)?.work {
            Work::Run { run, .. } if run.task == Task::Embed => Some(run.clone()),
            _ => None,
        };
        let alike: Vec<usize> = match &like {
            None => vec![first],
            Some(like) => (first..self.queue.len())
                .filter(|at| {
                    self.queue
                        .get(*at)
                        .is_some_and(|job| is_alike(&job.work, like))
                })
                .collect(),
        };
        let share = alike.len().div_ceil(executors).min(MAX_BATCH);
        let mut jobs: Vec<Job> = alike
            .into_iter()
            .take(share)
            .rev()
            .filter_map(|at| self.queue.remove(at))
            .collect();
        jobs.reverse();
        self.stats
            .taken(jobs.iter().map(|job| job.queued.elapsed()));
        let cancel = Cancel::new();
        self.batches += 1;
        self.running.push(Running {
            batch: self.batches,
            cancel: cancel.clone(),
            waiting: jobs.iter().map(|job| job.connection).collect(),
            abandoned: None,
        });
        Some(Batch {
            number: self.batches,
            jobs,
            leases,
            cancel,
        })
    }
}

fn is_alike(work: &Work, like: &Run) -> bool {
    match work {
        Work::Run { run, .. } => {
            run.task == like.task && run.models == like.models && run.options == like.options
        }
        Work::Check { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{ConnectionId, Job, Shared, Work};
    use crate::server::Settings;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    #[test]
    fn a_run_that_nobody_waits_for_is_known_until_it_ends() {
        let settings = Settings {
            queue_limit: 1,
            threads: 1,
            idle_timeout: Duration::ZERO,
            memory: 0,
            library: "/nowhere".into(),
        };
        let (_answered, bell) = UnixStream::pair().expect("a pair of sockets");
        let shared = Shared::new(settings, bell);
        let caller = ConnectionId(1);
        let check = Work::Check {
            manifest: String::new(),
            onnx: Vec::new(),
        };
        shared.lock().submit(Job::new(caller, check));
        let batch = shared.next_batch(0).expect("a batch");
        let counts = || {
            let state = shared.lock();
            (state.running(), state.abandoned().count(), state.is_idle())
        };
        assert_eq!(counts(), (1, 0, false));
        assert!(shared.lock().abandon(caller) && batch.cancel.is_cancelled());
        assert_eq!(counts(), (0, 1, false));
        shared.finish(batch, Vec::new());
        assert_eq!(counts(), (0, 0, true));
    }
}
