//! Why a port did not do what it was asked: one type for all of them, because callers decide by the kind alone.

use sandpost_message::ConnectionLabel;
use std::fmt;

/// What lies underneath, for the operator's log.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a caller can decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The arguments are wrong; the same call fails again.
    Invalid,
    /// It exists already, or a constraint forbids it.
    Conflict,
    /// The service is down, overloaded or throttling, and nothing was done: trying later may help.
    Unavailable,
    /// It may or may not have been done: a lost answer, a timeout after the request was sent.
    UnknownOutcome,
    /// A limit was reached: rows, bytes, size on disk.
    Exceeded,
    /// This driver cannot do it; the message names what.
    Unsupported,
    /// Anything else; a fault of the service or of the driver.
    Other,
}

impl ErrorKind {
    /// The word in logs and metrics. Never renamed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::UnknownOutcome => "unknown-outcome",
            Self::Exceeded => "exceeded",
            Self::Unsupported => "unsupported",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Why a port did not do what it was asked.
///
/// The message is a lower-case fragment that reads on after "failed to …: ", and is fit for a plugin's eyes. The
/// source is for the operator's log only; whoever prints an error walks the chain, so neither repeats the other.
#[derive(Debug, thiserror::Error)]
#[error("{}{message}", DisplayLabel(connection.as_ref()))]
pub struct PortError {
    /// What to decide by.
    pub kind: ErrorKind,
    /// Which connection, where one is concerned.
    pub connection: Option<ConnectionLabel>,
    /// What happened, in words that hold no address and no secret.
    pub message: String,
    /// What the service or the library said.
    #[source]
    pub source: Option<BoxError>,
}

impl PortError {
    /// An error of this kind, with the words for the caller.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, connection: None, message: message.into(), source: None }
    }

    /// Wrong arguments.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// Something the driver cannot do, by its name.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// The same, with what lies underneath.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same, about this connection.
    #[must_use]
    pub fn on(mut self, connection: &ConnectionLabel) -> Self {
        self.connection.get_or_insert_with(|| connection.clone());
        self
    }

    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        match self.kind {
            ErrorKind::Unavailable | ErrorKind::UnknownOutcome => true,
            ErrorKind::Invalid
            | ErrorKind::Conflict
            | ErrorKind::Exceeded
            | ErrorKind::Unsupported
            | ErrorKind::Other => false,
        }
    }
}

struct DisplayLabel<'a>(Option<&'a ConnectionLabel>);

impl fmt::Display for DisplayLabel<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(label) => write!(f, "connection `{label}`: "),
            None => Ok(()),
        }
    }
}
