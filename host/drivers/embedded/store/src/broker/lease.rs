//! Leasing: who waits gets what is due, and what nobody took goes back.
//!
//! Invariants
//! - A lease is committed before it is handed out, and its attempt is counted in it.
//! - What is due is leased in the order in which it became due, whether it is in a bundle or in a row.
//! - A lease whose receiver is gone is undone: the row has the time and the attempts it had before. That holds for one
//!   that could not be handed out as well as for one that was, to a future that was dropped before it looked.

use crate::broker::bundle;
use crate::broker::opened::Member;
use crate::broker::settle::Token;
use crate::row::{MESSAGE_COLUMNS, int, message, time};
use crate::trouble::Trouble;
use crate::writer::Work;
use rusqlite::{OptionalExtension, Row, params};
use sandpost_message::{Message, TimestampMs, Topic};
use sandpost_ports::PortError;
use sandpost_ports::broker::{Delivery, Receipt};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, oneshot};

/// The most that one call leases, whatever it asks for.
const LEASE_MAX: usize = 1_000;

/// Bytes of bodies after which no further message is added to a lease, so that many large ones do not fill the memory.
const LEASE_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Somebody in `next`.
pub(crate) struct Waiter {
    pub(crate) max: usize,
    pub(crate) lease_ms: u64,
    pub(crate) reply: oneshot::Sender<Result<Leases, PortError>>,
}

/// What a waiter gets when the transaction is committed.
pub(crate) struct Granted {
    pub(crate) line: i64,
    pub(crate) waiter: Waiter,
    deliveries: Vec<Delivery>,
    leased: Vec<Leased>,
}

impl Granted {
    /// Hands it out. Where nobody is there it is dropped, and so goes back.
    pub(crate) fn send(self, returns: &Arc<Returns>) {
        let leases = Leases { deliveries: self.deliveries, leased: self.leased, returns: Arc::clone(returns) };
        self.waiter.reply.send(Ok(leases)).ok();
    }
}

/// Deliveries on their way to a receiver. Goes back by being dropped.
pub(crate) struct Leases {
    deliveries: Vec<Delivery>,
    leased: Vec<Leased>,
    returns: Arc<Returns>,
}

impl Leases {
    /// They have arrived.
    pub(crate) fn take(mut self) -> Vec<Delivery> {
        self.leased.clear();
        std::mem::take(&mut self.deliveries)
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        if !self.leased.is_empty() {
            self.returns.put_back(&self.leased);
            self.returns.wake.notify_one();
        }
    }
}

/// What undoing a lease needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leased {
    token: Token,
    visible_at_ms: i64,
}

/// Leases that nobody took. Bounded by what is leased.
#[derive(Default)]
pub(crate) struct Returns {
    list: Mutex<Vec<Leased>>,
    wake: Notify,
}

impl Returns {
    /// Returns when there is something to take back.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    pub(crate) fn take(&self) -> Vec<Leased> {
        std::mem::take(&mut *self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps them for the next turn, without causing one.
    pub(crate) fn put_back(&self, leased: &[Leased]) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(leased);
    }
}

/// Undoes leases that still stand.
pub(crate) fn undo(work: &mut Work, returned: &[Leased]) -> rusqlite::Result<()> {
    for Leased { token, visible_at_ms } in returned {
        if let Some((place, lease, _)) = work.opened.leased(token.line, token.seq) {
            if lease == token.lease {
                work.opened.set(place, Member::Fresh);
                work.lines.count(token.line, 0, 0);
            }
            continue;
        }
        work.conn
            .prepare_cached(
                "UPDATE deliveries SET visible_at_ms = ?4, lease = 0, attempt = attempt - 1
                 WHERE subscription = ?1 AND seq = ?2 AND lease = ?3",
            )?
            .execute([token.line, token.seq, token.lease, *visible_at_ms])?;
        work.lines.count(token.line, 0, 0);
    }
    Ok(())
}

