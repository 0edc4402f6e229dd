//! The circuit breaker: after some failures in a row a service is left alone for a moment, then one call goes through to
//! see.
//!
//! A failure is what says that the service is not there: `UnknownOutcome`, and `Unavailable` but where a subscription alone is
//! missing. Every other answer, an error too, is one of a service that works.
//!
//! Invariants
//! - Half-open lets one call through at a time; one that is dropped unanswered makes room for the next.
//! - Only the answer of that call decides there. What began before the breaker opened and ends late decides nothing.

use sandpost_telemetry::events::connections::{BreakerChanged, BreakerRefused, BreakerState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    /// Failures in a row that open it; 0 leaves it closed for ever. Default 5: a connection that was lost fails once or
    /// twice before it is there again, and a service that is down fails every time.
    pub failures: u32,
    /// How far apart the first and the last of them may be. Default 30 000: a failure now and then is no outage.
    pub window_ms: u64,
    /// How long it stays open before one call goes through. Default 2000, the longest wait between two reconnects of the
    /// origin documents: a service that is back is used again at once.
    pub open_ms: u64,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failures: 5, window_ms: 30_000, open_ms: 2_000 }
    }
}

/// A bound that cannot work.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key.
    pub key: &'static str,
    /// What it may be.
    pub range: std::ops::RangeInclusive<u64>,
}

impl BreakerConfig {
    /// Whether every bound can work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let bounds = [
            ("failures", u64::from(self.failures), 0..=1_000),
            ("window_ms", self.window_ms, 1..=3_600_000),
            ("open_ms", self.open_ms, 1..=600_000),
        ];
        match bounds.into_iter().find(|(_, value, range)| !range.contains(value)) {
            Some((key, _, range)) => Err(ConfigError { key, range }),
            None => Ok(()),
        }
    }
}

/// One connection's breaker.
#[derive(Debug)]
pub(crate) struct Breaker {
    connection: String,
    driver: &'static str,
    config: BreakerConfig,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Calls go through. `since` is when the first of the failures in a row was.
    Closed { failures: u32, since: Instant },
    /// None does until then.
    Open { until: Instant },
    /// One does.
    HalfOpen { probing: bool },
}

/// Whether a call may be made. Dropped without a word, it decides nothing.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    breaker: &'a Breaker,
    probe: bool,
}

/// The call must not be made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused;

impl Breaker {
    pub(crate) fn new(connection: &str, driver: &'static str, config: BreakerConfig) -> Self {
        let breaker = Self {
            connection: connection.to_owned(),
            driver,
            config,
            state: Mutex::new(State::Closed { failures: 0, since: Instant::now() }),
        };
        breaker.report(BreakerState::Closed, 0, 0);
        breaker
    }

