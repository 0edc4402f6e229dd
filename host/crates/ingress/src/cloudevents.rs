//! `CloudEvents` 1.0 over HTTP: binary mode, structured mode, batches of structured events.
//!
//! An event becomes a message: its data is the body, `datacontenttype` the content type, every other attribute an
//! attribute with the name `ce-…`. `source` and `id` together are what the specification calls one event, so they are
//! the dedupe key.
//!
//! Read from: cloudevents/spec, "HTTP Protocol Binding" and "JSON Event Format", version 1.0.2, November 2026.

use crate::draft;
use crate::read::{self, ContentType, Members};
use crate::reject::Reject;
use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sandpost_message::{Message, TimestampMs, Topic};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The content type of one event in structured mode.
pub(crate) const STRUCTURED: &str = "application/cloudevents+json";
/// The content type of several.
pub(crate) const BATCH: &str = "application/cloudevents-batch+json";
const PREFIX: &str = "ce-";

/// One event, whatever it came in.
#[derive(Debug)]
struct Event {
    /// Without `datacontenttype`.
    attributes: Vec<(String, String)>,
    content_type: Option<String>,
    data: Bytes,
}

/// An event as JSON.
pub(crate) type Structured = Members<Box<RawValue>>;

/// Whether the headers say that it is an event in binary mode.
pub(crate) fn is_binary(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with(PREFIX))
}

/// The message of an event in binary mode.
pub(crate) fn binary(
    topic: Topic,
    headers: &HeaderMap,
    content_type: Option<&ContentType>,
    body: Bytes,
    now_ms: TimestampMs,
) -> Result<Message, Reject> {
    let mut attributes = Vec::new();
    for name in headers.keys() {
        if let Some(attribute) = name.as_str().strip_prefix(PREFIX) {
            let value = read::one(headers, name.as_str())
                .map_err(|_| wrong(attribute, "is given more than once, or is not UTF-8"))?
                .unwrap_or_default();
            if attribute == "datacontenttype" {
                return Err(wrong(attribute, "is the header `content-type` in binary mode"));
            }
            attributes.push((attribute.to_owned(), unescape(attribute, value)?));
        }
    }
    let event = Event { attributes, content_type: content_type.map(|found| found.text.clone()), data: body };
    let mut message = event.message(topic, now_ms)?;
    draft::apply_headers(&mut message, headers)?;
    message.validate()?;
    Ok(message)
}

/// The message of an event in structured mode. Its `Sandpost-…` headers count too.
pub(crate) fn structured(
    topic: Topic,
    headers: &HeaderMap,
    body: &[u8],
    now_ms: TimestampMs,
) -> Result<Message, Reject> {
    let event: Structured = read::json(body)?;
    let mut message = one(topic, event, now_ms)?;
    draft::apply_headers(&mut message, headers)?;
    message.validate()?;
    Ok(message)
}

/// The message of one event of a batch.
pub(crate) fn one(topic: Topic, event: Structured, now_ms: TimestampMs) -> Result<Message, Reject> {
    let message = Event::from_json(event)?.message(topic, now_ms)?;
    message.validate()?;
    Ok(message)
}

impl Event {
    fn from_json(event: Structured) -> Result<Self, Reject> {
        let (mut attributes, mut content_type, mut data, mut data_base64) = (Vec::new(), None, None, None);
        for (name, value) in event.0 {
            match name.as_str() {
                // The one member whose `null` is a value: it is the data then.
                "data" => data = Some(value),
                _ if value.get() == "null" => {}
                "data_base64" => data_base64 = Some(text(&name, &value)?),
                "datacontenttype" => content_type = Some(text(&name, &value)?),
                _ => {
                    let value = scalar(&name, &value)?;
                    attributes.push((name, value));
                }
            }
        }
        let is_json = match &content_type {
            None => true,
            Some(found) => ContentType::parse(found).map_err(|rule| wrong("datacontenttype", rule))?.is_json(),
        };
        let data = match (data, data_base64) {
            (Some(_), Some(_)) => return Err(wrong("data_base64", "cannot be there beside `data`")),
            (None, None) => Bytes::new(),
            (None, Some(encoded)) => {
                STANDARD.decode(encoded).map_err(|_| wrong("data_base64", "is not base64"))?.into()
            }
            // Text that is not JSON is a JSON string here, and its bytes are the data.
            (Some(value), None) if !is_json && value.get().starts_with('"') => text("data", &value)?.into(),
            (Some(value), None) => String::from(Box::<str>::from(value)).into(),
        };
        Ok(Self { attributes, content_type, data })
    }

