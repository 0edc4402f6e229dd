//! The documents port over MongoDB, by the vendor's own client.
//!
//! What is not in the embedded driver's subset works here too: every filter and update operator of the server, and the
//! stages listed in `refused`. What would run code in the database, write from a pipeline or read another collection is
//! refused by name before it is sent.
//!
//! Invariants
//! - Opening never waits for the server. The client is made by the first call, watches the server from then on and
//!   connects again by itself.
//! - Every call is bounded: in the wait for a connection, in the choice of a server, and as a whole.
//! - A write whose answer was lost is [`UnknownOutcome`](sandpost_ports::ErrorKind); one that was never handed to a
//!   connection is [`Unavailable`](sandpost_ports::ErrorKind), and nothing of it was done.
//! - No text for a plugin holds an address or a password.
//!
//! Not here: which collections a plugin may use (`interfaces`), environment variables (`host`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod config;
mod documents;

mod connection;
mod events;

mod cursor;

mod extjson;
mod refused;

mod errors;

pub use config::{Config, OpenError};
pub use documents::{MongoDocuments, open};
