//! The ledger: what happened to a message, step by step. Written in batches, read by an operator.

use crate::PortError;
use sandpost_message::{Digest, Message, MessageId, PluginName, SubscriptionName, TimestampMs};

/// Where the steps are kept.
#[async_trait::async_trait]
pub trait Ledger: Send + Sync {
    /// Appends, in order.
    async fn record(&self, entries: Vec<LedgerEntry>) -> Result<(), PortError>;

    /// All steps of one message, in the order in which they were recorded.
    async fn history(&self, message: &MessageId) -> Result<Vec<LedgerEntry>, PortError>;

    /// Forgets entries older than this, at most `max` of them; how many.
    async fn forget_before(&self, before_ms: TimestampMs, max: usize) -> Result<u64, PortError>;
}

/// One step of one message.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LedgerEntry {
    /// Whose step.
    pub message_id: MessageId,
    /// When.
    pub at_ms: TimestampMs,
    /// What happened.
    pub step: Step,
    /// On which subscription; none for steps of the message as a whole.
    pub subscription: Option<SubscriptionName>,
    /// In which attempt, from 1; none before the first.
    pub attempt: Option<u32>,
    /// Which plugin was at work.
    pub plugin: Option<PluginName>,
    /// Its version.
    pub version: Option<String>,
    /// Its artifact.
    pub digest: Option<Digest>,
    /// The trace that all steps of one message share.
    pub trace_id: String,
    /// More in words: a reason, a provider's id, a time.
    pub detail: Option<String>,
}

impl LedgerEntry {
    /// A step of a message as a whole.
    pub fn of(message: &Message, step: Step, at_ms: TimestampMs, detail: Option<&str>) -> Self {
        Self {
            message_id: message.id.clone(),
            at_ms,
            step,
            subscription: message.only.clone(),
            attempt: None,
            plugin: None,
            version: None,
            digest: None,
            trace_id: message.trace.trace_id(),
            detail: detail.map(str::to_owned),
        }
    }
}

/// What can happen to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Stored durably.
    Accepted,
    /// Published again with a known key; nothing was stored.
    Deduplicated,
    /// Handed to a plugin.
    Started,
    /// The handler said `ok`: the end.
    Acknowledged,
    /// Held for another attempt; the detail says why and until when.
    RetryPlanned,
    /// Given back untried, because the host stopped or no handler is live.
    HandedBack,
    /// Kept as a dead letter; the detail says why.
    DeadLettered,
    /// A dead letter went back to its subscription.
    Replayed,
    /// A dead letter was deleted by an operator.
    Discarded,
    /// An effect's key is ours; nothing was handed over yet.
    EffectClaimed,
    /// The effect is being handed over.
    EffectSending,
    /// The effect happened; the detail is the provider's id.
    EffectSent,
    /// The effect had happened before; nothing was done now.
    EffectRepeated,
    /// The effect did not happen; the detail says why.
    EffectFailed,
    /// Nobody knows whether the effect happened.
    EffectUnknown,
}

impl Step {
    /// Where it stands among steps of one millisecond: a message is accepted before it is tried, and an attempt's end
    /// comes after what happened in it, in whatever order the store learned of them.
    pub fn rank(self) -> u8 {
        match self {
            Self::Accepted | Self::Deduplicated | Self::Replayed => 0,
            Self::Started => 1,
            Self::EffectClaimed => 2,
            Self::EffectSending => 3,
            Self::EffectSent | Self::EffectRepeated | Self::EffectFailed | Self::EffectUnknown => 4,
            Self::Acknowledged | Self::RetryPlanned | Self::HandedBack | Self::DeadLettered | Self::Discarded => 5,
        }
    }

    /// The word in the API and in stores. Never renamed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Deduplicated => "deduplicated",
            Self::Started => "started",
            Self::Acknowledged => "acknowledged",
            Self::RetryPlanned => "retry-planned",
            Self::HandedBack => "handed-back",
            Self::DeadLettered => "dead-lettered",
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
            Self::EffectClaimed => "effect-claimed",
            Self::EffectSending => "effect-sending",
            Self::EffectSent => "effect-sent",
            Self::EffectRepeated => "effect-repeated",
            Self::EffectFailed => "effect-failed",
            Self::EffectUnknown => "effect-unknown",
        }
    }
}

/// How much of a message's way the ledger keeps. The store applies it, in [`Ledger::record`], because every writer goes
/// through there; nothing but what an operator can read depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// Every step.
    #[default]
    All,
    /// The steps that departed from the straight way: retries, hand-backs, dead letters and what became of them, effects
    /// that failed or are unknown.
    Failures,
    /// None.
    Nothing,
}

impl Keep {
    /// Whether a step is kept.
    pub fn admits(self, step: Step) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Failures => match step {
                Step::RetryPlanned
                | Step::HandedBack
                | Step::DeadLettered
                | Step::Replayed
                | Step::Discarded
                | Step::EffectFailed
                | Step::EffectUnknown => true,
                Step::Accepted
                | Step::Deduplicated
                | Step::Started
                | Step::Acknowledged
                | Step::EffectClaimed
                | Step::EffectSending
                | Step::EffectSent
                | Step::EffectRepeated => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_leave_out_the_straight_way_and_keep_what_an_operator_must_see() {
        for straight in [Step::Accepted, Step::Started, Step::EffectSent, Step::Acknowledged] {
            assert!(Keep::All.admits(straight));
            assert!(!Keep::Failures.admits(straight), "{straight:?}");
        }
        for failure in [Step::RetryPlanned, Step::DeadLettered, Step::EffectUnknown, Step::Discarded] {
            assert!(Keep::Failures.admits(failure), "{failure:?}");
            assert!(!Keep::Nothing.admits(failure));
        }
    }
}
