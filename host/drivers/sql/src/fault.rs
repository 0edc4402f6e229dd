//! What can go wrong with a statement: for its caller, and for the connection that it ran on.
//!
//! What the database says about a statement (names of tables and columns) is for the caller; what it says about accounts,
//! addresses and the machine goes to the source, for the operator.

use sandpost_ports::{ErrorKind, PortError};

/// Why a statement did not come to its end.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Refused here, before it was sent. The connection is as before.
    Refused(PortError),
    /// Given up here, while its answer came. The rest of it is still on its way.
    Midway(PortError),
    /// The client library, or the database through it.
    Client(sqlx::Error),
    /// No answer in time.
    Timeout,
}

impl Fault {
    pub(crate) fn exceeded(message: String) -> Self {
        Self::Midway(PortError::new(ErrorKind::Exceeded, message))
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Client(error)
    }
}

/// What an answer of the database's means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The statement is wrong: syntax, names, types, values. The database's words are for the caller.
    Invalid,
    /// A constraint. So are these.
    Conflict,
    /// It writes, and the session is read-only.
    ReadOnly,
    /// The account may not.
    Denied,
    /// The account is not let in, or the database is not there.
    NotLetIn,
    /// It took longer than the session was told.
    TooLong,
    /// Somebody ended it.
    Ended,
    /// Another transaction stood in the way. Whether the whole transaction was undone, not the statement alone.
    Contended {
        all_undone: bool,
    },
    /// The server takes no work now: starting, too many connections, a replica.
    Busy,
    /// Disk, memory, a bound of the server's.
    Full,
    /// The database, or this way of asking it, cannot do this.
    Unsupported,
    /// A prepared statement is of a shape that its table has no more.
    Stale,
    /// The connection ends with this answer.
    Leaving,
    Other,
}

/// How far a piece of work had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing of it can have been done: it is not committed.
    Open,
    /// It may have been done.
    InDoubt,
}

impl Fault {
    /// What the database said, where it was the database.
    pub(crate) fn meaning(&self, of: impl Fn(&dyn sqlx::error::DatabaseError) -> Meaning) -> Option<Meaning> {
        match self {
            Self::Client(sqlx::Error::Database(error)) => Some(of(&**error)),
            _ => None,
        }
    }

    /// For the caller. `meaning` is this fault's own.
    pub(crate) fn into_error(self, meaning: Option<Meaning>, stage: Stage) -> PortError {
        use ErrorKind as Kind;
        let in_doubt = stage == Stage::InDoubt;
        let lost = || {
            if in_doubt {
                PortError::new(Kind::UnknownOutcome, "the connection was lost while the change was being made durable")
            } else {
                PortError::new(Kind::Unavailable, "the connection was lost; nothing of the statement has been done")
            }
        };
        let error = match self {
            Self::Refused(error) | Self::Midway(error) => return error,
            Self::Timeout if in_doubt => {
                return PortError::new(Kind::UnknownOutcome, "the database did not say in time whether it is done");
            }
            Self::Timeout => return too_long(),
            Self::Client(error) => error,
        };
        let words = match &error {
            sqlx::Error::Database(error) => error.message().to_owned(),
            _ => String::new(),
        };
        let answer = match meaning {
            None | Some(Meaning::Leaving) => lost(),
            Some(Meaning::Invalid) => return PortError::invalid(words),
            Some(Meaning::Conflict) => return PortError::new(Kind::Conflict, words),
            Some(Meaning::ReadOnly) => return PortError::invalid("this access is read-only"),
            Some(Meaning::Unsupported) => return PortError::unsupported(words),
            Some(Meaning::Denied) => PortError::invalid("the database's account may not do this"),
            Some(Meaning::NotLetIn) => not_let_in(),
            // Of a commit that was interrupted nobody says how far it had come.
            Some(Meaning::TooLong) if in_doubt => {
                PortError::new(Kind::UnknownOutcome, "the server gave up in the middle of making it durable")
            }
            Some(Meaning::TooLong) => too_long(),
            Some(Meaning::Ended) if in_doubt => {
                PortError::new(Kind::UnknownOutcome, "the statement was ended by the server")
            }
            Some(Meaning::Ended) => {
                PortError::new(Kind::Unavailable, "the statement was ended by the server; nothing of it has been done")
            }
            Some(Meaning::Contended { all_undone: true }) => PortError::new(
                Kind::Unavailable,
                "another transaction stood in the way; all of this one has been rolled back",
            ),
            Some(Meaning::Contended { all_undone: false }) => {
                PortError::new(Kind::Unavailable, "another transaction stood in the way; nothing has been done")
            }
            Some(Meaning::Busy) => PortError::new(Kind::Unavailable, "the database takes no such work now"),
            Some(Meaning::Full) => PortError::new(Kind::Exceeded, "the database is full, or the statement too large"),
            Some(Meaning::Stale) => PortError::new(Kind::Unavailable, "a table has just changed its shape"),
            Some(Meaning::Other) => PortError::new(Kind::Other, "the database failed"),
        };
        answer.because(error)
    }
}

fn too_long() -> PortError {
    PortError::new(ErrorKind::Unavailable, "the statement took longer than it may; nothing of it has been done")
}

/// The account is not let in.
pub(crate) fn not_let_in() -> PortError {
    PortError::new(ErrorKind::Other, "the database does not accept the host's account")
}
