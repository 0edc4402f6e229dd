//! How the program ends: exit codes, and how an error looks.
//!
//! The numbers are those of BSD's `sysexits.h`, so that a script can tell a wrong configuration from a service that is
//! down. Everything goes to standard error; standard output is for data.

use std::process::ExitCode;

/// Why a command ends other than well. Documented in `sandpost --help`; a number never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The host said no: not found, not allowed, refused.
    Failure = 1,
    /// The command line is wrong.
    Usage = 64,
    /// A plugin was refused: it does not build, does not parse, or asks for what it may not have.
    Plugin = 65,
    /// The host, or a service behind it, cannot be reached.
    Unavailable = 69,
    /// A fault of this program.
    Bug = 70,
    /// The configuration is wrong.
    Config = 78,
}

/// What went wrong, where, and what to do.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) exit: Exit,
    /// A fragment with its reason: "failed to read config: …".
    pub(crate) message: String,
    /// Lines below it, already formatted: a place in a file, a list.
    pub(crate) details: Vec<String>,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

impl Expected {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), details: Vec::new(), hint: None }
    }

    pub(crate) fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn render(&self) -> String {
        let mut text = format!("error: {}", self.message);
        for line in &self.details {
            text.push_str("\n  ");
            text.push_str(line);
        }
        if let Some(hint) = &self.hint {
            text.push_str("\n\nhint: ");
            text.push_str(hint);
        }
        text
    }
}

/// An error with all that lies underneath, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// Reports the error on standard error and chooses the code.
pub(crate) fn report(error: &Expected, json: bool) -> ExitCode {
    if json {
        let Expected { exit, message, details, hint } = error;
        let (code, error) = (*exit as u8, serde_json::json!({ "message": message, "details": details, "hint": hint }));
        crate::output::note(&serde_json::json!({ "error": error, "exit_code": code }).to_string());
    } else {
        crate::output::note(&error.render());
    }
    ExitCode::from(error.exit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_where_and_what_to_do() {
        let error = Expected::new(Exit::Config, "failed to read config: unknown key `dead_line_ms`")
            .detail("--> sandpost.toml:14")
            .hint("did you mean `deadline_ms`?");
        let lines = [
            "error: failed to read config: unknown key `dead_line_ms`",
            "  --> sandpost.toml:14",
            "",
            "hint: did you mean `deadline_ms`?",
        ];
        assert_eq!(error.render(), lines.join("\n"));
    }

    #[test]
    fn a_chain_is_one_line() {
        let inner = std::io::Error::other("inner");
        let outer = std::io::Error::other(sandpost_ports::PortError::invalid("middle").because(inner));
        assert_eq!(chain(&outer), "middle: inner");
    }
}