    /// Asks before a call.
    pub(crate) fn admit(&self) -> Result<Permit<'_>, Refused> {
        let mut state = self.lock();
        let probe = match *state {
            State::Closed { .. } => false,
            State::Open { until } if Instant::now() >= until => {
                *state = State::HalfOpen { probing: true };
                self.report(BreakerState::HalfOpen, 0, 0);
                true
            }
            State::HalfOpen { probing: false } => {
                *state = State::HalfOpen { probing: true };
                true
            }
            State::Open { .. } | State::HalfOpen { probing: true } => {
                drop(state);
                BreakerRefused { connection: &self.connection, driver: self.driver }.emit();
                return Err(Refused);
            }
        };
        Ok(Permit { breaker: self, probe })
    }

    /// For what goes through whatever the state is.
    pub(crate) fn let_through(&self) -> Permit<'_> {
        Permit { breaker: self, probe: false }
    }

    /// The service answered a health check: an open breaker lets one call through now.
    pub(crate) fn answered(&self) {
        let mut state = self.lock();
        if matches!(*state, State::Open { .. }) {
            *state = State::HalfOpen { probing: false };
            self.report(BreakerState::HalfOpen, 0, 0);
        }
    }

    /// Whether calls are refused now.
    pub(crate) fn is_open(&self) -> bool {
        matches!(*self.lock(), State::Open { .. })
    }

    fn failed(&self, probe: bool) {
        let now = Instant::now();
        let mut state = self.lock();
        let failures = match *state {
            State::Closed { .. } if self.config.failures == 0 => return,
            State::Closed { failures, since } => {
                let in_window = failures > 0 && now - since <= Duration::from_millis(self.config.window_ms);
                let (failures, since) = if in_window { (failures + 1, since) } else { (1, now) };
                *state = State::Closed { failures, since };
                if failures < self.config.failures {
                    return;
                }
                failures
            }
            State::HalfOpen { .. } if probe => 1,
            State::HalfOpen { .. } | State::Open { .. } => return,
        };
        *state = State::Open { until: now + Duration::from_millis(self.config.open_ms) };
        self.report(BreakerState::Open, failures, self.config.open_ms);
    }

    fn succeeded(&self, probe: bool) {
        let mut state = self.lock();
        let closed = State::Closed { failures: 0, since: Instant::now() };
        match *state {
            State::Closed { failures: 0, .. } => {}
            State::Closed { .. } => *state = closed,
            State::HalfOpen { .. } if probe => {
                *state = closed;
                self.report(BreakerState::Closed, self.config.failures, 0);
            }
            State::HalfOpen { .. } | State::Open { .. } => {}
        }
    }

    fn report(&self, state: BreakerState, failures: u32, wait_ms: u64) {
        BreakerChanged { connection: &self.connection, driver: self.driver, state, failures, wait_ms }.emit();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// The call was answered, or failed because the service is not there.
    pub(crate) fn ended(self, failed: bool) {
        if failed {
            self.breaker.failed(self.probe);
        } else {
            self.breaker.succeeded(self.probe);
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if !self.probe {
            return;
        }
        // After an answer the state is another one already.
        let mut state = self.breaker.lock();
        if let State::HalfOpen { probing } = &mut *state {
            *probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new("cache", "redis", BreakerConfig { failures: 3, window_ms: 10_000, open_ms: 1_000 })
    }

    fn fail(breaker: &Breaker, times: usize) {
        for _ in 0..times {
            breaker.admit().unwrap().ended(true);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_one_call_sees_whether_it_is_over() {
        let breaker = breaker();
        fail(&breaker, 2);
        breaker.admit().unwrap().ended(false);
        fail(&breaker, 2);
        assert!(!breaker.is_open(), "a success in between begins the count anew");
        fail(&breaker, 1);
        assert!(breaker.is_open());
        assert_eq!(breaker.admit().err(), Some(Refused));

        tokio::time::advance(Duration::from_secs(1)).await;
        let probe = breaker.admit().unwrap();
        assert_eq!(breaker.admit().err(), Some(Refused), "one at a time");
        probe.ended(true);
        assert_eq!(breaker.admit().err(), Some(Refused), "it did not work: open again");

        tokio::time::advance(Duration::from_secs(1)).await;
        breaker.admit().unwrap().ended(false);
        fail(&breaker, 2);
        assert!(!breaker.is_open(), "closed again, with a count from nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_far_apart_are_no_outage() {
        let breaker = breaker();
        fail(&breaker, 2);
        tokio::time::advance(Duration::from_millis(10_001)).await;
        fail(&breaker, 2);
        assert!(!breaker.is_open());
        fail(&breaker, 1);
        assert!(breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_nobody_waited_for_makes_room_for_the_next() {
        let breaker = breaker();
        fail(&breaker, 3);
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(breaker.admit().unwrap());
        breaker.admit().unwrap().ended(false);
        assert!(breaker.admit().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_began_before_and_ends_late_decides_nothing() {
        let breaker = breaker();
        let (early, late) = (breaker.admit().unwrap(), breaker.admit().unwrap());
        fail(&breaker, 3);
        early.ended(false);
        assert!(breaker.is_open());
        breaker.answered();
        let probe = breaker.admit().unwrap();
        late.ended(true);
        assert!(!breaker.is_open());
        probe.ended(false);
        assert!(breaker.admit().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn it_can_be_left_closed() {
        let breaker = Breaker::new("cache", "redis", BreakerConfig { failures: 0, ..BreakerConfig::default() });
        fail(&breaker, 100);
        assert!(breaker.admit().is_ok());
    }

    #[test]
    fn bounds_that_cannot_work_are_named() {
        assert_eq!(BreakerConfig::default().validate(), Ok(()));
        let wrong = BreakerConfig { open_ms: 0, ..BreakerConfig::default() };
        assert_eq!(wrong.validate().unwrap_err().key, "open_ms");
    }
}
