//! From the host's spans to the spans of a trace: names, kinds and attributes by OpenTelemetry's semantic conventions
//! (messaging and HTTP, <https://opentelemetry.io/docs/specs/semconv/>, version 1.37), and `sandpost.…` where those have none.
//!
//! | span of `events` | exported as | kind | goes on from |
//! | --- | --- | --- | --- |
//! | `http` | `POST /v1/topics/{topic}/messages` | server | the caller's `traceparent`; else a new trace, unless it only reads |
//! | `publish` | `publish TOPIC` | producer | the request |
//! | `attempt` | `process TOPIC` | consumer | the message's `traceparent`: where it was published |
//! | `effect` | `send email`, `publish TOPIC` | client, producer | the attempt |
//! | `settle` | `settle TOPIC` | client | the attempt |
//!
//! Invariants
//! - A span that is open has its position, recorded or not, so that whoever goes on from it decides as it did.
//! - A text is cut at [`TEXT_MAX_BYTES`]; there are as many attributes as this file names. No body, no recipient, no reason in
//!   a plugin's words.

use super::export::Queue;
use super::settings::Sampler;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, SpanFlags, Status};
use sandpost_message::TraceParent;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::{Id, Metadata, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Longer than any name or id of ours; a provider's id could be anything.
const TEXT_MAX_BYTES: usize = 1024;

/// The system of `messaging.system`: what callers and plugins publish to, whatever broker stands behind it.
const SYSTEM: &str = "sandpost";

/// Whether anything is exported in this process; a look at a span costs more than a look here.
static EXPORTING: AtomicBool = AtomicBool::new(false);

/// Where a span is in the trace that is exported; none where nothing is exported, or not this span.
pub fn position(span: &tracing::Span) -> Option<TraceParent> {
    if !EXPORTING.load(Ordering::Relaxed) {
        return None;
    }
    span.with_subscriber(|(id, dispatch)| {
        let span = dispatch.downcast_ref::<Registry>()?.span(id)?;
        let extensions = span.extensions();
        extensions.get::<Open>().map(|open| open.position)
    })
    .flatten()
}

/// Says in a span what only its trace needs; costs a look where nothing is exported.
pub(crate) fn say(span: &tracing::Span, field: &'static str, value: impl tracing::Value) {
    if EXPORTING.load(Ordering::Relaxed) {
        span.record(field, value);
    }
}

/// Which of the host's spans are exported.
pub(super) fn is_exported(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && Kind::of(metadata).is_some()
}

/// The layer that exports.
pub(super) struct Spans {
    sampler: Sampler,
    queue: Arc<Queue>,
}

impl Spans {
    pub(super) fn new(sampler: Sampler, queue: Arc<Queue>) -> Self {
        EXPORTING.store(true, Ordering::Relaxed);
        Self { sampler, queue }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Publish,
    Attempt,
    Effect,
    Settle,
}

impl Kind {
    fn of(metadata: &Metadata<'_>) -> Option<Self> {
        // Libraries have spans of these names too.
        if !metadata.target().starts_with("sandpost") {
            return None;
        }
        match metadata.name() {
            "http" => Some(Self::Http),
            "publish" => Some(Self::Publish),
            "attempt" => Some(Self::Attempt),
            "effect" => Some(Self::Effect),
            "settle" => Some(Self::Settle),
            _ => None,
        }
    }
}

/// Kept beside a span of the host while it is open.
struct Open {
    position: TraceParent,
    /// What is said of it; none where its trace is not recorded.
    recorded: Option<Box<Recorded>>,
    topic: Option<Box<str>>,
}

/// A span in the making.
struct Recorded {
    kind: Kind,
    span: Span,
    method: &'static str,
    route: Option<Box<str>>,
    is_email: bool,
    error: Option<Box<str>>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &tracing::span::Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let (Some(kind), Some(span)) = (Kind::of(attributes.metadata()), context.span(id)) else { return };
        let mut said = Said::of(kind);
        attributes.record(&mut said);
        let around = span.scope().skip(1).find_map(|outer| {
            let extensions = outer.extensions();
            extensions.get::<Open>().map(|open| (open.position, open.topic.clone()))
        });
        let (around, outer_topic) = around.unzip();
        // Inside a span of another trace the message's own trace counts.
        let (parent, remote) = match (around, said.parent) {
            (Some(around), Some(own)) if around.trace_bits() != own.trace_bits() => (Some(own), true),
            (Some(around), _) => (Some(around), false),
            (None, Some(own)) => (Some(own), true),
            (None, None) if kind == Kind::Http && said.changes_something() => (None, false),
            (None, None) => return,
        };
        let position = parent.map_or_else(TraceParent::new, |parent| parent.child());
        let sampled = self.sampler.takes(&position, parent.as_ref());
        let position = position.with_sampled(sampled);
        let topic = said.topic.clone().or_else(|| outer_topic.flatten().filter(|_| kind == Kind::Settle));
        let recorded = sampled.then(|| Box::new(said.begin(&position, parent.as_ref(), remote)));
        span.extensions_mut().insert(Open { position, recorded, topic });
    }

    fn on_record(&self, id: &Id, values: &tracing::span::Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        let Some(open) = extensions.get_mut::<Open>() else { return };
        let Some(recorded) = &mut open.recorded else { return };
        let mut said = Said::of(recorded.kind);
        said.is_email = recorded.is_email;
        values.record(&mut said);
        recorded.span.attributes.append(&mut said.attributes);
        recorded.error = said.error.or(recorded.error.take());
        open.topic = said.topic.or(open.topic.take());
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let open = span.extensions_mut().remove::<Open>();
        if let Some(Open { recorded: Some(recorded), topic, .. }) = open {
            self.queue.push(recorded.end(topic.as_deref()));
        }
    }
}

/// What fields say.
struct Said {
    kind: Kind,
    attributes: Vec<KeyValue>,
    parent: Option<TraceParent>,
    topic: Option<Box<str>>,
    method: &'static str,
    route: Option<Box<str>>,
    is_email: bool,
    error: Option<Box<str>>,
}

impl Said {
    fn of(kind: Kind) -> Self {
        Self {
            kind,
            attributes: Vec::new(),
            parent: None,
            topic: None,
            method: "_OTHER",
            route: None,
            is_email: false,
            error: None,
        }
    }

    /// A request that only reads begins no trace: else each look of a browser or a probe would be one.
    fn changes_something(&self) -> bool {
        !matches!(self.method, "GET" | "HEAD" | "OPTIONS")
    }

    fn begin(self, position: &TraceParent, parent: Option<&TraceParent>, remote: bool) -> Recorded {
        let Self { kind, mut attributes, method, route, is_email, error, .. } = self;
        let operation = match kind {
            Kind::Publish => Some(("publish", "send")),
            Kind::Effect if !is_email => Some(("publish", "send")),
            Kind::Attempt => Some(("process", "process")),
            Kind::Settle => Some(("settle", "settle")),
            Kind::Http | Kind::Effect => None,
        };
        if let Some((name, kind)) = operation {
            attributes.push(text("messaging.system", SYSTEM));
            attributes.push(text("messaging.operation.name", name));
            attributes.push(text("messaging.operation.type", kind));
        }
        let span_kind = match kind {
            Kind::Http => SpanKind::Server,
            Kind::Attempt => SpanKind::Consumer,
            Kind::Effect if is_email => SpanKind::Client,
            Kind::Publish | Kind::Effect => SpanKind::Producer,
            Kind::Settle => SpanKind::Client,
        };
        let mut flags = u32::from(position.is_sampled()) | SpanFlags::ContextHasIsRemoteMask as u32;
        if remote {
            flags |= SpanFlags::ContextIsRemoteMask as u32;
        }
        let span = Span {
            trace_id: position.trace_bits().to_be_bytes().to_vec(),
            span_id: position.span_bits().to_be_bytes().to_vec(),
            parent_span_id: parent.map(|parent| parent.span_bits().to_be_bytes().to_vec()).unwrap_or_default(),
            flags,
            kind: span_kind as i32,
            start_time_unix_nano: now_unix_nano(),
            attributes,
            ..Span::default()
        };
        Recorded { kind, span, method, route, is_email, error }
    }

    fn text(&mut self, field: &str, value: &str) {
        match (field, self.kind) {
            ("otel.parent", _) => self.parent = TraceParent::parse(value),
            ("topic" | "otel.topic", _) => self.topic = Some(value.into()),
            ("otel.error", _) => {
                self.attributes.push(text("error.type", value));
                self.error = Some(value.into());
            }
            ("otel.outcome", _) | ("outcome", Kind::Settle) => self.attributes.push(text("sandpost.outcome", value)),
            ("request_id", Kind::Http) => self.attributes.push(text("sandpost.request.id", value)),
            ("method", Kind::Http) => {
                self.method = method(value);
                self.attributes.push(text("http.request.method", self.method));
            }
            ("route", Kind::Http) if value.starts_with('/') => {
                self.attributes.push(text("http.route", value));
                self.route = Some(value.into());
            }
            ("message_id", Kind::Publish | Kind::Attempt) => self.attributes.push(text("messaging.message.id", value)),
            ("subscription", Kind::Attempt) => {
                self.attributes.push(text("messaging.destination.subscription.name", value));
            }
            ("plugin", Kind::Attempt) => self.attributes.push(text("sandpost.plugin.name", value)),
            ("version", Kind::Attempt) => self.attributes.push(text("sandpost.plugin.version", value)),
            ("kind", Kind::Effect) => self.is_email = value == "email",
            ("provider_id", Kind::Effect) => {
                let name = if self.is_email { "sandpost.email.provider_message_id" } else { "messaging.message.id" };
                self.attributes.push(text(name, value));
            }
            _ => {}
        }
    }

    fn number(&mut self, field: &str, value: i64) {
        match (field, self.kind) {
            ("messages", Kind::Publish) | ("otel.messages", _) if value > 1 => {
                self.attributes.push(number("messaging.batch.message_count", value));
            }
            ("attempt", Kind::Attempt) => self.attributes.push(number("sandpost.attempt", value)),
            ("otel.status", Kind::Http) => {
                self.attributes.push(number("http.response.status_code", value));
                // As the conventions have it: on a server's span a caller's fault is none.
                if value >= 500 {
                    self.text("otel.error", &value.to_string());
                }
            }
            _ => {}
        }
    }
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field.name(), &format!("{value:?}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field.name(), i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field.name(), value);
    }
}

impl Recorded {
    fn end(self, topic: Option<&str>) -> Span {
        let Self { kind, mut span, method, route, is_email, error } = self;
        let of_topic = |operation: &str| match topic {
            Some(topic) => format!("{operation} {topic}"),
            None => operation.to_owned(),
        };
        span.name = match kind {
            Kind::Http => match route {
                Some(route) => format!("{method} {route}"),
                // As the conventions have it where the method is not known.
                None if method == "_OTHER" => "HTTP".to_owned(),
                None => method.to_owned(),
            },
            Kind::Attempt => of_topic("process"),
            Kind::Settle => of_topic("settle"),
            Kind::Effect if is_email => "send email".to_owned(),
            Kind::Publish | Kind::Effect => of_topic("publish"),
        };
        if let Some(topic) = topic {
            span.attributes.push(text("messaging.destination.name", topic));
        }
        if error.is_some() {
            span.status = Some(Status { code: StatusCode::Error as i32, message: String::new() });
        }
        // The clock may have gone back meanwhile.
        span.end_time_unix_nano = now_unix_nano().max(span.start_time_unix_nano);
        span
    }
}

fn method(word: &str) -> &'static str {
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
        .into_iter()
        .find(|known| *known == word)
        .unwrap_or("_OTHER")
}

pub(super) fn text(name: &str, value: &str) -> KeyValue {
    let value = value[..value.floor_char_boundary(TEXT_MAX_BYTES)].to_owned();
    attribute(name, Value::StringValue(value))
}

fn number(name: &str, value: i64) -> KeyValue {
    attribute(name, Value::IntValue(value))
}

fn attribute(name: &str, value: Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn now_unix_nano() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
