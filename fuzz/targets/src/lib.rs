//! One function for each thing that reads what others wrote. Each takes bytes and panics where a promise is broken.
//!
//! Called by the fuzzers (`fuzz/fuzz_targets`, nightly) with bytes that they make up, and by `tests/replay.rs` (stable,
//! every CI run) with each file of `fuzz/corpus`, so that what was found once is looked at again in every build.
//!
//! Invariants
//! - A target is a function of its bytes alone: the same bytes give the same verdict, whatever ran before.
//! - Nothing leaves the process: services are in memory or in a private folder, and no socket is opened.
//! - Only bytes that no caller could hand over (text that is not UTF-8 where the type is a string) pass unlooked at.
//!
//! Not here: making up bytes, and keeping the interesting ones (libFuzzer).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc, reason = "a target fails by panicking")]

mod config;
mod documents;
mod host_calls;
mod http;
mod mail;
mod memory;
mod plugin_file;
mod sql;
mod words;

pub use config::config;
pub use documents::documents;
pub use host_calls::host_calls;
pub use http::http;
pub use mail::mail;
pub use plugin_file::{artifact, manifest};
pub use sql::sql;
pub use words::words;

/// A target.
pub type Target = fn(&[u8]);

/// Every target by the name of its fuzzer and of its folder in the corpus.
pub const TARGETS: [(&str, Target); 9] = [
    ("artifact", artifact),
    ("config", config),
    ("documents", documents),
    ("host_calls", host_calls),
    ("http", http),
    ("mail", mail),
    ("manifest", manifest),
    ("sql", sql),
    ("words", words),
];

/// Runs a target's asynchronous part on this thread, with timers and nothing else.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}
