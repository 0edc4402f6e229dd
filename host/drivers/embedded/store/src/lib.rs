//! The durable broker and the host's state on one SQLite file, with nothing to install.
//!
//! One thread writes. Whatever is waiting for it goes into one transaction and is answered after the commit, so a
//! thousand publishers share one sync of the disk. A second thread reads histories and lists, so that an operator's
//! look at a million dead letters does not hold up the messages.
//!
//! Invariants
//! - `Ok` means committed and synced (WAL, `synchronous = FULL`). A command that fails has changed nothing.
//! - One host owns the file: a lock beside it is held as long as the store is open.
//! - Nothing is polled: a waiting `next` is woken by what makes a message deliverable, or at the time when one becomes so.
//! - Every step of the way of a message costs a constant number of index look-ups, however long the queue.
//!
//! Not here: when to retry and when to give up (`dispatch`); several hosts on one store (the SQL drivers).
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod config;
mod open;
mod schema;

mod store;

mod reader;
mod writer;

mod broker;
mod state;

mod row;
mod trouble;

pub use config::Config;
pub use open::{OpenError, open};
pub use store::Store;
