//! Effects that happen once for their key: sending, then sent.
//!
//! The key is taken in the store and stands at `Sending` before the provider is called, and at `Sent` with the provider's id
//! after. Whoever finds it later knows what was done, or that nobody knows.
//!
//! Invariants
//! - In one process one task works on a key; others wait for its end and then look again.
//! - Handing over is a task of the I/O runtime: once begun, it goes to its end and is recorded, whether or not the guest
//!   lives to see it. [`Effects::drain`] waits for all of them.
//! - A key is given back only where nothing was done under it.
//!
//! Not here: what a key is made of ([`keys`]), what e-mail and publishing do (`email`, `pubsub`), the store (`ports::state`).

pub(crate) mod keys;
mod running;

use crate::call::on_io;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, FusedFuture as _};
use running::{Place, Running};
use sandpost_message::TimestampMs;
use sandpost_ports::clock::Clock;
use sandpost_ports::plugins::{Attempt, Identity, UnknownEffects};
use sandpost_ports::state::{Claim, EffectKey, EffectState, LedgerEntry, Owner, State, Step};
use sandpost_ports::{ErrorKind, PortError};
use sandpost_telemetry::events::interfaces as events;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// How long one hand-over may take by default before its outcome counts as unknown.
pub const EFFECT_TIMEOUT_MS: u64 = 30_000;

/// The longest that one call to the store may take before its answer counts as lost. A store answers in milliseconds when it
/// is well. Less where a hand-over itself may take less. Without a bound one lost answer would hold the key, and a stop, for
/// ever.
const STATE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a key is looked at again when it moved between two looks.
const LOOKS_MAX: usize = 4;

/// How often the note of a finished effect is tried before it is given up.
const NOTES_MAX: u32 = 3;

/// How long between two tries of a note.
const NOTE_PAUSE: Duration = Duration::from_millis(200);

/// The effects of one host.
pub struct Effects {
    state: Arc<dyn State>,
    clock: Arc<dyn Clock>,
    io: Handle,
    run_id: String,
    timeout: Duration,
    tasks: TaskTracker,
    running: Running,
    /// Counted over the run, so that each call has an owner of its own.
    calls: AtomicU64,
}

/// One effect to be done once.
pub(crate) struct Effect {
    /// What it is.
    pub(crate) key: EffectKey,
    /// `email` or `publish`.
    pub(crate) kind: &'static str,
    /// For the ledger: what it is, for a person.
    pub(crate) what: String,
    /// On whose behalf.
    pub(crate) attempt: Attempt,
    /// Who asked.
    pub(crate) identity: Identity,
    /// Whether doing it again under the same key does nothing.
    pub(crate) repeatable: bool,
    /// Until when the guest can wait.
    pub(crate) deadline_at_ms: TimestampMs,
}

/// What handing over came to.
pub(crate) enum Handed<E> {
    /// It happened; the provider's id.
    Done(String),
    /// It did not, for certain.
    Nothing(E),
    /// Nobody knows.
    Unknown(E),
}

/// How an effect ended, for the guest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended<E> {
    /// It happened now; the provider's id.
    Done(String),
    /// It had happened before; the id of then.
    Repeated(String),
    /// It did not happen.
    Nothing(E),
    /// Nobody knows whether it happened; the error where there is one.
    Unknown(Option<E>),
    /// It is not done again until an operator decided; why.
    Held(String),
}

impl Effects {
    /// For one run of a host. `run_id` tells this run from every other, on any machine.
    pub fn new(
        state: Arc<dyn State>,
        clock: Arc<dyn Clock>,
        io: Handle,
        run_id: impl Into<String>,
        timeout: Duration,
    ) -> Self {
        Self {
            state,
            clock,
            io,
            run_id: run_id.into(),
            timeout,
            tasks: TaskTracker::new(),
            running: Running::default(),
            calls: AtomicU64::new(0),
        }
    }

