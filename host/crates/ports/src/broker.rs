//! The broker: durable topics with at-least-once delivery to subscriptions.
//!
//! A delivery is leased, not taken: what is not settled before its lease ends is delivered again. Back-off is a
//! settlement with a time, kept by the broker; no worker sleeps for it.
//!
//! Not here: when to retry and when to give up (`dispatch::retry`); dead letters (`state::dead_letters`).

use crate::PortError;
use crate::health::Health;
use crate::state::Step;
use sandpost_message::{Message, MessageId, SubscriptionName, TimestampMs, Topic};
use std::sync::Arc;

/// A durable queue with topics. It is well ([`Health::check`]) once it answers and every subscription that it was asked for
/// is set up: until then there are messages that it cannot take.
#[async_trait::async_trait]
pub trait Broker: Health {
    /// Stores messages; one answer a message, in order. `Ok` means durable: synced, or confirmed by the service.
    ///
    /// A message goes to every subscription of its topic that exists at this moment, or to `message.only` alone. A
    /// replayed dead letter comes under an id that the broker may still hold for other subscriptions, and from before
    /// on this one: it is delivered to `message.only` afresh, with its attempts counted from 1.
    /// [`ErrorKind::Exceeded`](crate::ErrorKind) where the broker's bound on disk is reached,
    /// [`ErrorKind::Unavailable`](crate::ErrorKind) where a subscription that it is for was asked for and is not set up yet,
    /// which would miss it; [`ErrorKind::Invalid`](crate::ErrorKind) where none listens to the topic and none was asked for.
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Published, PortError>>;

    /// Makes the subscription if it is not there, and opens it. A name is bound to one topic for good.
    ///
    /// Asked for is what this was called with once, whatever it answered, unless that the name is another topic's.
    async fn subscribe(&self, name: &SubscriptionName, topic: &Topic) -> Result<Arc<dyn Subscription>, PortError>;

    /// What waits, for metrics, health and the operator.
    async fn backlog(&self, name: &SubscriptionName) -> Result<Backlog, PortError>;

    /// Whether a second publish with the same `dedupe_key` within 24 hours is answered with the first one's id. Where
    /// not, the host's effects ledger does it.
    fn deduplicates(&self) -> bool;
}

/// A broker whose store is the ledger's too: what is published and that it was are one commit.
#[async_trait::async_trait]
pub trait RecordedBroker: Send + Sync {
    /// As [`Broker::publish`]; and of every message that was stored the ledger has this step, of every known one that it
    /// was deduplicated. Where only the ledger has no room left, the message is stored without.
    async fn publish_recorded(
        &self,
        messages: Vec<Message>,
        step: Step,
        detail: Option<&str>,
        at_ms: TimestampMs,
    ) -> Vec<Result<Published, PortError>>;
}

/// One topic's messages for one handler.
#[async_trait::async_trait]
pub trait Subscription: Send + Sync {
    /// Waits for deliveries and leases up to `max` of them for `lease_ms`. At least one is returned.
    ///
    /// Of messages that share an ordering key one is out at a time, the earliest, until it is settled with
    /// [`Settlement::Done`]; a back-off holds the whole key. Cancel-safe: a dropped future leaves nothing leased.
    async fn next(&self, max: usize, lease_ms: u64) -> Result<Vec<Delivery>, PortError>;

    /// Ends the lease. The receipt is taken: a second settlement of one delivery does not compile.
    ///
    /// A receipt whose lease ran out is refused with [`ErrorKind::Conflict`](crate::ErrorKind): the message is, or
    /// will be, with somebody else.
    async fn settle(&self, receipt: Receipt, settlement: Settlement) -> Result<(), PortError>;

    /// Holds the lease until `lease_ms` from now.
    async fn extend(&self, receipt: &Receipt, lease_ms: u64) -> Result<(), PortError>;
}

/// Underneath an [`ErrorKind::Unavailable`](crate::ErrorKind) of a service that is there: a subscription is missing. Other
/// topics can be published to, so a circuit breaker does not count it.
#[derive(Debug, thiserror::Error)]
#[error("the service is there, and a subscription of this host is not set up")]
pub struct NotSetUp;

/// What publishing came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The id that the message goes by: its own, or the first one's where the dedupe key was known.
    pub id: MessageId,
    /// Whether the dedupe key was known, and nothing was stored now.
    pub duplicate: bool,
}

/// One lease of one message.
#[derive(Debug)]
pub struct Delivery {
    /// The message, the same each time.
    pub message: Arc<Message>,
    /// 1 on the first delivery. Counted when it is leased, so that an attempt which took the host down counts.
    pub attempt: u32,
    /// What to settle with.
    pub receipt: Receipt,
}

/// Proof of a lease. Only the broker that made it can read it.
#[derive(Debug)]
pub struct Receipt(Box<str>);

impl Receipt {
    /// For brokers: wraps what identifies the lease.
    pub fn new(token: impl Into<Box<str>>) -> Self {
        Self(token.into())
    }

    /// For brokers: what was wrapped.
    pub fn token(&self) -> &str {
        &self.0
    }
}

/// What the broker is told about a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Never deliver it again on this subscription: acknowledged, or kept as a dead letter.
    Done,
    /// Deliver it again at this time, as a further attempt.
    RetryAt(TimestampMs),
    /// Deliver it again at this time, and do not count this delivery: it was never tried.
    HandBack(TimestampMs),
}

/// What waits on one subscription.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Deliverable now.
    pub ready: u64,
    /// Leased.
    pub in_flight: u64,
    /// Held until a time, or behind another message of their ordering key.
    pub held: u64,
    /// When the oldest unsettled one was published.
    pub oldest_published_at_ms: Option<TimestampMs>,
}
