//! The ledger: what happened to each message, step by step.
//!
//! What one transaction recorded of many messages is a row of `ledger_segments`, found by a range of ids, so that a
//! message costs a copy of its steps and no place in a tree. What it recorded of one message alone is a row of `ledger`.
//! Rows of both kinds have numbers of one sequence.
//!
//! Invariants
//! - A message's history is in the order of recording: by row, and within a row as it stands there.
//! - Every row of either kind is in one batch (`pending`), so that forgetting and giving way know no difference.

mod actors;
mod packed;
mod pending;
mod segment;

pub(crate) use actors::Actors;
pub(crate) use pending::{Pending, write};

use crate::row::{int, maybe_name, unreadable};
use crate::store::Store;
use crate::trouble::full;
use crate::writer::Work;
use packed::{Packed, hexadecimal, unpacked};
use pending::note;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use sandpost_message::{MessageId, TimestampMs};
use sandpost_ports::PortError;
use sandpost_ports::state::{Ledger, LedgerEntry, Step};
use segment::{Records, Segment, earliest_from};
use std::borrow::Cow;

/// About how many bytes a step takes at most, its share of row and index included and its detail left out.
const STEP_BYTES: u64 = 160;
/// How much gives way at once, so that a store at its bound does not look for room with every message.
const GIVE_WAY_BYTES: i64 = 640 * 1024;
/// About how many bytes a row takes beside its steps, its places in indexes included.
const ROW_BYTES: i64 = 100;

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
        self.read(move |conn| history(conn, &message)).await
    }

    async fn forget_before(&self, before_ms: TimestampMs, max: usize) -> Result<u64, PortError> {
        self.write(move |work| Ok(forget(&work.conn, before_ms, max)?)).await
    }
}

/// A step in a row, as it is written: an array of JSON, so that a person with `sqlite3` can read it.
#[derive(serde::Serialize, serde::Deserialize)]
struct Noted<'a>(Step, TimestampMs, i64, Option<u32>, #[serde(borrow)] Option<Cow<'a, str>>);

/// Adds an entry where there is room for it: the ledger may miss a step.
pub(crate) fn add(work: &mut Work, entry: &LedgerEntry) -> rusqlite::Result<()> {
    if work.take_room(STEP_BYTES)? { note(work, entry) } else { Ok(()) }
}

/// Both kinds of rows in one statement, so that they are of one moment.
fn history(conn: &Connection, message: &MessageId) -> rusqlite::Result<Vec<LedgerEntry>> {
    let id = Packed::uuid(message.as_str());
    let mut rows = conn.prepare_cached(
        "SELECT n, trace_id, steps FROM ledger WHERE message_id IN (?1, ?2)
         UNION ALL
         SELECT n, NULL, steps FROM ledger_segments WHERE from_id BETWEEN ?3 AND ?1 AND until_id >= ?1
         ORDER BY n",
    )?;
    // An id that is no UUID is kept as it is written, and in the oldest rows one that is.
    let mut rows = rows.query(params![id, message.as_str(), earliest_from(&id)])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        match row.get_ref(2)? {
            ValueRef::Blob(segment) => {
                for record in Records(segment) {
                    let record = record?;
                    if id.bytes() == Some(record.message_id) {
                        read(conn, message, &hexadecimal(record.trace_id), record.steps, &mut entries)?;
                    }
                }
            }
            steps => read(conn, message, &unpacked(row.get_ref(1)?)?, steps.as_str()?, &mut entries)?,
        }
    }
    Ok(entries)
}

/// Reads the steps of a record.
fn read(
    conn: &Connection,
    message: &MessageId,
    trace_id: &str,
    steps: &str,
    entries: &mut Vec<LedgerEntry>,
) -> rusqlite::Result<()> {
    let mut actors =
        conn.prepare_cached("SELECT subscription, plugin, version, digest FROM ledger_actors WHERE id = ?1")?;
    for Noted(step, at_ms, actor, attempt, detail) in noted(steps)? {
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
                trace_id: trace_id.to_owned(),
                detail: detail.map(Cow::into_owned),
            })
        })?;
        entries.push(entry);
    }
    Ok(())
}

