//! The ledger. Entries of a message lie together, in the order in which they were recorded.

use crate::row::{int, length, maybe_name, name, time, unreadable};
use crate::store::Store;
use crate::trouble::full;
use rusqlite::{Row, params};
use sandpost_message::{Digest, MessageId, PluginName, SubscriptionName, TimestampMs};
use sandpost_ports::PortError;
use sandpost_ports::state::{Ledger, LedgerEntry, Step};
use serde::Deserialize;
use serde::de::value::{Error as WordError, StrDeserializer};

#[async_trait::async_trait]
impl Ledger for Store {
    async fn record(&self, mut entries: Vec<LedgerEntry>) -> Result<(), PortError> {
        entries.retain(|entry| self.inner.keep.admits(entry.step));
        if entries.is_empty() {
            return Ok(());
        }
        self.write(move |work| {
            // The ledger may miss a step; a settlement may not lack the room that the step took.
            if work.room_bytes()? == 0 {
                return Err(full().into());
            }
            for entry in &entries {
                let n = work.ids.next(&work.conn)?;
                insert(&work.conn, n, entry)?;
            }
            Ok(())
        })
        .await
    }

    async fn history(&self, message: &MessageId) -> Result<Vec<LedgerEntry>, PortError> {
        let message = message.clone();
        self.read(move |conn| {
            conn.prepare_cached(
                "SELECT message_id, at_ms, step, subscription, attempt, plugin, version, digest, trace_id, detail
                 FROM ledger WHERE message_id = ?1 ORDER BY n",
            )?
            .query_map([message.as_str()], entry)?
            .collect()
        })
        .await
    }

    async fn forget_before(&self, before_ms: TimestampMs, max: usize) -> Result<u64, PortError> {
        self.write(move |work| {
            let forgotten = work
                .conn
                .prepare_cached(
                    "DELETE FROM ledger WHERE (message_id, n) IN
                     (SELECT message_id, n FROM ledger INDEXED BY ledger_age WHERE at_ms < ?1 ORDER BY at_ms LIMIT ?2)",
                )?
                .execute([int(before_ms), length(max)])?;
            Ok(u64::try_from(forgotten).unwrap_or(u64::MAX))
        })
        .await
    }
}

fn insert(conn: &rusqlite::Connection, n: i64, entry: &LedgerEntry) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO ledger
         (message_id, n, at_ms, step, subscription, attempt, plugin, version, digest, trace_id, detail)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        entry.message_id.as_str(),
        n,
        int(entry.at_ms),
        entry.step.word(),
        entry.subscription.as_ref().map(SubscriptionName::as_str),
        entry.attempt,
        entry.plugin.as_ref().map(PluginName::as_str),
        entry.version,
        entry.digest.as_ref().map(Digest::as_str),
        entry.trace_id,
        entry.detail,
    ])?;
    Ok(())
}

fn entry(row: &Row<'_>) -> rusqlite::Result<LedgerEntry> {
    let step = row.get_ref(2)?.as_str()?;
    let step = Step::deserialize(StrDeserializer::<WordError>::new(step)).map_err(|error| unreadable(2, error))?;
    Ok(LedgerEntry {
        message_id: name(row, 0)?,
        at_ms: time(row.get(1)?),
        step,
        subscription: maybe_name(row, 3)?,
        attempt: row.get(4)?,
        plugin: maybe_name(row, 5)?,
        version: row.get(6)?,
        digest: maybe_name(row, 7)?,
        trace_id: row.get(8)?,
        detail: row.get(9)?,
    })
}
