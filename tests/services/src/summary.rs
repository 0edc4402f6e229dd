//! What each suite ran against, and what was not checked and why: the table at the end of `cargo xtask test`.
//!
//! Each test process writes rows to a file of its own under `target/services/summary`, so that processes that run at the
//! same time do not clash; the program `services-summary` prints them as one table and clears them.
//!
//! A server that a test was given, or not given, leaves a row by itself. A test that calls [`checked`] has the row under
//! its own name instead of the binary's.

use crate::{find, server::Server};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

/// The suite ran on this server to its end.
pub fn checked(suite: &str, server: &Server) {
    write(Verdict::Checked, suite, server.kind(), server.version());
}

/// The suite, or a part of it that a server cannot do, was not run, and why.
pub fn not_checked(suite: &str, why: &str) {
    write(Verdict::NotChecked, suite, "", why);
}

/// Takes all rows and returns them as a table, the unchecked ones last; nothing when there are none.
pub fn take() -> String {
    let folder = folder();
    let mut rows = BTreeSet::new();
    for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        rows.extend(text.lines().filter_map(Row::read));
        // One that stays is printed twice, which is not worth failing for.
        drop(std::fs::remove_file(entry.path()));
    }
    table(&rows)
}

/// A server was handed to a test of this binary.
pub(crate) fn used(server: &Server) {
    write(Verdict::Used, "", server.kind(), server.version());
}

/// A test of this binary asked for a server that is not to be had.
pub(crate) fn missing(kind: &str, why: &str) {
    write(Verdict::NotChecked, "", "", &format!("{kind}: {why}"));
}

/// In the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Checked,
    Used,
    NotChecked,
}

/// One line of a file: its fields between tabs.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    verdict: Verdict,
    /// The package and its test binary.
    binary: String,
    /// Empty where the test gave no name.
    suite: String,
    kind: String,
    /// The version, or why it was not checked.
    detail: String,
}

impl Row {
    fn read(line: &str) -> Option<Self> {
        let mut fields = line.split('\t').map(str::to_owned);
        let verdict = match fields.next()?.as_str() {
            "checked" => Verdict::Checked,
            "used" => Verdict::Used,
            "not checked" => Verdict::NotChecked,
            _ => return None,
        };
        let mut next = || fields.next();
        Some(Self { verdict, binary: next()?, suite: next()?, kind: next()?, detail: next()? })
    }

    fn name(&self) -> &str {
        if self.suite.is_empty() { &self.binary } else { &self.suite }
    }
}

fn write(verdict: Verdict, suite: &str, kind: &str, detail: &str) {
    let word = match verdict {
        Verdict::Checked => "checked",
        Verdict::Used => "used",
        Verdict::NotChecked => "not checked",
    };
    let mut line = word.to_owned();
    for field in [&*binary(), suite, kind, detail] {
        line.push('\t');
        line.extend(field.chars().map(|letter| if letter.is_control() { ' ' } else { letter }));
    }
    line.push('\n');
    let folder = folder();
    let append = || -> std::io::Result<()> {
        std::fs::create_dir_all(&folder)?;
        let file = folder.join(format!("{}.tsv", std::process::id()));
        // One write: the threads of this process do not cut into each other's lines.
        File::options().create(true).append(true).open(file)?.write_all(line.as_bytes())
    };
    if let Err(error) = append() {
        eprintln!("warning: no row in the summary of servers: {error}: {line}");
    }
}

fn folder() -> PathBuf {
    find::services_folder().join("summary")
}

/// `sandpost-redis contract`: the package, as Cargo says it, and the binary without the hash in its name.
fn binary() -> String {
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_default();
    let program = std::env::current_exe().ok();
    let stem = program.as_deref().and_then(|path| path.file_stem()?.to_str()).unwrap_or_default();
    let name = match stem.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => name,
        _ => stem,
    };
    format!("{package} {name}").trim().to_owned()
}

fn table(rows: &BTreeSet<Row>) -> String {
    // Said by name, it need not be said by binary too.
    let said: BTreeSet<_> =
        rows.iter().filter(|row| row.verdict == Verdict::Checked).map(|row| (&row.binary, &row.kind)).collect();
    let rows: Vec<_> =
        rows.iter().filter(|row| row.verdict != Verdict::Used || !said.contains(&(&row.binary, &row.kind))).collect();
    let width = rows.iter().map(|row| row.name().chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for row in rows {
        let (name, detail) = (row.name(), &row.detail);
        let written = match row.verdict {
            Verdict::NotChecked => writeln!(text, "{name:width$}  NOT CHECKED: {detail}"),
            Verdict::Checked | Verdict::Used => writeln!(text, "{name:width$}  {} {detail}", row.kind),
        };
        debug_assert!(written.is_ok(), "text takes what is written to it");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lines: &str) -> BTreeSet<Row> {
        lines.lines().map(|line| Row::read(line).expect("a row")).collect()
    }

    #[test]
    fn a_suite_that_names_itself_stands_for_its_binary_and_the_unchecked_come_last() {
        let table = table(&rows(
            "not checked\tp faults\t\t\tRedis: redis-server is not installed\n\
             used\tp contract\t\tRedis\t7.0.15\n\
             used\tp contract\t\tMariaDB\t10.11.19\n\
             checked\tp contract\tcache contract\tRedis\t7.0.15",
        ));
        assert_eq!(
            table,
            "cache contract  Redis 7.0.15\n\
             p contract      MariaDB 10.11.19\n\
             p faults        NOT CHECKED: Redis: redis-server is not installed\n"
        );
    }

    #[test]
    fn the_same_row_is_shown_once_and_nothing_is_nothing() {
        assert_eq!(table(&rows("used\tp t\t\tRedis\t7.0.15\nused\tp t\t\tRedis\t7.0.15")), "p t  Redis 7.0.15\n");
        assert_eq!(table(&BTreeSet::new()), "");
    }
}
