//! Which keys are at work in this process: one task a key, others wait for its end.

use sandpost_ports::state::EffectKey;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The keys at work.
#[derive(Clone, Default)]
pub(super) struct Running(Arc<Mutex<HashMap<EffectKey, watch::Receiver<()>>>>);

/// The right to work on a key. Dropped, the next one has it.
pub(super) struct Place {
    running: Running,
    key: EffectKey,
    // Its end is what the others wait for.
    _at_work: watch::Sender<()>,
}

/// Somebody else works on the key.
pub(super) struct Busy(watch::Receiver<()>);

impl Running {
    /// Takes the key, if nobody has it.
    pub(super) fn enter(&self, key: &EffectKey) -> Result<Place, Busy> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = keys.get(key) {
            return Err(Busy(other.clone()));
        }
        let (at_work, ended) = watch::channel(());
        keys.insert(key.clone(), ended);
        Ok(Place { running: self.clone(), key: key.clone(), _at_work: at_work })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.running.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Busy {
    /// Returns once the other has ended.
    pub(super) async fn ended(mut self) {
        // Nothing is ever sent: the only change is that the sender is gone.
        while self.0.changed().await.is_ok() {}
    }
}
