//! The worker itself: one loop over sockets, a few threads that run models.
//!
//! The loop reads requests, admits or refuses them, and writes replies; it never runs a model and
//! never blocks on a caller. Executors take batches from the queue.
//!
//! Invariants: at most `queue_limit` requests wait, and their payloads take at most
//! [`PAYLOAD_BUDGET_BYTES`], with one larger payload besides: the rest waits in its callers, unread, and goes in by its turn.
//! Nobody waits for a caller that does not send: after [`SENDING_PATIENCE`] it has to ask once more.
//! The loop ends when whoever started it closes the control socket, and when a run that was cancelled does not end:
//! an operator in progress cannot be stopped but with its process.

mod admission;
mod batch;
mod connection;
mod execute;
mod models;
mod queue;
mod stats;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use serde_json::{Value, json};

use crate::Fingerprint;
use crate::protocol::Reply;
use connection::{Connection, Stage};
use queue::{ConnectionId, Shared, State, Work};

/// Payloads in memory at once.
const PAYLOAD_BUDGET_BYTES: u64 = 256 << 20;
/// From the wish to stop to the end, whatever still runs.
const DRAIN_TIME: Duration = Duration::from_millis(600);
/// How long a run goes on that nobody waits for, while others wait for its place; an operator, or the opening of a model,
/// mostly ends sooner.
const ABANDONED_TIME: Duration = Duration::from_secs(5);
/// The same while nobody needs its place: a large model that was opened is there for the next call.
const LONELY_TIME: Duration = Duration::from_secs(60);
/// How long a caller may send nothing of a payload while others wait for the model that it sends, or for room.
const SENDING_PATIENCE: Duration = Duration::from_secs(5);
/// Before connections are accepted again when the process has run out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What an administrator decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Requests that may wait.
    pub queue_limit: usize,
    /// Batches that run at once; 0: one for each processor.
    pub threads: usize,
    /// After which an unused model is unloaded, and an unused process ends; zero: never.
    pub idle_timeout: Duration,
    /// Bytes of memory of its own that the process may have; 0: as many as there are.
    pub memory: u64,
    /// The ONNX Runtime library.
    pub library: PathBuf,
}

impl Settings {
    /// As one line for the control socket.
    pub fn to_line(&self) -> String {
        let object = json!({
            "queue_limit": self.queue_limit,
            "threads": self.threads,
            "idle_ms": u64::try_from(self.idle_timeout.as_millis()).unwrap_or(u64::MAX),
            "memory": self.memory,
            "library": self.library.to_string_lossy(),
        });
        format!("{object}\n")
    }

    fn from_line(line: &[u8]) -> Option<Settings> {
        let object: Value = serde_json::from_slice(line).ok()?;
        let number = |key: &str| object.get(key).and_then(Value::as_u64);
        Some(Settings {
            queue_limit: usize::try_from(number("queue_limit")?).ok()?,
            threads: usize::try_from(number("threads")?).ok()?,
            idle_timeout: Duration::from_millis(number("idle_ms")?),
            memory: number("memory")?,
            library: PathBuf::from(object.get("library")?.as_str()?),
        })
    }

    /// Beyond it an allocation fails, of ONNX Runtime with an error, and the machine's other processes are none the worse.
    fn limit_memory(&self) -> nix::Result<()> {
        let (_, most) = getrlimit(Resource::RLIMIT_DATA)?;
        let wanted = match self.memory {
            0 => most,
            bytes => bytes.min(most),
        };
        setrlimit(Resource::RLIMIT_DATA, wanted, most)
    }

    fn executors(&self) -> usize {
        match self.threads {
            0 => processors(),
            count => count,
        }
    }
}

/// Asked once: Linux answers from the files of the control groups, in a quarter of a millisecond.
fn processors() -> usize {
    static COUNT: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));
    *COUNT
}

/// What the statistics say of the process's past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Process id of whoever keeps this process alive.
    pub supervisor: u32,
    /// How many such processes there were before.
    pub restarts: u64,
}

/// Why the worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Nothing was asked for a while.
    Idle,
    /// It was asked to end, and did so in good order. Who still waited is told to ask again.
    Drained,
    /// Whoever started it is gone.
    Orphaned,
    /// A run did not stop that nobody waits for. Who waited for another one is told to ask again.
    Stuck,
    /// After a run that needed too much memory, much of it stayed booked. Who waited is told to ask again.
    Spent,
    /// Its sockets failed.
    Broken,
}

/// Serves until there is a reason to end. `control` brings settings, one line each; the line `drain`
/// asks for the end. One byte goes back when it begins.
pub fn serve(
    listener: UnixListener,
    control: UnixStream,
    settings: Settings,
    origin: Origin,
) -> Ended {
    let begun = Server::new(listener, control, settings, origin).and_then(|mut server| {
        server.control.write_all(b"!")?;
        Ok(server)
    });
    match begun {
        Ok(mut server) => server.run(),
        Err(error) => {
            eprintln!("lookbook inference process: {error}");
            Ended::Broken
        }
    }
}

