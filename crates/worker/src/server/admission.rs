//! What happens between two stages of a conversation: admit, ask for a model, queue, answer.

use std::collections::btree_map::Entry;
use std::path::Path;
use std::time::Instant;

use super::connection::{Connection, Event, Stage};
use super::queue::{ConnectionId, Job, Work};
use super::{PAYLOAD_BUDGET_BYTES, SENDING_PATIENCE, Server};
use crate::Fingerprint;
use crate::frame::{BodyReader, FrameError, PayloadReader};
use crate::protocol::{Call, ProtocolError, Refusal, Reply};

/// What payloads of one sort take, looked at in the order of their connections.
#[derive(Default)]
struct Room {
    held: u64,
    is_full: bool,
}

impl Room {
    /// Whether `bytes` more go in. Once one has to wait all later ones do, or they would overtake it for ever.
    fn admits(&mut self, bytes: u64) -> bool {
        self.is_full |= self.held > 0 && self.held.saturating_add(bytes) > PAYLOAD_BUDGET_BYTES;
        if !self.is_full {
            self.held += bytes;
        }
        !self.is_full
    }
}

/// Models have room of their own, as requests that are in already wait for them; and so has one payload above the budget,
/// which would wait until nobody else asks for anything.
fn room(is_model: bool, bytes: u64) -> usize {
    usize::from(is_model) + 2 * usize::from(bytes > PAYLOAD_BUDGET_BYTES)
}

impl Server {
    /// Goes on with a connection until its socket has no more to give or to take.
    pub(super) fn advance(&mut self, id: ConnectionId, is_hung_up: bool) {
        while let Some(connection) = self.connections.get_mut(&id) {
            match connection.advance() {
                Ok(Some(event)) => self.react(id, event),
                Ok(None) if matches!(connection.stage, Stage::Closed) => return self.close(id),
                // Nothing is read before it is admitted, so that the end of it is not seen either.
                Ok(None) if is_hung_up && !connection.is_admitted() => return self.close(id),
                Ok(None) => return,
                Err(FrameError::Protocol(error)) => self.reject(id, &error),
                Err(FrameError::Socket(_)) => return self.close(id),
            }
        }
    }

    fn react(&mut self, id: ConnectionId, event: Event) {
        match event {
            Event::Call(call, bytes) => self.begin(id, call, bytes),
            Event::Payload(call, payload) => self.take_payload(id, call, payload),
            Event::Written => {
                let Some(connection) = self.connections.get_mut(&id) else {
                    return;
                };
                if connection.is_last_reply {
                    self.close(id);
                } else {
                    connection.stage = Stage::Call(BodyReader::default());
                }
            }
        }
    }

    /// A call without its payload: refuses what is not to be read.
    fn begin(&mut self, id: ConnectionId, call: Call, bytes: u64) {
        let state = self.shared.lock();
        let limit = state.settings.queue_limit;
        let is_full = self.waiting(state.running()) >= limit;
        let library = state.library();
        drop(state);
        let refusal = match &call {
            Call::Stats => Some(Reply::Stats(self.describe().to_string())),
            Call::Run(_) | Call::Check { .. } if is_full => {
                self.shared.lock().stats.refused += 1;
                Some(Reply::Busy {
                    limit: u32::try_from(limit).unwrap_or(u32::MAX),
                })
            }
            Call::Run(run) if Path::new(&run.library) != library => Some(Reply::OtherRuntime {
                library: library.to_string_lossy().into_owned(),
            }),
            Call::Check { library: other, .. } if Path::new(other) != library => {
                Some(Reply::OtherRuntime {
                    library: library.to_string_lossy().into_owned(),
                })
            }
            Call::Model { fingerprint, .. } if self.uploads.get(fingerprint) != Some(&id) => {
                return self.reject(id, &ProtocolError::Range("a model that nobody asked for"));
            }
            Call::Run(_) | Call::Check { .. } => {
                self.shared.lock().stats.requests += 1;
                None
            }
            Call::Model { .. } => None,
        };
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        match (refusal, PayloadReader::new(bytes)) {
            (Some(reply), _) => connection.say(&reply, true),
            (None, Err(error)) => self.reject(id, &error),
            (None, Ok(reader)) => {
                connection.stage = Stage::Payload {
                    call,
                    reader,
                    bytes,
                    is_admitted: false,
                };
                self.admit_payloads();
            }
        }
    }

    /// Lets payloads in as far as there is room.
    pub(super) fn admit_payloads(&mut self) {
        let mut rooms: [Room; 4] = Default::default();
        for connection in self.connections.values() {
            for (is_model, bytes) in [
                (false, connection.image_bytes),
                (true, connection.model_bytes),
            ] {
                rooms[room(is_model, bytes)].held += bytes;
            }
        }
        for connection in self.connections.values_mut() {
            let Stage::Payload {
                call,
                bytes,
                is_admitted: is_admitted @ false,
                ..
            } = &mut connection.stage
            else {
                continue;
            };
            let is_model = matches!(call, Call::Model { .. });
            if rooms[room(is_model, *bytes)].admits(*bytes) {
                *is_admitted = true;
                connection.heard = Instant::now();
                let holds = if is_model {
                    &mut connection.model_bytes
                } else {
                    &mut connection.image_bytes
                };
                *holds = *bytes;
            }
        }
    }

