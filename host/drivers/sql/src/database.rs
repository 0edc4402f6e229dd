//! The port itself, over either engine: which server and connection a call takes, its way there, and transactions across calls.

use crate::Database;
use crate::config::{Config, OpenError};
use crate::engine::{Engine, Outcome};
use crate::fault::{Fault, Meaning, Stage};
use crate::pool::{Lease, NoLease, Pool};
use crate::statement::{Checked, Kind, Place};
use sandpost_ports::health::{Health, PoolUse};
use sandpost_ports::sql::{Access, Done, Rows, Sql, StatementLimits, Transaction, Value};
use sandpost_ports::{ErrorKind, PortError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How much longer than the server a caller waits for the end of a statement: the server's own answer is the better one, and
/// leaves the connection whole.
const GRACE: Duration = Duration::from_millis(500);

/// How long the rest of a result that was given up may still come, before the connection is closed instead.
const REST_MAX: Duration = Duration::from_millis(500);

/// After a replica could not be reached, it is not tried for so long.
const REPLICA_RETRY: Duration = Duration::from_secs(2);

/// Longest time of a statement. A bound only so that a deadline can always be computed.
const LIMIT_MAX: Duration = Duration::from_millis(crate::config::TIME_MAX_MS);

pub(crate) fn open<E: Engine>(config: &Config) -> Result<Arc<dyn Database>, OpenError> {
    let settings = E::settings(config)?;
    let (primary, replica) = E::targets(&settings)?;
    let runtime = tokio::runtime::Handle::try_current().map_err(|_| OpenError::NoRuntime)?;
    Ok(Arc::new(Pools {
        primary: Pool::new(primary, &settings, runtime.clone()),
        replica: replica.map(|replica| Pool::new(replica, &settings, runtime)),
        replica_missing_since: Mutex::new(None),
        bounds: Bounds { idle_max: settings.transaction_idle_max, whole_max: settings.transaction_max },
    }))
}

struct Pools<E: Engine> {
    primary: Arc<Pool<E>>,
    replica: Option<Arc<Pool<E>>>,
    /// When it could not be reached last; none once it could again.
    replica_missing_since: Mutex<Option<Instant>>,
    bounds: Bounds,
}

/// How long a transaction may live.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    idle_max: Duration,
    whole_max: Duration,
}

/// What a connection is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// One statement in a transaction of its own.
    Statement,
    /// One that commits by itself.
    Alone,
    /// A transaction across calls.
    Transaction,
}

/// A connection that did its work, or why it did not.
enum Ran<E: Engine> {
    Done(Lease<E>, Outcome),
    /// The connection is as good as before, or has gone.
    Failed(PortError),
    /// Its prepared statement is out of date: the same again succeeds.
    Stale,
}

impl<E: Engine> Pools<E> {
    async fn run(
        &self,
        access: Access,
        statement: &str,
        parameters: &[Value],
        limits: StatementLimits,
        rows_wanted: bool,
    ) -> Result<Outcome, PortError> {
        let checked = E::check(statement, access, Place::Alone)?;
        let mut is_stale_before = false;
        loop {
            match self.once(access, &checked, parameters, limits, rows_wanted).await? {
                Ran::Done(lease, outcome) => {
                    lease.give_back();
                    return Ok(outcome);
                }
                Ran::Failed(error) => return Err(error),
                Ran::Stale if !is_stale_before => is_stale_before = true,
                Ran::Stale => {
                    return Err(PortError::new(ErrorKind::Unavailable, "a table changes its shape all the time"));
                }
            }
        }
    }

    async fn once(
        &self,
        access: Access,
        checked: &Checked,
        parameters: &[Value],
        limits: StatementLimits,
        rows_wanted: bool,
    ) -> Result<Ran<E>, PortError> {
        let limit = Duration::from_millis(limits.timeout_ms).min(LIMIT_MAX);
        let commits_by_itself = E::COMMITS_DEFINITIONS && checked.kind == Kind::Define;
        let begin = if commits_by_itself { Begin::Alone } else { Begin::Statement };
        let mut lease = self.begun(begin, access, limit).await?;
        let running = E::run(lease.session()?, checked, parameters, limits, rows_wanted);
        let ran = timeout(limit + GRACE, running).await.unwrap_or(Err(Fault::Timeout));
        let stage = if commits_by_itself { Stage::InDoubt } else { Stage::Open };
        let outcome = match ran {
            Ok(outcome) => outcome,
            Err(fault) => return failed(lease, fault, access, stage).await,
        };
        if access == Access::ReadWrite && !commits_by_itself {
            let committing = timeout(lease.control_timeout(), E::commit(lease.session()?)).await;
            let committed = committing.map_or(Err(Fault::Timeout), |done| done.map_err(Fault::from));
            if let Err(fault) = committed {
                return failed(lease, fault, access, Stage::InDoubt).await;
            }
        }
        Ok(Ran::Done(lease, outcome))
    }