    /// Waits until no effect is at work. Called once guests have stopped; each hand-over is bounded by its timeout.
    pub async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// How many effects and notes are at work.
    pub fn at_work(&self) -> usize {
        self.tasks.len()
    }

    /// Does it, or says how it stands. `Err` where the store did not answer: nothing was done then.
    ///
    /// All of it is a task of its own: a guest that is ended does not cut it off.
    pub(crate) async fn once<E, F>(self: &Arc<Self>, effect: Effect, hand_over: F) -> Result<Ended<E>, PortError>
    where
        E: Send + 'static,
        F: FnOnce() -> BoxFuture<'static, Handed<E>> + Send + 'static,
    {
        let Some(place) = self.place(&effect).await else {
            // Somebody in this process is still at it, and records how it ends.
            return Ok(Ended::Unknown(None));
        };
        let this = self.clone();
        let span = events::effect_span(effect.kind);
        let task = async move {
            // Held to the end of the task, so that whoever waits finds the outcome recorded.
            let _place = place;
            this.to_its_end(&effect, hand_over).await
        }
        .instrument(span);
        // A panic of a driver is as good as a lost answer.
        self.detached(task).await.unwrap_or(Ok(Ended::Unknown(None)))
    }

    /// How long one hand-over may take before its outcome counts as unknown.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Runs something on the I/O runtime to its end, whatever becomes of the guest that waits for it. None where it
    /// panicked.
    pub(crate) async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.tasks.spawn_on(work, &self.io).await.ok()
    }

    /// Writes to the ledger, without anybody waiting.
    pub(crate) fn note(self: &Arc<Self>, entries: Vec<LedgerEntry>) {
        if entries.is_empty() {
            return;
        }
        let this = self.clone();
        self.tasks.spawn_on(async move { this.record(entries).await }, &self.io);
    }

    /// The key's place in this process, once nobody else has it; none where the deadline came first.
    async fn place(&self, effect: &Effect) -> Option<Place> {
        loop {
            let busy = match self.running.enter(&effect.key) {
                Ok(place) => return Some(place),
                Err(busy) => busy,
            };
            let deadline = self.clock.sleep_until(effect.deadline_at_ms);
            let waiting = async {
                tokio::select! {
                    biased;
                    () = busy.ended() => true,
                    () = deadline => false,
                }
            };
            if !on_io(&self.io, waiting).await {
                return None;
            }
        }
    }

    /// Takes the key, and hands over where it is ours.
    async fn to_its_end<E, F>(self: &Arc<Self>, effect: &Effect, hand_over: F) -> Result<Ended<E>, PortError>
    where
        E: Send + 'static,
        F: FnOnce() -> BoxFuture<'static, Handed<E>> + Send,
    {
        let owner = self.owner(&effect.attempt);
        for _ in 0..LOOKS_MAX {
            let now_ms = self.clock.now_ms();
            match self.begin(effect, &owner, now_ms).await? {
                Claim::Ours => return self.hand_over(effect, &owner, now_ms, hand_over()).await,
                Claim::Sent(id) => {
                    self.note(vec![effect.entry(Step::EffectRepeated, now_ms, Some(&id))]);
                    return Ok(Ended::Repeated(id));
                }
                Claim::Sending { owner: earlier } => {
                    let detail = if effect.repeatable {
                        "was being handed over when it was cut off; done again, the provider knows the key"
                    } else if effect.attempt.unknown_effects == UnknownEffects::SendAgain {
                        "was being handed over when it was cut off; done again, as the subscription says"
                    } else {
                        "was being handed over when it was cut off; held, as the subscription says"
                    };
                    self.unknown(effect, detail);
                    if !effect.repeatable && effect.attempt.unknown_effects == UnknownEffects::Hold {
                        let Effect { kind, what, .. } = effect;
                        return Ok(Ended::Held(format!("the outcome of an earlier {kind} is unknown: {what}")));
                    }
                    // Of two hosts that come here at once the store lets one release, and one take it.
                    match self.bounded(self.state.release(&effect.key, &earlier)).await {
                        Ok(()) => {}
                        Err(error) if error.kind == ErrorKind::Conflict => {}
                        Err(error) => return Err(not_begun(error)),
                    }
                }
            }
        }
        Err(PortError::new(ErrorKind::Unavailable, "another host works on the same effect"))
    }

    /// Takes the key, for a hand-over that comes right after.
    async fn begin(&self, effect: &Effect, owner: &Owner, now_ms: TimestampMs) -> Result<Claim, PortError> {
        let Effect { key, attempt: Attempt { message, subscription, .. }, .. } = effect;
        let begun = self.bounded(self.state.begin(key, owner, &message.id, subscription, now_ms)).await;
        let Err(error) = begun else { return begun };
        events::record_effect_error(&tracing::Span::current(), "state-unavailable");
        if matches!(error.kind, ErrorKind::Conflict | ErrorKind::Invalid | ErrorKind::Exceeded | ErrorKind::Unsupported)
        {
            // The store has answered, and the key is not ours.
            return Err(not_begun(error));
        }
        // Nothing was handed over. If the store moved the key and only its answer was lost, a later attempt would take it
        // for unknown; where the key is another's, releasing it changes nothing.
        let failed = vec![effect.entry(Step::EffectFailed, self.clock.now_ms(), Some("the store did not answer"))];
        let (_released, ()) = tokio::join!(self.bounded(self.state.release(key, owner)), self.record(failed));
        Err(not_begun(error))
    }

    async fn hand_over<E: Send + 'static>(
        self: &Arc<Self>,
        effect: &Effect,
        owner: &Owner,
        begun_at_ms: TimestampMs,
        work: BoxFuture<'static, Handed<E>>,
    ) -> Result<Ended<E>, PortError> {
        let span = tracing::Span::current();
        let begun = vec![
            effect.entry(Step::EffectClaimed, begun_at_ms, None),
            effect.entry(Step::EffectSending, begun_at_ms, None),
        ];
        // The key stands in the store; its history need not be there before the hand-over, nor before the note of its end.
        let mut begun = self.record(begun).boxed().fuse();
        let handing = tokio::time::timeout(self.timeout, work);
        tokio::pin!(handing);
        let handed = loop {
            tokio::select! {
                biased;
                () = &mut begun => {}
                handed = &mut handing => break handed,
            }
        };
        let begun = async {
            // A fused future is pending for ever once it was answered.
            if !begun.is_terminated() {
                begun.await;
            }
        };
        let now_ms = self.clock.now_ms();
        match handed {
            Ok(Handed::Done(id)) => {
                events::record_provider_id(&span, &id);
                let sent = vec![effect.entry(Step::EffectSent, now_ms, Some(&id))];
                // Handed over in this order, so that a store that takes them in turn keeps it.
                let ((), (), ()) = tokio::join!(biased; begun, self.note_sent(effect, owner, &id), self.record(sent));
                Ok(Ended::Done(id))
            }
            Ok(Handed::Nothing(error)) => {
                events::record_effect_error(&span, "not-done");
                let failed = vec![effect.entry(Step::EffectFailed, now_ms, None)];
                let ((), released, ()) = tokio::join!(
                    biased;
                    begun,
                    self.bounded(self.state.release(&effect.key, owner)),
                    self.record(failed)
                );
                if let Err(error) = released {
                    // It now looks as if it might have been done; the policy about unknown effects decides.
                    self.unknown(effect, &format!("nothing was done, but that could not be recorded: {error}"));
                }
                Ok(Ended::Nothing(error))
            }
            Ok(Handed::Unknown(error)) => {
                begun.await;
                events::record_effect_error(&span, "unknown-outcome");
                self.unknown(effect, "the service did not say whether it was done");
                Ok(Ended::Unknown(Some(error)))
            }
            Err(_) => {
                begun.await;
                events::record_effect_error(&span, "unknown-outcome");
                self.unknown(effect, "no answer within effect_timeout_ms");
                Ok(Ended::Unknown(None))
            }
        }
    }

    /// Records that it happened. This note is what keeps it from happening twice, so it is tried more than once.
    async fn note_sent(&self, effect: &Effect, owner: &Owner, id: &str) {
        for turn in 1.. {
            let noting = self.bounded(self.state.advance(&effect.key, owner, EffectState::Sent(id.to_owned())));
            let Err(error) = noting.await else { return };
            if turn >= NOTES_MAX || !error.is_transient() {
                let message = &effect.attempt.message;
                events::EffectUnrecorded {
                    plugin: effect.identity.plugin.as_str(),
                    message_id: message.id.as_str(),
                    trace_id: message.trace.trace_id(),
                    effect: effect.kind,
                    provider_id: id,
                    error: &error,
                }
                .emit();
                return;
            }
            tokio::time::sleep(NOTE_PAUSE).await;
        }
    }

    fn unknown(self: &Arc<Self>, effect: &Effect, detail: &str) {
        let message = &effect.attempt.message;
        events::EffectUnknown {
            plugin: effect.identity.plugin.as_str(),
            message_id: message.id.as_str(),
            trace_id: message.trace.trace_id(),
            effect: effect.kind,
            detail,
        }
        .emit();
        self.note(vec![effect.entry(Step::EffectUnknown, self.clock.now_ms(), Some(detail))]);
    }

    async fn record(&self, entries: Vec<LedgerEntry>) {
        let message_id = entries.first().map(|entry| entry.message_id.clone());
        if let (Err(error), Some(message_id)) = (self.bounded(self.state.record(entries)).await, message_id) {
            events::LedgerGap { message_id: message_id.as_str(), error: &error }.emit();
        }
    }

    /// A call to the store that ends. Polled inside the I/O runtime.
    async fn bounded<T>(&self, call: impl Future<Output = Result<T, PortError>>) -> Result<T, PortError> {
        let limit = STATE_TIMEOUT.min(self.timeout);
        let late = || PortError::new(ErrorKind::UnknownOutcome, format!("no answer within {} ms", limit.as_millis()));
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_elapsed| Err(late()))
    }

    /// A new one for each call: a late answer to an earlier try of the same attempt cannot be taken for this one's.
    fn owner(&self, attempt: &Attempt) -> Owner {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        format!("{}/{}/{}/{call}", self.run_id, attempt.message.id, attempt.attempt)
    }
}

