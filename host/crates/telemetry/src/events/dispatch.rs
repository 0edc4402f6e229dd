//! What `dispatch` reports: deliveries and their ends, the broker's failures as dispatch meets them, stop, housekeeping.
//!
//! Metrics
//! - `sandpost_deliveries_total{topic,subscription,outcome}`: one a settled delivery. The sum over the outcomes is what was
//!   pulled, but for what is at work (`sandpost_in_flight`) and what was never settled: so pulls have no count of their own.
//! - `sandpost_message_seconds{subscription,outcome}`: from publish to the end, for messages that ended.
//! - `sandpost_dead_letters_total{subscription,cause}`; gauge `sandpost_dead_letters{subscription}`.
//! - Gauges `sandpost_in_flight{subscription}`, `sandpost_backlog{subscription,state}`,
//!   `sandpost_backlog_oldest_seconds{subscription}`.
//! - `sandpost_settle_failures_total{subscription,kind}`, `sandpost_pull_failures_total{subscription,kind}`,
//!   `sandpost_dispatch_state_failures_total{operation,kind}`.

use crate::traces::say;
use metrics::{counter, gauge, histogram};
use sandpost_message::{Digest, MessageId, Outcome, PluginName, SubscriptionName, Topic, TraceParent, Verdict};
use std::error::Error;
use std::fmt;
use std::time::Duration;
use tracing::{Span, debug, debug_span, error, error_span, info, warn};

/// The part of the host that a line names.
const TARGET: &str = "sandpost_dispatch";

/// The span around one attempt. Every line inside carries its fields, those of the plugin too; `version` is filled in
/// by [`record_version`] once the handler is known. At the highest level, so that no filter takes the fields away.
pub fn attempt_span(
    message_id: &MessageId,
    subscription: &SubscriptionName,
    plugin: &PluginName,
    attempt: u32,
    trace: &TraceParent,
    topic: &Topic,
) -> Span {
    error_span!(
        target: TARGET, "attempt",
        %message_id, %subscription, %plugin, version = tracing::field::Empty, attempt, trace_id = trace.trace_id(),
        otel.parent = %trace, otel.topic = %topic, otel.outcome = tracing::field::Empty, otel.error = tracing::field::Empty
    )
}

/// Says in the attempt's span how it ended.
pub fn record_outcome(span: &Span, outcome: &Outcome) {
    let (word, failed) = match outcome {
        Outcome::Verdict(Verdict::Ack) => ("ack", false),
        Outcome::Verdict(Verdict::Retry { .. }) => ("retry", true),
        Outcome::Verdict(Verdict::Reject { .. }) => ("reject", true),
        Outcome::Fault(fault) => (fault.kind.word(), true),
        Outcome::Held { .. } => ("held", true),
        Outcome::Postponed { .. } => ("postponed", true),
    };
    say(span, "otel.outcome", word);
    if failed {
        say(span, "otel.error", word);
    }
}

/// The span in which a delivery is settled: the last of an attempt's, and of the message's way where it ends there.
pub fn settle_span(outcome: DeliveryOutcome) -> Span {
    debug_span!(target: TARGET, "settle", outcome = outcome.word(), otel.error = tracing::field::Empty)
}

/// Says in the settlement's span why the broker did not take it.
pub fn record_unsettled(span: &Span, kind: &'static str) {
    say(span, "otel.error", kind);
}

/// Says in the span which version is at work.
pub fn record_version(span: &Span, version: &str) {
    span.record("version", version);
}

/// What a delivery came to. A closed list, for labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryOutcome {
    /// Acknowledged: the end.
    Ack,
    /// Held for another attempt.
    Retry,
    /// Kept as a dead letter: the end.
    DeadLetter,
    /// Given back without being counted as an attempt.
    HandBack,
}

impl DeliveryOutcome {
    /// The label. Never renamed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Retry => "retry",
            Self::DeadLetter => "dead-letter",
            Self::HandBack => "hand-back",
        }
    }

    fn ends_the_message(self) -> bool {
        match self {
            Self::Ack | Self::DeadLetter => true,
            Self::Retry | Self::HandBack => false,
        }
    }
}

/// A delivery is settled.
#[derive(Debug)]
pub struct Settled<'a> {
    /// Where the message was published.
    pub topic: &'a Topic,
    /// Where it was delivered.
    pub subscription: &'a SubscriptionName,
    /// Which message.
    pub message_id: &'a MessageId,
    /// Which attempt.
    pub attempt: u32,
    /// What came of it.
    pub outcome: DeliveryOutcome,
    /// Since it could first be delivered.
    pub age: Duration,
}