/// Answers every connection that nobody has accepted, whatever it asks for.
pub fn turn_away(listener: &UnixListener, reply: &Reply) {
    let Ok(frame) = reply.encode() else { return };
    while let Ok((mut stream, _)) = listener.accept() {
        // A socket takes so little at once, unless its caller has gone.
        let _ = stream
            .set_nonblocking(true)
            .and_then(|()| stream.write_all(&frame));
    }
}

struct Server {
    listener: UnixListener,
    control: UnixStream,
    control_line: Vec<u8>,
    answered: UnixStream,
    shared: Arc<Shared>,
    origin: Origin,
    connections: BTreeMap<ConnectionId, Connection>,
    /// Who is sending which model.
    uploads: BTreeMap<Fingerprint, ConnectionId>,
    next_connection: u64,
    draining: Option<Instant>,
    accept_again: Option<Instant>,
    last_used: Instant,
}

/// What one poll found.
struct Ready {
    answered: bool,
    control: bool,
    accept: bool,
    /// With whether the other side hung up.
    connections: Vec<(ConnectionId, bool)>,
}

impl Server {
    fn new(
        listener: UnixListener,
        control: UnixStream,
        settings: Settings,
        origin: Origin,
    ) -> io::Result<Server> {
        let (answered, bell) = UnixStream::pair()?;
        listener.set_nonblocking(true)?;
        control.set_nonblocking(true)?;
        settings.limit_memory()?;
        answered.set_nonblocking(true)?;
        bell.set_nonblocking(true)?;
        let server = Server {
            listener,
            control,
            control_line: Vec::new(),
            answered,
            shared: Arc::new(Shared::new(settings, bell)),
            origin,
            connections: BTreeMap::new(),
            uploads: BTreeMap::new(),
            next_connection: 0,
            draining: None,
            accept_again: None,
            last_used: Instant::now(),
        };
        server.start_executors()?;
        Ok(server)
    }

    fn start_executors(&self) -> io::Result<()> {
        let mut state = self.shared.lock();
        for number in state.executors..state.settings.executors() {
            let shared = Arc::clone(&self.shared);
            thread::Builder::new()
                .name("lookbook".to_owned())
                .spawn(move || execute::executor(&shared, number))?;
            state.executors += 1;
        }
        Ok(())
    }

    fn run(&mut self) -> Ended {
        loop {
            let Ok(ready) = self.poll() else {
                return Ended::Broken;
            };
            if ready.control && !self.read_control() {
                return Ended::Orphaned;
            }
            if ready.answered {
                self.take_answers();
            }
            if ready.accept {
                self.accept();
            }
            for (id, is_hung_up) in ready.connections {
                self.advance(id, is_hung_up);
            }
            self.send_stalled_away();
            self.admit_payloads();
            if let Some(ended) = self.tidy() {
                let mut state = self.shared.lock();
                state.is_stopping = true;
                drop(state);
                self.shared.ring();
                if matches!(ended, Ended::Stuck | Ended::Spent | Ended::Drained) {
                    self.send_away();
                }
                return ended;
            }
        }
    }

