//! `pubsub`: a plugin publishes, durably and once.
//!
//! Every message goes with a dedupe key: the plugin's own, or one of the message being handled and the place of the
//! call. A broker that deduplicates by it does the rest; over any other the effects ledger does.
//!
//! Not here: limits of a message (`message::limits`), the ledger of the published message (`ports::publisher`).

use crate::bindings::Error;
use crate::bindings::pubsub::{Host, Outgoing};
use crate::call::{Call, CallError, Entered, Scope, len, sum};
use crate::effects::{Effect, Ended, Handed, entry, keys};
use futures_util::future::FutureExt as _;
use futures_util::stream::{self, StreamExt as _};
use sandpost_message::{Message, Topic};
use sandpost_ports::broker::Published;
use sandpost_ports::plugins::Attempt;
use sandpost_ports::state::Step;
use sandpost_ports::{ErrorKind, PortError};
use sandpost_telemetry::events::interfaces as events;
use sandpost_telemetry::traces;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use tracing::Instrument as _;

const PUBSUB: &str = "pubsub";

/// How many calls of `publish` and `publish-many` one call of a plugin makes as fast as they are stored.
const PUBLISHES_UNPACED: u64 = 4;

/// From then on each begins at the next multiple of this, by the clock, so that what any number of calls publish so goes in one
/// commit. Whoever publishes one by one would else keep a commit under way all the time, and each commit of everybody else
/// waits for the rest of it. 100 publishes (`publishes_max`) take two seconds so. Measured with 4 and 10 ms and after 16 publishes
/// too: `docs/reliability.md`.
const PUBLISH_PACE_MS: u64 = 20;

impl Host for Call {
    async fn publish(&mut self, topic: String, message: Outgoing) -> wasmtime::Result<Result<String, Error>> {
        let entered = self.enter(PUBSUB, "publish", topic.len().saturating_add(size(&message)))?;
        let answer = match self.may_publish(&topic, 1) {
            Ok(topic) => self.publish_all(&topic, vec![message]).await.pop().unwrap_or_else(|| Err(lost().into())),
            Err(error) => Err(error),
        };
        self.count_publish(publish_outcome(&answer));
        self.leave(entered, answer.map(|published| published.id.to_string()), String::len)
    }

    async fn publish_many(
        &mut self,
        topic: String,
        messages: Vec<Outgoing>,
    ) -> wasmtime::Result<Vec<Result<String, Error>>> {
        let bytes = topic.len().saturating_add(sum(messages.iter().map(size)));
        let entered = self.enter(PUBSUB, "publish-many", bytes)?;
        let count = messages.len();
        let answers = match self.may_publish(&topic, count) {
            Ok(topic) => self.publish_all(&topic, messages).await,
            // The interface answers each message; what keeps all of them from going is told once.
            Err(error) => {
                self.report(&entered, &error);
                let word = error.word();
                (0..count).for_each(|_| self.count_publish(word));
                let error = Error::from(error);
                self.leave_as(entered, word, 0)?;
                return Ok(vec![Err(error); count]);
            }
        };
        self.leave_many(entered, answers)
    }
}

impl Call {
    /// The topic, if so many messages may be published to it.
    fn may_publish(&mut self, topic: &str, count: usize) -> Result<Topic, CallError> {
        let topic: Topic =
            topic.parse().map_err(|error: sandpost_message::NameError| CallError::invalid(error.to_string()))?;
        self.scope.grants().may_publish(&topic).map_err(CallError::Denied)?;
        let hops_max = self.scope.limits().hops_max;
        if let Some(Attempt { message, .. }) = &self.scope.attempt
            && u64::from(message.hops) >= hops_max
        {
            return Err(CallError::exceeded(format!(
                "handlers published {} messages in a row up to the one that is handled; at most {hops_max} (hops_max)",
                message.hops
            )));
        }
        let limit = self.scope.limits().publishes_max;
        let after = self.budget.publishes.saturating_add(count as u64);
        if after > limit {
            return Err(CallError::exceeded(format!("{after} messages published in one call; at most {limit}")));
        }
        self.budget.publishes = after;
        Ok(topic)
    }

    /// Waits until this call may go to the broker once more. A trial does not: nothing of it is stored.
    async fn pace(&mut self) {
        self.budget.publish_calls += 1;
        if self.budget.publish_calls <= PUBLISHES_UNPACED || self.scope.context.trial {
            return;
        }
        let clock = &self.scope.ports().clock;
        let next_ms = (clock.now_ms() / PUBLISH_PACE_MS + 1).saturating_mul(PUBLISH_PACE_MS);
        self.scope.on_io(clock.sleep_until(next_ms)).await;
    }

