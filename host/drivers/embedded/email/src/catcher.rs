//! The ports on the file: send, quota, list, get, on a blocking thread.
//!
//! Mails that come while one is being written are written together, in one transaction and with one sync of the disk; each
//! is answered only after that commit, and one that fails does not fail the others.

use crate::rows::{COLUMNS, SCHEMA, read, signed, unsigned, write};
use crate::{Config, OpenError};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use sandpost_ports::clock::Clock;
use sandpost_ports::email::{CaughtMail, EmailSender, Mail, Mailbox, ProviderId, SendError, SendingQuota};
use sandpost_ports::health::Health;
use sandpost_ports::{ErrorKind, PortError};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};

/// The version of the file, in `SQLite`'s `user_version`.
const VERSION: i64 = 1;
/// How long to wait for another program that has the file locked, such as somebody's `sqlite3`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// What the quota says where there is no limit: far above what anyone sends, and still a number to calculate with.
const UNLIMITED_PER_DAY: f64 = 1e9;
/// The same in a second.
const UNLIMITED_PER_SECOND: f64 = 1e6;
/// Mails in one answer of `list`. With the largest mails this is already hundreds of megabytes.
const LIST_MAX: usize = 500;

/// Mails of one transaction. More wait for the next, so that no mail waits behind the disk for long.
const TOGETHER_MAX: usize = 64;

/// Pages in the log before it is written back. More than `SQLite`'s 1000: a checkpoint syncs twice, and a mail with what it
/// replaces is a dozen pages.
const CHECKPOINT_PAGES: i64 = 4_000;

const SECOND_MS: u64 = 1_000;
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// The mail catcher. Clones are the same one.
#[derive(Clone)]
pub struct Catcher {
    inner: Arc<Inner>,
}

struct Inner {
    /// One at a time; held only on blocking threads.
    desk: Mutex<Desk>,
    queue: Mutex<Queue>,
    clock: Arc<dyn Clock>,
    config: Config,
}

struct Desk {
    connection: Connection,
    /// At least the bytes of the mails that are kept. Counted up with each, and afresh only where it is over the bound: to add
    /// them all up for every mail would cost more than the mail.
    kept_max_bytes: u64,
}

#[derive(Default)]
struct Queue {
    /// Mails that nobody has begun to write.
    waiting: VecDeque<Waiting>,
    /// Whether a thread writes them, and will look here again before it ends. One does it for all: a thread for each mail
    /// would mostly wait for the others.
    at_work: bool,
}

/// A mail with who waits for it.
struct Waiting {
    mail: Mail,
    reply: oneshot::Sender<Result<ProviderId, SendError>>,
}

/// Opens the file, or makes it. Blocks on the disk: call it at start, or from a blocking thread.
pub fn open(config: Config, clock: Arc<dyn Clock>) -> Result<Catcher, OpenError> {
    for (key, value) in [("mails_max", config.mails_max), ("keys_max", config.keys_max)] {
        if value == 0 {
            return Err(OpenError::Zero(key));
        }
    }
    let mut connection = match &config.path {
        None => Connection::open_in_memory()?,
        Some(path) => {
            if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                std::fs::create_dir_all(folder).map_err(|source| OpenError::Folder { path: path.clone(), source })?;
            }
            Connection::open(path)?
        }
    };
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    // Mails hold personal data: what made room is overwritten, not left in free pages.
    connection.pragma_update(None, "secure_delete", "ON")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    match transaction.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? {
        0 => {
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        VERSION => {}
        found => return Err(OpenError::Newer { found, known: VERSION }),
    }
    transaction.commit()?;
    let desk = Desk { kept_max_bytes: kept_bytes(&connection)?, connection };
    Ok(Catcher { inner: Arc::new(Inner { desk: Mutex::new(desk), queue: Mutex::default(), clock, config }) })
}

fn kept_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT coalesce(sum(size_bytes), 0) FROM mails")?
        .query_row([], |row| Ok(unsigned(row.get(0)?)))
}

