//! MySQL and MariaDB.
//!
//! What they differ in from the port, and each other: a statement's time is `max_execution_time` on MySQL, which ends reading
//! statements alone, and `max_statement_time` on MariaDB, which ends all; whatever else takes too long is ended over another
//! connection. What defines tables commits by itself. Tables must be of an engine with transactions (`InnoDB`).

mod errors;
mod values;

use crate::config::{Address, Config, OpenError, Settings, Tls};
use crate::engine::{Engine, Outcome, Taking, same_count};
use crate::fault::{Fault, Meaning};
use crate::statement::{self, Checked, Dialect, Kind, Place};
use futures_util::TryStreamExt as _;
use sandpost_ports::PortError;
use sandpost_ports::sql::{Access, Column, Done, Rows, StatementLimits, Value};
use sqlx::mysql::{MySqlColumn, MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::{AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Either, Executor as _, Row as _};
use sqlx::{SqlSafeStr as _, Statement as _};
use std::str::FromStr as _;
use std::time::Duration;

const SCHEMES: &[&str] = &["mysql", "mariadb"];

/// Parameters of the address that the client library reads.
const UNDERSTOOD: &[&str] =
    &["sslmode", "ssl-mode", "sslca", "ssl-ca", "sslcert", "ssl-cert", "sslkey", "ssl-key", "socket"];

/// What the server is to be strict about. Set whole, because some modes change how a statement is read (`ANSI_QUOTES`,
/// `NO_BACKSLASH_ESCAPES`), and `statement` reads it without them.
const SQL_MODE: &str = "STRICT_TRANS_TABLES,STRICT_ALL_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION";

/// Statements of one connection that the server keeps prepared.
const STATEMENTS_KEPT: usize = 64;

/// How much longer than this host the server keeps a connection that says nothing.
const IDLE_MARGIN: Duration = Duration::from_mins(1);

pub(crate) struct Mysql {
    options: MySqlConnectOptions,
    /// After which the server ends a connection by itself.
    wait: Duration,
    /// The same within a transaction, on MariaDB.
    transaction_wait: Duration,
}

pub(crate) struct Session {
    connection: MySqlConnection,
    id: u64,
    is_mariadb: bool,
    /// What the session was told last.
    limit: Option<Duration>,
}

impl Session {
    /// The words that tell the session another time, or none.
    fn limit_words(&self, limit: Duration) -> String {
        if self.limit == Some(limit) {
            return String::new();
        }
        // 0 would be without end.
        let limit_ms = limit.as_millis().max(1);
        if self.is_mariadb {
            format!("SET SESSION max_statement_time = {}.{:03}; ", limit_ms / 1_000, limit_ms % 1_000)
        } else {
            format!("SET SESSION max_execution_time = {limit_ms}; ")
        }
    }

    async fn tell(&mut self, limit: Duration, words: &str) -> Result<(), sqlx::Error> {
        let words = format!("{}{words}", self.limit_words(limit));
        if words.is_empty() {
            return Ok(());
        }
        // Until it is known to be heard.
        self.limit = None;
        own(&mut self.connection, &words).await?;
        self.limit = Some(limit);
        Ok(())
    }
}

/// Runs this crate's own words.
async fn own(connection: &mut MySqlConnection, words: &str) -> Result<(), sqlx::Error> {
    connection.execute(sqlx::raw_sql(AssertSqlSafe(words.to_owned()))).await.map(drop)
}

fn options(address: &Address) -> Result<MySqlConnectOptions, OpenError> {
    let wrong = || OpenError::Url { key: address.key, scheme: SCHEMES[0] };
    let mut options = match &address.url {
        Some(url) => MySqlConnectOptions::from_str(url.reveal()).map_err(|_| wrong())?,
        None => MySqlConnectOptions::new(),
    };
    if let Some(host) = &address.host {
        options = options.host(host);
    }
    if let Some(port) = address.port {
        options = options.port(port);
    }
    if let Some(user) = &address.user {
        options = options.username(user);
    }
    if let Some(password) = &address.password {
        options = options.password(password.reveal());
    }
    if let Some(database) = &address.database {
        options = options.database(database);
    }
    if let Some(tls) = address.tls {
        options = options.ssl_mode(match tls {
            Tls::Disable => MySqlSslMode::Disabled,
            Tls::Prefer => MySqlSslMode::Preferred,
            Tls::Require => MySqlSslMode::Required,
            Tls::VerifyCa => MySqlSslMode::VerifyCa,
            Tls::VerifyFull => MySqlSslMode::VerifyIdentity,
        });
    }
    if let Some(file) = &address.tls_ca_file {
        options = options.ssl_ca(file);
    }
    if options.get_database().is_none() {
        return Err(OpenError::NoDatabase);
    }
    Ok(options
        .charset("utf8mb4")
        .timezone(Some("+00:00".to_owned()))
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .statement_cache_capacity(STATEMENTS_KEPT)
        // Statements are the plugins', with what they put in them.
        .disable_statement_logging())
}

impl Engine for Mysql {
    const WORD: &'static str = "mysql";
    const COMMITS_DEFINITIONS: bool = true;
    type Session = Session;
    type Id = u64;

    fn settings(config: &Config) -> Result<Settings, OpenError> {
        config.settings(SCHEMES, UNDERSTOOD)
    }

    fn targets(settings: &Settings) -> Result<(Self, Option<Self>), OpenError> {
        let target = |address: &Address| {
            let longest = settings.idle_timeout.max(settings.transaction_max);
            Ok(Self {
                options: options(address)?,
                wait: longest + IDLE_MARGIN,
                transaction_wait: settings.transaction_max + IDLE_MARGIN,
            })
        };
        Ok((target(&settings.primary)?, settings.replica.as_ref().map(target).transpose()?))
    }

    async fn connect(&self) -> Result<Session, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        let row = connection.fetch_one("SELECT CONNECTION_ID(), VERSION()").await?;
        let (id, version): (u64, String) = (row.try_get_unchecked(0)?, row.try_get_unchecked(1)?);
        let is_mariadb = version.to_ascii_lowercase().contains("mariadb");
        let of_transactions = if is_mariadb {
            format!(", idle_transaction_timeout = {}", self.transaction_wait.as_secs())
        } else {
            String::new()
        };
        let wait_s = self.wait.as_secs();
        let words = format!("SET SESSION sql_mode = '{SQL_MODE}', wait_timeout = {wait_s}{of_transactions}");
        own(&mut connection, &words).await?;
        Ok(Session { connection, id, is_mariadb, limit: None })
    }

    fn id(session: &Session) -> u64 {
        session.id
    }

    async fn ping(session: &mut Session) -> Result<(), sqlx::Error> {
        session.connection.ping().await
    }

    async fn kill(session: &mut Session, id: u64) -> Result<(), sqlx::Error> {
        match own(&mut session.connection, &format!("KILL {id}")).await {
            // There is no such connection any more.
            Err(sqlx::Error::Database(error)) if errors::number(&*error) == Some(errors::NO_SUCH_THREAD) => Ok(()),
            done => done,
        }
    }

    async fn close(session: Session) {
        // One that does not hear it is closed all the same.
        drop(session.connection.close().await);
    }

    fn check(statement: &str, access: Access, place: Place) -> Result<Checked, PortError> {
        statement::check(statement, Dialect::Mysql, access, place)
    }

    async fn begin(session: &mut Session, access: Access, limit: Duration) -> Result<(), sqlx::Error> {
        let words = match access {
            Access::ReadOnly => "START TRANSACTION READ ONLY",
            Access::ReadWrite => "START TRANSACTION READ WRITE",
        };
        session.tell(limit, words).await
    }

    async fn begin_alone(session: &mut Session, limit: Duration) -> Result<(), sqlx::Error> {
        session.tell(limit, "").await
    }

    async fn mark(session: &mut Session, limit: Duration) -> Result<(), sqlx::Error> {
        // Replaces the one of the statement before.
        session.tell(limit, "SAVEPOINT statement").await
    }

    async fn undo(session: &mut Session) -> Result<(), sqlx::Error> {
        own(&mut session.connection, "ROLLBACK TO SAVEPOINT statement").await
    }

    async fn commit(session: &mut Session) -> Result<(), sqlx::Error> {
        own(&mut session.connection, "COMMIT").await
    }

    async fn tidy(session: &mut Session) -> Result<(), sqlx::Error> {
        // No statement that `check` lets through leaves anything else behind.
        own(&mut session.connection, "ROLLBACK").await
    }

    async fn run(
        session: &mut Session,
        checked: &Checked,
        parameters: &[Value],
        limits: StatementLimits,
        rows_wanted: bool,
    ) -> Result<Outcome, Fault> {
        let is_mariadb = session.is_mariadb;
        let sql = || AssertSqlSafe(checked.text.clone());
        let prepared = session.connection.prepare(sql().into_sql_str()).await?;
        // The client library would lose its place on a connection where they are not the same.
        let placeholders = match prepared.parameters() {
            Some(Either::Right(count)) => count,
            _ => 0,
        };
        same_count(placeholders, parameters.len())?;
        let arguments = values::arguments(parameters)?;
        let mut columns = columns(prepared.columns());
        let mut plan: Option<Vec<values::Plan>> = None;
        let mut taking = Taking::new(limits);
        let mut done = Done::default();
        let mut stream = session.connection.fetch_many(sqlx::query_with(sql(), arguments));
        while let Some(step) = stream.try_next().await? {
            match step {
                Either::Left(result) => {
                    done.affected = done.affected.saturating_add(result.rows_affected());
                    // Of several new rows the server tells the first one's key, and the port wants the last one's.
                    let key = Some(result.last_insert_id()).filter(|key| *key != 0 && result.rows_affected() == 1);
                    done.last_insert_id = key.filter(|_| checked.kind == Kind::Write).or(done.last_insert_id);
                }
                Either::Right(row) if rows_wanted => {
                    let plan = plan.get_or_insert_with(|| {
                        // After the values were bound the server knows more of them.
                        columns = self::columns(row.columns());
                        row.columns().iter().map(|column| values::Plan::of(column.type_info(), is_mariadb)).collect()
                    });
                    taking.take((0..plan.len()).map(|at| values::read(&row, at, plan[at])))?;
                }
                Either::Right(_) => {}
            }
        }
        drop(stream);
        let rows = if rows_wanted { Rows { columns, rows: taking.rows } } else { Rows::default() };
        Ok(Outcome { rows, done })
    }

    async fn forget(session: &mut Session) -> Result<(), sqlx::Error> {
        session.connection.clear_cached_statements().await
    }

    fn meaning(error: &dyn sqlx::error::DatabaseError) -> Meaning {
        errors::meaning(error)
    }
}

fn columns(of: &[MySqlColumn]) -> Vec<Column> {
    of.iter()
        .map(|column| Column { name: column.name().to_owned(), kind: values::kind(column.type_info()).to_owned() })
        .collect()
}
