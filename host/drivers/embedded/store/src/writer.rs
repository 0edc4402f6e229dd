//! The thread that writes: group commit.
//!
//! Whatever waits, up to [`Config::batch_max`](crate::Config) commands, runs in one transaction; what was accepted is stored
//! together, and those who wait for messages are served in the same transaction; then one commit, and only then the answers.
//! Where many came at once, the next transaction waits a moment for more: a sync of the disk costs the processor as much as
//! several commands do.
//!
//! Invariants
//! - No answer before the commit, and none that says `Ok` without it.
//! - A command that refuses its arguments has changed nothing by then, so the others of its transaction stay.
//! - Where SQLite itself fails, the whole transaction is rolled back and each command runs again alone: a settlement that
//!   makes room on a full disk does not fail because a publish beside it does not fit.
//! - A failure is the end of a transaction, never of the thread: the next one tries the disk again.
//!
//! Not here: what the commands do (`broker`, `state`).

use crate::broker::bundle::{self, Gathered};
use crate::broker::lease::{self, Granted, Returns, Waiter};
use crate::broker::lines::Lines;
use crate::broker::opened::Opened;
use crate::broker::publish;
use crate::broker::recent::Recent;
use crate::row::{int, time};
use crate::state::ledger::{self, Actors, Pending};
use crate::trouble::{Refusal, Trouble, closed};
use rusqlite::Connection;
use sandpost_message::TimestampMs;
use sandpost_ports::PortError;
use sandpost_ports::clock::Clock;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// The longest sleep. A machine's clock that is set forward makes messages due without waking anybody.
const SLEEP_MAX_MS: u64 = 60_000;

/// A clock that goes back by no more than this is taken as it is; the messages that were due are due again that soon.
const CLOCK_BACK_MS: u64 = 1_000;

/// When ended leases are looked at again after that failed.
const ENDS_AGAIN_MS: u64 = 1_000;

/// From how many commands in one transaction on the next one waits for more. Fewer are what one message at a time brings,
/// whose publisher would only wait longer.
const GATHER_COMMANDS_MIN: usize = 8;

/// How long it waits at most; else as long as the transaction before took.
const GATHER_MAX: Duration = Duration::from_millis(2);

/// Ids that are reserved in the file at once; what is left of them when the host stops is skipped.
const IDS_RESERVED: i64 = 1 << 20;

/// What the writer is asked for.
pub(crate) enum Command {
    /// To do something in a transaction.
    Job(Box<dyn Job>),
    /// To let somebody wait for messages of this subscription.
    Next(i64, Waiter),
    /// To finish what waits, and end. Dropped when the file is closed and free.
    Close(oneshot::Sender<()>),
}

/// A command that can run again where its transaction failed.
pub(crate) trait Job: Send {
    /// Does it. `Err` is SQLite's; a refusal is kept for the answer.
    fn run(&mut self, work: &mut Work) -> rusqlite::Result<()>;
    /// Tells the caller, after the commit or after its failure.
    fn answer(self: Box<Self>, committed: Result<(), &Trouble>);
}

/// A closure as a command.
pub(crate) struct Call<F, T> {
    pub(crate) run: F,
    pub(crate) outcome: Option<Result<T, PortError>>,
    pub(crate) reply: oneshot::Sender<Result<T, PortError>>,
}

impl<F, T> Job for Call<F, T>
where
    F: FnMut(&mut Work) -> Result<T, Refusal> + Send,
    T: Send,
{
    fn run(&mut self, work: &mut Work) -> rusqlite::Result<()> {
        self.outcome = Some(match (self.run)(work) {
            Ok(value) => Ok(value),
            Err(Refusal::Port(error)) => Err(error),
            Err(Refusal::Sqlite(error)) => return Err(error),
        });
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), &Trouble>) {
        let answer = match (committed, self.outcome) {
            (Err(trouble), _) => Err(trouble.error()),
            (Ok(()), Some(outcome)) => outcome,
            (Ok(()), None) => return,
        };
        // Who no longer waits does not want the answer.
        self.reply.send(answer).ok();
    }
}