    /// One answer a message, in order. Paced.
    async fn publish_all(&mut self, topic: &Topic, outgoing: Vec<Outgoing>) -> Vec<Result<Published, CallError>> {
        self.pace().await;
        let scope = self.scope.clone();
        let mut answers: Vec<Option<Result<Published, CallError>>> = outgoing.iter().map(|_| None).collect();
        let mut ready = Vec::with_capacity(outgoing.len());
        for (index, outgoing) in outgoing.into_iter().enumerate() {
            let same = fingerprint(&outgoing);
            let place = self.budget.places.entry(topic.clone()).or_default().take(same);
            match scope.message(topic, outgoing, place) {
                Ok(message) => ready.push(((index, same, place), message)),
                Err(error) => {
                    self.budget.places.entry(topic.clone()).or_default().give_back(same, place);
                    answers[index] = Some(Err(error));
                }
            }
        }
        let (slots, messages): (Vec<_>, Vec<_>) = ready.into_iter().unzip();
        let published = if messages.is_empty() { Vec::new() } else { scope.publish(messages).await };
        for ((index, same, place), outcome) in slots.into_iter().zip(published) {
            if outcome.is_err() {
                self.budget.places.entry(topic.clone()).or_default().give_back(same, place);
            }
            answers[index] = Some(match outcome {
                Ok(published) => Ok(published),
                Err(Unpublished { error, held }) => {
                    self.held = held.or(self.held.take());
                    Err(error)
                }
            });
        }
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(lost().into()))).collect()
    }

    fn count_publish(&self, outcome: &'static str) {
        if !self.scope.context.trial {
            events::PublishEnded { outcome }.emit();
        }
    }

    fn leave_many(
        &mut self,
        entered: Entered,
        answers: Vec<Result<Published, CallError>>,
    ) -> wasmtime::Result<Vec<Result<String, Error>>> {
        let mut bytes: usize = 0;
        let mut outcome = "ok";
        let mut told = Vec::with_capacity(answers.len());
        for answer in answers {
            self.count_publish(publish_outcome(&answer));
            told.push(match answer {
                Ok(published) => {
                    bytes = bytes.saturating_add(published.id.as_str().len());
                    Ok(published.id.to_string())
                }
                Err(error) => {
                    self.report(&entered, &error);
                    outcome = error.word();
                    Err(Error::from(error))
                }
            });
        }
        self.leave_as(entered, outcome, bytes)?;
        Ok(told)
    }
}

/// Why a message was not published, or may not have been.
struct Unpublished {
    error: CallError,
    /// Set where the whole message has to be held for an operator.
    held: Option<String>,
}

impl From<PortError> for Unpublished {
    fn from(error: PortError) -> Self {
        Self { error: error.into(), held: None }
    }
}

impl Scope {
    /// The message as the broker gets it, with its dedupe key.
    fn message(&self, topic: &Topic, outgoing: Outgoing, place: u64) -> Result<Message, CallError> {
        let now_ms = self.ports().clock.now_ms();
        let mut message = Message::new(topic.clone(), outgoing.body, now_ms);
        if let Some(content_type) = outgoing.content_type {
            message.content_type = content_type;
        }
        message.attributes = outgoing.attributes;
        message.ordering_key = outgoing.ordering_key;
        message.not_before_ms = outgoing.delay.map_or(0, |delay_ms| now_ms.saturating_add(delay_ms));
        // As the plugin gave it, so that its limits are checked before it is hashed.
        message.dedupe_key = outgoing.dedupe_key;
        message.validate().map_err(|error| CallError::invalid(error.to_string()))?;
        message.dedupe_key = match (&message.dedupe_key, &self.attempt) {
            (Some(key), _) => Some(keys::given_publish(&self.context.identity.plugin, topic, key)),
            (None, Some(attempt)) => Some(keys::publish(attempt, topic, place)),
            (None, None) => None,
        };
        if let Some(attempt) = &self.attempt {
            message.trace = attempt.message.trace.child();
            message.hops = attempt.message.hops.saturating_add(1);
        }
        Ok(message)
    }

    /// Publishes messages that are valid; one answer a message, in order.
    async fn publish(self: &Arc<Self>, messages: Vec<Message>) -> Vec<Result<Published, Unpublished>> {
        let Some(attempt) = &self.attempt else {
            let work = self.ports().publisher.publish(messages, Step::Accepted, None);
            return self.on_io(work).await.into_iter().map(|answer| answer.map_err(Unpublished::from)).collect();
        };
        if self.ports().broker.deduplicates() {
            return self.publish_batch(attempt, messages).await;
        }
        // Side by side only where nobody minds the order.
        let ordered = messages.iter().any(|message| message.ordering_key.is_some());
        let parallel = if ordered { 1 } else { self.limits().effects_parallel.max(1) };
        let each = messages.into_iter().map(|message| self.clone().publish_once(attempt.clone(), message));
        stream::iter(each).buffered(parallel).collect().await
    }

