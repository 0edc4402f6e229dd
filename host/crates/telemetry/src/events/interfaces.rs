//! What `interfaces` reports: host calls, refusals, cache hits, e-mails, publishes, effects, plugins' own lines.

use crate::traces::say;
use metrics::{counter, histogram};
use sandpost_message::Topic;
use std::error::Error;
use std::fmt::Write as _;
use std::time::Duration;

/// The span around one effect, from the look at its key to its end. It belongs to the attempt that asked for it, also
/// where it goes on after its guest was ended.
pub fn effect_span(kind: &'static str) -> tracing::Span {
    use tracing::field::Empty;
    tracing::debug_span!(
        "effect",
        kind,
        provider_id = Empty,
        otel.topic = Empty,
        otel.messages = Empty,
        otel.error = Empty
    )
}

/// Says in the span of a publish where to, and how many messages at once.
pub fn record_destination(span: &tracing::Span, topic: &Topic, messages: usize) {
    say(span, "otel.topic", topic.as_str());
    say(span, "otel.messages", messages);
}

/// Says in the effect's span that it did not happen, or that nobody knows. A word of a closed list.
pub fn record_effect_error(span: &tracing::Span, word: &'static str) {
    say(span, "otel.error", word);
}

/// Says in the effect's span what the provider called it.
pub fn record_provider_id(span: &tracing::Span, id: &str) {
    span.record("provider_id", id);
}

/// One host call ended. Metric alone: a line for each would drown the rest.
pub struct HostCall {
    /// The interface, as the contract names it.
    pub interface: &'static str,
    /// The function.
    pub operation: &'static str,
    /// `ok`, or a word of the interface's failures.
    pub outcome: &'static str,
    /// From the guest's call to its answer.
    pub duration: Duration,
}

impl HostCall {
    /// Measures it.
    pub fn emit(self) {
        let Self { interface, operation, outcome, duration } = self;
        histogram!(
            "sandpost_host_call_seconds",
            "interface" => interface, "operation" => operation, "outcome" => outcome
        )
        .record(duration);
    }
}

/// A plugin asked for what it was not granted.
pub struct CallDenied<'a> {
    /// Which plugin.
    pub plugin: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The message it was handling.
    pub message_id: Option<&'a str>,
    /// That message's trace.
    pub trace_id: Option<String>,
    /// The interface.
    pub interface: &'static str,
    /// The function.
    pub operation: &'static str,
    /// The grant that would be needed, in words.
    pub grant: &'a str,
    /// Count it, but write no line: this call had its share of them.
    pub quiet: bool,
}

impl CallDenied<'_> {
    /// Counts it, and says so.
    pub fn emit(self) {
        let Self { plugin, version, message_id, trace_id, interface, operation, grant, quiet } = self;
        counter!("sandpost_denied_calls_total", "plugin" => plugin.to_owned(), "interface" => interface).increment(1);
        if !quiet {
            tracing::warn!(
                plugin,
                version,
                message_id,
                trace_id,
                interface,
                operation,
                grant,
                "A plugin asked for what it was not granted."
            );
        }
    }
}

/// A port did not do what a plugin asked. The line has what the plugin must not see.
pub struct CallFailed<'a> {
    /// Which plugin.
    pub plugin: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The message it was handling.
    pub message_id: Option<&'a str>,
    /// That message's trace.
    pub trace_id: Option<String>,
    /// The interface.
    pub interface: &'static str,
    /// The function.
    pub operation: &'static str,
    /// The kind of failure.
    pub kind: &'static str,
    /// The failure, with its sources.
    pub error: &'a (dyn Error + 'static),
}

impl CallFailed<'_> {
    /// Says so; `HostCall` counts it.
    pub fn emit(self) {
        let Self { plugin, version, message_id, trace_id, interface, operation, kind, error } = self;
        let error = chain(error);
        // What the plugin did wrong is the plugin's to see; what the service did is the operator's.
        if matches!(kind, "invalid" | "conflict") {
            tracing::debug!(
                plugin,
                version,
                message_id,
                trace_id,
                interface,
                operation,
                kind,
                error,
                "A host call was refused."
            );
        } else {
            tracing::warn!(
                plugin,
                version,
                message_id,
                trace_id,
                interface,
                operation,
                kind,
                error,
                "A host call failed."
            );
        }
    }
}

