//! The socket loop without any model: what is let in, what has to wait, and when it ends.
//!
//! Calls name a model that nobody has, so that a request that was read stays where it is: its caller is asked for the model.

use std::io::{ErrorKind, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use lookbook_vision::{Device, Limits, SessionOptions};
use lookbook_worker::protocol::{Call, HEADER_BYTES, Header, Reply, Run, Task};
use lookbook_worker::{Ended, Fingerprint, Origin, Settings, serve};

/// What a busy machine may need.
const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for a loop that would read to have read.
const WHILE: Duration = Duration::from_millis(300);
/// What the kernel keeps of a socket that nobody reads, at most.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
const LIBRARY: &str = "/nowhere/libonnxruntime.so";
const MB: usize = 1 << 20;

/// One at a time: they hold much memory, and one test measures it.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct Worker {
    _turn: MutexGuard<'static, ()>,
    folder: tempfile::TempDir,
    control: Option<UnixStream>,
    thread: Option<JoinHandle<Ended>>,
}

fn settings() -> Settings {
    Settings {
        queue_limit: 16,
        threads: 1,
        idle_timeout: Duration::ZERO,
        memory: 0,
        library: PathBuf::from(LIBRARY),
    }
}

impl Worker {
    fn start(settings: Settings) -> Worker {
        let turn = ONE_AT_A_TIME.lock();
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("socket")).expect("a socket");
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let origin = Origin {
            supervisor: 1,
            restarts: 0,
        };
        let thread = spawn(move || serve(listener, theirs, settings, origin));
        Worker {
            _turn: turn.unwrap_or_else(PoisonError::into_inner),
            folder,
            control: Some(ours),
            thread: Some(thread),
        }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.folder.path().join("socket")).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    fn tell(&self, line: &str) {
        let mut control = self.control.as_ref().expect("it runs");
        control.write_all(line.as_bytes()).expect("it listens");
    }

    /// A number of the statistics.
    fn count(&self, name: &str) -> u64 {
        let mut stream = self.connect();
        let call = Call::Stats.encode(0).expect("a call");
        stream.write_all(&call).expect("it reads");
        match read_reply(&mut stream) {
            Reply::Stats(json) => {
                let all: serde_json::Value = serde_json::from_str(&json).expect("JSON");
                all[name].as_u64().expect("a number")
            }
            other => panic!("{other:?}"),
        }
    }

    fn wait_until(&self, name: &str, wanted: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.count(name) != wanted {
            assert!(Instant::now() < deadline, "{name} is {}", self.count(name));
            sleep(Duration::from_millis(5));
        }
    }

    /// How it ended.
    fn ended(mut self) -> Ended {
        let thread = self.thread.take().expect("it runs");
        thread.join().expect("it does not panic")
    }
}

fn read_reply(stream: &mut UnixStream) -> Reply {
    use std::io::Read;
    let mut head = [0; HEADER_BYTES];
    stream.read_exact(&mut head).expect("a header");
    let header = Header::decode(&head).expect("a header");
    let mut body = vec![0; header.body_bytes as usize];
    stream.read_exact(&mut body).expect("a body");
    Reply::decode(header.kind, &body).expect("a reply")
}

/// The call for model number `model` with a payload of `bytes` to follow.
fn run_call(model: u8, bytes: usize) -> Vec<u8> {
    let run = Run {
        task: Task::Embed,
        models: vec![Fingerprint([model; 32])],
        options: SessionOptions {
            device: Device::Cpu,
            threads: 1,
            batch: 0,
        },
        limits: Limits::default(),
        library: LIBRARY.to_owned(),
    };
    Call::Run(run).encode(bytes as u64).expect("a call")
}

