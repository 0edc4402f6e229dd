//! What an operator can set for a document database, and why one could not be opened.
//!
//! Not here: the label plugins know it by, and which indexes there are (`host`).

use std::path::PathBuf;

/// One document database. Every key has a default; an unknown key is refused.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The file; its folder must exist. Default none: in memory, for as long as the program runs.
    pub path: Option<PathBuf>,
    /// How long a call waits for its turn before it is [unavailable](sandpost_ports::ErrorKind::Unavailable). Default
    /// 5 000.
    pub wait_max_ms: u64,
    /// Documents that one call may look at. Default 100 000, which takes about half a second; more is a missing index,
    /// and everybody else would wait for it.
    pub scan_max_documents: usize,
    /// Memory for sorting, grouping and the results of a pipeline, in one call. Default 64 MiB.
    pub memory_max_bytes: usize,
    /// Size of the database; a write past it is [exceeded](sandpost_ports::ErrorKind::Exceeded). Default 1 GiB.
    pub size_max_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: None,
            wait_max_ms: 5_000,
            scan_max_documents: 100_000,
            memory_max_bytes: 64 << 20,
            size_max_bytes: 1 << 30,
        }
    }
}

/// Why a document database could not be opened. For the operator: it may name paths.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// SQLite could not open the file or set it up.
    #[error("the database {} cannot be opened", path.as_ref().map_or_else(|| "in memory".into(), |path| path.display().to_string()))]
    Database {
        /// The file, where there is one.
        path: Option<PathBuf>,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// It is a database of another kind or of a later version.
    #[error("the database {} is not one of documents that this version knows", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The thread could not be started.
    #[error("no thread for the database connection")]
    Thread(#[source] std::io::Error),
}