    fn message(self, topic: Topic, now_ms: TimestampMs) -> Result<Message, Reject> {
        for (name, value) in &self.attributes {
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
                return Err(wrong(name, "is not a name of lower-case ASCII letters and digits"));
            }
            if value.is_empty() {
                return Err(wrong(name, "is empty; leave it out, or give it a value"));
            }
        }
        let find =
            |name: &str| self.attributes.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
        let need = |name: &'static str| find(name).ok_or_else(|| wrong(name, "is missing"));
        if need("specversion")? != "1.0" {
            return Err(wrong("specversion", "is not `1.0`"));
        }
        let (id, source, _) = (need("id")?, need("source")?, need("type")?);
        if let Some(time) = find("time") {
            OffsetDateTime::parse(time, &Rfc3339).map_err(|_| wrong("time", "is not a time as RFC 3339 has it"))?;
        }
        let dedupe_key = format!("ce/{topic}/{}", event_hash(source, id));
        if !self.data.is_empty() {
            let is_json = match &self.content_type {
                None => true,
                Some(found) => ContentType::parse(found).is_ok_and(|found| found.is_json()),
            };
            if is_json {
                read::check_json(&self.data).map_err(Reject::InvalidJson)?;
            }
        }
        let mut message = Message::new(topic, self.data, now_ms);
        message.dedupe_key = Some(dedupe_key);
        if let Some(content_type) = self.content_type {
            message.content_type = content_type;
        }
        message.attributes =
            self.attributes.into_iter().map(|(name, value)| (format!("{PREFIX}{name}"), value)).collect();
        Ok(message)
    }
}

/// Hashed, because a source is a URI of any length, and neither may hold what would make it another's.
fn event_hash(source: &str, id: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(source.len().to_be_bytes());
    hash.update(source);
    hash.update(id);
    sandpost_message::Digest::from_bytes(hash.finalize().into()).to_string()
}

fn wrong(attribute: &str, rule: impl Into<String>) -> Reject {
    Reject::InvalidCloudEvent {
        attribute: attribute.chars().take(ATTRIBUTE_SHOWN_MAX_CHARS).collect(),
        rule: rule.into(),
    }
}

/// How much of a wrong attribute's name is shown: it is the caller's, and can be anything.
const ATTRIBUTE_SHOWN_MAX_CHARS: usize = 64;

fn text(name: &str, value: &RawValue) -> Result<String, Reject> {
    serde_json::from_str(value.get()).map_err(|_| wrong(name, "is not a string"))
}

fn scalar(name: &str, value: &RawValue) -> Result<String, Reject> {
    let raw = value.get();
    match raw.as_bytes().first() {
        Some(b'"') => text(name, value),
        Some(b't' | b'f') => Ok(raw.to_owned()),
        Some(b'-' | b'0'..=b'9') => match raw.parse::<i32>() {
            Ok(number) => Ok(number.to_string()),
            Err(_) => Err(wrong(name, "is not a whole number of 32 bits")),
        },
        _ => Err(wrong(name, "is neither a string, a whole number nor a boolean")),
    }
}

/// The percent-encoding of header values in binary mode. What is no escape stays as it is.
fn unescape(name: &str, value: &str) -> Result<String, Reject> {
    let bytes = value.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = (byte == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        let escaped = digits
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        plain.push(escaped.unwrap_or(byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8(plain).map_err(|_| wrong(name, "is not UTF-8 once its escapes are read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Message, Reject> {
        one("orders".parse().unwrap(), serde_json::from_str(json).unwrap(), 1)
    }

    #[test]
    fn an_event_becomes_a_message() {
        let message = read(
            r#"{"specversion":"1.0","id":"a","source":"/s","type":"t","n":7,"flag":true,"none":null,
               "data":{"x": 1.50}}"#,
        )
        .unwrap();
        assert_eq!(&message.body[..], br#"{"x": 1.50}"#);
        assert_eq!(message.content_type, "application/json");
        let names: Vec<_> = message.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(names, ["ce-specversion=1.0", "ce-id=a", "ce-source=/s", "ce-type=t", "ce-n=7", "ce-flag=true"]);
        let same = read(r#"{"specversion":"1.0","id":"a","source":"/s","type":"other"}"#).unwrap();
        assert_eq!(same.dedupe_key, message.dedupe_key);
        let other = read(r#"{"specversion":"1.0","id":"sa","source":"/","type":"t"}"#).unwrap();
        assert_ne!(other.dedupe_key, message.dedupe_key);
    }

    #[test]
    fn data_is_text_where_it_is_not_json() {
        let event = |data: &str| {
            format!(
                r#"{{"specversion":"1.0","id":"a","source":"/s","type":"t","datacontenttype":"text/plain",{data}}}"#
            )
        };
        assert_eq!(&read(&event(r#""data":"a\nb""#)).unwrap().body[..], b"a\nb");
        assert_eq!(&read(&event(r#""data_base64":"AAE=""#)).unwrap().body[..], [0, 1]);
    }

    #[test]
    fn escapes_in_headers_are_read() {
        assert_eq!(unescape("x", "Euro%20%E2%82%AC 100% %zz").unwrap(), "Euro € 100% %zz");
        assert!(unescape("x", "%ff").is_err());
    }
}
