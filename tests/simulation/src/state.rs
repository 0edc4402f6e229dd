//! The state in memory: ledger, dead letters and effects as the ports ask for them, over a connection that fails.

use crate::broker::Store;
use crate::sim::{Life, Sim};
use async_trait::async_trait;
use sandpost_message::{MessageId, PluginName, SubscriptionName, TimestampMs};
use sandpost_ports::ErrorKind;
use sandpost_ports::PortError;
use sandpost_ports::health::Health;
use sandpost_ports::state::{
    Claim, DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetterStatus, DeadLetters, Deployment, Deployments,
    EffectKey, EffectState, Effects, Ledger, LedgerEntry, Owner, RecordedRequest, RequestClaim, Requests, Step,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One effect, as it is kept.
#[derive(Clone)]
pub(crate) struct KeptEffect {
    pub(crate) owner: Owner,
    pub(crate) state: EffectState,
    pub(crate) message: MessageId,
    pub(crate) subscription: SubscriptionName,
    claimed_at_ms: TimestampMs,
}

/// Everything that is kept; outlives every host.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) ledger: Vec<LedgerEntry>,
    pub(crate) letters: Vec<DeadLetter>,
    pub(crate) effects: BTreeMap<EffectKey, KeptEffect>,
}

/// The service itself.
pub(crate) struct Memory {
    sim: Arc<Sim>,
    broker: Arc<Store>,
    kept: Mutex<Kept>,
}

impl Memory {
    pub(crate) fn new(sim: Arc<Sim>, broker: Arc<Store>) -> Arc<Self> {
        Arc::new(Self { sim, broker, kept: Mutex::default() })
    }

    pub(crate) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, entries: Vec<LedgerEntry>) {
        for entry in &entries {
            let message = self.sim.name("m", entry.message_id.as_str());
            let (step, attempt) = (entry.step.word(), entry.attempt.unwrap_or(0));
            self.sim.trace(format_args!("ledger: {message} {step}, attempt {attempt}"));
        }
        self.kept().ledger.extend(entries);
    }

    fn add(&self, letter: DeadLetter) {
        let mut kept = self.kept();
        let place = kept
            .letters
            .iter()
            .position(|l| l.message.id == letter.message.id && l.subscription == letter.subscription);
        let message = self.sim.name("m", letter.message.id.as_str());
        self.sim.trace(format_args!("dead letter of {message} on {}: {}", letter.subscription, letter.cause));
        match place {
            Some(place) if kept.letters[place].status == DeadLetterStatus::Replaying => kept.letters[place] = letter,
            Some(_) => {}
            None => kept.letters.push(letter),
        }
    }

    fn claim(&self, key: &str, effect: KeptEffect) -> Claim {
        let mut kept = self.kept();
        let name = self.sim.name("k", key);
        let claim = match kept.effects.get(key) {
            None | Some(KeptEffect { state: EffectState::Claimed, .. }) => {
                kept.effects.insert(key.to_owned(), effect);
                Claim::Ours
            }
            Some(KeptEffect { state: EffectState::Sent(id), .. }) => Claim::Sent(id.clone()),
            Some(KeptEffect { state: EffectState::Sending, owner, .. }) => {
                *self.sim.facts().found_sending.entry(key.to_owned()).or_default() += 1;
                Claim::Sending { owner: owner.clone() }
            }
        };
        let word = match &claim {
            Claim::Ours => "ours",
            Claim::Sent(_) => "sent before",
            Claim::Sending { .. } => "found sending",
        };
        self.sim.trace(format_args!("effect {name} claimed: {word}"));
        claim
    }

    fn advance(&self, key: &str, owner: &str, to: EffectState) -> Result<(), PortError> {
        let mut kept = self.kept();
        let name = self.sim.name("k", key);
        let word = match &to {
            EffectState::Claimed => "claimed",
            EffectState::Sending => "sending",
            EffectState::Sent(_) => "sent",
        };
        match kept.effects.get_mut(key) {
            Some(effect) if effect.owner == owner => {
                self.sim.trace(format_args!("effect {name} goes to {word}"));
                if let EffectState::Sent(id) = &to
                    && !self.sim.facts().provided.contains(id)
                {
                    let found = format!("{name} is recorded as sent before anything was handed over");
                    self.sim.facts().broken.push(found);
                }
                effect.state = to;
                Ok(())
            }
            _ => {
                self.sim.trace(format_args!("effect {name} to {word}: not the owner's"));
                Err(PortError::new(ErrorKind::Conflict, "another owner has it"))
            }
        }
    }

    fn release(&self, key: &str, owner: &str) -> Result<(), PortError> {
        let mut kept = self.kept();
        let name = self.sim.name("k", key);
        if kept.effects.get(key).is_none_or(|effect| effect.owner != owner) {
            self.sim.trace(format_args!("effect {name} released: not the owner's"));
            return Err(PortError::new(ErrorKind::Conflict, "another owner has it"));
        }
        self.sim.trace(format_args!("effect {name} released"));
        if let Some(effect) = kept.effects.remove(key) {
            let mut facts = self.sim.facts();
            if facts.found_sending.contains_key(key) {
                facts.released_late.insert((effect.message, effect.subscription));
            }
        }
        Ok(())
    }

    fn forget_effects(&self, before_ms: TimestampMs, max: usize) -> u64 {
        let mut kept = self.kept();
        let old: Vec<EffectKey> = kept
            .effects
            .iter()
            .filter(|(_, effect)| effect.claimed_at_ms < before_ms)
            .map(|(key, _)| key.clone())
            .take(max)
            .collect();
        for key in &old {
            let Some(effect) = kept.effects.remove(key) else { continue };
            if self.broker.holds(&effect.message, &effect.subscription) {
                let message = self.sim.name("m", effect.message.as_str());
                self.sim.facts().broken.push(format!("an effect of {message} is forgotten while it is on its way"));
            }
        }
        old.len() as u64
    }
}

