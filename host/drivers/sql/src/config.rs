//! What an operator can set about a database, and what is refused before anything connects.

use sandpost_ports::Secret;
use std::path::PathBuf;
use std::time::Duration;
use url::Url;

/// Longest time of any kind: a day. A bound only so that a deadline can always be computed.
pub(crate) const TIME_MAX_MS: u64 = 24 * 60 * 60 * 1_000;

/// Most connections of one pool. More than any of the two servers takes by default.
const POOL_MAX: u32 = 1_000;

/// What the origin documents' pool has.
const POOL_DEFAULT: u32 = 10;

/// The origin documents wait without end, or 20 s where an address says so; a plugin's call is over before that.
const ACQUIRE_DEFAULT_MS: u64 = 10_000;

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tls {
    /// None.
    Disable,
    /// Where the server has it. Nothing is verified.
    Prefer,
    /// Always. Nothing is verified.
    Require,
    /// Always, with a certificate of a known authority.
    VerifyCa,
    /// Always, with a certificate of a known authority for this host.
    VerifyFull,
}

/// Where a database is, and its bounds. Either `url`, or `host` and `database`; a part that is given beside the URL stands
/// above the URL's.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `mysql://user:password@host:port/database` (also `mariadb://`), or `postgres://…` (also `postgresql://`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Secret>,
    /// Host name or address. Default: the URL's.
    pub host: Option<String>,
    /// Default: the URL's, else 3306 or 5432.
    pub port: Option<u16>,
    /// Default: the URL's, else the client's own.
    pub user: Option<String>,
    /// Default: the URL's, else none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// Default: the URL's.
    pub database: Option<String>,
    /// Another server with the same data. What is read with read-only access, outside of a transaction, is read there; and from
    /// the first server while it cannot be reached. What is not in this URL is as for the first server. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_replica_url: Option<Secret>,
    /// Default: what the URL says (`sslmode`, `ssl-mode`), else `prefer`.
    pub tls: Option<Tls>,
    /// PEM file of the authorities that are trusted for the two that verify. Default: the URL's, else those of the web.
    pub tls_ca_file: Option<PathBuf>,
    /// Connections to each server at most. Default: the URL's `connection_limit`, else 10.
    pub pool_max_connections: Option<u32>,
    /// How long a call waits for one of them. Default: the URL's `pool_timeout`, in seconds, else 10 000.
    pub acquire_timeout_ms: Option<u64>,
    /// How long making a connection may take. Default 5 000.
    pub connect_timeout_ms: u64,
    /// How long the database may take to begin, commit or roll back. Default 5 000.
    pub control_timeout_ms: u64,
    /// After so long without work a connection is closed. Default 600 000.
    pub idle_timeout_ms: u64,
    /// How long a transaction may lie there between two calls before it is rolled back. Default 5 000.
    pub transaction_idle_max_ms: u64,
    /// How long a transaction may take as a whole before it is rolled back. Default 30 000.
    pub transaction_max_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: None,
            host: None,
            port: None,
            user: None,
            password: None,
            database: None,
            read_replica_url: None,
            tls: None,
            tls_ca_file: None,
            pool_max_connections: None,
            acquire_timeout_ms: None,
            connect_timeout_ms: 5_000,
            control_timeout_ms: 5_000,
            idle_timeout_ms: 600_000,
            transaction_idle_max_ms: 5_000,
            transaction_max_ms: 30_000,
        }
    }
}

/// Why a database cannot be opened. No message holds an address or a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Nothing says where it is.
    #[error("no database is given: `url`, or `host` and `database`")]
    NoDatabase,
    /// An address that cannot be read. The words of whoever read it are left out: they may repeat it.
    #[error("`{key}` is not {scheme}://user:password@host:port/database")]
    Url {
        /// The key.
        key: &'static str,
        /// What it should begin with.
        scheme: &'static str,
    },
    /// A bound that cannot be.
    #[error("`{key}` is {value}; it must be between 1 and {max}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// What it was set to.
        value: u64,
        /// The most it may be.
        max: u64,
    },
    /// It was called outside of a Tokio runtime.
    #[error("the database is opened outside of a Tokio runtime")]
    NoRuntime,
}

/// A configuration that can work.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) primary: Address,
    pub(crate) replica: Option<Address>,
    pub(crate) pool_max: u32,
    pub(crate) acquire_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) control_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) transaction_idle_max: Duration,
    pub(crate) transaction_max: Duration,
}