    /// A connection on which it was begun. One that turns out to be dead is passed over: nothing has been done on it.
    async fn begun(&self, begin: Begin, access: Access, limit: Duration) -> Result<Lease<E>, PortError> {
        loop {
            // A transaction reads and writes in one place.
            let mut lease = match begin {
                Begin::Transaction => self.primary.lease().await?,
                Begin::Statement | Begin::Alone => self.lease(access).await?,
            };
            let is_new = lease.is_new();
            let patience = lease.control_timeout();
            let began = match begin {
                Begin::Alone => timeout(patience, E::begin_alone(lease.session()?, limit)).await,
                Begin::Statement | Begin::Transaction => {
                    timeout(patience, E::begin(lease.session()?, access, limit)).await
                }
            };
            let fault = match began {
                Ok(Ok(())) => return Ok(lease),
                Ok(Err(error)) => Fault::from(error),
                Err(_) => Fault::Timeout,
            };
            let is_gone = matches!(&fault, Fault::Client(sqlx::Error::Io(_) | sqlx::Error::Protocol(_)));
            let meaning = meaning::<E>(&fault, access);
            if is_gone || meaning == Some(Meaning::Leaving) {
                lease.abandon();
                if !is_new {
                    continue;
                }
            } else if matches!(fault, Fault::Timeout) {
                drop(lease);
            } else {
                lease.give_back();
            }
            return Err(fault.into_error(meaning, Stage::Open));
        }
    }

    /// The replica's where there is one and nothing may be changed, else the primary's.
    async fn lease(&self, access: Access) -> Result<Lease<E>, PortError> {
        let Some(replica) = self.replica.as_ref().filter(|_| access == Access::ReadOnly) else {
            return Ok(self.primary.lease().await?);
        };
        let missing = || self.replica_missing_since.lock().unwrap_or_else(PoisonError::into_inner);
        // Not every caller waits for a server that is not there.
        if missing().is_some_and(|since| since.elapsed() < REPLICA_RETRY) {
            return Ok(self.primary.lease().await?);
        }
        match replica.lease().await {
            Ok(lease) => {
                if missing().take().is_some() {
                    tracing::info!(target: "sandpost_sql", driver = E::WORD, "the replica is back");
                }
                Ok(lease)
            }
            Err(NoLease::Here(message)) => Err(NoLease::Here(message).into()),
            Err(NoLease::There(error)) => {
                if missing().replace(Instant::now()).is_none() {
                    let reason = error.message;
                    tracing::warn!(target: "sandpost_sql", driver = E::WORD, reason, "no replica; the first server is read");
                }
                Ok(self.primary.lease().await?)
            }
        }
    }
}

/// What becomes of a connection and its caller when something went wrong in the middle.
async fn failed<E: Engine>(
    mut lease: Lease<E>,
    fault: Fault,
    access: Access,
    stage: Stage,
) -> Result<Ran<E>, PortError> {
    let meaning = meaning::<E>(&fault, access);
    match (&fault, meaning) {
        (Fault::Client(_), Some(Meaning::Leaving)) => lease.abandon(),
        (Fault::Client(_), Some(Meaning::Stale)) => {
            let forgetting = timeout(lease.control_timeout(), async {
                E::tidy(lease.session()?).await.map_err(|_| gone())?;
                E::forget(lease.session()?).await.map_err(|_| gone())
            });
            if matches!(forgetting.await, Ok(Ok(()))) {
                lease.give_back();
            }
            return Ok(Ran::Stale);
        }
        // Tidying takes in the rest of what was given up midway; within its time, or the connection is ended.
        (Fault::Client(_), Some(_)) | (Fault::Refused(_) | Fault::Midway(_), _) => lease.give_back(),
        // Nobody knows what it is at: dropped, it is closed and ended.
        (Fault::Client(_) | Fault::Timeout, _) => drop(lease),
    }
    Ok(Ran::Failed(fault.into_error(meaning, stage)))
}

fn meaning<E: Engine>(fault: &Fault, access: Access) -> Option<Meaning> {
    match fault.meaning(E::meaning) {
        // Not the session: the server takes no writes now, as a replica.
        Some(Meaning::ReadOnly) if access == Access::ReadWrite => Some(Meaning::Busy),
        meaning => meaning,
    }
}

fn gone() -> PortError {
    PortError::new(ErrorKind::Unavailable, "the connection was lost")
}

