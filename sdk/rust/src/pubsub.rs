//! Publishing: other handlers, other services get the message.
//!
//! A message is published once for each message that is handled and place of the call, however often it is
//! redelivered: the host makes the key. [`Outgoing::dedupe_key`] gives one of your own.
//!
//! ```
//! use sandpost_sdk::prelude::*;
//! use sandpost_sdk::pubsub::{self, Outgoing};
//! use std::time::Duration;
//!
//! # let host = sandpost_sdk::testing::Host::new();
//! # fn publish() -> Result<()> {
//! pubsub::publish("notification-sent", &json!({"notificationId": "notif_1", "status": "sent"}))?;
//!
//! Outgoing::json(&json!({"orderId": 7}))?
//!     .attribute("source", "shop")
//!     .ordering_key("order-7")
//!     .delay(Duration::from_secs(30))
//!     .publish("orders")?;
//! # Ok(()) }
//! # publish().unwrap();
//! # assert_eq!(host.published().len(), 2);
//! ```

use crate::error::HostError;
use crate::{json, sys};
use serde::Serialize;
use std::time::Duration;

type Result<T> = std::result::Result<T, HostError>;

/// Publishes `body` as JSON; the message's id, once it is stored durably.
pub fn publish<T: Serialize + ?Sized>(topic: &str, body: &T) -> Result<String> {
    Outgoing::json(body)?.publish(topic)
}

/// Publishes several messages in one call. One answer each, in order: some may be stored where others are not.
pub fn publish_many(topic: &str, messages: impl IntoIterator<Item = Outgoing>) -> Vec<Result<String>> {
    sys::pubsub::publish_many(topic, messages.into_iter().map(|message| message.0).collect())
}

/// A message to publish.
#[derive(Debug, Clone)]
#[must_use = "it goes nowhere before `publish`"]
pub struct Outgoing(Parts);

/// What a message to publish is made of.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) body: Vec<u8>,
    pub(crate) content_type: Option<String>,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) ordering_key: Option<String>,
    pub(crate) dedupe_key: Option<String>,
    pub(crate) delay: Option<Duration>,
}

impl Outgoing {
    /// A message whose body is `body` as JSON.
    pub fn json<T: Serialize + ?Sized>(body: &T) -> Result<Self> {
        Ok(Self::with(json::encode(body, "the message")?, None))
    }

    /// A message whose body is these bytes, of this MIME type.
    pub fn bytes(body: impl Into<Vec<u8>>, content_type: impl Into<String>) -> Self {
        Self::with(body.into(), Some(content_type.into()))
    }

    fn with(body: Vec<u8>, content_type: Option<String>) -> Self {
        let attributes = Vec::new();
        Self(Parts { body, content_type, attributes, ordering_key: None, dedupe_key: None, delay: None })
    }

    /// Adds an attribute.
    pub fn attribute(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.attributes.push((key.into(), value.into()));
        self
    }

    /// Messages that share a key are handled one at a time, in publish order.
    pub fn ordering_key(mut self, key: impl Into<String>) -> Self {
        self.0.ordering_key = Some(key.into());
        self
    }

    /// Two publishes with one key within the host's window are one message.
    pub fn dedupe_key(mut self, key: impl Into<String>) -> Self {
        self.0.dedupe_key = Some(key.into());
        self
    }

    /// Not to be delivered before this much time has passed.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.0.delay = Some(delay);
        self
    }

    /// Publishes it; the message's id, once it is stored durably.
    pub fn publish(self, topic: &str) -> Result<String> {
        sys::pubsub::publish(topic, self.0)
    }
}
