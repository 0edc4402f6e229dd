//! Stands in for `traces` where the build has no Cargo feature `otlp`: nothing is exported, and nothing is built for it.

use crate::logs::{Lines, LogError};
use sandpost_message::TraceParent;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{EnvFilter, Registry};

/// Whether this build can export traces.
pub const BUILT: bool = false;

/// Where traces go.
pub enum Export {
    /// Nowhere.
    Off {
        /// Why, for a person.
        because: &'static str,
    },
}

/// Never made: without the feature no variable is read.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {}

impl Export {
    /// Off, whatever the variables say.
    pub fn read(_service: &str, _lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingError> {
        Ok(Self::Off { because: "this build has no export; `--features otlp` has" })
    }

    /// Where they go, for a person; nothing secret.
    pub fn describe(&self) -> String {
        let Self::Off { because } = self;
        format!("not exported: {because}")
    }

    /// Asks the collector, where there is one.
    pub fn probe(&self) -> Option<Result<String, String>> {
        None
    }
}

/// What was started for traces: nothing.
#[must_use]
pub struct Traces(());

impl Traces {
    /// Nothing waits.
    pub fn flush(self) {}
}

/// Where a span is in the trace that is exported: nowhere.
pub fn position(_span: &tracing::Span) -> Option<TraceParent> {
    None
}

/// Says in a span what only its trace needs: nothing to be said.
pub(crate) fn say(_span: &tracing::Span, _field: &'static str, _value: impl tracing::Value) {}

/// Makes the process's subscriber.
pub(crate) fn install(filter: EnvFilter, lines: Lines, _export: Export) -> Result<Traces, LogError> {
    tracing::subscriber::set_global_default(Registry::default().with(filter).with(lines))
        .map_err(|error| LogError(error.to_string()))?;
    Ok(Traces(()))
}
