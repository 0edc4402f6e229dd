//! Every way in which a request is refused, and the one place that chooses a status code for it.
//!
//! The answer is an RFC 9457 problem document. Its `code` is stable: programs decide by it, never by `title` or
//! `detail`. What is not the caller's business (`cause`) goes to the log under the same `request_id`.
//!
//! A handler returns a [`Reject`]; `edge` writes it, because only that knows the request's id.

use crate::auth::{Access, Role};
use axum::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use sandpost_message::{MessageError, Topic, limits};
use sandpost_ports::{BoxError, ErrorKind, PortError};
use std::borrow::Cow;
use std::sync::Arc;

/// Seconds after which a caller may try again, where nothing says better.
const RETRY_AFTER_S: u64 = 1;
/// The same where a bound on disk was reached: space comes back only as messages are handled.
const RETRY_AFTER_FULL_S: u64 = 30;
/// How much a detail says at most.
const DETAIL_MAX_CHARS: usize = 500;

/// Why a request is refused.
#[derive(Debug)]
pub(crate) enum Reject {
    InvalidJson(String),
    InvalidHeader {
        name: String,
        rule: &'static str,
    },
    InvalidQuery(String),
    InvalidTopic(&'static str),
    InvalidMessage(String),
    InvalidBatch(String),
    InvalidCloudEvent {
        attribute: String,
        rule: String,
    },
    UnsupportedMediaType {
        wanted: &'static str,
    },
    TooLarge {
        limit_bytes: usize,
    },
    UnknownTopic(Topic),
    /// No route.
    NotFound,
    /// A route, and nothing there.
    Unknown(Thing),
    MethodNotAllowed {
        allow: String,
    },
    Unauthenticated {
        given: bool,
        realm: String,
    },
    Forbidden {
        access: Access,
    },
    ForbiddenTopic,
    NotLocal(&'static str),
    IdempotencyInFlight {
        retry_after_s: u64,
    },
    IdempotencyMismatch,
    /// Whether the key was used could not be asked. Nothing was done.
    IdempotencyUnavailable(PortError),
    UnknownEffects,
    Overloaded,
    SlowBody,
    TookTooLong,
    /// A port said no; `unknown_topic` is what [`ErrorKind::Invalid`] means there, if it can mean that.
    Port {
        error: PortError,
        topic: Option<Topic>,
    },
    Internal(BoxError),
}

/// What is looked up by a name in the path.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Thing {
    Message,
    DeadLetter,
    Mail,
    MailPart(&'static str),
    Mailbox,
    Redis,
}

/// A refusal as the caller sees it.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub(crate) struct Problem {
    /// `urn:sandpost:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// The same for every problem of this code.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong with this request.
    detail: String,
    /// Stable; decide by this.
    code: &'static str,
    /// As in `x-request-id`; the log has it too. Not in the results of a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// With status 429 alone, for clients of the origin documents' services: `Too Many Requests`.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    /// With status 429 alone: the detail again.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// With status 429 alone: seconds, as in `Retry-After`.
    #[serde(rename = "retryAfter", skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

impl Problem {
    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    pub(crate) fn to_bytes(&self, request_id: &str) -> Vec<u8> {
        let whole = Self { request_id: Some(request_id.to_owned()), ..self.clone() };
        // Strings and numbers alone: this cannot fail.
        serde_json::to_vec(&whole).unwrap_or_default()
    }
}

/// A problem on its way to `edge`, inside a response's extensions.
#[derive(Clone)]
pub(crate) struct Pending {
    pub(crate) problem: Problem,
    pub(crate) cause: Option<Arc<BoxError>>,
    pub(crate) denied: Option<&'static str>,
}

impl Reject {
    /// Status, code, title, detail.
    fn parts(&self) -> (StatusCode, &'static str, &'static str, Cow<'static, str>) {
        use StatusCode as S;
        match self {
            Self::InvalidJson(detail) => {
                (S::BAD_REQUEST, "invalid-json", "The body is not the JSON that it should be", detail.clone().into())
            }
            Self::InvalidHeader { name, rule } => {
                (S::BAD_REQUEST, "invalid-header", "A header is wrong", format!("`{name}` {rule}").into())
            }
            Self::InvalidQuery(detail) => {
                (S::BAD_REQUEST, "invalid-query", "The query is wrong", detail.clone().into())
            }
            Self::InvalidTopic(rule) => {
                (S::BAD_REQUEST, "invalid-topic", "This cannot be a topic's name", format!("a topic is {rule}").into())
            }
            Self::InvalidMessage(detail) => {
                (S::BAD_REQUEST, "invalid-message", "The message breaks a rule", detail.clone().into())
            }
            Self::InvalidBatch(detail) => {
                (S::BAD_REQUEST, "invalid-batch", "The batch breaks a rule", detail.clone().into())
            }
            Self::InvalidCloudEvent { attribute, rule } => (
                S::BAD_REQUEST,
                "invalid-cloudevent",
                "The body or the headers are not a CloudEvent of version 1.0",
                format!("`{attribute}` {rule}").into(),
            ),
            Self::UnsupportedMediaType { wanted } => (
                S::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "This content type is not taken here",
                (*wanted).into(),
            ),
            Self::TooLarge { limit_bytes } => (
                S::PAYLOAD_TOO_LARGE,
                "too-large",
                "The body is too large",
                format!("at most {limit_bytes} bytes are accepted").into(),
            ),
            Self::UnknownTopic(topic) => (
                S::NOT_FOUND,
                "unknown-topic",
                "Nothing listens to this topic",
                format!("no subscription listens to `{topic}`; nothing was stored").into(),
            ),
            Self::NotFound => {
                (S::NOT_FOUND, "not-found", "There is nothing here", "see /openapi.json for what there is".into())
            }
            Self::Unknown(thing) => {
                let (code, title, detail) = thing.words();
                (S::NOT_FOUND, code, title, detail)
            }
            Self::MethodNotAllowed { allow } => (
                S::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "This cannot be done here",
                format!("allowed: {allow}").into(),
            ),
            Self::Unauthenticated { given, .. } => (
                S::UNAUTHORIZED,
                "unauthenticated",
                "A valid token is needed",
                if *given {
                    "the token is not known".into()
                } else {
                    "send the header `Authorization: Bearer` with a token".into()
                },
            ),
            Self::Forbidden { access } => {
                let roles: Vec<String> =
                    Role::ALL.iter().filter(|role| role.may(*access)).map(|role| format!("`{role}`")).collect();
                (
                    S::FORBIDDEN,
                    "forbidden",
                    "The token's role does not allow this",
                    format!("needs one of the roles {}", roles.join(", ")).into(),
                )
            }
            Self::ForbiddenTopic => (
                S::FORBIDDEN,
                "forbidden",
                "The token's role does not allow this",
                "this token may not publish to this topic".into(),
            ),
            Self::NotLocal(rule) => {
                (S::FORBIDDEN, "local-only", "Without tokens only this machine is served", (*rule).into())
            }
            Self::IdempotencyInFlight { .. } => (
                S::CONFLICT,
                "idempotency-in-flight",
                "The first request with this key is still at work",
                "try again later with the same key to get its answer".into(),
            ),
            Self::IdempotencyMismatch => (
                S::UNPROCESSABLE_ENTITY,
                "idempotency-mismatch",
                "This key was used for another request",
                "a new request needs a new `Idempotency-Key`".into(),
            ),
            Self::IdempotencyUnavailable(_) => (
                S::SERVICE_UNAVAILABLE,
                "idempotency-unavailable",
                "Nobody can say for now whether this key was used",
                "nothing was stored by this request; try again later with the same key".into(),
            ),
            Self::UnknownEffects => (
                S::CONFLICT,
                "unknown-effects",
                "Somebody has to decide about an effect first",
                "nobody knows whether an effect of this message was done; replay it with `unknown-effects=send-again` \
                 or `unknown-effects=treat-as-done`"
                    .into(),
            ),
            Self::Overloaded => (
                S::SERVICE_UNAVAILABLE,
                "overloaded",
                "The host is at its ceiling",
                "nothing was done; try again later".into(),
            ),
            Self::SlowBody => (
                S::REQUEST_TIMEOUT,
                "slow-body",
                "The body did not arrive",
                "it was cut off, or took longer than it may".into(),
            ),
            Self::TookTooLong => (
                S::GATEWAY_TIMEOUT,
                "timeout",
                "The request took longer than it may",
                "it may or may not have been done; a repetition with the same `Idempotency-Key` is safe".into(),
            ),
            Self::Port { error, topic } => port_parts(error, topic.as_ref()),
            Self::Internal(_) => (
                S::INTERNAL_SERVER_ERROR,
                "internal",
                "The host failed",
                "the log has the reason under this request id".into(),
            ),
        }
    }

    fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::IdempotencyInFlight { retry_after_s } => Some(*retry_after_s),
            Self::Overloaded | Self::IdempotencyUnavailable(_) => Some(RETRY_AFTER_S),
            Self::Port { error, .. } => match error.kind {
                ErrorKind::Unavailable | ErrorKind::UnknownOutcome => Some(RETRY_AFTER_S),
                ErrorKind::Exceeded => Some(RETRY_AFTER_FULL_S),
                ErrorKind::Invalid | ErrorKind::Conflict | ErrorKind::Unsupported | ErrorKind::Other => None,
            },
            _ => None,
        }
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut put = |name, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        };
        if let Some(seconds) = self.retry_after_s() {
            put(RETRY_AFTER, seconds.to_string());
        }
        match self {
            Self::MethodNotAllowed { allow } => put(ALLOW, allow.clone()),
            Self::Unauthenticated { given, realm } => {
                let error = if *given { ", error=\"invalid_token\"" } else { "" };
                put(WWW_AUTHENTICATE, format!("Bearer realm=\"{realm}\"{error}"));
            }
            Self::Forbidden { .. } | Self::ForbiddenTopic => {
                put(WWW_AUTHENTICATE, "Bearer error=\"insufficient_scope\"".to_owned());
            }
            _ => {}
        }
        headers
    }

    /// For the metric and the log of requests that were turned away.
    fn denied(&self) -> Option<&'static str> {
        match self {
            Self::Unauthenticated { given: false, .. } => Some("no-token"),
            Self::Unauthenticated { given: true, .. } => Some("wrong-token"),
            Self::Forbidden { .. } => Some("role"),
            Self::ForbiddenTopic => Some("topic"),
            Self::NotLocal(_) => Some("not-local"),
            _ => None,
        }
    }

    /// As it stands in the results of a batch, where no request id belongs.
    pub(crate) fn problem(&self) -> Problem {
        let (status, code, title, detail) = self.parts();
        // Some quote what was sent, and that can be anything.
        let detail: String = detail.chars().take(DETAIL_MAX_CHARS).collect();
        let too_many = status == StatusCode::TOO_MANY_REQUESTS;
        Problem {
            kind: format!("urn:sandpost:problem:{code}"),
            title,
            status: status.as_u16(),
            code,
            request_id: None,
            error: too_many.then_some("Too Many Requests"),
            message: too_many.then(|| detail.clone()),
            retry_after: self.retry_after_s().filter(|_| too_many),
            detail,
        }
    }
}

