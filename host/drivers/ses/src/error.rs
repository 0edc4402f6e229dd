//! What an answer of SES means, by the name that it gives its errors; and what a missing answer means.
//!
//! | Class | Names | What follows |
//! | --- | --- | --- |
//! | throttled | `TooManyRequestsException`, `LimitExceededException`, `ThrottlingException`, status 429 | later |
//! | failed at the service | `TransientFailure`, status 408, 500, 503 | later; SES says that it was not done |
//! | permanent | `MessageRejected`, `BadRequestException`, `MailFromDomainNotVerifiedException`, `NotFoundException` | never |
//! | stops the line | `AccountSuspendedException`, `SendingPausedException`, the day's quota, keys that are refused | pause |
//! | no answer | connection lost, time over, an answer that cannot be read, status 502 and 504 | unknown outcome |

use aws_sdk_sesv2::config::http::HttpResponse;
use aws_sdk_sesv2::error::{ConnectorError, ProvideErrorMetadata, SdkError};
use hyper_util::client::legacy::Error as HttpError;
use sandpost_ports::{BoxError, ErrorKind, PortError};
use std::error::Error;

/// Bytes of SES's own words that are passed on.
const WORDS_MAX_BYTES: usize = 500;

/// What went wrong with one request.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Too fast; nothing was done.
    Throttled,
    /// This mail will never be taken.
    Rejected {
        /// SES's words.
        reason: String,
        /// The whole answer.
        source: BoxError,
    },
    /// No mail is taken for now.
    Line(Stop, BoxError),
    /// Not allowed to do this one thing; other things may be.
    Denied(BoxError),
    /// Anything else.
    Port(PortError),
}

/// Why no mail is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// `SendingPausedException`: by the operator, or by AWS.
    Paused,
    /// `AccountSuspendedException`.
    Suspended,
    /// As many recipients as 24 hours have.
    Quota,
    /// The keys are unknown or expired, or the clock is wrong.
    Keys,
}

impl Stop {
    /// For the plugin and the ledger.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Paused => "sending is paused for the account",
            Self::Suspended => "the account is suspended",
            Self::Quota => "the day's sending quota is used up",
            Self::Keys => "the provider refuses the host's credentials",
        }
    }
}

/// Sorts what came back. `transmitted` is whether the request was ready and went to the connection.
pub(crate) fn sort<E>(error: SdkError<E, HttpResponse>, transmitted: bool) -> Trouble
where
    E: Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    match error {
        SdkError::ServiceError(context) => {
            let status = context.raw().status().as_u16();
            let error = context.into_err();
            // Taken, by the status, and not readable: a mail whose id is lost.
            if (200..300).contains(&status) {
                return lost(error.into());
            }
            let (code, words) = (error.code().unwrap_or_default().to_owned(), shorten(error.message()));
            by_name(&code, status, &words, error.into())
        }
        error if !transmitted => {
            let message = "the request could not be made; the host may have no credentials";
            port(ErrorKind::Unavailable, message, error)
        }
        SdkError::ConstructionFailure(_) => port(ErrorKind::Other, "the request could not be built", error),
        SdkError::DispatchFailure(ref failure) if failure.as_connector_error().is_some_and(never_connected) => {
            port(ErrorKind::Unavailable, "the mail provider cannot be reached", error)
        }
        error => port(ErrorKind::UnknownOutcome, "the mail provider's answer was lost", error),
    }
}