/// One server, with the parts that stand above its URL's.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    /// The key, for an error of the client library's.
    pub(crate) key: &'static str,
    /// Without what only this crate understands. May hold a password: shown nowhere.
    pub(crate) url: Option<Secret>,
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) database: Option<String>,
    pub(crate) tls: Option<Tls>,
    pub(crate) tls_ca_file: Option<PathBuf>,
    /// Postgres: where names are looked for.
    pub(crate) schema: Option<String>,
}

/// What a URL of an object mapper says beside the address.
#[derive(Debug, Default)]
struct Beside {
    connection_limit: Option<u32>,
    pool_timeout_ms: Option<u64>,
    connect_timeout_ms: Option<u64>,
    schema: Option<String>,
}

impl Config {
    /// `schemes` are the URL's, `understood` the parameters that the client library reads from it.
    pub(crate) fn settings(&self, schemes: &[&'static str], understood: &[&str]) -> Result<Settings, OpenError> {
        let (url, beside) = read("url", self.url.as_ref(), schemes, understood)?;
        let (replica_url, of_replica) = read("read_replica_url", self.read_replica_url.as_ref(), schemes, understood)?;
        if url.is_none() && (self.host.is_none() || self.database.is_none()) {
            return Err(OpenError::NoDatabase);
        }
        let pool_max = self.pool_max_connections.or(beside.connection_limit).unwrap_or(POOL_DEFAULT);
        let acquire_timeout_ms = self.acquire_timeout_ms.or(beside.pool_timeout_ms).unwrap_or(ACQUIRE_DEFAULT_MS);
        let connect_timeout_ms = beside.connect_timeout_ms.unwrap_or(self.connect_timeout_ms);
        for (key, value, max) in [
            ("pool_max_connections", u64::from(pool_max), u64::from(POOL_MAX)),
            ("acquire_timeout_ms", acquire_timeout_ms, TIME_MAX_MS),
            ("connect_timeout_ms", connect_timeout_ms, TIME_MAX_MS),
            ("control_timeout_ms", self.control_timeout_ms, TIME_MAX_MS),
            ("idle_timeout_ms", self.idle_timeout_ms, TIME_MAX_MS),
            ("transaction_idle_max_ms", self.transaction_idle_max_ms, TIME_MAX_MS),
            ("transaction_max_ms", self.transaction_max_ms, TIME_MAX_MS),
        ] {
            if !(1..=max).contains(&value) {
                return Err(OpenError::OutOfRange { key, value, max });
            }
        }
        let primary = Address {
            key: "url",
            url,
            host: self.host.clone(),
            port: self.port,
            user: self.user.clone(),
            password: self.password.clone(),
            database: self.database.clone(),
            tls: self.tls,
            tls_ca_file: self.tls_ca_file.clone(),
            schema: beside.schema,
        };
        // Its host and port are the URL's alone; the rest stands in where the URL does not say it.
        let replica = replica_url.map(|url| {
            let parsed = Url::parse(url.reveal()).ok();
            let says = |part: fn(&Url) -> bool| parsed.as_ref().is_some_and(part);
            Address {
                key: "read_replica_url",
                host: None,
                port: None,
                user: if says(|url| !url.username().is_empty()) { None } else { primary.user.clone() },
                password: if says(|url| url.password().is_some()) { None } else { primary.password.clone() },
                database: if says(|url| url.path().len() > 1) { None } else { primary.database.clone() },
                schema: of_replica.schema.or_else(|| primary.schema.clone()),
                url: Some(url),
                ..primary.clone()
            }
        });
        Ok(Settings {
            primary,
            replica,
            pool_max,
            acquire_timeout: Duration::from_millis(acquire_timeout_ms),
            connect_timeout: Duration::from_millis(connect_timeout_ms),
            control_timeout: Duration::from_millis(self.control_timeout_ms),
            idle_timeout: Duration::from_millis(self.idle_timeout_ms),
            transaction_idle_max: Duration::from_millis(self.transaction_idle_max_ms),
            transaction_max: Duration::from_millis(self.transaction_max_ms),
        })
    }
}

/// Takes a URL apart: what the client library understands stays in it, what an object mapper's URL has beside that comes out,
/// and the rest is dropped, by its name in the log, because the client library would log it with its value.
fn read(
    key: &'static str,
    url: Option<&Secret>,
    schemes: &[&'static str],
    understood: &[&str],
) -> Result<(Option<Secret>, Beside), OpenError> {
    let Some(url) = url else { return Ok((None, Beside::default())) };
    let wrong = || OpenError::Url { key, scheme: schemes.first().copied().unwrap_or_default() };
    let mut url = Url::parse(url.reveal()).map_err(|_| wrong())?;
    if !schemes.contains(&url.scheme()) || url.host_str().is_none_or(str::is_empty) {
        return Err(wrong());
    }
    let mut beside = Beside::default();
    let mut kept = Vec::new();
    for (name, value) in url.query_pairs() {
        match &*name {
            "connection_limit" => beside.connection_limit = Some(value.parse().map_err(|_| wrong())?),
            "pool_timeout" => beside.pool_timeout_ms = Some(seconds(&value).ok_or_else(wrong)?),
            "connect_timeout" => beside.connect_timeout_ms = Some(seconds(&value).ok_or_else(wrong)?),
            "schema" => beside.schema = Some(value.into_owned()),
            name if understood.contains(&name) || name.starts_with("options[") => {
                kept.push((name.to_owned(), value.into_owned()));
            }
            name => {
                tracing::warn!(target: "sandpost_sql", key, parameter = name, "a parameter of the address is passed over");
            }
        }
    }
    url.set_query(None);
    if !kept.is_empty() {
        url.query_pairs_mut().extend_pairs(kept);
    }
    Ok((Some(Secret::new(url.as_str())), beside))
}

fn seconds(text: &str) -> Option<u64> {
    text.parse::<u64>().ok()?.checked_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMES: &[&str] = &["postgres", "postgresql"];

    fn of(url: &str) -> Config {
        Config { url: Some(Secret::new(url)), ..Config::default() }
    }

    fn settings(config: &Config) -> Result<Settings, OpenError> {
        config.settings(SCHEMES, &["sslmode"])
    }

    #[test]
    fn an_object_mappers_url_sets_the_pool() {
        let url = "postgresql://u:p@h:1/d?schema=app&connection_limit=7&pool_timeout=20&sslmode=require&unknown=x";
        let read = settings(&of(url)).unwrap();
        assert_eq!((read.pool_max, read.acquire_timeout), (7, Duration::from_secs(20)));
        assert_eq!(read.primary.url.unwrap().reveal(), "postgresql://u:p@h:1/d?sslmode=require");
        assert_eq!(read.primary.schema.as_deref(), Some("app"));
        let above = Config { pool_max_connections: Some(3), acquire_timeout_ms: Some(5), ..of(url) };
        let read = settings(&above).unwrap();
        assert_eq!((read.pool_max, read.acquire_timeout), (3, Duration::from_millis(5)));
        let plain = settings(&of("postgres://h/d")).unwrap();
        assert_eq!((plain.pool_max, plain.acquire_timeout), (10, Duration::from_secs(10)));
    }

    #[test]
    fn a_replica_has_what_its_url_does_not_say_from_the_first_server() {
        let config = Config {
            host: Some("first".into()),
            port: Some(1),
            user: Some("u".into()),
            password: Some(Secret::new("p")),
            database: Some("d".into()),
            read_replica_url: Some(Secret::new("postgres://second:2")),
            ..Config::default()
        };
        let replica = settings(&config).unwrap().replica.unwrap();
        assert_eq!((replica.host, replica.port), (None, None));
        assert_eq!((replica.user.as_deref(), replica.database.as_deref()), (Some("u"), Some("d")));
        let own = Config { read_replica_url: Some(Secret::new("postgres://v:w@second/e")), ..config };
        let replica = settings(&own).unwrap().replica.unwrap();
        assert_eq!((replica.user, replica.password, replica.database), (None, None, None));
    }

    #[test]
    fn what_cannot_work_is_refused_without_showing_a_secret() {
        #[track_caller]
        fn check(config: &Config, part: &str) {
            let error = settings(config).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert!(!format!("{error} {error:?} {config:?}").contains("hunter2"));
        }
        check(&Config::default(), "no database");
        check(&Config { host: Some("h".into()), ..Config::default() }, "no database");
        check(&of("hunter2"), "`url`");
        check(&of("mysql://u:hunter2@h/d"), "postgres://");
        check(&of("postgres://u:hunter2@h:port/d"), "`url`");
        check(&of("postgres://u:hunter2@h/d?pool_timeout=x"), "`url`");
        check(&Config { read_replica_url: Some(Secret::new("hunter2")), ..of("postgres://h/d") }, "`read_replica_url`");
        check(&Config { pool_max_connections: Some(0), ..of("postgres://h/d") }, "pool_max_connections");
        check(&Config { transaction_max_ms: 0, ..of("postgres://h/d") }, "transaction_max_ms");
        assert!(serde_json::from_str::<Config>(r#"{"urll": "x"}"#).is_err());
        assert!(!serde_json::to_string(&of("postgres://u:hunter2@h/d")).unwrap().contains("hunter2"));
    }
}
