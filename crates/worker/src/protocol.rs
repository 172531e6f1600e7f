//! What caller and worker say to each other.
//!
//! A frame is a header of [`HEADER_BYTES`], a body (a [`Call`] or a [`Reply`]) and a payload (an image
//! or an ONNX file, which neither side looks into here). Numbers are little-endian.
//!
//! ```text
//! magic "lkbk" | version u16 | kind u16 | body_bytes u32 | payload_bytes u64 | body | payload
//! ```
//!
//! One conversation: the caller sends [`Call::Run`] with the image. The worker answers, or asks for a
//! model it does not have ([`Reply::NeedModel`]); the caller sends [`Call::Model`] and goes on
//! waiting. Closing the socket takes the request back.
//!
//! Invariants: a body is bounded by [`MAX_BODY_BYTES`], a payload by [`MAX_PAYLOAD_BYTES`]; both are
//! checked in the header, before anything is allocated, and memory then grows with the bytes that
//! really come. Another version is refused, never guessed at.

use lookbook_vision::{
    BoundingBox, Device, Error, ErrorCode, Garment, KEYPOINT_NAMES, Keypoint, Limits, Pose,
    SessionOptions,
};

use crate::Fingerprint;
use crate::wire::{Reader, Writer};

/// Version of this protocol: both sides come from one library, but an old worker may still run after
/// an upgrade.
pub const VERSION: u16 = 1;
/// Bytes before the body.
pub const HEADER_BYTES: usize = 20;
/// Largest body: the garments of a photo with long vectors, or a manifest.
pub const MAX_BODY_BYTES: u32 = 64 << 20;
/// Largest payload: as much as a bytea can hold.
pub const MAX_PAYLOAD_BYTES: u64 = 1 << 30;

const MAGIC: [u8; 4] = *b"lkbk";
/// Models of one request: a detector and an embedder.
const MAX_MODELS: usize = 2;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Not a frame at all.
    #[error("not a frame of the inference worker: it starts with {0:02x?}")]
    Magic([u8; 4]),
    /// A frame of another release.
    #[error("protocol version {0}, this side speaks {VERSION}")]
    Version(u16),
    /// A kind that this direction does not have.
    #[error("message kind {0} is unknown")]
    Kind(u16),
    /// A body or payload beyond the limit.
    #[error("{what} of {bytes} bytes exceeds the limit of {limit}")]
    TooLong {
        /// `body` or `payload`.
        what: &'static str,
        /// As the header states.
        bytes: u64,
        /// As allowed.
        limit: u64,
    },
    /// A value ends early, or counts more items than there are bytes.
    #[error("a value ends before its length")]
    Truncated,
    /// Bytes after the last value.
    #[error("{0} bytes follow the last value")]
    Trailing(usize),
    /// Text that is not UTF-8.
    #[error("a text is not UTF-8")]
    NotText,
    /// A value outside its range.
    #[error("{0} is out of range")]
    Range(&'static str),
}

/// What comes before a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which message the body is.
    pub kind: u16,
    /// Length of the body.
    pub body_bytes: u32,
    /// Length of the payload.
    pub payload_bytes: u64,
}

impl Header {
    /// Reads and checks a header.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, ProtocolError> {
        let mut reader = Reader(bytes);
        let magic = reader.u32()?.to_le_bytes();
        if magic != MAGIC {
            return Err(ProtocolError::Magic(magic));
        }
        let version_and_kind = reader.u32()?;
        let version = (version_and_kind & 0xffff) as u16;
        if version != VERSION {
            return Err(ProtocolError::Version(version));
        }
        let header = Self {
            kind: (version_and_kind >> 16) as u16,
            body_bytes: reader.u32()?,
            payload_bytes: reader.u64()?,
        };
        header.check()
    }

    fn check(self) -> Result<Self, ProtocolError> {
        let too_long = |what, bytes: u64, limit: u64| ProtocolError::TooLong { what, bytes, limit };
        if self.body_bytes > MAX_BODY_BYTES {
            return Err(too_long(
                "body",
                self.body_bytes.into(),
                MAX_BODY_BYTES.into(),
            ));
        }
        if self.payload_bytes > MAX_PAYLOAD_BYTES {
            return Err(too_long("payload", self.payload_bytes, MAX_PAYLOAD_BYTES));
        }
        Ok(self)
    }

    /// A header and its body, ready to send before `payload_bytes` bytes of payload.
    fn frame(kind: u16, body: &[u8], payload_bytes: u64) -> Result<Vec<u8>, ProtocolError> {
        let header = Self {
            kind,
            body_bytes: u32::try_from(body.len()).unwrap_or(u32::MAX),
            payload_bytes,
        }
        .check()?;
        let mut writer = Writer(Vec::with_capacity(HEADER_BYTES + body.len()));
        writer.0.extend_from_slice(&MAGIC);
        writer.u32(u32::from(VERSION) | u32::from(kind) << 16);
        writer.u32(header.body_bytes);
        writer.u64(payload_bytes);
        writer.0.extend_from_slice(body);
        Ok(writer.0)
    }
}

