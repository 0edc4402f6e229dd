//! From what the database or its client says to what a caller can decide by.

use sandpost_ports::{BoxError, ErrorKind, PortError};
use sqlx::mysql::MySqlDatabaseError;

/// Why a statement, or a transaction, did not come to its end.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) cause: Cause,
    /// Whether a write, or its commit, was on its way, so that it may have been done.
    pub(crate) in_doubt: bool,
}

#[derive(Debug)]
pub(crate) enum Cause {
    /// No connection was to be had.
    Connect(sqlx::Error),
    /// The work failed.
    Work(sqlx::Error),
    /// It took too long.
    Timeout,
}

/// What the database's answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The statement is undone; the same again may succeed.
    Undone,
    /// The server went away in the middle, and said so.
    Leaving,
    /// It waits for better days: too many connections, starting, read-only.
    Busy,
    /// A unique key has it.
    Duplicate,
    /// The statement took longer than it may.
    TooLong,
    /// A table is not there.
    NoTable,
    /// The account is not let in, or may not.
    Denied,
    /// The disk, or a bound of the server's, is full.
    Full,
    /// A value is too long, or is none of its column's.
    Value,
    Other,
}

impl Trouble {
    /// Whether the database undid the work, so that it can be tried again.
    pub(crate) fn is_undone(&self) -> bool {
        matches!(&self.cause, Cause::Work(sqlx::Error::Database(_))) && self.answer() == Some(Answer::Undone)
    }

    /// Whether a unique key refused it.
    pub(crate) fn is_duplicate(&self) -> bool {
        matches!(&self.cause, Cause::Work(_)) && self.answer() == Some(Answer::Duplicate)
    }

    /// Whether a table is not there.
    pub(crate) fn is_no_table(&self) -> bool {
        self.answer() == Some(Answer::NoTable)
    }

    /// Whether the database is not there, or not for us: what an operator hears about once.
    pub(crate) fn is_loss(&self) -> bool {
        match &self.cause {
            Cause::Connect(sqlx::Error::PoolClosed) => false,
            Cause::Timeout | Cause::Connect(_) => true,
            Cause::Work(_) => matches!(self.answer(), None | Some(Answer::Leaving)),
        }
    }

    fn answer(&self) -> Option<Answer> {
        match &self.cause {
            Cause::Connect(sqlx::Error::Database(error)) | Cause::Work(sqlx::Error::Database(error)) => {
                Some(answer(&**error))
            }
            Cause::Connect(_) | Cause::Work(_) | Cause::Timeout => None,
        }
    }

    /// For the caller.
    pub(crate) fn into_error(self) -> PortError {
        use ErrorKind as Kind;
        let answer = self.answer();
        let lost = if self.in_doubt {
            (Kind::UnknownOutcome, "the connection to the state's database was lost while it was being written")
        } else {
            (Kind::Unavailable, "the connection to the state's database was lost")
        };
        let (kind, message) = match (&self.cause, answer) {
            (Cause::Timeout, _) if self.in_doubt => {
                (Kind::UnknownOutcome, "the state's database did not answer a write in time")
            }
            (Cause::Timeout, _) => (Kind::Unavailable, "the state's database did not answer in time"),
            (Cause::Connect(_), Some(Answer::Denied)) => {
                (Kind::Other, "the state's database does not accept the account")
            }
            (Cause::Connect(sqlx::Error::PoolTimedOut), _) => {
                (Kind::Unavailable, "the state's database is not reached, or every connection to it is in use")
            }
            (Cause::Connect(_), _) => (Kind::Unavailable, "the state's database cannot be reached"),
            (Cause::Work(_), None | Some(Answer::Leaving)) => lost,
            (Cause::Work(_), Some(Answer::Undone)) => (Kind::Unavailable, "the state's rows are contended"),
            (Cause::Work(_), Some(Answer::Busy)) => (Kind::Unavailable, "the state's database takes no work now"),
            (Cause::Work(_), Some(Answer::TooLong)) => {
                (Kind::Unavailable, "the state's database ended a statement that took too long")
            }
            (Cause::Work(_), Some(Answer::Duplicate)) => (Kind::Conflict, "it is there already"),
            (Cause::Work(_), Some(Answer::Denied)) => {
                (Kind::Other, "the account of the state's database may not do this")
            }
            (Cause::Work(_), Some(Answer::Full)) => (Kind::Exceeded, "the state's database is full"),
            (Cause::Work(_), Some(Answer::Value)) => (Kind::Invalid, "a value is larger than the state's column"),
            (Cause::Work(_), Some(Answer::NoTable | Answer::Other)) => {
                (Kind::Other, "the state's database refused a statement")
            }
        };
        let error = PortError::new(kind, message);
        match self.cause {
            Cause::Connect(cause) | Cause::Work(cause) => error.because(cause),
            Cause::Timeout => error,
        }
    }
}

fn answer(error: &dyn sqlx::error::DatabaseError) -> Answer {
    if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
        return match error.number() {
            // Deadlock, lock wait, a row that changed meanwhile, XA and write-set conflicts of a cluster.
            1213 | 1205 | 1020 | 1180 | 1614 => Answer::Undone,
            1053 | 1927 | 1317 | 3169 | 4031 => Answer::Leaving,
            1040 | 1203 | 1226 | 1290 | 1836 => Answer::Busy,
            1062 | 1586 => Answer::Duplicate,
            1969 | 3024 => Answer::TooLong,
            1146 => Answer::NoTable,
            1044 | 1045 | 1049 | 1142 | 1143 | 1227 | 1698 => Answer::Denied,
            1021 | 1030 | 1114 | 1041 | 1037 => Answer::Full,
            1153 | 1264 | 1366 | 1406 | 1301 => Answer::Value,
            _ => Answer::Other,
        };
    }
    match error.code().as_deref() {
        Some("40001" | "40P01" | "55P03") => Answer::Undone,
        Some("57P01" | "57P02" | "57P05" | "25P03") => Answer::Leaving,
        Some("57P03" | "53300" | "25006") => Answer::Busy,
        Some("23505") => Answer::Duplicate,
        Some("57014") => Answer::TooLong,
        Some("42P01") => Answer::NoTable,
        Some("28000" | "28P01" | "3D000" | "42501") => Answer::Denied,
        Some("53100" | "53200" | "54000") => Answer::Full,
        Some("22001" | "22003" | "22021" | "22P05" | "54001") => Answer::Value,
        Some(code) if code.starts_with("08") => Answer::Leaving,
        _ => Answer::Other,
    }
}

/// Something in the tables that this program did not write.
pub(crate) fn unreadable(cause: impl Into<BoxError>) -> PortError {
    PortError::new(ErrorKind::Other, "the state's database holds what this program does not understand").because(cause)
}
