//! Connections to one server: made when they are wanted, kept while they are idle, and ended on the server where nobody knows
//! what they are at.
//!
//! Invariants
//! - Whoever has a [`Lease`] is alone on that connection. It goes back only by [`Lease::give_back`]; a lease that is dropped in
//!   any other way, because its caller was given up or its statement took too long, is closed, and the server is told to end it.
//! - What is given back is tidied first, behind the caller's back: its place in the pool is free once that is done.
//! - A connection that lay idle for long, or since before another one was lost, is asked whether it lives before it is used.
//! - There are never more connections than `max`; those that are being ended count.
//!
//! Not here: statements (`database`), what is said to the server (`engine`).

use crate::config::Settings;
use crate::engine::Engine;
use crate::fault::{self, Meaning};
use sandpost_ports::health::PoolUse;
use sandpost_ports::{ErrorKind, PortError};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// A connection that has been idle for longer is asked whether it lives before it is used.
const TRUSTED_FOR: Duration = Duration::from_secs(5);

/// How long it may take to answer that.
const PING_MAX: Duration = Duration::from_secs(2);

/// How long closing waits for what is under way.
const CLOSE_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Pool<E: Engine> {
    engine: E,
    max: u32,
    acquire_timeout: Duration,
    connect_timeout: Duration,
    control_timeout: Duration,
    idle_timeout: Duration,
    permits: Arc<Semaphore>,
    runtime: Handle,
    state: Mutex<State<E>>,
}

struct State<E: Engine> {
    /// The one that was used last at the back.
    idle: VecDeque<Idle<E>>,
    lost_at: Option<Instant>,
    /// As last seen, so that each change is said once.
    is_up: Option<bool>,
}

/// Why no connection was to be had.
#[derive(Debug)]
pub(crate) enum NoLease {
    /// Here: all are in use, or the pool is closed.
    Here(&'static str),
    /// The server cannot be reached, or does not let this host in.
    There(PortError),
}

impl From<NoLease> for PortError {
    fn from(missing: NoLease) -> Self {
        match missing {
            NoLease::Here(message) => Self::new(ErrorKind::Unavailable, message),
            NoLease::There(error) => error,
        }
    }
}

struct Idle<E: Engine> {
    session: E::Session,
    since: Instant,
}

impl<E: Engine> Pool<E> {
    pub(crate) fn new(engine: E, settings: &Settings, runtime: Handle) -> Arc<Self> {
        let pool = Arc::new(Self {
            engine,
            max: settings.pool_max,
            acquire_timeout: settings.acquire_timeout,
            connect_timeout: settings.connect_timeout,
            control_timeout: settings.control_timeout,
            idle_timeout: settings.idle_timeout,
            permits: Arc::new(Semaphore::new(settings.pool_max as usize)),
            runtime,
            state: Mutex::new(State { idle: VecDeque::new(), lost_at: None, is_up: None }),
        });
        drop(pool.runtime.spawn(close_idle(Arc::downgrade(&pool), pool.idle_timeout)));
        pool
    }

    pub(crate) fn usage(&self) -> PoolUse {
        let max = u64::from(self.max);
        let idle = self.state().idle.len() as u64;
        PoolUse { in_use: max.saturating_sub(self.permits.available_permits() as u64), idle, max }
    }

    /// Waits for a connection, first come, first served, and makes one where none is idle.
    pub(crate) async fn lease(self: &Arc<Self>) -> Result<Lease<E>, NoLease> {
        let waited = timeout(self.acquire_timeout, Arc::clone(&self.permits).acquire_owned()).await;
        let permit = match waited {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(NoLease::Here("the database is closed")),
            Err(_) => {
                return Err(NoLease::Here("every connection to the database is in use; nothing has been done"));
            }
        };
        loop {
            let Some((mut session, is_trusted)) = self.take_idle() else { break };
            if is_trusted || matches!(timeout(PING_MAX, E::ping(&mut session)).await, Ok(Ok(()))) {
                return Ok(Lease { pool: Arc::clone(self), held: Some((session, permit)), is_new: false });
            }
            self.is_lost();
        }
        let session = self.connect().await.map_err(NoLease::There)?;
        Ok(Lease { pool: Arc::clone(self), held: Some((session, permit)), is_new: true })
    }

    async fn connect(&self) -> Result<E::Session, PortError> {
        let unreachable = || PortError::new(ErrorKind::Unavailable, "the database cannot be reached");
        let error = match timeout(self.connect_timeout, self.engine.connect()).await {
            Ok(Ok(session)) => {
                self.is_there();
                return Ok(session);
            }
            Ok(Err(error)) => {
                let answer = match &error {
                    sqlx::Error::Database(answer) => match E::meaning(&**answer) {
                        Meaning::NotLetIn | Meaning::Denied => fault::not_let_in(),
                        Meaning::Busy | Meaning::Full => {
                            PortError::new(ErrorKind::Unavailable, "the database takes no connection now")
                        }
                        _ => unreachable(),
                    },
                    _ => unreachable(),
                };
                answer.because(error)
            }
            Err(_) => unreachable(),
        };
        self.is_lost();
        Err(error)
    }

