//! The port itself: which connection a call takes, and transactions across calls.
//!
//! Reads go to the read-only connections, also those of a caller who may write, so that they do not wait for somebody
//! else's transaction; what writes goes to the one writer, one after the other.

use crate::config::{Config, OpenError, READERS_MAX};
use crate::statement::{self, Around, Outcome, Request};
use crate::worker::{GiveUpOnDrop, Jobs, Pool, Session, TransactionBounds, TransactionState};
use crate::{authorizer, errors, worker};
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};
use sandpost_ports::health::{Health, PoolUse};
use sandpost_ports::sql::{Access, Done, Rows, Sql, StatementLimits, Transaction, Value};
use sandpost_ports::{ErrorKind, PortError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;

/// Marks a database whose init file has been run ("Sand" in ASCII), in the header field made for that.
const APPLICATION_ID: i32 = 0x5361_6e64;

/// Longest statement, 1 000 000 bytes as SQLite has it by default; written down because it is a bound that we rely on.
const STATEMENT_MAX_BYTES: i32 = 1_000_000;

/// Largest single value or row: 64 MiB. SQLite's own bound is 1 GB, which is more than a host wants in memory for one.
const VALUE_MAX_BYTES: i32 = 64 << 20;

/// Pages of SQLite's default size, by which [`Config::size_max_bytes`] is counted.
const PAGE_BYTES: u64 = 4_096;

/// A SQLite database.
pub struct SqliteSql {
    writer: Arc<Pool>,
    readers: Arc<Pool>,
    transactions: TransactionBounds,
}

/// Opens the database, creates it where it is not there, and runs the init file where it is new.
///
/// Blocks for as long as the disk does; meant for the start of the program.
pub fn open(config: &Config) -> Result<Arc<SqliteSql>, OpenError> {
    let in_range = |key, value: u64, min: u64, max: u64| {
        if (min..=max).contains(&value) { Ok(()) } else { Err(OpenError::OutOfRange { key, value, min, max }) }
    };
    in_range("readers", config.readers as u64, 1, READERS_MAX as u64)?;
    in_range("wait_max_ms", config.wait_max_ms, 0, 3_600_000)?;
    in_range("transaction_idle_max_ms", config.transaction_idle_max_ms, 1, 3_600_000)?;
    in_range("transaction_max_ms", config.transaction_max_ms, 1, 3_600_000)?;
    in_range("size_max_bytes", config.size_max_bytes, 1 << 20, 1 << 46)?;

    let (path, folder) = if let Some(path) = &config.path {
        (path.clone(), None)
    } else {
        let folder = tempfile::Builder::new().prefix("sandpost-sql-").tempdir().map_err(OpenError::Temporary)?;
        (folder.path().join("database.sqlite"), Some(Arc::new(folder)))
    };
    let failed = |source| OpenError::Database { path: path.clone(), source };
    let wait_max = Duration::from_millis(config.wait_max_ms);

    let writing = writer(&path, config, folder.is_some()).map_err(failed)?;
    if let Some(init_file) = &config.init_file {
        initialise(&writing, init_file, failed)?;
    }
    let thread = |connection: Connection, name: &str, folder: Option<Arc<TempDir>>| -> Result<Jobs, OpenError> {
        let verdicts = authorizer::install(&connection).map_err(failed)?;
        worker::start(name, connection, verdicts, folder).map_err(OpenError::Thread)
    };
    let writer = thread(writing, "sql-writer", folder.clone())?;
    let readers = (0..config.readers)
        .map(|_| thread(reader(&path, config).map_err(failed)?, "sql-reader", folder.clone()))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(SqliteSql {
        writer: Pool::new(vec![writer], wait_max),
        readers: Pool::new(readers, wait_max),
        transactions: TransactionBounds {
            idle_max: Duration::from_millis(config.transaction_idle_max_ms),
            whole_max: Duration::from_millis(config.transaction_max_ms),
        },
    }))
}

fn writer(path: &Path, config: &Config, is_temporary: bool) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    set_up(&connection, config)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // A commit is on the disk when it is answered; what dies with the program need not be.
    connection.pragma_update(None, "synchronous", if is_temporary { "off" } else { "full" })?;
    connection.pragma_update(
        None,
        "max_page_count",
        i64::try_from(config.size_max_bytes / PAGE_BYTES).unwrap_or(i64::MAX),
    )?;
    Ok(connection)
}

fn reader(path: &Path, config: &Config) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    set_up(&connection, config)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn set_up(connection: &Connection, config: &Config) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_millis(config.wait_max_ms))?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // A misspelt column in double quotes is an error, not a text.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, STATEMENT_MAX_BYTES)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_MAX_BYTES)?;
    connection.pragma_update(None, "foreign_keys", true)
}