/// What commands work on.
pub(crate) struct Work {
    pub(crate) conn: Connection,
    /// The subscriptions, with who waits on them.
    pub(crate) lines: Lines,
    /// The time of this transaction.
    pub(crate) now_ms: TimestampMs,
    pub(crate) ids: Ids,
    /// How long a dedupe key is known.
    pub(crate) dedupe_window_ms: u64,
    /// From how many bytes on nothing new is accepted.
    pub(crate) accept_max_bytes: u64,
    /// Leases of this transaction, to be handed out after it.
    pub(crate) granted: Vec<Granted>,
    /// What was given rows of its own a moment ago.
    pub(crate) recent: Recent,
    /// How many dedupe keys this transaction has remembered.
    pub(crate) keys_remembered: i64,
    /// What this transaction accepted and has yet to store.
    pub(crate) gathered: Vec<Gathered>,
    /// The bundles that are at work.
    pub(crate) opened: Opened,
    /// Who is at work, as the ledger's rows name it.
    pub(crate) actors: Actors,
    /// What this transaction has recorded in the ledger.
    pub(crate) pending: Pending,
    /// How many bytes this transaction may still accept, once it was asked.
    pub(crate) room_bytes: Option<u64>,
    /// How many it has accepted.
    pub(crate) taken_bytes: u64,
}

impl Work {
    /// Takes room for something new in this transaction; false where there is not as much. The oldest history gives way
    /// first: what a handled message left behind must not keep a new one out.
    pub(crate) fn take_room(&mut self, bytes: u64) -> rusqlite::Result<bool> {
        let mut room = match self.room_bytes {
            Some(room) => room,
            None => self.count_room()?,
        };
        while room < bytes && ledger::give_way(&self.conn)? {
            room = self.count_room()?;
        }
        let left = room.checked_sub(bytes);
        self.room_bytes = Some(left.unwrap_or(room));
        if left.is_some() {
            self.taken_bytes += bytes;
        }
        Ok(left.is_some())
    }

    /// How many bytes may still be accepted, by the pages in use.
    fn count_room(&self) -> rusqlite::Result<u64> {
        let pragma =
            |sql: &str| -> rusqlite::Result<i64> { self.conn.prepare_cached(sql)?.query_row([], |row| row.get(0)) };
        let pages = pragma("PRAGMA page_count")? - pragma("PRAGMA freelist_count")?;
        let used = u64::try_from(pages.saturating_mul(pragma("PRAGMA page_size")?)).unwrap_or(0);
        // What was taken in this transaction may not be in a page yet.
        Ok(self.accept_max_bytes.saturating_sub(used).saturating_sub(self.taken_bytes))
    }
}

/// Numbers that are never given twice, over restarts too: a receipt of an earlier run must not fit a message of this one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ids {
    next: i64,
    reserved: i64,
    reserved_on_disk: i64,
}

impl Ids {
    /// Goes on where the file says.
    pub(crate) fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let next = conn.query_row("SELECT value FROM meta WHERE name = 'ids'", [], |row| row.get(0))?;
        Ok(Self { next, reserved: next, reserved_on_disk: next })
    }

    /// The next so many, at most [`IDS_RESERVED`], one after the other and larger than all before; gives the first.
    pub(crate) fn take(&mut self, conn: &Connection, count: i64) -> rusqlite::Result<i64> {
        if self.next + count > self.reserved {
            let reserved = self.next + count + IDS_RESERVED;
            conn.prepare_cached("UPDATE meta SET value = ?1 WHERE name = 'ids'")?.execute([reserved])?;
            self.reserved = reserved;
        }
        let first = self.next;
        self.next += count;
        Ok(first)
    }

    fn committed(&mut self) {
        self.reserved_on_disk = self.reserved;
    }

    fn rolled_back(&mut self) {
        self.reserved = self.reserved_on_disk;
    }
}

/// The thread's own.
pub(crate) struct Writer {
    pub(crate) work: Work,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) returns: Arc<Returns>,
    pub(crate) batch_max: usize,
    /// The ended leases could not be ended.
    pub(crate) ends_failed: bool,
    /// Where the clock went back from, until the deliveries have followed.
    pub(crate) clock_was_ms: Option<TimestampMs>,
    /// Held until the file is closed.
    pub(crate) lock: Option<File>,
}

