//! What the end-to-end tests share: the real program on a free port, with its own folder, ended by its PID.
//!
//! Invariants
//! - Nothing here knows the inside of the program: configuration in, HTTP and files out.
//! - Nothing sleeps a fixed time: [`Host::eventually`] polls with a deadline, and says what it saw last.
//! - A host is killed when its test ends, however it ends.
//!
//! `cargo xtask test` builds what is needed first: the program, the plugins and the guests.

mod client;
pub mod component;
mod dice;
mod host;
mod reply;

pub use client::{Client, Unanswered};
pub use dice::Dice;
pub use host::{Host, Setup, program, run_build, run_program, services_program};
pub use reply::Reply;

use std::path::{Path, PathBuf};

/// The folder of the checkout.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the repository").to_owned()
}

/// A plugin that ships, as `cargo xtask test` built it.
pub fn plugin(name: &str) -> PathBuf {
    built("plugins", name)
}

/// A guest that only tests use.
pub fn guest(name: &str) -> PathBuf {
    built("guests", name)
}

fn built(folder: &str, name: &str) -> PathBuf {
    let path = repository().join("target").join(folder).join(format!("{name}.wasm"));
    assert!(path.is_file(), "{} is missing; `cargo xtask test` builds it", path.display());
    path
}

/// `scripted` with another deadline than its own, for tests of what comes when it is over.
pub fn scripted_within(deadline_ms: u64, out: &Path) -> PathBuf {
    let manifest = repository().join("tests/guests/scripted/plugin.toml");
    let text = std::fs::read_to_string(manifest).expect("the manifest");
    let hasty = text.replace("deadline_ms = 20000", &format!("deadline_ms = {deadline_ms}"));
    assert_ne!(hasty, text, "the manifest's deadline is another");
    rebuilt(&guest("scripted"), &hasty, out)
}

/// The same component under another manifest: another version, another digest.
pub fn rebuilt(source: &Path, manifest: &str, out: &Path) -> PathBuf {
    let folder = tempfile::tempdir().expect("a folder for the manifest");
    std::fs::write(folder.path().join("plugin.toml"), manifest).expect("the manifest is written");
    let arguments = [
        "build".to_owned(),
        folder.path().display().to_string(),
        "--component".to_owned(),
        source.display().to_string(),
        "--out".to_owned(),
        out.display().to_string(),
    ];
    let run = run_program(&arguments, &[]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    PathBuf::from(String::from_utf8_lossy(&run.stdout).trim())
}