/// Runs the init file in one transaction with the mark that says so: a crash half-way leaves a new database.
fn initialise(
    connection: &Connection,
    init_file: &PathBuf,
    failed: impl Fn(rusqlite::Error) -> OpenError,
) -> Result<(), OpenError> {
    let read = |statement| connection.query_row(statement, [], |row| row.get::<_, i64>(0));
    let objects = read("SELECT count(*) FROM sqlite_schema").map_err(&failed)?;
    let mark = read("PRAGMA application_id").map_err(&failed)?;
    if objects > 0 || mark == i64::from(APPLICATION_ID) {
        return Ok(());
    }
    let script =
        std::fs::read_to_string(init_file).map_err(|source| OpenError::InitFile { path: init_file.clone(), source })?;
    let failed_in_script = |source| OpenError::Init { path: init_file.clone(), source };
    let transaction = connection.unchecked_transaction().map_err(&failed)?;
    transaction.execute_batch(&script).map_err(failed_in_script)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed_in_script)?;
    transaction.commit().map_err(failed_in_script)
}

impl SqliteSql {
    /// Runs several statements, all of them or none: sample data for trials. What the authorizer refuses to a plugin it
    /// refuses here too.
    pub async fn execute_script(&self, script: &str) -> Result<(), PortError> {
        let script = script.to_owned();
        self.call(&self.writer, move |session, _| {
            let Session { connection, verdicts, .. } = session;
            let failed = |error| errors::of_statement(error, verdicts);
            statement::own(connection, verdicts, "BEGIN IMMEDIATE").map_err(failed)?;
            verdicts.reset();
            let done = connection.execute_batch(&script).map_err(failed);
            let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
            if !connection.is_autocommit() {
                statement::own(connection, verdicts, end).map_err(|error| errors::of_commit(error, verdicts))?;
            }
            done
        })
        .await
    }

    /// Runs `work` on a connection of the pool, alone.
    async fn call<T: Send + 'static>(
        &self,
        pool: &Arc<Pool>,
        work: impl FnOnce(&mut Session, Arc<AtomicBool>) -> Result<T, PortError> + Send + 'static,
    ) -> Result<T, PortError> {
        let lease = pool.lease().await?;
        let jobs = lease.jobs();
        send(&jobs, move |session, given_up| {
            let result = work(session, given_up);
            drop(lease);
            result
        })
        .await
    }

    async fn run(
        &self,
        access: Access,
        statement: &str,
        parameters: Vec<Value>,
        limits: StatementLimits,
        rows_wanted: bool,
    ) -> Result<Outcome, PortError> {
        let statement = statement.to_owned();
        let request = move |given_up| Request { statement, parameters, limits, rows_wanted, given_up };
        match access {
            Access::ReadOnly => {
                self.call(&self.readers, move |session, given_up| {
                    statement::read(&session.connection, &session.verdicts, request(given_up))
                })
                .await
            }
            Access::ReadWrite if rows_wanted => {
                let tried = self
                    .call(&self.readers, move |session, given_up| {
                        statement::read_or_return(&session.connection, &session.verdicts, request(given_up))
                    })
                    .await?;
                match tried {
                    Ok(outcome) => Ok(outcome),
                    Err(request) => self.write(move |given_up| Request { given_up, ..request }).await,
                }
            }
            Access::ReadWrite => self.write(request).await,
        }
    }

    async fn write(
        &self,
        request: impl FnOnce(Arc<AtomicBool>) -> Request + Send + 'static,
    ) -> Result<Outcome, PortError> {
        self.call(&self.writer, move |session, given_up| {
            statement::write(&session.connection, &session.verdicts, request(given_up), Around::Nothing)
        })
        .await
    }
}

#[async_trait::async_trait]
impl Sql for SqliteSql {
    async fn query(
        &self,
        access: Access,
        statement: &str,
        parameters: Vec<Value>,
        limits: StatementLimits,
    ) -> Result<Rows, PortError> {
        Ok(self.run(access, statement, parameters, limits, true).await?.rows)
    }

    async fn execute(
        &self,
        access: Access,
        statement: &str,
        parameters: Vec<Value>,
        limits: StatementLimits,
    ) -> Result<Done, PortError> {
        Ok(self.run(access, statement, parameters, limits, false).await?.done)
    }

    async fn begin(&self, access: Access) -> Result<Box<dyn Transaction>, PortError> {
        let (pool, begin) = match access {
            Access::ReadOnly => (&self.readers, "BEGIN"),
            Access::ReadWrite => (&self.writer, "BEGIN IMMEDIATE"),
        };
        let lease = pool.lease().await?;
        let jobs = lease.jobs();
        let bounds = self.transactions;
        // Made before it is sent: wherever the answer is dropped, the transaction is.
        let begun = SqliteTransaction { jobs: jobs.clone(), state: Arc::default(), access };
        send(&jobs, move |session, _| {
            statement::own(&session.connection, &session.verdicts, begin)
                .map_err(|error| errors::of_statement(error, &session.verdicts))?;
            session.hold(Arc::clone(&begun.state), bounds, lease);
            Ok(Box::new(begun) as Box<dyn Transaction>)
        })
        .await
    }
}