    /// Closes what is idle, now and from now on, and waits a short time for what is under way.
    pub(crate) async fn close(&self) {
        let all = self.permits.acquire_many(self.max);
        // What is late is closed when it is given back.
        let waited = timeout(CLOSE_MAX, all).await;
        self.permits.close();
        drop(waited);
        let idle = std::mem::take(&mut self.state().idle);
        for one in idle {
            // Whoever does not listen to a goodbye is left without.
            _ = timeout(PING_MAX, E::close(one.session)).await;
        }
    }

    /// Notes that the server went away, so that no connection of before is trusted.
    pub(crate) fn is_lost(&self) {
        let mut state = self.state();
        state.lost_at = Some(Instant::now());
        if state.is_up.replace(false) != Some(false) {
            tracing::warn!(target: "sandpost_sql", driver = E::WORD, "not reached, or cut off; the next call connects again");
        }
    }

    fn is_there(&self) {
        if self.state().is_up.replace(true) != Some(true) {
            tracing::info!(target: "sandpost_sql", driver = E::WORD, "connected");
        }
    }

    fn take_idle(&self) -> Option<(E::Session, bool)> {
        let mut state = self.state();
        let Idle { session, since } = state.idle.pop_back()?;
        let is_trusted = since.elapsed() < TRUSTED_FOR && state.lost_at.is_none_or(|lost_at| lost_at < since);
        Some((session, is_trusted))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a connection back that is as good as new.
    fn put(&self, session: E::Session) {
        if !self.permits.is_closed() {
            self.state().idle.push_back(Idle { session, since: Instant::now() });
        }
    }

    async fn tidy(self: Arc<Self>, mut session: E::Session, permit: OwnedSemaphorePermit) {
        if matches!(timeout(self.control_timeout, E::tidy(&mut session)).await, Ok(Ok(()))) {
            self.put(session);
            drop(permit);
        } else {
            let id = E::id(&session);
            drop(session);
            self.end(id, permit).await;
        }
    }

    /// Has the server end a connection that was closed here: it might work on for as long as it likes, with its locks.
    async fn end(self: Arc<Self>, id: E::Id, permit: OwnedSemaphorePermit) {
        let ending = async {
            let mut session = self.engine.connect().await?;
            let ended = E::kill(&mut session, id).await;
            E::close(session).await;
            ended
        };
        let outcome = timeout(self.connect_timeout + self.control_timeout, ending).await;
        if !matches!(outcome, Ok(Ok(()))) {
            self.is_lost();
            tracing::debug!(target: "sandpost_sql", driver = E::WORD, "a connection could not be ended on the server");
        }
        drop(permit);
    }
}

/// Closes connections that nobody has used for long, for as long as there is a pool.
async fn close_idle<E: Engine>(pool: Weak<Pool<E>>, idle_timeout: Duration) {
    loop {
        tokio::time::sleep(idle_timeout / 2).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut old = Vec::new();
        {
            let mut state = pool.state();
            while state.idle.front().is_some_and(|one| one.since.elapsed() >= idle_timeout) {
                old.extend(state.idle.pop_front());
            }
        }
        for one in old {
            _ = timeout(PING_MAX, E::close(one.session)).await;
        }
    }
}

/// The sole use of a connection.
pub(crate) struct Lease<E: Engine> {
    pool: Arc<Pool<E>>,
    /// None only while it is dropped.
    held: Option<(E::Session, OwnedSemaphorePermit)>,
    is_new: bool,
}

impl<E: Engine> Lease<E> {
    /// Whether it was made for this lease, and is not one that lay idle.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// How long the server may take to begin, commit or roll back.
    pub(crate) fn control_timeout(&self) -> Duration {
        self.pool.control_timeout
    }

    pub(crate) fn session(&mut self) -> Result<&mut E::Session, PortError> {
        let held = self.held.as_mut().map(|(session, _)| session);
        held.ok_or_else(|| PortError::new(ErrorKind::Other, "the connection was given back already"))
    }

    /// Back to the pool, once what was left on it is rolled back and taken away.
    pub(crate) fn give_back(mut self) {
        if let Some((session, permit)) = self.held.take() {
            let pool = Arc::clone(&self.pool);
            drop(self.pool.runtime.spawn(pool.tidy(session, permit)));
        }
    }

    /// Closes it here alone: the server has left, or is leaving.
    pub(crate) fn abandon(mut self) {
        self.pool.is_lost();
        drop(self.held.take());
    }
}

impl<E: Engine> Drop for Lease<E> {
    fn drop(&mut self) {
        if let Some((session, permit)) = self.held.take() {
            let id = E::id(&session);
            drop(session);
            drop(self.pool.runtime.spawn(Arc::clone(&self.pool).end(id, permit)));
        }
    }
}
