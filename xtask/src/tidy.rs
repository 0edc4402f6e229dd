//! The repository's own rules, checked like any test: each with the file that breaks it and why the rule is there.

use crate::tools::Failure;
use std::path::{Path, PathBuf};

/// A file past this is no longer one room.
const FILE_LINES_MAX: usize = 700;

/// Checks all rules and names every file that breaks one.
pub(crate) fn check(root: &Path) -> Result<(), Failure> {
    let mut broken = Vec::new();
    let mut files = Vec::new();
    for folder in ["host", "plugins", "sdk", "tests", "xtask"] {
        rust_files(&root.join(folder), &mut files);
    }
    for file in &files {
        let Ok(text) = std::fs::read_to_string(file) else { continue };
        let place = file.strip_prefix(root).unwrap_or(file).display();
        if !text.starts_with("//!") && !text.trim().is_empty() {
            broken.push(format!("{place}: does not open by saying what it is (`//!`)"));
        }
        if text.lines().count() > FILE_LINES_MAX {
            broken.push(format!("{place}: has more than {FILE_LINES_MAX} lines; is it still one room?"));
        }
        // Built from parts, so that this file does not break its own rule.
        for word in [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("#[", "ignore")] {
            if text.contains(word) {
                broken.push(format!("{place}: holds `{word}`; nothing unfinished or switched off is committed"));
            }
        }
    }
    dependencies(root, &mut broken);
    if broken.is_empty() { Ok(()) } else { Err(Failure::new(broken.join("\n"))) }
}

/// The layers of ARCHITECTURE.md: who may know whom. A crate that is not named here may know anybody.
fn dependencies(root: &Path, broken: &mut Vec<String>) {
    let rules: &[(&str, &[&str])] = &[
        ("host/crates/message", &[]),
        ("host/crates/ports", &["message"]),
        ("host/crates/telemetry", &["message"]),
        ("host/crates/mail", &["message", "ports"]),
        ("host/crates/guard", &["message", "ports", "telemetry"]),
        ("host/crates/dispatch", &["message", "ports", "telemetry"]),
        ("host/crates/ingress", &["message", "ports", "telemetry"]),
        ("host/crates/interfaces", &["message", "ports", "telemetry", "mail"]),
        ("host/crates/runtime", &["message", "ports", "telemetry", "interfaces"]),
        ("host/drivers/embedded/store", &["message", "ports"]),
        ("host/drivers/embedded/cache", &["message", "ports"]),
        ("host/drivers/embedded/email", &["message", "ports"]),
        ("host/drivers/embedded/sql", &["message", "ports"]),
        ("host/drivers/embedded/documents", &["message", "ports"]),
        ("host/drivers/mongo", &["message", "ports"]),
        ("host/drivers/pubsub", &["message", "ports"]),
        ("host/drivers/redis", &["message", "ports"]),
        ("host/drivers/ses", &["message", "ports"]),
        ("host/drivers/smtp", &["message", "ports"]),
        ("host/drivers/sql", &["message", "ports"]),
        ("host/drivers/state", &["message", "ports"]),
    ];
    for (folder, allowed) in rules {
        let Ok(text) = std::fs::read_to_string(root.join(folder).join("Cargo.toml")) else {
            broken.push(format!("{folder}: has no Cargo.toml, but a rule in xtask/src/tidy.rs"));
            continue;
        };
        let normal = text.split("[dev-dependencies]").next().unwrap_or_default();
        for line in normal.lines().filter_map(|line| line.strip_prefix("sandpost-")) {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if !allowed.contains(&name) {
                broken.push(format!("{folder}: must not depend on sandpost-{name}; see ARCHITECTURE.md, the layers"));
            }
        }
    }
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                rust_files(&path, into);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}
