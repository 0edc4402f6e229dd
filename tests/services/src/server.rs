//! A server as a test sees it: where it is, what it is, and how to take it away and bring it back.

use crate::process::Process;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A server that answers. Ended when dropped; one from the environment is left alone.
///
/// All methods take `&self`, so that a server can be in a `static` and serve every test of a binary.
#[derive(Debug)]
pub struct Server {
    kind: String,
    version: String,
    url: Url,
    address: SocketAddr,
    /// Where a mail server delivers.
    mails: Option<PathBuf>,
    /// Whom its clients have to trust for TLS.
    authority: Option<PathBuf>,
    /// None: it belongs to somebody else.
    process: Option<Mutex<Process>>,
}

impl Server {
    pub(crate) fn started(kind: &str, version: String, url: Url, process: Process) -> Self {
        Self {
            kind: kind.to_owned(),
            version,
            url,
            address: process.address(),
            mails: None,
            authority: None,
            process: Some(Mutex::new(process)),
        }
    }

    pub(crate) fn given(kind: &str, variable: &str, url: Url, address: SocketAddr) -> Self {
        let version = format!("as {variable} names it");
        Self { kind: kind.to_owned(), version, url, address, mails: None, authority: None, process: None }
    }

    /// What a client connects to: `redis://…`, `mysql://…`, `postgres://…`, `mongodb://…`, `http://…`, `smtp://…`, with
    /// user and password where the server has them; `host:port` for Pub/Sub.
    pub fn url(&self) -> String {
        self.url.to_string()
    }

    /// [`Server::url`] with another address in it: a [`crate::Proxy`]'s.
    pub fn url_at(&self, address: SocketAddr) -> String {
        Url { host_and_port: address.to_string(), ..self.url.clone() }.to_string()
    }

    /// [`Server::url`] with another password in it, which the server refuses.
    pub fn url_with_wrong_password(&self) -> String {
        let user = self.url.user_info.split(':').next().unwrap_or_default();
        Url { user_info: format!("{user}:wrong"), ..self.url.clone() }.to_string()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it is, for people: `MariaDB`, `FerretDB`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Its version: `10.11.19`. Of one from the environment: by which variable it came.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether [`Server::stop`], [`Server::kill`] and [`Server::start`] can be used: not with one from the environment.
    pub fn can_restart(&self) -> bool {
        self.process.is_some()
    }

    /// The Maildir into which a mail server delivers everything it accepts. None for any other server.
    pub fn mail_folder(&self) -> Option<&Path> {
        self.mails.as_deref()
    }

    /// What a mail server has delivered, in no order: each mail as it came, after lines that say its envelope
    /// (`X-Envelope-From`, `X-Envelope-To` for each recipient). Empty for any other server.
    pub fn mails(&self) -> Vec<String> {
        let folder = self.mail_folder().map(|folder| folder.join("new")).unwrap_or_default();
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| Some(String::from_utf8_lossy(&std::fs::read(entry.path()).ok()?).into_owned()))
            .collect()
    }

    /// The certificate, as PEM, of the authority that a client of this server has to trust for TLS. None where it has no TLS.
    pub fn authority(&self) -> Option<&Path> {
        self.authority.as_deref()
    }

    /// Its process while it runs: for a test that looks for what is left of it.
    pub fn pid(&self) -> Option<u32> {
        self.process().pid()
    }

    /// Ends it in order, as an operator does, and returns when it is gone. What it stored stays. No effect when it is down.
    ///
    /// # Panics
    /// When it belongs to somebody else; see [`Server::can_restart`].
    pub fn stop(&self) {
        self.process().stop();
    }

    /// Ends it at once by SIGKILL and returns when it is gone. What it acknowledged stays. No effect when it is down.
    ///
    /// # Panics
    /// When it belongs to somebody else; see [`Server::can_restart`].
    pub fn kill(&self) {
        self.process().kill();
    }

    /// Brings it back on the same port with the same data and returns when it answers. No effect when it runs.
    ///
    /// # Panics
    /// When it does not come back, or belongs to somebody else; see [`Server::can_restart`].
    pub fn start(&self) {
        if let Err(missing) = self.process().start() {
            panic!("{} does not come back: {missing}", self.kind);
        }
    }

    pub(crate) fn with_mails(self, folder: PathBuf) -> Self {
        Self { mails: Some(folder), ..self }
    }

    pub(crate) fn with_url(self, url: Url) -> Self {
        Self { url, ..self }
    }

    pub(crate) fn with_authority(self, authority: Option<PathBuf>) -> Self {
        Self { authority, ..self }
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        let Some(process) = &self.process else {
            panic!("{} belongs to somebody else ({}): ask `can_restart` first", self.kind, self.version)
        };
        process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An address in its parts, so that one can be exchanged.
#[derive(Debug, Clone)]
pub(crate) struct Url {
    /// `redis`; empty where the address is `host:port` alone.
    pub(crate) scheme: String,
    /// `user:password`; empty without.
    pub(crate) user_info: String,
    pub(crate) host_and_port: String,
    /// `/database?option=…`; empty without.
    pub(crate) rest: String,
}

impl Url {
    pub(crate) fn new(scheme: &str, user_info: &str, address: SocketAddr, rest: &str) -> Self {
        Self {
            scheme: scheme.to_owned(),
            user_info: user_info.to_owned(),
            host_and_port: address.to_string(),
            rest: rest.to_owned(),
        }
    }

    /// None where there is no port.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (user_info, host_and_port) = authority.rsplit_once('@').unwrap_or(("", authority));
        host_and_port.rsplit_once(':')?.1.parse::<u16>().ok()?;
        Some(Self {
            scheme: scheme.to_owned(),
            user_info: user_info.to_owned(),
            host_and_port: host_and_port.to_owned(),
            rest: rest.to_owned(),
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.scheme.is_empty() {
            write!(formatter, "{}://", self.scheme)?;
        }
        if !self.user_info.is_empty() {
            write!(formatter, "{}@", self.user_info)?;
        }
        write!(formatter, "{}{}", self.host_and_port, self.rest)
    }
}

/// Why there is no server, and what would bring one.
#[derive(Debug, Clone)]
pub(crate) struct Missing(String);

impl Missing {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }

    /// A program that is not there, with the command that brings it.
    pub(crate) fn program(name: &str, install: &str) -> Self {
        Self(format!("{name} is not installed; {install}"))
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl From<std::io::Error> for Missing {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}
