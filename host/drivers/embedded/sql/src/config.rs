//! What an operator can set for a SQLite database, and why one could not be opened.
//!
//! Not here: the label plugins know it by (`host`).

use std::path::PathBuf;

/// One SQLite database. Every key has a default; an unknown key is refused.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The file; its folder must exist. Default none: the data lives as long as the program, in a private file below
    /// the system's temporary folder. A file and not SQLite's own `:memory:`, so that readers and the writer do not
    /// wait for one another here either.
    pub path: Option<PathBuf>,
    /// SQL that is run once, all of it or nothing, when the database is new. Default none.
    pub init_file: Option<PathBuf>,
    /// Read-only connections, each a thread. Default 4: SQLite reads are short, and more than there are cores gain
    /// nothing but patience for slow ones.
    pub readers: usize,
    /// How long a call waits for a free connection, or for another program's lock, before it is
    /// [unavailable](sandpost_ports::ErrorKind::Unavailable). Default 5 000.
    pub wait_max_ms: u64,
    /// How long a transaction may lie there between two calls before it is rolled back. Default 5 000: the writer is
    /// held all that time.
    pub transaction_idle_max_ms: u64,
    /// How long a transaction may take as a whole before it is rolled back. Default 30 000.
    pub transaction_max_ms: u64,
    /// Size of the database; a write past it is [exceeded](sandpost_ports::ErrorKind::Exceeded). Default 1 GiB.
    pub size_max_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: None,
            init_file: None,
            readers: 4,
            wait_max_ms: 5_000,
            transaction_idle_max_ms: 5_000,
            transaction_max_ms: 30_000,
            size_max_bytes: 1 << 30,
        }
    }
}

/// Most [`Config::readers`]: each is a thread and a page cache.
pub(crate) const READERS_MAX: usize = 64;

/// Why a database could not be opened. For the operator: it may name paths.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A number in the configuration is out of range.
    #[error("`{key}` is {value}; it must be between {min} and {max}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// What it was set to.
        value: u64,
        /// The least it may be.
        min: u64,
        /// The most it may be.
        max: u64,
    },
    /// The private file of a database without a path.
    #[error("no temporary folder for a database that is not kept")]
    Temporary(#[source] std::io::Error),
    /// [`Config::init_file`] could not be read.
    #[error("the init file {} cannot be read", path.display())]
    InitFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The SQL of [`Config::init_file`] failed; the database is as empty as before.
    #[error("the init file {} failed", path.display())]
    Init {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// SQLite could not open the file or set it up.
    #[error("the database {} cannot be opened", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// A thread could not be started.
    #[error("no thread for a database connection")]
    Thread(#[source] std::io::Error),
}
