//! Frames from a socket that never blocks.
//!
//! Invariant: memory grows with the bytes that came, not with the length that was promised.

use std::io::{self, Read};

use crate::protocol::{HEADER_BYTES, Header, ProtocolError};

/// Read at once; also how far memory runs ahead of the bytes that came.
const STEP_BYTES: usize = 256 << 10;
/// Read in one turn, so that one caller does not keep the others waiting.
const TURN_BYTES: usize = 4 << 20;

/// How reading went.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress<T> {
    Done(T),
    /// More will come.
    Blocked,
    /// The other side closed.
    Closed,
}

/// Why a frame cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// Reads until `buffer` holds `wanted` bytes.
fn fill(source: &mut impl Read, buffer: &mut Vec<u8>, wanted: usize) -> io::Result<Progress<()>> {
    let stop = buffer.len().saturating_add(TURN_BYTES);
    while buffer.len() < wanted {
        let have = buffer.len();
        if have >= stop {
            return Ok(Progress::Blocked);
        }
        buffer.resize(wanted.min(have + STEP_BYTES), 0);
        let read = source.read(&mut buffer[have..]);
        buffer.truncate(have + read.as_ref().map_or(0, |count| *count));
        match read {
            Ok(0) => return Ok(Progress::Closed),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Progress::Blocked);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok(Progress::Closed);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Progress::Done(()))
}

/// Header and body.
#[derive(Debug, Default)]
pub(crate) struct BodyReader {
    buffer: Vec<u8>,
    header: Option<Header>,
}

impl BodyReader {
    /// Goes on reading; the body when it is complete, after which the next frame may be read.
    pub(crate) fn read(
        &mut self,
        source: &mut impl Read,
    ) -> Result<Progress<(Header, Vec<u8>)>, FrameError> {
        let header = match self.header {
            Some(header) => header,
            None => {
                match fill(source, &mut self.buffer, HEADER_BYTES)? {
                    Progress::Done(()) => {}
                    Progress::Blocked => return Ok(Progress::Blocked),
                    Progress::Closed => return Ok(Progress::Closed),
                }
                let bytes = self.buffer.first_chunk().ok_or(ProtocolError::Truncated)?;
                let header = Header::decode(bytes)?;
                self.buffer.clear();
                *self.header.insert(header)
            }
        };
        Ok(
            match fill(source, &mut self.buffer, header.body_bytes as usize)? {
                Progress::Done(()) => {
                    self.header = None;
                    Progress::Done((header, std::mem::take(&mut self.buffer)))
                }
                Progress::Blocked => Progress::Blocked,
                Progress::Closed => Progress::Closed,
            },
        )
    }
}

/// The payload behind a body.
#[derive(Debug)]
pub(crate) struct PayloadReader {
    buffer: Vec<u8>,
    wanted: usize,
}

impl PayloadReader {
    pub(crate) fn new(bytes: u64) -> Result<Self, ProtocolError> {
        let wanted = usize::try_from(bytes).map_err(|_| ProtocolError::Range("payload"))?;
        Ok(Self {
            buffer: Vec::new(),
            wanted,
        })
    }

    pub(crate) fn read(&mut self, source: &mut impl Read) -> io::Result<Progress<Vec<u8>>> {
        Ok(match fill(source, &mut self.buffer, self.wanted)? {
            Progress::Done(()) => Progress::Done(std::mem::take(&mut self.buffer)),
            Progress::Blocked => Progress::Blocked,
            Progress::Closed => Progress::Closed,
        })
    }
}
