//! Effects that happen once: claimed, then sending, then sent.
//!
//! Found `Claimed`, it was never handed over: do it. Found `Sent`: answer with the id of then. Found `Sending` by
//! somebody else: the outcome is unknown unless the provider is idempotent by the key.

use crate::PortError;
use sandpost_message::{MessageId, SubscriptionName, TimestampMs};

/// What an effect is known by: what it is, not when it was called. At most 512 bytes.
pub type EffectKey = String;

/// Who works on an effect: a host's run, an attempt and a call. A claim by another owner is one from before.
pub type Owner = String;

/// Where effects are kept.
#[async_trait::async_trait]
pub trait Effects: Send + Sync {
    /// Takes the key for `owner`, or says where it stands. In one step: of two callers with a fresh key one gets
    /// [`Claim::Ours`] and the other sees it.
    ///
    /// A key that stands at `Claimed` goes over to the new owner, because nothing was handed over under it.
    /// `message` and `subscription` are kept beside it, so that an operator can find the effects of a message.
    async fn claim(
        &self,
        key: &EffectKey,
        owner: &Owner,
        message: &MessageId,
        subscription: &SubscriptionName,
        now_ms: TimestampMs,
    ) -> Result<Claim, PortError>;

    /// [`Self::claim`], and where the key is ours it stands at [`EffectState::Sending`] at once: for an effect that is handed
    /// over right after. In one step where the store can.
    ///
    /// After an error the key may stand at `Sending` for `owner`, who then [releases](Self::release) it.
    async fn begin(
        &self,
        key: &EffectKey,
        owner: &Owner,
        message: &MessageId,
        subscription: &SubscriptionName,
        now_ms: TimestampMs,
    ) -> Result<Claim, PortError> {
        let claim = self.claim(key, owner, message, subscription, now_ms).await?;
        if claim == Claim::Ours {
            self.advance(key, owner, EffectState::Sending).await?;
        }
        Ok(claim)
    }

    /// Moves the key on. `Sending` and `Sent` only for its owner: [`ErrorKind::Conflict`](crate::ErrorKind) otherwise.
    async fn advance(&self, key: &EffectKey, owner: &Owner, to: EffectState) -> Result<(), PortError>;

    /// Forgets a key that nothing was done under, so that it can be claimed afresh. Wherever it stands, `Sending` too,
    /// but only while it is `owner`'s: [`ErrorKind::Conflict`](crate::ErrorKind) otherwise. Whoever decides that an
    /// effect of unknown outcome is done again releases it in the name of the owner that [`Claim::Sending`] told.
    async fn release(&self, key: &EffectKey, owner: &Owner) -> Result<(), PortError>;

    /// The keys of a message on a subscription, with where they stand.
    async fn effects_of(
        &self,
        message: &MessageId,
        subscription: &SubscriptionName,
    ) -> Result<Vec<(EffectKey, EffectState)>, PortError>;

    /// An operator's word about an effect whose outcome is unknown: it was done (`true`), or it was not and may be done
    /// again (`false`).
    async fn resolve_unknown(
        &self,
        message: &MessageId,
        subscription: &SubscriptionName,
        done: bool,
    ) -> Result<u64, PortError>;

    /// Forgets effects claimed before this, at most `max` of them; how many.
    async fn forget_effects_before(&self, before_ms: TimestampMs, max: usize) -> Result<u64, PortError>;
}

/// Where an effect stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EffectState {
    /// Ours; nothing was handed over.
    Claimed,
    /// Being handed over.
    Sending,
    /// Done; the provider's id.
    Sent(String),
}

/// What came of claiming a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Nothing was handed over under this key before: do it.
    Ours,
    /// It happened; the id of then.
    Sent(String),
    /// Somebody was handing it over.
    Sending {
        /// Who.
        owner: Owner,
    },
}
