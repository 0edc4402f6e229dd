//! Dead letters, each with its message whole: the broker no longer has it.

use crate::SharedState;
use crate::config::Dialect;
use crate::statement::{Row, Statement, Value};
use crate::trouble::unreadable;
use sandpost_message::{Digest, Message, MessageId, SubscriptionName, Topic, TraceParent};
use sandpost_ports::PortError;
use sandpost_ports::state::{DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetterStatus, DeadLetters};

const SELECT: &str = "SELECT id, subscription, topic, dead_at_ms, cause, reason, attempts, plugin, version, digest, \
                      trace_id, replaying, message_id, content_type, attributes, ordering_key, published_at_ms, \
                      not_before_ms, dedupe_key, only_subscription, trace, body FROM {p}dead_letters";

#[async_trait::async_trait]
impl DeadLetters for SharedState {
    async fn add_dead_letter(&self, letter: DeadLetter) -> Result<(), PortError> {
        // Of hosts that add at once, the second one's insert waits for the first one's commit and then finds its row.
        let give_way =
            Statement::new("DELETE FROM {p}dead_letters WHERE message_id = ? AND subscription = ? AND replaying = 1")
                .bind(letter.message.id.as_str())
                .bind(letter.subscription.as_str());
        let insert = insert(&letter, self.database.dialect())?;
        self.database.transaction(vec![give_way, insert]).await
    }

    async fn held_dead_letter(
        &self,
        message: &MessageId,
        subscription: &SubscriptionName,
    ) -> Result<Option<DeadLetterId>, PortError> {
        let select = Statement::new(
            "SELECT id FROM {p}dead_letters WHERE message_id = ? AND subscription = ? AND replaying = 0",
        )
        .bind(message.as_str())
        .bind(subscription.as_str());
        self.database.query(select).await?.first().map(|row| row.text(0)).transpose()
    }

    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, PortError> {
        if before.is_some_and(|id| !is_id(id)) {
            return Err(PortError::invalid("`before` is not the id of a dead letter"));
        }
        let conditions: [(&str, Option<&str>); 4] = [
            ("subscription = ?", filter.subscription.as_ref().map(SubscriptionName::as_str)),
            ("topic = ?", filter.topic.as_ref().map(Topic::as_str)),
            ("cause = ?", filter.cause.as_deref()),
            ("id < ?", before),
        ];
        // Only the conditions that are asked for, so that each combination has the index that suits it.
        let mut select = Statement::new(SELECT);
        for (condition, value) in conditions {
            if let Some(value) = value {
                select.sql.push_str(if select.values.is_empty() { " WHERE " } else { " AND " });
                select.sql.push_str(condition);
                select = select.bind(value);
            }
        }
        select.sql.push_str(" ORDER BY id DESC LIMIT ?");
        self.database.query(select.bind(limit)).await?.iter().map(letter).collect()
    }

    async fn dead_letter(&self, id: &str) -> Result<Option<DeadLetter>, PortError> {
        if !is_id(id) {
            return Ok(None);
        }
        let rows = self.database.query(Statement::new(format!("{SELECT} WHERE id = ?")).bind(id)).await?;
        rows.first().map(letter).transpose()
    }

    async fn set_dead_letter_status(&self, id: &str, status: DeadLetterStatus) -> Result<bool, PortError> {
        if !is_id(id) {
            return Ok(false);
        }
        let update = Statement::new("UPDATE {p}dead_letters SET replaying = ? WHERE id = ?");
        Ok(self.database.execute(update.bind(replaying(status)).bind(id)).await? > 0)
    }

    async fn remove_dead_letter(&self, id: &str) -> Result<bool, PortError> {
        if !is_id(id) {
            return Ok(false);
        }
        Ok(self.database.execute(Statement::new("DELETE FROM {p}dead_letters WHERE id = ?").bind(id)).await? > 0)
    }