/// Takes steps of before a time out, `max` at most, the batches with the oldest first; says how many.
fn forget(conn: &Connection, before_ms: TimestampMs, max: usize) -> rusqlite::Result<u64> {
    let mut oldest = conn.prepare_cached(
        "SELECT first, last FROM ledger_batches INDEXED BY ledger_batches_age WHERE from_ms < ?1 ORDER BY from_ms LIMIT 1",
    )?;
    let mut select = conn.prepare_cached(
        "SELECT n, steps FROM ledger WHERE n BETWEEN ?1 AND ?2
         UNION ALL
         SELECT n, steps FROM ledger_segments WHERE n BETWEEN ?1 AND ?2
         ORDER BY n",
    )?;
    let mut forgotten = 0;
    while let Some((first, last)) =
        oldest.query_row([int(before_ms)], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).optional()?
    {
        let mut sieve = Sieve { before_ms, max: max - forgotten, forgotten: 0, from_ms: None };
        let mut changed = Vec::new();
        let mut rows = select.query([first, last])?;
        while let Some(row) = rows.next()?
            && sieve.forgotten < sieve.max
        {
            changed.extend(sieve.row(row)?);
        }
        drop(rows);
        for (n, left) in changed {
            replace(conn, n, left)?;
        }
        forgotten += sieve.forgotten;
        if forgotten >= max {
            // The rest of this batch is for the next call.
            break;
        }
        match sieve.from_ms {
            Some(from_ms) => conn
                .prepare_cached("UPDATE ledger_batches SET from_ms = ?2 WHERE first = ?1")?
                .execute([first, int(from_ms)])?,
            None => conn.prepare_cached("DELETE FROM ledger_batches WHERE first = ?1")?.execute([first])?,
        };
    }
    Ok(u64::try_from(forgotten).unwrap_or(u64::MAX))
}

/// Holds back old steps, `max` at most.
struct Sieve {
    before_ms: TimestampMs,
    max: usize,
    forgotten: usize,
    /// The earliest of what went through.
    from_ms: Option<TimestampMs>,
}

/// What is left of a row, by its kind; empty where nothing is.
enum Left {
    Message(String),
    Segment(Segment),
}

impl Sieve {
    /// The row's number and what is left of it; none where nothing was held back.
    fn row(&mut self, row: &Row<'_>) -> rusqlite::Result<Option<(i64, Left)>> {
        let forgotten = self.forgotten;
        let left = match row.get_ref(1)? {
            ValueRef::Blob(segment) => {
                let mut left = Segment::default();
                for record in Records(segment) {
                    let record = record?;
                    let steps = self.steps(record.steps)?;
                    if !steps.is_empty() {
                        left.push(record.message_id, record.trace_id, std::iter::once(steps.as_bytes()))?;
                    }
                }
                Left::Segment(left)
            }
            steps => Left::Message(self.steps(steps.as_str()?)?.into_owned()),
        };
        Ok((self.forgotten > forgotten).then_some((row.get(0)?, left)))
    }

    /// What is left of an array of steps: no text at all where nothing is.
    fn steps<'a>(&mut self, text: &'a str) -> rusqlite::Result<Cow<'a, str>> {
        let mut steps = noted(text)?;
        let had = steps.len();
        steps.retain(|Noted(_, at_ms, ..)| {
            let keep = *at_ms >= self.before_ms || self.forgotten >= self.max;
            self.forgotten += usize::from(!keep);
            keep
        });
        self.from_ms = steps.iter().map(|Noted(_, at_ms, ..)| *at_ms).chain(self.from_ms).min();
        if steps.is_empty() {
            return Ok(Cow::Borrowed(""));
        }
        if steps.len() == had {
            return Ok(Cow::Borrowed(text));
        }
        serde_json::to_string(&steps).map(Cow::Owned).map_err(unwritable)
    }
}

fn replace(conn: &Connection, n: i64, left: Left) -> rusqlite::Result<()> {
    let run = |sql: &str, parameters: &[&dyn ToSql]| conn.prepare_cached(sql)?.execute(parameters).map(drop);
    match left {
        Left::Message(steps) if steps.is_empty() => run("DELETE FROM ledger WHERE n = ?1", &[&n]),
        Left::Message(steps) => run("UPDATE ledger SET steps = ?2 WHERE n = ?1", &[&n, &steps]),
        Left::Segment(steps) if steps.is_empty() => run("DELETE FROM ledger_segments WHERE n = ?1", &[&n]),
        Left::Segment(steps) => run("UPDATE ledger_segments SET steps = ?2 WHERE n = ?1", &[&n, &steps]),
    }
}

