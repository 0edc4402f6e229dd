//! The subscriptions in memory: who waits on each, when its next message is due, and how many it has.
//!
//! Invariants
//! - The counts are those of the last commit; a transaction's changes are added when it commits and dropped when not.
//! - A line's waiters are served in the order in which they came.

use crate::broker::bundle;
use crate::broker::lease::{Granted, Waiter};
use crate::broker::opened::Opened;
use crate::row::{int, name, time};
use crate::trouble::Refusal;
use crate::writer::Work;
use rusqlite::{Connection, OptionalExtension};
use sandpost_message::{Message, SubscriptionName, TimestampMs, Topic};
use sandpost_ports::broker::Backlog;
use sandpost_ports::{ErrorKind, PortError};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// Subscriptions of one store. Each costs a look at every turn in which somebody waits on it.
const LINES_MAX: usize = 10_000;

/// One subscription.
pub(crate) struct Line {
    pub(crate) name: SubscriptionName,
    pub(crate) topic: Topic,
    waiters: VecDeque<Waiter>,
    /// Something may have become deliverable since the waiters were last served.
    pub(crate) changed: bool,
    /// When the next one becomes deliverable; known while somebody waits.
    pub(crate) due_at_ms: Option<TimestampMs>,
    /// Deliveries, and those that are behind another of their ordering key: committed, and the change of this transaction.
    rows: i64,
    rows_change: i64,
    behind: i64,
    behind_change: i64,
}

/// All of them.
pub(crate) struct Lines {
    by_id: BTreeMap<i64, Line>,
    by_name: HashMap<SubscriptionName, i64>,
    by_topic: HashMap<Topic, Arc<[i64]>>,
    /// Made in this transaction.
    new: Vec<i64>,
    waiters_max: usize,
}

