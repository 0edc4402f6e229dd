//! Time as a port, so that back-off, leases and windows can be tested without waiting.

use sandpost_message::TimestampMs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// What time it is, and waiting until it is another.
#[async_trait::async_trait]
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970-01-01T00:00:00Z. May go back when the machine's clock is set.
    fn now_ms(&self) -> TimestampMs;

    /// Returns at or after `at_ms`; at once where that has passed.
    async fn sleep_until(&self, at_ms: TimestampMs);
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[async_trait::async_trait]
impl Clock for SystemClock {
    fn now_ms(&self) -> TimestampMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    async fn sleep_until(&self, at_ms: TimestampMs) {
        tokio::time::sleep(Duration::from_millis(at_ms.saturating_sub(self.now_ms()))).await;
    }
}

/// A clock that stands still until it is moved. For tests.
#[derive(Debug, Clone, Default)]
pub struct ManualClock {
    now_ms: Arc<AtomicU64>,
    moved: Arc<Notify>,
}

impl ManualClock {
    /// A clock that shows this time.
    pub fn at(now_ms: TimestampMs) -> Self {
        Self { now_ms: Arc::new(AtomicU64::new(now_ms)), moved: Arc::default() }
    }

    /// Moves the clock forward and wakes who waits.
    pub fn advance(&self, by_ms: u64) {
        self.now_ms.fetch_add(by_ms, Ordering::SeqCst);
        self.moved.notify_waiters();
    }
}

#[async_trait::async_trait]
impl Clock for ManualClock {
    fn now_ms(&self) -> TimestampMs {
        self.now_ms.load(Ordering::SeqCst)
    }

    async fn sleep_until(&self, at_ms: TimestampMs) {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            // Registered before the look at the time, so that a move in between is not missed.
            moved.as_mut().enable();
            if self.now_ms() >= at_ms {
                return;
            }
            moved.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_its_waiters_at_their_time() {
        let clock = ManualClock::at(1_000);
        let waiter = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(1_500).await }
        });
        clock.advance(499);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        clock.advance(1);
        waiter.await.unwrap();
    }
}