    fn poll(&self) -> nix::Result<Ready> {
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        let accepts = self.draining.is_none() && self.accept_again.is_none();
        let listen = if accepts {
            PollFlags::POLLIN
        } else {
            PollFlags::empty()
        };
        let mut sockets = vec![
            PollFd::new(self.answered.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), listen),
        ];
        sockets.extend(
            self.connections
                .values()
                .map(|connection| PollFd::new(connection.stream.as_fd(), connection.interest())),
        );
        match poll(&mut sockets, self.timeout()) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let is_ready =
            |socket: &PollFd<'_>| socket.revents().is_some_and(|events| !events.is_empty());
        Ok(Ready {
            answered: is_ready(&sockets[0]),
            control: is_ready(&sockets[1]),
            accept: is_ready(&sockets[2]),
            connections: ids
                .into_iter()
                .zip(&sockets[3..])
                .filter(|(_, socket)| is_ready(socket))
                .map(|(id, socket)| {
                    let events = socket.revents().unwrap_or(PollFlags::empty());
                    (
                        id,
                        events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR),
                    )
                })
                .collect(),
        })
    }

    /// Until something has to be done without anybody asking.
    fn timeout(&self) -> PollTimeout {
        let state = self.shared.lock();
        let idle = state.settings.idle_timeout;
        let oldest = match state.models.oldest_use() {
            None if self.connections.is_empty() => Some(self.last_used),
            oldest => oldest,
        };
        let unload = oldest
            .filter(|_| !idle.is_zero() && state.is_idle())
            .map(|moment| moment + idle);
        let drained = self.draining.map(|since| since + DRAIN_TIME);
        let stuck = self.stuck_from(&state);
        let Some(next) = [
            unload,
            drained,
            stuck,
            self.stalled_from(),
            self.accept_again,
        ]
        .into_iter()
        .flatten()
        .min() else {
            return PollTimeout::NONE;
        };
        let left = next.saturating_duration_since(Instant::now());
        // Rounded up, so that the moment has come when poll returns.
        PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    }

    /// When the process ends for the runs that nobody waits for, unless they end before.
    fn stuck_from(&self, state: &State) -> Option<Instant> {
        let is_wanted = self.waiting(state.running()) > 0;
        let patience = if is_wanted {
            ABANDONED_TIME
        } else {
            LONELY_TIME
        };
        state.abandoned().min().map(|since| since + patience)
    }

    /// When the first caller that sends nothing is sent away for those who wait, unless it goes on.
    fn stalled_from(&self) -> Option<Instant> {
        let all = self.connections.values();
        if !all.clone().any(Connection::is_blocked) {
            return None;
        }
        let heard = all.filter(|connection| connection.is_sending());
        let first = heard.map(|connection| connection.heard).min();
        first.map(|heard| heard + SENDING_PATIENCE)
    }

    /// `false` when the other end is closed.
    fn read_control(&mut self) -> bool {
        let mut bytes = [0; 4096];
        loop {
            match self.control.read(&mut bytes) {
                Ok(0) => return false,
                Ok(count) => self.control_line.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        while let Some(end) = self.control_line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.control_line.drain(..=end).collect();
            if line == b"drain\n" {
                self.draining.get_or_insert_with(Instant::now);
            } else if let Some(settings) = Settings::from_line(&line) {
                // As before where the system refuses, which it does not for less than its own limit.
                let _ = settings.limit_memory();
                self.shared.lock().settings = settings;
                self.shared.ring();
                // Without threads to spare, those that run go on.
                let _ = self.start_executors();
            }
        }
        true
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if is_our_user(&stream)
                        && let Ok(connection) = Connection::new(stream)
                    {
                        self.next_connection += 1;
                        let id = ConnectionId(self.next_connection);
                        self.connections.insert(id, connection);
                        // Mostly its request is there already.
                        self.advance(id, false);
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    io::ErrorKind::WouldBlock => return,
                    _ => {
                        self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
                        return;
                    }
                },
            }
        }
    }

    /// Unloads what is not used; the reason to end, if there is one.
    fn tidy(&mut self) -> Option<Ended> {
        if self
            .accept_again
            .is_some_and(|moment| moment <= Instant::now())
        {
            self.accept_again = None;
        }
        // Looking at the statistics is no use of it.
        if self.connections.values().any(Connection::is_waiting) {
            self.last_used = Instant::now();
        }
        let wanted: Vec<Fingerprint> = self
            .connections
            .values()
            .filter_map(|connection| connection.request.as_ref())
            .flat_map(Work::models)
            .copied()
            .collect();
        let mut state = self.shared.lock();
        let idle = state.settings.idle_timeout;
        let unloaded = state.models.unload(idle, &wanted);
        let (is_idle, is_empty) = (state.is_idle(), state.models.is_empty());
        let is_stuck = self
            .stuck_from(&state)
            .is_some_and(|moment| moment <= Instant::now());
        let is_spent = state.is_spent();
        drop(state);
        drop(unloaded);
        if let Some(since) = self.draining {
            let is_done = is_idle
                && self
                    .connections
                    .values()
                    .all(|connection| !connection.is_waiting() && !connection.is_replying());
            return (is_done || since.elapsed() >= DRAIN_TIME).then_some(Ended::Drained);
        }
        if is_stuck {
            return Some(Ended::Stuck);
        }
        if is_spent && !self.connections.values().any(Connection::is_replying) {
            return Some(Ended::Spent);
        }
        let is_unused = self.connections.is_empty()
            && is_idle
            && is_empty
            && !idle.is_zero()
            && self.last_used.elapsed() >= idle;
        is_unused.then_some(Ended::Idle)
    }

    /// Tells everybody to ask the next process.
    fn send_away(&mut self) {
        for connection in self.connections.values_mut() {
            if !connection.is_replying() {
                connection.say(&Reply::Again, true);
                // A socket takes so little at once, unless its caller has gone.
                let _ = connection.advance();
            }
        }
    }

    fn describe(&self) -> Value {
        let state = self.shared.lock();
        let mut all = state.stats.describe();
        all["supervisor_pid"] = self.origin.supervisor.into();
        all["restarts"] = self.origin.restarts.into();
        all["models"] = state.models.count().into();
        all["loads"] = state.models.loads.into();
        all["loaded"] = state.models.describe();
        all["running"] = (state.running() + state.abandoned().count()).into();
        all["waiting"] = self.waiting(state.running()).into();
        all
    }
}

/// The socket's folder keeps others out already; this does so if its rights were changed.
fn is_our_user(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| {
        let user = peer.uid();
        user == geteuid().as_raw() || user == 0
    })
}

impl Connection {
    fn is_replying(&self) -> bool {
        matches!(self.stage, Stage::Reply { .. })
    }
}