#[async_trait::async_trait]
impl<E: Engine> Sql for Pools<E> {
    async fn query(
        &self,
        access: Access,
        statement: &str,
        parameters: Vec<Value>,
        limits: StatementLimits,
    ) -> Result<Rows, PortError> {
        Ok(self.run(access, statement, &parameters, limits, true).await?.rows)
    }

    async fn execute(
        &self,
        access: Access,
        statement: &str,
        parameters: Vec<Value>,
        limits: StatementLimits,
    ) -> Result<Done, PortError> {
        Ok(self.run(access, statement, &parameters, limits, false).await?.done)
    }

    async fn begin(&self, access: Access) -> Result<Box<dyn Transaction>, PortError> {
        // Of its statements each has a time of its own; this is for none.
        let limit = self.bounds.whole_max;
        let lease = self.begun(Begin::Transaction, access, limit).await?;
        let now = Instant::now();
        let held = Arc::new(Held {
            lease: Mutex::new(Some((lease, now + self.bounds.idle_max))),
            until: now + self.bounds.whole_max,
            ended: OnceLock::new(),
        });
        drop(tokio::spawn(watch(Arc::downgrade(&held))));
        Ok(Box::new(Open { held, access, idle_max: self.bounds.idle_max }))
    }
}

#[async_trait::async_trait]
impl<E: Engine> Health for Pools<E> {
    async fn check(&self) -> Result<(), PortError> {
        loop {
            let mut lease = self.primary.lease().await?;
            let is_new = lease.is_new();
            match timeout(lease.control_timeout(), E::ping(lease.session()?)).await {
                Ok(Ok(())) => {
                    lease.give_back();
                    return Ok(());
                }
                Ok(Err(error)) => {
                    lease.abandon();
                    // One that lay idle says nothing about the server.
                    if is_new {
                        return Err(gone().because(error));
                    }
                }
                Err(_) => return Err(PortError::new(ErrorKind::Unavailable, "the database does not answer")),
            }
        }
    }

    /// Of both servers together, where there are two.
    fn pool(&self) -> Option<PoolUse> {
        let mut usage = self.primary.usage();
        if let Some(replica) = self.replica.as_ref().map(|pool| pool.usage()) {
            usage.in_use += replica.in_use;
            usage.idle += replica.idle;
            usage.max += replica.max;
        }
        Some(usage)
    }
}

#[async_trait::async_trait]
impl<E: Engine> Database for Pools<E> {
    async fn close(&self) {
        self.primary.close().await;
        if let Some(replica) = &self.replica {
            replica.close().await;
        }
    }
}

/// A transaction's connection, between two calls.
struct Held<E: Engine> {
    /// With when it is taken back if nobody calls. None while a call has it, and once it has ended.
    lease: Mutex<Option<(Lease<E>, Instant)>>,
    /// When it is taken back in any case.
    until: Instant,
    /// Why it ended, once it has.
    ended: OnceLock<&'static str>,
}

const TOO_LONG: &str = "it was open for too long and has been rolled back";

impl<E: Engine> Held<E> {
    fn take(&self) -> Option<(Lease<E>, Instant)> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn end(&self, why: &'static str) {
        // A second reason does not replace the first.
        self.ended.get_or_init(|| why);
    }
}

/// Takes a transaction back that lies there for too long.
async fn watch<E: Engine>(held: Weak<Held<E>>) {
    loop {
        let next = {
            let Some(held) = held.upgrade() else { return };
            if held.ended.get().is_some() {
                return;
            }
            let mut lease = held.lease.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            match &*lease {
                Some((_, idle_until)) if now < held.until.min(*idle_until) => held.until.min(*idle_until),
                Some(_) => {
                    held.end(TOO_LONG);
                    if let Some((lease, _)) = lease.take() {
                        lease.give_back();
                    }
                    return;
                }
                // At work, in a time of its own; whoever gives it back looks at the end.
                None => now + GRACE,
            }
        };
        tokio::time::sleep_until(next).await;
    }
}

/// The caller's end of a transaction. Dropped between two calls, it is rolled back; in the middle of one, its connection is
/// closed and ended.
struct Open<E: Engine> {
    held: Arc<Held<E>>,
    access: Access,
    idle_max: Duration,
}

impl<E: Engine> Open<E> {
    fn take(&self) -> Result<Lease<E>, PortError> {
        self.held.take().map(|(lease, _)| lease).ok_or_else(|| {
            let why = self.held.ended.get().unwrap_or(&"a call of it was given up");
            PortError::new(ErrorKind::Unavailable, format!("the transaction is not open any more: {why}"))
        })
    }

