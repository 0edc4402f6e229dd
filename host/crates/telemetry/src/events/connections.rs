//! What connections report, whatever service is behind them: latency and outcome of each operation, the state of the
//! circuit breaker, how much of a pool and of an account's quota is in use.
//!
//! Metrics
//! - `sandpost_connection_seconds{connection,driver,operation,outcome}`: one an operation.
//! - `sandpost_breaker_state{connection,driver}`: 0 closed, 1 half-open, 2 open;
//!   `sandpost_breaker_opened_total{connection,driver}`, `sandpost_breaker_refusals_total{connection,driver}`.
//! - `sandpost_pool_connections{connection,driver,state}` with `in-use` and `idle`;
//!   `sandpost_pool_connections_max{connection,driver}`.
//! - Gauges of the provider's account, in recipients: `sandpost_email_quota_recipients{connection,driver}` of 24 hours,
//!   `sandpost_email_quota_used_recipients{connection,driver}`, `sandpost_email_rate_recipients_per_second{connection,driver}`.
//! - `sandpost_email_turns_total{bucket}` with `shared` and `alone`: mails that took their turn to be sent.

use metrics::{Histogram, counter, gauge, histogram};
use std::sync::OnceLock;
use std::time::Duration;

/// The part of the host that a line names.
const TARGET: &str = "sandpost::connections";

/// What an operation on a connection came to. A closed list, for labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OperationOutcome {
    /// Done.
    Ok,
    /// Wrong arguments.
    Invalid,
    /// It is there already, or a constraint forbids it.
    Conflict,
    /// The service is down or overloaded; nothing was done.
    Unavailable,
    /// Nobody knows whether it was done.
    UnknownOutcome,
    /// A limit was reached.
    Exceeded,
    /// The driver cannot do it.
    Unsupported,
    /// Another fault.
    Other,
    /// The provider refused this mail for good.
    Rejected,
    /// Over the provider's rate.
    Throttled,
    /// The provider takes no mail for now.
    Paused,
    /// No recipient may get mail.
    Suppressed,
    /// Whoever asked did not wait for the answer.
    CutOff,
}

impl OperationOutcome {
    /// How many there are.
    const COUNT: usize = 13;

    /// The label. Never renamed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Invalid => "invalid",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::UnknownOutcome => "unknown-outcome",
            Self::Exceeded => "exceeded",
            Self::Unsupported => "unsupported",
            Self::Other => "other",
            Self::Rejected => "rejected",
            Self::Throttled => "throttled",
            Self::Paused => "paused",
            Self::Suppressed => "suppressed",
            Self::CutOff => "cut-off",
        }
    }
}

/// One kind of operation on one connection. Made once, so that measuring a call makes no labels; metric alone, because a
/// line for each call would drown the rest.
#[derive(Debug)]
pub struct Operation {
    connection: String,
    driver: &'static str,
    name: &'static str,
    /// By outcome; each is made when it first happens, so that what never happens is no series.
    seconds: [OnceLock<Histogram>; OperationOutcome::COUNT],
}

impl Operation {
    /// `connection` is its name in the configuration (`cache`, `sql.main`), `driver` and `name` are words of closed
    /// lists.
    pub fn new(connection: &str, driver: &'static str, name: &'static str) -> Self {
        Self { connection: connection.to_owned(), driver, name, seconds: [const { OnceLock::new() }; _] }
    }

    /// Measures one that ended.
    pub fn ended(&self, outcome: OperationOutcome, duration: Duration) {
        let Some(seconds) = self.seconds.get(outcome as usize) else { return };
        seconds
            .get_or_init(|| {
                histogram!(
                    "sandpost_connection_seconds",
                    "connection" => self.connection.clone(),
                    "driver" => self.driver,
                    "operation" => self.name,
                    "outcome" => outcome.word(),
                )
            })
            .record(duration);
    }
}

/// Whether calls go through to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// They do.
    Closed,
    /// One does, to see.
    HalfOpen,
    /// None does.
    Open,
}

/// A circuit breaker changed, or was made.
#[derive(Debug)]
pub struct BreakerChanged<'a> {
    /// Which connection.
    pub connection: &'a str,
    /// Its driver.
    pub driver: &'static str,
    /// What is the case now.
    pub state: BreakerState,
    /// Calls in a row that failed before it.
    pub failures: u32,
    /// Until one may go through again, in milliseconds; 0 where it is not open.
    pub wait_ms: u64,
}

impl BreakerChanged<'_> {
    /// A gauge, a count of the openings, and a line.
    pub fn emit(self) {
        let Self { connection, driver, state, failures, wait_ms } = self;
        let value = match state {
            BreakerState::Closed => 0.0,
            BreakerState::HalfOpen => 1.0,
            BreakerState::Open => 2.0,
        };
        gauge!("sandpost_breaker_state", "connection" => connection.to_owned(), "driver" => driver).set(value);
        match state {
            BreakerState::Open => {
                counter!("sandpost_breaker_opened_total", "connection" => connection.to_owned(), "driver" => driver)
                    .increment(1);
                tracing::warn!(
                    target: TARGET, connection, driver, failures, wait_ms,
                    "Calls in a row failed: the circuit breaker is open, and further calls are refused at once."
                );
            }
            BreakerState::HalfOpen => {
                tracing::debug!(target: TARGET, connection, driver, "One call goes through, to see.");
            }
            // Also said of one that was just made; that is no news.
            BreakerState::Closed if failures == 0 => {}
            BreakerState::Closed => {
                tracing::info!(target: TARGET, connection, driver, "The circuit breaker is closed: calls go through.");
            }
        }
    }
}

