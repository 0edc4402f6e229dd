//! One message as it was published, and the limits that every driver can keep.
//!
//! Not here: what belongs to one delivery of it (attempt, lease), see `ports::broker::Delivery`.

use crate::{MessageId, SubscriptionName, Topic, TraceParent};
use bytes::Bytes;

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type TimestampMs = u64;

/// The most a message may be. The numbers are those of the narrowest broker, so that a message accepted on a
/// laptop is accepted in production: Google Pub/Sub, "Quotas and limits", read November 2026.
pub mod limits {
    /// Bytes of a body. The operator may set less (`http.body_max_bytes`); more would not fit Pub/Sub's 10 MB.
    pub const BODY_MAX_BYTES: usize = 9 * 1024 * 1024;
    /// Attributes of one message. Pub/Sub takes 100; the host keeps some for itself.
    pub const ATTRIBUTES_MAX: usize = 80;
    /// Bytes of an attribute's key.
    pub const ATTRIBUTE_KEY_MAX_BYTES: usize = 256;
    /// Bytes of an attribute's value.
    pub const ATTRIBUTE_VALUE_MAX_BYTES: usize = 1024;
    /// Bytes of an ordering key.
    pub const ORDERING_KEY_MAX_BYTES: usize = 1024;
    /// Bytes of a key by which two publishes are one.
    pub const DEDUPE_KEY_MAX_BYTES: usize = 512;
    /// Bytes of a content type. RFC 6838 §4.2 allows 127 on each side of the slash; parameters need some more.
    pub const CONTENT_TYPE_MAX_BYTES: usize = 512;
    /// The longest delay before a first delivery: 30 days.
    pub const DELAY_MAX_MS: u64 = 30 * 24 * 60 * 60 * 1000;
    /// Messages of one batch.
    pub const BATCH_MAX: usize = 1000;
}

/// One message, from the moment it is accepted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// Stable over redeliveries and replays.
    pub id: MessageId,
    /// Where it was published to.
    pub topic: Topic,
    /// As the publisher sent it, byte for byte.
    pub body: Bytes,
    /// A MIME type; `application/json` where the publisher named none.
    pub content_type: String,
    /// In the publisher's order.
    pub attributes: Vec<(String, String)>,
    /// Messages that share a key are handled one at a time, in publish order.
    pub ordering_key: Option<String>,
    /// When the host accepted it.
    pub published_at_ms: TimestampMs,
    /// Not to be delivered before; 0 for at once.
    pub not_before_ms: TimestampMs,
    /// Two publishes with one key within the host's window are one message: the first.
    pub dedupe_key: Option<String>,
    /// For this subscription alone; a replayed dead letter goes only to where it came from.
    pub only: Option<SubscriptionName>,
    /// How many plugins handled a message that led to this one: 0 for what a service published, and again for a dead letter
    /// that an operator replays. At most 255: a longer chain stays there.
    pub hops: u8,
    /// The trace that the publisher, or the plugin that published it, was in.
    pub trace: TraceParent,
}

impl Message {
    /// The content type of a message whose publisher named none.
    pub const DEFAULT_CONTENT_TYPE: &'static str = "application/json";

    /// A message with nothing but what it must have, published now by the caller's clock.
    pub fn new(topic: Topic, body: impl Into<Bytes>, published_at_ms: TimestampMs) -> Self {
        Self {
            id: MessageId::new(),
            topic,
            body: body.into(),
            content_type: Self::DEFAULT_CONTENT_TYPE.to_owned(),
            attributes: Vec::new(),
            ordering_key: None,
            published_at_ms,
            not_before_ms: 0,
            dedupe_key: None,
            only: None,
            hops: 0,
            trace: TraceParent::new(),
        }
    }