/// The state as one host reaches it.
pub(crate) struct SimState {
    pub(crate) memory: Arc<Memory>,
    pub(crate) life: Arc<Life>,
}

impl SimState {
    async fn ask<T: Send + 'static>(
        &self,
        operation: &'static str,
        execute: impl FnOnce(&Memory) -> T + Send + 'static,
    ) -> Result<T, PortError> {
        let memory = Arc::clone(&self.memory);
        self.memory.sim.call(&self.life, operation, move || execute(&memory)).await
    }
}

#[async_trait]
impl Health for SimState {
    async fn check(&self) -> Result<(), PortError> {
        Ok(())
    }
}

/// An entry of the ledger that may not be there.
struct Gap<'a>(&'a Sim);

impl Drop for Gap<'_> {
    fn drop(&mut self) {
        self.0.facts().ledger_gaps = true;
    }
}

#[async_trait]
impl Ledger for SimState {
    async fn record(&self, entries: Vec<LedgerEntry>) -> Result<(), PortError> {
        // Whoever waits may give up before the answer, so the gap is noted until the writing is known to have happened.
        let gap = Gap(&self.memory.sim);
        let answer = self.ask("record", move |memory| memory.record(entries)).await;
        if answer.is_ok() {
            std::mem::forget(gap);
        }
        answer
    }

    async fn history(&self, message: &MessageId) -> Result<Vec<LedgerEntry>, PortError> {
        let message = message.clone();
        self.ask("history", move |memory| {
            memory.kept().ledger.iter().filter(|entry| entry.message_id == message).cloned().collect()
        })
        .await
    }

    async fn forget_before(&self, _: TimestampMs, _: usize) -> Result<u64, PortError> {
        // Runs are shorter than a ledger's time.
        self.ask("forget-ledger", |_| 0).await
    }
}

#[async_trait]
impl DeadLetters for SimState {
    async fn add_dead_letter(&self, letter: DeadLetter) -> Result<(), PortError> {
        self.ask("add-dead-letter", move |memory| memory.add(letter)).await
    }

