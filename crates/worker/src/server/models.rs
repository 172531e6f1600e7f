//! Models that callers have sent, and the sessions that are open on them.
//!
//! A model is known by its fingerprint; a session belongs to a model, a device and a number of
//! threads. One session runs one batch at a time, so a second opens when a batch waits while the
//! first is busy, up to the number of executors (one on a GPU, which is shared anyway).
//!
//! Invariants: no two sessions of one key open at once; a model that a waiting request needs is
//! never forgotten; nothing here runs a model, and sessions are dropped by whoever holds no lock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lookbook_vision::{
    Detector, Embedder, Error, Kind, Manifest, PoseEstimator, Provider, Runtime, SessionOptions,
};
use serde_json::{Value, json};

use super::batch::BatchRule;
use crate::Fingerprint;
use crate::protocol::Run;

/// Keys with open sessions at most: each holds weights and working memory. The one not used for
/// longest goes first.
const MAX_POOLS: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    fingerprint: Fingerprint,
    options: SessionOptions,
}

struct Known {
    manifest: Manifest,
    onnx: Arc<Vec<u8>>,
    /// Requests that wait for it or run on it.
    pins: usize,
}

struct Pool {
    idle: Vec<Session>,
    /// Idle ones, busy ones, and the one that is opening.
    sessions: usize,
    is_opening: bool,
    /// Known once a session is open.
    provider: Option<Provider>,
    rule: Arc<Mutex<BatchRule>>,
    last_used: Instant,
    requests: u64,
}

/// A model ready to run.
pub(super) enum Session {
    Embedder(Embedder),
    Detector(Detector),
    Pose(PoseEstimator),
}

impl Session {
    fn open(
        runtime: &Runtime,
        manifest: &Manifest,
        onnx: &[u8],
        options: &SessionOptions,
    ) -> Result<Session, Error> {
        let manifest = manifest.clone();
        match manifest.kind() {
            Kind::Detector => {
                Detector::open(runtime, manifest, onnx, options).map(Session::Detector)
            }
            Kind::Embedder => {
                Embedder::open(runtime, manifest, onnx, options).map(Session::Embedder)
            }
            Kind::Pose => PoseEstimator::open(runtime, manifest, onnx, options).map(Session::Pose),
        }
    }

    fn provider(&self) -> Provider {
        match self {
            Session::Embedder(model) => model.provider(),
            Session::Detector(model) => model.provider(),
            Session::Pose(model) => model.provider(),
        }
    }
}

/// The right to one session until it is given back.
pub(super) struct Lease {
    pub(super) key: Key,
    pub(super) rule: Arc<Mutex<BatchRule>>,
    /// Empty when it has to be opened first.
    pub(super) session: Option<Session>,
    manifest: Manifest,
    onnx: Arc<Vec<u8>>,
}

impl Lease {
    /// Whether `run` would need such a session.
    pub(super) fn is_for(&self, run: &Run) -> bool {
        run.options == self.key.options && run.models.contains(&self.key.fingerprint)
    }

    /// Opens the session; takes long, and no lock.
    pub(super) fn open(&mut self, runtime: &Runtime) -> Result<(), Error> {
        let options = &self.key.options;
        self.session = Some(Session::open(runtime, &self.manifest, &self.onnx, options)?);
        Ok(())
    }
}

/// See the module's description.
#[derive(Default)]
pub(super) struct Models {
    known: HashMap<Fingerprint, Known>,
    pools: HashMap<Key, Pool>,
    /// Sessions opened since the start.
    pub(super) loads: u64,
}

impl Models {
    pub(super) fn knows(&self, fingerprint: &Fingerprint) -> bool {
        self.known.contains_key(fingerprint)
    }

    /// Takes in what a caller sent, if it is what was asked for. The ONNX file itself is checked
    /// against the manifest when it is opened.
    pub(super) fn learn(
        &mut self,
        fingerprint: Fingerprint,
        json: &str,
        onnx: Vec<u8>,
    ) -> Result<(), Error> {
        let manifest = Manifest::from_json(json)?;
        if Fingerprint::new(manifest.sha256(), json) != fingerprint {
            return Err(Error::ModelInvalid {
                model: manifest.name().to_owned(),
                reason: "it changed while it was sent to the inference worker; try again"
                    .to_owned(),
            });
        }
        self.known.entry(fingerprint).or_insert_with(|| Known {
            manifest,
            onnx: Arc::new(onnx),
            pins: 0,
        });
        Ok(())
    }

    pub(super) fn pin(&mut self, run: &Run) {
        for model in &run.models {
            if let Some(known) = self.known.get_mut(model) {
                known.pins += 1;
            }
        }
    }

    pub(super) fn unpin(&mut self, run: &Run) {
        for model in &run.models {
            if let Some(known) = self.known.get_mut(model) {
                known.pins = known.pins.saturating_sub(1);
            }
        }
    }