impl Writer {
    /// Serves until it is told to close, or nobody is left to ask.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut told = Vec::new();
        let mut batch = Vec::with_capacity(self.batch_max.min(1024));
        let mut gather = Duration::ZERO;
        loop {
            let wake_at_ms = self.wake_at_ms();
            let open = tokio::select! {
                biased;
                taken = commands.recv_many(&mut batch, self.batch_max) => taken > 0,
                () = self.returns.changed() => true,
                () = sleep_until(&*self.clock, wake_at_ms) => true,
            };
            if !open {
                break;
            }
            if !gather.is_zero() && (1..self.batch_max).contains(&batch.len()) {
                // The thread is the writer's own: nobody else waits.
                std::thread::sleep(gather);
                while batch.len() < self.batch_max
                    && let Ok(command) = commands.try_recv()
                {
                    batch.push(command);
                }
            }
            let (many, since) = (batch.len() >= GATHER_COMMANDS_MIN, Instant::now());
            let jobs = self.sort(&mut batch, &mut commands, &mut told);
            self.turn(jobs);
            gather = if many { since.elapsed().min(GATHER_MAX) } else { Duration::ZERO };
        }
        // Leases that nobody took are undone, so that their attempts do not count after a restart.
        self.turn(Vec::new());
        self.work.lines.dismiss(closed);
        self.work.conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").ok();
        let Self { work, lock, .. } = self;
        drop(work);
        drop(lock);
        drop(told);
    }

    fn sort(
        &mut self,
        batch: &mut Vec<Command>,
        commands: &mut mpsc::Receiver<Command>,
        told: &mut Vec<oneshot::Sender<()>>,
    ) -> Vec<Box<dyn Job>> {
        let mut jobs = Vec::with_capacity(batch.len());
        for command in batch.drain(..) {
            match command {
                Command::Job(job) => jobs.push(job),
                Command::Next(line, waiter) => self.work.lines.park(line, waiter),
                Command::Close(done) => {
                    commands.close();
                    self.work.lines.dismiss(closed);
                    told.push(done);
                }
            }
        }
        jobs
    }

    /// One transaction where all goes well.
    fn turn(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        self.look_at_the_clock();
        self.end_leases();
        let returned = self.returns.take();
        let together = self.transact(|work| {
            lease::undo(work, &returned)?;
            for job in &mut jobs {
                job.run(work)?;
            }
            bundle::store(work)?;
            lease::serve(work)
        });
        match together {
            Ok(()) => jobs.into_iter().for_each(|job| job.answer(Ok(()))),
            Err(trouble) => self.one_by_one(jobs, &returned, &trouble),
        }
        self.hand_out();
    }

    /// Ends the leases whose time is over, in transactions of their own: where it fails, it fails nobody else.
    fn end_leases(&mut self) {
        self.ends_failed = false;
        let by_ms = self.clock_was_ms.map_or(self.work.now_ms, |was_ms| was_ms.max(self.work.now_ms));
        while self.work.opened.first_end_ms().is_some_and(|end_ms| end_ms <= int(by_ms)) {
            if self.transact(|work| bundle::end_leases(work, by_ms)).is_err() {
                self.ends_failed = true;
                return;
            }
        }
    }

    fn one_by_one(&mut self, jobs: Vec<Box<dyn Job>>, returned: &[lease::Leased], together: &Trouble) {
        let alone = jobs.len() == 1 && returned.is_empty() && !self.work.lines.anybody_waits();
        for mut job in jobs {
            if alone {
                job.answer(Err(together));
                continue;
            }
            match self.transact(|work| job.run(work)) {
                Ok(()) => job.answer(Ok(())),
                Err(trouble) => job.answer(Err(&trouble)),
            }
        }
        if self.transact(|work| lease::undo(work, returned)).is_err() {
            // They end with their time instead; the next turn tries once more.
            self.returns.put_back(returned);
        }
        if let Err(trouble) = self.transact(lease::serve) {
            self.work.lines.dismiss(|| trouble.error());
        }
    }

    /// Runs `what` in a transaction, and takes back all of its traces where it fails.
    fn transact(&mut self, what: impl FnOnce(&mut Work) -> rusqlite::Result<()>) -> Result<(), Trouble> {
        let clock_was_ms = self.clock_was_ms;
        let work = &mut self.work;
        work.room_bytes = None;
        work.taken_bytes = 0;
        let done = work.conn.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([])).and_then(|_| {
            if let Some(was_ms) = clock_was_ms {
                keep_due(work, was_ms)?;
            }
            what(work)?;
            bundle::store(work)?;
            bundle::write(work)?;
            publish::forget_keys(work)?;
            ledger::write(work)
        });
        let done = done.map_err(Trouble::before_commit).and_then(|()| {
            let commit = work.conn.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
            commit.map(|_| ()).map_err(Trouble::in_commit)
        });
        if done.is_ok() {
            work.lines.committed();
            work.opened.committed();
            work.ids.committed();
            self.clock_was_ms = None;
        } else {
            // Some failures have rolled back by themselves.
            if !work.conn.is_autocommit() {
                work.conn.execute_batch("ROLLBACK").ok();
            }
            work.ids.rolled_back();
            work.actors.rolled_back();
            work.pending.rolled_back();
            work.recent.clear();
            work.gathered.clear();
            work.keys_remembered = 0;
            work.opened.rolled_back();
            work.lines.rolled_back();
            for granted in work.granted.drain(..).rev() {
                work.lines.unserve(granted);
            }
        }
        done
    }

    fn hand_out(&mut self) {
        for granted in self.work.granted.drain(..) {
            granted.send(&self.returns);
        }
    }

    fn look_at_the_clock(&mut self) {
        let (was_ms, now_ms) = (self.work.now_ms, self.clock.now_ms());
        if now_ms.saturating_add(CLOCK_BACK_MS) < was_ms {
            self.clock_was_ms = Some(self.clock_was_ms.map_or(was_ms, |earlier| earlier.max(was_ms)));
        }
        self.work.now_ms = now_ms;
    }

    fn wake_at_ms(&self) -> Option<TimestampMs> {
        let work = &self.work;
        let now_ms = self.clock.now_ms();
        let again = if self.ends_failed { now_ms.saturating_add(ENDS_AGAIN_MS) } else { 0 };
        let ends = || work.lines.anybody_waits().then(|| work.opened.first_end_ms().map(time)).flatten();
        let end_ms = ends().map(|end_ms| end_ms.max(again));
        let due_at_ms = work.lines.earliest_due_ms().into_iter().chain(end_ms).min()?;
        Some(due_at_ms.min(now_ms.saturating_add(SLEEP_MAX_MS)))
    }
}

