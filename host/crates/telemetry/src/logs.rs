//! Log lines: readable ones on a terminal, JSON elsewhere, with the keys of the origin documents.
//!
//! A JSON line is `{"timestamp", "level", "service", "module", "message", "metadata"}`: `service` is the host's
//! configured name, `module` the plugin that speaks or else the part of the host, `metadata` every other field of the
//! event and of the spans around it, ids and `trace_id` among them.
//!
//! Lines go to standard error: standard output is for data.

use crate::redact;
use crate::traces::{self, Export, Traces};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Readable on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// The least that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Everything.
    Trace,
    /// A line a message.
    Debug,
    /// Start, stop, swap, configuration.
    #[default]
    Info,
    /// What mended itself.
    Warn,
    /// A message was lost, or a person must act.
    Error,
}

/// Starts logging for the process, and the export of traces where that is wanted. `terminal` says whether a person watches
/// standard error.
pub fn init(service: &str, level: Level, format: Format, terminal: bool, export: Export) -> Result<Traces, LogError> {
    let level = match level {
        Level::Trace => "trace",
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    // Libraries speak only when something is wrong: their debug lines can hold addresses.
    let filter = EnvFilter::try_new(format!("warn,sandpost={level},plugin={level}"))
        .map_err(|error| LogError(error.to_string()))?;
    let as_json = match format {
        Format::Json => true,
        Format::Text => false,
        Format::Auto => !terminal,
    };
    let style = if as_json { Style::Json { service: service.to_owned() } } else { Style::Text { colours: terminal } };
    traces::install(filter, Lines(style), export)
}

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
#[error("logs cannot be written: {0}")]
pub struct LogError(pub(crate) String);

/// Both styles show the same fields, redacted the same.
pub(crate) struct Lines(Style);

/// What spans say for the trace that is exported alone begins with this, and is in no line.
const TRACES_ALONE: &str = "otel.";

enum Style {
    Json { service: String },
    Text { colours: bool },
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &tracing::span::Attributes<'_>, id: &tracing::Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &tracing::Id, values: &tracing::span::Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(kept) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(kept);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut metadata = Map::new();
        if let Some(scope) = context.event_scope(event) {
            for span in scope.from_root() {
                if let Some(Fields(fields)) = span.extensions().get::<Fields>() {
                    metadata.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
                }
            }
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        metadata.extend(fields.0.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        let line = match &self.0 {
            Style::Json { service } => json_line(service, level, target, metadata),
            Style::Text { colours } => text_line(level, target, metadata, *colours),
        };
        // One write for the whole line, so that lines of several threads do not mix. A closed standard error is not
        // a reason to stop the host.
        std::io::stderr().lock().write_all(line.as_bytes()).ok();
    }
}

fn json_line(service: &str, level: tracing::Level, target: &str, mut metadata: Map<String, Value>) -> String {
    let (module, message) = parts(target, &mut metadata);
    let object = serde_json::json!({
        "timestamp": now(),
        "level": level.as_str().to_ascii_lowercase(),
        "service": service,
        "module": module,
        "message": message,
        "metadata": metadata,
    });
    let mut line = object.to_string();
    line.push('\n');
    line
}

/// `12:30:05.123 INFO  dispatch: A sentence. key=value key="two words"`
fn text_line(level: tracing::Level, target: &str, mut metadata: Map<String, Value>, colours: bool) -> String {
    let (module, message) = parts(target, &mut metadata);
    let colour = match level {
        tracing::Level::ERROR => "31",
        tracing::Level::WARN => "33",
        tracing::Level::INFO => "32",
        _ => "34",
    };
    let paint = |code: &str, text: &str| {
        if colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    };
    let timestamp = now();
    let time = timestamp.get(11..23).unwrap_or(&timestamp);
    let message = message.as_str().unwrap_or_default().to_owned();
    let level = paint(colour, &format!("{:5}", level.as_str()));
    let mut line = format!("{} {level} {}: {message}", paint("2", time), paint("1", &module));
    for (key, value) in metadata {
        let value = match value {
            Value::String(text) if text.is_empty() || text.contains([' ', '"', '\n']) => format!("{text:?}"),
            Value::String(text) => text,
            other => other.to_string(),
        };
        line.push(' ');
        line.push_str(&paint("2", &format!("{key}=")));
        line.push_str(&value);
    }
    line.push('\n');
    line
}

/// Takes the message out of the fields, spreads a plugin's own, and names the module.
fn parts(target: &str, metadata: &mut Map<String, Value>) -> (String, Value) {
    let message = metadata.shift_remove("message").unwrap_or_default();
    if target == PLUGIN {
        spread(metadata);
    }
    let module = match metadata.get("plugin") {
        Some(Value::String(plugin)) if target == PLUGIN => plugin.clone(),
        _ => module_of(target).to_owned(),
    };
    (module, message)
}

/// RFC 3339 with milliseconds, UTC.
fn now() -> String {
    OffsetDateTime::now_utc().format(TIMESTAMP).unwrap_or_default()
}

const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// The target of what plugins say; `interfaces::log` writes it.
const PLUGIN: &str = "plugin";

/// The part of the host that a target belongs to: `sandpost_telemetry::events::runtime` is the runtime's, because its
/// events are written there.
fn module_of(target: &str) -> &str {
    let own = target.strip_prefix("sandpost_telemetry::events::").or_else(|| target.strip_prefix("sandpost::"));
    own.unwrap_or(target).trim_start_matches("sandpost_").split("::").next().unwrap_or(target)
}

/// A plugin's own fields come as one field with a JSON object; each becomes an entry, unless the host has that key.
fn spread(metadata: &mut Map<String, Value>) {
    let Some(Value::String(text)) = metadata.shift_remove("fields") else { return };
    match serde_json::from_str::<Map<String, Value>>(&text) {
        Ok(fields) => {
            for (key, value) in fields {
                metadata.entry(key).or_insert(value);
            }
        }
        Err(_) => {
            metadata.insert("fields".to_owned(), Value::String(text));
        }
    }
}

/// The fields of an event, or of a span, beside which they are kept for the events inside. A list, because every message
/// has spans and most have no line.
#[derive(Default)]
struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl FnOnce() -> Value) {
        let name = field.name();
        if name.starts_with(TRACES_ALONE) {
            return;
        }
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, earlier)) => *earlier = value(),
            None => self.0.push((name, value())),
        }
    }
}

