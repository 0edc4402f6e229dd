//! What `runtime` reports: deployments, attempts and their faults, what guests print, compiling, instances in use.

use metrics::{counter, gauge, histogram};
use sandpost_message::FaultKind;
use std::time::Duration;

/// A version went live.
pub struct PluginDeployed<'a> {
    /// Which plugin.
    pub plugin: &'a str,
    /// The manifest's version.
    pub version: &'a str,
    /// The artifact, short.
    pub digest: &'a str,
    /// What caused it: `start`, `file`, …
    pub cause: &'a str,
    /// The version that it took over from.
    pub replaced: Option<&'a str>,
    /// From the first byte read to the switch.
    pub duration: Duration,
}

impl PluginDeployed<'_> {
    /// Counts it, and says so.
    pub fn emit(self) {
        let Self { plugin, version, digest, cause, replaced, duration } = self;
        counter!("sandpost_deployments_total", "plugin" => plugin.to_owned(), "outcome" => "live").increment(1);
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(plugin, version, digest, cause, replaced, duration_ms, "A plugin went live.");
    }
}

/// A version did not go live; what was live before goes on.
pub struct PluginRefused<'a> {
    /// Which plugin, or the file's name where that could not be read.
    pub plugin: &'a str,
    /// The artifact, short, as far as it was read.
    pub digest: Option<&'a str>,
    /// What caused the attempt.
    pub cause: &'a str,
    /// Which step it failed.
    pub step: &'static str,
    /// Why.
    pub reason: &'a str,
}

impl PluginRefused<'_> {
    /// Counts it, and says so.
    pub fn emit(self) {
        let Self { plugin, digest, cause, step, reason } = self;
        counter!("sandpost_deployments_total", "plugin" => plugin.to_owned(), "outcome" => "refused").increment(1);
        tracing::error!(plugin, digest, cause, step, reason, "A plugin was refused; what was live goes on.");
    }
}

/// A plugin was taken out of service.
pub struct PluginRetired<'a> {
    /// Which plugin.
    pub plugin: &'a str,
    /// The version that served.
    pub version: &'a str,
    /// What caused it.
    pub cause: &'a str,
}

impl PluginRetired<'_> {
    /// Counts it, and says so.
    pub fn emit(self) {
        let Self { plugin, version, cause } = self;
        counter!("sandpost_deployments_total", "plugin" => plugin.to_owned(), "outcome" => "retired").increment(1);
        tracing::warn!(plugin, version, cause, "A plugin was retired; its messages wait for the next one.");
    }
}

/// All that a plugin asks for is granted, because nothing says otherwise.
pub struct GrantsAssumed<'a> {
    /// Which plugin.
    pub plugin: &'a str,
    /// What it gets, in one line.
    pub grants: &'a str,
}

impl GrantsAssumed<'_> {
    /// Says so.
    pub fn emit(self) {
        let Self { plugin, grants } = self;
        if grants.is_empty() {
            return;
        }
        tracing::info!(plugin, grants, "Granted all that the plugin asks for, as in development.");
    }
}

/// A deployment is live but could not be recorded: after a restart the host may not know of it.
pub struct DeploymentUnrecorded<'a> {
    /// Which plugin.
    pub plugin: &'a str,
    /// The artifact, short.
    pub digest: &'a str,
    /// Why.
    pub error: &'a str,
}

impl DeploymentUnrecorded<'_> {
    /// Says so.
    pub fn emit(self) {
        let Self { plugin, digest, error } = self;
        counter!("sandpost_unrecorded_deployments_total").increment(1);
        tracing::warn!(plugin, digest, error, "A deployment is live, but could not be recorded.");
    }
}

/// An attempt of a handler ended.
pub struct HandlerEnded<'a> {
    /// Which plugin.
    pub plugin: &'a str,
    /// From the wait for an instance to the end.
    pub duration: Duration,
}

impl HandlerEnded<'_> {
    /// Measures it; the attempt's own line is `dispatch`'s.
    pub fn emit(self) {
        histogram!("sandpost_handler_seconds", "plugin" => self.plugin.to_owned()).record(self.duration);
    }
}

/// A rendering of a template ended.
pub struct TemplateEnded<'a> {
    /// Which plugin.
    pub plugin: &'a str,
    /// `ok`, or a word of the contract's render errors, or `fault`.
    pub outcome: &'static str,
    /// From the wait for an instance to the end.
    pub duration: Duration,
}

impl TemplateEnded<'_> {
    /// Measures it.
    pub fn emit(self) {
        let Self { plugin, outcome, duration } = self;
        histogram!("sandpost_template_seconds", "plugin" => plugin.to_owned(), "outcome" => outcome).record(duration);
    }
}