    async fn held_dead_letter(
        &self,
        message: &MessageId,
        subscription: &SubscriptionName,
    ) -> Result<Option<DeadLetterId>, PortError> {
        let (message, subscription) = (message.clone(), subscription.clone());
        self.ask("held-dead-letter", move |memory| {
            let kept = memory.kept();
            let found = kept.letters.iter().find(|l| {
                l.message.id == message && l.subscription == subscription && l.status == DeadLetterStatus::Held
            });
            found.map(|letter| letter.id.clone())
        })
        .await
    }

    async fn dead_letters(
        &self,
        _: &DeadLetterFilter,
        _: Option<&str>,
        _: usize,
    ) -> Result<Vec<DeadLetter>, PortError> {
        not_asked_for()
    }

    async fn dead_letter(&self, _: &str) -> Result<Option<DeadLetter>, PortError> {
        not_asked_for()
    }

    async fn set_dead_letter_status(&self, _: &str, _: DeadLetterStatus) -> Result<bool, PortError> {
        not_asked_for()
    }

    async fn remove_dead_letter(&self, _: &str) -> Result<bool, PortError> {
        not_asked_for()
    }

    async fn count_dead_letters(&self) -> Result<Vec<(SubscriptionName, u64)>, PortError> {
        self.ask("count-dead-letters", |_| Vec::new()).await
    }
}

#[async_trait]
impl Effects for SimState {
    async fn claim(
        &self,
        key: &EffectKey,
        owner: &Owner,
        message: &MessageId,
        subscription: &SubscriptionName,
        now_ms: TimestampMs,
    ) -> Result<Claim, PortError> {
        let key = key.clone();
        let effect = KeptEffect {
            owner: owner.clone(),
            state: EffectState::Claimed,
            message: message.clone(),
            subscription: subscription.clone(),
            claimed_at_ms: now_ms,
        };
        self.ask("claim", move |memory| memory.claim(&key, effect)).await
    }

    async fn advance(&self, key: &EffectKey, owner: &Owner, to: EffectState) -> Result<(), PortError> {
        let (key, owner) = (key.clone(), owner.clone());
        self.ask("advance", move |memory| memory.advance(&key, &owner, to)).await?
    }

    async fn release(&self, key: &EffectKey, owner: &Owner) -> Result<(), PortError> {
        let (key, owner) = (key.clone(), owner.clone());
        self.ask("release", move |memory| memory.release(&key, &owner)).await?
    }

    async fn effects_of(
        &self,
        _: &MessageId,
        _: &SubscriptionName,
    ) -> Result<Vec<(EffectKey, EffectState)>, PortError> {
        not_asked_for()
    }

    async fn resolve_unknown(&self, _: &MessageId, _: &SubscriptionName, _: bool) -> Result<u64, PortError> {
        not_asked_for()
    }

    async fn forget_effects_before(&self, before_ms: TimestampMs, max: usize) -> Result<u64, PortError> {
        self.ask("forget-effects", move |memory| memory.forget_effects(before_ms, max)).await
    }
}

#[async_trait]
impl Requests for SimState {
    async fn claim_request(&self, _: &str, _: RecordedRequest, _: TimestampMs) -> Result<RequestClaim, PortError> {
        not_asked_for()
    }

    async fn answer_request(&self, _: &str, _: Vec<u8>) -> Result<(), PortError> {
        not_asked_for()
    }

    async fn abandon_request(&self, _: &str) -> Result<(), PortError> {
        not_asked_for()
    }

    async fn forget_requests(&self, _: TimestampMs, _: usize) -> Result<u64, PortError> {
        self.ask("forget-requests", |_| 0).await
    }
}

#[async_trait]
impl Deployments for SimState {
    async fn record_deployment(&self, _: Deployment) -> Result<(), PortError> {
        not_asked_for()
    }

    async fn deployments(&self, _: &PluginName, _: usize) -> Result<Vec<Deployment>, PortError> {
        not_asked_for()
    }

    async fn live_deployments(&self) -> Result<Vec<Deployment>, PortError> {
        not_asked_for()
    }
}

fn not_asked_for<T>() -> Result<T, PortError> {
    Err(PortError::unsupported("not what a run asks of the state"))
}

/// The ways in which the ledger can say that a message ended.
pub(crate) fn is_end(step: Step) -> bool {
    matches!(step, Step::Acknowledged | Step::DeadLettered)
}