    /// Checks every limit of [`limits`]; the first that is broken is the error.
    pub fn validate(&self) -> Result<(), MessageError> {
        let check = |what, size: usize, limit: usize| {
            if size <= limit { Ok(()) } else { Err(MessageError::TooLarge { what, size, limit }) }
        };
        check("body in bytes", self.body.len(), limits::BODY_MAX_BYTES)?;
        check("content type in bytes", self.content_type.len(), limits::CONTENT_TYPE_MAX_BYTES)?;
        check("number of attributes", self.attributes.len(), limits::ATTRIBUTES_MAX)?;
        for (key, value) in &self.attributes {
            check("attribute key in bytes", key.len(), limits::ATTRIBUTE_KEY_MAX_BYTES)?;
            check("attribute value in bytes", value.len(), limits::ATTRIBUTE_VALUE_MAX_BYTES)?;
            if key.is_empty() || key.starts_with("sandpost-") || key.starts_with("goog") {
                return Err(MessageError::ReservedAttribute);
            }
        }
        for (position, (key, _)) in self.attributes.iter().enumerate() {
            if self.attributes[..position].iter().any(|(earlier, _)| earlier == key) {
                return Err(MessageError::RepeatedAttribute);
            }
        }
        if let Some(key) = &self.ordering_key {
            check("ordering key in bytes", key.len(), limits::ORDERING_KEY_MAX_BYTES)?;
            if key.is_empty() {
                return Err(MessageError::Empty("ordering key"));
            }
        }
        if let Some(key) = &self.dedupe_key {
            check("dedupe key in bytes", key.len(), limits::DEDUPE_KEY_MAX_BYTES)?;
            if key.is_empty() {
                return Err(MessageError::Empty("dedupe key"));
            }
        }
        if self.not_before_ms.saturating_sub(self.published_at_ms) > limits::DELAY_MAX_MS {
            return Err(MessageError::DelayTooLong);
        }
        Ok(())
    }
}

/// Why a message is not accepted. For the caller: it can be mended only there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A part of it is over its limit.
    #[error("the {what} is {size}; at most {limit} is accepted")]
    TooLarge {
        /// Which part, and in which unit.
        what: &'static str,
        /// What it is.
        size: usize,
        /// What it may be.
        limit: usize,
    },
    /// A part that may be left out is there, but empty.
    #[error("the {0} is empty; leave it out, or give it a value")]
    Empty(&'static str),
    /// An attribute's name belongs to the host or to a broker.
    #[error("attribute names are not empty and begin with neither `sandpost-` nor `goog`")]
    ReservedAttribute,
    /// An attribute is given twice.
    #[error("an attribute is given twice")]
    RepeatedAttribute,
    /// The delay is over [`limits::DELAY_MAX_MS`].
    #[error("the delay is longer than 30 days")]
    DelayTooLong,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        Message::new("orders".parse().unwrap(), "{}", 1)
    }

    #[test]
    fn a_plain_message_is_valid() {
        assert_eq!(message().validate(), Ok(()));
    }

    #[test]
    fn each_limit_is_enforced() {
        let cases: [fn(&mut Message); 8] = [
            |m| m.body = vec![0; limits::BODY_MAX_BYTES + 1].into(),
            |m| m.attributes = (0..=limits::ATTRIBUTES_MAX).map(|i| (i.to_string(), String::new())).collect(),
            |m| m.attributes = vec![("k".repeat(257), String::new())],
            |m| m.attributes = vec![("k".into(), "v".repeat(1025))],
            |m| m.attributes = vec![("k".into(), "1".into()), ("k".into(), "2".into())],
            |m| m.attributes = vec![("sandpost-x".into(), "1".into())],
            |m| m.ordering_key = Some(String::new()),
            |m| m.not_before_ms = limits::DELAY_MAX_MS + 2,
        ];
        for (number, break_it) in cases.into_iter().enumerate() {
            let mut broken = message();
            break_it(&mut broken);
            assert!(broken.validate().is_err(), "case {number}");
        }
    }
}
