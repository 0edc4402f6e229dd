//! Storing messages, and remembering their dedupe keys.
//!
//! What can be delivered at once goes into a bundle (`bundle`); the rest has rows of its own.

use crate::broker::bundle;
use crate::row::{Attributes, int, name, size_bytes};
use crate::trouble::full;
use crate::writer::Work;
use rusqlite::{Connection, OptionalExtension, params};
use sandpost_message::{Message, MessageId};
use sandpost_ports::PortError;
use sandpost_ports::broker::Published;
use std::sync::Arc;

/// Expired dedupe keys that go for each new one. More than one, so that their number goes down again after a flood.
const FORGET_PER_KEY: i64 = 2;

/// Stores what can be stored; one answer a message.
pub(crate) fn publish(
    work: &mut Work,
    messages: &[Arc<Message>],
) -> rusqlite::Result<Vec<Result<Published, PortError>>> {
    messages.iter().map(|message| one(work, message)).collect()
}

fn one(work: &mut Work, message: &Arc<Message>) -> rusqlite::Result<Result<Published, PortError>> {
    let targets = match work.lines.targets(message) {
        Ok(targets) => targets,
        Err(error) => return Ok(Err(error)),
    };
    let dedupe_key = message.dedupe_key.as_deref();
    if let Some(key) = dedupe_key
        && let Some(id) = known(work, message, key)?
    {
        return Ok(Ok(Published { id, duplicate: true }));
    }
    if !work.take_room(size_bytes(message))? {
        return Ok(Err(full()));
    }

    if bundle::fits(message, work.now_ms) {
        bundle::gather(work, &targets, message)?;
    } else {
        let seq = work.ids.take(&work.conn, 1)?;
        insert_message(&work.conn, seq, message)?;
        work.recent.add(seq, message);
        for line in targets.iter() {
            deliver(work, *line, seq, message)?;
        }
    }
    if let Some(key) = dedupe_key {
        remember(work, message, key)?;
    }
    Ok(Ok(Published { id: message.id.clone(), duplicate: false }))
}

/// Gives a message a row, unless another line has given it one already.
pub(crate) fn insert_message(conn: &Connection, seq: i64, message: &Message) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT OR IGNORE INTO messages (seq, message_id, content_type, attributes, published_at_ms, not_before_ms,
         dedupe_key, only_subscription, trace, body, hops) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        seq,
        message.id.as_str(),
        message.content_type,
        Attributes(&message.attributes),
        int(message.published_at_ms),
        int(message.not_before_ms),
        message.dedupe_key,
        message.only.as_ref().map(sandpost_message::SubscriptionName::as_str),
        message.trace.to_string(),
        &*message.body,
        message.hops,
    ])?;
    Ok(())
}

fn deliver(work: &mut Work, line: i64, seq: i64, message: &Message) -> rusqlite::Result<()> {
    let behind = match &message.ordering_key {
        None => false,
        Some(key) => work
            .conn
            .prepare_cached(
                "SELECT 1 FROM deliveries INDEXED BY deliveries_keys WHERE subscription = ?1 AND ordering_key = ?2 LIMIT 1",
            )?
            .exists(params![line, key])?,
    };
    let visible_at_ms = (!behind).then(|| int(message.not_before_ms.max(work.now_ms)));
    work.conn
        .prepare_cached(
            "INSERT INTO deliveries (subscription, seq, visible_at_ms, ordering_key) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![line, seq, visible_at_ms, message.ordering_key])?;
    work.lines.count(line, 1, i64::from(behind));
    Ok(())
}

fn known(work: &Work, message: &Message, key: &str) -> rusqlite::Result<Option<MessageId>> {
    let known_since_ms = work.now_ms.saturating_sub(work.dedupe_window_ms);
    work.conn
        .prepare_cached("SELECT message_id FROM dedupe WHERE topic = ?1 AND key = ?2 AND at_ms > ?3")?
        .query_row(params![message.topic.as_str(), key, int(known_since_ms)], |row| name(row, 0))
        .optional()
}

fn remember(work: &mut Work, message: &Message, key: &str) -> rusqlite::Result<()> {
    work.conn
        .prepare_cached("INSERT OR REPLACE INTO dedupe (topic, key, message_id, at_ms) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![message.topic.as_str(), key, message.id.as_str(), int(work.now_ms)])?;
    work.keys_remembered += 1;
    Ok(())
}

/// Removes dedupe keys whose window is over, some for each that this transaction has remembered. Called once, at its end.
pub(crate) fn forget_keys(work: &mut Work) -> rusqlite::Result<()> {
    let remembered = std::mem::take(&mut work.keys_remembered);
    if remembered > 0 {
        let known_since_ms = work.now_ms.saturating_sub(work.dedupe_window_ms);
        work.conn
            .prepare_cached(
                "DELETE FROM dedupe WHERE (topic, key) IN
                 (SELECT topic, key FROM dedupe INDEXED BY dedupe_age WHERE at_ms <= ?1 ORDER BY at_ms LIMIT ?2)",
            )?
            .execute([int(known_since_ms), remembered * FORGET_PER_KEY])?;
    }
    Ok(())
}
