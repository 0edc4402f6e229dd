//! From a request to messages: headers, bodies, items of a batch. What comes out is checked, but not yet stored.
//!
//! Not here: `CloudEvents` (`cloudevents`), ids that a repeated request must use again (`idempotency`).

use crate::read::{self, ContentType, Members};
use crate::reject::Reject;
use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sandpost_message::{Message, TimestampMs, Topic, TraceParent, limits};
use sandpost_telemetry::traces;
use serde_json::value::RawValue;

const PREFIX: &str = "sandpost-";
const ATTRIBUTE: &str = "sandpost-attribute-";
const ORDERING_KEY: &str = "sandpost-ordering-key";
const DELAY_MS: &str = "sandpost-delay-ms";
const DEDUPE_KEY: &str = "sandpost-dedupe-key";

/// Bytes of a publisher's dedupe key. With the topic before it, it keeps within [`limits::DEDUPE_KEY_MAX_BYTES`].
pub(crate) const DEDUPE_KEY_MAX_BYTES: usize = 240;
const TOPIC_MAX_BYTES: usize = 255;
const _: () = assert!(DEDUPE_KEY_MAX_BYTES + TOPIC_MAX_BYTES + "http//".len() <= limits::DEDUPE_KEY_MAX_BYTES);

/// The trace of the request: the caller's, else the one that the request's own span begins, else a new one.
pub(crate) fn trace(headers: &HeaderMap) -> TraceParent {
    callers_trace(headers).or_else(|| traces::position(&tracing::Span::current())).unwrap_or_default()
}

/// Where the caller is in its trace; none where it is in none, or says it badly.
pub(crate) fn callers_trace(headers: &HeaderMap) -> Option<TraceParent> {
    let mut given = headers.get_all("traceparent").iter();
    match (given.next(), given.next()) {
        (Some(header), None) => header.to_str().ok().and_then(TraceParent::parse),
        _ => None,
    }
}

/// One message: the body as it is, the rest from the headers.
pub(crate) fn plain(
    topic: Topic,
    headers: &HeaderMap,
    content_type: Option<&ContentType>,
    body: Bytes,
    now_ms: TimestampMs,
) -> Result<Message, Reject> {
    if content_type.is_none_or(ContentType::is_json) {
        read::check_json(&body).map_err(Reject::InvalidJson)?;
    }
    let mut message = Message::new(topic, body, now_ms);
    if let Some(content_type) = content_type {
        message.content_type.clone_from(&content_type.text);
    }
    apply_headers(&mut message, headers)?;
    message.validate()?;
    Ok(message)
}

/// What the `Sandpost-…` headers say of a message. One that is not known is an error: a misspelt delay must not be
/// a message at once.
pub(crate) fn apply_headers(message: &mut Message, headers: &HeaderMap) -> Result<(), Reject> {
    message.trace = trace(headers);
    for name in headers.keys() {
        let name = name.as_str();
        if !name.starts_with(PREFIX) {
            continue;
        }
        let wrong = |rule| Reject::InvalidHeader { name: name.to_owned(), rule };
        let Some(value) = read::one(headers, name)? else { continue };
        if let Some(attribute) = name.strip_prefix(ATTRIBUTE) {
            message.attributes.push((attribute.to_owned(), value.to_owned()));
            continue;
        }
        match name {
            ORDERING_KEY => message.ordering_key = Some(value.to_owned()),
            DELAY_MS => {
                let delay_ms = value.parse().map_err(|_| wrong("is not a whole number of milliseconds"))?;
                message.not_before_ms = not_before(message.published_at_ms, delay_ms);
            }
            DEDUPE_KEY => {
                message.dedupe_key =
                    Some(dedupe_key(&message.topic, value).ok_or_else(|| wrong("is not 1 to 240 bytes long"))?);
            }
            _ => {
                return Err(wrong(
                    "is not known; there are Sandpost-Attribute-…, Sandpost-Ordering-Key, Sandpost-Delay-Ms and \
                     Sandpost-Dedupe-Key",
                ));
            }
        }
    }
    Ok(())
}

/// In a batch each message says these things itself.
pub(crate) fn refuse_headers(headers: &HeaderMap) -> Result<(), Reject> {
    match headers.keys().find(|name| name.as_str().starts_with(PREFIX)) {
        None => Ok(()),
        Some(name) => Err(Reject::InvalidHeader {
            name: name.to_string(),
            rule: "says nothing about a batch; say it in each of the messages",
        }),
    }
}

/// A publisher's key, apart from those of other topics and from those that the host makes.
fn dedupe_key(topic: &Topic, key: &str) -> Option<String> {
    (1..=DEDUPE_KEY_MAX_BYTES).contains(&key.len()).then(|| format!("http/{topic}/{key}"))
}

fn not_before(now_ms: TimestampMs, delay_ms: u64) -> TimestampMs {
    if delay_ms == 0 { 0 } else { now_ms.saturating_add(delay_ms) }
}

/// A batch of messages.
#[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Batch {
    /// 1 to 1000 of them.
    pub(crate) messages: Vec<Item>,
}

/// One message of a batch. It has a `body` or a `body_base64`.
#[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Item {
    /// Any JSON value, kept as it is written; with a content type that is not JSON, a string whose text is the body.
    #[serde(default)]
    #[schema(value_type = Option<serde_json::Value>)]
    body: Option<Box<RawValue>>,
    /// Any bytes.
    body_base64: Option<String>,
    /// Default `application/json`.
    content_type: Option<String>,
    /// Names and values.
    #[serde(default)]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    attributes: Members<String>,
    /// Messages that share it are handled one at a time.
    ordering_key: Option<String>,
    /// Not to be delivered before this time has passed.
    delay_ms: Option<u64>,
    /// Two messages of a topic with one key within 24 hours are one: the first.
    dedupe_key: Option<String>,
}

impl Item {
    /// The message that it describes.
    pub(crate) fn message(self, topic: Topic, trace: TraceParent, now_ms: TimestampMs) -> Result<Message, Reject> {
        let wrong = |words: &str| Reject::InvalidMessage(words.to_owned());
        let content_type = match &self.content_type {
            None => None,
            Some(text) => Some(ContentType::parse(text).map_err(|rule| wrong(&format!("`content_type` {rule}")))?),
        };
        let is_json = content_type.as_ref().is_none_or(ContentType::is_json);
        let body: Bytes = match (self.body, self.body_base64) {
            (Some(value), None) if is_json => String::from(Box::<str>::from(value)).into(),
            (Some(value), None) => serde_json::from_str::<String>(value.get())
                .map_err(|_| wrong("with this content type `body` is a string, or use `body_base64`"))?
                .into(),
            (None, Some(text)) => {
                let bytes = STANDARD.decode(text).map_err(|_| wrong("`body_base64` is not base64"))?;
                if is_json {
                    read::check_json(&bytes).map_err(Reject::InvalidJson)?;
                }
                bytes.into()
            }
            _ => return Err(wrong("one of `body` and `body_base64` is needed")),
        };
        let mut message = Message::new(topic, body, now_ms);
        message.trace = trace;
        if let Some(content_type) = content_type {
            message.content_type = content_type.text;
        }
        message.attributes = self.attributes.0;
        message.ordering_key = self.ordering_key;
        message.not_before_ms = not_before(now_ms, self.delay_ms.unwrap_or(0));
        if let Some(key) = self.dedupe_key {
            let key = dedupe_key(&message.topic, &key);
            message.dedupe_key = Some(key.ok_or_else(|| wrong("`dedupe_key` is not 1 to 240 bytes long"))?);
        }
        message.validate()?;
        Ok(message)
    }
}
