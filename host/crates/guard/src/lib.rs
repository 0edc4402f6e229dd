//! What every connection to a real service has in common, whichever service it is: each operation is timed and counted by
//! its outcome, and a circuit breaker stands before it.
//!
//! A guard is a port before a port: the host puts it between the driver and everybody else, and neither knows of it.
//!
//! Invariants
//! - What the driver answered is passed on as it is. Only an open breaker answers by itself, with
//!   [`Unavailable`](sandpost_ports::ErrorKind::Unavailable): nothing was done.
//! - What was begun may end: statements of a transaction, a cursor's batches, settlements and lease extensions are counted
//!   but never refused.
//! - Waiting for messages is no operation: `next` is passed through, neither timed nor counted.
//! - A measured call makes no labels and takes no lock but the breaker's, held for a comparison.
//!
//! What is no port (a bucket that paces mail) goes through [`Connection::call`] by itself.
//!
//! Embedded drivers have no guard: there is no connection to lose, and what plugins ask of them is measured as host calls.
//!
//! Not here: pools' use, which the host reads from [`Health::pool`](sandpost_ports::health::Health::pool) of every
//! connection; retries (`dispatch`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod breaker;
mod connection;

mod broker;
mod cache;
mod documents;
mod email;
mod requests;
mod sql;

pub use breaker::{BreakerConfig, ConfigError};
pub use broker::GuardedBroker;
pub use cache::{GuardedCache, GuardedCacheServer};
pub use connection::{Answer, Connection};
pub use documents::GuardedDocuments;
pub use email::GuardedEmail;
pub use requests::GuardedRequests;
pub use sql::GuardedSql;

#[cfg(test)]
mod tests;
