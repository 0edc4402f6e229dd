//! Connections that are kept open, and how many there may be.

use crate::connect::{NoConnection, connect};
use crate::error::unavailable;
use crate::target::Target;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use sandpost_ports::health::PoolUse;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The connections of one relay.
pub(crate) struct Pool {
    target: Target,
    /// The newest last.
    idle: Mutex<Vec<Idle>>,
    places: Semaphore,
    places_max: usize,
    bounds: Bounds,
    seen: AtomicU8,
}

/// How long things may take.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) connect: Duration,
    pub(crate) wait: Duration,
    pub(crate) idle: Duration,
}

struct Idle {
    connection: AsyncSmtpConnection,
    since: Instant,
}

/// A connection at work. Dropped, it is closed; [`Leased::give_back`] keeps it.
pub(crate) struct Leased<'a> {
    pool: &'a Pool,
    pub(crate) connection: AsyncSmtpConnection,
    /// Whether it was open before: then the relay may have closed it meanwhile.
    pub(crate) reused: bool,
    _place: SemaphorePermit<'a>,
}

/// What the log said of the relay last.
const NOTHING: u8 = 0;
const CONNECTED: u8 = 1;
const LOST: u8 = 2;

impl Pool {
    pub(crate) fn new(target: Target, places_max: usize, bounds: Bounds) -> Self {
        let places_max = places_max.min(Semaphore::MAX_PERMITS);
        Self {
            target,
            idle: Mutex::default(),
            places: Semaphore::new(places_max),
            places_max,
            bounds,
            seen: AtomicU8::new(NOTHING),
        }
    }

    /// A connection: one that is open, or a new one. `fresh` wants a new one.
    pub(crate) async fn lease(&self, fresh: bool) -> Result<Leased<'_>, NoConnection> {
        let busy = |error| NoConnection::Port(unavailable("every connection to the mail relay is busy", error));
        let place = match tokio::time::timeout(self.bounds.wait, self.places.acquire()).await {
            Ok(Ok(place)) => place,
            Ok(Err(closed)) => return Err(busy(closed.into())),
            Err(elapsed) => return Err(busy(sandpost_ports::BoxError::from(elapsed))),
        };
        if !fresh && let Some(connection) = self.take_idle() {
            return Ok(Leased { pool: self, connection, reused: true, _place: place });
        }
        match connect(&self.target, self.bounds.connect).await {
            Ok(connection) => {
                match self.seen.swap(CONNECTED, Ordering::Relaxed) {
                    NOTHING => tracing::info!("Connected to the mail relay."),
                    LOST => tracing::info!("Connected to the mail relay again."),
                    _ => {}
                }
                Ok(Leased { pool: self, connection, reused: false, _place: place })
            }
            Err(trouble) => {
                if self.seen.swap(LOST, Ordering::Relaxed) != LOST {
                    match &trouble {
                        NoConnection::Login(error) => tracing::warn!(%error, "The mail relay refuses the login."),
                        NoConnection::Port(error) => {
                            let cause = error.source.as_deref().map(ToString::to_string);
                            tracing::warn!(%error, cause, "No connection to the mail relay; the next mail tries again.");
                        }
                    }
                }
                Err(trouble)
            }
        }
    }

    /// How it stands.
    pub(crate) fn usage(&self) -> PoolUse {
        let idle = self.lock().len() as u64;
        let in_use = self.places_max.saturating_sub(self.places.available_permits()) as u64;
        PoolUse { in_use, idle, max: self.places_max as u64 }
    }

    /// The one that was used last, which is the likeliest to be open still.
    fn take_idle(&self) -> Option<AsyncSmtpConnection> {
        let mut idle = self.lock();
        // Those that are too old go without a word: the relay closes them as it likes.
        idle.retain(|one| one.since.elapsed() < self.bounds.idle);
        idle.pop().map(|one| one.connection)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leased<'_> {
    /// Keeps it for the next mail. Only where the dialogue ended as it should.
    pub(crate) fn give_back(self) {
        let Self { pool, connection, .. } = self;
        pool.lock().push(Idle { connection, since: Instant::now() });
    }
}
