//! The tables: made by one of many hosts that start at once, found again, left alone where a newer program made them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{on_each, open_with, prefix};
use sandpost_message::{Message, MessageId};
use sandpost_ports::ErrorKind;
use sandpost_ports::health::Health as _;
use sandpost_ports::state::{Ledger as _, LedgerEntry, Step};
use sandpost_services::Server;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

/// One statement beside the driver, as an operator or a newer program would run it.
async fn run(server: &Server, sql: String) {
    if server.url().starts_with("mysql") {
        sqlx::MySqlConnection::connect(&server.url()).await.unwrap().execute(AssertSqlSafe(sql)).await.unwrap();
    } else {
        sqlx::PgConnection::connect(&server.url()).await.unwrap().execute(AssertSqlSafe(sql)).await.unwrap();
    }
}

async fn numbers(server: &Server, prefix: &str) -> Vec<i64> {
    let sql = AssertSqlSafe(format!("SELECT number FROM {prefix}migrations ORDER BY number"));
    if server.url().starts_with("mysql") {
        let mut connection = sqlx::MySqlConnection::connect(&server.url()).await.unwrap();
        sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
    } else {
        let mut connection = sqlx::PgConnection::connect(&server.url()).await.unwrap();
        sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_start_at_once_make_the_tables_once() {
    on_each(async |server| {
        let shared = prefix();
        let hosts: Vec<_> = (0..6).map(|_| open_with(&server.url(), &shared, |_| {})).collect();
        for host in &hosts {
            host.check().await.unwrap();
        }
        assert_eq!(numbers(server, &shared).await, [1]);

        // A further host finds them with what is in them.
        let message = Message::new("orders".parse().unwrap(), Vec::new(), 1);
        hosts[0].record(vec![LedgerEntry::of(&message, Step::Accepted, 1, None)]).await.unwrap();
        let later = open_with(&server.url(), &shared, |_| {});
        assert_eq!(later.history(&message.id).await.unwrap().len(), 1);
        assert_eq!(numbers(server, &shared).await, [1]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_was_cut_off_is_finished() {
    on_each(async |server| {
        // As MySQL leaves it where the host dies between two statements; rows that are there stay.
        let shared = prefix();
        open_with(&server.url(), &shared, |_| {}).check().await.unwrap();
        run(server, format!("DELETE FROM {shared}migrations")).await;
        run(server, format!("DROP TABLE {shared}requests")).await;
        run(server, format!("DROP TABLE {shared}deployments")).await;
        let state = open_with(&server.url(), &shared, |_| {});
        sandpost_ports::contract::state::check(state).await;
        assert_eq!(numbers(server, &shared).await, [1]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_newer_program_are_left_alone() {
    on_each(async |server| {
        let shared = prefix();
        open_with(&server.url(), &shared, |_| {}).check().await.unwrap();
        run(server, format!("INSERT INTO {shared}migrations (number, applied_at_ms) VALUES (99, 1)")).await;
        let state = open_with(&server.url(), &shared, |_| {});
        let error = state.history(&MessageId::new()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Other, "{error}");
        assert!(error.message.contains("newer program"), "{error}");
        assert_eq!(state.check().await.unwrap_err().kind, ErrorKind::Other);
    })
    .await;
}
