//! The state in memory: effects and ledger as a store keeps them; the rest is not used here.

use super::{Answer, port_error};
use sandpost_message::{MessageId, PluginName, SubscriptionName, TimestampMs};
use sandpost_ports::health::Health;
use sandpost_ports::state::{
    Claim, DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetterStatus, DeadLetters, Deployment, Deployments,
    EffectKey, EffectState, Effects as EffectStore, Ledger, LedgerEntry, Owner, RecordedRequest, RequestClaim,
    Requests, Step,
};
use sandpost_ports::{ErrorKind, PortError};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// The effects and the ledger; the rest of the state is not used here.
#[derive(Default)]
pub(crate) struct FakeState {
    pub(crate) effects: Mutex<BTreeMap<EffectKey, (Owner, EffectState)>>,
    pub(crate) entries: Mutex<Vec<LedgerEntry>>,
    /// What the next calls of `advance` answer instead of doing it.
    pub(crate) advance_fails: Mutex<VecDeque<PortError>>,
    /// Whether calls of `advance` are never answered.
    pub(crate) advance_hangs: AtomicBool,
}

impl FakeState {
    pub(crate) fn put(&self, key: &str, owner: &str, state: EffectState) {
        self.effects.lock().unwrap().insert(key.to_owned(), (owner.to_owned(), state));
    }

    pub(crate) fn only(&self) -> (EffectKey, EffectState) {
        let effects = self.effects.lock().unwrap();
        assert_eq!(effects.len(), 1, "{effects:?}");
        let (key, (_, state)) = effects.iter().next().unwrap();
        (key.clone(), state.clone())
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.entries.lock().unwrap().iter().map(|entry| entry.step).collect()
    }
}

#[async_trait::async_trait]
impl Health for FakeState {
    async fn check(&self) -> Answer<()> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl EffectStore for FakeState {
    async fn claim(
        &self,
        key: &EffectKey,
        owner: &Owner,
        _: &MessageId,
        _: &SubscriptionName,
        _: TimestampMs,
    ) -> Answer<Claim> {
        // A store takes its time: whoever relies on it alone for order within a process shows here.
        tokio::task::yield_now().await;
        let mut effects = self.effects.lock().unwrap();
        Ok(match effects.get(key) {
            None | Some((_, EffectState::Claimed)) => {
                effects.insert(key.clone(), (owner.clone(), EffectState::Claimed));
                Claim::Ours
            }
            Some((_, EffectState::Sent(id))) => Claim::Sent(id.clone()),
            Some((owner, EffectState::Sending)) => Claim::Sending { owner: owner.clone() },
        })
    }

    async fn advance(&self, key: &EffectKey, owner: &Owner, to: EffectState) -> Answer<()> {
        tokio::task::yield_now().await;
        if self.advance_hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if let Some(error) = self.advance_fails.lock().unwrap().pop_front() {
            return Err(error);
        }
        let mut effects = self.effects.lock().unwrap();
        match effects.get_mut(key) {
            Some((owned_by, state)) if owned_by == owner => *state = to,
            _ => return Err(port_error(ErrorKind::Conflict)),
        }
        Ok(())
    }

    async fn release(&self, key: &EffectKey, owner: &Owner) -> Answer<()> {
        let mut effects = self.effects.lock().unwrap();
        if effects.get(key).is_none_or(|(owned_by, _)| owned_by != owner) {
            return Err(port_error(ErrorKind::Conflict));
        }
        effects.remove(key);
        Ok(())
    }

    async fn effects_of(&self, _: &MessageId, _: &SubscriptionName) -> Answer<Vec<(EffectKey, EffectState)>> {
        Err(port_error(ErrorKind::Unsupported))
    }

    async fn resolve_unknown(&self, _: &MessageId, _: &SubscriptionName, _: bool) -> Answer<u64> {
        Err(port_error(ErrorKind::Unsupported))
    }

    async fn forget_effects_before(&self, _: TimestampMs, _: usize) -> Answer<u64> {
        Err(port_error(ErrorKind::Unsupported))
    }
}

#[async_trait::async_trait]
impl Ledger for FakeState {
    async fn record(&self, entries: Vec<LedgerEntry>) -> Answer<()> {
        self.entries.lock().unwrap().extend(entries);
        Ok(())
    }

    async fn history(&self, _: &MessageId) -> Answer<Vec<LedgerEntry>> {
        Ok(self.entries.lock().unwrap().clone())
    }

    async fn forget_before(&self, _: TimestampMs, _: usize) -> Answer<u64> {
        Err(port_error(ErrorKind::Unsupported))
    }
}

#[async_trait::async_trait]
impl DeadLetters for FakeState {
    async fn add_dead_letter(&self, _: DeadLetter) -> Answer<()> {
        Err(port_error(ErrorKind::Unsupported))
    }

    async fn held_dead_letter(&self, _: &MessageId, _: &SubscriptionName) -> Answer<Option<DeadLetterId>> {
        Err(port_error(ErrorKind::Unsupported))
    }

    async fn dead_letters(&self, _: &DeadLetterFilter, _: Option<&str>, _: usize) -> Answer<Vec<DeadLetter>> {
        Err(port_error(ErrorKind::Unsupported))
    }

    async fn dead_letter(&self, _: &str) -> Answer<Option<DeadLetter>> {
        Err(port_error(ErrorKind::Unsupported))
    }

    async fn set_dead_letter_status(&self, _: &str, _: DeadLetterStatus) -> Answer<bool> {
        Err(port_error(ErrorKind::Unsupported))
    }

    async fn remove_dead_letter(&self, _: &str) -> Answer<bool> {
        Err(port_error(ErrorKind::Unsupported))
    }

    async fn count_dead_letters(&self) -> Answer<Vec<(SubscriptionName, u64)>> {
        Err(port_error(ErrorKind::Unsupported))
    }
}

#[async_trait::async_trait]
impl Requests for FakeState {
    async fn claim_request(&self, _: &str, _: RecordedRequest, _: TimestampMs) -> Answer<RequestClaim> {
        Err(port_error(ErrorKind::Unsupported))
    }

    async fn answer_request(&self, _: &str, _: Vec<u8>) -> Answer<()> {
        Err(port_error(ErrorKind::Unsupported))
    }

    async fn abandon_request(&self, _: &str) -> Answer<()> {
        Err(port_error(ErrorKind::Unsupported))
    }

    async fn forget_requests(&self, _: TimestampMs, _: usize) -> Answer<u64> {
        Err(port_error(ErrorKind::Unsupported))
    }
}

#[async_trait::async_trait]
impl Deployments for FakeState {
    async fn record_deployment(&self, _: Deployment) -> Answer<()> {
        Err(port_error(ErrorKind::Unsupported))
    }

    async fn deployments(&self, _: &PluginName, _: usize) -> Answer<Vec<Deployment>> {
        Err(port_error(ErrorKind::Unsupported))
    }

    async fn live_deployments(&self) -> Answer<Vec<Deployment>> {
        Err(port_error(ErrorKind::Unsupported))
    }
}
