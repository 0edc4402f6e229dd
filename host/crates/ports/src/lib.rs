//! The seams: what Sandpost asks of the services behind it, a file a port. Trait, types, error, contract suite.
//!
//! A port has the operations that plugins and the host need, in the host's words. Whatever else a vendor can do stays
//! in its driver. What a driver cannot do it refuses with [`ErrorKind::Unsupported`], never by silence.
//!
//! Invariants
//! - No vendor, no wasm, no configuration: a driver depends on this crate and on nothing else of the host's.
//! - Every method is cancel-safe: a dropped future loses no message and leaves no lock; what it had begun either
//!   happened or did not, and the caller takes it for [`ErrorKind::UnknownOutcome`].
//! - An error's message is fit for a plugin: no address, no secret. What only the operator may read is its source.
//!
//! Not here: grants and scopes (`interfaces`), retries (`dispatch`), the drivers (`drivers/*`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

pub mod broker;
pub mod cache;
pub mod clock;
pub mod documents;
pub mod email;
mod error;
pub mod health;
pub mod plugins;
pub mod publisher;
mod secret;
pub mod sql;
pub mod state;

#[cfg(feature = "contract")]
pub mod contract;

pub use error::{BoxError, ErrorKind, PortError};
pub use secret::Secret;
