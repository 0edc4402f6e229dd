//! The ledger: rows in the order in which they were recorded, found by their message.
//!
//! Most of what a message costs the disk is here, so a row is small: ids and traces are bytes where they are
//! hexadecimal, and who was at work is a number ([`Actors`]).

use crate::row::{int, length, maybe_name, time, unreadable};
use crate::store::Store;
use crate::trouble::full;
use crate::writer::Work;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use sandpost_message::{Digest, MessageId, PluginName, SubscriptionName, TimestampMs};
use sandpost_ports::PortError;
use sandpost_ports::state::{Ledger, LedgerEntry, Step};
use serde::Deserialize;
use serde::de::value::{Error as WordError, StrDeserializer};
use std::collections::HashMap;

/// About how many bytes a row takes, its places in the indexes included and its detail left out.
const ROW_BYTES: u64 = 160;
/// Rows that give way at once: about 650 KB, so that a store at its bound does not look for room with every message.
const GIVE_WAY_ROWS: usize = 4096;
/// Actors in memory: every deployment of every subscription makes one. Past it they are looked up afresh.
const ACTORS_KNOWN_MAX: usize = 4096;
/// Where a UUID has its dashes.
const UUID_DASHES: [usize; 4] = [8, 13, 18, 23];

#[async_trait::async_trait]
impl Ledger for Store {
    async fn record(&self, mut entries: Vec<LedgerEntry>) -> Result<(), PortError> {
        entries.retain(|entry| self.inner.keep.admits(entry.step));
        if entries.is_empty() {
            return Ok(());
        }
        self.write(move |work| {
            // The ledger may miss a step; a settlement may not lack the room that the step took.
            if !work.take_room(ROW_BYTES * u64::try_from(entries.len()).unwrap_or(u64::MAX))? {
                return Err(full().into());
            }
            entries.iter().try_for_each(|entry| Ok(insert(work, entry)?))
        })
        .await
    }

    async fn history(&self, message: &MessageId) -> Result<Vec<LedgerEntry>, PortError> {
        let message = message.clone();
        self.read(move |conn| {
            conn.prepare_cached(
                "SELECT at_ms, step, subscription, attempt, plugin, version, digest, trace_id, detail
                 FROM ledger CROSS JOIN ledger_actors ON id = actor WHERE message_id IN (?1, ?2) ORDER BY n",
            )?
            // Those of older programs have the id as it is written.
            .query_map(params![Packed::uuid(message.as_str()), message.as_str()], |row| entry(row, &message))?
            .collect()
        })
        .await
    }

    async fn forget_before(&self, before_ms: TimestampMs, max: usize) -> Result<u64, PortError> {
        self.write(move |work| {
            let forgotten = work
                .conn
                .prepare_cached(
                    "DELETE FROM ledger WHERE n IN
                     (SELECT n FROM ledger INDEXED BY ledger_age WHERE at_ms < ?1 ORDER BY at_ms LIMIT ?2)",
                )?
                .execute([int(before_ms), length(max)])?;
            Ok(u64::try_from(forgotten).unwrap_or(u64::MAX))
        })
        .await
    }
}

/// Who was at work in a step, each of them a number in the rows. Forgets all of them where a transaction fails, because
/// their rows are gone with it.
#[derive(Default)]
pub(crate) struct Actors(HashMap<Actor, i64>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Actor {
    subscription: Option<SubscriptionName>,
    plugin: Option<PluginName>,
    version: Option<String>,
    digest: Option<Digest>,
}

impl Actors {
    pub(crate) fn rolled_back(&mut self) {
        self.0.clear();
    }

    fn number(&mut self, conn: &Connection, entry: &LedgerEntry) -> rusqlite::Result<i64> {
        let actor = Actor {
            subscription: entry.subscription.clone(),
            plugin: entry.plugin.clone(),
            version: entry.version.clone(),
            digest: entry.digest.clone(),
        };
        if let Some(number) = self.0.get(&actor) {
            return Ok(*number);
        }
        let columns = params![
            actor.subscription.as_ref().map(SubscriptionName::as_str),
            actor.plugin.as_ref().map(PluginName::as_str),
            actor.version,
            actor.digest.as_ref().map(Digest::as_str),
        ];
        let known = conn
            .prepare_cached(
                "SELECT id FROM ledger_actors
                 WHERE subscription IS ?1 AND plugin IS ?2 AND version IS ?3 AND digest IS ?4",
            )?
            .query_row(columns, |row| row.get(0))
            .optional()?;
        let number = match known {
            Some(number) => number,
            None => conn
                .prepare_cached(
                    "INSERT INTO ledger_actors (subscription, plugin, version, digest) VALUES (?1, ?2, ?3, ?4)",
                )?
                .insert(columns)?,
        };
        if self.0.len() >= ACTORS_KNOWN_MAX {
            self.0.clear();
        }
        self.0.insert(actor, number);
        Ok(number)
    }
}

/// Hexadecimal digits as the bytes that they are; any other text as it is.
enum Packed<'a> {
    Bytes([u8; 16]),
    Text(&'a str),
}

impl<'a> Packed<'a> {
    /// 32 digits in lower case.
    fn digits(text: &'a str) -> Self {
        Self::of(text, &[])
    }

    /// A UUID as it is written in lower case.
    fn uuid(text: &'a str) -> Self {
        Self::of(text, &UUID_DASHES)
    }

    fn of(text: &'a str, dashes: &[usize]) -> Self {
        if text.len() != 32 + dashes.len() {
            return Self::Text(text);
        }
        let (mut bytes, mut digits) = ([0_u8; 16], 0);
        for (place, letter) in text.bytes().enumerate() {
            let value = match letter {
                b'-' if dashes.contains(&place) => continue,
                b'0'..=b'9' => letter - b'0',
                b'a'..=b'f' => letter - b'a' + 10,
                _ => return Self::Text(text),
            };
            let Some(byte) = bytes.get_mut(digits / 2) else { return Self::Text(text) };
            *byte = (*byte << 4) | value;
            digits += 1;
        }
        if digits == 32 { Self::Bytes(bytes) } else { Self::Text(text) }
    }
}

impl ToSql for Packed<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Bytes(bytes) => ToSqlOutput::from(&bytes[..]),
            Self::Text(text) => ToSqlOutput::from(*text),
        })
    }
}

