//! What an operator can set for a MongoDB connection, and what is refused before anything connects.
//!
//! What is set here wins over the same option in the URL, which wins over the default.

use mongodb::options::{Acknowledgment, ConnectionString, HostInfo, WriteConcern};
use sandpost_ports::Secret;
use std::time::Duration;

/// Connections that may be open at most; the origin documents' number.
const POOL_MAX_CONNECTIONS: u32 = 10;

/// More than this from one host is a mistake: MongoDB takes a thread for each.
const POOL_MAX_CONNECTIONS_LIMIT: u32 = 1_000;

/// How long a server is looked for; the origin documents' number.
const SERVER_SELECTION_TIMEOUT_MS: u64 = 5_000;

/// How long one call may take; the origin documents' number.
const SOCKET_TIMEOUT_MS: u64 = 45_000;

/// How long opening one connection may take.
const CONNECT_TIMEOUT_MS: u64 = 5_000;

/// The client takes no shorter interval.
const HEARTBEAT_MIN_MS: u64 = 500;

/// One MongoDB connection. Every key but the URL has a default; an unknown key is refused.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `mongodb://…` or `mongodb+srv://…`, with the options of MongoDB's connection strings. No default.
    pub url: Option<Secret>,
    /// The database. Default none: the one in the URL's path.
    pub database: Option<String>,
    /// Connections to a server at most. Default none: the URL's `maxPoolSize`, else 10.
    pub pool_max_connections: Option<u32>,
    /// How long a call waits for one of them before it is [unavailable](sandpost_ports::ErrorKind::Unavailable). Default
    /// 10 000.
    pub pool_wait_max_ms: u64,
    /// How long a call waits for a server that can take it. Default none: the URL's `serverSelectionTimeoutMS`, else
    /// 5 000.
    pub server_selection_timeout_ms: Option<u64>,
    /// How long one call may take, from the choice of a server to the answer, retries of the client included. Default
    /// none: the URL's `socketTimeoutMS`, else 45 000.
    pub socket_timeout_ms: Option<u64>,
    /// How long opening a connection may take, its log-in included. Default none: the URL's `connectTimeoutMS`, else
    /// 5 000.
    pub connect_timeout_ms: Option<u64>,
    /// How long the server works at a read, a count, a pipeline or a find-and-update before it gives up (`maxTimeMS`).
    /// Default 40 000; never more than `socket_timeout_ms`.
    pub max_time_ms: u64,
    /// How often the server is asked whether it is well. Default 10 000, at least 500.
    pub heartbeat_ms: u64,
    /// Documents that the server sends at once for a cursor; it sends no more than 16 MiB whatever this says. They are
    /// held here until they are read. Default 500.
    pub batch_max_documents: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: None,
            database: None,
            pool_max_connections: None,
            pool_wait_max_ms: 10_000,
            server_selection_timeout_ms: None,
            socket_timeout_ms: None,
            connect_timeout_ms: None,
            max_time_ms: 40_000,
            heartbeat_ms: 10_000,
            batch_max_documents: 500,
        }
    }
}

/// Why a configuration cannot work. For the operator; holds no address and no password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no URL.
    #[error("`url` is missing: `mongodb://host:27017/database`")]
    NoUrl,
    /// The URL is not one.
    ///
    /// The vendor's own words are left out: they repeat parts of the URL.
    #[error("`url` is not a MongoDB connection string that this client takes")]
    Url,
    /// Neither the URL nor the configuration names a database.
    #[error("no database: `database` is not set, and the URL has no path")]
    NoDatabase,
    /// MongoDB takes no database of this name.
    #[error("`database` cannot be the name of a database")]
    Database,
    /// A number is out of its range.
    #[error("`{key}` is {found}; it is {range}")]
    Range {
        /// Which key.
        key: &'static str,
        /// What it says.
        found: u64,
        /// What it may say.
        range: &'static str,
    },
    /// The URL asks for writes that nobody confirms.
    #[error("the URL asks for writes that are not acknowledged (`w=0`); their outcome would never be known")]
    Unacknowledged,
}

/// A configuration that can work, every default filled in.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// What the client is made from; its database is [`Settings::database`].
    pub(crate) url: ConnectionString,
    pub(crate) database: String,
    pub(crate) pool_max_connections: u32,
    pub(crate) pool_wait_max: Duration,
    pub(crate) server_selection_timeout: Duration,
    pub(crate) socket_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) max_time: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) batch_max_documents: u32,
}