#[async_trait::async_trait]
impl EmailSender for Catcher {
    async fn send(&self, mail: &Mail) -> Result<ProviderId, SendError> {
        let (reply, answer) = oneshot::channel();
        // Cheap next to the disk: a mail's large parts are shared or small.
        let one = Waiting { mail: mail.clone(), reply };
        let begin = {
            let mut queue = self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.waiting.push_back(one);
            !std::mem::replace(&mut queue.at_work, true)
        };
        if begin {
            let inner = Arc::clone(&self.inner);
            // Nobody waits for the thread: it answers each mail.
            drop(on_a_thread(move || inner.write_all()));
        }
        let lost = |error| PortError::new(ErrorKind::UnknownOutcome, "the mail catcher was interrupted").because(error);
        answer.await.map_err(lost)?
    }

    async fn quota(&self) -> Result<SendingQuota, PortError> {
        self.blocking(|inner, connection| {
            let since = inner.clock.now_ms().saturating_sub(DAY_MS);
            let sent_today: i64 = connection.query_row(
                "SELECT coalesce(sum(recipients), 0) FROM sent WHERE sent_at_ms > ?1",
                [signed(since)],
                |row| row.get(0),
            )?;
            Ok(SendingQuota {
                per_day: inner.config.per_day.map_or(UNLIMITED_PER_DAY, f64::from),
                // Far below 2^53, where a float begins to skip.
                sent_today: u32::try_from(sent_today).map_or(f64::from(u32::MAX), f64::from),
                per_second: inner.config.per_second.map_or(UNLIMITED_PER_SECOND, f64::from),
            })
        })
        .await?
    }

    fn deduplicates(&self) -> bool {
        true
    }
}

#[async_trait::async_trait]
impl Mailbox for Catcher {
    async fn list(&self, before: Option<u64>, limit: usize) -> Result<Vec<CaughtMail>, PortError> {
        let before = before.map_or(i64::MAX, signed);
        let limit = signed(limit.min(LIST_MAX) as u64);
        self.blocking(move |_, connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM mails WHERE number < ?1 ORDER BY number DESC LIMIT ?2"
            ))?;
            let rows = statement.query_map([before, limit], read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await?
    }

    async fn get(&self, number: u64) -> Result<Option<CaughtMail>, PortError> {
        self.blocking(move |_, connection| {
            let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM mails WHERE number = ?1"))?;
            Ok(statement.query_row([signed(number)], read).optional()?)
        })
        .await?
    }

    async fn latest(&self) -> Result<Option<CaughtMail>, PortError> {
        Ok(self.list(None, 1).await?.pop())
    }
}

#[async_trait::async_trait]
impl Health for Catcher {
    async fn check(&self) -> Result<(), PortError> {
        self.blocking(|_, connection| {
            // Takes the write lock and gives it back: a file that became read-only, or is locked, is not healthy.
            connection.transaction_with_behavior(TransactionBehavior::Immediate)?.rollback()?;
            Ok(())
        })
        .await?
    }
}

/// What goes wrong in a transaction: `SQLite`, or what the port says.
enum Trouble {
    Sqlite(rusqlite::Error),
    Json(serde_json::Error),
    Throttled {
        after_ms: u64,
    },
    /// A transaction of one mail had no outcome for it.
    Missing,
}

impl Catcher {
    /// Runs it where blocking is allowed. Dropped meanwhile, it goes on to its end there: it happened or it did not.
    async fn blocking<T, E>(
        &self,
        work: impl FnOnce(&Inner, &mut Connection) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<Result<T, E>, PortError>
    where
        T: Send + 'static,
        E: From<Trouble> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        on_a_thread(move || {
            let mut desk = inner.desk.lock().unwrap_or_else(PoisonError::into_inner);
            work(&inner, &mut desk.connection).map_err(E::from)
        })
        .await
        .flatten()
        .map_err(|error| PortError::new(ErrorKind::UnknownOutcome, "the mail catcher was interrupted").because(error))
    }
}

/// Where blocking is allowed. Begun by the runtime, because a thread that the caller's started would inherit its priority,
/// which may be a low one.
fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<Result<T, JoinError>> {
    tokio::spawn(async move { tokio::task::spawn_blocking(work).await })
}

