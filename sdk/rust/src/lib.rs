//! Write Sandpost plugins in Rust: handlers and e-mail templates as plain functions.
//!
//! A plugin is a `cdylib` for the target `wasm32-wasip2`. Its handler is a function:
//!
//! ```
//! use sandpost_sdk::prelude::*;
//! use sandpost_sdk::pubsub;
//!
//! #[derive(Deserialize)]
//! struct Created {
//!     #[serde(rename = "notificationId")]
//!     notification_id: String,
//! }
//!
//! #[sandpost_sdk::handler]
//! fn handle(message: Message, event: Json<Created>) -> Result<()> {
//!     log::info!(attempt = message.attempt(); "Handling {}.", event.notification_id);
//!     pubsub::publish("notification-seen", &json!({"notificationId": event.notification_id}))?;
//!     Ok(())
//! }
//!
//! // Natively, in a test, the host is a fake:
//! # fn main() {
//! use sandpost_sdk::testing;
//!
//! let host = testing::Host::new();
//! host.deliver(handle, &testing::message("notification-created", json!({"notificationId": "n1"}))).unwrap();
//! assert_eq!(host.published()[0].topic, "notification-seen");
//! # }
//! ```
//!
//! - **Arguments**: [`Message`], [`Json<T>`](Json), any type with [`FromMessage`]; one to three of them.
//! - **Verdict**: `Ok(())` acknowledges. An [`Error`] retries or rejects; `?` chooses by the error, see its table.
//! - **Host**: [`cache`], [`pubsub`], [`email`], [`sql`], [`documents`], [`templates`], [`config`], [`health`],
//!   [`time`], and the [`log`] crate's macros. What a plugin does not call, it does not import, and needs no grant for.
//! - **Templates** are written with [`template`] and `#[sandpost_sdk::templates]`.
//! - **Tests** run natively against [`testing`]'s fakes, with `cargo test`.
//!
//! A panic ends the attempt, which is retried; its message goes to stderr, which the host keeps. Each message has a fresh
//! instance: a `static` does not live from one message to the next.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

pub mod cache;
pub mod config;
pub mod documents;
pub mod email;
mod entry;
mod error;
mod handler;
pub mod health;
mod json;
mod logger;
mod message;
pub mod prelude;
pub mod pubsub;
pub mod sql;
mod sys;
pub mod template;
pub mod templates;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
pub mod time;

pub use error::{Context, Error, HostError, Result, Verdict};
pub use handler::{FromMessage, Handler, Json};
pub use message::Message;
pub use sandpost_sdk_macros::{handler, templates};
pub use {log, serde, serde_json};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// For the macros alone.
#[doc(hidden)]
pub mod __private {
    pub use crate::entry::*;
}
