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
        // To a publisher this says that nobody listens; so no other refusal may be of this kind.
        Code::NotFound => ErrorKind::Invalid,
        Code::AlreadyExists => ErrorKind::Conflict,
        Code::ResourceExhausted => ErrorKind::Unavailable,
        Code::PermissionDenied | Code::Unauthenticated | Code::DataLoss => ErrorKind::Other,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange | Code::Unimplemented => {
            ErrorKind::Unsupported
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use google_cloud_gax::error::CredentialsError;
    use google_cloud_gax::error::rpc::Status;

    fn of(code: Code) -> Error {
        Error::service(Status::default().set_code(code).set_message("projects/secret-project/topics/orders"))
    }

    #[test]
    fn each_code_has_its_kind_and_words_that_name_no_project() {
        let cases = [
            (Code::NotFound, ErrorKind::Invalid, "is not there"),
            (Code::InvalidArgument, ErrorKind::Unsupported, "refuses the request"),
            (Code::FailedPrecondition, ErrorKind::Unsupported, "refuses the request"),
            (Code::OutOfRange, ErrorKind::Unsupported, "refuses the request"),
            (Code::Unimplemented, ErrorKind::Unsupported, "cannot do this"),
            (Code::AlreadyExists, ErrorKind::Conflict, "there already"),
            (Code::ResourceExhausted, ErrorKind::Unavailable, "quota is used up"),
            (Code::PermissionDenied, ErrorKind::Other, "may not do this"),
            (Code::Unauthenticated, ErrorKind::Other, "does not know the host's account"),
            (Code::DataLoss, ErrorKind::Other, "failed"),
            (Code::Cancelled, ErrorKind::UnknownOutcome, "failed"),
            (Code::Unknown, ErrorKind::UnknownOutcome, "failed"),
            (Code::DeadlineExceeded, ErrorKind::UnknownOutcome, "failed"),
            (Code::Aborted, ErrorKind::UnknownOutcome, "failed"),
            (Code::Internal, ErrorKind::UnknownOutcome, "failed"),
            (Code::Unavailable, ErrorKind::UnknownOutcome, "failed"),
        ];
        for (code, kind, words) in cases {
            let written = of_write(of(code));
            assert_eq!(written.kind, kind, "{code:?}");
            assert!(written.message.contains(words) && !written.message.contains("secret-project"), "{written}");
            assert!(is_code(&of(code), code));
            // The operator's log has the service's own words.
            let source = written.source.expect("the service's answer");
            assert!(source.to_string().contains("secret-project"), "{source}");
            // Reading leaves nothing unknown, and is else the same.
            let read = if kind == ErrorKind::UnknownOutcome { ErrorKind::Unavailable } else { kind };
            assert_eq!(of_read(of(code)).kind, read, "{code:?}");
        }
    }

    #[test]
    fn without_an_answer_what_is_known_is_whether_the_request_left() {
        let error = of_write(Error::authentication(CredentialsError::from_msg(false, "no key")));
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Other, "the credentials cannot be used"));
        let error = of_write(Error::connect("refused"));
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Unavailable, "the service cannot be reached"));
        for error in [Error::timeout("late"), Error::io("broken")] {
            assert_eq!(kind_of(&error), ErrorKind::UnknownOutcome, "{error}");
            assert_eq!(of_read(error).kind, ErrorKind::Unavailable);
        }
    }

    #[tokio::test]
    async fn what_does_not_answer_in_time_is_unavailable() {
        let never = std::future::pending::<Result<(), PortError>>();
        let error = within(Duration::from_millis(5), never).await.unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Unavailable, "no answer within 5 ms"));
    }
}