impl Effect {
    /// A step of this effect.
    pub(crate) fn entry(&self, step: Step, at_ms: TimestampMs, detail: Option<&str>) -> LedgerEntry {
        let detail = detail.map_or_else(
            || format!("{} {}", self.kind, self.what),
            |detail| format!("{} {}: {detail}", self.kind, self.what),
        );
        entry(&self.attempt, &self.identity, step, at_ms, detail)
    }
}

/// The store did not take the key: nothing was done, and trying again may help.
fn not_begun(error: PortError) -> PortError {
    PortError::new(ErrorKind::Unavailable, "the host could not take the effect's key").because(error)
}

/// A step of an attempt, in the ledger's words.
pub(crate) fn entry(
    attempt: &Attempt,
    identity: &Identity,
    step: Step,
    at_ms: TimestampMs,
    detail: String,
) -> LedgerEntry {
    LedgerEntry {
        message_id: attempt.message.id.clone(),
        at_ms,
        step,
        subscription: Some(attempt.subscription.clone()),
        attempt: Some(attempt.attempt),
        plugin: Some(identity.plugin.clone()),
        version: Some(identity.version.clone()),
        digest: Some(identity.digest.clone()),
        trace_id: attempt.message.trace.trace_id(),
        detail: Some(detail),
    }
}

#[cfg(test)]
mod tests;
