//! Bringing the tables up to date: one host at a time, by a lock that the database holds for its connection.
//!
//! Where they are up to date nothing is locked and nothing written, so that an account without the right to make tables is
//! enough from then on. Tables of a newer program are left alone.

use crate::config::Dialect;
use crate::engine::{Connected as _, Lease};
use crate::schema::{APPLIED, MIGRATIONS};
use crate::trouble::{Cause, Trouble};
use sandpost_ports::{ErrorKind, PortError};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySql, MySqlConnection, PgConnection, Pool, Postgres};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const NEWER: &str = "the state's tables are of a newer program";

/// Why the tables are not up to date.
#[derive(Debug)]
pub(crate) enum Failed {
    /// They have seen more migrations than this program knows: how many.
    Newer(i64),
    /// Another host held the lock for all of the time.
    Locked,
    Trouble(Trouble),
}

impl Failed {
    /// For the log and for callers.
    pub(crate) fn into_error(self) -> PortError {
        match self {
            Self::Newer(found) => PortError::new(ErrorKind::Other, NEWER)
                .because(format!("the tables have seen migration {found}, this program knows {}", latest())),
            Self::Locked => PortError::new(ErrorKind::Unavailable, "another host brings the state's tables up to date"),
            // Nothing of the state's is in doubt here, whatever became of a statement that can be run again.
            Self::Trouble(trouble) => Trouble { in_doubt: false, ..trouble }.into_error(),
        }
    }
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Trouble(Trouble { cause: Cause::Work(error), in_doubt: false })
    }
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

fn latest() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Whether there is nothing to do, by the number of migrations that were seen.
fn is_done(seen: i64) -> Result<bool, Failed> {
    if seen > latest() { Err(Failed::Newer(seen)) } else { Ok(seen == latest()) }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

fn select_seen(prefix: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("SELECT COALESCE(MAX(number), 0) FROM {prefix}{}", APPLIED.name))
}

/// The statements of the migrations after `seen`, each migration's with its number.
fn pending(seen: i64, dialect: Dialect, prefix: &str) -> impl Iterator<Item = (i64, Vec<String>)> {
    (1_i64..).zip(MIGRATIONS).filter(move |(number, _)| *number > seen).map(move |(number, tables)| {
        (number, tables.iter().flat_map(|table| table.statements(dialect, prefix)).collect())
    })
}

fn insert_applied(number: i64, prefix: &str) -> AssertSqlSafe<String> {
    let table = APPLIED.name;
    AssertSqlSafe(format!("INSERT INTO {prefix}{table} (number, applied_at_ms) VALUES ({number}, {})", now_ms()))
}

/// Within the time, or not.
async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    match tokio::time::timeout(limit, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failed::Trouble(Trouble { cause: Cause::Timeout, in_doubt: false })),
    }
}

/// Makes MySQL's tables. It commits each statement by itself; all of them can be run again.
pub(crate) async fn mysql(pool: &Pool<MySql>, prefix: &str, limit: Duration) -> Result<(), Failed> {
    let mut lease = Lease::take(pool).await?;
    within(limit, mysql_on(lease.connection()?, prefix, limit)).await?;
    lease.give_back();
    Ok(())
}

async fn mysql_on(connection: &mut MySqlConnection, prefix: &str, limit: Duration) -> Result<(), Failed> {
    match sqlx::query_scalar::<_, i64>(select_seen(prefix)).fetch_one(&mut *connection).await {
        Ok(seen) if is_done(seen)? => return Ok(()),
        Ok(_) => {}
        Err(error) => no_table(error)?,
    }
    // Locks are the server's, whatever the database; its name is in the lock's. A lost connection lets go of it.
    let locked: Option<i64> = sqlx::query_scalar("SELECT GET_LOCK(SHA1(CONCAT(DATABASE(), '/', ?)), ?)")
        .bind(prefix)
        .bind(i64::try_from(limit.as_secs().max(1)).unwrap_or(i64::MAX))
        .fetch_one(&mut *connection)
        .await?;
    if locked != Some(1) {
        return Err(Failed::Locked);
    }
    for sql in APPLIED.statements(Dialect::Mysql, prefix) {
        connection.execute(AssertSqlSafe(sql)).await?;
    }
    let seen = sqlx::query_scalar::<_, i64>(select_seen(prefix)).fetch_one(&mut *connection).await?;
    if !is_done(seen)? {
        for (number, statements) in pending(seen, Dialect::Mysql, prefix) {
            for sql in statements {
                connection.execute(AssertSqlSafe(sql)).await?;
            }
            connection.execute(insert_applied(number, prefix)).await?;
            tracing::info!(target: "sandpost_shared_state", number, "migration applied");
        }
    }
    sqlx::query("SELECT RELEASE_LOCK(SHA1(CONCAT(DATABASE(), '/', ?)))").bind(prefix).execute(connection).await?;
    Ok(())
}

/// Makes Postgres' tables, all in one transaction.
pub(crate) async fn postgres(pool: &Pool<Postgres>, prefix: &str, limit: Duration) -> Result<(), Failed> {
    let mut lease = Lease::take(pool).await?;
    within(limit, postgres_on(lease.connection()?, prefix, limit)).await?;
    lease.give_back();
    Ok(())
}

async fn postgres_on(connection: &mut PgConnection, prefix: &str, limit: Duration) -> Result<(), Failed> {
    match sqlx::query_scalar::<_, i64>(select_seen(prefix)).fetch_one(&mut *connection).await {
        Ok(seen) if is_done(seen)? => return Ok(()),
        Ok(_) => {}
        Err(error) => no_table(error)?,
    }
    let mut transaction = connection.begin().await?;
    let limit_ms = limit.as_millis();
    let longer = format!("SET LOCAL lock_timeout = {limit_ms}; SET LOCAL statement_timeout = {limit_ms}");
    (&mut *transaction).execute(sqlx::raw_sql(AssertSqlSafe(longer))).await?;
    // Held until the transaction ends, whichever way.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || '/' || $1, 0))")
        .bind(prefix)
        .execute(&mut *transaction)
        .await?;
    for sql in APPLIED.statements(Dialect::Postgres, prefix) {
        (&mut *transaction).execute(AssertSqlSafe(sql)).await?;
    }
    let seen = sqlx::query_scalar::<_, i64>(select_seen(prefix)).fetch_one(&mut *transaction).await?;
    if !is_done(seen)? {
        for (number, statements) in pending(seen, Dialect::Postgres, prefix) {
            for sql in statements {
                (&mut *transaction).execute(AssertSqlSafe(sql)).await?;
            }
            (&mut *transaction).execute(insert_applied(number, prefix)).await?;
            tracing::info!(target: "sandpost_shared_state", number, "migration applied");
        }
    }
    transaction.commit().await?;
    Ok(())
}

/// No table yet is nothing seen; anything else is an error.
fn no_table(error: sqlx::Error) -> Result<(), Failed> {
    let trouble = Trouble { cause: Cause::Work(error), in_doubt: false };
    if trouble.is_no_table() { Ok(()) } else { Err(trouble.into()) }
}
