//! What `ingress` reports.

use crate::traces::say;
use sandpost_message::{MessageId, Topic, TraceParent};
use std::error::Error;
use std::net::SocketAddr;

const TARGET: &str = "sandpost::ingress";

/// The span around one request: what is logged inside carries its ids. `caller` is where the caller is in its trace.
pub fn request_span(request_id: &str, method: &str, route: &str, caller: Option<&TraceParent>) -> tracing::Span {
    tracing::info_span!(
        target: TARGET, "http", request_id, method, route,
        otel.parent = caller.map(tracing::field::display), otel.status = tracing::field::Empty
    )
}

/// Says in the request's span how it was answered.
pub fn record_status(span: &tracing::Span, status: u16) {
    say(span, "otel.status", status);
}

/// The span in which messages are stored: the first of a message's way, inside the request's where HTTP asked. `trace` is
/// the message's own, which [`attempt_span`](super::dispatch::attempt_span) takes up again, in whatever host that is.
pub fn publish_span(topic: &Topic, trace: &TraceParent, messages: usize) -> tracing::Span {
    tracing::debug_span!(
        target: TARGET, "publish", %topic, trace_id = trace.trace_id(), messages,
        message_id = tracing::field::Empty, otel.parent = %trace, otel.error = tracing::field::Empty
    )
}

/// Says in the span of publishing what came of it: the id of a message that went alone, or why one of them was not stored.
pub fn record_published(span: &tracing::Span, message_id: Option<&MessageId>, error: Option<&'static str>) {
    if let Some(id) = message_id {
        say(span, "message_id", id.as_str());
    }
    if let Some(word) = error {
        say(span, "otel.error", word);
    }
}

/// A request was answered.
#[derive(Debug)]
pub struct RequestFinished<'a> {
    /// The template, never the path: `/v1/messages/{id}`, or `unmatched`.
    pub route: &'a str,
    /// One of the usual methods, or `other`.
    pub method: &'static str,
    /// The answer's status.
    pub status: u16,
    /// From the request's head to the answer's.
    pub seconds: f64,
    /// Who asked, by the token's name.
    pub caller: Option<&'a str>,
    /// As in the answer's `x-request-id`.
    pub request_id: &'a str,
}

impl RequestFinished<'_> {
    /// Counts and logs it.
    pub fn emit(self) {
        let Self { route, method, status, seconds, caller, request_id } = self;
        let duration_ms = seconds * 1000.0;
        tracing::debug!(target: TARGET, request_id, method, route, status, duration_ms, caller, "Answered a request.");
        metrics::counter!(
            "sandpost_http_requests_total",
            "route" => route.to_owned(), "method" => method, "status" => status.to_string()
        )
        .increment(1);
        metrics::histogram!("sandpost_http_request_seconds", "route" => route.to_owned()).record(seconds);
    }
}

/// A request failed for a reason that its caller is not told.
#[derive(Debug)]
pub struct RequestFailed<'a> {
    /// The stable code that the caller got.
    pub code: &'static str,
    /// The caller was told this id, so that the line can be found.
    pub request_id: &'a str,
    /// Why.
    pub cause: &'a (dyn Error + 'static),
    /// Whether it is the host's fault, and not a service's that is down for now.
    pub fault: bool,
}

impl RequestFailed<'_> {
    /// Counts and logs it.
    pub fn emit(self) {
        let Self { code, request_id, cause, fault } = self;
        let mut chain = cause.to_string();
        let mut next = cause.source();
        while let Some(source) = next {
            chain.push_str(": ");
            chain.push_str(&source.to_string());
            next = source.source();
        }
        if fault {
            tracing::error!(target: TARGET, code, request_id, error = %chain, "A request failed.");
        } else {
            tracing::warn!(target: TARGET, code, request_id, error = %chain, "A request cannot be served for now.");
        }
        metrics::counter!("sandpost_http_failures_total", "code" => code).increment(1);
    }
}

/// A message was accepted: from now on it is not lost.
#[derive(Debug)]
pub struct MessageAccepted<'a> {
    /// Where to.
    pub topic: &'a Topic,
    /// Which.
    pub message_id: &'a MessageId,
    /// In which trace.
    pub trace_id: &'a str,
    /// Whether it was known by its dedupe key, and nothing was stored.
    pub duplicate: bool,
}

impl MessageAccepted<'_> {
    /// Counts and logs it.
    pub fn emit(self) {
        let Self { topic, message_id, trace_id, duplicate } = self;
        tracing::debug!(target: TARGET, %topic, %message_id, trace_id, duplicate, "Accepted a message.");
        if duplicate {
            metrics::counter!("sandpost_messages_deduplicated_total", "topic" => topic.to_string()).increment(1);
        } else {
            metrics::counter!("sandpost_messages_accepted_total", "topic" => topic.to_string()).increment(1);
        }
    }
}

