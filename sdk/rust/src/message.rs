//! One delivery of one message, as a handler sees it.
//!
//! Cheap to clone: all clones share the body.

use crate::error::{Error, Result};
use crate::json;
use crate::time::Timestamp;
use serde::de::DeserializeOwned;
use std::rc::Rc;
use std::time::Duration;

/// One delivery of one published message. Delivery is at least once: the same [`id`](Message::id) can come again.
#[derive(Debug, Clone)]
pub struct Message(Rc<Parts>);

/// What a message is made of.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) id: String,
    pub(crate) topic: String,
    pub(crate) body: Vec<u8>,
    pub(crate) content_type: String,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) ordering_key: Option<String>,
    pub(crate) published_at: Timestamp,
    pub(crate) attempt: u32,
    pub(crate) max_attempts: u32,
    pub(crate) deadline: Timestamp,
}

impl Message {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Rc::new(parts))
    }

    /// Stable over redeliveries; the key to be idempotent by.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Where it was published to.
    pub fn topic(&self) -> &str {
        &self.0.topic
    }

    /// As the publisher sent it, byte for byte.
    pub fn body(&self) -> &[u8] {
        &self.0.body
    }

    /// A MIME type; `application/json` where the publisher named none.
    pub fn content_type(&self) -> &str {
        &self.0.content_type
    }

    /// In the publisher's order.
    pub fn attributes(&self) -> &[(String, String)] {
        &self.0.attributes
    }

    /// One attribute by its name.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.0.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Messages that share a key are handled one at a time, in publish order.
    pub fn ordering_key(&self) -> Option<&str> {
        self.0.ordering_key.as_deref()
    }

    /// When the host accepted it.
    pub fn published_at(&self) -> Timestamp {
        self.0.published_at
    }

    /// 1 on the first delivery.
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// The retry budget: after this many attempts it becomes a dead letter.
    pub fn max_attempts(&self) -> u32 {
        self.0.max_attempts
    }

    /// Whether a retry would be one too many.
    pub fn is_last_attempt(&self) -> bool {
        self.0.attempt >= self.0.max_attempts
    }

    /// When the host ends this call.
    pub fn deadline(&self) -> Timestamp {
        self.0.deadline
    }

    /// How long until the host ends this call; zero once it is past.
    pub fn time_left(&self) -> Duration {
        self.0.deadline.since(crate::time::now())
    }

    /// The body as JSON. A body that does not fit is rejected, with where and why.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        json::from_slice(self.body())
            .map_err(|fault| Error::reject(format_args!("the body is not as expected: {fault}")))
    }

    /// The body as text. One that is not UTF-8 is rejected.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(self.body())
            .map_err(|fault| Error::reject(format_args!("the body is not UTF-8 text: {fault}")))
    }
}