/// A call of a plugin ended without an answer.
pub struct PluginFault<'a> {
    /// Which plugin.
    pub plugin: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The message it was handling.
    pub message_id: Option<&'a str>,
    /// That message's trace.
    pub trace_id: Option<String>,
    /// Which of the named reasons.
    pub kind: FaultKind,
    /// One sentence.
    pub detail: &'a str,
}

impl PluginFault<'_> {
    /// Counts it, and says so.
    pub fn emit(self) {
        let Self { plugin, version, message_id, trace_id, kind, detail } = self;
        counter!("sandpost_plugin_faults_total", "plugin" => plugin.to_owned(), "kind" => kind.word()).increment(1);
        let kind = kind.word();
        tracing::warn!(
            plugin,
            version,
            message_id,
            trace_id,
            kind,
            detail,
            "A call of a plugin ended without an answer."
        );
    }
}

/// A plugin computed for long and failed, again and again; none of its messages is begun for a while.
pub struct PluginRests<'a> {
    /// Which plugin.
    pub plugin: &'a str,
    /// Its version.
    pub version: &'a str,
    /// For how long at first: calls that are at work and fail as well make it longer. Another version ends it.
    pub rest: Duration,
}

impl PluginRests<'_> {
    /// Counts it, and says so.
    pub fn emit(self) {
        let Self { plugin, version, rest } = self;
        counter!("sandpost_plugin_rests_total", "plugin" => plugin.to_owned()).increment(1);
        let rest_ms = u64::try_from(rest.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(
            plugin,
            version,
            rest_ms,
            "A plugin computed for long and failed, again and again; its messages wait, uncounted, and are then tried one at a time."
        );
    }
}

/// What a plugin wrote to one of its standard streams during a call.
pub struct PluginOutput<'a> {
    /// Which plugin.
    pub plugin: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The message it was handling.
    pub message_id: Option<&'a str>,
    /// That message's trace.
    pub trace_id: Option<String>,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
    /// The text; lines are shown with their ends escaped.
    pub text: &'a str,
    /// Whether there was more.
    pub cut: bool,
}

impl PluginOutput<'_> {
    /// Writes it, with target `plugin`.
    pub fn emit(self) {
        let Self { plugin, version, message_id, trace_id, stream, text, cut } = self;
        let text = text.trim_end().escape_debug().to_string();
        tracing::info!(target: "plugin", plugin, version, message_id, trace_id, stream, cut, "{text}");
    }
}

/// A component was compiled.
pub struct Compiled<'a> {
    /// The artifact, short.
    pub digest: &'a str,
    /// The component's size.
    pub size_bytes: u64,
    /// How long it took.
    pub duration: Duration,
}

impl Compiled<'_> {
    /// Measures it, and says so.
    pub fn emit(self) {
        let Self { digest, size_bytes, duration } = self;
        histogram!("sandpost_compile_seconds").record(duration);
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(digest, size_bytes, duration_ms, "A component was compiled.");
    }
}

/// A compiled component was on disk, but is not used.
pub struct CompiledRejected<'a> {
    /// The artifact, short.
    pub digest: &'a str,
    /// Why.
    pub reason: &'a str,
}

impl CompiledRejected<'_> {
    /// Counts it, and says so.
    pub fn emit(self) {
        let Self { digest, reason } = self;
        counter!("sandpost_compiled_rejected_total").increment(1);
        tracing::warn!(digest, reason, "A compiled component is not used; it is compiled anew.");
    }
}

/// A compiled component could not be kept.
pub struct CompiledNotKept<'a> {
    /// The artifact, short.
    pub digest: &'a str,
    /// Why.
    pub error: &'a str,
}

impl CompiledNotKept<'_> {
    /// Says so.
    pub fn emit(self) {
        let Self { digest, error } = self;
        tracing::warn!(digest, error, "A compiled component could not be kept; the next start compiles it again.");
    }
}

/// The plugin folder could not be watched or read.
pub struct FolderUnreadable<'a> {
    /// Why.
    pub error: &'a str,
}

impl FolderUnreadable<'_> {
    /// Counts it, and says so.
    pub fn emit(self) {
        counter!("sandpost_plugin_folder_errors_total").increment(1);
        tracing::error!(error = self.error, "The plugin folder could not be read; changes in it may go unseen.");
    }
}

/// An instance takes its place in the pool.
pub struct InstanceStarted;

impl InstanceStarted {
    /// Counts it up.
    pub fn emit(self) {
        gauge!("sandpost_instances_in_use").increment(1.0);
    }
}

/// An instance gives its place back.
pub struct InstanceEnded;

impl InstanceEnded {
    /// Counts it down.
    pub fn emit(self) {
        gauge!("sandpost_instances_in_use").decrement(1.0);
    }
}
