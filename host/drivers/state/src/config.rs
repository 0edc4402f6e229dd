//! What an operator can set about the shared state, and what is refused before anything connects.

use sandpost_ports::Secret;
use sandpost_ports::state::Keep;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::PgConnectOptions;
use std::str::FromStr as _;
use std::time::Duration;

/// Longest table prefix: with the longest name of an index it keeps within the 63 bytes of a Postgres name.
const PREFIX_MAX_BYTES: usize = 32;

/// Statements of one connection that the server keeps prepared: one for each length of a batch, and all others.
const STATEMENTS_KEPT: usize = 128;

/// Which language the database speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// MySQL 8 or MariaDB 10.6, or newer.
    Mysql,
    /// Postgres 12 or newer.
    Postgres,
}

/// Where the state is, and its bounds. Either `url`, or `dialect` with `host` and `database`; a part that is given beside
/// the URL stands above the URL's.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `mysql://user:password@host:port/database` (also `mariadb://`) or `postgres://…` (also `postgresql://`), with the
    /// options of their own, as `ssl-mode` and `sslmode`. No default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Secret>,
    /// `mysql` or `postgres`. Default: what the URL's scheme says.
    pub dialect: Option<Dialect>,
    /// Host name or address. Default: the URL's.
    pub host: Option<String>,
    /// Default: the URL's, else 3306 or 5432.
    pub port: Option<u16>,
    /// User. Default: the URL's, else the client's own.
    pub user: Option<String>,
    /// Password. Default: the URL's, else none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// Database. It has to be there; its tables are made. Default: the URL's.
    pub database: Option<String>,
    /// Before the name of every table, so that the state can live in a database with others: 1 to 32 lower-case ASCII
    /// letters, digits or `_`, beginning with a letter. Hosts with the same database and prefix share the state. Default
    /// `sandpost_`.
    pub table_prefix: String,
    /// Which steps the ledger keeps. Default `all`.
    pub ledger: Keep,
    /// Connections of this host at most. Default 10, the origin documents' number.
    pub pool_max_connections: u32,
    /// How long a call waits for one of them, making it included. Default 5 000.
    pub acquire_timeout_ms: u64,
    /// How long a call's work in the database may take once it has a connection; a connection that takes longer is
    /// closed. Postgres is told the same, as its `statement_timeout`. Default 10 000.
    pub operation_timeout_ms: u64,
    /// How long the database lets a statement wait for a lock of another; whole seconds on MySQL. Default 3 000, at most
    /// `operation_timeout_ms`.
    pub lock_timeout_ms: u64,
    /// How long bringing the tables up to date may take, waiting for another host that does so included. Default 60 000.
    pub migrate_timeout_ms: u64,
    /// After so long without work a connection is closed. Default 600 000.
    pub idle_timeout_ms: u64,
    /// The wait before a database that was not reached is tried again in the background; it doubles up to the longest.
    /// Default 100.
    pub reconnect_min_ms: u64,
    /// Default 5 000.
    pub reconnect_max_ms: u64,
    /// How often a statement is tried again that the database undid: a deadlock, a lock that was not to be had. Default 5.
    pub retries_max: u32,
    /// Rows that one statement deletes when old ones are forgotten; it holds their locks no longer than that takes. Default
    /// 1 000.
    pub forget_batch_max: usize,
    /// Deployments that are kept of one plugin. Default 1 000.
    pub deployments_kept_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: None,
            dialect: None,
            host: None,
            port: None,
            user: None,
            password: None,
            database: None,
            table_prefix: "sandpost_".to_owned(),
            ledger: Keep::All,
            pool_max_connections: 10,
            acquire_timeout_ms: 5_000,
            operation_timeout_ms: 10_000,
            lock_timeout_ms: 3_000,
            migrate_timeout_ms: 60_000,
            idle_timeout_ms: 600_000,
            reconnect_min_ms: 100,
            reconnect_max_ms: 5_000,
            retries_max: 5,
            forget_batch_max: 1_000,
            deployments_kept_max: 1_000,
        }
    }
}

