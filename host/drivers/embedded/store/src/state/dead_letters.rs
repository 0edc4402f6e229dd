//! Dead letters, each with its message whole: the broker no longer has it.

use crate::row::{
    Attributes, MESSAGE_COLUMNS, int, length, maybe_name, message, message_columns, name, size_bytes, time,
};
use crate::store::Store;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use sandpost_message::{Digest, MessageId, SubscriptionName};
use sandpost_ports::PortError;
use sandpost_ports::state::{DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetterStatus, DeadLetters};

const SELECT: &str = concat!(
    "SELECT ",
    message_columns!(),
    ", id, subscription, topic, dead_at_ms, cause, reason, attempts, plugin, version, digest, trace_id, replaying \
     FROM dead_letters"
);

#[async_trait::async_trait]
impl DeadLetters for Store {
    async fn add_dead_letter(&self, letter: DeadLetter) -> Result<(), PortError> {
        self.write_sized(size_bytes(&letter.message), move |work| Ok(add(&work.conn, &letter)?)).await
    }

    async fn held_dead_letter(
        &self,
        message: &MessageId,
        subscription: &SubscriptionName,
    ) -> Result<Option<DeadLetterId>, PortError> {
        let (message, subscription) = (message.clone(), subscription.clone());
        self.read(move |conn| {
            conn.prepare_cached(
                "SELECT id FROM dead_letters WHERE message_id = ?1 AND subscription = ?2 AND replaying = 0",
            )?
            .query_row([message.as_str(), subscription.as_str()], |row| row.get(0))
            .optional()
        })
        .await
    }

    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, PortError> {
        let (filter, before) = (filter.clone(), before.map(str::to_owned));
        self.read(move |conn| list(conn, &filter, before.as_deref(), limit)).await
    }

    async fn dead_letter(&self, id: &str) -> Result<Option<DeadLetter>, PortError> {
        let id = id.to_owned();
        self.read(move |conn| {
            let mut select = conn.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?;
            select.query_row([&id], letter).optional()
        })
        .await
    }

    async fn set_dead_letter_status(&self, id: &str, status: DeadLetterStatus) -> Result<bool, PortError> {
        let id = id.to_owned();
        self.write(move |work| {
            let mut update = work.conn.prepare_cached("UPDATE dead_letters SET replaying = ?2 WHERE id = ?1")?;
            Ok(update.execute(params![id, replaying(status)])? > 0)
        })
        .await
    }

    async fn remove_dead_letter(&self, id: &str) -> Result<bool, PortError> {
        let id = id.to_owned();
        self.write(move |work| {
            Ok(work.conn.prepare_cached("DELETE FROM dead_letters WHERE id = ?1")?.execute([&id])? > 0)
        })
        .await
    }

    async fn count_dead_letters(&self) -> Result<Vec<(SubscriptionName, u64)>, PortError> {
        self.read(|conn| {
            conn.prepare_cached("SELECT subscription, count(*) FROM dead_letters GROUP BY subscription")?
                .query_map([], |row| Ok((name(row, 0)?, time(row.get(1)?))))?
                .collect()
        })
        .await
    }
}

fn replaying(status: DeadLetterStatus) -> bool {
    match status {
        DeadLetterStatus::Held => false,
        DeadLetterStatus::Replaying => true,
    }
}

fn add(conn: &Connection, letter: &DeadLetter) -> rusqlite::Result<()> {
    let message = &letter.message;
    conn.prepare_cached("DELETE FROM dead_letters WHERE message_id = ?1 AND subscription = ?2 AND replaying = 1")?
        .execute([message.id.as_str(), letter.subscription.as_str()])?;
    conn.prepare_cached(concat!(
        "INSERT INTO dead_letters (",
        message_columns!(),
        ", id, subscription, topic, dead_at_ms, cause, reason, attempts, plugin, version, digest, trace_id, replaying) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22) \
         ON CONFLICT DO NOTHING"
    ))?
    .execute(params![
        message.id.as_str(),
        message.content_type,
        Attributes(&message.attributes),
        message.ordering_key,
        int(message.published_at_ms),
        int(message.not_before_ms),
        message.dedupe_key,
        message.only.as_ref().map(SubscriptionName::as_str),
        message.trace.to_string(),
        &*message.body,
        letter.id,
        letter.subscription.as_str(),
        message.topic.as_str(),
        int(letter.dead_at_ms),
        letter.cause,
        letter.reason,
        letter.attempts,
        letter.plugin.as_str(),
        letter.version,
        letter.digest.as_ref().map(Digest::as_str),
        letter.trace_id,
        replaying(letter.status),
    ])?;
    Ok(())
}

fn list(
    conn: &Connection,
    filter: &DeadLetterFilter,
    before: Option<&str>,
    limit: usize,
) -> rusqlite::Result<Vec<DeadLetter>> {
    let conditions: [(&str, Option<&str>); 4] = [
        ("subscription = ?", filter.subscription.as_ref().map(SubscriptionName::as_str)),
        ("topic = ?", filter.topic.as_ref().map(sandpost_message::Topic::as_str)),
        ("cause = ?", filter.cause.as_deref()),
        ("id < ?", before),
    ];
    // Only the conditions that are asked for, so that each combination has the index that suits it.
    let mut sql = SELECT.to_owned();
    let mut values: Vec<&dyn ToSql> = Vec::new();
    for (condition, value) in &conditions {
        if let Some(value) = value {
            sql.push_str(if values.is_empty() { " WHERE " } else { " AND " });
            sql.push_str(condition);
            values.push(value);
        }
    }
    sql.push_str(" ORDER BY id DESC LIMIT ?");
    let limit = length(limit);
    values.push(&limit);
    conn.prepare_cached(&sql)?.query_map(values.as_slice(), letter)?.collect()
}

fn letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    const FIRST: usize = MESSAGE_COLUMNS;
    Ok(DeadLetter {
        message: message(row, 0, name(row, FIRST + 2)?)?,
        id: row.get(FIRST)?,
        subscription: name(row, FIRST + 1)?,
        dead_at_ms: time(row.get(FIRST + 3)?),
        cause: row.get(FIRST + 4)?,
        reason: row.get(FIRST + 5)?,
        attempts: row.get(FIRST + 6)?,
        plugin: name(row, FIRST + 7)?,
        version: row.get(FIRST + 8)?,
        digest: maybe_name(row, FIRST + 9)?,
        trace_id: row.get(FIRST + 10)?,
        status: if row.get(FIRST + 11)? { DeadLetterStatus::Replaying } else { DeadLetterStatus::Held },
    })
}
