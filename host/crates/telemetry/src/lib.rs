//! Logs, metrics and traces: how the host says what it does.
//!
//! The only crate that knows the names of metrics and the shape of a log line. Others make an event and emit it.
//!
//! Not here: what a message went through, which is the ledger's (`ports::state::Ledger`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

pub mod events;
mod logs;
mod metrics;
mod redact;
#[cfg(feature = "otlp")]
pub mod traces;
#[cfg(not(feature = "otlp"))]
#[path = "traces_disabled.rs"]
pub mod traces;

pub use logs::{Format, Level, LogError, init};
pub use metrics::{Metrics, MetricsError};
pub use redact::redact;
