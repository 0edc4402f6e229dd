//! The ledger: rows in the order in which they were recorded, found by their message.
//!
//! The order is that of `n`, which the database counts up: what was recorded after an earlier call was answered comes after it,
//! whichever host recorded it.
//!
//! Not here: how calls go together in one statement (`recorder`).

use crate::statement::{Row, Statement, Value};
use crate::trouble::unreadable;
use crate::{Oldest, SharedState};
use sandpost_message::{Digest, MessageId, PluginName, SubscriptionName, TimestampMs};
use sandpost_ports::PortError;
use sandpost_ports::state::{Ledger, LedgerEntry, Step};
use serde::Deserialize as _;
use serde::de::value::{Error as WordError, StrDeserializer};

const COLUMNS: usize = 10;

#[async_trait::async_trait]
impl Ledger for SharedState {
    async fn record(&self, mut entries: Vec<LedgerEntry>) -> Result<(), PortError> {
        entries.retain(|entry| self.keep.admits(entry.step));
        self.recorder.record(entries).await
    }

    async fn history(&self, message: &MessageId) -> Result<Vec<LedgerEntry>, PortError> {
        let select = Statement::new(
            "SELECT at_ms, step, subscription, attempt, plugin, version, digest, trace_id, detail \
             FROM {p}ledger WHERE message_id = ? ORDER BY n",
        );
        let rows = self.database.query(select.bind(message.as_str())).await?;
        rows.iter().map(|row| entry(row, message)).collect()
    }

    async fn forget_before(&self, before_ms: TimestampMs, max: usize) -> Result<u64, PortError> {
        let oldest = Oldest { table: "ledger", id: "n", condition: "at_ms < ?", age: "at_ms" };
        self.forget(oldest, before_ms, max).await
    }
}

/// One row each.
pub(crate) fn insert(entries: &[&LedgerEntry]) -> Statement {
    let rows = vec!["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"; entries.len()].join(", ");
    let mut statement = Statement::new(format!(
        "INSERT INTO {{p}}ledger \
         (message_id, at_ms, step, subscription, attempt, plugin, version, digest, trace_id, detail) VALUES {rows}"
    ));
    statement.values.reserve(entries.len() * COLUMNS);
    for entry in entries {
        let row: [Value; COLUMNS] = [
            entry.message_id.as_str().into(),
            entry.at_ms.into(),
            entry.step.word().into(),
            entry.subscription.as_ref().map(SubscriptionName::as_str).into(),
            entry.attempt.into(),
            entry.plugin.as_ref().map(PluginName::as_str).into(),
            entry.version.clone().into(),
            entry.digest.as_ref().map(Digest::as_str).into(),
            entry.trace_id.as_str().into(),
            entry.detail.clone().into(),
        ];
        statement.values.extend(row);
    }
    statement
}

fn entry(row: &Row, message_id: &MessageId) -> Result<LedgerEntry, PortError> {
    let word = row.text(1)?;
    Ok(LedgerEntry {
        message_id: message_id.clone(),
        at_ms: row.time(0)?,
        step: Step::deserialize(StrDeserializer::<WordError>::new(&word)).map_err(unreadable)?,
        subscription: row.maybe_name(2)?,
        attempt: row.maybe_u32(3)?,
        plugin: row.maybe_name(4)?,
        version: row.maybe_text(5)?,
        digest: row.maybe_name(6)?,
        trace_id: row.text(7)?,
        detail: row.maybe_text(8)?,
    })
}