impl IntoResponse for Reject {
    fn into_response(self) -> Response {
        let status = self.parts().0;
        let problem = self.problem();
        let headers = self.headers();
        let denied = self.denied();
        let cause = match self {
            Self::Internal(cause) => Some(cause),
            Self::IdempotencyUnavailable(error) => Some(error.into()),
            Self::Port { error, .. } if status.is_server_error() => Some(error.into()),
            _ => None,
        };
        let mut response = (status, headers).into_response();
        response.extensions_mut().insert(Pending { problem, cause: cause.map(Arc::new), denied });
        response
    }
}

fn port_parts(error: &PortError, topic: Option<&Topic>) -> (StatusCode, &'static str, &'static str, Cow<'static, str>) {
    use StatusCode as S;
    match (error.kind, topic) {
        (ErrorKind::Invalid, Some(topic)) => Reject::UnknownTopic(topic.clone()).parts(),
        (ErrorKind::Unavailable, _) => (
            S::SERVICE_UNAVAILABLE,
            "unavailable",
            "A service behind the host is not reachable",
            "nothing was stored; try again later".into(),
        ),
        (ErrorKind::UnknownOutcome, _) => (
            S::SERVICE_UNAVAILABLE,
            "outcome-unknown",
            "Nobody knows whether it was done",
            "it may or may not have been done; a repetition with the same `Idempotency-Key` is safe".into(),
        ),
        (ErrorKind::Exceeded, _) => (
            S::TOO_MANY_REQUESTS,
            "limit-reached",
            "The broker is full for now",
            "a bound of the broker was reached and nothing was stored; try again later".into(),
        ),
        (ErrorKind::Unsupported, _) => (
            S::NOT_IMPLEMENTED,
            "unsupported",
            "The service behind the host cannot do this",
            error.message.clone().into(),
        ),
        (ErrorKind::Invalid | ErrorKind::Conflict | ErrorKind::Other, _) => Reject::Internal("".into()).parts(),
    }
}