impl Lines {
    /// Reads them from the file, and counts.
    pub(crate) fn load(conn: &Connection, waiters_max: usize, opened: &mut Opened) -> rusqlite::Result<Self> {
        let mut lines = Self {
            by_id: BTreeMap::new(),
            by_name: HashMap::new(),
            by_topic: HashMap::new(),
            new: Vec::new(),
            waiters_max,
        };
        let mut select = conn.prepare("SELECT id, name, topic FROM subscriptions ORDER BY id")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            lines.insert(row.get(0)?, name(row, 1)?, name(row, 2)?);
        }
        let mut count =
            conn.prepare("SELECT subscription, count(*), count(visible_at_ms) FROM deliveries GROUP BY subscription")?;
        let mut rows = count.query([])?;
        while let Some(row) = rows.next()? {
            let (all, visible): (i64, i64) = (row.get(1)?, row.get(2)?);
            if let Some(line) = lines.by_id.get_mut(&row.get(0)?) {
                line.rows = all;
                line.behind = all - visible;
            }
        }
        let mut count = conn
            .prepare("SELECT subscription, sum(remaining), max(first) FROM bundle_deliveries GROUP BY subscription")?;
        let mut rows = count.query([])?;
        while let Some(row) = rows.next()? {
            let (id, remaining): (i64, i64) = (row.get(0)?, row.get(1)?);
            if let Some(line) = lines.by_id.get_mut(&id) {
                line.rows += remaining;
                opened.begin(id, row.get(2)?);
            }
        }
        Ok(lines)
    }

    /// Where a message goes, or why nowhere.
    pub(crate) fn targets(&self, message: &Message) -> Result<Arc<[i64]>, PortError> {
        let Some(only) = &message.only else {
            let targets = self.by_topic.get(&message.topic);
            return targets.cloned().ok_or_else(|| PortError::invalid("no subscription listens to this topic"));
        };
        let line = self.by_name.get(only).and_then(|id| Some((*id, self.by_id.get(id)?)));
        match line {
            Some((id, line)) if line.topic == message.topic => Ok(Arc::new([id])),
            _ => Err(PortError::invalid("the subscription that this message is for does not listen to its topic")),
        }
    }

    /// The other subscriptions of this one's topic.
    pub(crate) fn siblings(&self, id: i64) -> impl Iterator<Item = i64> + '_ {
        let topic = self.by_id.get(&id).and_then(|line| self.by_topic.get(&line.topic));
        topic.into_iter().flat_map(|ids| ids.iter().copied()).filter(move |sibling| *sibling != id)
    }

    pub(crate) fn get_mut(&mut self, id: i64) -> Option<&mut Line> {
        self.by_id.get_mut(&id)
    }

    /// Notes a change of the rows of a line in this transaction, after which a waiter may have something to get.
    pub(crate) fn count(&mut self, id: i64, rows: i64, behind: i64) {
        if let Some(line) = self.by_id.get_mut(&id) {
            line.rows_change += rows;
            line.behind_change += behind;
            line.changed = true;
        }
    }

    /// Lets somebody wait, after those who wait already.
    pub(crate) fn park(&mut self, id: i64, waiter: Waiter) {
        let waiters_max = self.waiters_max;
        let Some(line) = self.by_id.get_mut(&id) else { return };
        // Those who gave up are swept here, because nobody is served on a line without messages.
        line.waiters.retain(|waiter| !waiter.reply.is_closed());
        if line.waiters.len() >= waiters_max {
            let error = PortError::new(ErrorKind::Exceeded, "too many wait on this subscription already");
            waiter.reply.send(Err(error)).ok();
            return;
        }
        line.waiters.push_back(waiter);
        line.changed = true;
    }

    /// Takes a waiter back whose lease was rolled back; the earliest last.
    pub(crate) fn unserve(&mut self, granted: Granted) {
        if let Some(line) = self.by_id.get_mut(&granted.line) {
            line.waiters.push_front(granted.waiter);
            line.changed = true;
        }
    }

    /// The lines on which somebody waits and something may be deliverable.
    pub(crate) fn to_serve(&self, now_ms: TimestampMs) -> Vec<i64> {
        let due = |line: &Line| line.changed || line.due_at_ms.is_some_and(|due_at_ms| due_at_ms <= now_ms);
        self.by_id.iter().filter(|(_, line)| !line.waiters.is_empty() && due(line)).map(|(id, _)| *id).collect()
    }

    /// Whether anybody waits on any of them.
    pub(crate) fn anybody_waits(&self) -> bool {
        self.by_id.values().any(|line| !line.waiters.is_empty())
    }

    /// When the earliest message becomes due that somebody waits for.
    pub(crate) fn earliest_due_ms(&self) -> Option<TimestampMs> {
        self.by_id.values().filter(|line| !line.waiters.is_empty()).filter_map(|line| line.due_at_ms).min()
    }

    /// Tells all waiters that they wait in vain.
    pub(crate) fn dismiss(&mut self, why: impl Fn() -> PortError) {
        for line in self.by_id.values_mut() {
            for waiter in line.waiters.drain(..) {
                waiter.reply.send(Err(why())).ok();
            }
        }
    }

    pub(crate) fn committed(&mut self) {
        self.new.clear();
        for line in self.by_id.values_mut() {
            line.rows += std::mem::take(&mut line.rows_change);
            line.behind += std::mem::take(&mut line.behind_change);
        }
    }

    pub(crate) fn rolled_back(&mut self) {
        for line in self.by_id.values_mut() {
            (line.rows_change, line.behind_change) = (0, 0);
            line.changed = true;
        }
        for id in std::mem::take(&mut self.new) {
            if let Some(line) = self.by_id.remove(&id) {
                self.by_name.remove(&line.name);
                let left: Arc<[i64]> = self
                    .by_topic
                    .get(&line.topic)
                    .into_iter()
                    .flat_map(|ids| ids.iter().copied())
                    .filter(|left| *left != id)
                    .collect();
                if left.is_empty() {
                    self.by_topic.remove(&line.topic);
                } else {
                    self.by_topic.insert(line.topic, left);
                }
            }
        }
    }

    fn insert(&mut self, id: i64, name: SubscriptionName, topic: Topic) {
        let ids = self.by_topic.get(&topic).into_iter().flat_map(|ids| ids.iter().copied()).chain([id]).collect();
        self.by_topic.insert(topic.clone(), ids);
        self.by_name.insert(name.clone(), id);
        let line = Line {
            name,
            topic,
            waiters: VecDeque::new(),
            changed: true,
            due_at_ms: None,
            rows: 0,
            rows_change: 0,
            behind: 0,
            behind_change: 0,
        };
        self.by_id.insert(id, line);
    }
}