/// Sends as much of `bytes` zeros as is read within a while of silence; how much that was.
fn send_while_read(stream: &mut UnixStream, bytes: usize) -> usize {
    stream.set_nonblocking(true).expect("a socket");
    let part = vec![0; MB];
    let (mut sent, mut silent_since) = (0, Instant::now());
    while sent < bytes && silent_since.elapsed() < WHILE {
        match stream.write(&part[..part.len().min(bytes - sent)]) {
            Ok(count) => (sent, silent_since) = (sent + count, Instant::now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(Duration::from_millis(1)),
            Err(error) => panic!("after {sent} bytes: {error}"),
        }
    }
    stream.set_nonblocking(false).expect("a socket");
    sent
}

/// A request that is read and then asked for its model.
fn hold(worker: &Worker, model: u8, bytes: usize) -> UnixStream {
    let mut stream = worker.connect();
    stream.write_all(&run_call(model, bytes)).expect("it reads");
    assert_eq!(send_while_read(&mut stream, bytes), bytes, "it is let in");
    assert_eq!(
        read_reply(&mut stream),
        Reply::NeedModel(Fingerprint([model; 32]))
    );
    stream
}

#[test]
fn images_beyond_the_budget_wait_unread_in_their_callers() {
    let worker = Worker::start(settings());
    let first = hold(&worker, 1, 200 * MB);
    // 56 MB are left of the budget.
    let small = hold(&worker, 2, 20 * MB);
    let mut waiting = worker.connect();
    waiting
        .write_all(&run_call(3, 100 * MB))
        .expect("it reads calls");
    let sent = send_while_read(&mut waiting, 100 * MB);
    assert!(sent <= SOCKET_BUFFER_BYTES, "{sent} bytes were taken in");
    // It would fit, and go in before the other for ever.
    let mut later = worker.connect();
    later
        .write_all(&run_call(4, 20 * MB))
        .expect("it reads calls");
    let overtaking = send_while_read(&mut later, 20 * MB);
    assert!(overtaking <= SOCKET_BUFFER_BYTES, "it overtakes");
    assert_eq!(worker.count("waiting"), 4);
    // Room again: it goes on where it stood.
    drop(first);
    let rest = 100 * MB - sent;
    assert_eq!(send_while_read(&mut waiting, rest), rest, "it is let in");
    assert_eq!(
        read_reply(&mut waiting),
        Reply::NeedModel(Fingerprint([3; 32]))
    );
    let rest = 20 * MB - overtaking;
    assert_eq!(send_while_read(&mut later, rest), rest, "it is let in");
    assert_eq!(worker.count("waiting"), 3);
    drop(small);
}

#[test]
fn nobody_waits_for_a_caller_that_does_not_send() {
    let worker = Worker::start(settings());
    let mut stalled = hold(&worker, 1, 1000);
    let call = run_call(1, 1000);
    let mut next = worker.connect();
    next.write_all(&call).expect("it reads");
    next.write_all(&[0; 1000]).expect("it reads");
    let mut half = worker.connect();
    half.write_all(&call).expect("it reads");
    worker.wait_until("waiting", 3);
    assert_eq!(read_reply(&mut stalled), Reply::Again);
    assert_eq!(
        read_reply(&mut next),
        Reply::NeedModel(Fingerprint([1; 32]))
    );
    // Nobody waits for the third one, which may take its time.
    assert_eq!(worker.count("waiting"), 2);
}

#[test]
fn a_caller_that_leaves_while_it_waits_is_forgotten() {
    let worker = Worker::start(settings());
    let first = hold(&worker, 1, 200 * MB);
    let mut waiting = worker.connect();
    waiting
        .write_all(&run_call(2, 100 * MB))
        .expect("it reads calls");
    send_while_read(&mut waiting, 100 * MB);
    worker.wait_until("waiting", 2);
    drop(waiting);
    worker.wait_until("waiting", 1);
    drop(first);
    worker.wait_until("waiting", 0);
    assert_eq!(
        worker.count("cancelled"),
        1,
        "the one that was asked for its model"
    );
}

#[test]
fn one_image_above_the_budget_goes_in_beside_the_others() {
    let worker = Worker::start(settings());
    let small = hold(&worker, 1, 9 * MB);
    let large = hold(&worker, 2, 300 * MB);
    let other = hold(&worker, 3, 9 * MB);
    let mut waiting = worker.connect();
    waiting
        .write_all(&run_call(4, 300 * MB))
        .expect("it reads calls");
    let sent = send_while_read(&mut waiting, 20 * MB);
    assert!(sent <= SOCKET_BUFFER_BYTES, "{sent} bytes were taken in");
    drop(large);
    assert_eq!(send_while_read(&mut waiting, 20 * MB), 20 * MB);
    drop((small, other));
}

#[test]
fn a_promised_image_takes_no_memory_before_it_comes() {
    let worker = Worker::start(settings());
    let before = worker.count("memory_bytes");
    // 250 MB are promised and let in, a thousand bytes come.
    let mut stream = worker.connect();
    stream.write_all(&run_call(1, 250 * MB)).expect("it reads");
    stream.write_all(&[0; 1000]).expect("it reads");
    worker.wait_until("waiting", 1);
    let grown = worker.count("memory_bytes").saturating_sub(before);
    assert!(grown < 100 * MB as u64, "{grown} bytes for a promise");
}

#[test]
fn settings_are_followed_while_it_runs() {
    let worker = Worker::start(settings());
    let held = [hold(&worker, 1, MB), hold(&worker, 2, MB)];
    let fewer = Settings {
        queue_limit: 2,
        ..settings()
    };
    worker.tell(&fewer.to_line());
    // The control socket is read in the same loop, sooner or later.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut stream = worker.connect();
        stream.write_all(&run_call(3, 0)).expect("it reads");
        match read_reply(&mut stream) {
            Reply::Busy { limit: 2 } => break,
            Reply::NeedModel(_) => assert!(Instant::now() < deadline, "the limit stays"),
            other => panic!("{other:?}"),
        }
    }
    assert!(worker.count("refused") >= 1);
    worker.tell(&settings().to_line());
    worker.tell("no settings at all\n");
    worker.wait_until("waiting", 2);
    drop(held);
    let idle = Settings {
        idle_timeout: Duration::from_millis(20),
        ..settings()
    };
    worker.tell(&idle.to_line());
    assert_eq!(worker.ended(), Ended::Idle);
}

#[test]
fn it_drains_within_a_second_whoever_hangs() {
    // A busy machine can make one of them late, and none early.
    let fastest = (0..3)
        .map(|_| {
            let worker = Worker::start(settings());
            let mut hanging = hold(&worker, 1, 1000);
            let mut half = worker.connect();
            half.write_all(&run_call(2, 1000)).expect("it reads");
            let started = Instant::now();
            worker.tell("drain\n");
            assert_eq!(worker.ended(), Ended::Drained);
            let elapsed = started.elapsed();
            for caller in [&mut hanging, &mut half] {
                assert_eq!(read_reply(caller), Reply::Again, "the next one has it");
            }
            elapsed
        })
        .min();
    assert!(fastest < Some(Duration::from_secs(1)), "{fastest:?}");
}

#[test]
fn it_drains_at_once_when_nobody_is_there_and_ends_with_its_parent() {
    let worker = Worker::start(settings());
    worker.wait_until("waiting", 0);
    worker.tell("drain\n");
    assert_eq!(worker.ended(), Ended::Drained);
    let mut worker = Worker::start(settings());
    let hanging = hold(&worker, 1, 1000);
    worker.control = None;
    assert_eq!(worker.ended(), Ended::Orphaned);
    drop(hanging);
}
