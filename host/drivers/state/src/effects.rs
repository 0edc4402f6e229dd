//! Effects. Each step is one statement under a condition that the database checks, so that of many hosts one gets past it; a
//! row that it did not find is then read, to say why.

use crate::schema::KEY_MAX_BYTES;
use crate::statement::{Row, Statement};
use crate::{Oldest, SharedState};
use sandpost_message::{MessageId, SubscriptionName, TimestampMs};
use sandpost_ports::state::{Claim, EffectKey, EffectState, Effects, Owner};
use sandpost_ports::{ErrorKind, PortError};

const CLAIMED: i64 = 0;
const SENDING: i64 = 1;
const SENT: i64 = 2;

/// Who an effect belongs to after an operator said that it was not done, and its id after one said that it was.
const OPERATOR: &str = "confirmed-by-operator";

/// How often a step begins anew because the row was another when it was read than when it was written to. Each time somebody
/// else got on.
const ROUNDS_MAX: usize = 16;

#[async_trait::async_trait]
impl Effects for SharedState {
    async fn claim(
        &self,
        key: &EffectKey,
        owner: &Owner,
        message: &MessageId,
        subscription: &SubscriptionName,
        now_ms: TimestampMs,
    ) -> Result<Claim, PortError> {
        self.take(CLAIMED, key, owner, message, subscription, now_ms).await
    }

    async fn begin(
        &self,
        key: &EffectKey,
        owner: &Owner,
        message: &MessageId,
        subscription: &SubscriptionName,
        now_ms: TimestampMs,
    ) -> Result<Claim, PortError> {
        self.take(SENDING, key, owner, message, subscription, now_ms).await
    }

    async fn advance(&self, key: &EffectKey, owner: &Owner, to: EffectState) -> Result<(), PortError> {
        let (state, sent_id) = match &to {
            EffectState::Claimed => (CLAIMED, None),
            EffectState::Sending => (SENDING, None),
            EffectState::Sent(id) => (SENT, Some(id.as_str())),
        };
        for _ in 0..ROUNDS_MAX {
            let update = Statement::new(
                "UPDATE {p}effects SET state = ?, sent_id = ? WHERE effect_key = ? AND owner = ? AND state <> ?",
            )
            .bind(state)
            .bind(sent_id)
            .bind(key.as_bytes())
            .bind(owner.as_bytes())
            .bind(SENT);
            if self.database.execute(update).await? > 0 {
                return Ok(());
            }
            let Some(found) = self.find(key).await? else {
                return Err(conflict("the effect was not claimed"));
            };
            if found.owner != *owner {
                return Err(conflict("the effect belongs to another attempt"));
            }
            if found.state == SENT {
                // Said twice is said once; anything else would undo what happened.
                let same = sent_id == Some(found.sent_id.as_str());
                return if same { Ok(()) } else { Err(conflict("the effect has happened")) };
            }
        }
        Err(contended())
    }

    async fn release(&self, key: &EffectKey, owner: &Owner) -> Result<(), PortError> {
        for _ in 0..ROUNDS_MAX {
            let delete = Statement::new("DELETE FROM {p}effects WHERE effect_key = ? AND owner = ? AND state <> ?")
                .bind(key.as_bytes())
                .bind(owner.as_bytes())
                .bind(SENT);
            if self.database.execute(delete).await? > 0 {
                return Ok(());
            }
            match self.find(key).await? {
                None => return Ok(()),
                Some(found) if found.owner != *owner => {
                    return Err(conflict("the effect belongs to another attempt"));
                }
                Some(Found { state: SENT, .. }) => return Err(conflict("the effect has happened")),
                Some(_) => {}
            }
        }
        Err(contended())
    }

    async fn effects_of(
        &self,
        message: &MessageId,
        subscription: &SubscriptionName,
    ) -> Result<Vec<(EffectKey, EffectState)>, PortError> {
        let select = Statement::new(
            "SELECT effect_key, state, sent_id FROM {p}effects WHERE message_id = ? AND subscription = ? \
             ORDER BY claimed_at_ms, effect_key",
        )
        .bind(message.as_str())
        .bind(subscription.as_str());
        let state = |row: &Row| {
            Ok(match row.int(1)? {
                SENT => EffectState::Sent(row.maybe_text(2)?.unwrap_or_default()),
                SENDING => EffectState::Sending,
                _ => EffectState::Claimed,
            })
        };
        self.database.query(select).await?.iter().map(|row| Ok((row.key(0)?, state(row)?))).collect()
    }