impl Line {
    /// The waiter whose turn it is and who is still there.
    pub(crate) fn next_waiter(&mut self) -> Option<Waiter> {
        while let Some(waiter) = self.waiters.pop_front() {
            if !waiter.reply.is_closed() {
                return Some(waiter);
            }
        }
        None
    }

    /// Puts back the one whose turn it is still.
    pub(crate) fn wait_on(&mut self, waiter: Waiter) {
        self.waiters.push_front(waiter);
    }
}

/// Makes the subscription, or finds it.
pub(crate) fn subscribe(work: &mut Work, name: &SubscriptionName, topic: &Topic) -> Result<i64, Refusal> {
    if let Some(id) = work.lines.by_name.get(name).copied() {
        return match work.lines.by_id.get(&id) {
            Some(line) if line.topic == *topic => Ok(id),
            _ => Err(PortError::new(ErrorKind::Conflict, "the subscription is bound to another topic").into()),
        };
    }
    if work.lines.by_id.len() >= LINES_MAX {
        return Err(PortError::new(ErrorKind::Exceeded, "there are 10000 subscriptions already").into());
    }
    let mut insert = work.conn.prepare_cached("INSERT INTO subscriptions (name, topic) VALUES (?1, ?2)")?;
    let id = insert.insert([name.as_str(), topic.as_str()])?;
    drop(insert);
    work.lines.insert(id, name.clone(), topic.clone());
    work.lines.new.push(id);
    Ok(id)
}

/// Counts without looking at what is ready: that is the rest.
pub(crate) fn backlog(work: &mut Work, name: &SubscriptionName) -> Result<Backlog, Refusal> {
    bundle::store(work)?;
    let line = work.lines.by_name.get(name).and_then(|id| Some((*id, work.lines.by_id.get(id)?)));
    let Some((id, line)) = line else { return Err(PortError::invalid("there is no such subscription").into()) };
    let (rows, behind) = (line.rows + line.rows_change, line.behind + line.behind_change);
    let (later, leased): (i64, i64) = work
        .conn
        .prepare_cached(
            "SELECT count(*), coalesce(sum(lease <> 0), 0) FROM deliveries INDEXED BY deliveries_due
             WHERE subscription = ?1 AND visible_at_ms > ?2",
        )?
        .query_row([id, int(work.now_ms)], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let leased_in_bundles = work.opened.leased_after(id, int(work.now_ms));
    let (later, leased) = (later + leased_in_bundles, leased + leased_in_bundles);
    let in_row: Option<(i64, TimestampMs)> = work
        .conn
        .prepare_cached(
            "SELECT seq, coalesce(
                 (SELECT published_at_ms FROM messages WHERE messages.seq = deliveries.seq),
                 (SELECT published_at_ms FROM bundles WHERE first <= deliveries.seq ORDER BY first DESC LIMIT 1))
             FROM deliveries WHERE subscription = ?1 ORDER BY seq LIMIT 1",
        )?
        .query_row([id], |row| Ok((row.get(0)?, time(row.get(1)?))))
        .optional()?;
    let oldest = in_row.into_iter().chain(bundle::oldest(work, id)?).min();
    Ok(Backlog {
        ready: time(rows - behind - later),
        in_flight: time(leased),
        held: time(behind + later - leased),
        oldest_published_at_ms: oldest.map(|(_, published_at_ms)| published_at_ms),
    })
}
