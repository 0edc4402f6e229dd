//! Dispatch: pull, route, attempt, retry, settle. The way of a message from the broker to its end.
//!
//! The only place that acknowledges. It knows the ports alone: neither wasmtime nor a vendor.
//!
//! Invariants
//! - A message that was pulled ends in exactly one of two ways: acknowledged, or kept as a dead letter. The dead letter is
//!   durable before the broker is told; whatever is cut off in between is delivered again.
//! - No worker sleeps for a message: a back-off is a time that the broker keeps.
//! - A subscription never has more than its concurrency at work, the host never more than its ceiling, and a subscription
//!   waits for at most one place at the ceiling at a time, so that none starves another.
//! - Every task ends before [`Running::stop`] returns.
//!
//! Not here: leases and ordering keys as such (the broker's), what a handler is (`runtime`), effects (`interfaces`),
//! replaying dead letters (`ingress`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod attempt;
mod config;
mod context;
mod dispatcher;
mod gauges;
mod housekeeping;
pub mod retry;
mod route;
mod settle;
mod subscription;

pub use config::{Config, ConfigError, RetryPolicy, SubscriptionConfig, Subscriptions, validate};
pub use dispatcher::{Dispatcher, Running, Services, StartError, StopReport};
