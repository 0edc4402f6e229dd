//! Bundles: what one transaction accepts that can be delivered at once is one row, and how it stands on a line is one more.
//!
//! Most messages are published, handled once and acknowledged. A row of its own for each, a row for each delivery of it and a
//! place in an index cost the writer more than everything else; in a bundle a message costs its bytes. Whatever is not so
//! simple is in rows of its own (`messages`, `deliveries`): what has an ordering key, a later time, or one subscription
//! alone, from the beginning; a message that is to be tried again, from then on.
//!
//! Invariants
//! - The messages of a bundle have numbers one after the other, and the bundle has that of its first.
//! - The row of a line says of each message whether nobody has it, somebody has it for the first time, or it is gone from
//!   here. A bundle goes with the last line that has anything left of it.
//! - A message that moves into rows of its own keeps its number, and with it its receipts.
//!
//! Not here: what is in memory of them (`opened`), when a lease is given and what ends it (`lease`, `settle`).

use crate::broker::opened::{Bundle, Member, Place};
use crate::broker::publish::insert_message;
use crate::row::{int, length, unreadable};
use crate::writer::Work;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use sandpost_message::{Message, TimestampMs, Topic, TraceParent};
use sandpost_ports::broker::Settlement;
use std::sync::Arc;

/// Messages of one bundle: enough that its rows cost nothing beside them.
const MESSAGES_MAX: usize = 256;
/// Bytes of one bundle, unless its one message is larger. A line whose turn it is has one in memory.
const MESSAGES_MAX_BYTES: usize = 64 * 1024;
/// What a message takes in a bundle beside its body and its attributes: ids, times, content type.
const MESSAGE_BYTES: usize = 160;

/// How a message stands on a line, in the file.
const FRESH: u8 = 0;
const LEASED: u8 = 1;
const GONE: u8 = 2;

/// Messages of this transaction that are for the same lines.
pub(crate) struct Gathered {
    topic: Topic,
    lines: Arc<[i64]>,
    messages: Vec<Arc<Message>>,
    bytes: usize,
}

/// A message in a bundle. The topic comes with the line.
#[derive(serde::Serialize, serde::Deserialize)]
struct Kept<'a> {
    id: &'a str,
    content_type: &'a str,
    #[serde(borrow)]
    attributes: Vec<(&'a str, &'a str)>,
    published_at_ms: TimestampMs,
    not_before_ms: TimestampMs,
    dedupe_key: Option<&'a str>,
    trace: &'a str,
    body: &'a [u8],
}

/// Whether a message can be in a bundle.
pub(crate) fn fits(message: &Message, now_ms: TimestampMs) -> bool {
    message.ordering_key.is_none() && message.only.is_none() && message.not_before_ms <= now_ms
}

/// Puts a message to what [`store`] stores.
pub(crate) fn gather(work: &mut Work, lines: &Arc<[i64]>, message: &Arc<Message>) -> rusqlite::Result<()> {
    let bytes = kept_bytes(message);
    let together = |other: &Gathered| other.topic == message.topic && other.lines == *lines;
    let place = work.gathered.iter().position(together);
    let full = |gathered: &Gathered| {
        gathered.messages.len() >= MESSAGES_MAX || gathered.bytes.saturating_add(bytes) > MESSAGES_MAX_BYTES
    };
    if let Some(place) = place
        && full(&work.gathered[place])
    {
        let gathered = work.gathered.swap_remove(place);
        store_one(work, gathered)?;
    }
    let place = work.gathered.iter().position(together).unwrap_or_else(|| {
        let topic = message.topic.clone();
        work.gathered.push(Gathered { topic, lines: Arc::clone(lines), messages: Vec::new(), bytes: 0 });
        work.gathered.len() - 1
    });
    let gathered = &mut work.gathered[place];
    gathered.messages.push(Arc::clone(message));
    gathered.bytes += bytes;
    Ok(())
}

/// Stores what was gathered. After it, it can be leased.
pub(crate) fn store(work: &mut Work) -> rusqlite::Result<()> {
    std::mem::take(&mut work.gathered).into_iter().try_for_each(|gathered| store_one(work, gathered))
}