impl Thing {
    fn words(self) -> (&'static str, &'static str, Cow<'static, str>) {
        match self {
            Self::Message => (
                "unknown-message",
                "This message is not known",
                "no step is recorded under this id; the ledger forgets old messages".into(),
            ),
            Self::DeadLetter => (
                "unknown-dead-letter",
                "This dead letter is not known",
                "it was never there, was replayed, or was discarded".into(),
            ),
            Self::Mail => ("unknown-mail", "There is no such mail", "the mailbox holds no mail of this number".into()),
            Self::MailPart(part) => {
                ("no-such-part", "The mail has no such part", format!("this mail has no {part} part").into())
            }
            Self::Mailbox => (
                "no-mailbox",
                "There is no mailbox",
                "mail goes to a real provider here; only the embedded mail catcher keeps it".into(),
            ),
            Self::Redis => (
                "no-redis",
                "The cache is not Redis",
                "the cache is embedded here; `/metrics` has what is counted of it".into(),
            ),
        }
    }
}

impl From<PortError> for Reject {
    fn from(error: PortError) -> Self {
        Self::Port { error, topic: None }
    }
}

impl From<MessageError> for Reject {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::TooLarge { what: "body in bytes", .. } => {
                Self::TooLarge { limit_bytes: limits::BODY_MAX_BYTES }
            }
            other => Self::InvalidMessage(other.to_string()),
        }
    }
}
