//! Traces by OTLP: what the spans of `events` say goes to a collector, as protobuf over HTTP, as the usual `OTEL_*`
//! variables have it.
//!
//! One trace is the whole way of a message: the request, publishing, each attempt on whatever host, the attempt's effects,
//! its settlement. What makes it one is the message's own `traceparent`, which is set to the position of the span that
//! stored it ([`position`]) and travels with it through broker, restart and dead letters.
//!
//! Invariants
//! - Where no variable asks for it, no layer is there: a span costs what it costs without this module.
//! - Whoever ends a span hands it to a bounded queue and goes on. Export has a thread of its own; what it cannot get rid of
//!   is dropped and counted.
//! - Headers' values are in no line and no error.
//!
//! The ids are the messages' own, so the spans are built here ([`spans`]) and not by an SDK, which gives ids itself.
//!
//! Not here: `tracestate` and baggage, which messages do not carry; metrics and logs by OTLP; gRPC.

mod export;
mod settings;
mod spans;

use crate::logs::{Lines, LogError};
use export::Queue;
use spans::Spans;
use std::sync::Arc;
use std::time::Duration;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::{EnvFilter, Registry};

pub use settings::{SettingError, Settings};
pub use spans::position;
pub(crate) use spans::say;

/// Whether this build can export traces.
pub const BUILT: bool = true;

/// How long a graceful stop waits for the last spans to be taken. Short beside the time that orchestrators give a program
/// to end, most of which belongs to deliveries.
const FLUSH: Duration = Duration::from_secs(5);

/// Where traces go.
pub enum Export {
    /// Nowhere.
    Off {
        /// Why, for a person.
        because: &'static str,
    },
    /// To a collector.
    On(Box<Settings>),
}

impl Export {
    /// What the variables say. `service` is the host's name, where no variable gives another.
    pub fn read(service: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingError> {
        settings::read(service, lookup)
    }

    /// Where they go, for a person; nothing secret.
    pub fn describe(&self) -> String {
        match self {
            Self::Off { because } => format!("not exported: {because}"),
            Self::On(settings) => settings.describe(),
        }
    }

    /// Asks the collector, where there is one, with a request that holds nothing.
    pub fn probe(&self) -> Option<Result<String, String>> {
        match self {
            Self::Off { .. } => None,
            Self::On(settings) => Some(export::probe(settings)),
        }
    }
}

/// What was started for traces.
#[must_use]
pub struct Traces(Option<Arc<Queue>>);

impl Traces {
    /// Waits until what ended so far was taken by the collector, at most [`FLUSH`]. Spans that end later are dropped.
    pub fn flush(self) {
        if let Some(queue) = self.0 {
            queue.end(FLUSH);
        }
    }
}

/// Makes the process's subscriber.
pub(crate) fn install(filter: EnvFilter, lines: Lines, export: Export) -> Result<Traces, LogError> {
    let Export::On(settings) = export else {
        tracing::subscriber::set_global_default(Registry::default().with(filter).with(lines))
            .map_err(|error| LogError(error.to_string()))?;
        return Ok(Traces(None));
    };
    let sampler = settings.sampler;
    let queue = export::start(&settings).map_err(|error| LogError(error.to_string()))?;
    // Each its own filter: how much is logged has no say in what is exported.
    let exported = Spans::new(sampler, queue.clone()).with_filter(filter_fn(spans::is_exported));
    tracing::subscriber::set_global_default(Registry::default().with(lines.with_filter(filter)).with(exported))
        .map_err(|error| LogError(error.to_string()))?;
    Ok(Traces(Some(queue)))
}
