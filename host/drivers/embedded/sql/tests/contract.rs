//! SQLite against the SQL contract, and what only SQLite promises.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::needless_pass_by_value, reason = "the rows of a table of cases are values")]

use sandpost_embedded_sql::{Config, OpenError, SqliteSql, open};
use sandpost_ports::ErrorKind;
use sandpost_ports::contract::sql::{Dialect, check};
use sandpost_ports::health::{Health as _, PoolUse};
use sandpost_ports::sql::{Access, Rows, Sql as _, StatementLimits, Value};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const AMPLE: StatementLimits = StatementLimits { rows_max: 100, result_max_bytes: 1 << 20, timeout_ms: 10_000 };

fn in_memory() -> Arc<SqliteSql> {
    open(&Config::default()).unwrap()
}

async fn execute(sql: &SqliteSql, statement: &str) {
    sql.execute(Access::ReadWrite, statement, vec![], AMPLE).await.unwrap();
}

async fn query(sql: &SqliteSql, statement: &str) -> Rows {
    sql.query(Access::ReadOnly, statement, vec![], AMPLE).await.unwrap()
}

#[tokio::test]
async fn keeps_the_sql_contract_in_memory() {
    check(in_memory().as_ref(), Dialect::Sqlite).await;
}

#[tokio::test]
async fn keeps_the_sql_contract_on_a_file_twice_and_again_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { path: Some(folder.path().join("data.sqlite")), ..Config::default() };
    let sql = open(&config).unwrap();
    tokio::join!(check(sql.as_ref(), Dialect::Sqlite), check(sql.as_ref(), Dialect::Sqlite));
    execute(&sql, "CREATE TABLE kept (a INTEGER)").await;
    execute(&sql, "INSERT INTO kept VALUES (1)").await;
    drop(sql);
    let sql = open(&config).unwrap();
    assert_eq!(query(&sql, "SELECT a FROM kept").await.rows, [[Value::Int64(1)]]);
    check(sql.as_ref(), Dialect::Sqlite).await;
}

