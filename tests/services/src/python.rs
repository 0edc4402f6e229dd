//! Servers from PyPI, in the virtual environment that `tests/services/install.sh` makes under `target/services/python`.

use crate::find;
use std::path::PathBuf;
use std::process::Command;

/// A program of this name in it; `python3` is Python itself.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    Some(find::services_folder().join("python/bin").join(name)).filter(|file| file.is_file())
}

/// The installed version of this distribution.
pub(crate) fn version(distribution: &str) -> String {
    let asked = program("python3").and_then(|python| {
        let question = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))";
        Command::new(python).args(["-c", question, distribution]).output().ok()
    });
    let answer = asked.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    answer.filter(|version| !version.is_empty()).unwrap_or_else(|| "of unknown version".to_owned())
}
