//! The mail catcher: takes mails as a provider would, sends nothing, keeps them and shows them.
//!
//! Everything is in one `SQLite` file (or in memory): the mails, and the keys of what was "sent", which outlive the mails
//! so that a key is one mail even after the mail made room for newer ones.
//!
//! Invariants
//! - `Ok` from `send` means committed and synced (WAL, `synchronous = FULL`): `kill -9` loses no caught mail, and none
//!   is there by half.
//! - One key is one mail, over restarts and from any number of tasks: key and mail are written in one transaction.
//! - Numbers count up from 1 and are never used again.
//! - Bounded: mails by number and by bytes, keys by number; the oldest make room.
//! - `SQLite` runs on tokio's blocking threads, one call at a time; no task waits for it on a thread that serves others.
//!
//! Not here: building the mail (`mail`), the pages that show it (`ingress`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod catcher;
mod config;
mod rows;

pub use catcher::{Catcher, open};
pub use config::{Config, OpenError};
