//! The ledger: what one transaction recorded of one message is one row, found by the message.
//!
//! Most of what a message costs the disk is here, so a row is small: ids and traces are bytes where they are
//! hexadecimal, and who was at work is a number ([`Actors`]). A message that goes straight through has two rows and not one
//! for each step, because its beginning and its end are mostly recorded in one transaction.
//!
//! Invariants
//! - Steps wait in [`Pending`] until their transaction is about to be committed, and go with it where it fails.
//! - Every row is in one batch, which knows the earliest time in it: what is old is found without an index over all rows.

use crate::row::{int, length, maybe_name, unreadable};
use crate::store::Store;
use crate::trouble::full;
use crate::writer::Work;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use sandpost_message::{Digest, MessageId, PluginName, SubscriptionName, TimestampMs};
use sandpost_ports::PortError;
use sandpost_ports::state::{Ledger, LedgerEntry, Step};
use std::borrow::Cow;
use std::collections::HashMap;

/// About how many bytes a step takes at most, its share of row and index included and its detail left out.
const STEP_BYTES: u64 = 160;
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
            if !work.take_room(STEP_BYTES * u64::try_from(entries.len()).unwrap_or(u64::MAX))? {
                return Err(full().into());
            }
            entries.iter().try_for_each(|entry| Ok(note(work, entry)?))
        })
        .await
    }

    async fn history(&self, message: &MessageId) -> Result<Vec<LedgerEntry>, PortError> {
        let message = message.clone();
        self.read(move |conn| {
            let mut actors =
                conn.prepare_cached("SELECT subscription, plugin, version, digest FROM ledger_actors WHERE id = ?1")?;
            let mut rows =
                conn.prepare_cached("SELECT trace_id, steps FROM ledger WHERE message_id IN (?1, ?2) ORDER BY n")?;
            // An id that is no UUID is kept as it is written.
            let mut rows = rows.query(params![Packed::uuid(message.as_str()), message.as_str()])?;
            let mut entries = Vec::new();
            while let Some(row) = rows.next()? {
                let trace_id = digits(row, 0)?;
                for Noted(step, at_ms, actor, attempt, detail) in steps(row, 1)? {
                    let entry = actors.query_row([actor], |row| {
                        Ok(LedgerEntry {
                            message_id: message.clone(),
                            at_ms,
                            step,
                            subscription: maybe_name(row, 0)?,
                            attempt,
                            plugin: maybe_name(row, 1)?,
                            version: row.get(2)?,
                            digest: maybe_name(row, 3)?,
                            trace_id: trace_id.clone(),
                            detail: detail.map(Cow::into_owned),
                        })
                    })?;
                    entries.push(entry);
                }
            }
            Ok(entries)
        })
        .await
    }

    async fn forget_before(&self, before_ms: TimestampMs, max: usize) -> Result<u64, PortError> {
        self.write(move |work| Ok(forget(&work.conn, before_ms, max)?)).await
    }
}

/// A step in a row, as it is written: an array of JSON, so that a person with `sqlite3` can read it.
#[derive(serde::Serialize, serde::Deserialize)]
struct Noted<'a>(Step, TimestampMs, i64, Option<u32>, #[serde(borrow)] Option<Cow<'a, str>>);

/// What the transaction under way has recorded, one row each, in the order in which the rows were begun.
#[derive(Default)]
pub(crate) struct Pending {
    rows: Vec<PendingRow>,
    /// By message, the last row of it.
    last: HashMap<MessageId, usize>,
    from_ms: Option<TimestampMs>,
}

struct PendingRow {
    message_id: MessageId,
    trace_id: String,
    /// The inside of the array.
    steps: String,
}

impl Pending {
    pub(crate) fn rolled_back(&mut self) {
        *self = Self::default();
    }
}

/// Writes what the transaction has recorded. Called once, at its end.
pub(crate) fn write(work: &mut Work) -> rusqlite::Result<()> {
    let Pending { rows, from_ms, last: _ } = std::mem::take(&mut work.pending);
    let Some(from_ms) = from_ms else { return Ok(()) };
    let mut insert =
        work.conn.prepare_cached("INSERT INTO ledger (n, message_id, trace_id, steps) VALUES (?1, ?2, ?3, ?4)")?;
    let mut numbers: Option<(i64, i64)> = None;
    for PendingRow { message_id, trace_id, steps } in rows {
        let n = work.ids.take(&work.conn, 1)?;
        let steps = format!("[{steps}]");
        insert.execute(params![n, Packed::uuid(message_id.as_str()), Packed::digits(&trace_id), steps])?;
        numbers = Some((numbers.map_or(n, |(first, _)| first), n));
    }
    if let Some((first, last)) = numbers {
        work.conn
            .prepare_cached("INSERT INTO ledger_batches (first, last, from_ms) VALUES (?1, ?2, ?3)")?
            .execute([first, last, int(from_ms)])?;
    }
    Ok(())
}