fn store_one(work: &mut Work, gathered: Gathered) -> rusqlite::Result<()> {
    let Gathered { lines, messages, .. } = gathered;
    let Some(oldest) = messages.first() else { return Ok(()) };
    let (count, at_ms) = (length(messages.len()), int(work.now_ms));
    let first = work.ids.take(&work.conn, count)?;
    work.conn
        .prepare_cached("INSERT INTO bundles (first, at_ms, published_at_ms, messages) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![first, at_ms, int(oldest.published_at_ms), encode(&messages)?])?;
    for line in lines.iter() {
        work.conn
            .prepare_cached("INSERT INTO bundle_deliveries (subscription, first, remaining) VALUES (?1, ?2, ?3)")?
            .execute([*line, first, count])?;
        work.opened.stored(*line, first, at_ms, &messages);
        work.lines.count(*line, count, 0);
    }
    Ok(())
}

/// The first message of a line that nobody has, and from when on it was due; from the file where none is in memory.
pub(crate) fn next_fresh(work: &mut Work, line: i64, topic: &Topic) -> rusqlite::Result<Option<(Place, i64)>> {
    loop {
        if let Some(found) = work.opened.next_fresh(line) {
            return Ok(Some(found));
        }
        if !load_next(work, line, topic)? {
            return Ok(None);
        }
    }
}

/// When the message with the lowest number of a line's bundles was published, and that number.
pub(crate) fn oldest(work: &mut Work, line: i64, topic: &Topic) -> rusqlite::Result<Option<(i64, TimestampMs)>> {
    loop {
        if let Some((place, message)) = work.opened.oldest(line) {
            return Ok(Some((place.seq(), message.published_at_ms)));
        }
        if !load_next(work, line, topic)? {
            return Ok(None);
        }
    }
}

/// Brings the next bundle of a line into memory; false where the file has no more.
fn load_next(work: &mut Work, line: i64, topic: &Topic) -> rusqlite::Result<bool> {
    let Some(after) = work.opened.more_after(line) else { return Ok(false) };
    let mut select = work.conn.prepare_cached(
        "SELECT first, at_ms, marks, messages FROM bundle_deliveries JOIN bundles USING (first)
         WHERE subscription = ?1 AND first > ?2 ORDER BY first LIMIT 1",
    )?;
    let found = select
        .query_row([line, after], |row| {
            let (first, at_ms): (i64, i64) = (row.get(0)?, row.get(1)?);
            let marks: Option<Vec<u8>> = row.get(2)?;
            let messages = decode(row.get_ref(3)?.as_blob()?, topic)?;
            let gone = |index: usize| marks.as_ref().is_some_and(|marks| marks.get(index) != Some(&FRESH));
            let left = |(index, message)| (!gone(index)).then(|| Arc::new(message));
            Ok((first, Bundle::new(at_ms, messages.into_iter().enumerate().map(left).collect())))
        })
        .optional()?;
    drop(select);
    let Some((first, bundle)) = found else { return Ok(false) };
    work.opened.open(line, first, bundle);
    Ok(true)
}

/// Ends the lease of a message that is in a bundle.
pub(crate) fn settle(work: &mut Work, place: Place, settlement: Settlement) -> rusqlite::Result<()> {
    let now_ms = work.now_ms;
    match settlement {
        Settlement::Done => {
            work.opened.set(place, Member::Gone);
            work.lines.count(place.line, -1, 0);
            Ok(())
        }
        Settlement::RetryAt(at_ms) => move_out(work, place, int(at_ms.max(now_ms)), 1),
        Settlement::HandBack(at_ms) => move_out(work, place, int(at_ms.max(now_ms)), 0),
    }
}

/// Ends the leases whose time is over by then. Their messages are due since.
pub(crate) fn end_leases(work: &mut Work, by_ms: TimestampMs) -> rusqlite::Result<()> {
    while let Some((place, until_ms)) = work.opened.ended_by(int(by_ms)) {
        move_out(work, place, until_ms.min(int(work.now_ms)), 1)?;
    }
    Ok(())
}

/// Gives a message rows of its own.
fn move_out(work: &mut Work, place: Place, visible_at_ms: i64, attempt: i64) -> rusqlite::Result<()> {
    let Some(message) = work.opened.set(place, Member::Gone) else { return Ok(()) };
    move_out_of_file(&work.conn, place, &message, visible_at_ms, attempt)?;
    work.recent.add(place.seq(), &message);
    work.lines.count(place.line, 0, 0);
    Ok(())
}

fn move_out_of_file(
    conn: &Connection,
    place: Place,
    message: &Message,
    visible_at_ms: i64,
    attempt: i64,
) -> rusqlite::Result<()> {
    insert_message(conn, place.seq(), message)?;
    conn.prepare_cached(
        "INSERT INTO deliveries (subscription, seq, visible_at_ms, attempt) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute([place.line, place.seq(), visible_at_ms, attempt])?;
    Ok(())
}

/// Writes what has changed in the bundles that are in memory. Called once, at the end of a transaction.
pub(crate) fn write(work: &Work) -> rusqlite::Result<()> {
    for (line, first, bundle) in work.opened.dirty() {
        if bundle.left() > 0 {
            let marks: Vec<u8> = bundle.members().map(mark).collect();
            mark_in_file(&work.conn, line, first, bundle.left(), &marks)?;
        } else {
            forget(&work.conn, line, first, work.lines.siblings(line))?;
        }
    }
    Ok(())
}

fn mark_in_file(conn: &Connection, line: i64, first: i64, left: usize, marks: &[u8]) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE bundle_deliveries SET remaining = ?3, marks = ?4 WHERE subscription = ?1 AND first = ?2",
    )?
    .execute(params![line, first, length(left), marks])?;
    Ok(())
}