    async fn count_dead_letters(&self) -> Result<Vec<(SubscriptionName, u64)>, PortError> {
        let select = "SELECT subscription, COUNT(*) FROM {p}dead_letters GROUP BY subscription ORDER BY subscription";
        let rows = self.database.query(Statement::new(select)).await?;
        rows.iter().map(|row| Ok((row.name(0)?, row.time(1)?))).collect()
    }
}

/// Whether a text from outside can be an id: the column takes no other.
fn is_id(id: &str) -> bool {
    id.len() <= 255 && id.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

fn replaying(status: DeadLetterStatus) -> i64 {
    match status {
        DeadLetterStatus::Held => 0,
        DeadLetterStatus::Replaying => 1,
    }
}

fn insert(letter: &DeadLetter, dialect: Dialect) -> Result<Statement, PortError> {
    let message = &letter.message;
    let attributes = if message.attributes.is_empty() {
        None
    } else {
        Some(serde_json::to_string(&message.attributes).map_err(unreadable)?)
    };
    let values: [Value; 22] = [
        letter.id.as_str().into(),
        letter.subscription.as_str().into(),
        message.topic.as_str().into(),
        letter.dead_at_ms.into(),
        letter.cause.as_str().into(),
        letter.reason.as_str().into(),
        Some(letter.attempts).into(),
        letter.plugin.as_str().into(),
        letter.version.clone().into(),
        letter.digest.as_ref().map(Digest::as_str).into(),
        letter.trace_id.as_str().into(),
        replaying(letter.status).into(),
        message.id.as_str().into(),
        message.content_type.as_str().into(),
        attributes.into(),
        message.ordering_key.as_ref().map(String::as_bytes).into(),
        message.published_at_ms.into(),
        message.not_before_ms.into(),
        message.dedupe_key.as_ref().map(String::as_bytes).into(),
        message.only.as_ref().map(SubscriptionName::as_str).into(),
        message.trace.to_string().as_str().into(),
        message.body.to_vec().into(),
    ];
    // Whichever unique key has it, the row that is there stays as it is.
    let otherwise = match dialect {
        Dialect::Mysql => "ON DUPLICATE KEY UPDATE id = id",
        Dialect::Postgres => "ON CONFLICT DO NOTHING",
    };
    let mut statement = Statement::new(format!(
        "INSERT INTO {{p}}dead_letters (id, subscription, topic, dead_at_ms, cause, reason, attempts, plugin, version, \
         digest, trace_id, replaying, message_id, content_type, attributes, ordering_key, published_at_ms, \
         not_before_ms, dedupe_key, only_subscription, trace, body) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) {otherwise}"
    ));
    statement.values.extend(values);
    Ok(statement)
}

fn letter(row: &Row) -> Result<DeadLetter, PortError> {
    let attributes = match row.maybe_text(14)? {
        None => Vec::new(),
        Some(json) => serde_json::from_str(&json).map_err(unreadable)?,
    };
    let message = Message {
        id: row.name(12)?,
        topic: row.name(2)?,
        content_type: row.text(13)?,
        attributes,
        ordering_key: row.maybe_key(15)?,
        published_at_ms: row.time(16)?,
        not_before_ms: row.time(17)?,
        dedupe_key: row.maybe_key(18)?,
        only: row.maybe_name(19)?,
        // A replay begins anew.
        hops: 0,
        trace: TraceParent::parse(&row.text(20)?).ok_or_else(|| unreadable("not a traceparent"))?,
        body: row.bytes(21)?.into(),
    };
    Ok(DeadLetter {
        id: row.text(0)?,
        message,
        subscription: row.name(1)?,
        dead_at_ms: row.time(3)?,
        cause: row.text(4)?,
        reason: row.text(5)?,
        attempts: u32::try_from(row.int(6)?).map_err(unreadable)?,
        plugin: row.name(7)?,
        version: row.maybe_text(8)?,
        digest: row.maybe_name(9)?,
        trace_id: row.text(10)?,
        status: if row.int(11)? == 0 { DeadLetterStatus::Held } else { DeadLetterStatus::Replaying },
    })
}
