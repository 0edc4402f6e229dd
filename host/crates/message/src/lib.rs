//! What travels through Sandpost: a message, the names around it, and what becomes of it.
//!
//! Every other crate speaks these words, so this one speaks to nothing: no I/O, no clock, no vendor.
//!
//! Invariants
//! - A name that exists is valid: the only way to one is through its parser.
//! - A message within [`limits`] is accepted by every driver, so a plugin never learns a broker's own limit.
//!
//! Not here: how a message is stored (`ports::broker`), or who decides about it (`dispatch`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod message;
mod names;
mod outcome;
mod trace;

pub use message::{Message, MessageError, TimestampMs, limits};
pub use names::{ConnectionLabel, Digest, MessageId, NameError, PluginName, SubscriptionName, Topic};
pub use outcome::{Fault, FaultKind, Outcome, Verdict};
pub use trace::TraceParent;
