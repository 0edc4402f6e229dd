//! What the service's errors are to a caller.

use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::Error;
use sandpost_ports::broker::NotSetUp;
use sandpost_ports::{ErrorKind, PortError};
use std::future::Future;
use std::time::Duration;

/// What is known after this error of a request that changes something.
pub(crate) fn kind_of(error: &Error) -> ErrorKind {
    if error.is_connect() || error.is_transient_and_before_rpc() {
        return ErrorKind::Unavailable;
    }
    if error.is_authentication() {
        return ErrorKind::Other;
    }
    let Some(status) = error.status() else { return ErrorKind::UnknownOutcome };
    match status.code {
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::OutOfRange => ErrorKind::Invalid,
        Code::AlreadyExists => ErrorKind::Conflict,
        Code::ResourceExhausted => ErrorKind::Unavailable,
        Code::PermissionDenied | Code::Unauthenticated | Code::DataLoss => ErrorKind::Other,
        Code::Unimplemented => ErrorKind::Unsupported,
        _ => ErrorKind::UnknownOutcome,
    }
}

/// In words, without the service's own, which name the project.
pub(crate) fn words_of(error: &Error) -> &'static str {
    if error.is_authentication() {
        return "the credentials cannot be used";
    }
    match error.status().map(|status| status.code) {
        Some(Code::NotFound) => "the topic or subscription is not there",
        Some(Code::PermissionDenied) => "the host's account may not do this",
        Some(Code::Unauthenticated) => "the service does not know the host's account",
        Some(Code::ResourceExhausted) => "the service's quota is used up",
        Some(Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange) => "the service refuses the request",
        Some(Code::AlreadyExists) => "it is there already",
        Some(Code::Unimplemented) => "the service cannot do this",
        Some(_) => "the service failed",
        None => "the service cannot be reached",
    }
}

pub(crate) fn of_write(error: Error) -> PortError {
    PortError::new(kind_of(&error), words_of(&error)).because(error)
}

/// A request that changes nothing has no unknown outcome.
pub(crate) fn of_read(error: Error) -> PortError {
    let kind = match kind_of(&error) {
        ErrorKind::UnknownOutcome => ErrorKind::Unavailable,
        kind => kind,
    };
    PortError::new(kind, words_of(&error)).because(error)
}

/// A subscription is missing, not the service: for now, because somebody can make it while the host runs.
pub(crate) fn not_set_up(words: String) -> PortError {
    PortError::new(ErrorKind::Unavailable, words).because(NotSetUp)
}

pub(crate) fn is_code(error: &Error, code: Code) -> bool {
    error.status().is_some_and(|status| status.code == code)
}

/// The answer of something that changes nothing, or [`ErrorKind::Unavailable`] where it takes longer.
pub(crate) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, PortError>>,
) -> Result<T, PortError> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer,
        Err(elapsed) => {
            let words = format!("no answer within {} ms", limit.as_millis());
            Err(PortError::new(ErrorKind::Unavailable, words).because(elapsed))
        }
    }
}