#[async_trait::async_trait]
impl Health for SqliteSql {
    async fn check(&self) -> Result<(), PortError> {
        self.call(&self.readers, |session, _| {
            session
                .connection
                .query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
                .map_err(|error| errors::of_statement(error, &session.verdicts))
        })
        .await
    }

    /// The readers and the writer, together.
    fn pool(&self) -> Option<PoolUse> {
        let [(readers, readers_free), (writers, writers_free)] = [self.readers.size(), self.writer.size()];
        let (max, idle) = ((readers + writers) as u64, (readers_free + writers_free) as u64);
        Some(PoolUse { in_use: max.saturating_sub(idle), idle, max })
    }
}

/// A transaction that lies at a connection's thread; this is the caller's end of it.
struct SqliteTransaction {
    jobs: Jobs,
    state: Arc<TransactionState>,
    access: Access,
}

impl SqliteTransaction {
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session, Arc<AtomicBool>) -> Result<T, PortError> + Send + 'static,
    ) -> Result<T, PortError> {
        let state = Arc::clone(&self.state);
        send(&self.jobs, move |session, given_up| {
            if session.holds(&state) {
                return work(session, given_up);
            }
            let why = state.ended.get().unwrap_or(&"it has ended");
            Err(PortError::new(ErrorKind::Unavailable, format!("the transaction is not open any more: {why}")))
        })
        .await
    }

    async fn run(
        &self,
        statement: &str,
        parameters: Vec<Value>,
        limits: StatementLimits,
        rows_wanted: bool,
    ) -> Result<Outcome, PortError> {
        let (statement, access) = (statement.to_owned(), self.access);
        self.call(move |session, given_up| {
            let request = Request { statement, parameters, limits, rows_wanted, given_up };
            match access {
                Access::ReadOnly => statement::read(&session.connection, &session.verdicts, request),
                Access::ReadWrite => {
                    statement::write(&session.connection, &session.verdicts, request, Around::Transaction)
                }
            }
        })
        .await
    }
}

#[async_trait::async_trait]
impl Transaction for SqliteTransaction {
    async fn query(
        &mut self,
        statement: &str,
        parameters: Vec<Value>,
        limits: StatementLimits,
    ) -> Result<Rows, PortError> {
        Ok(self.run(statement, parameters, limits, true).await?.rows)
    }

    async fn execute(
        &mut self,
        statement: &str,
        parameters: Vec<Value>,
        limits: StatementLimits,
    ) -> Result<Done, PortError> {
        Ok(self.run(statement, parameters, limits, false).await?.done)
    }

    async fn commit(self: Box<Self>) -> Result<(), PortError> {
        self.call(|session, _| {
            let committed = statement::own(&session.connection, &session.verdicts, "COMMIT")
                .map_err(|error| errors::of_commit(error, &session.verdicts));
            session.release(if committed.is_ok() { "it was committed" } else { "its commit failed" });
            committed
        })
        .await
    }

    async fn rollback(self: Box<Self>) -> Result<(), PortError> {
        self.call(|session, _| {
            session.release("it was rolled back");
            Ok(())
        })
        .await
    }
}

impl Drop for SqliteTransaction {
    fn drop(&mut self) {
        self.state.abandoned.store(true, Ordering::Release);
        // Wakes the thread, which looks at the flag. A full queue wakes it too.
        self.jobs.try_send(Box::new(|_| ())).ok();
    }
}

/// Runs `work` on the connection's thread. Dropped before it began, it does not begin.
async fn send<T: Send + 'static>(
    jobs: &Jobs,
    work: impl FnOnce(&mut Session, Arc<AtomicBool>) -> Result<T, PortError> + Send + 'static,
) -> Result<T, PortError> {
    let waiting = GiveUpOnDrop::default();
    let given_up = Arc::clone(&waiting.0);
    let (reply, answer) = oneshot::channel();
    let job = move |session: &mut Session| {
        if !given_up.load(Ordering::Relaxed) {
            // Nobody waits any more: the answer, and a transaction in it, is dropped here.
            reply.send(work(session, given_up)).ok();
        }
    };
    jobs.try_send(Box::new(job)).map_err(|_| {
        PortError::new(ErrorKind::Unavailable, "the database connection does not take more work; nothing has been done")
    })?;
    answer.await.map_err(|_| PortError::new(ErrorKind::UnknownOutcome, "the database connection has ended"))?
}