/// A request was turned away before anything was done.
#[derive(Debug)]
pub struct AccessDenied<'a> {
    /// A word of a closed list: `no-token`, `wrong-token`, `role`, `topic`, `not-local`.
    pub reason: &'static str,
    /// What it asked for.
    pub route: &'a str,
    /// The token's name, where it was known.
    pub caller: Option<&'a str>,
    /// From where.
    pub peer: Option<SocketAddr>,
}

impl AccessDenied<'_> {
    /// Counts and logs it.
    pub fn emit(self) {
        let Self { reason, route, caller, peer } = self;
        let peer = peer.map(|peer| peer.ip().to_string());
        tracing::warn!(target: TARGET, reason, route, caller, peer, "Turned a request away.");
        metrics::counter!("sandpost_http_denied_total", "reason" => reason).increment(1);
    }
}

/// HTTP is served.
#[derive(Debug)]
pub struct Listening {
    /// Where.
    pub address: SocketAddr,
    /// Whether there are no tokens, so that every local process may do everything.
    pub open: bool,
}

impl Listening {
    /// Logs it.
    pub fn emit(self) {
        let Self { address, open } = self;
        tracing::info!(target: TARGET, %address, "HTTP is served.");
        if open {
            tracing::warn!(
                target: TARGET, %address,
                "No token is configured: every process of this machine may do everything, and only they. \
                 Configure `http.tokens` to serve others."
            );
        }
    }
}

/// A connection could not be taken. The host goes on.
#[derive(Debug)]
pub struct AcceptFailed<'a> {
    /// Why.
    pub error: &'a std::io::Error,
}

impl AcceptFailed<'_> {
    /// Counts and logs it.
    pub fn emit(self) {
        tracing::warn!(target: TARGET, error = %self.error, "A connection could not be taken.");
        metrics::counter!("sandpost_http_accept_failures_total").increment(1);
    }
}

/// Messages were stored, but the answer could not be kept under its `Idempotency-Key`. A repetition is recognised by
/// the messages' own keys.
#[derive(Debug)]
pub struct AnswerNotKept<'a> {
    /// Why.
    pub error: &'a (dyn Error + 'static),
}

impl AnswerNotKept<'_> {
    /// Counts and logs it.
    pub fn emit(self) {
        tracing::warn!(target: TARGET, error = %self.error, "An answer could not be kept under its idempotency key.");
        metrics::counter!("sandpost_http_answers_not_kept_total").increment(1);
    }
}

/// An operator did something to a dead letter.
#[derive(Debug)]
pub struct DeadLetterSettled<'a> {
    /// `replayed` or `discarded`.
    pub action: &'static str,
    /// Which.
    pub dead_letter: &'a str,
    /// Its message.
    pub message_id: &'a MessageId,
    /// Who, by the token's name.
    pub caller: &'a str,
}

impl DeadLetterSettled<'_> {
    /// Counts and logs it.
    pub fn emit(self) {
        let Self { action, dead_letter, message_id, caller } = self;
        tracing::info!(target: TARGET, action, dead_letter, %message_id, caller, "An operator settled a dead letter.");
        metrics::counter!("sandpost_dead_letters_settled_total", "action" => action).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics_exporter_prometheus::PrometheusBuilder;

    #[test]
    fn each_event_counts_under_its_labels() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let (topic, message_id) = ("orders".parse().unwrap(), "m-1".parse().unwrap());
            for duplicate in [false, false, true] {
                MessageAccepted { topic: &topic, message_id: &message_id, trace_id: "t", duplicate }.emit();
            }
            let (route, method, request_id) = ("/v1/messages/{id}", "GET", "r");
            RequestFinished { route, method, status: 404, seconds: 0.5, caller: None, request_id }.emit();
            AccessDenied { reason: "no-token", route: "unmatched", caller: None, peer: None }.emit();
            RequestFailed { code: "internal", request_id: "r", cause: &std::fmt::Error, fault: true }.emit();
        });
        let text = handle.render();
        for line in [
            "sandpost_messages_accepted_total{topic=\"orders\"} 2",
            "sandpost_messages_deduplicated_total{topic=\"orders\"} 1",
            "sandpost_http_requests_total{route=\"/v1/messages/{id}\",method=\"GET\",status=\"404\"} 1",
            "sandpost_http_request_seconds_sum{route=\"/v1/messages/{id}\"} 0.5",
            "sandpost_http_denied_total{reason=\"no-token\"} 1",
            "sandpost_http_failures_total{code=\"internal\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
