//! `log`: a plugin's lines, with the plugin, its version, the message and the trace put on by the host.
//!
//! Invariants
//! - At most `log_max_bytes` for one message; what is over is dropped, and one line says so.
//! - A line stays a line: control characters are escaped.

use crate::bindings::log::{Host, Level};
use crate::call::{Call, sum};
use sandpost_telemetry::events::interfaces as events;

const LOG: &str = "log";

/// Bytes counted for a line beside its texts, so that empty lines are not free.
const LINE_OVERHEAD_BYTES: u64 = 32;

impl Host for Call {
    async fn log(&mut self, level: Level, message: String, fields: Vec<(String, String)>) -> wasmtime::Result<()> {
        let bytes = message.len().saturating_add(sum(fields.iter().map(|(name, value)| name.len() + value.len())));
        let entered = self.enter(LOG, "log", bytes)?;
        let (plugin, version, message_id, trace_id) = self.scope.ids();
        let limit_bytes = self.scope.limits().log_max_bytes;
        let after = self.budget.log_bytes.saturating_add(bytes as u64).saturating_add(LINE_OVERHEAD_BYTES);
        let outcome = if after > limit_bytes {
            if !self.budget.log_dropped {
                events::PluginLogDropped { plugin, version, message_id, trace_id, limit_bytes }.emit();
            }
            self.budget.log_dropped = true;
            "dropped"
        } else {
            self.budget.log_bytes = after;
            let level = match level {
                Level::Trace => events::PluginLogLevel::Trace,
                Level::Debug => events::PluginLogLevel::Debug,
                Level::Info => events::PluginLogLevel::Info,
                Level::Warn => events::PluginLogLevel::Warn,
                Level::Error => events::PluginLogLevel::Error,
            };
            let message = one_line(&message);
            events::PluginLog { level, plugin, version, message_id, trace_id, message: &message, fields: &fields }
                .emit();
            "ok"
        };
        self.leave_as(entered, outcome, 0)
    }
}

/// The text with its control characters escaped.
fn one_line(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let mut line = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if character.is_control() { line.extend(character.escape_default()) } else { line.push(character) }
    }
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_a_line() {
        assert_eq!(one_line("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(one_line("tschüs"), "tschüs");
    }
}
