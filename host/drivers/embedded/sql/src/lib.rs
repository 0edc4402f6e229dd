//! The SQL port over SQLite: one writer, a few readers, each connection on a thread of its own.
//!
//! Invariants
//! - Read-only access is a read-only connection (`SQLITE_OPEN_READ_ONLY` and `query_only`); no statement is looked at
//!   to find out what it would do.
//! - SQL reaches this database and nothing else: an authorizer refuses ATTACH, VACUUM, extensions, temporary objects
//!   and every PRAGMA that is not a question.
//! - A statement that fails for any reason, a limit included, has changed nothing.
//! - Nobody can hold the writer for ever: transactions are bounded in idle time and in whole time, and dropping one
//!   rolls it back.
//!
//! What SQLite cannot keep without loss is refused, with the reason: unsigned integers above `i64::MAX`, and decimals
//! of more than 15 digits (a column declared DECIMAL would round both without a word). Send those as text.
//!
//! Not here: who may use which database (`interfaces`), and anything that the port does not ask for.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]
#![cfg_attr(test, allow(clippy::needless_pass_by_value, reason = "the rows of a table of cases are values"))]

mod config;
mod database;

mod worker;

mod authorizer;
mod statement;
mod values;

mod errors;

pub use config::{Config, OpenError};
pub use database::{SqliteSql, open};