impl Inner {
    /// Writes until nothing waits.
    fn write_all(&self) {
        let at_work = AtWork(self);
        while let Some(batch) = self.next_batch() {
            // A panic while it was held left a transaction that SQLite rolled back; the connection is whole.
            let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
            self.write_batch(&mut desk, batch);
        }
        // Another may be at work by now.
        std::mem::forget(at_work);
    }

    /// None where nothing waits; then nobody is at work any more.
    fn next_batch(&self) -> Option<Vec<Waiting>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let count = queue.waiting.len().min(TOGETHER_MAX);
        queue.at_work = count > 0;
        queue.at_work.then(|| queue.waiting.drain(..count).collect())
    }

    /// Writes them, and answers.
    fn write_batch(&self, desk: &mut Desk, batch: Vec<Waiting>) {
        let mails: Vec<&Mail> = batch.iter().map(|one| &one.mail).collect();
        let outcomes = match self.write(desk, &mails) {
            Ok(outcomes) => outcomes,
            Err(trouble) if mails.len() == 1 => vec![Err(trouble)],
            // Each alone, under its key: what was written after all is found by it.
            Err(_) => {
                mails.iter().map(|mail| self.write(desk, &[mail])?.pop().unwrap_or(Err(Trouble::Missing))).collect()
            }
        };
        for (one, outcome) in batch.into_iter().zip(outcomes) {
            // Who no longer waits does not want the answer.
            one.reply.send(outcome.map_err(SendError::from)).ok();
        }
    }

    /// All in one transaction; one outcome a mail. `Err` where the transaction failed, and nothing was written.
    fn write(&self, desk: &mut Desk, mails: &[&Mail]) -> Result<Vec<Result<ProviderId, Trouble>>, Trouble> {
        let Desk { connection, kept_max_bytes } = desk;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Kept only with the commit: what a failed transaction deleted is there again.
        let mut bytes = *kept_max_bytes;
        let mut outcomes = Vec::with_capacity(mails.len());
        let mut newest = None;
        for mail in mails {
            match self.add(&transaction, mail) {
                Ok(Added::Now { number, size_bytes }) => {
                    bytes = bytes.saturating_add(size_bytes);
                    newest = Some(number);
                    outcomes.push(Ok(id(number)));
                }
                Ok(Added::Before { number }) => outcomes.push(Ok(id(number))),
                Err(Trouble::Sqlite(error)) => return Err(error.into()),
                Err(refused) => outcomes.push(Err(refused)),
            }
        }
        if let Some(newest) = newest {
            self.make_room(&transaction, newest, &mut bytes)?;
        }
        transaction.commit()?;
        *kept_max_bytes = bytes;
        Ok(outcomes)
    }

    /// Writes nothing where it refuses.
    fn add(&self, transaction: &Transaction<'_>, mail: &Mail) -> Result<Added, Trouble> {
        let known: Option<i64> = transaction
            .prepare_cached("SELECT number FROM sent WHERE key = ?1")?
            .query_row([&mail.key], |row| row.get(0))
            .optional()?;
        if let Some(number) = known {
            return Ok(Added::Before { number });
        }
        let now = self.clock.now_ms();
        let recipients = (mail.to.len() + mail.cc.len() + mail.bcc.len()) as u64;
        for (limit, window_ms) in [(self.config.per_day, DAY_MS), (self.config.per_second, SECOND_MS)] {
            if let Some(limit) = limit {
                throttle(transaction, now, window_ms, recipients, u64::from(limit))?;
            }
        }
        let json = write(mail).map_err(Trouble::Json)?;
        let size_bytes = (json.len() + mail.mime.len()) as u64;
        transaction
            .prepare_cached("INSERT INTO sent (key, sent_at_ms, recipients) VALUES (?1, ?2, ?3)")?
            .execute(params![mail.key, signed(now), signed(recipients)])?;
        let number = transaction.last_insert_rowid();
        transaction
            .prepare_cached(
                "INSERT INTO mails (number, caught_at_ms, size_bytes, key, mail, mime) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![number, signed(now), signed(size_bytes), mail.key, json, mail.mime.as_ref()])?;
        Ok(Added::Now { number, size_bytes })
    }

    fn make_room(&self, transaction: &Transaction<'_>, newest: i64, kept_max_bytes: &mut u64) -> Result<(), Trouble> {
        // Numbers have no gaps: one that was given out and not committed is given out again.
        transaction
            .prepare_cached("DELETE FROM sent WHERE number <= ?1")?
            .execute([newest.saturating_sub(i64::from(self.config.keys_max))])?;
        transaction
            .prepare_cached("DELETE FROM mails WHERE number <= ?1")?
            .execute([newest.saturating_sub(i64::from(self.config.mails_max))])?;
        if *kept_max_bytes <= self.config.mails_max_bytes {
            return Ok(());
        }
        transaction
            .prepare_cached(
                "DELETE FROM mails WHERE number < ?1 AND number <= (
                     SELECT max(number) FROM (
                         SELECT number, sum(size_bytes) OVER (ORDER BY number DESC) AS together FROM mails
                     ) WHERE together > ?2
                 )",
            )?
            .execute([newest, signed(self.config.mails_max_bytes)])?;
        *kept_max_bytes = kept_bytes(transaction)?;
        Ok(())
    }
}