    /// Whoever waits for a caller that does not go on sending (its process was stopped, its storage hangs) is not kept for
    /// longer: it may ask again, behind them.
    pub(super) fn send_stalled_away(&mut self) {
        while self
            .stalled_from()
            .is_some_and(|moment| moment <= Instant::now())
        {
            let stalled = self.connections.iter_mut().find(|(_, connection)| {
                connection.is_sending() && connection.heard.elapsed() >= SENDING_PATIENCE
            });
            let Some((id, connection)) = stalled else {
                return;
            };
            let id = *id;
            connection.request = None;
            connection.say(&Reply::Again, true);
            self.advance(id, false);
        }
    }

    fn take_payload(&mut self, id: ConnectionId, call: Call, payload: Vec<u8>) {
        match call {
            Call::Run(run) => {
                let image = payload;
                self.schedule(id, Work::Run { run, image });
            }
            Call::Check { manifest, .. } => {
                let onnx = payload;
                self.schedule(id, Work::Check { manifest, onnx });
            }
            Call::Model {
                fingerprint,
                manifest,
            } => self.take_model(id, fingerprint, &manifest, payload),
            Call::Stats => self.close(id),
        }
    }

    fn take_model(
        &mut self,
        id: ConnectionId,
        fingerprint: Fingerprint,
        manifest: &str,
        onnx: Vec<u8>,
    ) {
        self.uploads.remove(&fingerprint);
        let learnt = self.shared.lock().models.learn(fingerprint, manifest, onnx);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.model_bytes = 0;
        match (learnt, connection.request.take()) {
            (Ok(()), Some(work)) => self.schedule(id, work),
            (Ok(()), None) => self.close(id),
            (Err(error), _) => {
                connection.say(&Reply::Refused(Refusal::from(error)), true);
                self.shared.lock().stats.errors += 1;
            }
        }
        self.wake_parked();
    }

    /// Queues a complete request, or sees to it that its models come.
    fn schedule(&mut self, id: ConnectionId, work: Work) {
        let mut state = self.shared.lock();
        let missing = work
            .models()
            .iter()
            .copied()
            .find(|model| !state.models.knows(model));
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        match missing {
            None => {
                connection.stage = Stage::Working;
                state.submit(Job::new(id, work));
                drop(state);
                self.shared.ring();
            }
            Some(model) => {
                connection.request = Some(work);
                match self.uploads.entry(model) {
                    Entry::Occupied(_) => connection.stage = Stage::Parked,
                    Entry::Vacant(free) => {
                        free.insert(id);
                        connection.say(&Reply::NeedModel(model), false);
                    }
                }
            }
        }
    }

    /// A model came, or its sender left: whoever waited for it is looked at again.
    fn wake_parked(&mut self) {
        let parked: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| matches!(connection.stage, Stage::Parked))
            .map(|(id, _)| *id)
            .collect();
        for id in parked {
            if let Some(work) = self
                .connections
                .get_mut(&id)
                .and_then(|connection| connection.request.take())
            {
                self.schedule(id, work);
            }
        }
    }

    pub(super) fn take_answers(&mut self) {
        let mut bytes = [0; 64];
        while matches!(std::io::Read::read(&mut self.answered, &mut bytes), Ok(1..)) {}
        let answers = std::mem::take(&mut self.shared.lock().answers);
        for (id, reply) in answers {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.image_bytes = 0;
                connection.say(&reply, true);
            }
            self.advance(id, false);
        }
    }

    /// What came is no message: says so, for a caller that can read it, and closes.
    fn reject(&mut self, id: ConnectionId, error: &ProtocolError) {
        if let Some(connection) = self.connections.get_mut(&id) {
            let refusal = Refusal {
                code: lookbook_vision::ErrorCode::InferenceFailed,
                text: format!("the inference worker does not understand the request: {error}"),
            };
            connection.say(&Reply::Refused(refusal), true);
        }
    }

    fn close(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        let mut state = self.shared.lock();
        let was_under_way = state.abandon(id);
        state.stats.cancelled += u64::from(was_under_way || connection.request.is_some());
        drop(state);
        let before = self.uploads.len();
        self.uploads.retain(|_, sender| *sender != id);
        if self.uploads.len() != before {
            self.wake_parked();
        }
    }

    /// Requests that came and do not run yet.
    pub(super) fn waiting(&self, running: usize) -> usize {
        let pending = self
            .connections
            .values()
            .filter(|connection| Connection::is_waiting(connection))
            .count();
        pending.saturating_sub(running)
    }
}
