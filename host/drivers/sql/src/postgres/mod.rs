//! Postgres.
//!
//! The server says what type each parameter has by its place, and each value is sent as that type (`values`). A transaction ends
//! at its first error there; a savepoint before each statement makes it go on, as on the other databases.

mod errors;
mod numeric;
mod values;

use crate::config::{Address, Config, OpenError, Settings, Tls};
use crate::engine::{Engine, Outcome, Taking, same_count};
use crate::fault::{Fault, Meaning};
use crate::statement::{self, Checked, Dialect, Kind, Place};
use futures_util::TryStreamExt as _;
use sandpost_ports::PortError;
use sandpost_ports::sql::{Access, Column, Done, Rows, StatementLimits, Value};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Either, Executor as _, Row as _};
use sqlx::{SqlSafeStr as _, Statement as _, TypeInfo as _};
use std::str::FromStr as _;
use std::time::Duration;

const SCHEMES: &[&str] = &["postgres", "postgresql"];

/// Parameters of the address that the client library reads.
const UNDERSTOOD: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Statements of one connection that the server keeps prepared.
const STATEMENTS_KEPT: usize = 64;

/// How much longer than this host the server keeps a transaction that says nothing.
const IDLE_MARGIN: Duration = Duration::from_mins(1);

/// What a statement, or a function that it calls, could leave in a session: all of DISCARD ALL but the prepared statements, which
/// the client library counts on.
const TIDY: &str = "ROLLBACK; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; CLOSE ALL; UNLISTEN *; \
                    SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES; ";

pub(crate) struct Postgres {
    options: PgConnectOptions,
    /// What each session is told, at first and after `RESET ALL`.
    words: String,
}

pub(crate) struct Session {
    connection: PgConnection,
    id: Backend,
    words: String,
    /// Whether the open transaction has its savepoint.
    is_marked: bool,
}

/// A server process. Its number alone may be another's by now.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    pid: i32,
    started: String,
}

/// Runs this crate's own words.
async fn own(connection: &mut PgConnection, words: &str) -> Result<(), sqlx::Error> {
    connection.execute(sqlx::raw_sql(AssertSqlSafe(words.to_owned()))).await.map(drop)
}

fn options(address: &Address) -> Result<PgConnectOptions, OpenError> {
    let wrong = || OpenError::Url { key: address.key, scheme: SCHEMES[0] };
    let mut options = match &address.url {
        Some(url) => PgConnectOptions::from_str(url.reveal()).map_err(|_| wrong())?,
        None => PgConnectOptions::new_without_pgpass(),
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
            Tls::Disable => PgSslMode::Disable,
            Tls::Prefer => PgSslMode::Prefer,
            Tls::Require => PgSslMode::Require,
            Tls::VerifyCa => PgSslMode::VerifyCa,
            Tls::VerifyFull => PgSslMode::VerifyFull,
        });
    }
    if let Some(file) = &address.tls_ca_file {
        options = options.ssl_root_cert(file);
    }
    if options.get_database().is_none() {
        return Err(OpenError::NoDatabase);
    }
    if options.get_application_name().is_none() {
        options = options.application_name("sandpost");
    }
    // Statements are the plugins', with what they put in them.
    Ok(options.statement_cache_capacity(STATEMENTS_KEPT).disable_statement_logging())
}

fn session_words(address: &Address, settings: &Settings) -> String {
    let idle_ms = (settings.transaction_idle_max + IDLE_MARGIN).as_millis();
    let search = match &address.schema {
        Some(schema) => format!("; SET search_path = \"{}\"", schema.replace('"', "\"\"")),
        None => String::new(),
    };
    format!(
        "SET client_min_messages = error; SET timezone = 'UTC'; SET standard_conforming_strings = on; \
         SET idle_in_transaction_session_timeout = {idle_ms}{search}"
    )
}

impl Engine for Postgres {
    const WORD: &'static str = "postgres";
    const COMMITS_DEFINITIONS: bool = false;
    type Session = Session;
    type Id = Backend;

    fn settings(config: &Config) -> Result<Settings, OpenError> {
        config.settings(SCHEMES, UNDERSTOOD)
    }

    fn targets(settings: &Settings) -> Result<(Self, Option<Self>), OpenError> {
        let target =
            |address: &Address| Ok(Self { options: options(address)?, words: session_words(address, settings) });
        Ok((target(&settings.primary)?, settings.replica.as_ref().map(target).transpose()?))
    }

