//! MariaDB, or the MySQL that the environment names: the port's contract, every type, the session, and every fault.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{AMPLE, Admin, Subject, encrypted, execute, kind, query, random_name};
use sandpost_ports::contract::sql::{Dialect, check};
use sandpost_ports::sql::{Access, Value};
use sandpost_ports::{ErrorKind, Secret};
use sandpost_services::{Server, checked};
use sandpost_sql::{Config, Database, OpenError, open_mysql};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection, Row as _};
use std::sync::Arc;

struct Mysql(MySqlConnection);

impl Admin for Mysql {
    const SLOW: &'static str = "SELECT SLEEP(30) AS {}";
    const AT_WORK: &'static str = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%{}%' AND id <> CONNECTION_ID() AND command <> 'Sleep'";
    const END_STATEMENT: &'static str = "BEGIN NOT ATOMIC FOR one IN (SELECT id FROM information_schema.processlist WHERE info LIKE '%{}%' AND id <> CONNECTION_ID()) DO KILL QUERY one.id; END FOR; END";
    const END_CONNECTION: &'static str = "BEGIN NOT ATOMIC FOR one IN (SELECT id FROM information_schema.processlist WHERE info LIKE '%{}%' AND id <> CONNECTION_ID()) DO KILL CONNECTION one.id; END FOR; END";

    fn open(config: &Config) -> Result<Arc<dyn Database>, OpenError> {
        open_mysql(config)
    }

    async fn connect(url: &str) -> Self {
        Self(MySqlConnection::connect(url).await.unwrap())
    }

    async fn run(&mut self, sql: &str) {
        self.0.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
    }