    /// Sessions for all models of `run`, or nothing while one of them has to be waited for.
    pub(super) fn lease(&mut self, run: &Run, most_sessions: usize) -> Option<Vec<Lease>> {
        let keys: Vec<Key> = run
            .models
            .iter()
            .map(|model| Key {
                fingerprint: *model,
                options: run.options,
            })
            .collect();
        let is_free = |key: &Key| {
            self.known.contains_key(&key.fingerprint)
                && self.pools.get(key).is_none_or(|pool| {
                    let most = match pool.provider {
                        Some(provider) if provider.is_gpu() => 1,
                        _ => most_sessions,
                    };
                    !pool.idle.is_empty() || (!pool.is_opening && pool.sessions < most)
                })
        };
        if !keys.iter().all(is_free) {
            return None;
        }
        keys.into_iter().map(|key| self.take(key)).collect()
    }

    fn take(&mut self, key: Key) -> Option<Lease> {
        let known = self.known.get(&key.fingerprint)?;
        let pool = self.pools.entry(key).or_insert_with(|| Pool {
            idle: Vec::new(),
            sessions: 0,
            is_opening: false,
            provider: None,
            rule: Arc::default(),
            last_used: Instant::now(),
            requests: 0,
        });
        let session = pool.idle.pop();
        if session.is_none() {
            pool.is_opening = true;
            pool.sessions += 1;
        }
        Some(Lease {
            key,
            rule: Arc::clone(&pool.rule),
            session,
            manifest: known.manifest.clone(),
            onnx: Arc::clone(&known.onnx),
        })
    }

    /// A session that a lease opened is there, so that others of its key may open.
    pub(super) fn opened(&mut self, lease: &Lease) {
        let (Some(pool), Some(session)) = (self.pools.get_mut(&lease.key), &lease.session) else {
            return;
        };
        if pool.is_opening {
            pool.is_opening = false;
            pool.provider = Some(session.provider());
            self.loads += 1;
        }
    }

    /// Ends a lease; without a session, when it could not be opened or broke.
    pub(super) fn give_back(&mut self, lease: Lease, requests: u64) {
        let Some(pool) = self.pools.get_mut(&lease.key) else {
            return;
        };
        pool.last_used = Instant::now();
        pool.requests += requests;
        match lease.session {
            Some(session) => pool.idle.push(session),
            None => {
                pool.sessions -= 1;
                pool.is_opening = false;
                if pool.sessions == 0 {
                    self.pools.remove(&lease.key);
                }
            }
        }
    }

    /// Takes out every session that does not run, for the memory that it has. The caller drops them.
    pub(super) fn take_idle(&mut self) -> Vec<Session> {
        let mut idle = Vec::new();
        self.pools.retain(|_, pool| {
            pool.sessions -= pool.idle.len();
            idle.append(&mut pool.idle);
            pool.sessions > 0
        });
        idle
    }

    /// Takes out what was not used for `idle` (zero: any time), what is too much, and models that
    /// nobody needs any more: neither a session, nor a request, nor one of `wanted`. The caller
    /// drops it.
    pub(super) fn unload(&mut self, idle: Duration, wanted: &[Fingerprint]) -> Vec<Session> {
        let mut unloaded = Vec::new();
        let mut keys: Vec<(Instant, Key)> = self
            .pools
            .iter()
            .filter(|(_, pool)| pool.idle.len() == pool.sessions)
            .map(|(key, pool)| (pool.last_used, *key))
            .collect();
        keys.sort_by_key(|(last_used, _)| *last_used);
        for (last_used, key) in keys {
            let is_old = !idle.is_zero() && last_used.elapsed() >= idle;
            if !is_old && self.pools.len() <= MAX_POOLS {
                break;
            }
            unloaded.extend(self.pools.remove(&key).map(|pool| pool.idle));
        }
        let pools = &self.pools;
        self.known.retain(|fingerprint, known| {
            known.pins > 0
                || wanted.contains(fingerprint)
                || pools.keys().any(|key| key.fingerprint == *fingerprint)
        });
        unloaded.into_iter().flatten().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    /// When the session that was not used for longest was last used.
    pub(super) fn oldest_use(&self) -> Option<Instant> {
        self.pools.values().map(|pool| pool.last_used).min()
    }

    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// One object for each key.
    pub(super) fn describe(&self) -> Value {
        let mut all: Vec<Value> = self
            .pools
            .iter()
            .filter_map(|(key, pool)| {
                let manifest = &self.known.get(&key.fingerprint)?.manifest;
                let rule = pool.rule.lock().unwrap_or_else(PoisonError::into_inner);
                Some(json!({
                    "name": manifest.name(),
                    "kind": manifest.kind().as_str(),
                    "sha256": manifest.sha256(),
                    "device": key.options.device.to_string(),
                    "provider": pool.provider.map_or("", Provider::as_str),
                    "threads": key.options.threads,
                    "sessions": pool.sessions,
                    "requests": pool.requests,
                    "batches": rule.describe(),
                    "idle_s": pool.last_used.elapsed().as_secs(),
                }))
            })
            .collect();
        all.sort_by_key(|model| model["name"].as_str().unwrap_or_default().to_owned());
        Value::Array(all)
    }
}
