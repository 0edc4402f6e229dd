//! Relational databases for plugins: MySQL or MariaDB ([`open_mysql`]) and Postgres ([`open_postgres`]).
//!
//! One statement a call, or a transaction across calls, on a pool of this crate's own: unlike the client library's, it knows of
//! each connection what its session was told, and which one to end on the server.
//!
//! Invariants
//! - A connection whose state nobody knows, because its statement took too long, was given up or was cut off, never comes
//!   back to the pool: it is closed, and the server is told to end it (`pool`).
//! - A statement runs in a transaction of its own, so that what goes wrong on its way, the limits on its result included,
//!   undoes it. An error that is not [of unknown outcome](sandpost_ports::ErrorKind::UnknownOutcome) says that nothing was done.
//!   The exception is MySQL's own: what defines tables there commits by itself.
//! - Read-only access is a read-only transaction of the session. No statement of a plugin ends a transaction or changes a
//!   session (`statement`), and what one could have left behind is taken away before the next gets the connection.
//! - Opening asks no server. Every call ends: the wait for a connection, making it, the statement and its commit each have a
//!   time.
//!
//! Not here: the host's own tables, which are `sandpost-shared-state`'s; grants (`interfaces`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]
#![cfg_attr(
    not(all(feature = "mysql", feature = "postgres")),
    allow(dead_code, unused_imports, reason = "what both engines share, one alone does not use up")
)]

mod config;
mod database;
mod engine;
mod fault;
mod pool;
mod shape;
mod statement;

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;

pub use config::{Config, OpenError, Tls};

use sandpost_ports::sql::Sql;
use std::sync::Arc;

/// An open database.
#[async_trait::async_trait]
pub trait Database: Sql {
    /// Closes every connection, and waits a short time for what is under way. Every call after it is unavailable.
    async fn close(&self);
}

/// MySQL 8.0 or MariaDB 10.5, or newer.
///
/// Fails only for a configuration that cannot work. Must be called inside a Tokio runtime, on which the connections then live;
/// for TLS the process needs a rustls provider.
#[cfg(feature = "mysql")]
pub fn open_mysql(config: &Config) -> Result<Arc<dyn Database>, OpenError> {
    database::open::<mysql::Mysql>(config)
}

/// Postgres 12 or newer. As [`open_mysql`].
#[cfg(feature = "postgres")]
pub fn open_postgres(config: &Config) -> Result<Arc<dyn Database>, OpenError> {
    database::open::<postgres::Postgres>(config)
}
