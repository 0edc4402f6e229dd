//! What an operator may set, and why the catcher did not open.

use std::path::PathBuf;

/// The mail catcher.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The `SQLite` file; its folder is made where it is missing. In memory, gone with the host, where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Mails that are kept. Default 500, as Mailpit does.
    pub mails_max: u32,
    /// What they may take together. Default 268 435 456 (256 MiB). The newest is kept, however large.
    pub mails_max_bytes: u64,
    /// Keys that are remembered, so that sending again sends nothing. Default 100 000: about 20 MB.
    pub keys_max: u32,
    /// Recipients in 24 hours, to try out how plugins take throttling (SES's sandbox: 200). No limit where left out.
    /// Counts what the remembered keys tell of, so at most `keys_max` mails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_day: Option<u32>,
    /// Recipients in a second (SES's sandbox: 1). No limit where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: None,
            mails_max: 500,
            mails_max_bytes: 256 * 1024 * 1024,
            keys_max: 100_000,
            per_day: None,
            per_second: None,
        }
    }
}

/// Why the catcher did not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder of the file could not be made.
    #[error("the folder of `{}` could not be made", path.display())]
    Folder {
        /// The file that was to be in it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// `SQLite` could not open it, or it is not a catcher's file.
    #[error("the mail catcher's file could not be opened")]
    Sqlite(#[from] rusqlite::Error),
    /// A newer Sandpost wrote it.
    #[error("the mail catcher's file has version {found}; this program knows up to {known}")]
    Newer {
        /// Of the file.
        found: i64,
        /// Of this program.
        known: i64,
    },
    /// A bound of zero would drop every mail at once.
    #[error("`{0}` is 0; it must be at least 1")]
    Zero(&'static str),
}