/// A call was not made, because the breaker is open. Metric alone.
#[derive(Debug)]
pub struct BreakerRefused<'a> {
    /// Which connection.
    pub connection: &'a str,
    /// Its driver.
    pub driver: &'static str,
}

impl BreakerRefused<'_> {
    /// Counts it.
    pub fn emit(self) {
        let Self { connection, driver } = self;
        counter!("sandpost_breaker_refusals_total", "connection" => connection.to_owned(), "driver" => driver)
            .increment(1);
    }
}

/// How much of a pool is in use, at one moment.
#[derive(Debug)]
pub struct PoolUse<'a> {
    /// Which connection.
    pub connection: &'a str,
    /// Its driver.
    pub driver: &'static str,
    /// At work.
    pub in_use: u64,
    /// Open, waiting for work.
    pub idle: u64,
    /// The most that may be open.
    pub max: u64,
}

impl PoolUse<'_> {
    /// Gauges alone.
    #[expect(clippy::cast_precision_loss, reason = "a pool has no 2^52 connections")]
    pub fn emit(self) {
        let Self { connection, driver, in_use, idle, max } = self;
        for (state, count) in [("in-use", in_use), ("idle", idle)] {
            let connection = connection.to_owned();
            gauge!("sandpost_pool_connections", "connection" => connection, "driver" => driver, "state" => state)
                .set(count as f64);
        }
        gauge!("sandpost_pool_connections_max", "connection" => connection.to_owned(), "driver" => driver)
            .set(max as f64);
    }
}

/// What a provider's account allows was looked at. Recipients count, not mails.
#[derive(Debug)]
pub struct QuotaSeen<'a> {
    /// Which connection.
    pub connection: &'a str,
    /// Its driver.
    pub driver: &'static str,
    /// In 24 hours.
    pub per_day: f64,
    /// In the last 24 hours.
    pub sent_today: f64,
    /// In a second.
    pub per_second: f64,
}

impl QuotaSeen<'_> {
    /// Gauges alone; that the quota runs low is said by the driver, once.
    pub fn emit(self) {
        let Self { connection, driver, per_day, sent_today, per_second } = self;
        let connection = || connection.to_owned();
        gauge!("sandpost_email_quota_recipients", "connection" => connection(), "driver" => driver).set(per_day);
        gauge!("sandpost_email_quota_used_recipients", "connection" => connection(), "driver" => driver)
            .set(sent_today);
        gauge!("sandpost_email_rate_recipients_per_second", "connection" => connection(), "driver" => driver)
            .set(per_second);
    }
}

/// A mail took its turn in the provider's rate. Metric alone; that the bucket went away is said by the driver, once.
#[derive(Debug)]
pub struct TurnTaken {
    /// Whether out of the bucket that several hosts share, not out of this host's own.
    pub shared: bool,
}

impl TurnTaken {
    /// Counts it.
    pub fn emit(self) {
        let bucket = if self.shared { "shared" } else { "alone" };
        counter!("sandpost_email_turns_total", "bucket" => bucket).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics_exporter_prometheus::PrometheusBuilder;

    #[test]
    fn each_event_counts_under_its_labels() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let get = Operation::new("cache", "redis", "get-many");
            get.ended(OperationOutcome::Ok, Duration::from_millis(500));
            get.ended(OperationOutcome::Unavailable, Duration::from_secs(2));
            get.ended(OperationOutcome::Unavailable, Duration::from_secs(2));
            let (connection, driver) = ("cache", "redis");
            for state in [BreakerState::Closed, BreakerState::Open] {
                BreakerChanged { connection, driver, state, failures: 0, wait_ms: 0 }.emit();
            }
            BreakerRefused { connection, driver }.emit();
            PoolUse { connection: "sql.main", driver: "mysql", in_use: 3, idle: 1, max: 10 }.emit();
            let (connection, driver) = ("email", "ses");
            QuotaSeen { connection, driver, per_day: 200.0, sent_today: 3.0, per_second: 14.0 }.emit();
            QuotaSeen { connection, driver, per_day: 200.0, sent_today: 5.0, per_second: 14.0 }.emit();
            TurnTaken { shared: true }.emit();
            TurnTaken { shared: false }.emit();
        });
        let text = handle.render();
        for line in [
            "sandpost_connection_seconds_sum{connection=\"cache\",driver=\"redis\",operation=\"get-many\",outcome=\"ok\"} 0.5",
            "sandpost_connection_seconds_count{connection=\"cache\",driver=\"redis\",operation=\"get-many\",outcome=\"unavailable\"} 2",
            "sandpost_breaker_state{connection=\"cache\",driver=\"redis\"} 2",
            "sandpost_breaker_opened_total{connection=\"cache\",driver=\"redis\"} 1",
            "sandpost_breaker_refusals_total{connection=\"cache\",driver=\"redis\"} 1",
            "sandpost_pool_connections{connection=\"sql.main\",driver=\"mysql\",state=\"in-use\"} 3",
            "sandpost_pool_connections{connection=\"sql.main\",driver=\"mysql\",state=\"idle\"} 1",
            "sandpost_pool_connections_max{connection=\"sql.main\",driver=\"mysql\"} 10",
            "sandpost_email_quota_recipients{connection=\"email\",driver=\"ses\"} 200",
            "sandpost_email_quota_used_recipients{connection=\"email\",driver=\"ses\"} 5",
            "sandpost_email_rate_recipients_per_second{connection=\"email\",driver=\"ses\"} 14",
            "sandpost_email_turns_total{bucket=\"shared\"} 1",
            "sandpost_email_turns_total{bucket=\"alone\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("suppressed"), "what never happened is no series");
    }
}
