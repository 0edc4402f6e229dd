//! Postgres: the port's contract, every type, the session, and every fault.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{AMPLE, Admin, Subject, encrypted, execute, kind, query, random_name};
use sandpost_ports::contract::sql::{Dialect, check};
use sandpost_ports::sql::{Access, StatementLimits, Value};
use sandpost_ports::{ErrorKind, Secret};
use sandpost_services::{Server, checked};
use sandpost_sql::{Config, Database, OpenError, open_postgres};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};
use std::sync::Arc;

struct Postgres(PgConnection);

impl Admin for Postgres {
    const SLOW: &'static str = "SELECT pg_sleep(30)::text AS {}";
    const AT_WORK: &'static str = "SELECT COUNT(*) FROM pg_stat_activity WHERE query LIKE '%{}%' AND state = 'active' AND pid <> pg_backend_pid()";
    const END_STATEMENT: &'static str = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%{}%' AND state = 'active' AND pid <> pg_backend_pid()";
    const END_CONNECTION: &'static str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%{}%' AND state = 'active' AND pid <> pg_backend_pid()";

    fn open(config: &Config) -> Result<Arc<dyn Database>, OpenError> {
        open_postgres(config)
    }

    async fn connect(url: &str) -> Self {
        Self(PgConnection::connect(url).await.unwrap())
    }

    async fn run(&mut self, sql: &str) {
        self.0.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
    }