/// What to do with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// Embed the whole image; one model, the embedder.
    Embed,
    /// Detect garments and embed their crops; two models, detector and embedder.
    Garments,
    /// Find the key points of a person; one model, the pose estimator.
    Pose,
}

impl Task {
    const ALL: [(u8, Task); 3] = [(1, Task::Embed), (2, Task::Garments), (3, Task::Pose)];

    /// How many models it takes.
    pub fn models(self) -> usize {
        match self {
            Task::Embed | Task::Pose => 1,
            Task::Garments => 2,
        }
    }
}

/// Everything but the image that a result depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What to do.
    pub task: Task,
    /// In the order that [`Task`] names them.
    pub models: Vec<Fingerprint>,
    /// Where and with how many threads.
    pub options: SessionOptions,
    /// What the decoder refuses.
    pub limits: Limits,
    /// The ONNX Runtime library that the caller's settings name.
    pub library: String,
}

/// From the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Run models on the image that is the payload.
    Run(Run),
    /// The model that the worker asked for; the payload is the ONNX file.
    Model {
        /// As asked for.
        fingerprint: Fingerprint,
        /// JSON.
        manifest: String,
    },
    /// Check a model before it is stored; the payload is the ONNX file.
    Check {
        /// JSON.
        manifest: String,
        /// The ONNX Runtime library that the caller's settings name.
        library: String,
    },
    /// Say how the worker is.
    Stats,
}

/// From the worker.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Send this model.
    NeedModel(Fingerprint),
    /// The answer to [`Task::Embed`].
    Embedding(Vec<f32>),
    /// The answer to [`Task::Garments`].
    Garments(Vec<Garment>),
    /// The answer to [`Task::Pose`].
    Pose(Box<Pose>),
    /// The model is sound.
    Checked,
    /// No result, and why.
    Refused(Refusal),
    /// As many requests wait as may wait.
    Busy {
        /// The limit.
        limit: u32,
    },
    /// This process will not do it, through no fault of the request: ask once more.
    Again,
    /// There is no process to do it.
    NoProcess {
        /// Why it could not start.
        reason: String,
    },
    /// The worker runs another ONNX Runtime library than the caller asks for.
    OtherRuntime {
        /// The path of the worker's.
        library: String,
    },
    /// One JSON object.
    Stats(String),
}

/// Why there is no result: a code for programs, a text for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// As in the vision crate.
    pub code: ErrorCode,
    /// The vision crate's message.
    pub text: String,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self {
            code: error.code(),
            text: error.to_string(),
        }
    }
}

impl Call {
    /// The frame up to its payload.
    pub fn encode(&self, payload_bytes: u64) -> Result<Vec<u8>, ProtocolError> {
        let mut body = Writer::default();
        let kind = match self {
            Call::Run(run) => {
                put_run(&mut body, run);
                1
            }
            Call::Model {
                fingerprint,
                manifest,
            } => {
                body.digest(&fingerprint.0);
                body.text(manifest);
                2
            }
            Call::Check { manifest, library } => {
                body.text(manifest);
                body.text(library);
                3
            }
            Call::Stats => 4,
        };
        Header::frame(kind, &body.0, payload_bytes)
    }

    /// Reads a body of `kind`.
    pub fn decode(kind: u16, body: &[u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader(body);
        let call = match kind {
            1 => Call::Run(take_run(&mut reader)?),
            2 => Call::Model {
                fingerprint: Fingerprint(reader.digest()?),
                manifest: reader.text()?,
            },
            3 => Call::Check {
                manifest: reader.text()?,
                library: reader.text()?,
            },
            4 => Call::Stats,
            other => return Err(ProtocolError::Kind(other)),
        };
        reader.end()?;
        Ok(call)
    }
}

impl Reply {
    /// The whole frame: replies have no payload.
    pub fn encode(&self) -> Result<Vec<u8>, ProtocolError> {
        let mut body = Writer::default();
        let kind = match self {
            Reply::NeedModel(fingerprint) => {
                body.digest(&fingerprint.0);
                101
            }
            Reply::Embedding(elements) => {
                body.floats(elements);
                102
            }
            Reply::Garments(garments) => {
                body.count(garments.len());
                for garment in garments {
                    put_garment(&mut body, garment);
                }
                103
            }
            Reply::Pose(pose) => {
                for point in &pose.0 {
                    for value in [point.x, point.y, point.score] {
                        body.f32(value);
                    }
                }
                109
            }
            Reply::Checked => 104,
            Reply::Refused(refusal) => {
                body.text(refusal.code.as_str());
                body.text(&refusal.text);
                105
            }
            Reply::Busy { limit } => {
                body.u32(*limit);
                106
            }
            Reply::OtherRuntime { library } => {
                body.text(library);
                107
            }
            Reply::Stats(json) => {
                body.text(json);
                108
            }
            Reply::Again => 110,
            Reply::NoProcess { reason } => {
                body.text(reason);
                111
            }
        };
        Header::frame(kind, &body.0, 0)
    }