    /// To a broker that knows dedupe keys: all in one call, which goes to its end whatever becomes of the guest.
    async fn publish_batch(
        &self,
        attempt: &Attempt,
        mut messages: Vec<Message>,
    ) -> Vec<Result<Published, Unpublished>> {
        let count = messages.len();
        let effects = self.ports().effects.clone();
        let publisher = self.ports().publisher.clone();
        let clock = self.ports().clock.clone();
        let identity = self.context.identity.clone();
        let (attempt, detail) = (attempt.clone(), self.published_by());
        let span = events::effect_span("publish");
        let work = async move {
            let span = tracing::Span::current();
            goes_on(&span, &mut messages);
            let topics: Vec<Topic> = messages.iter().map(|message| message.topic.clone()).collect();
            let publishing = publisher.publish(messages, Step::Accepted, detail.as_deref());
            let answers = match tokio::time::timeout(effects.timeout(), publishing).await {
                Ok(answers) => answers,
                Err(_) => (0..count).map(|_| Err(lost())).collect(),
            };
            if let [Ok(Published { id, .. })] = &*answers {
                events::record_provider_id(&span, id.as_str());
            }
            if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
                events::record_effect_error(&span, error.kind.word());
            }
            let now_ms = clock.now_ms();
            let steps = topics.iter().zip(&answers).map(|(topic, answer)| {
                let (step, text) = match answer {
                    Ok(Published { id, duplicate: false }) => (Step::EffectSent, id.to_string()),
                    Ok(Published { id, duplicate: true }) => (Step::EffectRepeated, id.to_string()),
                    Err(error) if error.kind == ErrorKind::UnknownOutcome => (Step::EffectUnknown, error.to_string()),
                    Err(error) => (Step::EffectFailed, error.to_string()),
                };
                entry(&attempt, &identity, step, now_ms, format!("publish to {topic}: {text}"))
            });
            effects.note(steps.collect());
            answers
        }
        .instrument(span);
        let answers = self.ports().effects.detached(work).await;
        let answers = answers.unwrap_or_else(|| (0..count).map(|_| Err(lost())).collect());
        answers.into_iter().map(|answer| answer.map_err(Unpublished::from)).collect()
    }

    /// To any other broker: once by the effects ledger.
    async fn publish_once(self: Arc<Self>, attempt: Attempt, message: Message) -> Result<Published, Unpublished> {
        let effect = Effect {
            // Given by `message` to every message inside of an attempt.
            key: message.dedupe_key.clone().unwrap_or_default(),
            kind: "publish",
            what: format!("to {}", message.topic),
            attempt,
            identity: self.context.identity.clone(),
            repeatable: false,
            deadline_at_ms: self.deadline_at_ms,
        };
        let publisher = self.ports().publisher.clone();
        let detail = self.published_by();
        let hand_over = move || {
            async move {
                let mut messages = vec![message];
                goes_on(&tracing::Span::current(), &mut messages);
                let mut answers = publisher.publish(messages, Step::Accepted, detail.as_deref()).await;
                match answers.pop().unwrap_or_else(|| Err(lost())) {
                    Ok(published) => Handed::Done(published.id.to_string()),
                    Err(error) if error.kind == ErrorKind::UnknownOutcome => Handed::Unknown(error),
                    Err(error) => Handed::Nothing(error),
                }
            }
            .boxed()
        };
        let published = |id: String, duplicate| {
            let id = id.parse().map_err(|_| PortError::new(ErrorKind::Other, "the broker's id is no message id"))?;
            Ok(Published { id, duplicate })
        };
        match self.ports().effects.once(effect, hand_over).await? {
            Ended::Done(id) => published(id, false),
            Ended::Repeated(id) => published(id, true),
            Ended::Nothing(error) => Err(error.into()),
            Ended::Unknown(error) => Err(error.unwrap_or_else(lost).into()),
            Ended::Held(reason) => Err(Unpublished {
                error: PortError::new(ErrorKind::UnknownOutcome, reason.clone()).into(),
                held: Some(reason),
            }),
        }
    }

    /// What the ledger of a published message says of where it came from.
    fn published_by(&self) -> Option<String> {
        let attempt = self.attempt.as_ref()?;
        Some(format!("published by {} handling {}", self.context.identity.plugin, attempt.message.id))
    }
}

/// What comes of the messages later goes on where they were published.
fn goes_on(span: &tracing::Span, messages: &mut [Message]) {
    if let Some(first) = messages.first() {
        events::record_destination(span, &first.topic, messages.len());
    }
    if let Some(position) = traces::position(span) {
        for message in messages {
            message.trace = position;
        }
    }
}

/// What is said where no answer came.
fn lost() -> PortError {
    PortError::new(ErrorKind::UnknownOutcome, "no answer came; it may or may not have been published")
}

/// The word in metrics.
fn publish_outcome(answer: &Result<Published, CallError>) -> &'static str {
    match answer {
        Ok(Published { duplicate: false, .. }) => "stored",
        Ok(Published { duplicate: true, .. }) => "repeated",
        Err(error) => error.word(),
    }
}

/// Tells one message of a call from another; means nothing outside of it.
fn fingerprint(outgoing: &Outgoing) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Outgoing { body, content_type, attributes, ordering_key, dedupe_key, delay } = outgoing;
    (body, content_type, attributes, ordering_key, dedupe_key, delay).hash(&mut hasher);
    hasher.finish()
}

fn size(outgoing: &Outgoing) -> usize {
    let attributes = sum(outgoing.attributes.iter().map(|(name, value)| name.len().saturating_add(value.len())));
    sum([
        outgoing.body.len(),
        attributes,
        len(outgoing.content_type.as_ref()),
        len(outgoing.ordering_key.as_ref()),
        len(outgoing.dedupe_key.as_ref()),
    ])
}