/// Deletes the oldest rows, to make room; false where there are none left.
pub(crate) fn give_way(conn: &Connection) -> rusqlite::Result<bool> {
    let mut oldest = conn.prepare_cached(
        "SELECT n, octet_length(steps) FROM ledger
         UNION ALL
         SELECT n, octet_length(steps) FROM ledger_segments
         ORDER BY n",
    )?;
    let (mut until, mut bytes) = (None::<i64>, 0);
    let mut rows = oldest.query([])?;
    while bytes < GIVE_WAY_BYTES
        && let Some(row) = rows.next()?
    {
        until = Some(row.get(0)?);
        bytes += ROW_BYTES + row.get::<_, i64>(1)?;
    }
    drop(rows);
    let Some(until) = until else { return Ok(false) };
    conn.prepare_cached("DELETE FROM ledger WHERE n <= ?1")?.execute([until])?;
    conn.prepare_cached("DELETE FROM ledger_segments WHERE n <= ?1")?.execute([until])?;
    conn.prepare_cached("DELETE FROM ledger_batches WHERE first <= ?1 AND last <= ?1")?.execute([until])?;
    Ok(true)
}

fn noted(steps: &str) -> rusqlite::Result<Vec<Noted<'_>>> {
    serde_json::from_str(steps).map_err(|error| unreadable(0, error))
}

fn json_into(text: &mut Vec<u8>, value: &impl serde::Serialize) -> rusqlite::Result<()> {
    serde_json::to_writer(text, value).map_err(unwritable)
}

fn unwritable(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.into())
}

#[cfg(test)]
mod tests {
    use super::{GIVE_WAY_BYTES, Packed, give_way, note, pending};
    use crate::trouble::Refusal;
    use crate::{Config, Store, open, schema};
    use rusqlite::Connection;
    use sandpost_message::MessageId;
    use sandpost_ports::ErrorKind;
    use sandpost_ports::clock::ManualClock;
    use sandpost_ports::state::{Ledger, LedgerEntry, Step};
    use std::sync::Arc;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn store() -> Store {
        open(None, &Config::default(), Arc::new(ManualClock::at(1_000))).unwrap()
    }

    /// An id that was made at this time.
    fn made_at(ms: u64, number: u16) -> MessageId {
        format!("{:08x}-{:04x}-7000-8000-{number:012x}", ms >> 16, ms & 0xffff).parse().unwrap()
    }

    fn entry(id: &MessageId, step: Step, at_ms: u64) -> LedgerEntry {
        LedgerEntry {
            message_id: id.clone(),
            at_ms,
            step,
            subscription: None,
            attempt: None,
            plugin: None,
            version: None,
            digest: None,
            trace_id: TRACE.to_owned(),
            detail: None,
        }
    }

    async fn count(store: &Store, what: &'static str) -> i64 {
        store
            .write(move |work| Ok(work.conn.query_row(&format!("SELECT {what}"), [], |row| row.get(0))?))
            .await
            .unwrap()
    }

    /// How many rows of one message there are, and how many segments.
    async fn rows(store: &Store) -> (i64, i64) {
        (count(store, "count(*) FROM ledger").await, count(store, "count(*) FROM ledger_segments").await)
    }

    async fn times(store: &Store, id: &MessageId) -> Vec<u64> {
        store.history(id).await.unwrap().iter().map(|entry| entry.at_ms).collect()
    }

    #[tokio::test]
    async fn many_messages_are_one_row_and_each_history_is_whole() {
        let store = store();
        let ids: Vec<_> = (0..100).map(|number| made_at(5_000 + u64::from(number), number)).collect();
        let told = |step: Step, at_ms| ids.iter().map(move |id| entry(id, step, at_ms));
        // The order of ids is not that of recording, and steps of all messages stand between those of one.
        store.record(told(Step::Accepted, 9).rev().collect()).await.unwrap();
        store.record(told(Step::Started, 3).chain(told(Step::RetryPlanned, 2).rev()).collect()).await.unwrap();
        store.record(vec![entry(&ids[50], Step::Started, 7)]).await.unwrap();
        store.record(told(Step::Acknowledged, 1).collect()).await.unwrap();
        assert_eq!(rows(&store).await, (1, 3));
        for (place, id) in ids.iter().enumerate() {
            let expected: &[_] = if place == 50 { &[9, 3, 2, 7, 1] } else { &[9, 3, 2, 1] };
            assert_eq!(times(&store, id).await, expected);
        }
        let other = made_at(5_050, 999);
        assert_eq!(store.history(&other).await.unwrap(), [], "it is inside the ids of each segment, and in none");
    }