#[tokio::test]
async fn sql_never_reaches_another_file_or_a_setting() {
    let folder = tempfile::tempdir().unwrap();
    let sql = in_memory();
    execute(&sql, "CREATE TABLE t (a)").await;
    let outside = folder.path().join("outside.sqlite");
    let outside = outside.display();
    for statement in [
        format!("ATTACH DATABASE '{outside}' AS other"),
        format!("ATTACH DATABASE '{outside}' || '' AS other"),
        "ATTACH DATABASE ':memory:' AS other".to_owned(),
        format!("VACUUM INTO '{outside}'"),
        "VACUUM".to_owned(),
        "DETACH DATABASE main".to_owned(),
        "SELECT load_extension('libm.so.6')".to_owned(),
        "SELECT fts3_tokenizer('simple')".to_owned(),
        "PRAGMA writable_schema = ON".to_owned(),
        "PRAGMA journal_mode = DELETE".to_owned(),
        "PRAGMA query_only = OFF".to_owned(),
        "PRAGMA temp_store_directory = '/'".to_owned(),
        "PRAGMA max_page_count = 1".to_owned(),
        "CREATE TEMP TABLE left_behind (a)".to_owned(),
        "CREATE VIRTUAL TABLE pages USING dbstat".to_owned(),
        "BEGIN".to_owned(),
        "COMMIT".to_owned(),
        "SAVEPOINT s".to_owned(),
        "RELEASE s".to_owned(),
    ] {
        // In a transaction, VACUUM fails before it attaches anything, and every change is in one.
        let refused =
            |kind| kind == ErrorKind::Unsupported || (kind == ErrorKind::Invalid && statement.starts_with("VACUUM"));
        for access in [Access::ReadOnly, Access::ReadWrite] {
            let error = sql.execute(access, &statement, vec![], AMPLE).await.unwrap_err();
            assert!(refused(error.kind), "{statement}: {error:?}");
        }
        let mut transaction = sql.begin(Access::ReadWrite).await.unwrap();
        let error = transaction.query(&statement, vec![], AMPLE).await.unwrap_err();
        assert!(refused(error.kind), "{statement} in a transaction: {error:?}");
        transaction.commit().await.unwrap();
        assert!(refused(sql.execute_script(&statement).await.unwrap_err().kind), "{statement} in a script");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let error = sql.execute(Access::ReadWrite, "UPDATE sqlite_schema SET sql = ''", vec![], AMPLE).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    // What only asks is answered, and full text search is there.
    assert_eq!(query(&sql, "PRAGMA table_info(t)").await.rows.len(), 1);
    execute(&sql, "CREATE VIRTUAL TABLE words USING fts5(w)").await;
    execute(&sql, "INSERT INTO words VALUES ('hello world')").await;
    assert_eq!(query(&sql, "SELECT w FROM words WHERE words MATCH 'world'").await.rows.len(), 1);
}

#[tokio::test]
async fn a_transaction_left_lying_is_rolled_back_and_others_go_on() {
    let sql = open(&Config { transaction_idle_max_ms: 1_000, ..Config::default() }).unwrap();
    execute(&sql, "CREATE TABLE t (a)").await;
    let mut forgotten = sql.begin(Access::ReadWrite).await.unwrap();
    forgotten.execute("INSERT INTO t VALUES (1)", vec![], AMPLE).await.unwrap();
    // Waits for the writer, which the forgotten transaction holds until its time is over.
    execute(&sql, "INSERT INTO t VALUES (2)").await;
    assert_eq!(query(&sql, "SELECT a FROM t").await.rows, [[Value::Int64(2)]]);
    let error = forgotten.execute("INSERT INTO t VALUES (3)", vec![], AMPLE).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert_eq!(forgotten.commit().await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(query(&sql, "SELECT a FROM t").await.rows, [[Value::Int64(2)]]);
}

#[tokio::test]
async fn a_transaction_in_use_is_rolled_back_at_its_age() {
    let sql = open(&Config { transaction_max_ms: 100, ..Config::default() }).unwrap();
    execute(&sql, "CREATE TABLE t (a)").await;
    let mut busy = sql.begin(Access::ReadWrite).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let error = loop {
        assert!(Instant::now() < deadline, "it is still open");
        if let Err(error) = busy.execute("INSERT INTO t VALUES (1)", vec![], AMPLE).await {
            break error;
        }
    };
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(query(&sql, "SELECT a FROM t").await.rows.is_empty());
}

#[tokio::test]
async fn a_held_writer_makes_others_unavailable_not_stuck_while_readers_go_on() {
    let sql = open(&Config { wait_max_ms: 50, readers: 1, ..Config::default() }).unwrap();
    let held = sql.begin(Access::ReadWrite).await.unwrap();
    let error = sql.execute(Access::ReadWrite, "CREATE TABLE t (a)", vec![], AMPLE).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert_eq!(sql.begin(Access::ReadWrite).await.err().unwrap().kind, ErrorKind::Unavailable);
    assert_eq!(query(&sql, "SELECT 1").await.rows, [[Value::Int64(1)]]);
    let reading = sql.begin(Access::ReadOnly).await.unwrap();
    assert_eq!(sql.begin(Access::ReadOnly).await.err().unwrap().kind, ErrorKind::Unavailable);
    drop((held, reading));
    // It is rolled back behind the caller, which may take longer than one call waits.
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = sql.execute(Access::ReadWrite, "CREATE TABLE t (a)", vec![], AMPLE).await {
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        assert!(Instant::now() < deadline, "the writer stays held");
    }
}

#[tokio::test]
async fn a_change_that_exceeds_a_limit_is_undone() {
    let sql = in_memory();
    execute(&sql, "CREATE TABLE t (a)").await;
    let insert = "INSERT INTO t VALUES (1), (2), (3) RETURNING a";
    let few = StatementLimits { rows_max: 2, ..AMPLE };
    assert_eq!(sql.query(Access::ReadWrite, insert, vec![], few).await.unwrap_err().kind, ErrorKind::Exceeded);
    let mut transaction = sql.begin(Access::ReadWrite).await.unwrap();
    transaction.execute("INSERT INTO t VALUES (9)", vec![], AMPLE).await.unwrap();
    assert_eq!(transaction.query(insert, vec![], few).await.unwrap_err().kind, ErrorKind::Exceeded);
    transaction.commit().await.unwrap();
    assert_eq!(query(&sql, "SELECT a FROM t").await.rows, [[Value::Int64(9)]]);
    assert_eq!(sql.query(Access::ReadWrite, insert, vec![], AMPLE).await.unwrap().rows.len(), 3);
}

#[tokio::test]
async fn a_slow_change_is_undone() {
    let sql = in_memory();
    execute(&sql, "CREATE TABLE t (a)").await;
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) INSERT INTO t SELECT i FROM n";
    let short = StatementLimits { timeout_ms: 50, ..AMPLE };
    let error = sql.execute(Access::ReadWrite, endless, vec![], short).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(query(&sql, "SELECT a FROM t").await.rows.is_empty());

    // In a transaction, SQLite undoes the whole of it, and the transaction says so from then on.
    let mut transaction = sql.begin(Access::ReadWrite).await.unwrap();
    transaction.execute("INSERT INTO t VALUES (1)", vec![], AMPLE).await.unwrap();
    assert_eq!(transaction.execute(endless, vec![], short).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(transaction.commit().await.unwrap_err().kind, ErrorKind::Unavailable);
    assert!(query(&sql, "SELECT a FROM t").await.rows.is_empty());
}

#[tokio::test]
async fn a_full_database_is_exceeded_and_still_reads() {
    let sql = open(&Config { size_max_bytes: 1 << 20, ..Config::default() }).unwrap();
    execute(&sql, "CREATE TABLE t (a)").await;
    let insert = "INSERT INTO t VALUES (zeroblob(2000000))";
    let error = sql.execute(Access::ReadWrite, insert, vec![], AMPLE).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exceeded, "{error}");
    assert!(query(&sql, "SELECT a FROM t").await.rows.is_empty());
    execute(&sql, "INSERT INTO t VALUES (1)").await;
}

#[tokio::test]
async fn the_init_file_runs_once_and_wholly() {
    let folder = tempfile::tempdir().unwrap();
    let init_file = folder.path().join("init.sql");
    let config = Config {
        path: Some(folder.path().join("data.sqlite")),
        init_file: Some(init_file.clone()),
        ..Config::default()
    };
    assert!(matches!(open(&config), Err(OpenError::InitFile { .. })));
    std::fs::write(&init_file, "CREATE TABLE t (a); INSERT INTO t VALUES (1); INSERT INTO missing VALUES (1);")
        .unwrap();
    assert!(matches!(open(&config), Err(OpenError::Init { .. })));
    std::fs::write(&init_file, "CREATE TABLE t (a);\n-- a user\nINSERT INTO t VALUES (1);").unwrap();
    for _ in 0..2 {
        let sql = open(&config).unwrap();
        assert_eq!(query(&sql, "SELECT a FROM t").await.rows, [[Value::Int64(1)]]);
    }
}

#[tokio::test]
async fn a_script_is_all_or_nothing() {
    let sql = in_memory();
    sql.execute_script("CREATE TABLE t (a UNIQUE); INSERT INTO t VALUES (1);").await.unwrap();
    let error = sql.execute_script("INSERT INTO t VALUES (2); INSERT INTO t VALUES (1);").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    assert_eq!(query(&sql, "SELECT a FROM t").await.rows, [[Value::Int64(1)]]);
}

#[tokio::test]
async fn a_key_is_told_only_by_a_statement_that_made_one() {
    let sql = in_memory();
    execute(&sql, "CREATE TABLE t (id INTEGER PRIMARY KEY, a)").await;
    execute(&sql, "CREATE TABLE log (a)").await;
    execute(&sql, "CREATE TABLE words (w TEXT PRIMARY KEY) WITHOUT ROWID").await;
    execute(&sql, "CREATE TRIGGER logged AFTER UPDATE ON t BEGIN INSERT INTO log VALUES (new.a); END").await;
    let done = async |statement: &str| {
        let done = sql.execute(Access::ReadWrite, statement, vec![], AMPLE).await.unwrap();
        (done.affected, done.last_insert_id)
    };
    assert_eq!(done("INSERT INTO t VALUES (7, 1)").await, (1, Some(7)));
    assert_eq!(done("UPDATE t SET a = 2").await, (1, None));
    assert_eq!(done("INSERT INTO words VALUES ('w')").await, (1, None));
    assert_eq!(done("INSERT OR IGNORE INTO t VALUES (7, 1)").await, (0, None));
    assert_eq!(done("CREATE INDEX i ON t (a)").await, (0, None));
    assert_eq!(done("SELECT 1").await, (0, None));
    assert_eq!(done("DELETE FROM t").await, (1, None));
}

#[test]
fn configuration_is_checked() {
    #[track_caller]
    fn check(config: Config, expected: &str) {
        match open(&config) {
            Err(OpenError::OutOfRange { key, .. }) => assert_eq!(key, expected),
            other => panic!("{expected}: {:?}", other.err()),
        }
    }
    check(Config { readers: 0, ..Config::default() }, "readers");
    check(Config { readers: 1_000, ..Config::default() }, "readers");
    check(Config { transaction_idle_max_ms: 0, ..Config::default() }, "transaction_idle_max_ms");
    check(Config { size_max_bytes: 10, ..Config::default() }, "size_max_bytes");
    let missing = Config { path: Some(PathBuf::from("/nonexistent/folder/data.sqlite")), ..Config::default() };
    assert!(matches!(open(&missing), Err(OpenError::Database { .. })));
    let unknown = serde_json::from_str::<Config>(r#"{"path": "x", "reader": 1}"#);
    assert!(unknown.unwrap_err().to_string().contains("`reader`"));
}

#[tokio::test]
async fn the_pool_shows_what_is_at_work() {
    let sql = open(&Config { readers: 3, ..Config::default() }).unwrap();
    let pool = || sql.pool().unwrap();
    assert_eq!(pool(), PoolUse { in_use: 0, idle: 4, max: 4 });
    let writing = sql.begin(Access::ReadWrite).await.unwrap();
    let reading = sql.begin(Access::ReadOnly).await.unwrap();
    assert_eq!(pool(), PoolUse { in_use: 2, idle: 2, max: 4 });
    writing.rollback().await.unwrap();
    reading.rollback().await.unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while pool().in_use > 0 && Instant::now() < until {
        tokio::task::yield_now().await;
    }
    assert_eq!(pool(), PoolUse { in_use: 0, idle: 4, max: 4 });
}
