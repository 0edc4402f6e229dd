//! The host's state on MySQL or Postgres, shared by all hosts.
//!
//! Ledger, dead letters, effects, publishers' requests and deployments in tables of one database. Any number of hosts work
//! on them at once, behind any load balancer.
//!
//! Invariants
//! - What is answered `Ok` is committed.
//! - A claim is one statement whose condition the database checks: of many hosts one gets it.
//! - No statement that wrote is sent twice, but for one that the database itself undid (a deadlock, a lock that was not to
//!   be had). Where the answer to a write was lost, the outcome is
//!   [unknown](sandpost_ports::ErrorKind::UnknownOutcome), and the caller is told so.
//! - [`open`] connects to nothing. The tables are made and brought up to date behind it, as soon as the database is
//!   reached; until then every call is [unavailable](sandpost_ports::ErrorKind::Unavailable).
//! - Every call is bounded in time, and none is left with a connection whose state nobody knows: such a one is closed.
//!
//! Not here: messages, which are the broker's; the `sql` port, whose drivers are crates of their own.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod config;
mod database;
mod dead_letters;
mod deployments;
mod effects;
mod engine;
mod ledger;
mod migrate;
mod recorder;
mod requests;
mod schema;
mod statement;
mod trouble;

pub use config::{Config, Dialect, OpenError};

use database::Database;
use recorder::Recorder;
use sandpost_ports::PortError;
use sandpost_ports::health::{Health, PoolUse};
use sandpost_ports::state::Keep;
use statement::Statement;
use std::sync::Arc;

/// The state in one database, under one prefix.
pub struct SharedState {
    database: Arc<Database>,
    recorder: Arc<Recorder>,
    keep: Keep,
    forget_batch_max: usize,
    deployments_kept_max: usize,
}

impl std::fmt::Debug for SharedState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedState").field("dialect", &self.database.dialect()).finish_non_exhaustive()
    }
}

/// Opens the state. Called within a Tokio runtime, on which it then migrates and connects; fails only for a configuration
/// that cannot work, never because the database is down.
pub fn open(config: &Config) -> Result<Arc<SharedState>, OpenError> {
    let settings = config.settings()?;
    let runtime = tokio::runtime::Handle::try_current().map_err(|_| OpenError::NoRuntime)?;
    let database = Database::open(settings, &runtime);
    Ok(Arc::new(SharedState {
        recorder: Recorder::new(Arc::clone(&database), runtime),
        database,
        keep: config.ledger,
        forget_batch_max: config.forget_batch_max,
        deployments_kept_max: config.deployments_kept_max,
    }))
}

impl SharedState {
    /// Closes every connection, and waits for what is under way. Every call after it is unavailable.
    pub async fn close(&self) {
        self.database.close().await;
    }

    /// Deletes the oldest rows of a table, at most `max`, a batch a statement.
    async fn forget(&self, oldest: Oldest, limit_ms: u64, max: usize) -> Result<u64, PortError> {
        let mut gone = 0_u64;
        let mut left = max;
        while left > 0 {
            let batch = left.min(self.forget_batch_max);
            let Oldest { table, id, condition, age } = oldest;
            let sql = match self.database.dialect() {
                Dialect::Mysql => format!("DELETE FROM {{p}}{table} WHERE {condition} ORDER BY {age} LIMIT ?"),
                // What another host is deleting is passed over. The array is made once, whatever plan is chosen.
                Dialect::Postgres => format!(
                    "DELETE FROM {{p}}{table} WHERE {id} = ANY(ARRAY(SELECT {id} FROM {{p}}{table} \
                     WHERE {condition} ORDER BY {age} LIMIT ? FOR UPDATE SKIP LOCKED))"
                ),
            };
            let deleted = self.database.execute(Statement::new(sql).bind(limit_ms).bind(batch)).await?;
            gone += deleted;
            let deleted = usize::try_from(deleted).unwrap_or(usize::MAX);
            if deleted < batch {
                break;
            }
            left -= batch;
        }
        Ok(gone)
    }
}

/// What makes a row old.
#[derive(Debug, Clone, Copy)]
struct Oldest {
    table: &'static str,
    /// Its primary key.
    id: &'static str,
    /// With one place for a time.
    condition: &'static str,
    /// The column that the condition is about; it has an index.
    age: &'static str,
}

#[async_trait::async_trait]
impl Health for SharedState {
    async fn check(&self) -> Result<(), PortError> {
        self.database.query(Statement::new("SELECT 1")).await.map(drop)
    }

    fn pool(&self) -> Option<PoolUse> {
        Some(self.database.pool())
    }
}
