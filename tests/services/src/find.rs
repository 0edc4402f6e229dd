//! Programs and folders: where a server's program is, and where this harness keeps what it builds.

use crate::server::Missing;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Folders of programs that are not on everybody's `PATH`.
const SYSTEM_FOLDERS: [&str; 6] =
    ["/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/opt/homebrew/bin", "/opt/homebrew/sbin"];

/// The program of this name: on the `PATH`, in the system's folders, or in one of `more`.
pub(crate) fn program(name: &str, more: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
        .chain(more.iter().cloned())
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The first dotted number in what the program prints when it is called so: `redis-server --version` → `7.0.15`.
pub(crate) fn version(program: &Path, argument: &str) -> String {
    let printed = Command::new(program).arg(argument).stdin(Stdio::null()).output();
    let printed = printed.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    dotted_number(&String::from_utf8_lossy(&printed)).unwrap_or_else(|| "of unknown version".to_owned())
}

/// The first word with a dot between digits, without what is around it.
pub(crate) fn dotted_number(text: &str) -> Option<String> {
    text.split(|letter: char| !(letter.is_ascii_digit() || letter == '.')).find_map(|word| {
        let word = word.trim_matches('.');
        word.contains('.').then(|| word.to_owned())
    })
}

/// Runs a program to its end; otherwise says what it printed last.
pub(crate) fn run(command: &mut Command) -> Result<(), Missing> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| Missing::new(format!("{name}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let printed = [output.stdout, output.stderr].concat();
    Err(Missing::new(format!("{name} failed: {}", last_lines(&String::from_utf8_lossy(&printed)))))
}

/// The end of a log, on one line.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" / ")
}

/// The repository's root.
pub(crate) fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// `target/services`: what is built or recorded here and outlives a test. Made when it is not there.
pub(crate) fn services_folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from);
    let folder = target.join("services");
    // Whoever writes into it says it when it is not there.
    drop(std::fs::create_dir_all(&folder));
    folder
}

/// Whether this process is root: some servers refuse to run so, others must be told.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// User and group `nobody`, as whom a server runs that refuses root.
pub(crate) fn nobody() -> (u32, u32) {
    const USUAL: u32 = 65_534;
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let fields: Option<Vec<&str>> =
        users.lines().find(|line| line.starts_with("nobody:")).map(|line| line.split(':').collect());
    let number = |at: usize| fields.as_ref().and_then(|fields| fields.get(at)?.parse().ok()).unwrap_or(USUAL);
    (number(2), number(3))
}