/// The way back of [`Packed::digits`].
fn digits(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bytes = match row.get_ref(column)? {
        ValueRef::Blob(bytes) => bytes,
        text => return Ok(text.as_str()?.to_owned()),
    };
    Ok(bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect())
}

/// Deletes the oldest rows, to make room; false where there are none left.
pub(crate) fn give_way(conn: &Connection) -> rusqlite::Result<bool> {
    let gone = conn
        .prepare_cached("DELETE FROM ledger WHERE n IN (SELECT n FROM ledger ORDER BY n LIMIT ?1)")?
        .execute([length(GIVE_WAY_ROWS)])?;
    Ok(gone > 0)
}

/// Adds an entry where there is room for it: the ledger may miss a step.
pub(crate) fn add(work: &mut Work, entry: &LedgerEntry) -> rusqlite::Result<()> {
    if work.take_room(ROW_BYTES)? { insert(work, entry) } else { Ok(()) }
}

fn insert(work: &mut Work, entry: &LedgerEntry) -> rusqlite::Result<()> {
    let n = work.ids.next(&work.conn)?;
    let actor = work.actors.number(&work.conn, entry)?;
    work.conn
        .prepare_cached(
            "INSERT INTO ledger (n, message_id, at_ms, step, actor, attempt, trace_id, detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            n,
            Packed::uuid(entry.message_id.as_str()),
            int(entry.at_ms),
            entry.step.word(),
            actor,
            entry.attempt,
            Packed::digits(&entry.trace_id),
            entry.detail,
        ])?;
    Ok(())
}

fn entry(row: &Row<'_>, message_id: &MessageId) -> rusqlite::Result<LedgerEntry> {
    let step = row.get_ref(1)?.as_str()?;
    let step = Step::deserialize(StrDeserializer::<WordError>::new(step)).map_err(|error| unreadable(1, error))?;
    Ok(LedgerEntry {
        message_id: message_id.clone(),
        at_ms: time(row.get(0)?),
        step,
        subscription: maybe_name(row, 2)?,
        attempt: row.get(3)?,
        plugin: maybe_name(row, 4)?,
        version: row.get(5)?,
        digest: maybe_name(row, 6)?,
        trace_id: digits(row, 7)?,
        detail: row.get(8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Packed, UUID_DASHES};
    use crate::schema;
    use rusqlite::Connection;
    use sandpost_message::MessageId;

    #[test]
    fn only_what_can_be_written_back_is_packed() {
        let id = MessageId::new();
        assert!(matches!(Packed::uuid(id.as_str()), Packed::Bytes(_)));
        let upper = id.as_str().to_uppercase();
        for text in ["", "short", &upper, &"-".repeat(32 + UUID_DASHES.len()), &"0".repeat(36)] {
            assert!(matches!(Packed::uuid(text), Packed::Text(_)), "{text}");
        }
        assert!(matches!(Packed::digits(&"0af7651916cd43dd8448eb211c80319c".to_uppercase()), Packed::Text(_)));
    }

    #[tokio::test]
    async fn the_ledger_of_an_older_file_is_still_there() {
        use crate::{Config, open};
        use sandpost_ports::clock::ManualClock;
        use sandpost_ports::state::{Ledger, Step};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sqlite");
        let id = MessageId::new();
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch(schema::MIGRATIONS[0]).unwrap();
        conn.pragma_update(None, "application_id", schema::APPLICATION_ID).unwrap();
        conn.pragma_update(None, "user_version", 1).unwrap();
        conn.execute_batch("UPDATE meta SET value = 10 WHERE name = 'ids'").unwrap();
        for (n, step, plugin) in [(7, "accepted", None), (9, "started", Some("orders"))] {
            conn.execute(
                "INSERT INTO ledger (message_id, n, at_ms, step, plugin, trace_id) VALUES (?1, ?2, 5, ?3, ?4, 'trace')",
                rusqlite::params![id.as_str(), n, step, plugin],
            )
            .unwrap();
        }
        drop(conn);

        let store = open(Some(&path), &Config::default(), std::sync::Arc::new(ManualClock::at(1_000))).unwrap();
        let mut steps = store.history(&id).await.unwrap();
        assert_eq!(steps.iter().map(|step| step.step).collect::<Vec<_>>(), [Step::Accepted, Step::Started]);
        assert_eq!((steps[0].plugin.is_none(), steps[1].trace_id.as_str()), (true, "trace"));
        let mut further = steps.remove(1);
        assert_eq!(further.plugin.as_ref().map(sandpost_message::PluginName::as_str), Some("orders"));
        further.step = Step::Acknowledged;
        store.record(vec![further.clone()]).await.unwrap();
        assert_eq!(store.history(&id).await.unwrap().last(), Some(&further), "old rows and new ones are one history");
    }
}
