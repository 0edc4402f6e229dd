//! From SQLite's errors to the port's.
//!
//! What SQLite says about a statement (names of tables and columns, never a path or a value's bytes) is for the caller;
//! what it says about the machine goes to the source, for the operator.

use crate::authorizer::Verdicts;
use rusqlite::ErrorCode;
use sandpost_ports::{ErrorKind, PortError};

/// What a failed statement means to its caller. `verdicts` has the words where the authorizer was the one who refused.
pub(crate) fn of_statement(error: rusqlite::Error, verdicts: &Verdicts) -> PortError {
    // SQLite has several errors for what the authorizer refused; its own words are the same for all.
    if let Some(what) = verdicts.refused()
        && matches!(code_of(&error), Some(ErrorCode::Unknown | ErrorCode::AuthorizationForStatementDenied))
    {
        return PortError::unsupported(format!("{what} is not offered here"));
    }
    let (code, message) = match &error {
        rusqlite::Error::SqliteFailure(failure, message) => (failure.code, message.clone()),
        rusqlite::Error::SqlInputError { error, msg, offset, .. } if error.code == ErrorCode::Unknown => {
            return PortError::invalid(match offset {
                0.. => format!("{msg} (at byte {offset})"),
                _ => msg.clone(),
            });
        }
        rusqlite::Error::SqlInputError { error, msg, .. } => (error.code, Some(msg.clone())),
        rusqlite::Error::MultipleStatement => {
            return PortError::invalid("there is a second statement; one call runs one");
        }
        rusqlite::Error::NulError(_) => return PortError::invalid("the statement holds a NUL character"),
        rusqlite::Error::Utf8Error(column, _) => {
            return PortError::invalid(format!("column {column} holds text that is not UTF-8; select it as a BLOB"));
        }
        _ => return PortError::new(ErrorKind::Other, "the database failed").because(error),
    };
    let words = message.unwrap_or_else(|| error.to_string());
    match code {
        ErrorCode::ConstraintViolation => PortError::new(ErrorKind::Conflict, words),
        ErrorCode::ReadOnly => PortError::invalid("this access is read-only"),
        ErrorCode::AuthorizationForStatementDenied => PortError::unsupported("this statement is not offered here"),
        // Stepping a statement that is not there.
        ErrorCode::ApiMisuse => PortError::invalid("there is no statement"),
        ErrorCode::Unknown | ErrorCode::TypeMismatch | ErrorCode::ParameterOutOfRange => PortError::invalid(words),
        ErrorCode::TooBig => PortError::new(ErrorKind::Exceeded, "a value or the statement is too large"),
        ErrorCode::DiskFull => PortError::new(ErrorKind::Exceeded, "the database is full").because(error),
        ErrorCode::OperationInterrupted => {
            PortError::new(ErrorKind::Unavailable, "the statement took longer than it may; nothing of it has been done")
        }
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::SchemaChanged
        | ErrorCode::FileLockingProtocolFailed
        | ErrorCode::OutOfMemory => {
            PortError::new(ErrorKind::Unavailable, "the database is busy; nothing has been done").because(error)
        }
        _ => PortError::new(ErrorKind::Other, "the database failed").because(error),
    }
}

/// What a failed COMMIT means: busy and full are known not to have happened, anything else may have.
pub(crate) fn of_commit(error: rusqlite::Error, verdicts: &Verdicts) -> PortError {
    match code_of(&error) {
        Some(
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull | ErrorCode::ConstraintViolation,
        ) => of_statement(error, verdicts),
        _ => PortError::new(ErrorKind::UnknownOutcome, "the commit failed half-way").because(error),
    }
}

fn code_of(error: &rusqlite::Error) -> Option<ErrorCode> {
    match error {
        rusqlite::Error::SqliteFailure(error, _) | rusqlite::Error::SqlInputError { error, .. } => Some(error.code),
        _ => None,
    }
}