fn by_name(code: &str, status: u16, words: &str, error: BoxError) -> Trouble {
    let of_the_day = || words.to_ascii_lowercase().contains("daily");
    match code {
        "AccountSuspendedException" => Trouble::Line(Stop::Suspended, error),
        "SendingPausedException" | "ConfigurationSetSendingPausedException" | "AccountSendingPausedException" => {
            Trouble::Line(Stop::Paused, error)
        }
        "TooManyRequestsException"
        | "LimitExceededException"
        | "ThrottlingException"
        | "Throttling"
        | "RequestLimitExceeded"
        | "SlowDown"
            if of_the_day() =>
        {
            Trouble::Line(Stop::Quota, error)
        }
        "TooManyRequestsException"
        | "LimitExceededException"
        | "ThrottlingException"
        | "Throttling"
        | "RequestLimitExceeded"
        | "SlowDown" => Trouble::Throttled,
        "MessageRejected" | "BadRequestException" | "MailFromDomainNotVerifiedException" | "NotFoundException" => {
            let reason = if words.is_empty() { code.to_owned() } else { format!("{code}: {words}") };
            Trouble::Rejected { reason, source: error }
        }
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "ExpiredTokenException"
        | "ExpiredToken"
        | "IncompleteSignature"
        | "MissingAuthenticationTokenException"
        | "MissingAuthenticationToken"
        | "RequestExpired"
        | "RequestTimeTooSkewed"
        | "OptInRequired" => Trouble::Line(Stop::Keys, error),
        "AccessDeniedException" | "AccessDenied" | "NotAuthorized" => Trouble::Denied(error),
        "TransientFailure" | "RequestTimeout" => failed(error),
        _ => match status {
            429 => Trouble::Throttled,
            401 | 403 => Trouble::Denied(error),
            408 | 500 | 503 => failed(error),
            502 | 504 => lost(error),
            _ => {
                let named = if code.is_empty() { format!("status {status}") } else { code.to_owned() };
                let message = format!("the mail provider answered with an error that is not known: {named}");
                Trouble::Port(PortError::new(ErrorKind::Other, message).because(error))
            }
        },
    }
}

fn lost(error: BoxError) -> Trouble {
    Trouble::Port(PortError::new(ErrorKind::UnknownOutcome, "the mail provider's answer was lost").because(error))
}

fn failed(error: BoxError) -> Trouble {
    Trouble::Port(PortError::new(ErrorKind::Unavailable, "the mail provider failed; nothing was sent").because(error))
}

fn port<E>(kind: ErrorKind, message: &str, error: SdkError<E, HttpResponse>) -> Trouble
where
    E: Error + Send + Sync + 'static,
{
    Trouble::Port(PortError::new(kind, message).because(error))
}

/// Whether it failed while connecting, so that not a byte of the request left.
fn never_connected(error: &ConnectorError) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = next {
        if error.downcast_ref::<HttpError>().is_some_and(HttpError::is_connect) {
            return true;
        }
        next = error.source();
    }
    false
}

fn shorten(words: Option<&str>) -> String {
    let words = words.unwrap_or_default();
    let mut end = words.len().min(WORDS_MAX_BYTES);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    words[..end].to_owned()
}

impl Trouble {
    /// The error, where SES did not answer or failed.
    pub(crate) fn unreachable(&self) -> Option<&PortError> {
        match self {
            Self::Port(error) => {
                matches!(error.kind, ErrorKind::Unavailable | ErrorKind::UnknownOutcome).then_some(error)
            }
            _ => None,
        }
    }

    /// For what is not a mail: looking at the account and at the lists.
    pub(crate) fn into_port(self) -> PortError {
        let unavailable = |message: &str| PortError::new(ErrorKind::Unavailable, message);
        match self {
            Self::Throttled => unavailable("the mail provider is asked too often"),
            Self::Rejected { reason, source } => PortError::invalid(reason).because(source),
            Self::Line(stop, source) => unavailable(stop.words()).because(source),
            Self::Denied(source) => {
                PortError::new(ErrorKind::Unsupported, "the host has no right to look at it").because(source)
            }
            // Looking does nothing: a lost answer is no more than that.
            Self::Port(error) if error.kind == ErrorKind::UnknownOutcome => {
                PortError { kind: ErrorKind::Unavailable, ..error }
            }
            Self::Port(error) => error,
        }
    }
}
