//! What the parts of dispatch share: the services, the ceilings, the two signals of a stop, and the counts of how
//! deliveries ended.
//!
//! A stop has two signals. `stopping`: pull nothing more. `cut`: end what is still at work, and hand it back. The second
//! comes after the grace, or when the owner goes away without a stop.

use crate::config::{Config, SubscriptionConfig};
use crate::dispatcher::Services;
use crate::route::Route;
use sandpost_message::SubscriptionName;
use sandpost_ports::clock::Clock;
use sandpost_ports::{ErrorKind, PortError};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::context::TokioContext;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The longest that one call to broker or state may take before it counts as lost. Both answer in milliseconds when they
/// are well; a driver's own timeout is usually shorter.
pub(crate) const CALL_MS_MAX: u64 = 10_000;

/// One of these a host.
pub(crate) struct Shared {
    pub(crate) services: Services,
    pub(crate) config: Config,
    /// The host's places. Tokio's semaphore serves in order of asking.
    pub(crate) places: Arc<Semaphore>,
    pub(crate) stopping: CancellationToken,
    pub(crate) cut: CancellationToken,
    /// Every task of dispatch.
    pub(crate) tasks: TaskTracker,
    pub(crate) counts: Counts,
}

/// One of these a subscription.
pub(crate) struct Bound {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: SubscriptionName,
    pub(crate) config: SubscriptionConfig,
    /// The subscription's own places; only its loop takes them.
    pub(crate) places: Arc<Semaphore>,
    pub(crate) in_flight: AtomicU64,
    pub(crate) route: Route,
}

/// How deliveries ended since the start.
#[derive(Default)]
pub(crate) struct Counts {
    finished: AtomicU64,
    handed_back: AtomicU64,
    unsettled: AtomicU64,
}

/// How one delivery ended, as a stop reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Finished,
    HandedBack,
    Unsettled,
}

impl Counts {
    pub(crate) fn count(&self, ended: Ended) {
        let counter = match ended {
            Ended::Finished => &self.finished,
            Ended::HandedBack => &self.handed_back,
            Ended::Unsettled => &self.unsettled,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Finished, handed back, unsettled.
    pub(crate) fn read(&self) -> [u64; 3] {
        [&self.finished, &self.handed_back, &self.unsettled].map(|counter| counter.load(Ordering::Relaxed))
    }
}

impl Shared {
    pub(crate) fn now_ms(&self) -> u64 {
        self.services.clock.now_ms()
    }

    /// The answer, or none once the stop has begun. The future is dropped then.
    pub(crate) async fn until_stop<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => None,
            done = work => Some(done),
        }
    }

    /// Waits; false once the stop has begun.
    pub(crate) async fn pause(&self, wait_ms: u64) -> bool {
        let until_ms = self.now_ms().saturating_add(wait_ms);
        self.until_stop(self.services.clock.sleep_until(until_ms)).await.is_some()
    }

    /// Gives an attempt a task, on the handlers' threads where there are any. Its timers are still those of the runtime that
    /// dispatch runs on.
    pub(crate) fn spawn_attempt(&self, attempt: impl Future<Output = ()> + Send + 'static) {
        match &self.services.attempts {
            Some(threads) => self.tasks.spawn_on(TokioContext::new(attempt, Handle::current()), threads),
            None => self.tasks.spawn(attempt),
        };
    }

    /// One call to a port, bounded by [`CALL_MS_MAX`].
    pub(crate) async fn call<T>(&self, call: impl Future<Output = Result<T, PortError>>) -> Result<T, PortError> {
        match within(&*self.services.clock, CALL_MS_MAX, call).await {
            Some(answer) => answer,
            None => Err(PortError::new(ErrorKind::UnknownOutcome, format!("no answer within {CALL_MS_MAX} ms"))),
        }
    }
}

/// The answer, or none where it takes longer. Polls the work first, so that what it hands over at its first poll is handed
/// over in the order of the callers.
pub(crate) async fn within<T>(clock: &dyn Clock, limit_ms: u64, work: impl Future<Output = T>) -> Option<T> {
    let until_ms = clock.now_ms().saturating_add(limit_ms);
    tokio::select! {
        biased;
        done = work => Some(done),
        () = clock.sleep_until(until_ms) => None,
    }
}

/// Whether the same call can never succeed.
pub(crate) fn is_hopeless(error: &PortError) -> bool {
    match error.kind {
        ErrorKind::Conflict | ErrorKind::Invalid | ErrorKind::Unsupported => true,
        ErrorKind::Unavailable | ErrorKind::UnknownOutcome | ErrorKind::Exceeded | ErrorKind::Other => false,
    }
}

/// Waits between tries: doubling from the least to the longest.
pub(crate) struct Waits {
    bounds_ms: RangeInclusive<u64>,
    next_ms: u64,
}

impl Waits {
    pub(crate) fn new(bounds_ms: RangeInclusive<u64>) -> Self {
        Self { next_ms: *bounds_ms.start(), bounds_ms }
    }

    pub(crate) fn next_ms(&mut self) -> u64 {
        let wait_ms = self.next_ms;
        self.next_ms = wait_ms.saturating_mul(2).min(*self.bounds_ms.end());
        wait_ms
    }

    pub(crate) fn reset(&mut self) {
        self.next_ms = *self.bounds_ms.start();
    }
}

/// Counts a delivery as in flight until it is dropped.
pub(crate) struct InFlight(Arc<Bound>);

impl InFlight {
    pub(crate) fn begin(bound: &Arc<Bound>) -> Self {
        bound.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(bound))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// From one time to a later one; nothing where the clock went back.
pub(crate) fn between(from_ms: u64, to_ms: u64) -> Duration {
    Duration::from_millis(to_ms.saturating_sub(from_ms))
}
