//! Connections, each on a thread of its own, and who may use which one when.
//!
//! Invariants
//! - Whoever has a [`Lease`] is alone on that connection. The lease travels with the work to the thread, so that a
//!   caller who is gone does not free a connection that still works for it.
//! - A transaction's lease lies with the thread, which gives it back when the transaction ends: by commit, rollback,
//!   drop, idleness or age.
//! - Queues are bounded by [`QUEUE_MAX`]; as one call uses a connection at a time, it fills only from calls given up.
//!
//! Not here: what the work is (`statement`, `database`).

use crate::authorizer::Verdicts;
use crate::statement;
use rusqlite::Connection;
use sandpost_ports::{ErrorKind, PortError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Work that may wait at one connection.
const QUEUE_MAX: usize = 16;

/// A piece of work for a connection's thread.
pub(crate) type Job = Box<dyn FnOnce(&mut Session) + Send>;

/// The way to a connection's thread, which ends when the last of these is gone.
pub(crate) type Jobs = SyncSender<Job>;

/// A transaction that lies at a connection between calls, as both sides see it.
#[derive(Debug, Default)]
pub(crate) struct TransactionState {
    /// Set by the caller that dropped it.
    pub(crate) abandoned: AtomicBool,
    /// Why it ended, once it has.
    pub(crate) ended: OnceLock<&'static str>,
}

/// How long a transaction may live.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransactionBounds {
    pub(crate) idle_max: Duration,
    pub(crate) whole_max: Duration,
}

/// What a connection's thread works with.
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) verdicts: Arc<Verdicts>,
    held: Option<Held>,
    /// Keeps the folder of a database that is not kept until the last connection is closed.
    _folder: Option<Arc<TempDir>>,
}

struct Held {
    state: Arc<TransactionState>,
    bounds: TransactionBounds,
    idle_until: Instant,
    whole_until: Instant,
    _lease: Lease,
}

impl Session {
    /// Takes charge of a transaction that was just begun.
    pub(crate) fn hold(&mut self, state: Arc<TransactionState>, bounds: TransactionBounds, lease: Lease) {
        let now = Instant::now();
        self.held = Some(Held {
            state,
            bounds,
            idle_until: now + bounds.idle_max,
            whole_until: now + bounds.whole_max,
            _lease: lease,
        });
    }

    /// Whether this transaction is the one that is open here.
    pub(crate) fn holds(&self, state: &Arc<TransactionState>) -> bool {
        self.held.as_ref().is_some_and(|held| Arc::ptr_eq(&held.state, state))
    }

    /// Ends the open transaction, and gives the connection back. Nothing where none is open.
    pub(crate) fn release(&mut self, why: &'static str) {
        let Some(held) = self.held.take() else { return };
        // A second reason does not replace the first.
        held.state.ended.get_or_init(|| why);
        if !self.connection.is_autocommit() {
            // If this fails, the connection stays in the transaction, and the next BEGIN says so; nothing is committed.
            statement::own(&self.connection, &self.verdicts, "ROLLBACK").ok();
        }
    }

    fn until(&self) -> Option<Instant> {
        self.held.as_ref().map(|held| held.idle_until.min(held.whole_until))
    }

    /// After each piece of work: the transaction may have been dropped, or ended by SQLite, or be past its age.
    fn look_after(&mut self) {
        let autocommit = self.connection.is_autocommit();
        let Some(held) = &mut self.held else { return };
        let now = Instant::now();
        held.idle_until = now + held.bounds.idle_max;
        if held.state.abandoned.load(Ordering::Acquire) {
            self.release("it was dropped");
        } else if autocommit {
            self.release("a statement failed in a way that rolled it back");
        } else if held.whole_until <= now {
            self.release("it was open for too long and has been rolled back");
        }
    }

    fn serve(mut self, jobs: &Receiver<Job>) {
        loop {
            let job = match self.until() {
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(until) => jobs.recv_timeout(until.saturating_duration_since(Instant::now())),
            };
            match job {
                Ok(job) => {
                    job(&mut self);
                    self.look_after();
                }
                Err(RecvTimeoutError::Timeout) => self.release("it was open for too long and has been rolled back"),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

/// Starts a connection's thread. It ends by itself once nobody can send to it any more.
pub(crate) fn start(
    name: &str,
    connection: Connection,
    verdicts: Arc<Verdicts>,
    folder: Option<Arc<TempDir>>,
) -> std::io::Result<Jobs> {
    let (jobs, receiver) = sync_channel(QUEUE_MAX);
    let session = Session { connection, verdicts, held: None, _folder: folder };
    std::thread::Builder::new().name(name.to_owned()).spawn(move || session.serve(&receiver))?;
    Ok(jobs)
}

/// Connections of one kind.
pub(crate) struct Pool {
    free: Mutex<Vec<Jobs>>,
    permits: Arc<Semaphore>,
    size: usize,
    wait_max: Duration,
}

impl Pool {
    pub(crate) fn new(connections: Vec<Jobs>, wait_max: Duration) -> Arc<Self> {
        let size = connections.len();
        Arc::new(Self { free: Mutex::new(connections), permits: Arc::new(Semaphore::new(size)), size, wait_max })
    }

    /// How many connections there are, and how many of them are free.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.size, self.permits.available_permits())
    }

    /// Waits for a connection, first come, first served.
    pub(crate) async fn lease(self: &Arc<Self>) -> Result<Lease, PortError> {
        let busy = || {
            PortError::new(
                ErrorKind::Unavailable,
                "the database is busy with other transactions; nothing has been done",
            )
        };
        let permit = tokio::time::timeout(self.wait_max, Arc::clone(&self.permits).acquire_owned())
            .await
            .map_err(|_| busy())?
            .map_err(|error| busy().because(error))?;
        let jobs = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().ok_or_else(busy)?;
        Ok(Lease { jobs, pool: Arc::clone(self), _permit: permit })
    }
}

/// The sole use of a connection, until it is dropped.
pub(crate) struct Lease {
    jobs: Jobs,
    pool: Arc<Pool>,
    // Released after `drop` below has put the connection back, as fields are dropped last.
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// The way to its thread.
    pub(crate) fn jobs(&self) -> Jobs {
        self.jobs.clone()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.jobs.clone());
    }
}

/// Tells the thread that nobody waits any more, when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct GiveUpOnDrop(pub(crate) Arc<AtomicBool>);

impl Drop for GiveUpOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