    async fn number(&mut self, sql: &str) -> i64 {
        self.0.fetch_one(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap().get(0)
    }
}

fn open(server: &Server) -> Arc<dyn Database> {
    open_postgres(&Config { url: Some(Secret::new(server.url())), ..Config::default() }).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_kept() {
    let Some(server) = sandpost_services::postgres() else { return };
    let database = open(&server);
    check(&*database, Dialect::Postgres).await;
    database.close().await;
    checked("sql contract", &server);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_kept_encrypted() {
    let Some(server) = sandpost_services::postgres_with_tls() else { return };
    let cipher = "SELECT cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    encrypted::<Postgres>(&server, Dialect::Postgres, cipher).await;
    checked("sql contract, encrypted", &server);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_has_its_error_in_bounded_time() {
    let Some(server) = sandpost_services::postgres() else { return };
    Subject::<Postgres>::new(&server).await.every_fault().await;
    checked("sql faults", &server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_read_where_it_may() {
    let Some(server) = sandpost_services::postgres() else { return };
    let mut subject = Subject::<Postgres>::new(&server).await;
    let name = random_name("replica");
    subject.admin.run(&format!("CREATE DATABASE {name}")).await;
    subject.a_replica(&name).await;
    subject.admin.run(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_comes_without_loss() {
    let Some(server) = sandpost_services::postgres() else { return };
    let mut admin = Postgres::connect(&server.url()).await;
    let (table, mood, domain) = (random_name("types"), random_name("mood"), random_name("domain"));
    admin
        .run(&format!(
            "CREATE TYPE {mood} AS ENUM ('sad', 'ünhappy'); CREATE DOMAIN {domain} AS NUMERIC(20, 4) CHECK (VALUE > 0); \
             CREATE TABLE {table} (id INT PRIMARY KEY, s SMALLINT, b BIGINT, r REAL, d DOUBLE PRECISION, n NUMERIC, nn NUMERIC(30, 10), \
             bo BOOLEAN, t TEXT, vc VARCHAR(20), c CHAR(3), by BYTEA, da DATE, ti TIME, dt TIMESTAMP, ts TIMESTAMPTZ, j JSON, jb JSONB, \
             u UUID, m {mood}, do1 {domain}, o OID)"
        ))
        .await;
    let database = open(&server);
    let columns = "id,s,b,r,d,n,nn,bo,t,vc,c,by,da,ti,dt,ts,j,jb,u,m,do1,o";
    let values = vec![
        Value::Int64(1),
        Value::Int64(-32_768),
        Value::Int64(i64::MIN),
        Value::Float64(-0.5),
        Value::Float64(0.1 + 0.2),
        Value::Decimal(format!("-{}.{}", "9".repeat(200), "1".repeat(200))),
        Value::Decimal("12345678901234567890.0123456789".into()),
        Value::Boolean(true),
        Value::Text("värde \u{1f4ee} \\ ' \" ? $1".into()),
        Value::Text("abc".into()),
        Value::Text("abc".into()),
        Value::Bytes(vec![0, 255, 39, 0]),
        Value::Date("2024-02-29".into()),
        Value::Time("23:59:59.999999".into()),
        Value::DateTime("0001-01-01T00:00:00.000001".into()),
        Value::Timestamp("9999-12-31T23:59:59.999999Z".into()),
        Value::Json(r#"{"a": [1, "ü", 12345678901234567890.10]}"#.into()),
        Value::Json(r#"{"a": [1, "ü", 12345678901234567890.10]}"#.into()),
        Value::Text("0190b0c4-5b1e-7c3a-8f00-000000000001".into()),
        Value::Text("ünhappy".into()),
        Value::Decimal("7.2500".into()),
        Value::Int64(u32::MAX.into()),
    ];
    let places = vec!["?"; values.len()].join(",");
    let insert = format!("INSERT INTO {table} ({columns}) VALUES ({places})");
    assert_eq!(execute(&*database, &insert, values.clone()).await.unwrap(), 1);
    let read = query(&*database, &format!("SELECT {columns} FROM {table}")).await.unwrap();
    for (at, expected) in values.iter().enumerate() {
        assert_eq!(&read.rows[0][at], expected, "{:?}", read.columns[at]);
    }
    assert_eq!((read.columns[2].kind.as_str(), read.columns[19].kind.as_str()), ("INT8", mood.as_str()));
    for (column, at) in [("b", 2), ("n", 5), ("t", 8), ("da", 12), ("dt", 14), ("ts", 15), ("u", 18), ("m", 19)] {
        let find = format!("SELECT id FROM {table} WHERE {column} = ?");
        let found = database.query(Access::ReadOnly, &find, vec![values[at].clone()], AMPLE).await.unwrap();
        assert_eq!(found.rows.len(), 1, "{column}");
    }

    for (column, value, expected) in [
        ("s", Value::Int64(40_000), ErrorKind::Invalid),
        ("b", Value::UInt64(u64::MAX), ErrorKind::Invalid),
        ("vc", Value::Text("x".repeat(21)), ErrorKind::Invalid),
        ("da", Value::Date("2026-02-30".into()), ErrorKind::Invalid),
        ("bo", Value::Int64(1), ErrorKind::Invalid),
        ("m", Value::Text("glad".into()), ErrorKind::Invalid),
        ("do1", Value::Decimal("-1".into()), ErrorKind::Conflict),
        ("t", Value::Text("a\0b".into()), ErrorKind::Unsupported),
    ] {
        let update = format!("UPDATE {table} SET {column} = ? WHERE id = 1");
        assert_eq!(kind(execute(&*database, &update, vec![value]).await), expected, "{column}");
    }
    let others = query(
        &*database,
        "SELECT 'NaN'::numeric = 'NaN', INTERVAL '1 year 2 months 3 days 04:05:06.7', INTERVAL '-1.5 seconds', B'101'::bit(3), \
         '12:00:00+02'::timetz, 'infinity'::date, '-infinity'::timestamptz, '0044-03-15 BC'::date, '10000-01-01'::timestamp, NULL, \
         123456789.000::numeric, 1e-20::numeric, 'x'::\"char\", '-0.00'::numeric, 'a'::name",
    )
    .await
    .unwrap();
    let text = |text: &str| Value::Text(text.to_owned());
    let expected = [
        Value::Boolean(true),
        text("P1Y2M3DT4H5M6.7S"),
        text("PT-1.5S"),
        text("101"),
        text("12:00:00+02:00"),
        text("infinity"),
        text("-infinity"),
        text("0044-03-15 BC"),
        text("10000-01-01T00:00:00"),
        Value::Null,
        Value::Decimal("123456789.000".into()),
        Value::Decimal("0.00000000000000000001".into()),
        text("x"),
        Value::Decimal("0.00".into()),
        text("a"),
    ];
    for (found, expected) in others.rows[0].iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    // What has no value here says what to do, and doing it works.
    let error = query(&*database, "SELECT ARRAY[1, 2] AS numbers").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
    assert!(error.message.contains("`numbers` is INT4[]") && error.message.contains("CAST"), "{error}");
    let cast = "SELECT CAST(CAST(CAST(? AS text) AS inet) AS text), to_json(ARRAY[1, 2]), '{\"a\": 1}'::jsonb ?? 'a'";
    let cast = database.query(Access::ReadOnly, cast, vec![text("10.0.0.1")], AMPLE).await.unwrap();
    assert_eq!(cast.rows, [[text("10.0.0.1/32"), Value::Json("[1,2]".into()), Value::Boolean(true)]]);
    admin.run(&format!("DROP TABLE {table}; DROP TYPE {mood}; DROP DOMAIN {domain}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_is_what_forbids_and_nothing_stays_in_it() {
    let Some(server) = sandpost_services::postgres() else { return };
    let mut admin = Postgres::connect(&server.url()).await;
    let (table, writes, leaves) = (random_name("session"), random_name("writes"), random_name("leaves"));
    admin
        .run(&format!(
            "CREATE TABLE {table} (id INT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, n INT); \
             CREATE FUNCTION {writes}() RETURNS INT LANGUAGE SQL AS 'INSERT INTO {table} (n) VALUES (1) RETURNING n'; \
             CREATE FUNCTION {leaves}() RETURNS INT LANGUAGE plpgsql AS $$ BEGIN \
               PERFORM set_config('default_transaction_read_only', 'on', false); PERFORM set_config('my.secret', 'x', false); \
               PERFORM set_config('statement_timeout', '1', false); PERFORM pg_advisory_lock(4711); \
               CREATE TEMPORARY TABLE left_behind (n INT); RETURN 1; END $$; \
             CREATE FUNCTION {leaves}_off() RETURNS INT LANGUAGE plpgsql AS $$ BEGIN \
               PERFORM set_config('transaction_read_only', 'off', true); INSERT INTO {table} (n) VALUES (1); RETURN 1; END $$;"
        ))
        .await;
    let config = Config { url: Some(Secret::new(server.url())), pool_max_connections: Some(1), ..Config::default() };
    let database = open_postgres(&config).unwrap();
    let count = format!("SELECT COUNT(*) FROM {table}");
    let call = format!("SELECT {writes}()");
    let error = query(&*database, &call).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Invalid, "this access is read-only"));
    assert!(query(&*database, &format!("SELECT {leaves}_off()")).await.is_err(), "a function does not switch it off");
    let cte = format!("WITH a AS (INSERT INTO {table} (n) VALUES (1) RETURNING n) SELECT * FROM a");
    assert_eq!(kind(query(&*database, &cte).await), ErrorKind::Invalid);
    let mut transaction = database.begin(Access::ReadOnly).await.unwrap();
    for end in [
        "COMMIT",
        "END",
        "SET TRANSACTION READ WRITE",
        "SET LOCAL transaction_read_only = off",
        "DO $$ BEGIN COMMIT; END $$",
    ] {
        assert_eq!(kind(transaction.execute(end, vec![], AMPLE).await), ErrorKind::Unsupported, "{end}");
    }
    let off = "SELECT set_config('transaction_read_only', 'off', true)";
    assert_eq!(kind(transaction.query(off, vec![], AMPLE).await), ErrorKind::Unsupported);
    assert!(transaction.query(&format!("SELECT {leaves}_off()"), vec![], AMPLE).await.is_err());
    assert_eq!(kind(transaction.query(&call, vec![], AMPLE).await), ErrorKind::Invalid);
    transaction.rollback().await.unwrap();
    assert_eq!(admin.number(&count).await, 0);

    // Whatever a function did to the session is gone when the next gets the connection: the only one that there is.
    database.query(Access::ReadWrite, &format!("SELECT {leaves}()"), vec![], AMPLE).await.unwrap();
    database.query(Access::ReadWrite, &call, vec![], AMPLE).await.unwrap();
    assert_eq!(admin.number(&count).await, 1);
    let left = "SELECT current_setting('default_transaction_read_only'), COALESCE(current_setting('my.secret', true), ''), \
                (SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711), \
                (SELECT COUNT(*) FROM pg_class WHERE relname = 'left_behind'), current_setting('TimeZone')";
    let text = |text: &str| Value::Text(text.to_owned());
    let left = query(&*database, left).await.unwrap();
    assert_eq!(left.rows, [[text("off"), text(""), Value::Int64(0), Value::Int64(0), text("UTC")]]);

    // Tables are changed like rows there; a prepared statement knows the new shape, in a transaction too.
    let all = format!("SELECT * FROM {table}");
    assert_eq!(query(&*database, &all).await.unwrap().columns.len(), 2);
    admin.run(&format!("ALTER TABLE {table} ADD m INT")).await;
    assert_eq!(query(&*database, &all).await.unwrap().columns.len(), 3);
    let mut transaction = database.begin(Access::ReadWrite).await.unwrap();
    transaction.execute(&format!("ALTER TABLE {table} ADD o INT"), vec![], AMPLE).await.unwrap();
    assert_eq!(transaction.query(&all, vec![], AMPLE).await.unwrap().columns.len(), 4);
    transaction.rollback().await.unwrap();
    assert_eq!(query(&*database, &all).await.unwrap().columns.len(), 3);

    // A result that is too large undoes what it came with, and a constraint that is looked at last undoes it all.
    let few = StatementLimits { rows_max: 1, ..AMPLE };
    let returning = format!("INSERT INTO {table} (n) VALUES (3), (4) RETURNING id");
    assert_eq!(kind(database.query(Access::ReadWrite, &returning, vec![], few).await), ErrorKind::Exceeded);
    assert_eq!(admin.number(&count).await, 1);
    admin.run(&format!("ALTER TABLE {table} ADD UNIQUE (n) DEFERRABLE INITIALLY DEFERRED")).await;
    let twice = format!("INSERT INTO {table} (n) VALUES (9), (9)");
    assert_eq!(kind(execute(&*database, &twice, vec![]).await), ErrorKind::Conflict);
    let rows = database.query(Access::ReadWrite, &returning, vec![], AMPLE).await.unwrap();
    assert_eq!(rows.rows.len(), 2);
    admin
        .run(&format!("DROP FUNCTION {writes}; DROP FUNCTION {leaves}; DROP FUNCTION {leaves}_off; DROP TABLE {table}"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_mappers_address_works() {
    let Some(server) = sandpost_services::postgres() else { return };
    let mut admin = Postgres::connect(&server.url()).await;
    let schema = random_name("schema");
    admin
        .run(&format!(
            "CREATE SCHEMA {schema}; CREATE TABLE {schema}.here (n INT); INSERT INTO {schema}.here VALUES (5)"
        ))
        .await;
    let url = format!(
        "{}?schema={schema}&connection_limit=4&pool_timeout=20&connect_timeout=5&pgbouncer=false",
        server.url()
    );
    let database = open_postgres(&Config { url: Some(Secret::new(url)), ..Config::default() }).unwrap();
    for _ in 0..2 {
        assert_eq!(query(&*database, "SELECT n FROM here").await.unwrap().rows, [[Value::Int64(5)]]);
    }
    assert_eq!(database.pool().unwrap().max, 4);
    database.close().await;
    admin.run(&format!("DROP SCHEMA {schema} CASCADE")).await;
}
