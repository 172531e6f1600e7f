//! One process that runs the models of a whole server.
//!
//! Owns the protocol between it and its callers, the queue, batches, and the models that are loaded.
//! Knows nothing of PostgreSQL: the extension starts the process, keeps it alive, checks privileges
//! and reads model rows; what arrives here is a fingerprint, a manifest and bytes.
//!
//! ```text
//! caller: client::ask --unix socket--> server: admission -> queue -> batch -> session -> reply
//! ```
#![forbid(unsafe_code)]

pub mod client;
mod frame;
pub mod protocol;
mod server;
mod wire;

pub use server::{Ended, Origin, Settings, serve, turn_away};

use sha2::{Digest, Sha256};

/// What identifies the behaviour of a model: its ONNX bytes and its manifest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// `sha256`: lower-case hex digest of the ONNX file, as the manifest has it too.
    pub fn new(sha256: &str, manifest: &str) -> Self {
        let digest = Sha256::new()
            .chain_update(sha256)
            .chain_update(manifest)
            .finalize();
        Self(digest.into())
    }
}