/// Leases what is due to those who wait, and notes when the next is due where some are left.
pub(crate) fn serve(work: &mut Work) -> rusqlite::Result<()> {
    for id in work.lines.to_serve(work.now_ms) {
        while let Some((topic, waiter)) =
            work.lines.get_mut(id).and_then(|line| Some((line.topic.clone(), line.next_waiter()?)))
        {
            let due = match due(work, id, &topic, &waiter) {
                Ok(due) => due,
                // What cannot be understood is one line's trouble; SQLite's own is everybody's.
                Err(error) if error.sqlite_error_code().is_none() => {
                    waiter.reply.send(Err(Trouble::before_commit(error).error())).ok();
                    continue;
                }
                Err(error) => {
                    keep(work, id, waiter);
                    return Err(error);
                }
            };
            if due.is_empty() {
                let due_at_ms = due_at_ms(work, id);
                keep(work, id, waiter);
                if let Some(line) = work.lines.get_mut(id) {
                    line.changed = false;
                    line.due_at_ms = due_at_ms?;
                }
                break;
            }
            let (leased, deliveries) = due.into_iter().unzip();
            work.granted.push(Granted { line: id, waiter, deliveries, leased });
        }
    }
    Ok(())
}

fn keep(work: &mut Work, id: i64, waiter: Waiter) {
    if let Some(line) = work.lines.get_mut(id) {
        line.wait_on(waiter);
    }
}

const DUE: &str = "SELECT visible_at_ms, seq, attempt, ordering_key FROM deliveries INDEXED BY deliveries_due
     WHERE subscription = ?1 AND visible_at_ms <= ?2 ORDER BY visible_at_ms, seq LIMIT ?3";

const MESSAGE: &str = "SELECT message_id, content_type, attributes, ?2, published_at_ms, not_before_ms, dedupe_key,
     only_subscription, trace, body, hops FROM messages WHERE seq = ?1";

/// A delivery in a row of its own that is due.
struct DueRow {
    visible_at_ms: i64,
    seq: i64,
    attempt: u32,
    ordering_key: Option<String>,
}

/// Leases what is due, the longest due first, as much as the waiter asks for.
fn due(work: &mut Work, id: i64, topic: &Topic, waiter: &Waiter) -> rusqlite::Result<Vec<(Leased, Delivery)>> {
    let max = waiter.max.min(LEASE_MAX);
    let until_ms = int(work.now_ms.saturating_add(waiter.lease_ms));
    let mut rows = due_rows(work, id, max)?.into_iter().peekable();
    let (mut due, mut bytes) = (Vec::new(), 0);
    while due.len() < max && bytes <= LEASE_MAX_BYTES {
        let fresh = match bundle::next_fresh(work, id, topic) {
            Ok(fresh) => fresh.map(|(place, at_ms)| (place, at_ms.min(int(work.now_ms)))),
            Err(error) if due.is_empty() || error.sqlite_error_code().is_some() => return Err(error),
            // What was leased so far is handed out; the next call says what is wrong.
            Err(_unreadable) => break,
        };
        let earlier =
            |row: &DueRow| fresh.is_none_or(|(place, at_ms)| (row.visible_at_ms, row.seq) < (at_ms, place.seq()));
        let (token, visible_at_ms, attempt, message) = if let Some(row) = rows.next_if(earlier) {
            let message = match message_of(work, &row, topic) {
                Ok(message) => message,
                Err(error) if due.is_empty() || error.sqlite_error_code().is_some() => return Err(error),
                Err(_unreadable) => break,
            };
            let lease = work.ids.take(&work.conn, 1)?;
            work.conn
                .prepare_cached(
                    "UPDATE deliveries SET visible_at_ms = ?3, lease = ?4, attempt = attempt + 1
                     WHERE subscription = ?1 AND seq = ?2",
                )?
                .execute([id, row.seq, until_ms, lease])?;
            let token = Token { line: id, seq: row.seq, lease, keyed: message.ordering_key.is_some() };
            (token, row.visible_at_ms, row.attempt, message)
        } else if let Some((place, at_ms)) = fresh
            && let Some(message) = work.opened.message(place)
        {
            let lease = work.ids.take(&work.conn, 1)?;
            work.opened.set(place, Member::Leased { lease, until_ms });
            (Token { line: id, seq: place.seq(), lease, keyed: false }, at_ms, 0, message)
        } else {
            break;
        };
        bytes += message.body.len();
        let receipt = Receipt::new(token.to_string());
        let delivery = Delivery { message, attempt: attempt.saturating_add(1), receipt };
        due.push((Leased { token, visible_at_ms }, delivery));
    }
    Ok(due)
}

