//! Where commands write: data to standard output, everything else to standard error.
//!
//! A reader that went away (`sandpost … | head`) is not an error.

use std::io::{IsTerminal as _, Write as _};

/// A line of data.
pub(crate) fn data(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).ok();
}

/// A line for the person: progress, a hint, an error.
pub(crate) fn note(line: &str) {
    let mut out = std::io::stderr().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).ok();
}

/// A line of progress: only where a person watches.
pub(crate) fn progress(line: &str) {
    if watched() {
        note(line);
    }
}

/// Whether a person watches standard error.
pub(crate) fn watched() -> bool {
    std::io::stderr().is_terminal()
}

/// JSON, indented where a person reads it.
pub(crate) fn json(value: &serde_json::Value) {
    let text = if std::io::stdout().is_terminal() {
        serde_json::to_string_pretty(value).unwrap_or_default()
    } else {
        value.to_string()
    };
    data(&text);
}

/// Columns aligned by spaces; the first row is the head. Nothing is cut.
pub(crate) fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        data(line.trim_end());
    }
}