impl Settled<'_> {
    /// Debug line, count, and the message's whole time where it ended.
    pub fn emit(self) {
        let Self { topic, subscription, message_id, attempt, outcome, age } = self;
        let outcome_word = outcome.word();
        debug!(
            target: TARGET, %topic, %subscription, %message_id, attempt,
            outcome = outcome_word, age_ms = millis(age), "A delivery is settled."
        );
        counter!(
            "sandpost_deliveries_total",
            "topic" => topic.as_str().to_owned(),
            "subscription" => subscription.as_str().to_owned(),
            "outcome" => outcome_word,
        )
        .increment(1);
        if outcome.ends_the_message() {
            histogram!(
                "sandpost_message_seconds",
                "subscription" => subscription.as_str().to_owned(),
                "outcome" => outcome_word,
            )
            .record(age.as_secs_f64());
        }
    }
}

/// An attempt ended without success, and another will follow.
#[derive(Debug)]
pub struct RetryPlanned<'a> {
    /// Where.
    pub subscription: &'a SubscriptionName,
    /// Which message.
    pub message_id: &'a MessageId,
    /// The attempt that ended.
    pub attempt: u32,
    /// Until the next one, in milliseconds.
    pub wait_ms: u64,
    /// The plugin's reason, or the fault.
    pub reason: &'a str,
}

impl RetryPlanned<'_> {
    /// A line; the count is with [`Settled`].
    pub fn emit(self) {
        let Self { subscription, message_id, attempt, wait_ms, reason } = self;
        warn!(target: TARGET, %subscription, %message_id, attempt, wait_ms, reason, "The message will be tried again.");
    }
}

/// A message ended without an acknowledgement.
#[derive(Debug)]
pub struct DeadLettered<'a> {
    /// Where.
    pub subscription: &'a SubscriptionName,
    /// Which message.
    pub message_id: &'a MessageId,
    /// Its trace.
    pub trace_id: &'a str,
    /// The plugin that was bound.
    pub plugin: &'a PluginName,
    /// The version that tried last, if one did.
    pub version: Option<&'a str>,
    /// Its artifact.
    pub digest: Option<&'a Digest>,
    /// The stable word.
    pub cause: &'static str,
    /// In words.
    pub reason: &'a str,
    /// How often it was tried.
    pub attempts: u32,
    /// Whether the plugin asked for it. If not, something is wrong that a person has to see to.
    pub wanted: bool,
}

impl DeadLettered<'_> {
    /// A line, a warning where the plugin rejected the message and an error otherwise; and a count.
    pub fn emit(self) {
        let Self { subscription, message_id, trace_id, plugin, version, digest, cause, reason, attempts, wanted } =
            self;
        let digest = digest.map(Digest::short);
        if wanted {
            warn!(
                target: TARGET, %subscription, %message_id, trace_id, %plugin, version, digest, cause, attempts, reason,
                "The plugin rejected the message; it is a dead letter."
            );
        } else {
            error!(
                target: TARGET, %subscription, %message_id, trace_id, %plugin, version, digest, cause, attempts, reason,
                "The message could not be handled; it is a dead letter."
            );
        }
        counter!(
            "sandpost_dead_letters_total",
            "subscription" => subscription.as_str().to_owned(),
            "cause" => cause,
        )
        .increment(1);
    }
}

/// A delivery went back without being counted.
#[derive(Debug)]
pub struct HandedBack<'a> {
    /// Where.
    pub subscription: &'a SubscriptionName,
    /// Which message.
    pub message_id: &'a MessageId,
    /// Why.
    pub reason: &'a str,
}

impl HandedBack<'_> {
    /// A line; the count is with [`Settled`].
    pub fn emit(self) {
        let Self { subscription, message_id, reason } = self;
        debug!(target: TARGET, %subscription, %message_id, reason, "The delivery was handed back.");
    }
}

/// The broker did not take a settlement.
#[derive(Debug)]
pub struct SettleFailed<'a> {
    /// Where.
    pub subscription: &'a SubscriptionName,
    /// Which message.
    pub message_id: &'a MessageId,
    /// Whether it is not tried again: the broker will redeliver.
    pub given_up: bool,
    /// The error's kind, as a word.
    pub kind: &'static str,
    /// The error.
    pub error: &'a dyn Error,
}