/// What was due stays due when the clock is set back, instead of waiting for the same time to come again.
fn keep_due(work: &Work, was_ms: TimestampMs) -> rusqlite::Result<()> {
    work.conn.execute(
        "UPDATE deliveries SET visible_at_ms = ?1 WHERE visible_at_ms > ?1 AND visible_at_ms <= ?2",
        [int(work.now_ms), int(was_ms)],
    )?;
    Ok(())
}

async fn sleep_until(clock: &dyn Clock, at_ms: Option<TimestampMs>) {
    match at_ms {
        Some(at_ms) => clock.sleep_until(at_ms).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, Store, open};
    use sandpost_message::Message;
    use sandpost_ports::ErrorKind;
    use sandpost_ports::broker::{Broker, Settlement};
    use sandpost_ports::clock::ManualClock;
    use sandpost_ports::health::Health;
    use std::sync::Arc;

    /// Makes deliveries fail, after their messages have been written.
    async fn sabotage(store: &Store, sql: &'static str) {
        store.write(move |work| Ok(work.conn.execute_batch(sql)?)).await.unwrap();
    }

    const BREAK: &str = "
        CREATE TRIGGER break_insert BEFORE INSERT ON deliveries BEGIN SELECT RAISE(ABORT, 'broken'); END;
        CREATE TRIGGER break_update BEFORE UPDATE ON deliveries BEGIN SELECT RAISE(ABORT, 'broken'); END;
        CREATE TRIGGER break_store BEFORE INSERT ON bundle_deliveries BEGIN SELECT RAISE(ABORT, 'broken'); END;
        CREATE TRIGGER break_lease BEFORE UPDATE ON bundle_deliveries WHEN instr(NEW.marks, x'01') > 0
        BEGIN SELECT RAISE(ABORT, 'broken'); END;";
    const MEND: &str = "
        DROP TRIGGER break_insert; DROP TRIGGER break_update; DROP TRIGGER break_store; DROP TRIGGER break_lease;";

    /// Once with messages in bundles, and once with messages in rows of their own.
    #[tokio::test]
    async fn a_failure_leaves_no_trace_and_does_not_spread() {
        for ordering_key in [false, true] {
            fails_without_a_trace(ordering_key).await;
        }
    }

    async fn fails_without_a_trace(ordering_key: bool) {
        let store = open(None, &Config::default(), Arc::new(ManualClock::at(1_000))).unwrap();
        let (name, topic) = ("orders-handler".parse().unwrap(), "orders".parse().unwrap());
        let subscription = store.subscribe(&name, &topic).await.unwrap();
        let message = || {
            let message = Message::new("orders".parse().unwrap(), "body", 1_000);
            let key = ordering_key.then(|| message.id.to_string());
            Message { ordering_key: key, ..message }
        };
        store.publish(vec![message(), message(), message()]).await.remove(0).unwrap();
        let leased = subscription.next(1, 1_000).await.unwrap().remove(0);
        let messages = || {
            store.write(|work| {
                let all = "SELECT (SELECT count(*) FROM messages)
                     + (SELECT coalesce(sum(remaining), 0) FROM bundle_deliveries WHERE subscription = 1)";
                Ok(work.conn.query_row(all, [], |row| row.get::<_, i64>(0))?)
            })
        };

        sabotage(&store, BREAK).await;
        // All in the queue before the writer sees the first: one transaction, and then each alone.
        let other = "other-handler".parse().unwrap();
        let (published, next, settled, made) = tokio::join!(
            store.publish(vec![message(), message()]),
            subscription.next(1, 1_000),
            subscription.settle(leased.receipt, Settlement::Done),
            store.subscribe(&other, &topic),
        );
        for answer in published {
            assert_eq!(answer.unwrap_err().kind, ErrorKind::Other);
        }
        assert_eq!(next.unwrap_err().kind, ErrorKind::Other);
        settled.unwrap();
        made.unwrap();
        assert_eq!(messages().await.unwrap(), 2, "the settled one is gone, and the refused ones never were");
        let backlog = store.backlog(&name).await.unwrap();
        assert_eq!((backlog.ready, backlog.in_flight, backlog.held), (2, 0, 0));
        assert_eq!(store.backlog(&other).await.unwrap().ready, 0);

        sabotage(&store, MEND).await;
        let delivery = subscription.next(1, 1_000).await.unwrap().remove(0);
        assert_eq!(delivery.attempt, 1, "a lease that failed does not count");
        store.publish(vec![message()]).await.remove(0).unwrap();
        assert_eq!(store.backlog(&other).await.unwrap().ready, 1);
    }

    #[tokio::test]
    async fn a_subscription_that_failed_is_not_in_memory_alone() {
        let store = open(None, &Config::default(), Arc::new(ManualClock::at(1_000))).unwrap();
        let (name, topic) = ("orders-handler".parse().unwrap(), "orders".parse().unwrap());
        sabotage(&store, "CREATE TRIGGER b AFTER INSERT ON subscriptions BEGIN SELECT RAISE(ABORT, 'broken'); END")
            .await;
        assert_eq!(store.subscribe(&name, &topic).await.err().unwrap().kind, ErrorKind::Other);
        let refused = store.publish(vec![Message::new(topic.clone(), "body", 1_000)]).await.remove(0).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Invalid);
        sabotage(&store, "DROP TRIGGER b").await;
        store.subscribe(&name, &topic).await.unwrap();
        store.publish(vec![Message::new(topic, "body", 1_000)]).await.remove(0).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_another_program_holds_is_told_and_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let store = open(Some(&path), &Config::default(), Arc::new(ManualClock::at(1_000))).unwrap();
        store.write(|work| Ok(work.conn.busy_timeout(std::time::Duration::from_millis(1))?)).await.unwrap();
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(Health::check(&store).await.unwrap_err().kind, ErrorKind::Unavailable);
        other.execute_batch("COMMIT").unwrap();
        Health::check(&store).await.unwrap();
    }
}
