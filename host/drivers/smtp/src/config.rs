//! What an operator may set, and what cannot work.

use sandpost_ports::Secret;
use std::path::PathBuf;

/// An SMTP relay.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `smtp://user:password@host:port` or `smtps://…` (`SMTP_URL`). The port is 587 where a user is given, else 25;
    /// 465 for `smtps`. Characters that mean something in a URL are percent-encoded. `?tls=none|opportunistic|required` sets
    /// `starttls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Secret>,
    /// Who logs in; over that of the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<Secret>,
    /// With which password; over that of the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// Whether `smtp://` is encrypted. Default `when-offered`; `smtps://` always is.
    pub starttls: Starttls,
    /// Certificates (PEM) that are trusted besides the public ones, for a relay with its own authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// How this host introduces itself. The address of the connection where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hello_name: Option<String>,
    /// Time to connect, TLS and login included. Default 5000.
    pub connect_timeout_ms: u64,
    /// Time for the answer to one command. Default 10 000.
    pub command_timeout_ms: u64,
    /// Time for one mail from connecting to the last answer. Default 25 000: relays scan a mail before they answer, and the
    /// host's own bound on a hand-over is 30 000.
    pub send_timeout_ms: u64,
    /// Connections at once. Default 10: more are refused by many relays.
    pub connections_max: usize,
    /// The longest that a mail waits for a free connection. Default 5000.
    pub connection_wait_ms: u64,
    /// How long an unused connection is kept. Default 30 000: relays close them after a minute or five.
    pub idle_max_ms: u64,
    /// How long mail is held when the relay refuses the login. Default 30 000.
    pub pause_ms: u64,
}

/// Whether a connection that began in the clear is encrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Starttls {
    /// Where the relay offers it. A password is not sent without, except to this machine.
    #[default]
    WhenOffered,
    /// Always; a relay that does not offer it gets no mail.
    Required,
    /// Not at all, with a password too.
    Never,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: None,
            username: None,
            password: None,
            starttls: Starttls::WhenOffered,
            ca_file: None,
            hello_name: None,
            connect_timeout_ms: 5_000,
            command_timeout_ms: 10_000,
            send_timeout_ms: 25_000,
            connections_max: 10,
            connection_wait_ms: 5_000,
            idle_max_ms: 30_000,
            pause_ms: 30_000,
        }
    }
}

/// Why the configuration cannot work. That the relay is down is not among it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No relay is named.
    #[error("`url` is missing: smtp://host:port")]
    NoUrl,
    /// It is not one; what is wrong, without the address.
    #[error("`url` is not the address of a relay: {0}")]
    Url(&'static str),
    /// A bound of zero.
    #[error("`{0}` is 0; it must be at least 1")]
    Zero(&'static str),
    /// Half of a login.
    #[error("a user and a password are set together or not at all")]
    HalfLogin,
    /// The certificates could not be read.
    #[error("`ca_file` could not be read")]
    CaFile(#[source] sandpost_ports::BoxError),
    /// TLS could not be set up for this relay.
    #[error("TLS could not be set up for the relay")]
    Tls(#[source] sandpost_ports::BoxError),
}

impl Config {
    /// Whether its bounds can work.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let bounds = [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("command_timeout_ms", self.command_timeout_ms),
            ("send_timeout_ms", self.send_timeout_ms),
            ("connections_max", self.connections_max as u64),
            ("connection_wait_ms", self.connection_wait_ms),
        ];
        match bounds.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(OpenError::Zero(key)),
            None => Ok(()),
        }
    }
}
