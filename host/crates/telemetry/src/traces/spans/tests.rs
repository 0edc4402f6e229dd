//! What spans come to as they are exported: parents, names, attributes, errors.

use super::*;
use crate::events::dispatch::{
    DeliveryOutcome, attempt_span, record_outcome, record_unsettled, record_version, settle_span,
};
use crate::events::ingress::{publish_span, record_published, record_status, request_span};
use crate::events::interfaces::{effect_span, record_destination, record_provider_id};
use crate::traces::Export;
use sandpost_message::{MessageId, Outcome, Topic, Verdict};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;

const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A subscriber for this thread that exports by this sampler.
fn watched(sampler: &str) -> (Arc<Queue>, DefaultGuard) {
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"), ("OTEL_TRACES_SAMPLER", sampler)];
    let lookup = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let Ok(Export::On(settings)) = Export::read("host", &lookup) else { panic!("on") };
    let queue = Arc::new(Queue::default());
    let layer = Spans::new(settings.sampler, queue.clone()).with_filter(filter_fn(is_exported));
    (queue, tracing::subscriber::set_default(Registry::default().with(layer)))
}

/// What was exported, and nothing waits for more.
fn exported(queue: &Queue) -> Vec<Span> {
    queue.end(std::time::Duration::ZERO);
    queue.next_batch().unwrap_or_default()
}

fn said(span: &Span) -> Vec<(String, String)> {
    let word = |attribute: &KeyValue| {
        let value = match attribute.value.clone().and_then(|value| value.value) {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            other => format!("{other:?}"),
        };
        (attribute.key.clone(), value)
    };
    let mut said: Vec<_> = span.attributes.iter().map(word).collect();
    said.sort();
    said
}

fn is(span: &Span, attributes: &[(&str, &str)]) {
    let expected: Vec<_> = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    assert_eq!(said(span), expected, "{}", span.name);
}

#[test]
fn the_way_of_a_message_is_one_trace() {
    let (queue, _watched) = watched("parentbased_always_on");
    let (topic, id): (Topic, MessageId) = ("orders".parse().unwrap(), "m1".parse().unwrap());
    let caller = TraceParent::parse(CALLER).unwrap();

    let request = request_span("r1", "POST", "/v1/topics/{topic}/messages", Some(&caller));
    let stored = request.in_scope(|| publish_span(&topic, &caller, 1));
    let carried = position(&stored).unwrap();
    record_published(&stored, Some(&id), None);
    drop(stored);
    record_status(&request, 202);
    drop(request);

    // Later, elsewhere: only the message's own trace is left.
    let (subscription, plugin) = ("mail".parse().unwrap(), "mailer".parse().unwrap());
    let attempt = attempt_span(&id, &subscription, &plugin, 2, &carried, &topic);
    record_version(&attempt, "1.0.0");
    attempt.in_scope(|| {
        tracing::info_span!("between").in_scope(|| {
            let mail = effect_span("email");
            record_provider_id(&mail, "0100018f-ses");
            let published = effect_span("publish");
            record_destination(&published, &"sent".parse().unwrap(), 3);
            assert_eq!(position(&published).unwrap().trace_bits(), caller.trace_bits());
        });
        record_outcome(&attempt, &Outcome::Verdict(Verdict::Reject { reason: "no".to_owned() }));
        record_unsettled(&settle_span(DeliveryOutcome::DeadLetter), "unavailable");
    });
    drop(attempt);

    let spans = exported(&queue);
    let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    let http = "POST /v1/topics/{topic}/messages";
    // In the order in which they ended; what is in between holds its parents open.
    let expected = ["publish orders", http, "publish sent", "send email", "settle orders", "process orders"];
    assert_eq!(names, expected);
    let [stored, request, published, mail, settled, attempt] = &spans[..] else { panic!("{names:?}") };
    for span in &spans {
        assert_eq!(span.trace_id, caller.trace_bits().to_be_bytes());
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.start_time_unix_nano > 0);
    }
    assert_eq!(request.parent_span_id, caller.span_bits().to_be_bytes());
    assert_eq!(stored.parent_span_id, request.span_id);
    assert_eq!(attempt.parent_span_id, stored.span_id);
    for inner in [mail, published, settled] {
        assert_eq!(inner.parent_span_id, attempt.span_id);
    }
    let kinds: Vec<i32> = [request, stored, attempt, mail, published, settled].map(|span| span.kind).to_vec();
    let [server, client, producer, consumer] =
        [SpanKind::Server, SpanKind::Client, SpanKind::Producer, SpanKind::Consumer].map(|kind| kind as i32);
    assert_eq!(kinds, [server, producer, consumer, client, producer, client]);
    assert_eq!([request, stored, attempt].map(|span| span.flags), [0x301, 0x101, 0x301]);

    let destination = ("messaging.destination.name", "orders");
    is(
        request,
        &[
            ("http.request.method", "POST"),
            ("http.response.status_code", "202"),
            ("http.route", "/v1/topics/{topic}/messages"),
            ("sandpost.request.id", "r1"),
        ],
    );
    is(
        stored,
        &[
            destination,
            ("messaging.message.id", "m1"),
            ("messaging.operation.name", "publish"),
            ("messaging.operation.type", "send"),
            ("messaging.system", "sandpost"),
        ],
    );
    is(
        attempt,
        &[
            ("error.type", "reject"),
            destination,
            ("messaging.destination.subscription.name", "mail"),
            ("messaging.message.id", "m1"),
            ("messaging.operation.name", "process"),
            ("messaging.operation.type", "process"),
            ("messaging.system", "sandpost"),
            ("sandpost.attempt", "2"),
            ("sandpost.outcome", "reject"),
            ("sandpost.plugin.name", "mailer"),
            ("sandpost.plugin.version", "1.0.0"),
        ],
    );
    is(mail, &[("sandpost.email.provider_message_id", "0100018f-ses")]);
    is(
        published,
        &[
            ("messaging.batch.message_count", "3"),
            ("messaging.destination.name", "sent"),
            ("messaging.operation.name", "publish"),
            ("messaging.operation.type", "send"),
            ("messaging.system", "sandpost"),
        ],
    );
    is(
        settled,
        &[
            ("error.type", "unavailable"),
            destination,
            ("messaging.operation.name", "settle"),
            ("messaging.operation.type", "settle"),
            ("messaging.system", "sandpost"),
            ("sandpost.outcome", "dead-letter"),
        ],
    );
    let failed = |span: &Span| span.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32);
    assert_eq!(spans.iter().map(failed).collect::<Vec<_>>(), [false, false, false, false, true, true]);
}