/// Why the state cannot be opened. No message holds an address or a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Nothing says where the database is.
    #[error("no database is given: `url`, or `dialect` with `host` and `database`")]
    NoDatabase,
    /// The URL cannot be read. The client's own words are left out: they may repeat it.
    #[error("`url` is neither mysql://user:password@host/database nor postgres://user:password@host/database")]
    Url,
    /// The URL says one thing and `dialect` another.
    #[error("`dialect` is another than that of `url`")]
    DialectMismatch,
    /// The prefix is not one.
    #[error("`table_prefix` is not 1 to 32 lower-case ASCII letters, digits or `_`, beginning with a letter")]
    TablePrefix,
    /// A bound that cannot be.
    #[error("`{0}` is 0")]
    Zero(&'static str),
    /// Waiting for a lock would outlast the call.
    #[error("`lock_timeout_ms` is more than `operation_timeout_ms`")]
    LockTimeout,
    /// It was called outside of a Tokio runtime.
    #[error("the state is opened outside of a Tokio runtime")]
    NoRuntime,
}

/// How to connect, in the client's own words.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Mysql(MySqlConnectOptions),
    Postgres(PgConnectOptions),
}

/// A configuration that can work.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) target: Target,
    pub(crate) prefix: String,
    pub(crate) pool_max_connections: u32,
    pub(crate) acquire_timeout: Duration,
    pub(crate) operation_timeout: Duration,
    pub(crate) lock_timeout: Duration,
    pub(crate) migrate_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) reconnect_min: Duration,
    pub(crate) reconnect_max: Duration,
    pub(crate) retries_max: u32,
}