/// Nothing is left of a bundle on this line.
fn forget(conn: &Connection, line: i64, first: i64, siblings: impl Iterator<Item = i64>) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM bundle_deliveries WHERE subscription = ?1 AND first = ?2")?
        .execute([line, first])?;
    let mut held = conn.prepare_cached("SELECT 1 FROM bundle_deliveries WHERE subscription = ?1 AND first = ?2")?;
    for sibling in siblings {
        if held.exists([sibling, first])? {
            return Ok(());
        }
    }
    conn.prepare_cached("DELETE FROM bundles WHERE first = ?1")?.execute([first])?;
    Ok(())
}

/// At the start: what somebody had when the last run ended gets rows of its own, its attempt counted.
pub(crate) fn begin_run(conn: &Connection, now_ms: TimestampMs) -> rusqlite::Result<()> {
    let mut select = conn.prepare(
        "SELECT subscription, first, marks, messages, topic
         FROM bundle_deliveries JOIN bundles USING (first) JOIN subscriptions ON subscriptions.id = subscription
         WHERE instr(marks, x'01') > 0",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (line, first): (i64, i64) = (row.get(0)?, row.get(1)?);
        let mut marks: Vec<u8> = row.get(2)?;
        let messages = decode(row.get_ref(3)?.as_blob()?, &crate::row::name(row, 4)?)?;
        for (index, (mark, message)) in marks.iter_mut().zip(&messages).enumerate() {
            if *mark == LEASED {
                *mark = GONE;
                move_out_of_file(conn, Place { line, first, index }, message, int(now_ms), 1)?;
            }
        }
        let left = marks.iter().filter(|mark| **mark == FRESH).count();
        // A row without anything left goes, and its bundle with the last of them, below.
        mark_in_file(conn, line, first, left, &marks)?;
    }
    conn.execute("DELETE FROM bundle_deliveries WHERE remaining = 0", [])?;
    conn.execute(
        "DELETE FROM bundles WHERE NOT EXISTS
         (SELECT 1 FROM subscriptions AS s JOIN bundle_deliveries AS d ON d.subscription = s.id AND d.first = bundles.first)",
        [],
    )?;
    Ok(())
}

fn mark(member: Member) -> u8 {
    match member {
        Member::Fresh => FRESH,
        Member::Leased { .. } => LEASED,
        Member::Gone => GONE,
    }
}