#[test]
fn a_request_begins_a_trace_where_it_changes_something_and_goes_on_in_its_callers() {
    let (queue, _watched) = watched("parentbased_always_on");
    let caller = TraceParent::parse(CALLER).unwrap();
    assert!(position(&request_span("r", "GET", "/healthz", None)).is_none());
    let begun = position(&request_span("r", "DELETE", "/v1/dead-letters/{id}", None)).unwrap();
    assert!(begun.is_sampled());
    record_status(&request_span("r", "GET", "/healthz", Some(&caller)), 503);
    request_span("r", "other", "unmatched", None);

    let spans = exported(&queue);
    let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["DELETE /v1/dead-letters/{id}", "GET /healthz", "HTTP"]);
    assert!(spans[0].parent_span_id.is_empty());
    assert_eq!(spans[0].trace_id, begun.trace_bits().to_be_bytes());
    assert_eq!(spans[1].parent_span_id, caller.span_bits().to_be_bytes());
    assert!(said(&spans[1]).contains(&("error.type".to_owned(), "503".to_owned())));
}

#[test]
fn what_is_not_recorded_is_not_recorded_later_either() {
    let (queue, _watched) = watched("parentbased_always_on");
    let caller = TraceParent::parse(CALLER).unwrap().with_sampled(false);
    let topic: Topic = "orders".parse().unwrap();
    let request = request_span("r", "POST", "/v1/topics/{topic}/messages", Some(&caller));
    let carried = request.in_scope(|| position(&publish_span(&topic, &caller, 1))).unwrap();
    assert_eq!((carried.trace_bits(), carried.is_sampled()), (caller.trace_bits(), false));
    let (id, subscription, plugin) = ("m1".parse().unwrap(), "mail".parse().unwrap(), "mailer".parse().unwrap());
    attempt_span(&id, &subscription, &plugin, 1, &carried, &topic).in_scope(|| drop(effect_span("email")));
    drop(request);
    assert_eq!(exported(&queue), []);
}

#[test]
fn effects_and_settlements_outside_of_an_attempt_are_nobodys() {
    let (queue, _watched) = watched("always_on");
    drop((effect_span("email"), settle_span(DeliveryOutcome::Ack)));
    assert_eq!(exported(&queue), []);
}

#[test]
fn a_text_is_cut_between_two_characters() {
    let long = "ä".repeat(TEXT_MAX_BYTES);
    let Some(AnyValue { value: Some(Value::StringValue(cut)) }) = text("a", &long).value else { panic!("a text") };
    assert_eq!(cut.len(), TEXT_MAX_BYTES);
}
