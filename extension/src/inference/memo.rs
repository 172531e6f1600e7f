//! Results remembered by content: model fingerprints and image digest in, embedding, garments or pose out.
//!
//! Invariant: the bytes kept never exceed `MEMO_BYTES`; the least recently used go first.

use lookbook_vision::{Garment, Pose};
use lookbook_worker::Fingerprint;
use lru::LruCache;
use std::rc::Rc;

/// Enough for some 7,000 embeddings of 256 dimensions.
const MEMO_BYTES: usize = 8 << 20;
/// Key, list links and allocation of one entry, roughly.
const ENTRY_OVERHEAD_BYTES: usize = 192;

/// Sha256 of an image file.
pub(super) type ImageDigest = [u8; 32];

/// What a result depends on. Device and threads do not belong here: they change rounding, not meaning.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) image: ImageDigest,
    /// The embedder, or the pose model: a fingerprint is of one kind.
    pub(super) model: Fingerprint,
    /// Set for garments only.
    pub(super) detector: Option<Fingerprint>,
    pub(super) max_image_pixels: u64,
}

#[derive(Clone)]
pub(super) enum Value {
    Embedding(Rc<[f32]>),
    Garments(Rc<[Garment]>),
    Pose(Box<Pose>),
}

impl Value {
    fn bytes(&self) -> usize {
        ENTRY_OVERHEAD_BYTES
            + match self {
                Value::Embedding(elements) => size_of_val::<[f32]>(elements),
                Value::Garments(garments) => garments.iter().map(garment_bytes).sum(),
                Value::Pose(pose) => size_of_val::<Pose>(pose),
            }
    }
}

fn garment_bytes(garment: &Garment) -> usize {
    size_of::<Garment>()
        + garment.category.len()
        + garment.label.len()
        + size_of_val::<[f32]>(&garment.embedding)
}

pub(super) struct Memo {
    entries: LruCache<Key, Value>,
    bytes: usize,
}

impl Memo {
    pub(super) fn new() -> Memo {
        Memo {
            entries: LruCache::unbounded(),
            bytes: 0,
        }
    }

    pub(super) fn find(&mut self, key: &Key) -> Option<Value> {
        self.entries.get(key).cloned()
    }

    pub(super) fn remember(&mut self, key: Key, value: Value) {
        self.bytes += value.bytes();
        if let Some(old) = self.entries.put(key, value) {
            self.bytes -= old.bytes();
        }
        while self.bytes > MEMO_BYTES {
            let Some((_, oldest)) = self.entries.pop_lru() else {
                break;
            };
            self.bytes -= oldest.bytes();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