fn redacted(text: String) -> Value {
    let changed = match redact(&text) {
        Cow::Borrowed(_) => None,
        Cow::Owned(changed) => Some(changed),
    };
    Value::String(changed.unwrap_or(text))
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, || redacted(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, || redacted(value.to_owned()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, || value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, || value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, || value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, || value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_keys_of_the_origin_documents() {
        let mut metadata = Map::new();
        metadata.insert("message".into(), "Sent to a***@example.com.".into());
        metadata.insert("plugin".into(), "notification-email".into());
        metadata.insert("duration_ms".into(), 12.into());
        let text = json_line("backend", tracing::Level::INFO, "plugin", metadata);
        let value: Value = serde_json::from_str(&text).unwrap();
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["timestamp", "level", "service", "module", "message", "metadata"]);
        assert_eq!(value["level"], "info");
        assert_eq!(value["service"], "backend");
        assert_eq!(value["module"], "notification-email");
        assert_eq!(value["metadata"]["duration_ms"], 12);
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn a_readable_line_says_the_same() {
        let mut metadata = Map::new();
        metadata.insert("message".into(), "It ended.".into());
        metadata.insert("reason".into(), "two words".into());
        metadata.insert("attempt".into(), 2.into());
        let text = text_line(tracing::Level::WARN, "sandpost_dispatch::settle", metadata, false);
        assert_eq!(&text[13..], "WARN  dispatch: It ended. reason=\"two words\" attempt=2\n");
    }

    #[test]
    fn a_line_of_the_host_names_its_part() {
        for (target, module) in [
            ("sandpost_dispatch::settle", "dispatch"),
            ("sandpost_dispatch", "dispatch"),
            ("sandpost::ingress", "ingress"),
            ("sandpost::app", "app"),
            ("sandpost_telemetry::events::runtime", "runtime"),
            ("wasmtime::engine", "wasmtime"),
        ] {
            let text = json_line("backend", tracing::Level::WARN, target, Map::new());
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["module"], module);
        }
    }

    #[test]
    fn a_plugins_fields_are_metadata_and_cannot_stand_in_for_the_hosts() {
        let mut metadata = Map::new();
        metadata.insert("plugin".into(), "notification-email".into());
        metadata.insert("fields".into(), r#"{"userId":"user_1","plugin":"another"}"#.into());
        let value: Value = serde_json::from_str(&json_line("backend", tracing::Level::INFO, PLUGIN, metadata)).unwrap();
        assert_eq!(value["metadata"], serde_json::json!({"plugin": "notification-email", "userId": "user_1"}));
    }
}
