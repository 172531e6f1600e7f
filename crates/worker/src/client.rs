//! Asking the worker, from a process that must stay able to be interrupted.
//!
//! Knows nothing of how its host waits or where models come from: [`Caller`] does. Giving up is
//! dropping the socket: the worker notices and stops a run that nobody waits for.

use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_socket, socket,
};

use crate::Fingerprint;
use crate::frame::{BodyReader, FrameError, Progress};
use crate::protocol::{Call, ProtocolError, Reply};

/// A model is uploaded once for each conversation and model; more is a confused worker.
const MAX_UPLOADS: usize = 4;

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Bytes to read.
    Readable,
    /// Room to write.
    Writable,
}

/// A model on its way to the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// JSON.
    pub manifest: String,
    /// Length of the ONNX file.
    pub onnx_bytes: u64,
}

/// The host of a conversation.
pub trait Caller {
    /// Why it gives up.
    type Error;

    /// Waits until the socket is ready, or something else happened; may give up.
    fn wait(&mut self, socket: BorrowedFd<'_>, interest: Interest) -> Result<(), Self::Error>;

    /// The model of that fingerprint.
    fn model(&mut self, fingerprint: Fingerprint) -> Result<Upload, Self::Error>;

    /// The part of its ONNX file from `offset` on, of any length but zero.
    fn part(&mut self, fingerprint: Fingerprint, offset: u64) -> Result<Vec<u8>, Self::Error>;
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum AskError<E> {
    /// The host gave up.
    #[error("the caller gave up")]
    Caller(E),
    /// The worker closed the connection without an answer.
    #[error("the inference worker closed the connection")]
    Closed,
    /// The socket failed.
    #[error(transparent)]
    Socket(io::Error),
    /// The worker speaks differently.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

impl<E> From<FrameError> for AskError<E> {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Protocol(error) => AskError::Protocol(error),
            FrameError::Socket(error) => AskError::Socket(error),
        }
    }
}

/// Connects to the worker's socket without ever blocking; `None` while its backlog is full.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when there is no worker.
pub fn connect(path: &Path) -> io::Result<Option<UnixStream>> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let ours = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect_socket(ours.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) => Ok(Some(UnixStream::from(ours))),
        Err(Errno::EAGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Holds one conversation: sends `call` with its payload, uploads models that are asked for, and
/// returns the reply.
pub fn ask<C: Caller>(
    stream: &UnixStream,
    call: &Call,
    payload: &[u8],
    caller: &mut C,
) -> Result<Reply, AskError<C::Error>> {
    let mut asking = Asking {
        stream,
        reader: BodyReader::default(),
        caller,
    };
    // A worker that refuses does so before it has read everything, and closes: its reply counts.
    let head = call.encode(payload.len() as u64)?;
    asking.send(&head, payload)?;
    for _ in 0..=MAX_UPLOADS {
        match asking.receive()? {
            Reply::NeedModel(fingerprint) => asking.upload(fingerprint)?,
            reply => return Ok(reply),
        }
    }
    Err(AskError::Protocol(ProtocolError::Range("models asked for")))
}

struct Asking<'a, C> {
    stream: &'a UnixStream,
    reader: BodyReader,
    caller: &'a mut C,
}

impl<C: Caller> Asking<'_, C> {
    /// Both, one after the other, at once where the socket has room, so that the worker wakes once. `false` when it has closed its
    /// side.
    fn send(&mut self, head: &[u8], payload: &[u8]) -> Result<bool, AskError<C::Error>> {
        let mut parts = [IoSlice::new(head), IoSlice::new(payload)];
        let mut left = &mut parts[..];
        // What is empty is not written.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let mut stream = self.stream;
            match stream.write_vectored(left) {
                Ok(count) => IoSlice::advance_slices(&mut left, count),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => self.wait(Interest::Writable)?,
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                        return Ok(false);
                    }
                    _ => return Err(AskError::Socket(error)),
                },
            }
        }
        Ok(true)
    }

    fn receive(&mut self) -> Result<Reply, AskError<C::Error>> {
        loop {
            let mut stream = self.stream;
            match self.reader.read(&mut stream)? {
                Progress::Done((header, body)) => return Ok(Reply::decode(header.kind, &body)?),
                Progress::Closed => return Err(AskError::Closed),
                Progress::Blocked => self.wait(Interest::Readable)?,
            }
        }
    }

    fn upload(&mut self, fingerprint: Fingerprint) -> Result<(), AskError<C::Error>> {
        let Upload {
            manifest,
            onnx_bytes,
        } = self.caller.model(fingerprint).map_err(AskError::Caller)?;
        let call = Call::Model {
            fingerprint,
            manifest,
        };
        let mut open = self.send(&call.encode(onnx_bytes)?, &[])?;
        let mut sent = 0;
        while open && sent < onnx_bytes {
            let part = self
                .caller
                .part(fingerprint, sent)
                .map_err(AskError::Caller)?;
            let left = usize::try_from(onnx_bytes - sent).unwrap_or(usize::MAX);
            let part = &part[..part.len().min(left)];
            if part.is_empty() {
                return Err(AskError::Protocol(ProtocolError::Truncated));
            }
            open = self.send(part, &[])?;
            sent += part.len() as u64;
        }
        Ok(())
    }

    fn wait(&mut self, interest: Interest) -> Result<(), AskError<C::Error>> {
        self.caller
            .wait(self.stream.as_fd(), interest)
            .map_err(AskError::Caller)
    }
}
