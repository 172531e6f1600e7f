//! Asking the inference worker: connect, start it where there is none, wait, send models.
//!
//! Runs on the backend's own thread and starts none. Waiting is on the latch, so that cancel, timeout
//! and termination are noticed at once; raising drops the socket, which takes the request back.
//! Nothing of ONNX Runtime is loaded here.

use super::Failure;
use crate::models::{self, Model};
use crate::settings::errors::{self, UserError};
use crate::settings::worker::{WorkerMode, mode};
use crate::worker::{SOCKET, Start, Starting};
use lookbook_worker::Fingerprint;
use lookbook_worker::client::{self, AskError, Caller, Interest, Upload};
use lookbook_worker::protocol::{Call, ProtocolError, Reply};
use pgrx::{PgSqlErrorCode, check_for_interrupts, pg_sys};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a worker that starts is waited for.
const START_PATIENCE: Duration = Duration::from_secs(15);
/// How long who looks at the worker waits for its numbers.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts to connect meanwhile, and before a request is made once more.
const CONNECT_PAUSE: Duration = Duration::from_millis(10);
/// After a worker could not be had, the next calls run here without trying again.
const WITHOUT_WORKER: Duration = Duration::from_secs(60);

thread_local! {
    static WITHOUT_UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The worker's reply; `None` when this backend is to run the models itself.
pub(super) fn ask(
    call: &Call,
    payload: &[u8],
    models: &[&Model],
    function: pg_sys::Oid,
) -> Result<Option<Reply>, Failure> {
    let mode = mode();
    if mode == WorkerMode::Off || (mode == WorkerMode::Auto && is_given_up()) {
        return Ok(None);
    }
    let mut backend = Backend {
        models,
        function,
        until: None,
    };
    let reply = loop {
        let stream = match connect()? {
            Ok(stream) => stream,
            Err(reason) => return without_worker(mode, &reason),
        };
        match client::ask(&stream, call, payload, &mut backend) {
            Ok(Reply::Again) => wait_for_latch(None, CONNECT_PAUSE),
            reply => break reply,
        }
    };
    match reply {
        Ok(Reply::Refused(refusal)) => Err(Failure::Vision(refusal)),
        Ok(Reply::Busy { limit }) => Err(busy(limit).into()),
        Ok(Reply::NoProcess { reason }) => without_worker(mode, &reason),
        Ok(Reply::OtherRuntime { library }) => {
            let reason = format!("it runs another ONNX Runtime library, {library}");
            without_worker_now(mode, &reason)
        }
        Ok(reply) => Ok(Some(reply)),
        Err(AskError::Caller(error)) => Err(error.into()),
        Err(AskError::Protocol(error @ ProtocolError::Version(_))) => {
            without_worker(mode, &error.to_string())
        }
        Err(error) => Err(lost(&error.to_string()).into()),
    }
}

/// A conversation that uploads nothing; `None` where there is no answer for a while.
pub(crate) fn ask_worker(stream: &UnixStream, call: &Call) -> Result<Option<Reply>, UserError> {
    let until = Instant::now() + LOOK_PATIENCE;
    let mut backend = Backend {
        models: &[],
        function: pg_sys::InvalidOid,
        until: Some(until),
    };
    match client::ask(stream, call, &[], &mut backend) {
        Ok(reply) => Ok(Some(reply)),
        Err(AskError::Caller(error)) if Instant::now() < until => Err(error),
        Err(_) => Ok(None),
    }
}

/// A reply of a kind that was not asked for.
pub(super) fn confused() -> UserError {
    lost("its reply does not fit the request")
}

fn lost(reason: &str) -> UserError {
    errors::error(
        PgSqlErrorCode::ERRCODE_SYSTEM_ERROR,
        format!("the inference worker did not finish this request: {reason}"),
    )
    .set_hint("The next call starts it again. If an image or a model makes it end each time, the server's log tells how it ended.")
}

fn busy(limit: u32) -> UserError {
    errors::error(
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        format!("the inference worker is busy: {limit} requests wait already"),
    )
    .set_hint("Try again later, or raise lookbook.worker_queue_limit.")
}

/// What happens where no worker can be had, now and for a while.
fn without_worker(mode: WorkerMode, reason: &str) -> Result<Option<Reply>, Failure> {
    if mode == WorkerMode::Auto && !is_given_up() {
        pgrx::log!("no inference worker: {reason}; this connection runs models itself for a while");
        WITHOUT_UNTIL.set(Some(Instant::now() + WITHOUT_WORKER));
    }
    without_worker_now(mode, reason)
}

fn without_worker_now(mode: WorkerMode, reason: &str) -> Result<Option<Reply>, Failure> {
    if mode != WorkerMode::On {
        return Ok(None);
    }
    let error = errors::error(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("there is no inference worker for this request: {reason}"),
    )
    .set_hint("With lookbook.worker = auto, the connection would run the model itself.");
    Err(error.into())
}

fn is_given_up() -> bool {
    WITHOUT_UNTIL
        .get()
        .is_some_and(|until| Instant::now() < until)
}

/// A socket to the worker, or the reason why there is none.
fn connect() -> Result<Result<UnixStream, String>, UserError> {
    let mut starting = Starting::default();
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        match client::connect(Path::new(SOCKET)) {
            Ok(Some(stream)) => return Ok(Ok(stream)),
            Ok(None) => {}
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    if let Start::Impossible(reason) = starting.advance() {
                        // Another's worker may have come up in between.
                        return Ok(match client::connect(Path::new(SOCKET)) {
                            Ok(Some(stream)) => Ok(stream),
                            _ => Err(reason),
                        });
                    }
                }
                _ => return Ok(Err(format!("could not connect to {SOCKET}: {error}"))),
            },
        }
        if Instant::now() >= deadline {
            let seconds = START_PATIENCE.as_secs();
            return Ok(Err(format!("it did not answer for {seconds} s")));
        }
        wait_for_latch(None, CONNECT_PAUSE);
    }
}