impl Settings {
    pub(crate) fn read(config: &Config) -> Result<Self, OpenError> {
        let mut url = parse(config.url.as_ref().ok_or(OpenError::NoUrl)?)?;
        let is_unconfirmed = |concern: &WriteConcern| concern.w == Some(Acknowledgment::Nodes(0));
        if url.write_concern.as_ref().is_some_and(is_unconfirmed) {
            return Err(OpenError::Unacknowledged);
        }
        let database = config.database.clone().or_else(|| url.default_database.clone()).ok_or(OpenError::NoDatabase)?;
        if database.is_empty() || database.len() > 63 || database.contains(['/', '\\', '.', ' ', '"', '$', '\0']) {
            return Err(OpenError::Database);
        }
        let pool_max_connections = config.pool_max_connections.or(url.max_pool_size).unwrap_or(POOL_MAX_CONNECTIONS);
        if pool_max_connections == 0 || pool_max_connections > POOL_MAX_CONNECTIONS_LIMIT {
            return Err(OpenError::Range {
                key: "pool_max_connections",
                found: pool_max_connections.into(),
                range: "1 to 1000, so that the pool has a bound",
            });
        }
        let socket_timeout = time(
            "socket_timeout_ms",
            config.socket_timeout_ms,
            // The client itself takes no such option; in MongoDB's own words 0 is none, and here everything has a bound.
            take_socket_timeout(&mut url).filter(|timeout| !timeout.is_zero()),
            SOCKET_TIMEOUT_MS,
        )?;
        let max_time = time("max_time_ms", Some(config.max_time_ms), None, 0)?.min(socket_timeout);
        if config.heartbeat_ms < HEARTBEAT_MIN_MS {
            return Err(OpenError::Range { key: "heartbeat_ms", found: config.heartbeat_ms, range: "500 or more" });
        }
        if config.batch_max_documents == 0 {
            return Err(OpenError::Range { key: "batch_max_documents", found: 0, range: "1 or more" });
        }
        Ok(Self {
            database,
            pool_max_connections,
            pool_wait_max: time("pool_wait_max_ms", Some(config.pool_wait_max_ms), None, 0)?,
            server_selection_timeout: time(
                "server_selection_timeout_ms",
                config.server_selection_timeout_ms,
                url.server_selection_timeout,
                SERVER_SELECTION_TIMEOUT_MS,
            )?,
            socket_timeout,
            connect_timeout: time(
                "connect_timeout_ms",
                config.connect_timeout_ms,
                url.connect_timeout.filter(|timeout| !timeout.is_zero()),
                CONNECT_TIMEOUT_MS,
            )?,
            max_time,
            heartbeat: Duration::from_millis(config.heartbeat_ms),
            batch_max_documents: config.batch_max_documents,
            url,
        })
    }
}

fn parse(url: &Secret) -> Result<ConnectionString, OpenError> {
    let parsed = ConnectionString::parse(url.reveal()).map_err(|_| OpenError::Url)?;
    let has_host = match &parsed.host_info {
        HostInfo::HostIdentifiers(hosts) => !hosts.is_empty(),
        _ => true,
    };
    if has_host { Ok(parsed) } else { Err(OpenError::Url) }
}

#[expect(deprecated, reason = "the client parses the option only to refuse it; here it bounds each call")]
fn take_socket_timeout(url: &mut ConnectionString) -> Option<Duration> {
    url.socket_timeout.take()
}

fn time(
    key: &'static str,
    configured_ms: Option<u64>,
    in_url: Option<Duration>,
    default_ms: u64,
) -> Result<Duration, OpenError> {
    let time = configured_ms.map(Duration::from_millis).or(in_url).unwrap_or(Duration::from_millis(default_ms));
    if time.is_zero() { Err(OpenError::Range { key, found: 0, range: "1 or more" }) } else { Ok(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Config {
        Config { url: Some(Secret::new(url)), ..Config::default() }
    }

    #[track_caller]
    fn settings(config: &Config) -> Settings {
        Settings::read(config).unwrap()
    }

    #[test]
    fn defaults_are_the_origin_documents() {
        let settings = settings(&config("mongodb://localhost:27017/vibework"));
        assert_eq!(settings.database, "vibework");
        assert_eq!(settings.pool_max_connections, 10);
        assert_eq!(settings.server_selection_timeout, Duration::from_secs(5));
        assert_eq!(settings.socket_timeout, Duration::from_secs(45));
        assert_eq!(settings.max_time, Duration::from_secs(40));
    }

    #[test]
    fn the_url_says_what_the_configuration_leaves_open() {
        let url = "mongodb://u:p@a:1,b:2/db?authSource=admin&maxPoolSize=3&serverSelectionTimeoutMS=7&socketTimeoutMS=80\
                   &connectTimeoutMS=9&retryWrites=false&replicaSet=rs&w=majority";
        let read = settings(&config(url));
        assert_eq!(
            (read.pool_max_connections, read.server_selection_timeout, read.socket_timeout, read.connect_timeout),
            (3, Duration::from_millis(7), Duration::from_millis(80), Duration::from_millis(9))
        );
        assert_eq!(read.max_time, Duration::from_millis(80), "the server gives up no later than the client");
        let read = settings(&Config {
            database: Some("other".to_owned()),
            pool_max_connections: Some(4),
            socket_timeout_ms: Some(90),
            server_selection_timeout_ms: Some(70),
            ..config(url)
        });
        assert_eq!(
            (read.database.as_str(), read.pool_max_connections, read.socket_timeout, read.server_selection_timeout),
            ("other", 4, Duration::from_millis(90), Duration::from_millis(70))
        );
        assert_eq!(settings(&config("mongodb://a/db?socketTimeoutMS=0")).socket_timeout, Duration::from_secs(45));
    }

    #[test]
    fn what_cannot_work_is_refused_without_showing_the_url() {
        #[track_caller]
        fn check(config: &Config, expected: &str) {
            let error = Settings::read(config).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains(expected), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        check(&Config::default(), "`url` is missing");
        check(&config("hunter2"), "not a MongoDB connection string");
        check(&config("postgres://u:hunter2@h/db"), "not a MongoDB connection string");
        check(&config("mongodb://u:hunter2@/db"), "not a MongoDB connection string");
        check(&config("mongodb://u:hunter2@h"), "no database");
        check(&Config { database: Some("a b".to_owned()), ..config("mongodb://h/db") }, "name of a database");
        check(&config("mongodb://u:hunter2@h/db?maxPoolSize=0"), "pool_max_connections");
        check(&config("mongodb://u:hunter2@h/db?w=0"), "not acknowledged");
        check(&Config { socket_timeout_ms: Some(0), ..config("mongodb://h/db") }, "`socket_timeout_ms` is 0");
        check(&Config { heartbeat_ms: 1, ..config("mongodb://h/db") }, "`heartbeat_ms` is 1");
        assert!(serde_json::from_str::<Config>(r#"{"urll": "x"}"#).is_err());
        assert!(!format!("{:?}", config("mongodb://u:hunter2@h/db")).contains("hunter2"));
    }
}