    async fn resolve_unknown(
        &self,
        message: &MessageId,
        subscription: &SubscriptionName,
        done: bool,
    ) -> Result<u64, PortError> {
        let (state, sent_id) = if done { (SENT, Some(OPERATOR)) } else { (CLAIMED, None) };
        let update = Statement::new(
            "UPDATE {p}effects SET state = ?, sent_id = ?, owner = ? \
             WHERE message_id = ? AND subscription = ? AND state = ?",
        )
        .bind(state)
        .bind(sent_id)
        .bind(OPERATOR.as_bytes())
        .bind(message.as_str())
        .bind(subscription.as_str())
        .bind(SENDING);
        self.database.execute(update).await
    }

    async fn forget_effects_before(&self, before_ms: TimestampMs, max: usize) -> Result<u64, PortError> {
        let oldest =
            Oldest { table: "effects", id: "effect_key", condition: "claimed_at_ms < ?", age: "claimed_at_ms" };
        self.forget(oldest, before_ms, max).await
    }
}

struct Found {
    state: i64,
    owner: Owner,
    sent_id: String,
}

impl SharedState {
    /// Takes the key for its owner, at this state.
    async fn take(
        &self,
        state: i64,
        key: &EffectKey,
        owner: &Owner,
        message: &MessageId,
        subscription: &SubscriptionName,
        now_ms: TimestampMs,
    ) -> Result<Claim, PortError> {
        if key.len() > KEY_MAX_BYTES || owner.len() > KEY_MAX_BYTES {
            return Err(PortError::invalid("the key of an effect, or its owner, is longer than 1024 bytes"));
        }
        for _ in 0..ROUNDS_MAX {
            let insert = Statement::new(
                "INSERT INTO {p}effects (effect_key, owner, state, message_id, subscription, claimed_at_ms) \
                 VALUES (?, ?, ?, ?, ?, ?)",
            )
            .bind(key.as_bytes())
            .bind(owner.as_bytes())
            .bind(state)
            .bind(message.as_str())
            .bind(subscription.as_str())
            .bind(now_ms);
            if self.database.insert_new(insert).await? {
                return Ok(Claim::Ours);
            }
            match self.find(key).await? {
                Some(Found { state: SENT, sent_id, .. }) => return Ok(Claim::Sent(sent_id)),
                Some(Found { state: SENDING, owner, .. }) => return Ok(Claim::Sending { owner }),
                Some(_) => {
                    let take_over = Statement::new(
                        "UPDATE {p}effects SET owner = ?, state = ?, message_id = ?, subscription = ?, claimed_at_ms = ? \
                         WHERE effect_key = ? AND state = ?",
                    )
                    .bind(owner.as_bytes())
                    .bind(state)
                    .bind(message.as_str())
                    .bind(subscription.as_str())
                    .bind(now_ms)
                    .bind(key.as_bytes())
                    .bind(CLAIMED);
                    if self.database.execute(take_over).await? > 0 {
                        return Ok(Claim::Ours);
                    }
                }
                None => {}
            }
        }
        Err(contended())
    }

    async fn find(&self, key: &str) -> Result<Option<Found>, PortError> {
        let select = Statement::new("SELECT state, owner, sent_id FROM {p}effects WHERE effect_key = ?");
        let rows = self.database.query(select.bind(key.as_bytes())).await?;
        let found = |row: &Row| {
            Ok(Found { state: row.int(0)?, owner: row.key(1)?, sent_id: row.maybe_text(2)?.unwrap_or_default() })
        };
        rows.first().map(found).transpose()
    }
}

fn conflict(message: &str) -> PortError {
    PortError::new(ErrorKind::Conflict, message)
}

/// Nothing was done in any of the rounds.
pub(crate) fn contended() -> PortError {
    PortError::new(ErrorKind::Unavailable, "the state's row changes too fast")
}
