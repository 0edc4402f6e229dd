//! Running statements on each of the two databases: the same code, over two sets of types that have no common trait.

use crate::statement::{Row, Statement, Value};
use crate::trouble::{Cause, Trouble};
use sqlx::pool::PoolConnection;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What is to be done over one connection.
#[derive(Debug)]
pub(crate) enum Work {
    Read(Statement),
    /// Committed by itself.
    Write(Statement),
    /// All of them or none.
    Transaction(Vec<Statement>),
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Done {
    /// Rows that the last statement touched. On MySQL too these are the rows that it found, changed or not.
    pub(crate) affected: u64,
    pub(crate) rows: Vec<Row>,
}

/// A connection for one piece of work. It goes back to the pool only by [`Lease::give_back`]: one that is dropped in the
/// middle, because the work failed, took too long or was given up by its caller, is closed, and the database ends what it
/// was at.
pub(crate) struct Lease<DB: sqlx::Database>(Option<PoolConnection<DB>>);

impl<DB: sqlx::Database> Lease<DB> {
    pub(crate) async fn take(pool: &sqlx::Pool<DB>) -> Result<Self, Trouble> {
        match pool.acquire().await {
            Ok(connection) => Ok(Self(Some(connection))),
            Err(error) => Err(Trouble { cause: Cause::Connect(error), in_doubt: false }),
        }
    }

    pub(crate) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl<DB: sqlx::Database> Drop for Lease<DB> {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// Which connection a lease is on: of the two databases, its own.
pub(crate) trait Connected {
    type Connection;
    fn connection(&mut self) -> Result<&mut Self::Connection, Trouble>;
}

impl<DB: sqlx::Database> Connected for Lease<DB> {
    type Connection = DB::Connection;

    fn connection(&mut self) -> Result<&mut DB::Connection, Trouble> {
        match &mut self.0 {
            Some(connection) => Ok(&mut **connection),
            None => Err(Trouble { cause: Cause::Connect(sqlx::Error::PoolClosed), in_doubt: false }),
        }
    }
}

macro_rules! engine {
    ($name:ident, $database:ty, $row:path) => {
        pub(crate) mod $name {
            use super::{AtomicBool, Cause, Connected as _, Done, Duration, Lease, Ordering, Statement, Trouble};
            use super::{Value, Work};
            use sqlx::query::Query;
            use sqlx::{AssertSqlSafe, Connection as _, Database};

            type Connection = <$database as Database>::Connection;

            /// Does the work in bounded time.
            pub(crate) async fn attempt(
                pool: &sqlx::Pool<$database>,
                work: &Work,
                limit: Duration,
            ) -> Result<Done, Trouble> {
                let mut lease = Lease::take(pool).await?;
                // Whether a write, or a commit, is on its way.
                let in_doubt = AtomicBool::new(false);
                let connection = lease.connection()?;
                match tokio::time::timeout(limit, run(connection, work, &in_doubt)).await {
                    Ok(Ok(done)) => {
                        lease.give_back();
                        Ok(done)
                    }
                    Ok(Err(error)) => {
                        let trouble = Trouble { cause: Cause::Work(error), in_doubt: in_doubt.load(Ordering::Relaxed) };
                        // A connection on which the database said no is as good as before; the transaction, if there was
                        // one, is rolled back on its way to the pool.
                        if !trouble.is_loss() {
                            lease.give_back();
                        }
                        Err(trouble)
                    }
                    Err(_) => Err(Trouble { cause: Cause::Timeout, in_doubt: in_doubt.load(Ordering::Relaxed) }),
                }
            }

            async fn run(connection: &mut Connection, work: &Work, in_doubt: &AtomicBool) -> Result<Done, sqlx::Error> {
                match work {
                    Work::Read(statement) => {
                        let rows = bound(statement).fetch_all(&mut *connection).await?;
                        Ok(Done { affected: 0, rows: rows.into_iter().map($row).collect() })
                    }
                    Work::Write(statement) => {
                        in_doubt.store(true, Ordering::Relaxed);
                        let result = bound(statement).execute(&mut *connection).await?;
                        Ok(Done { affected: result.rows_affected(), rows: Vec::new() })
                    }
                    Work::Transaction(statements) => {
                        let mut transaction = connection.begin().await?;
                        let mut affected = 0;
                        for statement in statements {
                            affected = bound(statement).execute(&mut *transaction).await?.rows_affected();
                        }
                        in_doubt.store(true, Ordering::Relaxed);
                        transaction.commit().await?;
                        Ok(Done { affected, rows: Vec::new() })
                    }
                }
            }

            /// Every text of a statement is this crate's own, but for the prefix, which [`crate::Config`] checks.
            pub(crate) fn bound(
                statement: &Statement,
            ) -> Query<'static, $database, <$database as Database>::Arguments> {
                let mut query = sqlx::query(AssertSqlSafe(statement.sql.clone()));
                for value in &statement.values {
                    query = match value {
                        Value::Int(value) => query.bind(*value),
                        Value::Text(value) => query.bind(value.as_deref()),
                        Value::Bytes(value) => query.bind(value.as_deref()),
                    };
                }
                query
            }
        }
    };
}

engine!(mysql, sqlx::MySql, crate::statement::Row::Mysql);
engine!(postgres, sqlx::Postgres, crate::statement::Row::Postgres);