/// Lets the next mail begin a thread where this one ended by a panic.
struct AtWork<'a>(&'a Inner);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).at_work = false;
    }
}

/// What became of one mail.
enum Added {
    Now {
        number: i64,
        size_bytes: u64,
    },
    /// It was there under its key.
    Before {
        number: i64,
    },
}

/// Refuses what would go over the limit, and says when there is room: when the oldest of the window leave it.
fn throttle(
    transaction: &Transaction<'_>,
    now: u64,
    window_ms: u64,
    recipients: u64,
    limit: u64,
) -> Result<(), Trouble> {
    let since = now.saturating_sub(window_ms);
    let mut statement = transaction
        .prepare_cached("SELECT sent_at_ms, recipients FROM sent WHERE sent_at_ms > ?1 ORDER BY sent_at_ms DESC")?;
    let mut rows = statement.query([signed(since)])?;
    let mut together = recipients;
    // From the newest back: the first that does not fit any more has to leave the window, and all before it.
    while let Some(row) = rows.next()? {
        together = together.saturating_add(unsigned(row.get(1)?));
        if together > limit {
            let leaves_at = unsigned(row.get(0)?).saturating_add(window_ms);
            return Err(Trouble::Throttled { after_ms: leaves_at.saturating_sub(now).max(1) });
        }
    }
    // More recipients than the limit has at all: it never fits, and a provider says the same.
    if recipients > limit { Err(Trouble::Throttled { after_ms: window_ms }) } else { Ok(()) }
}

fn id(number: i64) -> ProviderId {
    format!("catcher-{number}")
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Trouble> for PortError {
    fn from(trouble: Trouble) -> Self {
        use rusqlite::ErrorCode as Code;
        match trouble {
            Trouble::Sqlite(error) => {
                let (kind, message) = match error.sqlite_error_code() {
                    Some(Code::DatabaseBusy | Code::DatabaseLocked) => {
                        (ErrorKind::Unavailable, "the mail catcher's file is locked by another program")
                    }
                    Some(Code::DiskFull) => (ErrorKind::Exceeded, "the disk of the mail catcher is full"),
                    Some(Code::TooBig) => (ErrorKind::Exceeded, "the mail is too large for the mail catcher"),
                    _ => (ErrorKind::Other, "the mail catcher's file failed"),
                };
                Self::new(kind, message).because(error)
            }
            Trouble::Missing => Self::new(ErrorKind::Other, "the mail catcher gave no answer"),
            Trouble::Json(error) => Self::new(ErrorKind::Other, "the mail could not be kept").because(error),
            Trouble::Throttled { .. } => Self::new(ErrorKind::Unavailable, "over the mail catcher's rate or quota"),
        }
    }
}

impl From<Trouble> for SendError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Throttled { after_ms } => Self::Throttled { after_ms: Some(after_ms) },
            other => Self::Port(other.into()),
        }
    }
}

impl fmt::Debug for Catcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catcher").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