    /// Leaves the connection for the next call.
    fn put(&self, lease: Lease<E>) {
        let now = Instant::now();
        if now >= self.held.until {
            self.held.end(TOO_LONG);
            lease.give_back();
            return;
        }
        *self.held.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some((lease, now + self.idle_max));
    }

    async fn run(
        &mut self,
        statement: &str,
        parameters: &[Value],
        limits: StatementLimits,
        rows_wanted: bool,
    ) -> Result<Outcome, PortError> {
        let checked = E::check(statement, self.access, Place::Transaction)?;
        let limit = Duration::from_millis(limits.timeout_ms).min(LIMIT_MAX);
        let mut lease = self.take()?;
        let mut is_stale_before = false;
        loop {
            let marking = timeout(lease.control_timeout(), E::mark(lease.session()?, limit)).await;
            let ran = match marking {
                Ok(Ok(())) => {
                    let running = E::run(lease.session()?, &checked, parameters, limits, rows_wanted);
                    timeout(limit + GRACE, running).await.unwrap_or(Err(Fault::Timeout))
                }
                Ok(Err(error)) => Err(Fault::from(error)),
                Err(_) => Err(Fault::Timeout),
            };
            let fault = match ran {
                Ok(outcome) => {
                    self.put(lease);
                    return Ok(outcome);
                }
                Err(fault) => fault,
            };
            let meaning = meaning::<E>(&fault, self.access);
            let goes_on = match (&fault, meaning) {
                (Fault::Client(_), Some(Meaning::Contended { all_undone: true } | Meaning::Leaving) | None)
                | (Fault::Timeout, _) => false,
                (Fault::Client(_), Some(_)) | (Fault::Refused(_) | Fault::Midway(_), _) => true,
            };
            if goes_on {
                let patience = if matches!(fault, Fault::Midway(_)) { REST_MAX } else { lease.control_timeout() };
                let undone = timeout(patience, E::undo(lease.session()?)).await;
                if matches!(undone, Ok(Ok(()))) {
                    if meaning == Some(Meaning::Stale) && !is_stale_before {
                        is_stale_before = true;
                        let forgotten = timeout(lease.control_timeout(), E::forget(lease.session()?)).await;
                        if matches!(forgotten, Ok(Ok(()))) {
                            continue;
                        }
                    }
                    self.put(lease);
                } else {
                    self.held.end("a statement could not be undone by itself");
                    drop(lease);
                }
            } else if matches!(meaning, Some(Meaning::Contended { .. })) {
                self.held.end("another transaction stood in the way, and all of it has been rolled back");
                lease.give_back();
            } else {
                self.held.end("its connection was lost");
                if meaning == Some(Meaning::Leaving) { lease.abandon() } else { drop(lease) }
            }
            return Err(fault.into_error(meaning, Stage::Open));
        }
    }
}

#[async_trait::async_trait]
impl<E: Engine> Transaction for Open<E> {
    async fn query(
        &mut self,
        statement: &str,
        parameters: Vec<Value>,
        limits: StatementLimits,
    ) -> Result<Rows, PortError> {
        Ok(self.run(statement, &parameters, limits, true).await?.rows)
    }

    async fn execute(
        &mut self,
        statement: &str,
        parameters: Vec<Value>,
        limits: StatementLimits,
    ) -> Result<Done, PortError> {
        Ok(self.run(statement, &parameters, limits, false).await?.done)
    }

    async fn commit(self: Box<Self>) -> Result<(), PortError> {
        let mut lease = self.take()?;
        self.held.end("it was committed");
        let committing = timeout(lease.control_timeout(), E::commit(lease.session()?)).await;
        let committed = committing.map_or(Err(Fault::Timeout), |done| done.map_err(Fault::from));
        match committed {
            Ok(()) => {
                lease.give_back();
                Ok(())
            }
            Err(fault) => match failed(lease, fault, self.access, Stage::InDoubt).await? {
                Ran::Failed(error) => Err(error),
                Ran::Done(..) | Ran::Stale => Err(gone()),
            },
        }
    }

    async fn rollback(self: Box<Self>) -> Result<(), PortError> {
        let mut lease = self.take()?;
        self.held.end("it was rolled back");
        // Waited for, so that its locks are gone when this answers.
        match timeout(lease.control_timeout(), E::tidy(lease.session()?)).await {
            Ok(Ok(())) => lease.give_back(),
            // Closed, it is rolled back by the server.
            Ok(Err(_)) | Err(_) => drop(lease),
        }
        Ok(())
    }
}

impl<E: Engine> Drop for Open<E> {
    fn drop(&mut self) {
        self.held.end("it was dropped");
        if let Some((lease, _)) = self.held.take() {
            lease.give_back();
        }
    }
}
