//! From the client's errors to the port's: what a caller can decide by, and words that are fit for a plugin.
//!
//! Invariants
//! - A write that was handed to a connection and was not answered is [`ErrorKind::UnknownOutcome`], unless the server
//!   itself says that it wrote nothing.
//! - The server's own words reach a plugin only where they are about what the plugin asked. Everything else is for the
//!   operator's log, cut to a bound, without the documents that came with it.
//!
//! Codes are MongoDB's `error_codes.yml` (read 2026-11-26).

use mongodb::error::{Error, ErrorKind as Kind, NO_WRITES_PERFORMED, WriteFailure};
use sandpost_ports::{ErrorKind, PortError};
use std::fmt;

/// What a call does, as far as a lost answer is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// It changes nothing: whatever happens, nothing was done.
    Read,
    /// It changes something.
    Write,
}

/// Longest text of the server that is passed on, in characters.
const TEXT_MAX_CHARS: usize = 300;

/// A call was given up when its time had passed.
pub(crate) fn timed_out(work: Work, attempts: u32) -> PortError {
    lost(work, attempts, "the database did not answer in time")
}

/// What an error of the client means for a call that was given a connection this often.
pub(crate) fn port_error(error: &Error, work: Work, attempts: u32) -> PortError {
    let mapped = match error.kind.as_ref() {
        Kind::Command(said) => {
            by_code(&Said { code: said.code, name: &said.code_name, text: &said.message }, work, attempts, error)
        }
        Kind::Write(WriteFailure::WriteError(said)) => {
            let name = said.code_name.as_deref().unwrap_or_default();
            by_code(&Said { code: said.code, name, text: &said.message }, work, attempts, error)
        }
        Kind::InsertMany(many) => match many.write_errors.as_deref().and_then(<[_]>::first) {
            Some(said) => {
                let name = said.code_name.as_deref().unwrap_or_default();
                let said_of = Said { code: said.code, name, text: &said.message };
                let mut mapped = by_code(&said_of, work, attempts, error);
                if said.index > 0 {
                    mapped.message = format!("{} ({} were inserted before)", mapped.message, said.index);
                }
                mapped
            }
            None => not_confirmed(),
        },
        Kind::Write(WriteFailure::WriteConcernError(_)) => not_confirmed(),
        Kind::ServerSelection { .. } | Kind::DnsResolve { .. } => {
            PortError::new(ErrorKind::Unavailable, "no database server can be reached")
        }
        Kind::Authentication { .. } => refused_credentials(),
        Kind::Io(_) | Kind::ConnectionPoolCleared { .. } if has(error, NO_WRITES_PERFORMED) => {
            lost(work, 0, "the connection to the database was lost")
        }
        Kind::Io(_) | Kind::ConnectionPoolCleared { .. } => {
            lost(work, attempts, "the connection to the database was lost")
        }
        Kind::Bson(_) => PortError::invalid("a value that BSON cannot hold"),
        Kind::InvalidArgument { message, .. } => PortError::invalid(cut(message)),
        // An answer came, and it cannot be read: what it said of a write is not known.
        Kind::InvalidResponse { .. } => match work {
            Work::Read => PortError::new(ErrorKind::Other, "the database answered what the client cannot read"),
            Work::Write => {
                PortError::new(ErrorKind::UnknownOutcome, "the database answered what the client cannot read")
            }
        },
        Kind::IncompatibleServer { .. } | Kind::SessionsNotSupported => {
            PortError::unsupported("the server is of a version that this client does not speak to")
        }
        Kind::Shutdown => PortError::new(ErrorKind::Unavailable, "the connection to the database was closed"),
        _ => match (work, attempts) {
            (Work::Write, 1..) => {
                PortError::new(ErrorKind::UnknownOutcome, "the client failed in the middle of a write")
            }
            _ => PortError::new(ErrorKind::Other, "the client failed"),
        },
    };
    mapped.because(Cause(format!("{}", Bounded(&error.kind.to_string()))))
}

/// What a server said.
struct Said<'a> {
    code: i32,
    name: &'a str,
    text: &'a str,
}

