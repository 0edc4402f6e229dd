//! From what SQLite says to what a caller can decide by.
//!
//! Not here: refusals that the store itself decides on; they are [`PortError`]s from the start.

use rusqlite::ErrorCode;
use sandpost_ports::{ErrorKind, PortError};
use std::sync::Arc;

/// Why a command was not done.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The command itself is at fault; it has changed nothing, and the others of its transaction go on.
    Port(PortError),
    /// SQLite failed, so that the transaction cannot go on.
    Sqlite(rusqlite::Error),
}

impl From<PortError> for Refusal {
    fn from(error: PortError) -> Self {
        Self::Port(error)
    }
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// A failed transaction, to be told to everyone who was in it.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    kind: ErrorKind,
    message: &'static str,
    source: Arc<rusqlite::Error>,
}

impl Trouble {
    /// Before the commit: nothing was done.
    pub(crate) fn before_commit(error: rusqlite::Error) -> Self {
        use ErrorCode as Code;
        let (kind, message) = match error.sqlite_error_code() {
            Some(Code::DiskFull) => (ErrorKind::Exceeded, "the disk, or the store's bound on it, is full"),
            Some(Code::ReadOnly | Code::PermissionDenied) => {
                (ErrorKind::Unavailable, "the store's file cannot be written")
            }
            Some(Code::SystemIoFailure | Code::CannotOpen | Code::NoLargeFileSupport) => {
                (ErrorKind::Unavailable, "the store's disk does not work")
            }
            Some(Code::DatabaseBusy | Code::DatabaseLocked | Code::FileLockingProtocolFailed) => {
                (ErrorKind::Unavailable, "the store's file is in use by another program")
            }
            Some(Code::OutOfMemory) => (ErrorKind::Unavailable, "the store is out of memory"),
            Some(Code::DatabaseCorrupt | Code::NotADatabase) => (ErrorKind::Other, "the store's file is damaged"),
            _ => (ErrorKind::Other, "the store does not understand its file"),
        };
        Self { kind, message, source: Arc::new(error) }
    }

    /// In the commit: where the disk failed there, the frames may be on it, and a restart may find them.
    pub(crate) fn in_commit(error: rusqlite::Error) -> Self {
        let mut trouble = Self::before_commit(error);
        if trouble.source.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) {
            trouble.kind = ErrorKind::UnknownOutcome;
            trouble.message = "the store's disk failed while it was being written";
        }
        trouble
    }

    /// For one of the callers.
    pub(crate) fn error(&self) -> PortError {
        PortError::new(self.kind, self.message).because(Arc::clone(&self.source))
    }
}

/// The store was closed before the command was taken.
pub(crate) fn closed() -> PortError {
    PortError::new(ErrorKind::Unavailable, "the store is closed")
}

/// The command was taken, and the thread ended before it answered.
pub(crate) fn unanswered() -> PortError {
    PortError::new(ErrorKind::UnknownOutcome, "the store stopped before it answered")
}

/// The bound on disk.
pub(crate) fn full() -> PortError {
    PortError::new(ErrorKind::Exceeded, "the store's bound on disk is reached; messages that are handled make room")
}