fn due_rows(work: &Work, id: i64, max: usize) -> rusqlite::Result<Vec<DueRow>> {
    let mut select = work.conn.prepare_cached(DUE)?;
    let rows = select.query_map(params![id, int(work.now_ms), crate::row::length(max)], |row| {
        Ok(DueRow { visible_at_ms: row.get(0)?, seq: row.get(1)?, attempt: row.get(2)?, ordering_key: row.get(3)? })
    })?;
    rows.collect()
}

fn message_of(work: &mut Work, row: &DueRow, topic: &Topic) -> rusqlite::Result<Arc<Message>> {
    if let Some(message) = work.recent.get(row.seq) {
        return Ok(message);
    }
    let read = |row: &Row<'_>| Ok(Message { hops: row.get(MESSAGE_COLUMNS)?, ..message(row, 0, topic.clone())? });
    let mut select = work.conn.prepare_cached(MESSAGE)?;
    let message = match select.query_row(params![row.seq, row.ordering_key], read).optional()? {
        Some(message) => message,
        None => bundle::message(&work.conn, row.seq, topic)?,
    };
    let message = Arc::new(message);
    work.recent.add(row.seq, &message);
    Ok(message)
}

fn due_at_ms(work: &Work, id: i64) -> rusqlite::Result<Option<TimestampMs>> {
    work.conn
        .prepare_cached(
            "SELECT visible_at_ms FROM deliveries INDEXED BY deliveries_due
             WHERE subscription = ?1 AND visible_at_ms IS NOT NULL ORDER BY visible_at_ms LIMIT 1",
        )?
        .query_row([id], |row| row.get(0))
        .optional()
        .map(|due_at_ms| due_at_ms.map(time))
}

#[cfg(test)]
mod tests {
    use super::DUE;
    use crate::{Config, open};
    use rusqlite::StatementStatus::{Sort, VmStep};
    use sandpost_message::Message;
    use sandpost_ports::broker::{Broker, Settlement};
    use sandpost_ports::clock::ManualClock;
    use std::sync::Arc;

    /// SQLite's own count of its steps, because a time would measure the machine.
    #[tokio::test]
    async fn a_pull_costs_the_same_however_long_the_queue() {
        let store = open(None, &Config::default(), Arc::new(ManualClock::at(1_000))).unwrap();
        let topic: sandpost_message::Topic = "orders".parse().unwrap();
        let subscription = store.subscribe(&"orders-handler".parse().unwrap(), &topic).await.unwrap();
        let message = |key: Option<&str>, not_before_ms| Message {
            ordering_key: key.map(str::to_owned),
            not_before_ms,
            ..Message::new(topic.clone(), "body", 1_000)
        };
        let steps = || {
            store.write(|work| {
                let select = work.conn.prepare_cached(DUE)?;
                Ok((select.reset_status(VmStep), select.reset_status(Sort)))
            })
        };
        let mut costs = Vec::new();
        for length in [1, 2_000] {
            // A hot key, delayed ones, and plain ones; far more than any call leases.
            for kind in [message(Some("hot"), 0), message(None, 50_000), message(None, 0)] {
                let batch = (0..length).map(|_| Message { id: sandpost_message::MessageId::new(), ..kind.clone() });
                for answer in store.publish(batch.collect()).await {
                    answer.unwrap();
                }
            }
            steps().await.unwrap();
            for _ in 0..2 {
                let delivery = subscription.next(1, 1_000).await.unwrap().remove(0);
                subscription.settle(delivery.receipt, Settlement::Done).await.unwrap();
            }
            costs.push(steps().await.unwrap());
        }
        assert_eq!((costs[0].1, costs[1].1), (0, 0), "the index is in order already");
        assert!(costs[0].0 > 0, "the statement was measured");
        assert!(costs[1].0 <= 2 * costs[0].0, "{costs:?}");
    }
}
