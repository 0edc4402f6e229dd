//! An SMTP relay as the provider of e-mail: connections kept open, one attempt a mail, each step of the dialogue known.
//!
//! The dialogue is lettre's; the order of its steps is here, because what a failure means depends on the step: before the
//! mail's content is handed over nothing was done, after it nobody knows until the relay answers.
//!
//! Invariants
//! - Opening never connects. Every step is bounded in time, and so is the whole.
//! - A connection that is in doubt is closed, never used for another mail.
//! - A relay takes a mail for all of its recipients or not at all: where one is refused, the mail is not handed over.
//! - With a password, the connection is encrypted, unless the relay is on this machine or the configuration says otherwise.
//!
//! Not here: the mail itself (`mail`), once per key (`interfaces::effects`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod config;
mod connect;
mod error;
mod pool;
mod relay;
mod target;

pub use config::{Config, OpenError, Starttls};
pub use relay::{Relay, open};