/// Whether a refused call may have been done, and which words the plugin gets.
enum Meaning {
    /// Refused for what the call asks; the server's words say what.
    Asked(ErrorKind),
    /// Refused before anything was done.
    NothingDone(&'static str),
    /// Ended in the middle.
    Interrupted(&'static str),
    /// Neither the plugin nor time will mend it.
    Operator(&'static str),
}

fn by_code(said: &Said<'_>, work: Work, attempts: u32, error: &Error) -> PortError {
    match meaning(said) {
        Meaning::Asked(ErrorKind::Conflict) if is_duplicate(said.code) => duplicate(said.text),
        Meaning::Asked(kind) => PortError::new(kind, cut(said.text)),
        // The client had tried before, and that try may have got through.
        Meaning::NothingDone(words) if attempts > 1 && !has(error, NO_WRITES_PERFORMED) => lost(work, attempts, words),
        Meaning::NothingDone(words) => PortError::new(ErrorKind::Unavailable, words),
        Meaning::Interrupted(words) if has(error, NO_WRITES_PERFORMED) => PortError::new(ErrorKind::Unavailable, words),
        Meaning::Interrupted(words) => lost(work, attempts.max(1), words),
        Meaning::Operator(words) => PortError::new(ErrorKind::Other, words),
    }
}

fn meaning(said: &Said<'_>) -> Meaning {
    match said.code {
        11000 | 11001 | 12582 | 121 | 85 | 86 => Meaning::Asked(ErrorKind::Conflict),
        // BadValue and FailedToParse are what an unknown operator is told by, in words alone.
        2 | 9 if names_unknown_operator(said.text) => Meaning::Asked(ErrorKind::Unsupported),
        59 | 115 | 168 | 238 | 303 | 40324 | 15999 | 31325 => Meaning::Asked(ErrorKind::Unsupported),
        2
        | 4
        | 5
        | 9
        | 10
        | 14
        | 15
        | 16
        | 28
        | 40
        | 44
        | 45
        | 52..=57
        | 66
        | 67
        | 72
        | 73
        | 93
        | 138
        | 164
        | 165
        | 191
        | 197
        | 224
        | 241
        | 17280 => Meaning::Asked(ErrorKind::Invalid),
        10334 | 10003 | 17419 | 17420 | 146 | 292 | 16819 | 16945 => Meaning::Asked(ErrorKind::Exceeded),
        14031 => Meaning::Operator("the database's disk is full"),
        10107 | 13435 | 13436 | 10058 => Meaning::NothingDone("the server takes no writes now: it is not the primary"),
        112 => Meaning::NothingDone("another write to the same document was in the way"),
        24 | 46 | 133 | 134 | 462 => Meaning::NothingDone("the database is too busy"),
        43 | 237 => Meaning::NothingDone("the cursor has ended in the database"),
        50 | 262 => Meaning::Interrupted("the database took longer than it may"),
        11601 => Meaning::Interrupted("the operation was ended by somebody in the database"),
        91 | 189 | 11600 | 11602 => {
            Meaning::Interrupted("the server stopped in the middle, or gave its part to another")
        }
        6 | 7 | 64 | 89 | 202 | 9001 => Meaning::Interrupted("one server of the database could not reach another"),
        13 | 8000 => Meaning::Operator("the database does not let this account do it"),
        18 => Meaning::Operator(REFUSED_CREDENTIALS),
        // What the query language has no number of its own for: `Location15983`.
        10_000.. if said.name.starts_with("Location") => Meaning::Asked(ErrorKind::Invalid),
        _ => Meaning::Operator("the database refused it"),
    }
}

fn is_duplicate(code: i32) -> bool {
    matches!(code, 11000 | 11001 | 12582)
}

fn names_unknown_operator(text: &str) -> bool {
    ["unknown operator", "unknown top level operator", "Unknown modifier", "unknown operator:", "Unrecognized"]
        .iter()
        .any(|start| text.starts_with(start))
}

/// The server's words hold the database's name and the values; the index is enough.
fn duplicate(text: &str) -> PortError {
    let index =
        text.split_once(" index: ").and_then(|(_, rest)| rest.split(' ').next()).filter(|name| !name.is_empty());
    let message = match index {
        Some("_id_") => "another document has this `_id`".to_owned(),
        Some(name) => format!("another document has these values, and the index `{}` is unique", cut(name)),
        None => "another document has these values, and an index of them is unique".to_owned(),
    };
    PortError::new(ErrorKind::Conflict, message)
}

const REFUSED_CREDENTIALS: &str = "the database does not accept the user name or the password";

fn refused_credentials() -> PortError {
    PortError::new(ErrorKind::Other, REFUSED_CREDENTIALS)
}

fn not_confirmed() -> PortError {
    PortError::new(
        ErrorKind::UnknownOutcome,
        "the write was taken, and not confirmed by as many servers as it has to be",
    )
}

fn lost(work: Work, attempts: u32, words: &str) -> PortError {
    match (work, attempts) {
        (Work::Read, _) | (Work::Write, 0) => PortError::new(ErrorKind::Unavailable, words),
        (Work::Write, _) => PortError::new(ErrorKind::UnknownOutcome, format!("{words}; it may have been done")),
    }
}

fn has(error: &Error, label: &str) -> bool {
    error.contains_label(label)
}

fn cut(text: &str) -> String {
    Bounded(text).to_string()
}

/// A text up to its bound.
struct Bounded<'a>(&'a str);

impl fmt::Display for Bounded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(TEXT_MAX_CHARS) {
            Some((end, _)) => write!(f, "{}…", self.0.get(..end).unwrap_or_default()),
            None => f.write_str(self.0),
        }
    }
}