/// Keys were looked up in the cache.
pub struct CacheRead {
    /// How many were there.
    pub hits: u64,
    /// How many were not.
    pub misses: u64,
}

impl CacheRead {
    /// Counts them.
    pub fn emit(self) {
        counter!("sandpost_cache_hits_total").increment(self.hits);
        counter!("sandpost_cache_misses_total").increment(self.misses);
    }
}

/// A plugin's e-mail came to an end.
pub struct EmailEnded {
    /// `sent`, `already-sent`, `suppressed`, `rejected`, `throttled`, `render`, `denied`, or a port's kind of failure.
    pub outcome: &'static str,
}

impl EmailEnded {
    /// Counts it.
    pub fn emit(self) {
        counter!("sandpost_emails_total", "outcome" => self.outcome).increment(1);
    }
}

/// A mail was built, but not all of it as its author wrote it.
pub struct EmailWarned<'a> {
    /// Which plugin.
    pub plugin: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The message it was handling.
    pub message_id: Option<&'a str>,
    /// That message's trace.
    pub trace_id: Option<String>,
    /// The template that made it.
    pub template: Option<&'a str>,
    /// What was changed, or will not look as it was meant to.
    pub warnings: &'a [String],
}

impl EmailWarned<'_> {
    /// Says so.
    pub fn emit(self) {
        let Self { plugin, version, message_id, trace_id, template, warnings } = self;
        let warnings = warnings.join("; ");
        tracing::debug!(
            plugin,
            version,
            message_id,
            trace_id,
            template,
            warnings,
            "A mail was changed on its way, or will not look as it was meant to."
        );
    }
}

/// A plugin's publish came to an end.
pub struct PublishEnded {
    /// `stored`, `repeated`, `denied`, or a port's kind of failure.
    pub outcome: &'static str,
}

impl PublishEnded {
    /// Counts it.
    pub fn emit(self) {
        counter!("sandpost_plugin_publishes_total", "outcome" => self.outcome).increment(1);
    }
}

/// Nobody knows whether an effect happened.
pub struct EffectUnknown<'a> {
    /// Which plugin.
    pub plugin: &'a str,
    /// The message it was handling.
    pub message_id: &'a str,
    /// That message's trace.
    pub trace_id: String,
    /// `email` or `publish`.
    pub effect: &'static str,
    /// What follows, in words.
    pub detail: &'a str,
}

impl EffectUnknown<'_> {
    /// Counts it, and says so.
    pub fn emit(self) {
        let Self { plugin, message_id, trace_id, effect, detail } = self;
        counter!("sandpost_unknown_effects_total", "effect" => effect).increment(1);
        tracing::warn!(plugin, message_id, trace_id, effect, detail, "The outcome of an effect is unknown.");
    }
}

/// An effect happened, but the store did not take the note: a further attempt will find its outcome unknown.
pub struct EffectUnrecorded<'a> {
    /// Which plugin.
    pub plugin: &'a str,
    /// The message it was handling.
    pub message_id: &'a str,
    /// That message's trace.
    pub trace_id: String,
    /// `email` or `publish`.
    pub effect: &'static str,
    /// The provider's id, for a person to look it up.
    pub provider_id: &'a str,
    /// Why the store did not.
    pub error: &'a (dyn Error + 'static),
}

impl EffectUnrecorded<'_> {
    /// Counts it, and says so.
    pub fn emit(self) {
        let Self { plugin, message_id, trace_id, effect, provider_id, error } = self;
        let error = chain(error);
        counter!("sandpost_unrecorded_effects_total", "effect" => effect).increment(1);
        tracing::error!(
            plugin,
            message_id,
            trace_id,
            effect,
            provider_id,
            error,
            "An effect happened and could not be recorded; a further attempt will not know of it."
        );
    }
}