impl Config {
    pub(crate) fn settings(&self) -> Result<Settings, OpenError> {
        for (name, value) in [
            ("pool_max_connections", u64::from(self.pool_max_connections)),
            ("acquire_timeout_ms", self.acquire_timeout_ms),
            ("operation_timeout_ms", self.operation_timeout_ms),
            ("lock_timeout_ms", self.lock_timeout_ms),
            ("migrate_timeout_ms", self.migrate_timeout_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
            ("reconnect_min_ms", self.reconnect_min_ms),
            ("reconnect_max_ms", self.reconnect_max_ms),
            ("forget_batch_max", self.forget_batch_max as u64),
            ("deployments_kept_max", self.deployments_kept_max as u64),
        ] {
            if value == 0 {
                return Err(OpenError::Zero(name));
            }
        }
        if self.lock_timeout_ms > self.operation_timeout_ms {
            return Err(OpenError::LockTimeout);
        }
        let prefix = &self.table_prefix;
        let is_prefix = (1..=PREFIX_MAX_BYTES).contains(&prefix.len())
            && prefix.starts_with(|c: char| c.is_ascii_lowercase())
            && prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !is_prefix {
            return Err(OpenError::TablePrefix);
        }
        Ok(Settings {
            target: self.target()?,
            prefix: prefix.clone(),
            pool_max_connections: self.pool_max_connections,
            acquire_timeout: Duration::from_millis(self.acquire_timeout_ms),
            operation_timeout: Duration::from_millis(self.operation_timeout_ms),
            lock_timeout: Duration::from_millis(self.lock_timeout_ms),
            migrate_timeout: Duration::from_millis(self.migrate_timeout_ms),
            idle_timeout: Duration::from_millis(self.idle_timeout_ms),
            reconnect_min: Duration::from_millis(self.reconnect_min_ms),
            reconnect_max: Duration::from_millis(self.reconnect_max_ms.max(self.reconnect_min_ms)),
            retries_max: self.retries_max,
        })
    }

    fn target(&self) -> Result<Target, OpenError> {
        let url = self.url.as_ref().map(Secret::reveal);
        let of_url = url.map(scheme).transpose()?;
        if let (Some(named), Some(of_url)) = (self.dialect, of_url)
            && named != of_url
        {
            return Err(OpenError::DialectMismatch);
        }
        let dialect = self.dialect.or(of_url).ok_or(OpenError::NoDatabase)?;
        if url.is_none() && (self.host.is_none() || self.database.is_none()) {
            return Err(OpenError::NoDatabase);
        }
        // Both clients have the same methods and no common trait.
        macro_rules! with_parts {
            ($options:ty, $new:expr) => {{
                let mut options = match url {
                    Some(url) => <$options>::from_str(url).map_err(|_| OpenError::Url)?,
                    None => $new,
                };
                if let Some(host) = &self.host {
                    options = options.host(host);
                }
                if let Some(port) = self.port {
                    options = options.port(port);
                }
                if let Some(user) = &self.user {
                    options = options.username(user);
                }
                if let Some(password) = &self.password {
                    options = options.password(password.reveal());
                }
                if let Some(database) = &self.database {
                    options = options.database(database);
                }
                if options.get_database().is_none() {
                    return Err(OpenError::NoDatabase);
                }
                options.statement_cache_capacity(STATEMENTS_KEPT)
            }};
        }
        Ok(match dialect {
            Dialect::Mysql => Target::Mysql(with_parts!(MySqlConnectOptions, MySqlConnectOptions::new())),
            Dialect::Postgres => Target::Postgres(
                with_parts!(PgConnectOptions, PgConnectOptions::new_without_pgpass()).application_name("sandpost"),
            ),
        })
    }
}

fn scheme(url: &str) -> Result<Dialect, OpenError> {
    match url.split_once("://") {
        Some(("mysql" | "mariadb", _)) => Ok(Dialect::Mysql),
        Some(("postgres" | "postgresql", _)) => Ok(Dialect::Postgres),
        _ => Err(OpenError::Url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Config {
        Config { url: Some(Secret::new(url)), ..Config::default() }
    }

    #[test]
    fn a_url_or_its_parts_say_where_it_is() {
        let Target::Mysql(options) = of("mysql://u:hunter2@h:3307/db").settings().unwrap().target else { panic!() };
        assert_eq!((options.get_host(), options.get_port(), options.get_database()), ("h", 3307, Some("db")));
        let parts = Config {
            dialect: Some(Dialect::Postgres),
            host: Some("h".to_owned()),
            user: Some("u".to_owned()),
            password: Some(Secret::new("hunter2")),
            database: Some("db".to_owned()),
            ..Config::default()
        };
        let Target::Postgres(options) = parts.settings().unwrap().target else { panic!() };
        assert_eq!((options.get_host(), options.get_username(), options.get_database()), ("h", "u", Some("db")));
        let above = Config { database: Some("other".to_owned()), port: Some(1), ..of("postgres://u@h:2/db") };
        let Target::Postgres(options) = above.settings().unwrap().target else { panic!() };
        assert_eq!((options.get_port(), options.get_database()), (1, Some("other")), "a part stands above the URL's");
    }

    #[test]
    fn what_cannot_work_is_refused_without_showing_a_secret() {
        #[track_caller]
        fn check(config: &Config, expected: &OpenError) {
            let error = config.settings().unwrap_err();
            assert_eq!(&error, expected);
            assert!(!format!("{error} {error:?} {config:?}").contains("hunter2"));
        }
        check(&Config::default(), &OpenError::NoDatabase);
        check(&of("hunter2"), &OpenError::Url);
        check(&of("redis://u:hunter2@h/db"), &OpenError::Url);
        check(&of("mysql://u:hunter2@h:port/db"), &OpenError::Url);
        check(&of("mysql://u:hunter2@h"), &OpenError::NoDatabase);
        check(&Config { dialect: Some(Dialect::Postgres), ..of("mysql://u@h/db") }, &OpenError::DialectMismatch);
        check(&Config { dialect: Some(Dialect::Postgres), ..Config::default() }, &OpenError::NoDatabase);
        for prefix in ["", "1a", "A_", "a-b", "a`b", &"a".repeat(33)] {
            check(&Config { table_prefix: prefix.to_owned(), ..of("mysql://u@h/db") }, &OpenError::TablePrefix);
        }
        check(&Config { pool_max_connections: 0, ..of("mysql://u@h/db") }, &OpenError::Zero("pool_max_connections"));
        check(&Config { lock_timeout_ms: 20_000, ..of("mysql://u@h/db") }, &OpenError::LockTimeout);
        assert!(serde_json::from_str::<Config>(r#"{"urll": "x"}"#).is_err());
        assert!(!serde_json::to_string(&of("mysql://u:hunter2@h/db")).unwrap().contains("hunter2"));
    }
}
