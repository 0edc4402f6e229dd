//! Reading what a caller sends, with its limits and with errors that say where.

use crate::App;
use crate::reject::Reject;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use sandpost_message::limits;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// The one parameter of a path, decoded.
pub(crate) struct Segment(pub(crate) String);

impl FromRequestParts<App> for Segment {
    type Rejection = Reject;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Reject> {
        // What does not decode names nothing.
        Path::<String>::from_request_parts(parts, app).await.map(|Path(text)| Self(text)).map_err(|_| Reject::NotFound)
    }
}

/// The query, by its known names alone.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<App> for Asked<T> {
    type Rejection = Reject;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Reject> {
        match Query::<T>::from_request_parts(parts, app).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(QueryRejection::FailedToDeserializeQueryString(error)) => {
                use std::error::Error as _;
                let source = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                Err(Reject::InvalidQuery(source))
            }
            Err(error) => Err(Reject::InvalidQuery(error.to_string())),
        }
    }
}

/// The whole body, within the configured size and time.
pub(crate) async fn body(app: &App, headers: &HeaderMap, body: Body) -> Result<Bytes, Reject> {
    let limit_bytes = app.config.body_max_bytes;
    let too_large = || Reject::TooLarge { limit_bytes };
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|announced| usize::try_from(announced).is_ok_and(|size| size > limit_bytes)) {
        return Err(too_large());
    }
    let read = async {
        let mut chunks = body.into_data_stream();
        let mut whole = BytesMut::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| Reject::SlowBody)?;
            if chunk.len() > limit_bytes - whole.len() {
                return Err(too_large());
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    };
    let within = Duration::from_millis(app.config.body_timeout_ms);
    tokio::time::timeout(within, read).await.unwrap_or(Err(Reject::SlowBody))
}

/// A header that may be there once, as text.
pub(crate) fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Reject> {
    let wrong = |rule| Reject::InvalidHeader { name: name.to_owned(), rule };
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(wrong("is given more than once"));
    }
    std::str::from_utf8(value.as_bytes()).map(Some).map_err(|_| wrong("is not UTF-8 text"))
}

/// A content type as it was written, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContentType {
    /// With its parameters.
    pub(crate) text: String,
    /// `type/subtype` in lower case.
    pub(crate) essence: String,
}

impl ContentType {
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        const RULE: &str = "is not a content type like `application/json`";
        let text = text.trim();
        let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let token = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
        };
        let well_formed = essence.split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub));
        if !well_formed || text.bytes().any(|b| !(b' '..=b'~').contains(&b)) {
            return Err(RULE);
        }
        if text.len() > limits::CONTENT_TYPE_MAX_BYTES {
            return Err("is longer than 512 bytes");
        }
        Ok(Self { text: text.to_owned(), essence })
    }

    /// Whether a body of this type has to be JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.essence == "application/json" || self.essence == "text/json" || self.essence.ends_with("+json")
    }
}

/// The request's content type; none where it names none.
pub(crate) fn content_type(headers: &HeaderMap) -> Result<Option<ContentType>, Reject> {
    one(headers, CONTENT_TYPE.as_str())?
        .map(|text| {
            ContentType::parse(text).map_err(|rule| Reject::InvalidHeader { name: CONTENT_TYPE.to_string(), rule })
        })
        .transpose()
}

/// Whether the bytes are one JSON value. Nothing is kept of it.
pub(crate) fn check_json(bytes: &[u8]) -> Result<(), String> {
    serde_json::from_str::<IgnoredAny>(utf8(bytes)?).map(drop).map_err(|error| error.to_string())
}

/// Reads JSON; the error says line and column.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Reject> {
    utf8(bytes)
        .and_then(|text| serde_json::from_str(text).map_err(|error| error.to_string()))
        .map_err(Reject::InvalidJson)
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| {
        let valid = &bytes[..error.valid_up_to()];
        let lines = || valid.split(|b| *b == b'\n');
        let (line, column) = (lines().count(), 1 + lines().next_back().map_or(0, <[u8]>::len));
        format!("not UTF-8 at line {line} column {column}")
    })
}

/// The members of a JSON object in their order; a name given twice is an error, not a choice.
#[derive(Debug)]
pub(crate) struct Members<T>(pub(crate) Vec<(String, T)>);

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: serde::Deserialize<'de>> serde::Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect<T>(PhantomData<T>);

        impl<'de, T: serde::Deserialize<'de>> Visitor<'de> for Collect<T> {
            type Value = Members<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(String, T)> = Vec::new();
                let mut seen = std::collections::HashSet::new();
                while let Some((name, value)) = map.next_entry::<String, T>()? {
                    if !seen.insert(name.clone()) {
                        return Err(serde::de::Error::custom("a name is given twice"));
                    }
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_read_with_their_parameters() {
        let json = ContentType::parse(" Application/JSON; charset=utf-8").unwrap();
        assert_eq!(
            (json.text.as_str(), json.essence.as_str()),
            ("Application/JSON; charset=utf-8", "application/json")
        );
        assert!(json.is_json());
        assert!(ContentType::parse("application/vnd.x+json").unwrap().is_json());
        assert!(!ContentType::parse("text/plain").unwrap().is_json());
        for bad in ["", "json", "a/", "/b", "a b/c", "a/b\u{e9}", "a/b/c"] {
            assert!(ContentType::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_errors_say_where() {
        assert_eq!(check_json(b"{\n  \"a\": }").unwrap_err(), "expected value at line 2 column 8");
        assert_eq!(check_json(b"\n\"\xff\"").unwrap_err(), "not UTF-8 at line 2 column 2");
        assert!(check_json(b"").is_err());
        assert_eq!(check_json(b" [1, 2.50] "), Ok(()));
        let deep = "[".repeat(100_000);
        assert!(check_json(deep.as_bytes()).is_err());
    }

    #[test]
    fn a_member_given_twice_is_an_error() {
        assert!(serde_json::from_str::<Members<u8>>("{\"a\":1,\"a\":2}").is_err());
        assert_eq!(serde_json::from_str::<Members<u8>>("{\"b\":1,\"a\":2}").unwrap().0.len(), 2);
    }
}