    /// Reads a body of `kind`.
    pub fn decode(kind: u16, body: &[u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader(body);
        let reply = match kind {
            101 => Reply::NeedModel(Fingerprint(reader.digest()?)),
            102 => Reply::Embedding(reader.floats()?),
            103 => {
                let count = reader.count(LEAST_GARMENT_BYTES)?;
                let garments = (0..count).map(|_| take_garment(&mut reader));
                Reply::Garments(garments.collect::<Result<_, _>>()?)
            }
            104 => Reply::Checked,
            105 => Reply::Refused(Refusal {
                code: reader
                    .text()?
                    .parse()
                    .map_err(|_| ProtocolError::Range("error code"))?,
                text: reader.text()?,
            }),
            106 => Reply::Busy {
                limit: reader.u32()?,
            },
            107 => Reply::OtherRuntime {
                library: reader.text()?,
            },
            108 => Reply::Stats(reader.text()?),
            109 => Reply::Pose(Box::new(take_pose(&mut reader)?)),
            110 => Reply::Again,
            111 => Reply::NoProcess {
                reason: reader.text()?,
            },
            other => return Err(ProtocolError::Kind(other)),
        };
        reader.end()?;
        Ok(reply)
    }
}

fn put_run(body: &mut Writer, run: &Run) {
    let task = Task::ALL.iter().find(|(_, task)| *task == run.task);
    body.byte(task.map_or(0, |(number, _)| *number));
    body.count(run.models.len());
    for model in &run.models {
        body.digest(&model.0);
    }
    body.text(&run.options.device.to_string());
    body.u32(u32::try_from(run.options.threads).unwrap_or(u32::MAX));
    body.u64(run.limits.max_bytes);
    body.u64(run.limits.max_pixels);
    body.text(&run.library);
}

fn take_run(reader: &mut Reader<'_>) -> Result<Run, ProtocolError> {
    let number = reader.byte()?;
    let (_, task) = *Task::ALL
        .iter()
        .find(|(known, _)| *known == number)
        .ok_or(ProtocolError::Range("task"))?;
    let count = reader.count(32)?;
    if count > MAX_MODELS || count != task.models() {
        return Err(ProtocolError::Range("number of models"));
    }
    let models = (0..count)
        .map(|_| Ok(Fingerprint(reader.digest()?)))
        .collect::<Result<_, ProtocolError>>()?;
    let device = reader
        .text()?
        .parse::<Device>()
        .map_err(|_| ProtocolError::Range("device"))?;
    let threads = usize::try_from(reader.u32()?).map_err(|_| ProtocolError::Range("threads"))?;
    let limits = Limits {
        max_bytes: reader.u64()?,
        max_pixels: reader.u64()?,
    };
    Ok(Run {
        task,
        models,
        options: SessionOptions {
            device,
            threads,
            batch: 0,
        },
        limits,
        library: reader.text()?,
    })
}

/// Two empty texts, no score, a box, an empty vector.
const LEAST_GARMENT_BYTES: usize = 4 + 4 + 1 + 16 + 4;

fn put_garment(body: &mut Writer, garment: &Garment) {
    body.text(&garment.category);
    body.text(&garment.label);
    match garment.score {
        None => body.byte(0),
        Some(score) => {
            body.byte(1);
            body.f32(score);
        }
    }
    let bbox = garment.bbox;
    for edge in [bbox.x1, bbox.y1, bbox.x2, bbox.y2] {
        body.f32(edge);
    }
    body.floats(&garment.embedding);
}

fn take_pose(reader: &mut Reader<'_>) -> Result<Pose, ProtocolError> {
    let mut pose = Pose(KEYPOINT_NAMES.map(|name| Keypoint {
        name,
        x: 0.0,
        y: 0.0,
        score: 0.0,
    }));
    for point in &mut pose.0 {
        point.x = reader.f32()?;
        point.y = reader.f32()?;
        point.score = reader.f32()?;
    }
    Ok(pose)
}

fn take_garment(reader: &mut Reader<'_>) -> Result<Garment, ProtocolError> {
    Ok(Garment {
        category: reader.text()?,
        label: reader.text()?,
        score: match reader.byte()? {
            0 => None,
            1 => Some(reader.f32()?),
            _ => return Err(ProtocolError::Range("score")),
        },
        bbox: BoundingBox {
            x1: reader.f32()?,
            y1: reader.f32()?,
            x2: reader.f32()?,
            y2: reader.f32()?,
        },
        embedding: reader.floats()?,
    })
}
