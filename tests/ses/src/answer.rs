//! How a request is answered, and the service's errors by their names.

use axum::Json;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// The errors of `SendEmail`, and those that every operation of AWS may answer with: name and status.
pub const ERRORS: [(&str, u16); 19] = [
    ("AccountSuspendedException", 400),
    ("SendingPausedException", 400),
    ("MailFromDomainNotVerifiedException", 400),
    ("MessageRejected", 400),
    ("BadRequestException", 400),
    ("NotFoundException", 404),
    ("LimitExceededException", 400),
    ("TooManyRequestsException", 429),
    ("ThrottlingException", 400),
    ("InternalServiceErrorException", 500),
    ("ServiceUnavailable", 503),
    ("TransientFailure", 400),
    ("RequestTimeout", 408),
    ("AccessDeniedException", 403),
    ("UnrecognizedClientException", 403),
    ("InvalidSignatureException", 403),
    ("ExpiredTokenException", 403),
    ("RequestExpired", 400),
    ("NotAuthorized", 403),
];

/// What to do with one `SendEmail` instead of answering it by the book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// Answers with this error; nothing is sent.
    Fail {
        /// Its name, as in [`ERRORS`].
        error: String,
        /// The HTTP status.
        status: u16,
        /// In the body.
        message: String,
    },
    /// Closes the connection; nothing is sent.
    LoseBefore,
    /// Sends it, and closes the connection without a word.
    LoseAfter,
    /// Never answers; nothing is sent.
    SilentBefore,
    /// Sends it, and never answers.
    SilentAfter,
    /// Sends it, and answers with something that is not JSON.
    Garbage,
    /// Waits, then answers by the book.
    Delay {
        /// So long.
        ms: u64,
    },
}

impl Answer {
    /// The error of this name, with its usual status; 400 for a name that is not in [`ERRORS`].
    pub fn error(name: &str) -> Self {
        let status = ERRORS.iter().find(|(known, _)| *known == name).map_or(400, |(_, status)| *status);
        Self::Fail { error: name.to_owned(), status, message: format!("{name}, as told") }
    }

    /// The same with these words.
    #[must_use]
    pub fn saying(self, words: &str) -> Self {
        match self {
            Self::Fail { error, status, .. } => Self::Fail { error, status, message: words.to_owned() },
            other => other,
        }
    }
}

/// In a response's extensions: the connection is closed instead of sending it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lost;

/// A response that never reaches the client.
pub(crate) fn lost() -> Response {
    let mut response = Response::default();
    response.extensions_mut().insert(Lost);
    response
}

/// An error as SES v2 writes it.
pub(crate) struct Failure {
    status: StatusCode,
    name: String,
    message: String,
}

impl Failure {
    pub(crate) fn new(name: &str, message: impl Into<String>) -> Self {
        let status = ERRORS.iter().find(|(known, _)| *known == name).map_or(400, |(_, status)| *status);
        Self::with_status(status, name, message)
    }

    pub(crate) fn with_status(status: u16, name: &str, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        Self { status, name: name.to_owned(), message: message.into() }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let name = [(HeaderName::from_static("x-amzn-errortype"), self.name)];
        (self.status, name, Json(serde_json::json!({ "message": self.message }))).into_response()
    }
}
