//! From what Redis or its client says to what a caller can decide by.

use redis::{ErrorKind as Redis, RedisError, ServerErrorKind as Server};
use sandpost_ports::{ErrorKind, PortError};

/// What a command does, for the case that nobody knows whether it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It may be sent again.
    Reads,
    /// It may have taken place.
    Writes,
}

/// The error of a command. Messages are for plugins: no key, no address.
pub(crate) fn failed(error: RedisError, effect: Effect) -> PortError {
    let (kind, message) = meaning(&error, effect);
    PortError::new(kind, message).because(error)
}

/// Its commands were answered, each in its time, but were too many for the time of one call.
pub(crate) fn unanswered(effect: Effect) -> PortError {
    PortError::new(effect.lost(), "the cache did not answer in time")
}

impl Effect {
    /// What it means that nobody knows.
    fn lost(self) -> ErrorKind {
        match self {
            Self::Reads => ErrorKind::Unavailable,
            Self::Writes => ErrorKind::UnknownOutcome,
        }
    }
}

fn meaning(error: &RedisError, effect: Effect) -> (ErrorKind, &'static str) {
    let lost = effect.lost();
    if error.is_connection_refusal() {
        return (ErrorKind::Unavailable, "the cache is not reachable");
    }
    if is_certificate(error) {
        // Nothing was sent.
        return (ErrorKind::Unavailable, "the cache's certificate is not accepted");
    }
    if error.is_timeout() {
        return (lost, "the cache did not answer in time");
    }
    match error.code() {
        Some("NOAUTH" | "WRONGPASS" | "NOPERM") => {
            return (ErrorKind::Unavailable, "the cache refuses the host's credentials");
        }
        Some("WRONGTYPE") => return (ErrorKind::Invalid, "the key holds something else than bytes"),
        Some("BUSY") => return (ErrorKind::Unavailable, "the cache is busy with a script"),
        Some("OOM") => return (ErrorKind::Exceeded, "the cache is full and evicts nothing"),
        _ => {}
    }
    match error.kind() {
        Redis::AuthenticationFailed => (ErrorKind::Unavailable, "the cache refuses the host's credentials"),
        _ if is_sent_away(error) => (ErrorKind::Unavailable, "the cache takes no commands for now"),
        Redis::Io => (lost, "the connection to the cache was lost"),
        _ if error.is_connection_dropped() || error.is_io_error() => (lost, "the connection to the cache was lost"),
        Redis::Server(_) if is_no_number(error) => {
            (ErrorKind::Invalid, "the value is no decimal 64-bit number, or the sum would not be one")
        }
        _ => (ErrorKind::Other, "the cache did not understand the command"),
    }
}

/// Whether the server, or a cluster's client, sent the command away undone: elsewhere, or until later.
pub(crate) fn is_sent_away(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        Redis::Server(
            Server::BusyLoading
                | Server::TryAgain
                | Server::ClusterDown
                | Server::MasterDown
                | Server::ReadOnly
                | Server::Moved
                | Server::Ask,
        ) | Redis::ClusterConnectionNotFound
    )
}

/// The words are rustls's; the tests would tell if they changed.
fn is_certificate(error: &RedisError) -> bool {
    error.is_io_error() && error.to_string().contains("invalid peer certificate")
}

/// Redis has no code of its own for these two (`t_string.c`: "value is not an integer or out of range", "increment or
/// decrement would overflow").
fn is_no_number(error: &RedisError) -> bool {
    let words = error.to_string();
    words.contains("not an integer or out of range") || words.contains("would overflow")
}