    #[tokio::test]
    async fn ids_that_are_far_apart_are_not_in_one_segment() {
        let store = store();
        let made_at_ms = [9_000, 10_001, 8_500, 9_500, 30_000, 10_000, 10_500, 0, 1_000];
        let ids: Vec<_> = made_at_ms.iter().zip(0..).map(|(ms, number)| made_at(*ms, number)).collect();
        store.record(ids.iter().zip(0..).map(|(id, at_ms)| entry(id, Step::Started, at_ms)).collect()).await.unwrap();
        // 0 and 1000; 8500, 9000 and 9500; 10000, 10001 and 10500; 30000.
        assert_eq!(rows(&store).await, (1, 3));
        for (id, at_ms) in ids.iter().zip(0..) {
            assert_eq!(times(&store, id).await, [at_ms]);
        }
    }

    #[tokio::test]
    async fn ids_and_traces_of_any_form_are_kept_as_they_are() {
        let store = store();
        let (usual, other): (MessageId, MessageId) = (made_at(5_000, 1), made_at(5_000, 2));
        let upper: MessageId = made_at(0x7fff_abcd_ef00, 3).as_str().to_uppercase().parse().unwrap();
        let ids = [usual, other, "17".parse().unwrap(), upper];
        let traces = ["", TRACE, "trace", TRACE, &"f".repeat(32), TRACE, &TRACE.to_uppercase()];
        let steps: Vec<_> = (0..3)
            .flat_map(|_| traces)
            .flat_map(|trace| ids.iter().map(move |id| (id, trace)))
            .zip(0..)
            .map(|((id, trace), at_ms)| LedgerEntry { trace_id: trace.to_owned(), ..entry(id, Step::Started, at_ms) })
            .collect();
        store.record(steps.clone()).await.unwrap();
        for id in &ids {
            let expected: Vec<_> = steps.iter().filter(|step| step.message_id == *id).cloned().collect();
            assert_eq!(store.history(id).await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn segments_are_bounded_and_no_record_is_cut() {
        let store = store();
        let ids: Vec<_> = (0..200).map(|number| made_at(5_000, number)).collect();
        let mut steps: Vec<_> = ids.iter().map(|id| entry(id, Step::HandedBack, 1)).collect();
        for (place, step) in steps.iter_mut().enumerate() {
            step.detail = Some("ü".repeat(if place == 100 { 100_000 } else { place * 4 }));
        }
        store.record(steps.clone()).await.unwrap();
        let largest = count(&store, "max(length(steps)) FROM ledger_segments").await;
        let bound = i64::try_from(pending::SEGMENT_MAX_BYTES).unwrap();
        assert!((bound / 2..=bound).contains(&largest), "{largest}");
        let (alone, segments) = rows(&store).await;
        assert!(alone == 1 && segments > 4, "{alone} of one message, {segments} segments");
        for (id, step) in ids.iter().zip(steps) {
            assert_eq!(store.history(id).await.unwrap(), [step]);
        }
    }

    #[tokio::test]
    async fn a_part_of_a_segment_is_forgotten_and_the_rest_is_kept() {
        let store = store();
        let ids: Vec<_> = (0..4).map(|number| made_at(5_000, number)).collect();
        // Of each message, the steps at 1, 2, 3 and 4; of the last one, only at 4.
        let steps = (1..=4).flat_map(|at_ms| ids.iter().map(move |id| entry(id, Step::Started, at_ms)));
        let steps = steps.filter(|step| step.message_id != ids[3] || step.at_ms == 4);
        store.record(steps.collect()).await.unwrap();
        store.record(vec![entry(&ids[0], Step::Acknowledged, 5)]).await.unwrap();
        assert_eq!(store.forget_before(1, 100).await.unwrap(), 0);
        assert_eq!(store.forget_before(4, 4).await.unwrap(), 4);
        let mut left = 0;
        for id in &ids {
            let times = times(&store, id).await;
            assert!(times.contains(&4) && times.is_sorted(), "{times:?}");
            left += times.len();
        }
        assert_eq!(left, 3 * 4 + 1 + 1 - 4);
        assert_eq!(store.forget_before(4, 100).await.unwrap(), 5);
        assert_eq!(times(&store, &ids[0]).await, [4, 5]);
        assert_eq!(times(&store, &ids[3]).await, [4]);
        assert_eq!(rows(&store).await, (1, 1));
        assert_eq!(store.forget_before(6, 100).await.unwrap(), 5);
        assert_eq!(rows(&store).await, (0, 0));
        assert_eq!(count(&store, "count(*) FROM ledger_batches").await, 0);
    }

    #[tokio::test]
    async fn what_gives_way_is_bounded_and_the_oldest() {
        let store = store();
        let ids: Vec<_> = (0..5_000).map(|number| made_at(u64::from(number), number)).collect();
        for (round, ids) in ids.chunks(100).enumerate() {
            // Rows of one message and segments in turn: 100 messages with 200 bytes each are about 30 KB.
            let detail = Some("x".repeat(200));
            let steps = ids.iter().map(|id| LedgerEntry { detail: detail.clone(), ..entry(id, Step::HandedBack, 1) });
            let many = if round % 2 == 0 { ids.len() } else { 1 };
            store.record(steps.take(many).collect()).await.unwrap();
        }
        let used = async || {
            count(
                &store,
                "(SELECT page_count FROM pragma_page_count()) - (SELECT freelist_count FROM pragma_freelist_count())",
            )
            .await
                * 4096
        };
        let mut before = used().await;
        let mut freed = Vec::new();
        while store.write(|work| Ok(give_way(&work.conn)?)).await.unwrap() {
            let after = used().await;
            freed.push(before - after);
            before = after;
            // The newest go last.
            let segments = rows(&store).await.1;
            assert_eq!(times(&store, &ids[0]).await.len(), 0);
            assert_eq!(times(&store, &ids[4_810]).await.len(), usize::from(segments > 0));
        }
        let whole = GIVE_WAY_BYTES - GIVE_WAY_BYTES / 8..GIVE_WAY_BYTES + GIVE_WAY_BYTES / 8;
        assert!(freed.len() == 2 && whole.contains(&freed[0]), "{freed:?}");
        assert_eq!(rows(&store).await, (0, 0));
        assert_eq!(count(&store, "count(*) FROM ledger_batches").await, 0);
    }

    #[tokio::test]
    async fn what_a_failed_transaction_recorded_is_not_written_by_the_next() {
        let store = store();
        let sql = |sql: &'static str| store.write(move |work| Ok(work.conn.execute_batch(sql)?));
        let (one, two) = (made_at(5_000, 1), made_at(5_000, 2));
        let both = |step| vec![entry(&one, step, 1), entry(&two, step, 2)];
        sql("CREATE TRIGGER b AFTER INSERT ON ledger_segments BEGIN SELECT RAISE(ABORT, 'broken'); END").await.unwrap();
        assert_eq!(store.record(both(Step::Accepted)).await.unwrap_err().kind, ErrorKind::Other);
        sql("DROP TRIGGER b").await.unwrap();
        // And where it fails before any row is written.
        let step = entry(&one, Step::Accepted, 1);
        let failed = store.write(move |work| -> Result<(), Refusal> {
            note(work, &step)?;
            Err(Refusal::Sqlite(rusqlite::Error::InvalidQuery))
        });
        assert_eq!(failed.await.unwrap_err().kind, ErrorKind::Other);
        store.record(both(Step::Started)).await.unwrap();
        assert_eq!(store.history(&one).await.unwrap(), [entry(&one, Step::Started, 1)]);
        assert_eq!(store.history(&two).await.unwrap(), [entry(&two, Step::Started, 2)]);
    }

    #[tokio::test]
    async fn a_damaged_segment_is_an_error_and_no_shorter_history() {
        let store = store();
        let ids = [made_at(5_000, 1), made_at(5_000, 2)];
        store.record(ids.iter().map(|id| entry(id, Step::Accepted, 1)).collect()).await.unwrap();
        store
            .write(|work| {
                Ok(work.conn.execute_batch("UPDATE ledger_segments SET steps = substr(steps, 1, length(steps) - 1)")?)
            })
            .await
            .unwrap();
        assert!(store.history(&ids[1]).await.is_err());
        assert!(store.forget_before(2, 10).await.is_err());
    }

    #[tokio::test]
    async fn the_ledger_of_an_older_file_is_still_there() {
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

        let store = open(Some(&path), &Config::default(), Arc::new(ManualClock::at(1_000))).unwrap();
        let mut steps = store.history(&id).await.unwrap();
        assert_eq!(steps.iter().map(|step| step.step).collect::<Vec<_>>(), [Step::Accepted, Step::Started]);
        assert_eq!(steps[1].at_ms, 5);
        assert_eq!((steps[0].plugin.is_none(), steps[1].trace_id.as_str()), (true, "trace"));
        let mut further = steps.remove(1);
        assert_eq!(further.plugin.as_ref().map(sandpost_message::PluginName::as_str), Some("orders"));
        further.step = Step::Acknowledged;
        store.record(vec![further.clone()]).await.unwrap();
        assert_eq!(store.history(&id).await.unwrap().last(), Some(&further), "old rows and new ones are one history");

        let other = entry(&MessageId::new(), Step::Accepted, 6);
        let last = LedgerEntry { at_ms: 6, trace_id: TRACE.to_owned(), ..further.clone() };
        store.record(vec![last.clone(), other]).await.unwrap();
        let whole = store.history(&id).await.unwrap();
        assert_eq!((whole.len(), &whole[2], &whole[3]), (4, &further, &last), "and those of a segment are, too");
        assert_eq!(store.forget_before(6, 100).await.unwrap(), 3);
        assert_eq!(store.history(&id).await.unwrap(), [last]);
    }

    #[tokio::test]
    async fn rows_of_one_message_in_an_older_file_give_way_before_segments() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sqlite");
        let mut conn = Connection::open(&path).unwrap();
        let of_segments =
            schema::MIGRATIONS.iter().position(|sql| sql.contains("CREATE TABLE ledger_segments")).unwrap();
        schema::MIGRATIONS[..of_segments].iter().for_each(|migration| conn.execute_batch(migration).unwrap());
        conn.pragma_update(None, "application_id", schema::APPLICATION_ID).unwrap();
        conn.pragma_update(None, "user_version", i64::try_from(of_segments).unwrap()).unwrap();
        let (old, new) = (made_at(5_000, 1), made_at(5_000, 2));
        let filling = conn.transaction().unwrap();
        for n in 0..20_000 {
            let id = made_at(5_000, if n == 19_999 { 1 } else { 3 });
            let id = Packed::uuid(id.as_str());
            filling
                .prepare_cached("INSERT INTO ledger (n, message_id, trace_id, steps) VALUES (?1, ?2, 'trace', ?3)")
                .unwrap()
                .execute(rusqlite::params![n, id, r#"[["accepted",5,1,null,null]]"#])
                .unwrap();
        }
        filling
            .execute_batch(
                "INSERT INTO ledger_actors (id) VALUES (1);
                 INSERT INTO ledger_batches (first, last, from_ms) VALUES (0, 9999, 5), (10000, 19999, 5);
                 UPDATE meta SET value = 20000 WHERE name = 'ids'",
            )
            .unwrap();
        filling.commit().unwrap();
        drop(conn);

        let store = open(Some(&path), &Config::default(), Arc::new(ManualClock::at(1_000))).unwrap();
        store.record([&old, &new].map(|id| entry(id, Step::Started, 6)).to_vec()).await.unwrap();
        assert_eq!(times(&store, &old).await, [5, 6]);
        assert!(store.write(|work| Ok(give_way(&work.conn)?)).await.unwrap());
        let (left, segments) = rows(&store).await;
        assert!((12_000..18_000).contains(&left) && segments == 1, "{left} and {segments}");
        assert_eq!(count(&store, "count(*) FROM ledger_batches").await, 3);
        assert_eq!(store.forget_before(6, 1_000).await.unwrap(), 1_000);
        assert_eq!(rows(&store).await, (left - 1_000, 1));
        assert_eq!(store.forget_before(6, 100_000).await.unwrap(), u64::try_from(left - 1_000).unwrap());
        assert_eq!(rows(&store).await, (0, 1));
        assert_eq!(times(&store, &old).await, [6]);
        assert_eq!(times(&store, &new).await, [6]);
    }
}
