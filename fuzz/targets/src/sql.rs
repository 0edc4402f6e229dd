//! SQL: any statement text stays inside its database file, within its limits, and answers in words without addresses.
//!
//! The input is text: statements parted by lines of `%%`. Each is asked for as a read-only caller first, then as one who
//! may write, then inside a transaction. Over the embedded driver, on a file of its own in a private folder, with a
//! second database beside it that no statement may see.

use crate::block_on;
use sandpost_embedded_sql::{Config, SqliteSql, open};
use sandpost_ports::PortError;
use sandpost_ports::sql::{Access, Rows, Sql, StatementLimits, Value};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Statements of one input.
const STATEMENTS_MAX: usize = 4;
/// What one statement may cost here.
const LIMITS: StatementLimits = StatementLimits { rows_max: 50, result_max_bytes: 64 * 1024, timeout_ms: 30 };
/// How long one may take at most: its time, and what a busy machine adds.
const PATIENCE: Duration = Duration::from_secs(10);
/// In the other database, and nowhere else.
const SECRET: &str = "k33p-0ut";
/// What a new database holds.
const INIT: &str = "
    CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, age INTEGER, data BLOB, price DECIMAL(10, 2));
    CREATE INDEX by_name ON users (name);
    INSERT INTO users VALUES (1, 'Ana', 30, x'00ff', 9.99), (2, 'Bo', NULL, NULL, NULL), (3, 'Cy', -1, '', 0);
";

/// A database with its folder.
struct World {
    folder: TempDir,
    database: Arc<SqliteSql>,
    as_new: Vec<Vec<Value>>,
}

thread_local! {
    /// Kept from input to input as long as nobody changed it: making one takes longer than most statements.
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// The bytes as statements.
pub fn sql(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let world = WORLD.take().unwrap_or_else(World::new);
    let unchanged = block_on(async {
        for statement in text.split("\n%%\n").take(STATEMENTS_MAX) {
            world.read_only(statement).await;
            world.read_write(statement).await;
            world.in_transaction(statement).await;
        }
        world.snapshot().await.as_ref() == Ok(&world.as_new)
    });
    if unchanged {
        WORLD.set(Some(world));
    }
}

impl World {
    fn new() -> Self {
        let folder = private_folder();
        let init_file = folder.path().join("init.sql");
        std::fs::write(&init_file, INIT).unwrap();
        let other = folder.path().join("other.sql");
        std::fs::write(&other, format!("CREATE TABLE secrets AS SELECT '{SECRET}' AS secret;")).unwrap();
        let open_at = |name: &str, init| {
            open(&Config {
                path: Some(folder.path().join(name)),
                init_file: Some(init),
                readers: 1,
                size_max_bytes: 8 << 20,
                ..Config::default()
            })
            .unwrap()
        };
        drop(open_at("other.db", other));
        let database = open_at("main.db", init_file);
        let mut world = Self { folder, database, as_new: Vec::new() };
        world.as_new = block_on(world.snapshot()).unwrap();
        world
    }

    /// Schema and rows, or why they cannot be read: a statement may have made them too large.
    async fn snapshot(&self) -> Result<Vec<Vec<Value>>, String> {
        let limits = StatementLimits { timeout_ms: 5_000, ..LIMITS };
        let mut all = Vec::new();
        for statement in ["SELECT type, name, sql FROM sqlite_master", "SELECT * FROM users"] {
            let answer = self.database.query(Access::ReadOnly, statement, Vec::new(), limits).await;
            all.extend(answer.map_err(|error| format!("{statement}: {error}"))?.rows);
        }
        Ok(all)
    }

    async fn read_only(&self, statement: &str) {
        let before = self.snapshot().await;
        let since = Instant::now();
        let database = &self.database;
        self.check(statement, &database.query(Access::ReadOnly, statement, parameters(statement), LIMITS).await);
        self.check_done(statement, database.execute(Access::ReadOnly, statement, parameters(statement), LIMITS).await);
        assert!(since.elapsed() < PATIENCE, "{statement:?} took {:?}", since.elapsed());
        assert_eq!(self.snapshot().await, before, "read-only, and yet changed: {statement:?}");
        self.folder_is_as_it_was(statement);
    }

    async fn read_write(&self, statement: &str) {
        let since = Instant::now();
        let database = &self.database;
        let before = self.snapshot().await;
        let answer = database.execute(Access::ReadWrite, statement, parameters(statement), LIMITS).await;
        if answer.is_err() {
            assert_eq!(self.snapshot().await, before, "failed, and yet changed: {statement:?}");
        }
        self.check_done(statement, answer);
        self.check(statement, &database.query(Access::ReadWrite, statement, parameters(statement), LIMITS).await);
        assert!(since.elapsed() < PATIENCE, "{statement:?} took {:?}", since.elapsed());
        self.folder_is_as_it_was(statement);
    }

    async fn in_transaction(&self, statement: &str) {
        let since = Instant::now();
        let before = self.snapshot().await;
        let mut transaction = self.database.begin(Access::ReadWrite).await.expect("a transaction begins");
        self.check(statement, &transaction.query(statement, parameters(statement), LIMITS).await);
        self.check_done(statement, transaction.execute(statement, parameters(statement), LIMITS).await);
        // Refused where a statement took the transaction with it; then nothing of it is there either.
        transaction.rollback().await.ok();
        assert!(since.elapsed() < PATIENCE, "{statement:?} took {:?}", since.elapsed());
        assert_eq!(self.snapshot().await, before, "rolled back, and yet changed: {statement:?}");
        self.folder_is_as_it_was(statement);
    }

    fn check(&self, statement: &str, answer: &Result<Rows, PortError>) {
        match answer {
            Ok(rows) => {
                assert!(rows.rows.len() <= LIMITS.rows_max, "{statement:?}");
                assert!(rows.rows.iter().all(|row| row.len() == rows.columns.len()), "{statement:?}");
                let shown = format!("{rows:?}");
                assert!(
                    !shown.contains(SECRET) || statement.contains(SECRET),
                    "{statement:?} reads the other database"
                );
            }
            Err(error) => self.words(statement, error),
        }
    }

    fn check_done<T>(&self, statement: &str, answer: Result<T, PortError>) {
        if let Err(error) = answer {
            self.words(statement, &error);
        }
    }

    /// What the plugin is told names no place.
    fn words(&self, statement: &str, error: &PortError) {
        let place = self.folder.path().display().to_string();
        assert!(!error.to_string().contains(&place), "{statement:?}: {error}");
    }

    /// No statement makes a file.
    fn folder_is_as_it_was(&self, statement: &str) {
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let known = ["main.db", "other.db", "init.sql", "other.sql"].iter().any(|known| name.starts_with(known));
            assert!(known, "{statement:?} made `{name}`");
        }
    }
}

/// In memory where the system has a place for that: a new database is synced to its file.
fn private_folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// A value of each kind for each placeholder that the text may have.
fn parameters(statement: &str) -> Vec<Value> {
    let kinds = [
        Value::Int64(1),
        Value::Text("Ana".to_owned()),
        Value::Null,
        Value::Float64(f64::NAN),
        Value::UInt64(u64::MAX),
        Value::Bytes(vec![0, 255]),
        Value::Decimal("9.99".to_owned()),
        Value::Json("{}".to_owned()),
    ];
    kinds.into_iter().cycle().take(statement.matches('?').count().min(64)).collect()
}
