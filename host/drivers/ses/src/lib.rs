//! AWS SES v2 as the provider of e-mail: raw or simple sending, paced by the account's own quota, one attempt a mail.
//!
//! Invariants
//! - One call of `send` is at most one request that reaches SES: the SDK's retries are off. Where the answer is lost the
//!   outcome is unknown, because `SendEmail` has no idempotency token.
//! - Nothing here needs SES to be up: opening reads configuration and profiles alone; account, identity and suppression list
//!   are read in the background, and again from time to time.
//! - What stops every mail (sending paused, account suspended, the day's quota used up, keys that are refused) stops the
//!   line: sends are answered [`Paused`](sandpost_ports::email::SendError::Paused) without a request until it is over.
//! - Recipients per second go through one bucket ([`Pace`]), which several hosts can share.
//!
//! Not here: the mail itself (`mail`), once per key (`interfaces::effects`), bounces and complaints.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod account;
mod config;
mod content;
mod credentials;
mod error;
mod identity;
mod pace;
mod sender;
mod suppression;

pub use config::{Config, Content, OpenError};
pub use identity::IdentityStatus;
pub use pace::{LocalPace, Pace, Turn};
pub use sender::{Ses, open};
