//! Rows of the ledger, many calls in one statement.
//!
//! A message leaves half a dozen steps, each recorded by itself: one at a time they would be most of what the database does.
//! While one statement is under way further calls gather, and go together in the next. A call that comes alone goes at once.
//!
//! Invariants
//! - One statement at a time, in the order of the calls: the order of a history is that in which its steps were recorded.
//! - No answer before the commit, and none that says `Ok` without it.
//! - What the database refuses for one call's rows fails no other: they are recorded again, call by call. Where it did not
//!   answer, or is not there, that is everybody's answer.
//! - Behind a database that is not there nobody waits for long: after a statement that failed so, who has waited for as long
//!   as one may take is told.
//! - A caller that gives up leaves its rows; they are recorded all the same, as those of a statement under way are.
//!
//! Not here: the statement and its rows (`ledger`).

use crate::database::Database;
use crate::ledger::insert;
use crate::statement::Statement;
use sandpost_ports::state::LedgerEntry;
use sandpost_ports::{ErrorKind, PortError};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Rows of one statement. Each length is a statement of its own that the server keeps prepared.
const ROWS_MAX: usize = 64;

/// Calls that wait at once; one more is refused. As many as a host has effects and attempts under way, many times over:
/// more than this is a database that does not keep up.
const WAITING_MAX: usize = 16_384;

/// Records for one database.
pub(crate) struct Recorder {
    database: Arc<Database>,
    runtime: Handle,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Somebody takes from `waiting` until it is empty.
    at_work: bool,
}

struct Waiting {
    entries: Vec<LedgerEntry>,
    since: Instant,
    told: oneshot::Sender<Result<(), PortError>>,
}

impl Recorder {
    pub(crate) fn new(database: Arc<Database>, runtime: Handle) -> Arc<Self> {
        Arc::new(Self { database, runtime, queue: Mutex::default() })
    }

    /// Records them, in one transaction.
    pub(crate) async fn record(self: &Arc<Self>, entries: Vec<LedgerEntry>) -> Result<(), PortError> {
        if entries.is_empty() {
            return Ok(());
        }
        let (told, answer) = oneshot::channel();
        {
            let mut queue = self.queue();
            if queue.waiting.len() >= WAITING_MAX {
                return Err(PortError::new(ErrorKind::Unavailable, "the state's database does not keep up"));
            }
            queue.waiting.push_back(Waiting { entries, since: Instant::now(), told });
            if !std::mem::replace(&mut queue.at_work, true) {
                self.runtime.spawn(self.clone().work());
            }
        }
        let cut_off = || PortError::new(ErrorKind::UnknownOutcome, "writing the state was cut off");
        answer.await.unwrap_or_else(|_| Err(cut_off()))
    }

    async fn work(self: Arc<Self>) {
        let unfinished = Unfinished(&self);
        while let Some(calls) = self.take() {
            match self.write(&calls).await {
                Err(error) if calls.len() > 1 && is_about_rows(&error) => {
                    for call in calls {
                        let outcome = self.write(std::slice::from_ref(&call)).await;
                        // Who no longer waits does not want the answer.
                        call.told.send(outcome).ok();
                    }
                }
                outcome => {
                    let late = if outcome.is_err() { self.take_late() } else { Vec::new() };
                    for call in calls {
                        call.told.send(same(&outcome)).ok();
                    }
                    for call in late {
                        call.told.send(Err(not_there())).ok();
                    }
                }
            }
        }
        std::mem::forget(unfinished);
    }

    /// The next calls whose rows fit in one statement, or one call that does not; none where nobody waits any more.
    fn take(&self) -> Option<Vec<Waiting>> {
        let mut queue = self.queue();
        let mut calls = Vec::new();
        let mut rows = 0;
        while let Some(next) = queue.waiting.front() {
            rows += next.entries.len();
            if rows > ROWS_MAX && !calls.is_empty() {
                break;
            }
            calls.extend(queue.waiting.pop_front());
        }
        queue.at_work = !calls.is_empty();
        queue.at_work.then_some(calls)
    }

    /// Those who have waited for as long as a statement may take.
    fn take_late(&self) -> Vec<Waiting> {
        let limit = self.database.call_timeout();
        let mut queue = self.queue();
        let late = queue.waiting.iter().take_while(|call| call.since.elapsed() >= limit).count();
        queue.waiting.drain(..late).collect()
    }

    /// All rows of these calls, or none.
    async fn write(&self, calls: &[Waiting]) -> Result<(), PortError> {
        let entries: Vec<&LedgerEntry> = calls.iter().flat_map(|call| &call.entries).collect();
        let mut statements: Vec<Statement> = entries.chunks(ROWS_MAX).map(insert).collect();
        match statements.len() {
            1 => self.database.execute(statements.remove(0)).await.map(drop),
            _ => self.database.transaction(statements).await,
        }
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        // Nothing panics while it is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the database has answered, and said no to what it was given.
fn is_about_rows(error: &PortError) -> bool {
    !matches!(error.kind, ErrorKind::Unavailable | ErrorKind::UnknownOutcome)
}

/// For those whose rows nobody tried to write.
fn not_there() -> PortError {
    PortError::new(ErrorKind::Unavailable, "the state's database does not answer")
}

/// The same answer for one more caller.
fn same(outcome: &Result<(), PortError>) -> Result<(), PortError> {
    let Err(error) = outcome else { return Ok(()) };
    let again = PortError::new(error.kind, error.message.clone());
    Err(match &error.source {
        Some(cause) => again.because(cause.to_string()),
        None => again,
    })
}

/// Where the work is cut off, by a panic or by the runtime's end, those who wait are told, and the next call begins anew.
struct Unfinished<'a>(&'a Recorder);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.waiting.clear();
        queue.at_work = false;
    }
}