impl SettleFailed<'_> {
    /// A line and a count.
    pub fn emit(self) {
        let Self { subscription, message_id, given_up, kind, error } = self;
        let error = Chain(error);
        if given_up {
            warn!(
                target: TARGET, %subscription, %message_id, kind, %error,
                "Settling failed; the broker will redeliver."
            );
        } else {
            debug!(target: TARGET, %subscription, %message_id, kind, %error, "Settling failed; it is tried again.");
        }
        counter!(
            "sandpost_settle_failures_total",
            "subscription" => subscription.as_str().to_owned(),
            "kind" => kind,
        )
        .increment(1);
    }
}

/// The broker did not open a subscription, or answered a pull with an error.
#[derive(Debug)]
pub struct PullFailed<'a> {
    /// Where.
    pub subscription: &'a SubscriptionName,
    /// Until the next try, in milliseconds.
    pub wait_ms: u64,
    /// The error's kind, as a word.
    pub kind: &'static str,
    /// The error.
    pub error: &'a dyn Error,
}

impl PullFailed<'_> {
    /// A line and a count.
    pub fn emit(self) {
        let Self { subscription, wait_ms, kind, error } = self;
        let error = Chain(error);
        warn!(target: TARGET, %subscription, wait_ms, kind, %error, "Pulling failed; it is tried again.");
        counter!(
            "sandpost_pull_failures_total",
            "subscription" => subscription.as_str().to_owned(),
            "kind" => kind,
        )
        .increment(1);
    }
}

/// The state did not do what dispatch needed of it.
#[derive(Debug)]
pub struct StateFailed<'a> {
    /// What was asked: a closed list of words.
    pub operation: &'static str,
    /// The error's kind, as a word.
    pub kind: &'static str,
    /// The error.
    pub error: &'a dyn Error,
}

impl StateFailed<'_> {
    /// A line and a count.
    pub fn emit(self) {
        let Self { operation, kind, error } = self;
        let error = Chain(error);
        warn!(target: TARGET, operation, kind, %error, "The state did not answer as it should.");
        counter!("sandpost_dispatch_state_failures_total", "operation" => operation, "kind" => kind).increment(1);
    }
}

/// Whether a subscription has somebody to handle its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandlerPresence {
    /// One is live again.
    Live,
    /// None is; messages wait, at most this long in milliseconds.
    Awaited {
        /// The grace.
        grace_ms: u64,
    },
    /// None came within the grace: messages become dead letters.
    Missing,
}

/// A subscription's plugin came or went.
#[derive(Debug)]
pub struct HandlerChanged<'a> {
    /// Where.
    pub subscription: &'a SubscriptionName,
    /// Which plugin is bound.
    pub plugin: &'a PluginName,
    /// What is the case now.
    pub presence: HandlerPresence,
}

impl HandlerChanged<'_> {
    /// A line.
    pub fn emit(self) {
        let Self { subscription, plugin, presence } = self;
        match presence {
            HandlerPresence::Live => {
                info!(target: TARGET, %subscription, %plugin, "A handler is live; messages are handled again.");
            }
            HandlerPresence::Awaited { grace_ms } => {
                warn!(target: TARGET, %subscription, %plugin, grace_ms, "No handler is live; messages wait for one.");
            }
            HandlerPresence::Missing => {
                error!(
                    target: TARGET, %subscription, %plugin,
                    "No handler came within the grace; messages become dead letters."
                );
            }
        }
    }
}

/// Dispatch began to stop.
#[derive(Debug)]
pub struct StopBegun {
    /// Deliveries at work.
    pub in_flight: u64,
    /// How long they have.
    pub grace: Duration,
}

impl StopBegun {
    /// A line.
    pub fn emit(self) {
        let Self { in_flight, grace } = self;
        info!(target: TARGET, in_flight, grace_ms = millis(grace), "Stopping: nothing new is pulled.");
    }
}

/// Dispatch stopped.
#[derive(Debug)]
pub struct StopEnded {
    /// Ended on their own.
    pub finished: u64,
    /// Given back.
    pub handed_back: u64,
    /// Left to the broker's redelivery.
    pub unsettled: u64,
}

impl StopEnded {
    /// A line.
    pub fn emit(self) {
        let Self { finished, handed_back, unsettled } = self;
        info!(target: TARGET, finished, handed_back, unsettled, "Stopped: nothing is in flight.");
    }
}

/// What a subscription has to do, at one moment.
#[derive(Debug)]
pub struct Backlog<'a> {
    /// Where.
    pub subscription: &'a SubscriptionName,
    /// Deliverable now.
    pub ready: u64,
    /// Leased, by any host.
    pub leased: u64,
    /// Held until a time or behind an ordering key.
    pub held: u64,
    /// Age of the oldest unsettled message.
    pub oldest: Duration,
}