    async fn connect(&self) -> Result<Session, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        own(&mut connection, &self.words).await?;
        let row = connection
            .fetch_one("SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()")
            .await?;
        let id = Backend { pid: row.try_get_unchecked(0)?, started: row.try_get_unchecked(1)? };
        Ok(Session { connection, id, words: self.words.clone(), is_marked: false })
    }

    fn id(session: &Session) -> Backend {
        session.id.clone()
    }

    async fn ping(session: &mut Session) -> Result<(), sqlx::Error> {
        session.connection.ping().await
    }

    async fn kill(session: &mut Session, id: Backend) -> Result<(), sqlx::Error> {
        let words = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2::text::timestamptz";
        let query = sqlx::query(words).bind(id.pid).bind(id.started).persistent(false);
        session.connection.execute(query).await.map(drop)
    }

    async fn close(session: Session) {
        // One that does not hear it is closed all the same.
        drop(session.connection.close().await);
    }

    fn check(statement: &str, access: Access, place: Place) -> Result<Checked, PortError> {
        statement::check(statement, Dialect::Postgres, access, place)
    }

    async fn begin(session: &mut Session, access: Access, limit: Duration) -> Result<(), sqlx::Error> {
        session.is_marked = false;
        let begin = match access {
            Access::ReadOnly => "BEGIN READ ONLY",
            Access::ReadWrite => "BEGIN",
        };
        own(&mut session.connection, &format!("{begin}; {}", limit_words(limit))).await
    }

    async fn begin_alone(session: &mut Session, limit: Duration) -> Result<(), sqlx::Error> {
        Self::begin(session, Access::ReadWrite, limit).await
    }

    async fn mark(session: &mut Session, limit: Duration) -> Result<(), sqlx::Error> {
        let release = if session.is_marked { "RELEASE SAVEPOINT statement; " } else { "" };
        let words = format!("{release}SAVEPOINT statement; {}", limit_words(limit));
        own(&mut session.connection, &words).await?;
        session.is_marked = true;
        Ok(())
    }

    async fn undo(session: &mut Session) -> Result<(), sqlx::Error> {
        own(&mut session.connection, "ROLLBACK TO SAVEPOINT statement").await
    }

    async fn commit(session: &mut Session) -> Result<(), sqlx::Error> {
        own(&mut session.connection, "COMMIT").await
    }

    async fn tidy(session: &mut Session) -> Result<(), sqlx::Error> {
        session.is_marked = false;
        own(&mut session.connection, &format!("{TIDY}{}", session.words)).await
    }

    async fn run(
        session: &mut Session,
        checked: &Checked,
        parameters: &[Value],
        limits: StatementLimits,
        rows_wanted: bool,
    ) -> Result<Outcome, Fault> {
        let sql = || AssertSqlSafe(checked.text.clone());
        let prepared = session.connection.prepare(sql().into_sql_str()).await?;
        let types = match prepared.parameters() {
            Some(Either::Left(types)) => types,
            _ => &[],
        };
        same_count(types.len(), parameters.len())?;
        let arguments = values::arguments(parameters, types).map_err(Fault::Refused)?;
        let columns: Vec<Column> = prepared
            .columns()
            .iter()
            .map(|column| Column { name: column.name().to_owned(), kind: column.type_info().name().to_owned() })
            .collect();
        let plans: Vec<values::Plan> = prepared
            .columns()
            .iter()
            .filter(|_| rows_wanted)
            .map(|column| values::Plan::of(column.type_info(), column.name()))
            .collect::<Result<_, _>>()
            .map_err(Fault::Refused)?;
        let mut taking = Taking::new(limits);
        let mut done = Done::default();
        let mut stream = session.connection.fetch_many(sqlx::query_with(sql(), arguments));
        while let Some(step) = stream.try_next().await? {
            match step {
                // The server counts the rows of an answer too.
                Either::Left(_) if checked.kind == Kind::Read && !columns.is_empty() => {}
                Either::Left(result) => done.affected = done.affected.saturating_add(result.rows_affected()),
                Either::Right(row) if rows_wanted => {
                    taking.take(plans.iter().enumerate().map(|(at, plan)| values::read(&row, at, *plan)))?;
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

fn limit_words(limit: Duration) -> String {
    // 0 would be without end.
    format!("SET LOCAL statement_timeout = {}", limit.as_millis().max(1))
}
