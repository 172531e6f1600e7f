//! Models that this backend has loaded: few, because each holds its weights in memory.

use lookbook_vision::SessionOptions;
use lookbook_worker::Fingerprint;

/// Of each kind. A fourth model drops the one not used for longest.
const SESSIONS_KEPT: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionKey {
    pub(super) fingerprint: Fingerprint,
    pub(super) options: SessionOptions,
}

/// Loaded models of one kind, the last used first.
pub(super) struct Sessions<T>(Vec<(SessionKey, T)>);

impl<T> Sessions<T> {
    pub(super) const fn new() -> Self {
        Sessions(Vec::new())
    }

    pub(super) fn contains(&self, key: &SessionKey) -> bool {
        self.0.iter().any(|(known, _)| known == key)
    }

    /// The model, now the last used.
    pub(super) fn find(&mut self, key: &SessionKey) -> Option<&mut T> {
        let position = self.0.iter().position(|(known, _)| known == key)?;
        self.0[..=position].rotate_right(1);
        self.0.first_mut().map(|(_, session)| session)
    }

    pub(super) fn insert(&mut self, key: SessionKey, session: T) {
        self.0.truncate(SESSIONS_KEPT - 1);
        self.0.insert(0, (key, session));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
