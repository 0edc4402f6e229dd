//! Opening the file: the lock, the settings, the schema, and the end of the last run's leases.
//!
//! Not here: the tables themselves (`schema`).

use crate::broker::bundle;
use crate::broker::lease::Returns;
use crate::broker::lines::Lines;
use crate::broker::opened::Opened;
use crate::broker::recent::Recent;
use crate::config::Config;
use crate::reader;
use crate::row::int;
use crate::schema::{self, Found};
use crate::state::ledger::{Actors, Pending};
use crate::store::{Inner, Store, Thread};
use crate::writer::{Ids, Work, Writer};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use sandpost_message::TimestampMs;
use sandpost_ports::clock::Clock;
use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// How long SQLite waits where somebody else, a person with `sqlite3` say, holds the file.
const BUSY_MS: u64 = 5_000;

/// Pages in the log before it is written back. More than SQLite's 1000: a checkpoint syncs twice.
const CHECKPOINT_PAGES: i64 = 4_000;

/// What the log is cut to after it had to grow.
const LOG_KEEP_BYTES: i64 = 64 * 1024 * 1024;

/// Pages kept in memory by each connection, in KiB as SQLite's negative numbers count.
const CACHE_KIB: i64 = -32 * 1024;

/// Prepared statements that are kept; there are fewer.
const STATEMENTS_KEPT: usize = 128;

/// Why the store did not open. Fragments that read on after "failed to open the store: ".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting is out of range.
    #[error("{0}")]
    Config(&'static str),
    /// Another host, or another store of this one, has it.
    #[error("`{}` is in use by another host", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer version of this program.
    #[error("`{}` has schema {found}, and this program knows schemas up to {known}: run a newer one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest that this program knows.
        known: usize,
    },
    /// The file belongs to another program.
    #[error("`{}` is a database, but not a store of this program", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file system says no.
    #[error("`{}` cannot be opened", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it says.
        #[source]
        source: std::io::Error,
    },
    /// SQLite says no.
    #[error("`{}` cannot be used", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What it says.
        #[source]
        source: rusqlite::Error,
    },
    /// A thread did not start.
    #[error("no thread could be started")]
    Thread(#[source] std::io::Error),
}

/// Opens the store in this file, which is made where it is missing; without a path, in memory, for trials and tests.
///
/// All leases of the last run end: their messages are deliverable at once, and their attempts stay counted. Beside the
/// file lie `-wal` and `-shm` of SQLite, and `.lock`, which is held until the store is closed. Blocks while it works;
/// the larger the backlog, the longer (a million deliveries take about a second).
pub fn open(path: Option<&Path>, config: &Config, clock: Arc<dyn Clock>) -> Result<Store, OpenError> {
    if let Some(fault) = config.fault() {
        return Err(OpenError::Config(fault));
    }
    let path = path.map(settled).transpose()?;
    let shown = path.clone().unwrap_or_else(|| PathBuf::from(":memory:"));
    let lock = path.as_deref().map(lock).transpose()?;
    let sqlite = |source| OpenError::Sqlite { path: shown.clone(), source };

    let mut conn = connect(path.as_deref(), config).map_err(sqlite)?;
    match schema::inspect(&conn).map_err(sqlite)? {
        Found::Ours(seen) => schema::migrate(&mut conn, seen).map_err(sqlite)?,
        Found::Newer(found) => return Err(OpenError::Newer { path: shown, found, known: schema::MIGRATIONS.len() }),
        Found::Foreign => return Err(OpenError::Foreign { path: shown }),
    }
    let now_ms = clock.now_ms();
    begin_run(&mut conn, now_ms).map_err(sqlite)?;
    let mut opened = Opened::default();
    let work = Work {
        lines: Lines::load(&conn, config.queue_max, &mut opened).map_err(sqlite)?,
        ids: Ids::load(&conn).map_err(sqlite)?,
        conn,
        now_ms,
        dedupe_window_ms: config.dedupe_window_ms,
        accept_max_bytes: config.accept_max_bytes(),
        granted: Vec::new(),
        recent: Recent::default(),
        keys_remembered: 0,
        gathered: Vec::new(),
        opened,
        actors: Actors::default(),
        pending: Pending::default(),
        room_bytes: None,
        taken_bytes: 0,
    };

    let wait = Duration::from_millis(config.close_wait_ms);
    let (mut reads, mut reader) = (None, None);
    if let Some(path) = &path {
        let conn = connect_reader(path).map_err(sqlite)?;
        let (ask, asked) = mpsc::channel(config.queue_max);
        reader =
            Some(Thread::start("store-reader", wait, move || reader::run(conn, asked)).map_err(OpenError::Thread)?);
        reads = Some(ask);
    }

    let writer = Writer {
        work,
        clock,
        returns: Arc::new(Returns::default()),
        batch_max: config.batch_max,
        ends_failed: false,
        clock_was_ms: None,
        lock,
    };
    let (commands, queue) = mpsc::channel(config.queue_max);
    // The thread's own runtime has nothing to do but wait for the channel and the clock.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(OpenError::Thread)?;
    let writer = Thread::start("store-writer", wait, move || runtime.block_on(writer.run(queue)));
    let queue_max_kib = u32::try_from(config.queue_max_bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(u32::MAX >> 4);
    Ok(Store {
        inner: Arc::new(Inner {
            reads,
            _reader: reader,
            commands,
            _writer: writer.map_err(OpenError::Thread)?,
            queue_room_kib: Arc::new(Semaphore::new(usize::try_from(queue_max_kib).unwrap_or(usize::MAX))),
            queue_max_kib,
            keep: config.ledger,
        }),
    })
}

/// The path with its links followed, so that two ways to one file meet at one lock.
fn settled(path: &Path) -> Result<PathBuf, OpenError> {
    let file = |source| OpenError::File { path: path.to_owned(), source };
    if path.exists() {
        return path.canonicalize().map_err(file);
    }
    let name = path.file_name().ok_or_else(|| file(std::io::ErrorKind::IsADirectory.into()))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(file)?;
    Ok(folder.canonicalize().map_err(file)?.join(name))
}

/// A file of its own: closing any other handle of the database's file would take SQLite's locks away.
fn lock(path: &Path) -> Result<File, OpenError> {
    let mut name = OsString::from(path);
    name.push(".lock");
    let file = |source| OpenError::File { path: path.to_owned(), source };
    let lock = File::options().create(true).truncate(false).write(true).open(&name).map_err(file)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(file(error)),
    }
}

