//! Dead letters: messages that ended without an acknowledgement, with all that is needed to judge and replay them.

use crate::PortError;
use sandpost_message::{Digest, Message, MessageId, PluginName, SubscriptionName, TimestampMs, Topic};

/// A dead letter's name in the API: a UUID, later ones sort later.
pub type DeadLetterId = String;

/// Where they are kept.
#[async_trait::async_trait]
pub trait DeadLetters: Send + Sync {
    /// Keeps one. Of two for one message and subscription the first stays while it is [`DeadLetterStatus::Held`]: a
    /// delivery that comes again after its dead letter was kept changes nothing. One that is
    /// [`DeadLetterStatus::Replaying`] gives way, id and all, in one step: the replay failed, and whoever replayed goes
    /// on to remove the old id, which must not remove the new letter.
    async fn add_dead_letter(&self, letter: DeadLetter) -> Result<(), PortError>;

    /// The held dead letter of this message on this subscription. Asked before a redelivery is tried.
    async fn held_dead_letter(
        &self,
        message: &MessageId,
        subscription: &SubscriptionName,
    ) -> Result<Option<DeadLetterId>, PortError>;

    /// Newest first, without bodies cut; at most `limit`, older than `before` where that is given.
    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, PortError>;

    /// One of them.
    async fn dead_letter(&self, id: &str) -> Result<Option<DeadLetter>, PortError>;

    /// Changes the status; whether it was there.
    async fn set_dead_letter_status(&self, id: &str, status: DeadLetterStatus) -> Result<bool, PortError>;

    /// Deletes one; whether it was there.
    async fn remove_dead_letter(&self, id: &str) -> Result<bool, PortError>;

    /// How many there are, by subscription.
    async fn count_dead_letters(&self) -> Result<Vec<(SubscriptionName, u64)>, PortError>;
}

/// A message that ended without an acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeadLetter {
    /// Its own name.
    pub id: DeadLetterId,
    /// The message, whole.
    pub message: Message,
    /// Where it was being handled.
    pub subscription: SubscriptionName,
    /// When it ended.
    pub dead_at_ms: TimestampMs,
    /// A stable word: `rejected`, `attempts-exhausted`, `no-handler`, `outcome-unknown`.
    pub cause: String,
    /// The last attempt's reason, in words.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// The plugin that was bound.
    pub plugin: PluginName,
    /// The version that tried last; none where no handler was live.
    pub version: Option<String>,
    /// Its artifact.
    pub digest: Option<Digest>,
    /// The message's trace.
    pub trace_id: String,
    /// Whether it is held, or on its way back.
    pub status: DeadLetterStatus,
}

/// Where a dead letter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeadLetterStatus {
    /// Kept; a redelivery of its message is settled without being tried.
    Held,
    /// Being replayed: its message may be tried again. Replaying it once more is safe.
    Replaying,
}

/// Which dead letters. An empty filter is all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Of this subscription.
    pub subscription: Option<SubscriptionName>,
    /// Of this topic.
    pub topic: Option<Topic>,
    /// With this cause.
    pub cause: Option<String>,
}