/// What the client said, for the operator's log. The client's own error would print the whole answer of the server.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Cause(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_codes_have_their_kinds() {
        #[track_caller]
        fn check(code: i32, name: &str, text: &str, expected: ErrorKind) {
            let said = Said { code, name, text };
            let error = by_code(&said, Work::Write, 1, &Error::custom(()));
            assert_eq!(error.kind, expected, "{code}: {error}");
        }
        check(11000, "DuplicateKey", "E11000 duplicate key error collection: d.c index: _id_ dup", ErrorKind::Conflict);
        check(121, "DocumentValidationFailure", "Document failed validation", ErrorKind::Conflict);
        check(2, "BadValue", "unknown operator: $shazam", ErrorKind::Unsupported);
        check(2, "BadValue", "$in needs an array", ErrorKind::Invalid);
        check(9, "FailedToParse", "Unknown modifier: $shazam. Expected a valid modifier", ErrorKind::Unsupported);
        check(66, "ImmutableField", "the field `_id` is immutable", ErrorKind::Invalid);
        check(40324, "Location40324", "Unrecognized pipeline stage name: '$shazam'", ErrorKind::Unsupported);
        check(15983, "Location15983", "an object of an expression has one field", ErrorKind::Invalid);
        check(10334, "BSONObjectTooLarge", "too large", ErrorKind::Exceeded);
        check(10107, "NotWritablePrimary", "not primary", ErrorKind::Unavailable);
        check(112, "WriteConflict", "write conflict", ErrorKind::Unavailable);
        check(11602, "InterruptedDueToReplStateChange", "interrupted", ErrorKind::UnknownOutcome);
        check(50, "MaxTimeMSExpired", "operation exceeded time limit", ErrorKind::UnknownOutcome);
        check(13, "Unauthorized", "not authorized on d to execute", ErrorKind::Other);
        check(8, "UnknownError", "?", ErrorKind::Other);
    }

    #[test]
    fn what_a_lost_answer_means_depends_on_what_was_asked_and_sent() {
        assert_eq!(timed_out(Work::Read, 1).kind, ErrorKind::Unavailable);
        assert_eq!(timed_out(Work::Write, 0).kind, ErrorKind::Unavailable);
        assert_eq!(timed_out(Work::Write, 1).kind, ErrorKind::UnknownOutcome);
        let said = Said { code: 10107, name: "NotWritablePrimary", text: "not primary" };
        let error = by_code(&said, Work::Write, 2, &Error::custom(()));
        assert_eq!(error.kind, ErrorKind::UnknownOutcome, "the try before may have got through");
        assert_eq!(by_code(&said, Work::Read, 2, &Error::custom(())).kind, ErrorKind::Unavailable);
    }

    #[test]
    fn a_plugin_reads_neither_names_of_the_database_nor_long_texts() {
        let text = "E11000 duplicate key error collection: secret.users index: email_1 dup key: { email: \"a@b.c\" }";
        let error = duplicate(text);
        assert!(error.message.contains("`email_1`") && !error.message.contains("secret"), "{error}");
        assert_eq!(cut(&"é".repeat(1_000)).chars().count(), TEXT_MAX_CHARS + 1);
    }
}
