//! Publishers' requests by `Idempotency-Key`: same key and body replays the first answer.
//!
//! The semantics are those of the IETF draft "The Idempotency-Key HTTP Header Field"
//! (draft-ietf-httpapi-idempotency-key-header): another body is 422, a first request still at work is 409.

use crate::PortError;
use sandpost_message::TimestampMs;

/// Where requests are kept.
#[async_trait::async_trait]
pub trait Requests: Send + Sync {
    /// Takes the key, or says what is known of it. In one step.
    ///
    /// `key` holds the publisher too, so that two of them never meet. A record older than `expires_at_ms` of its own
    /// counts as absent. A record without an answer whose `stale_at_ms` has passed was left by a host that died: the
    /// caller gets [`RequestClaim::Resumed`] with what was recorded then, and does it again under the same ids.
    async fn claim_request(
        &self,
        key: &str,
        request: RecordedRequest,
        now_ms: TimestampMs,
    ) -> Result<RequestClaim, PortError>;

    /// Records the answer.
    async fn answer_request(&self, key: &str, answer: Vec<u8>) -> Result<(), PortError>;

    /// Forgets a request that came to nothing, so that the key can be used again.
    async fn abandon_request(&self, key: &str) -> Result<(), PortError>;

    /// Forgets expired ones, at most `max` of them; how many. A store that removes them by itself has none to forget.
    async fn forget_requests(&self, now_ms: TimestampMs, max: usize) -> Result<u64, PortError>;
}

/// What is kept of a request before it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedRequest {
    /// A hash of all that must be the same for it to be the same request.
    pub fingerprint: Vec<u8>,
    /// What doing it again must use: the ids that were given to its messages.
    pub plan: Vec<u8>,
    /// Until when it counts as at work.
    pub stale_at_ms: TimestampMs,
    /// Until when the key is known.
    pub expires_at_ms: TimestampMs,
}

/// What came of claiming a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestClaim {
    /// A new key: do it.
    Fresh,
    /// It was begun with this plan by a host that died: do it by that plan.
    Resumed {
        /// As it was recorded.
        plan: Vec<u8>,
    },
    /// It was done; the answer of then.
    Answered(Vec<u8>),
    /// The key was used with another fingerprint.
    Mismatch,
    /// The first one is still at work.
    InFlight,
}