/// About how many bytes a message takes in a bundle.
fn kept_bytes(message: &Message) -> usize {
    let attributes: usize = message.attributes.iter().map(|(key, value)| key.len() + value.len()).sum();
    message.body.len() + attributes + message.dedupe_key.as_ref().map_or(0, String::len) + MESSAGE_BYTES
}

fn encode(messages: &[Arc<Message>]) -> rusqlite::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(messages.iter().map(|message| kept_bytes(message)).sum());
    for message in messages {
        let kept = Kept {
            id: message.id.as_str(),
            content_type: &message.content_type,
            attributes: message.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
            published_at_ms: message.published_at_ms,
            not_before_ms: message.not_before_ms,
            dedupe_key: message.dedupe_key.as_deref(),
            trace: &message.trace.to_string(),
            body: &message.body,
        };
        bytes = postcard::to_extend(&kept, bytes).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    }
    Ok(bytes)
}

fn decode(mut bytes: &[u8], topic: &Topic) -> rusqlite::Result<Vec<Message>> {
    const COLUMN: usize = 3;
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let (kept, rest) = postcard::take_from_bytes(bytes).map_err(|error| unreadable(COLUMN, error))?;
        let Kept { id, content_type, attributes, published_at_ms, not_before_ms, dedupe_key, trace, body } = kept;
        messages.push(Message {
            id: id.parse().map_err(|error: sandpost_message::NameError| unreadable(COLUMN, error))?,
            topic: topic.clone(),
            body: Bytes::copy_from_slice(body),
            content_type: content_type.to_owned(),
            attributes: attributes.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            ordering_key: None,
            published_at_ms,
            not_before_ms,
            dedupe_key: dedupe_key.map(str::to_owned),
            only: None,
            trace: TraceParent::parse(trace).ok_or_else(|| unreadable(COLUMN, "not a traceparent"))?,
        });
        bytes = rest;
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Store, open};
    use sandpost_ports::broker::{Broker, Delivery, Subscription};
    use sandpost_ports::clock::ManualClock;
    use std::path::Path;

    fn at(path: &Path, clock: &ManualClock) -> Store {
        open(Some(path), &Config::default(), Arc::new(clock.clone())).unwrap()
    }

    fn message(body: impl Into<Bytes>) -> Message {
        let attributes = vec![("kind".to_owned(), "späť".to_owned()), (String::from("empty"), String::new())];
        Message { attributes, ..Message::new("orders".parse().unwrap(), body, 900) }
    }

    async fn publish(store: &Store, messages: Vec<Message>) {
        for published in store.publish(messages).await {
            published.unwrap();
        }
    }

    async fn subscribe(store: &Store, name: &str) -> Arc<dyn Subscription> {
        store.subscribe(&name.parse().unwrap(), &"orders".parse().unwrap()).await.unwrap()
    }

    fn shown(deliveries: &[Delivery]) -> Vec<(String, u32)> {
        let body = |delivery: &Delivery| String::from_utf8(delivery.message.body.to_vec()).unwrap();
        deliveries.iter().map(|delivery| (body(delivery), delivery.attempt)).collect()
    }

    /// Rows of bundles, of their deliveries, of messages, of deliveries.
    async fn rows(store: &Store) -> [i64; 4] {
        let count = |table| format!("SELECT count(*) FROM {table}");
        let read = move |work: &mut Work| {
            let counts = ["bundles", "bundle_deliveries", "messages", "deliveries"]
                .map(|table| work.conn.query_row(&count(table), [], |row| row.get::<_, i64>(0)));
            let [first, second, third, fourth] = counts;
            Ok([first?, second?, third?, fourth?])
        };
        store.write(read).await.unwrap()
    }

    #[tokio::test]
    async fn a_message_moves_out_for_one_line_and_stays_for_another() {
        let folder = tempfile::tempdir().unwrap();
        let (path, clock) = (folder.path().join("store.db"), ManualClock::at(1_000));
        let store = at(&path, &clock);
        let (quick, slow) = (subscribe(&store, "quick").await, subscribe(&store, "slow").await);
        publish(&store, ["a", "b", "c"].map(message).to_vec()).await;
        assert_eq!(rows(&store).await, [1, 2, 0, 0], "one bundle, on two lines");

        let mut of_slow = slow.next(3, 1_000).await.unwrap().into_iter().map(|delivery| delivery.receipt);
        slow.settle(of_slow.next().unwrap(), Settlement::RetryAt(5_000)).await.unwrap();
        slow.settle(of_slow.next().unwrap(), Settlement::HandBack(4_000)).await.unwrap();
        assert_eq!(rows(&store).await, [1, 2, 2, 2]);
        for delivery in quick.next(3, 1_000).await.unwrap() {
            quick.settle(delivery.receipt, Settlement::Done).await.unwrap();
        }
        assert_eq!(rows(&store).await, [1, 1, 2, 2], "the third is leased still");
        slow.settle(of_slow.next().unwrap(), Settlement::Done).await.unwrap();
        assert_eq!(rows(&store).await, [0, 0, 2, 2]);

        clock.advance(10_000);
        let again = slow.next(3, 1_000).await.unwrap();
        assert_eq!(shown(&again), [("b".to_owned(), 1), ("a".to_owned(), 2)]);
        assert_eq!(again[0].message.attributes, message("b").attributes);
        for delivery in again {
            slow.settle(delivery.receipt, Settlement::Done).await.unwrap();
        }
        assert_eq!(rows(&store).await, [0, 0, 0, 0]);
    }

    #[tokio::test]
    async fn what_was_leased_when_the_run_ended_counts_and_the_rest_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (path, clock) = (folder.path().join("store.db"), ManualClock::at(1_000));
        let store = at(&path, &clock);
        let first = subscribe(&store, "first").await;
        subscribe(&store, "second").await;
        publish(&store, ["a", "b", "c"].map(message).to_vec()).await;
        let leased = first.next(2, 60_000).await.unwrap();
        first.settle(leased.into_iter().next().unwrap().receipt, Settlement::Done).await.unwrap();
        store.close().await;

        let store = at(&path, &clock);
        let (first, second) = (subscribe(&store, "first").await, subscribe(&store, "second").await);
        assert_eq!(rows(&store).await, [1, 2, 1, 1], "the one that was leased has rows of its own");
        // The longest due first: c since it was published, b since its lease ended with the run.
        assert_eq!(store.backlog(&"first".parse().unwrap()).await.unwrap().ready, 2);
        let of_first = first.next(3, 1_000).await.unwrap();
        let mut again = shown(&of_first);
        again.sort();
        assert_eq!(again, [("b".to_owned(), 2), ("c".to_owned(), 1)]);
        let of_second = second.next(9, 1_000).await.unwrap();
        assert_eq!(shown(&of_second), ["a", "b", "c"].map(|body| (body.to_owned(), 1)));
        for (line, deliveries) in [(first, of_first), (second, of_second)] {
            for delivery in deliveries {
                line.settle(delivery.receipt, Settlement::Done).await.unwrap();
            }
        }
        assert_eq!(rows(&store).await, [0, 0, 0, 0]);
    }

    #[tokio::test]
    async fn a_bundle_is_bounded_and_a_large_message_is_one_of_its_own() {
        let store = open(None, &Config::default(), Arc::new(ManualClock::at(1_000))).unwrap();
        let line = subscribe(&store, "line").await;
        publish(&store, (0..MESSAGES_MAX + 1).map(|_| message("small")).collect()).await;
        assert_eq!(rows(&store).await[0], 2, "one more than fits");
        publish(&store, vec![message("x"), message(vec![7; MESSAGES_MAX_BYTES + 1]), message("y")]).await;
        assert_eq!(rows(&store).await[0], 5);
        let mut left = MESSAGES_MAX + 4;
        while left > 0 {
            for delivery in line.next(100, 1_000).await.unwrap() {
                line.settle(delivery.receipt, Settlement::Done).await.unwrap();
                left -= 1;
            }
        }
        assert_eq!(rows(&store).await, [0, 0, 0, 0]);
    }
}
