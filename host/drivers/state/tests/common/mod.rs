//! What the tests share: both servers, and a state under tables of its own.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use sandpost_ports::Secret;
use sandpost_services::Server;
use sandpost_shared_state::{Config, SharedState, open};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Runs a check on MariaDB, then on Postgres: on those that are here.
pub(crate) async fn on_each(check: impl AsyncFn(&Server)) {
    for server in [sandpost_services::mariadb(), sandpost_services::postgres()].into_iter().flatten() {
        check(&server).await;
    }
}

/// Tables that nobody else has.
pub(crate) fn prefix() -> String {
    format!("t{:016x}_", RandomState::new().build_hasher().finish())
}

pub(crate) fn open_with(url: &str, prefix: &str, change: impl FnOnce(&mut Config)) -> Arc<SharedState> {
    let mut config = Config { url: Some(Secret::new(url)), table_prefix: prefix.to_owned(), ..Config::default() };
    change(&mut config);
    open(&config).unwrap()
}

/// Polls until it is so, for half a minute at most.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Somebody else's transaction, open until it lets go.
pub(crate) enum Held {
    Mysql(sqlx::MySqlConnection),
    Postgres(sqlx::PgConnection),
}

impl Held {
    /// Begins one with a statement that locks.
    pub(crate) async fn take(server: &Server, sql: &str) -> Self {
        let sql = || AssertSqlSafe(sql.to_owned());
        if server.url().starts_with("mysql") {
            let mut connection = sqlx::MySqlConnection::connect(&server.url()).await.unwrap();
            connection.execute("BEGIN").await.unwrap();
            connection.execute(sql()).await.unwrap();
            Self::Mysql(connection)
        } else {
            let mut connection = sqlx::PgConnection::connect(&server.url()).await.unwrap();
            connection.execute("BEGIN").await.unwrap();
            connection.execute(sql()).await.unwrap();
            Self::Postgres(connection)
        }
    }

    pub(crate) async fn let_go(self) {
        match self {
            Self::Mysql(mut connection) => drop(connection.execute("ROLLBACK").await.unwrap()),
            Self::Postgres(mut connection) => drop(connection.execute("ROLLBACK").await.unwrap()),
        }
    }
}

/// Has the server end the connections that are at a statement with this text in it, or, of no text, all but its own.
pub(crate) async fn end_connections(server: &Server, at: &str) {
    if server.url().starts_with("mysql") {
        let kill = format!(
            "BEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR 1094 BEGIN END; FOR one IN (SELECT id FROM \
             information_schema.processlist WHERE COALESCE(info, '') LIKE '%{at}%' AND id <> CONNECTION_ID() AND \
             command <> 'Daemon') DO KILL CONNECTION one.id; END FOR; END"
        );
        let mut connection = sqlx::MySqlConnection::connect(&server.url()).await.unwrap();
        connection.execute(sqlx::raw_sql(AssertSqlSafe(kill))).await.unwrap();
    } else {
        let kill = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> \
             pg_backend_pid() AND query LIKE '%{at}%' AND (state = 'active' OR '{at}' = '')"
        );
        let mut connection = sqlx::PgConnection::connect(&server.url()).await.unwrap();
        connection.execute(sqlx::raw_sql(AssertSqlSafe(kill))).await.unwrap();
    }
}