/// Takes steps of before a time out, `max` at most, the batches with the oldest first; says how many.
fn forget(conn: &Connection, before_ms: TimestampMs, max: usize) -> rusqlite::Result<u64> {
    let mut oldest = conn.prepare_cached(
        "SELECT first, last FROM ledger_batches INDEXED BY ledger_batches_age WHERE from_ms < ?1 ORDER BY from_ms LIMIT 1",
    )?;
    let mut select = conn.prepare_cached("SELECT n, steps FROM ledger WHERE n BETWEEN ?1 AND ?2 ORDER BY n")?;
    let mut update = conn.prepare_cached("UPDATE ledger SET steps = ?2 WHERE n = ?1")?;
    let mut forgotten = 0;
    while let Some((first, last)) =
        oldest.query_row([int(before_ms)], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).optional()?
    {
        let (mut gone, mut changed, mut from_ms) = (Vec::new(), Vec::new(), None::<TimestampMs>);
        let mut rows = select.query([first, last])?;
        while let Some(row) = rows.next()?
            && forgotten < max
        {
            let n: i64 = row.get(0)?;
            let mut steps = steps(row, 1)?;
            let had = steps.len();
            steps.retain(|Noted(_, at_ms, ..)| {
                let keep = *at_ms >= before_ms || forgotten >= max;
                forgotten += usize::from(!keep);
                keep
            });
            from_ms = steps.iter().map(|Noted(_, at_ms, ..)| *at_ms).chain(from_ms).min();
            if steps.is_empty() {
                gone.push(n);
            } else if steps.len() < had {
                changed.push((n, json(&steps)?));
            }
        }
        drop(rows);
        for (n, steps) in changed {
            update.execute(params![n, steps])?;
        }
        for n in gone {
            conn.prepare_cached("DELETE FROM ledger WHERE n = ?1")?.execute([n])?;
        }
        if forgotten >= max {
            // The rest of this batch is for the next call.
            break;
        }
        match from_ms {
            Some(from_ms) => conn
                .prepare_cached("UPDATE ledger_batches SET from_ms = ?2 WHERE first = ?1")?
                .execute([first, int(from_ms)])?,
            None => conn.prepare_cached("DELETE FROM ledger_batches WHERE first = ?1")?.execute([first])?,
        };
    }
    Ok(u64::try_from(forgotten).unwrap_or(u64::MAX))
}

fn steps<'a>(row: &'a Row<'_>, column: usize) -> rusqlite::Result<Vec<Noted<'a>>> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|error| unreadable(column, error))
}

fn json(steps: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(steps).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
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
    let until: Option<i64> = conn
        .prepare_cached("SELECT max(n) FROM (SELECT n FROM ledger ORDER BY n LIMIT ?1)")?
        .query_row([length(GIVE_WAY_ROWS)], |row| row.get(0))?;
    let Some(until) = until else { return Ok(false) };
    conn.prepare_cached("DELETE FROM ledger WHERE n <= ?1")?.execute([until])?;
    conn.prepare_cached("DELETE FROM ledger_batches WHERE last <= ?1")?.execute([until])?;
    Ok(true)
}

/// Adds an entry where there is room for it: the ledger may miss a step.
pub(crate) fn add(work: &mut Work, entry: &LedgerEntry) -> rusqlite::Result<()> {
    if work.take_room(STEP_BYTES)? { note(work, entry) } else { Ok(()) }
}

/// Puts a step to what the transaction writes at its end.
fn note(work: &mut Work, entry: &LedgerEntry) -> rusqlite::Result<()> {
    let actor = work.actors.number(&work.conn, entry)?;
    let step = json(&Noted(entry.step, entry.at_ms, actor, entry.attempt, entry.detail.as_deref().map(Cow::Borrowed)))?;
    let Pending { rows, last, from_ms } = &mut work.pending;
    *from_ms = Some(from_ms.map_or(entry.at_ms, |from_ms| from_ms.min(entry.at_ms)));
    if let Some(row) = last.get(&entry.message_id).and_then(|place| rows.get_mut(*place))
        && row.trace_id == entry.trace_id
    {
        row.steps.push(',');
        row.steps.push_str(&step);
        return Ok(());
    }
    last.insert(entry.message_id.clone(), rows.len());
    rows.push(PendingRow { message_id: entry.message_id.clone(), trace_id: entry.trace_id.clone(), steps: step });
    Ok(())
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
        assert_eq!(steps[1].at_ms, 5);
        assert_eq!((steps[0].plugin.is_none(), steps[1].trace_id.as_str()), (true, "trace"));
        let mut further = steps.remove(1);
        assert_eq!(further.plugin.as_ref().map(sandpost_message::PluginName::as_str), Some("orders"));
        further.step = Step::Acknowledged;
        store.record(vec![further.clone()]).await.unwrap();
        assert_eq!(store.history(&id).await.unwrap().last(), Some(&further), "old rows and new ones are one history");
    }
}
