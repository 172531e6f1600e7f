//! One caller: what was read of its request, and what is left to write.
//!
//! Knows nothing of queues and models; the socket loop decides what happens between two stages.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::poll::PollFlags;

use crate::frame::{BodyReader, FrameError, PayloadReader, Progress};
use crate::protocol::{Call, Reply};
use crate::server::queue::Work;

/// Where a conversation stands.
pub(super) enum Stage {
    /// A call is being read.
    Call(BodyReader),
    /// Its payload is being read, once there is room for it.
    Payload {
        call: Call,
        reader: PayloadReader,
        bytes: u64,
        is_admitted: bool,
    },
    /// Another caller is sending the model that this one needs, too.
    Parked,
    /// In the queue, or running.
    Working,
    /// A reply is being written.
    Reply { frame: Vec<u8>, written: usize },
    /// No further word: to be dropped.
    Closed,
}

/// Something complete that came from the caller.
pub(super) enum Event {
    /// A call, with the length of the payload that follows.
    Call(Call, u64),
    /// The payload of an earlier call.
    Payload(Call, Vec<u8>),
    /// The reply is written.
    Written,
}

pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) stage: Stage,
    /// A complete request that waits for its models.
    pub(super) request: Option<Work>,
    /// Bytes of its payloads in memory: the image, and a model on its way.
    pub(super) image_bytes: u64,
    pub(super) model_bytes: u64,
    /// The conversation ends with the reply.
    pub(super) is_last_reply: bool,
    /// When its socket last gave or took something, or it was let in.
    pub(super) heard: Instant,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> io::Result<Connection> {
        stream.set_nonblocking(true)?;
        Ok(Connection {
            stream,
            stage: Stage::Call(BodyReader::default()),
            request: None,
            image_bytes: 0,
            model_bytes: 0,
            is_last_reply: false,
            heard: Instant::now(),
        })
    }

    /// What to poll for; that the other side hung up is told in any case.
    pub(super) fn interest(&self) -> PollFlags {
        match &self.stage {
            Stage::Call(_)
            | Stage::Payload {
                is_admitted: true, ..
            } => PollFlags::POLLIN,
            Stage::Reply { .. } => PollFlags::POLLOUT,
            _ => PollFlags::empty(),
        }
    }

    /// Whether a request is on its way or under way.
    pub(super) fn is_waiting(&self) -> bool {
        self.request.is_some()
            || matches!(
                self.stage,
                Stage::Parked | Stage::Working | Stage::Payload { .. }
            )
    }

    /// Whether it waits for what another caller does: sends a model, or makes room.
    pub(super) fn is_blocked(&self) -> bool {
        matches!(self.stage, Stage::Parked) || !self.is_admitted()
    }

    /// Whether it is its turn to send: a payload, or the model that it was asked for.
    pub(super) fn is_sending(&self) -> bool {
        match self.stage {
            Stage::Payload { is_admitted, .. } => is_admitted,
            Stage::Call(_) => self.request.is_some(),
            _ => false,
        }
    }

    /// Whether what it sends is read.
    pub(super) fn is_admitted(&self) -> bool {
        !matches!(
            self.stage,
            Stage::Payload {
                is_admitted: false,
                ..
            }
        )
    }

    /// Goes on reading or writing as far as the socket allows.
    pub(super) fn advance(&mut self) -> Result<Option<Event>, FrameError> {
        self.heard = Instant::now();
        let mut stream = &self.stream;
        match &mut self.stage {
            Stage::Call(reader) => match reader.read(&mut stream)? {
                Progress::Done((header, body)) => {
                    let call = Call::decode(header.kind, &body)?;
                    return Ok(Some(Event::Call(call, header.payload_bytes)));
                }
                Progress::Blocked => {}
                Progress::Closed => self.stage = Stage::Closed,
            },
            Stage::Payload {
                is_admitted: false, ..
            } => {}
            Stage::Payload { call, reader, .. } => match reader.read(&mut stream)? {
                Progress::Done(payload) => {
                    let call = std::mem::replace(call, Call::Stats);
                    return Ok(Some(Event::Payload(call, payload)));
                }
                Progress::Blocked => {}
                Progress::Closed => self.stage = Stage::Closed,
            },
            Stage::Reply { frame, written } => {
                while *written < frame.len() {
                    match stream.write(&frame[*written..]) {
                        Ok(count) => *written += count,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                return Ok(Some(Event::Written));
            }
            // Nobody speaks while a request is worked on: a hang-up, or a caller that lost its way.
            Stage::Parked | Stage::Working | Stage::Closed => {
                let read = stream.read(&mut [0; 1]);
                let is_quiet = read
                    .as_ref()
                    .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
                if !is_quiet {
                    self.stage = Stage::Closed;
                }
            }
        }
        Ok(None)
    }

    /// Starts a reply.
    pub(super) fn say(&mut self, reply: &Reply, is_last: bool) {
        self.is_last_reply = is_last;
        self.stage = match reply.encode() {
            Ok(frame) => Stage::Reply { frame, written: 0 },
            Err(_) => Stage::Closed,
        };
    }
}