impl Backlog<'_> {
    /// Gauges alone.
    pub fn emit(self) {
        let Self { subscription, ready, leased, held, oldest } = self;
        for (state, count) in [("ready", ready), ("in-flight", leased), ("held", held)] {
            let name = subscription.as_str().to_owned();
            gauge!("sandpost_backlog", "subscription" => name, "state" => state).set(number(count));
        }
        gauge!("sandpost_backlog_oldest_seconds", "subscription" => subscription.as_str().to_owned())
            .set(oldest.as_secs_f64());
    }
}

/// How many of a subscription's deliveries are at work in this host.
#[derive(Debug)]
pub struct InFlight<'a> {
    /// Where.
    pub subscription: &'a SubscriptionName,
    /// How many.
    pub count: u64,
}

impl InFlight<'_> {
    /// A gauge alone.
    pub fn emit(self) {
        gauge!("sandpost_in_flight", "subscription" => self.subscription.as_str().to_owned()).set(number(self.count));
    }
}

/// How many dead letters a subscription has.
#[derive(Debug)]
pub struct DeadLetterCount<'a> {
    /// Where.
    pub subscription: &'a SubscriptionName,
    /// How many.
    pub count: u64,
}

impl DeadLetterCount<'_> {
    /// A gauge alone.
    pub fn emit(self) {
        gauge!("sandpost_dead_letters", "subscription" => self.subscription.as_str().to_owned())
            .set(number(self.count));
    }
}

/// Old records were forgotten.
#[derive(Debug)]
pub struct Housekept {
    /// Ledger entries.
    pub ledger: u64,
    /// Effects.
    pub effects: u64,
    /// Publishers' requests.
    pub requests: u64,
}

impl Housekept {
    /// A line.
    pub fn emit(self) {
        let Self { ledger, effects, requests } = self;
        debug!(target: TARGET, ledger, effects, requests, "Old records were forgotten.");
    }
}

/// An error with what caused it, on one line.
struct Chain<'a>(&'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float; counts over 2^53 do not occur")]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics_exporter_prometheus::PrometheusBuilder;

    /// What Prometheus would read after these events.
    fn rendered(events: impl FnOnce()) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, events);
        handle.render()
    }

    #[test]
    fn the_time_of_a_message_is_counted_once_at_its_end() {
        let (topic, subscription) = ("orders".parse().unwrap(), "order-mails".parse().unwrap());
        let message_id = MessageId::new();
        let text = rendered(|| {
            for (attempt, outcome) in
                [(1, DeliveryOutcome::HandBack), (1, DeliveryOutcome::Retry), (2, DeliveryOutcome::Ack)]
            {
                let age = Duration::from_secs(3);
                Settled { topic: &topic, subscription: &subscription, message_id: &message_id, attempt, outcome, age }
                    .emit();
            }
        });
        let line = |name: &str, outcome: &str| {
            text.lines()
                .find(|line| line.starts_with(name) && line.contains(&format!("outcome=\"{outcome}\"")))
                .map(str::to_owned)
        };
        for outcome in ["hand-back", "retry", "ack"] {
            assert!(line("sandpost_deliveries_total{", outcome).unwrap().ends_with(" 1"), "{text}");
        }
        assert!(line("sandpost_message_seconds_sum", "ack").unwrap().ends_with(" 3"), "{text}");
        assert_eq!(line("sandpost_message_seconds", "retry"), None);
        assert!(!text.contains(message_id.as_str()), "ids are no labels");
    }

    #[test]
    fn dead_letters_are_counted_by_cause_and_gauged_by_subscription() {
        let subscription: SubscriptionName = "order-mails".parse().unwrap();
        let text = rendered(|| {
            DeadLettered {
                subscription: &subscription,
                message_id: &MessageId::new(),
                trace_id: "0af7651916cd43dd8448eb211c80319c",
                plugin: &"mails".parse().unwrap(),
                version: None,
                digest: None,
                cause: "no-handler",
                reason: "nobody",
                attempts: 0,
                wanted: false,
            }
            .emit();
            DeadLetterCount { subscription: &subscription, count: 7 }.emit();
        });
        assert!(
            text.contains("sandpost_dead_letters_total{subscription=\"order-mails\",cause=\"no-handler\"} 1"),
            "{text}"
        );
        assert!(text.contains("sandpost_dead_letters{subscription=\"order-mails\"} 7"), "{text}");
    }

    #[test]
    fn an_error_is_one_line_with_what_caused_it() {
        #[derive(Debug, thiserror::Error)]
        #[error("settling failed")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("disk full"));
        assert_eq!(Chain(&error).to_string(), "settling failed: disk full");
    }
}