/// A step could not be written to the ledger. The work itself is not affected.
pub struct LedgerGap<'a> {
    /// Whose history lacks it.
    pub message_id: &'a str,
    /// Why.
    pub error: &'a (dyn Error + 'static),
}

impl LedgerGap<'_> {
    /// Counts it, and says so.
    pub fn emit(self) {
        let Self { message_id, error } = self;
        let error = chain(error);
        counter!("sandpost_ledger_gaps_total").increment(1);
        tracing::warn!(message_id, error, "A step is missing in the ledger.");
    }
}

/// A handler ended with transactions open.
pub struct TransactionLeftOpen<'a> {
    /// Which plugin.
    pub plugin: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The message it was handling.
    pub message_id: Option<&'a str>,
    /// That message's trace.
    pub trace_id: Option<String>,
    /// How many.
    pub count: usize,
}

impl TransactionLeftOpen<'_> {
    /// Says so.
    pub fn emit(self) {
        let Self { plugin, version, message_id, trace_id, count } = self;
        tracing::warn!(
            plugin,
            version,
            message_id,
            trace_id,
            count,
            "A call ended with a transaction neither committed nor rolled back; it is rolled back."
        );
    }
}

/// A plugin logged more than one message may.
pub struct PluginLogDropped<'a> {
    /// Which plugin.
    pub plugin: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The message it was handling.
    pub message_id: Option<&'a str>,
    /// That message's trace.
    pub trace_id: Option<String>,
    /// What one message may.
    pub limit_bytes: u64,
}

impl PluginLogDropped<'_> {
    /// Says so.
    pub fn emit(self) {
        let Self { plugin, version, message_id, trace_id, limit_bytes } = self;
        tracing::warn!(
            plugin,
            version,
            message_id,
            trace_id,
            limit_bytes,
            "A plugin logged more than it may for one message; further lines of this call are dropped."
        );
    }
}

/// How loud a plugin's line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginLogLevel {
    /// For whoever writes the plugin.
    Trace,
    /// For whoever looks for a fault.
    Debug,
    /// What happened.
    Info,
    /// Recovered by itself.
    Warn,
    /// A person must act.
    Error,
}

/// A plugin's own line.
pub struct PluginLog<'a> {
    /// How loud.
    pub level: PluginLogLevel,
    /// Which plugin.
    pub plugin: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The message it is handling.
    pub message_id: Option<&'a str>,
    /// That message's trace.
    pub trace_id: Option<String>,
    /// What it says, in one line.
    pub message: &'a str,
    /// What it adds, in its order.
    pub fields: &'a [(String, String)],
}

impl PluginLog<'_> {
    /// Writes the line, with target `plugin`; the plugin's fields are one JSON object, so that they cannot pass for the
    /// host's.
    pub fn emit(self) {
        macro_rules! line {
            ($level:ident) => {
                if tracing::enabled!(target: "plugin", tracing::Level::$level) {
                    let Self { plugin, version, message_id, trace_id, message, fields, .. } = self;
                    let fields = (!fields.is_empty()).then(|| {
                        let map = fields.iter().map(|(name, value)| (name.clone(), value.clone().into()));
                        serde_json::Value::Object(map.collect()).to_string()
                    });
                    tracing::event!(
                        target: "plugin", tracing::Level::$level,
                        plugin, version, message_id, trace_id, fields, "{message}"
                    );
                }
            };
        }
        match self.level {
            PluginLogLevel::Trace => line!(TRACE),
            PluginLogLevel::Debug => line!(DEBUG),
            PluginLogLevel::Info => line!(INFO),
            PluginLogLevel::Warn => line!(WARN),
            PluginLogLevel::Error => line!(ERROR),
        }
    }
}

/// An error with all that lies underneath, in one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a String cannot fail.
        let _infallible = write!(line, ": {error}");
        source = error.source();
    }
    line
}