/// Sleeps until the socket is ready, an interrupt comes, or `timeout`; raises when interrupted.
fn wait_for_latch(socket: Option<(BorrowedFd<'_>, Interest)>, timeout: Duration) {
    let mut events = pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH | pg_sys::WL_TIMEOUT;
    events |= match socket {
        None => 0,
        Some((_, Interest::Readable)) => pg_sys::WL_SOCKET_READABLE,
        // A worker that refuses writes before it has read everything.
        Some((_, Interest::Writable)) => pg_sys::WL_SOCKET_WRITEABLE | pg_sys::WL_SOCKET_READABLE,
    };
    // SAFETY: our own latch; the socket is open while it is borrowed.
    unsafe {
        pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            events as i32,
            socket.map_or(pg_sys::PGINVALID_SOCKET, |(socket, _)| socket.as_raw_fd()),
            timeout.as_millis() as i64,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    check_for_interrupts!();
}

/// This backend in a conversation with the worker.
struct Backend<'a> {
    models: &'a [&'a Model],
    function: pg_sys::Oid,
    /// When it gives up; `None`: as long as nobody interrupts.
    until: Option<Instant>,
}

impl Backend<'_> {
    fn find(&self, fingerprint: Fingerprint) -> Result<&Model, UserError> {
        self.models
            .iter()
            .find(|model| model.fingerprint == fingerprint)
            .copied()
            .ok_or_else(confused)
    }
}

impl Caller for Backend<'_> {
    type Error = UserError;

    fn wait(&mut self, socket: BorrowedFd<'_>, interest: Interest) -> Result<(), UserError> {
        let longest = Duration::from_secs(3_600);
        let left = self.until.map_or(longest, |until| {
            until.saturating_duration_since(Instant::now())
        });
        if left.is_zero() {
            return Err(lost("it does not answer"));
        }
        wait_for_latch(Some((socket, interest)), left);
        Ok(())
    }

    fn model(&mut self, fingerprint: Fingerprint) -> Result<Upload, UserError> {
        let model = self.find(fingerprint)?;
        Ok(Upload {
            manifest: model.manifest.clone(),
            onnx_bytes: models::onnx_length(model, self.function)?,
        })
    }

    fn part(&mut self, fingerprint: Fingerprint, offset: u64) -> Result<Vec<u8>, UserError> {
        models::onnx_part(self.find(fingerprint)?, offset, self.function)
    }
}
