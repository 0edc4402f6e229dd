//! Running programs and telling about it.

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Rust target of plugins.
const WASM_TARGET: &str = "wasm32-wasip2";

/// Why a command stopped, in a sentence that says what to do.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A line for the person.
pub(crate) fn say(line: &str) {
    let mut err = std::io::stderr().lock();
    err.write_all(line.as_bytes()).and_then(|()| err.write_all(b"\n")).ok();
}

/// The head of what comes next.
pub(crate) fn step(title: &str) {
    say(&format!("==> {title}"));
}

/// The folder of the checkout.
pub(crate) fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Cargo, in the checkout, with its output shown.
pub(crate) fn cargo(arguments: &[&str]) -> Result<(), Failure> {
    run(Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())).args(arguments))
}

/// Builds every plugin of the repository, and every guest of the tests, into `target/plugins` and `target/guests`, with
/// this `sandpost`.
pub(crate) fn build_plugins(sandpost: &Path) -> Result<(), Failure> {
    let root = repository();
    for (source, out) in [("plugins", "target/plugins"), ("tests/guests", "target/guests")] {
        step(&format!("Building {source}"));
        for folder in folders_with_manifest(&root.join(source))? {
            run(Command::new(sandpost).arg("build").arg(&folder).arg("--out").arg(root.join(out)))?;
        }
    }
    Ok(())
}

/// Makes sure that plugins can be compiled; adds the target where it is missing.
pub(crate) fn ensure_wasm_target() -> Result<(), Failure> {
    if has_wasm_target() {
        return Ok(());
    }
    step(&format!("Adding the target {WASM_TARGET}"));
    let added = Command::new("rustup").args(["target", "add", WASM_TARGET]).status();
    if matches!(added, Ok(status) if status.success()) && has_wasm_target() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "plugins need the Rust target {WASM_TARGET}, and `rustup target add {WASM_TARGET}` did not add it.\n\
         Check the network and run that command by hand; without rustup, install your distribution's package of the \
         standard library for {WASM_TARGET}."
    )))
}

/// Replaces this process where the system can, so that signals reach the host directly.
pub(crate) fn become_program(program: &Path, first: &[String], rest: &[String]) -> Result<(), Failure> {
    use std::os::unix::process::CommandExt as _;
    let error = Command::new(program).args(first).args(rest).current_dir(repository()).exec();
    Err(Failure::new(format!("{} did not start: {error}", program.display())))
}

fn folders_with_manifest(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return Err(Failure::new(format!("{} cannot be read: {error}", folder.display()))),
    };
    let mut folders: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.join("plugin.toml").is_file()).collect();
    folders.sort();
    Ok(folders)
}

fn has_wasm_target() -> bool {
    let libraries = Command::new("rustc").args(["--print", "target-libdir", "--target", WASM_TARGET]).output();
    libraries.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

fn run(command: &mut Command) -> Result<(), Failure> {
    let status = command
        .current_dir(repository())
        .status()
        .map_err(|error| Failure::new(format!("{} did not start: {error}", command.get_program().display())))?;
    if status.success() {
        Ok(())
    } else {
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        Err(Failure::new(format!("`{}` failed; its own words are above", words.join(" "))))
    }
}
