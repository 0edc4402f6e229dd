//! Effects. Every step is one command, so two owners never both get past [`EffectState::Sending`].

use crate::row::{int, length};
use crate::store::Store;
use crate::trouble::Refusal;
use rusqlite::{Connection, OptionalExtension, params};
use sandpost_message::{MessageId, SubscriptionName, TimestampMs};
use sandpost_ports::state::{Claim, EffectKey, EffectState, Effects, Owner};
use sandpost_ports::{ErrorKind, PortError};

const CLAIMED: i64 = 0;
const SENDING: i64 = 1;
const SENT: i64 = 2;

/// Who an effect belongs to after an operator said that it was not done, and its id after one said that it was.
const OPERATOR: &str = "confirmed-by-operator";

#[async_trait::async_trait]
impl Effects for Store {
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
        let (key, owner) = (key.clone(), owner.clone());
        self.write(move |work| {
            let (state, sent_id) = match &to {
                EffectState::Claimed => (CLAIMED, None),
                EffectState::Sending => (SENDING, None),
                EffectState::Sent(id) => (SENT, Some(id.as_str())),
            };
            let found = owned(&work.conn, &key, &owner)?;
            if found.state == SENT {
                // Said twice is said once; anything else would undo what happened.
                let same = sent_id == Some(found.sent_id.as_str());
                return if same { Ok(()) } else { Err(conflict("the effect has happened").into()) };
            }
            work.conn
                .prepare_cached("UPDATE effects SET state = ?2, sent_id = ?3 WHERE key = ?1")?
                .execute(params![key, state, sent_id])?;
            Ok(())
        })
        .await
    }

    async fn release(&self, key: &EffectKey, owner: &Owner) -> Result<(), PortError> {
        let (key, owner) = (key.clone(), owner.clone());
        self.write(move |work| {
            if find(&work.conn, &key)?.is_none() {
                return Ok(());
            }
            if owned(&work.conn, &key, &owner)?.state == SENT {
                return Err(conflict("the effect has happened").into());
            }
            work.conn.prepare_cached("DELETE FROM effects WHERE key = ?1")?.execute([&key])?;
            Ok(())
        })
        .await
    }

    async fn effects_of(
        &self,
        message: &MessageId,
        subscription: &SubscriptionName,
    ) -> Result<Vec<(EffectKey, EffectState)>, PortError> {
        let (message, subscription) = (message.clone(), subscription.clone());
        self.read(move |conn| {
            conn.prepare_cached(
                "SELECT key, state, coalesce(sent_id, '') FROM effects
                 WHERE message_id = ?1 AND subscription = ?2 ORDER BY claimed_at_ms, key",
            )?
            .query_map([message.as_str(), subscription.as_str()], |row| {
                let state = match row.get(1)? {
                    SENT => EffectState::Sent(row.get(2)?),
                    SENDING => EffectState::Sending,
                    _ => EffectState::Claimed,
                };
                Ok((row.get(0)?, state))
            })?
            .collect()
        })
        .await
    }

    async fn resolve_unknown(
        &self,
        message: &MessageId,
        subscription: &SubscriptionName,
        done: bool,
    ) -> Result<u64, PortError> {
        let (message, subscription) = (message.clone(), subscription.clone());
        self.write(move |work| {
            let (state, sent_id) = if done { (SENT, Some(OPERATOR)) } else { (CLAIMED, None) };
            let resolved = work
                .conn
                .prepare_cached(
                    "UPDATE effects SET state = ?3, sent_id = ?4, owner = ?5
                     WHERE message_id = ?1 AND subscription = ?2 AND state = ?6",
                )?
                .execute(params![message.as_str(), subscription.as_str(), state, sent_id, OPERATOR, SENDING])?;
            Ok(u64::try_from(resolved).unwrap_or(u64::MAX))
        })
        .await
    }

    async fn forget_effects_before(&self, before_ms: TimestampMs, max: usize) -> Result<u64, PortError> {
        self.write(move |work| {
            let forgotten = work
                .conn
                .prepare_cached(
                    "DELETE FROM effects WHERE key IN (SELECT key FROM effects INDEXED BY effects_age
                     WHERE claimed_at_ms < ?1 ORDER BY claimed_at_ms LIMIT ?2)",
                )?
                .execute([int(before_ms), length(max)])?;
            Ok(u64::try_from(forgotten).unwrap_or(u64::MAX))
        })
        .await
    }
}

impl Store {
    /// Takes the key for `owner` in this state, or says where it stands.
    async fn take(
        &self,
        state: i64,
        key: &EffectKey,
        owner: &Owner,
        message: &MessageId,
        subscription: &SubscriptionName,
        now_ms: TimestampMs,
    ) -> Result<Claim, PortError> {
        let (key, owner, message, subscription) = (key.clone(), owner.clone(), message.clone(), subscription.clone());
        self.write(move |work| {
            match find(&work.conn, &key)? {
                Some(Found { state: SENT, sent_id, .. }) => return Ok(Claim::Sent(sent_id)),
                Some(Found { state: SENDING, owner, .. }) => return Ok(Claim::Sending { owner }),
                Some(_) | None => {}
            }
            work.conn
                .prepare_cached(
                    "INSERT OR REPLACE INTO effects (key, owner, state, message_id, subscription, claimed_at_ms)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![key, owner, state, message.as_str(), subscription.as_str(), int(now_ms)])?;
            Ok(Claim::Ours)
        })
        .await
    }
}

struct Found {
    state: i64,
    owner: Owner,
    sent_id: String,
}

fn find(conn: &Connection, key: &str) -> rusqlite::Result<Option<Found>> {
    conn.prepare_cached("SELECT state, owner, coalesce(sent_id, '') FROM effects WHERE key = ?1")?
        .query_row([key], |row| Ok(Found { state: row.get(0)?, owner: row.get(1)?, sent_id: row.get(2)? }))
        .optional()
}

fn owned(conn: &Connection, key: &str, owner: &str) -> Result<Found, Refusal> {
    match find(conn, key)? {
        Some(found) if found.owner == owner => Ok(found),
        Some(_) => Err(conflict("the effect belongs to another attempt").into()),
        None => Err(conflict("the effect was not claimed").into()),
    }
}

fn conflict(message: &str) -> PortError {
    PortError::new(ErrorKind::Conflict, message)
}