    async fn number(&mut self, sql: &str) -> i64 {
        self.0.fetch_one(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap().get(0)
    }
}

fn open(server: &Server) -> Arc<dyn Database> {
    open_mysql(&Config { url: Some(Secret::new(server.url())), ..Config::default() }).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_kept() {
    let Some(server) = sandpost_services::mariadb() else { return };
    let database = open(&server);
    check(&*database, Dialect::MySql).await;
    database.close().await;
    checked("sql contract", &server);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_kept_encrypted() {
    let Some(server) = sandpost_services::mariadb_with_tls() else { return };
    let cipher = "SELECT VARIABLE_VALUE FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'Ssl_cipher'";
    encrypted::<Mysql>(&server, Dialect::MySql, cipher).await;
    checked("sql contract, encrypted", &server);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_has_its_error_in_bounded_time() {
    let Some(server) = sandpost_services::mariadb() else { return };
    Subject::<Mysql>::new(&server).await.every_fault().await;
    checked("sql faults", &server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_read_where_it_may() {
    let Some(server) = sandpost_services::mariadb() else { return };
    let mut subject = Subject::<Mysql>::new(&server).await;
    let name = random_name("replica");
    subject.admin.run(&format!("CREATE DATABASE {name}")).await;
    subject.a_replica(&name).await;
    subject.admin.run(&format!("DROP DATABASE {name}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_comes_without_loss() {
    let Some(server) = sandpost_services::mariadb() else { return };
    let mut admin = Mysql::connect(&server.url()).await;
    let table = random_name("types");
    admin
        .run(&format!(
            "CREATE TABLE {table} (id INT PRIMARY KEY, t TINYINT, tu TINYINT UNSIGNED, s SMALLINT, m MEDIUMINT, mu MEDIUMINT UNSIGNED, \
             i INT, iu INT UNSIGNED, b BIGINT, bu BIGINT UNSIGNED, f FLOAT, d DOUBLE, dc DECIMAL(65,30), bo BOOLEAN, bits BIT(10), \
             da DATE, ti TIME(6), dt DATETIME(6), ts TIMESTAMP(6) NULL, y YEAR, c CHAR(3), vc VARCHAR(20) COLLATE utf8mb4_bin, tx TEXT, \
             txb TEXT COLLATE utf8mb4_bin, bi BINARY(3), vb VARBINARY(5), bl BLOB, e ENUM('a','ö'), st SET('x','y'), js JSON, \
             lt LONGTEXT) CHARACTER SET utf8mb4"
        ))
        .await;
    let database = open(&server);
    let extreme = "-12345678901234567890123456789012345.012345678901234567890123456789";
    let columns = "id,t,tu,s,m,mu,i,iu,b,bu,f,d,dc,bo,bits,da,ti,dt,ts,y,c,vc,tx,txb,bi,vb,bl,e,st,js,lt";
    let values = vec![
        Value::Int64(1),
        Value::Int64(-128),
        Value::UInt64(255),
        Value::Int64(-32_768),
        Value::Int64(-8_388_608),
        Value::UInt64(16_777_215),
        Value::Int64(i32::MIN.into()),
        Value::UInt64(u32::MAX.into()),
        Value::Int64(i64::MIN),
        Value::UInt64(u64::MAX),
        Value::Float64(-0.5),
        Value::Float64(0.1 + 0.2),
        Value::Decimal(extreme.into()),
        Value::Boolean(true),
        Value::UInt64(0b11_0000_0001),
        Value::Date("9999-12-31".into()),
        Value::Time("-838:59:58.999999".into()),
        Value::DateTime("1000-01-01T00:00:00.000001".into()),
        Value::Timestamp("2038-01-19T03:14:07.999999Z".into()),
        Value::Int64(2155),
        Value::Text("abc".into()),
        Value::Text("123".into()),
        Value::Text("värde \u{1f4ee} \\ ' \" \0".into()),
        Value::Text("true".into()),
        Value::Bytes(vec![0, 255, 1]),
        Value::Bytes(vec![0, 39]),
        Value::Bytes(vec![255; 300]),
        Value::Text("ö".into()),
        Value::Text("x,y".into()),
        Value::Json(r#"{"a": [1, "ü", 12345678901234567890]}"#.into()),
        Value::Text("true".into()),
    ];
    let places = vec!["?"; values.len()].join(",");
    let insert = format!("INSERT INTO {table} ({columns}) VALUES ({places})");
    assert_eq!(execute(&*database, &insert, values.clone()).await.unwrap(), 1);
    let read = query(&*database, &format!("SELECT {columns} FROM {table}")).await.unwrap();
    for (at, expected) in values.iter().enumerate() {
        assert_eq!(&read.rows[0][at], expected, "{:?}", read.columns[at]);
    }
    let kind_of = |name: &str| read.columns.iter().find(|column| column.name == name).unwrap().kind.clone();
    assert_eq!((kind_of("bu").as_str(), kind_of("vc").as_str()), ("BIGINT UNSIGNED", "VARCHAR"));

    // As conditions they are compared as what they are, decimals with every digit.
    for (column, at) in [("bu", 9), ("dc", 12), ("da", 15), ("ti", 16), ("dt", 17), ("ts", 18), ("tx", 22), ("bl", 26)]
    {
        let find = format!("SELECT id FROM {table} WHERE {column} = ?");
        let found = database.query(Access::ReadOnly, &find, vec![values[at].clone()], AMPLE).await.unwrap();
        assert_eq!(found.rows.len(), 1, "{column}");
    }
    let other = Value::Decimal(extreme.replace("789", "788"));
    let find = format!("SELECT id FROM {table} WHERE dc = ?");
    assert!(database.query(Access::ReadOnly, &find, vec![other], AMPLE).await.unwrap().rows.is_empty());

    // What is no value of its column is refused, not cut or rounded.
    for (column, value) in [
        ("tu", Value::Int64(-1)),
        ("t", Value::Int64(128)),
        ("c", Value::Text("abcd".into())),
        ("da", Value::Date("0000-00-00".into())),
        ("e", Value::Text("b".into())),
        ("i", Value::Text("x".into())),
    ] {
        let update = format!("UPDATE {table} SET {column} = ? WHERE id = 1");
        assert_eq!(kind(execute(&*database, &update, vec![value]).await), ErrorKind::Invalid, "{column}");
    }
    // Written by another program, under another mode.
    admin.run(&format!("SET sql_mode = ''; UPDATE {table} SET da = '0000-00-00', dt = 0")).await;
    let zeros = query(&*database, &format!("SELECT da, dt FROM {table}")).await.unwrap();
    let expected = [Value::Date("0000-00-00".into()), Value::DateTime("0000-00-00T00:00:00".into())];
    assert_eq!(zeros.rows, [expected]);
    let of_nothing = database.query(Access::ReadOnly, "SELECT ?, NULL, 1 = 1", vec![Value::Null], AMPLE).await.unwrap();
    assert_eq!(of_nothing.rows[0][..2], [Value::Null, Value::Null]);
    admin.run(&format!("DROP TABLE {table}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_is_what_forbids() {
    let Some(server) = sandpost_services::mariadb() else { return };
    let mut admin = Mysql::connect(&server.url()).await;
    let (table, function) = (random_name("session"), random_name("writes"));
    admin.run(&format!("CREATE TABLE {table} (id INT AUTO_INCREMENT PRIMARY KEY, n INT) ENGINE = InnoDB")).await;
    // A word that no reading of the statement finds.
    admin
        .run(&format!(
            "CREATE FUNCTION {function}() RETURNS INT MODIFIES SQL DATA BEGIN INSERT INTO {table} (n) VALUES (1); RETURN 1; END"
        ))
        .await;
    let database = open(&server);
    let call = format!("SELECT {function}()");
    let error = query(&*database, &call).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Invalid, "this access is read-only"));
    let mut transaction = database.begin(Access::ReadOnly).await.unwrap();
    assert_eq!(kind(transaction.query(&call, vec![], AMPLE).await), ErrorKind::Invalid);
    for end in [
        "COMMIT",
        "ROLLBACK",
        "SET SESSION TRANSACTION READ WRITE",
        "START TRANSACTION READ WRITE",
        "SET @@tx_read_only = 0",
    ] {
        assert_eq!(kind(transaction.execute(end, vec![], AMPLE).await), ErrorKind::Unsupported, "{end}");
    }
    assert_eq!(kind(transaction.query(&call, vec![], AMPLE).await), ErrorKind::Invalid);
    drop(transaction);
    let count = format!("SELECT COUNT(*) FROM {table}");
    assert_eq!(admin.number(&count).await, 0);
    database.query(Access::ReadWrite, &call, vec![], AMPLE).await.unwrap();
    assert_eq!(admin.number(&count).await, 1);

    // Tables are changed at once there, and never within a transaction.
    let mut transaction = database.begin(Access::ReadWrite).await.unwrap();
    let insert = format!("INSERT INTO {table} (n) VALUES (2)");
    assert_eq!(transaction.execute(&insert, vec![], AMPLE).await.unwrap().last_insert_id, Some(2));
    let alter = format!("ALTER TABLE {table} ADD m INT");
    assert_eq!(kind(transaction.execute(&alter, vec![], AMPLE).await), ErrorKind::Unsupported);
    transaction.rollback().await.unwrap();
    assert_eq!(admin.number(&count).await, 1);
    let all = format!("SELECT * FROM {table}");
    assert_eq!(query(&*database, &all).await.unwrap().columns.len(), 2);
    execute(&*database, &alter, vec![]).await.unwrap();
    assert_eq!(query(&*database, &all).await.unwrap().columns.len(), 3, "a prepared statement knows the new shape");

    // A result that is too large undoes what it came with.
    let few = sandpost_ports::sql::StatementLimits { rows_max: 1, ..AMPLE };
    let returning = format!("INSERT INTO {table} (n) VALUES (3), (4) RETURNING id");
    assert_eq!(kind(database.query(Access::ReadWrite, &returning, vec![], few).await), ErrorKind::Exceeded);
    assert_eq!(admin.number(&count).await, 1);
    // Two new rows have two keys, and no single one is told.
    let done =
        database.execute(Access::ReadWrite, &format!("INSERT INTO {table} (n) VALUES (5), (6)"), vec![], AMPLE).await;
    assert_eq!(done.unwrap().last_insert_id, None);
    admin.run(&format!("DROP FUNCTION {function}; DROP TABLE {table}")).await;
}