fn connect(path: Option<&Path>, config: &Config) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = if let Some(path) = path {
        Connection::open_with_flags(path, flags)?
    } else {
        let mut conn = Connection::open_in_memory_with_flags(flags)?;
        schema::fill(&mut conn)?;
        conn
    };
    settle_in(&conn)?;
    // Before anything is written, so that a foreign file is left as it was found.
    if schema::inspect(&conn)? == Found::Foreign {
        return Ok(conn);
    }
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    // On macOS alone, where a plain sync leaves the data in the drive's cache.
    conn.pragma_update(None, "fullfsync", true)?;
    conn.pragma_update(None, "checkpoint_fullfsync", true)?;
    conn.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    conn.pragma_update(None, "journal_size_limit", LOG_KEEP_BYTES)?;
    conn.pragma_update(None, "cache_size", CACHE_KIB)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    let page_bytes: i64 = conn.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    conn.pragma_update(None, "max_page_count", int(config.disk_max_bytes) / page_bytes.max(512))?;
    Ok(conn)
}

fn connect_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    settle_in(&conn)?;
    conn.pragma_update(None, "cache_size", CACHE_KIB)?;
    Ok(conn)
}

fn settle_in(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(Duration::from_millis(BUSY_MS))?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    // A statement with a range would be compiled anew each time that it is bound.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Ends the leases of the last run, whose host is gone, and brings in line what a clock that was ahead has left.
fn begin_run(conn: &mut Connection, now_ms: TimestampMs) -> rusqlite::Result<()> {
    let transaction = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    transaction.execute(
        "UPDATE deliveries SET visible_at_ms = min(visible_at_ms, ?1), lease = 0 WHERE lease <> 0",
        [int(now_ms)],
    )?;
    bundle::begin_run(&transaction, now_ms)?;
    // Published in the future, and not for later: the clock was ahead then, and they were due at once.
    transaction.execute(
        "UPDATE deliveries SET visible_at_ms = ?1 WHERE visible_at_ms > ?1 AND attempt = 0 AND seq IN
         (SELECT seq FROM messages WHERE published_at_ms > ?1 AND not_before_ms <= published_at_ms)",
        [int(now_ms)],
    )?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `.cargo/config.toml` says has reached the compiler; of the sync that it asks for there SQLite tells nothing.
    #[test]
    fn sqlite_is_compiled_as_the_repository_says() {
        let conn = Connection::open_in_memory().unwrap();
        let mut options = conn.prepare("PRAGMA compile_options").unwrap();
        let options: Vec<String> = options.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        for wanted in ["DEFAULT_MEMSTATUS=0", "DISABLE_PAGECACHE_OVERFLOW_STATS"] {
            assert!(options.iter().any(|option| option == wanted), "{wanted}: {options:?}");
        }
        assert!(!options.iter().any(|option| option == "ENABLE_MEMORY_MANAGEMENT"), "{options:?}");
    }
}
