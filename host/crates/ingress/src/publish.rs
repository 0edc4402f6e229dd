//! `POST /v1/topics/{topic}/messages` and `…/messages:batch`.
//!
//! Not here: what a message is made of (`draft`, `cloudevents`), doing it once (`idempotency`).

use crate::App;
use crate::auth::Caller;
use crate::edge::Slot;
use crate::idempotency::{self, Answer, Asked, Once, Stored};
use crate::read::{self, Segment};
use crate::reject::{Problem, Reject};
use crate::{cloudevents, draft};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use sandpost_message::{Message, MessageId, Topic, limits};
use sandpost_ports::broker::Published;

/// A message was stored.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct Accepted {
    /// The message's id.
    #[schema(value_type = String)]
    id: MessageId,
}

/// What came of each message of a batch, in its order.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct Results {
    results: Vec<ItemResult>,
}

/// One of `id` and `error`.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct ItemResult {
    /// The message's id, where it was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    id: Option<MessageId>,
    /// Why it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Problem>,
}

/// Publish one message
///
/// The body is the message, byte for byte, with its content type (default `application/json`; a JSON type has to be
/// JSON). 202 means that it is on durable storage. `CloudEvents` 1.0 are taken in both modes: binary (`ce-…` headers) and
/// structured (`application/cloudevents+json`); their attributes become attributes with the name `ce-…`, `source` and
/// `id` the dedupe key. Each header `Sandpost-Attribute-…` is an attribute, with UTF-8 for a value and the rest of the
/// header's name, in lower case because headers have no case, for a name.
#[utoipa::path(
    post, path = "/v1/topics/{topic}/messages", tag = "publish",
    params(
        ("topic" = String, Path, description = "A topic that a subscription listens to", min_length = 3, max_length = 255, pattern = "^[A-Za-z][A-Za-z0-9._-]*$"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters, known for 24 hours by caller and topic: the same request gets the first answer again, with `Idempotency-Replayed: true`"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context; one that is malformed starts a new trace"),
        ("Sandpost-Ordering-Key" = Option<String>, Header, description = "Messages that share it are handled one at a time"),
        ("Sandpost-Delay-Ms" = Option<u64>, Header, description = "Not to be delivered before this time has passed; at most 30 days"),
        ("Sandpost-Dedupe-Key" = Option<String>, Header, description = "1 to 240 bytes; two messages of a topic with one key within 24 hours are one: the first"),
    ),
    request_body(content(("application/json"), ("application/cloudevents+json"), ("application/octet-stream"))),
    responses((status = 202, description = "Stored; `Location` is where its ledger is", body = Accepted)),
)]
pub(crate) async fn publish(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Extension(slot): Extension<Slot>,
    Segment(topic): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Reject> {
    let topic = topic_of(&topic, &caller)?;
    let content_type = read::content_type(&headers)?;
    let essence = content_type.as_ref().map_or("", |found| &found.essence);
    let structured = essence == cloudevents::STRUCTURED;
    if !structured && essence.starts_with("application/cloudevents") {
        let wanted = "a CloudEvent is taken in binary mode or as application/cloudevents+json; several of them, as \
                      application/cloudevents-batch+json, at …/messages:batch";
        return Err(Reject::UnsupportedMediaType { wanted });
    }
    let body = read::body(&app, &headers, body).await?;
    let now_ms = app.clock.now_ms();
    let asked = Asked { route: "messages", caller: &caller.name, topic: &topic, headers: &headers, body: &body };
    let once = Once::from(&asked)?;
    let message = if structured {
        cloudevents::structured(topic.clone(), &headers, &body, now_ms)
    } else if cloudevents::is_binary(&headers) {
        cloudevents::binary(topic.clone(), &headers, content_type.as_ref(), body, now_ms)
    } else {
        draft::plain(topic.clone(), &headers, content_type.as_ref(), body, now_ms)
    }?;
    idempotency::publish(&app, slot, once, vec![message], move |stored| {
        let Published { id, .. } = stored
            .into_iter()
            .next()
            .ok_or_else(|| Reject::Internal("the publisher gave no answer".into()))?
            .map_err(|error| Reject::Port { error, topic: Some(topic) })?;
        let location = format!("/v1/messages/{id}");
        Ok(Answer::new(StatusCode::ACCEPTED, Some(location), json(&Accepted { id })?))
    })
    .await
}

/// Publish a batch of messages
///
/// 202 where all of them were stored; 207 where some were not: then the results say which and why. Where the broker took
/// none of them for one and the same reason, that is the answer. A batch that is not well-formed is refused whole. With
/// an `Idempotency-Key` a 207 is what a repetition gets too: send what is missing under a new key.
#[utoipa::path(
    post, path = "/v1/topics/{topic}/messages:batch", tag = "publish",
    params(
        ("topic" = String, Path, description = "A topic that a subscription listens to", min_length = 3, max_length = 255, pattern = "^[A-Za-z][A-Za-z0-9._-]*$"),
        ("Idempotency-Key" = Option<String>, Header, description = "As for one message, for the whole batch"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context, for each of the messages"),
    ),
    request_body(content((draft::Batch = "application/json"), ("application/cloudevents-batch+json"))),
    responses(
        (status = 202, description = "All stored", body = Results),
        (status = 207, description = "Some stored", body = Results),
    ),
)]
pub(crate) async fn publish_batch(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Extension(slot): Extension<Slot>,
    Segment(topic): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Reject> {
    let topic = topic_of(&topic, &caller)?;
    draft::refuse_headers(&headers)?;
    let content_type = read::content_type(&headers)?;
    let events = match content_type.as_ref().map_or("application/json", |found| &found.essence) {
        "application/json" => false,
        cloudevents::BATCH => true,
        _ => {
            let wanted = "a batch is application/json or application/cloudevents-batch+json";
            return Err(Reject::UnsupportedMediaType { wanted });
        }
    };
    let body = read::body(&app, &headers, body).await?;
    let asked = Asked { route: "messages:batch", caller: &caller.name, topic: &topic, headers: &headers, body: &body };
    let once = Once::from(&asked)?;
    let drafts = drafts(&topic, events, &headers, &body, app.clock.now_ms())?;

    let (mut results, mut messages) = (Vec::with_capacity(drafts.len()), Vec::with_capacity(drafts.len()));
    for draft in drafts {
        match draft {
            Ok(message) => {
                results.push(None);
                messages.push(message);
            }
            Err(reject) => results.push(Some(ItemResult { id: None, error: Some(reject.problem()) })),
        }
    }
    idempotency::publish(&app, slot, once, messages, move |stored| batch_answer(&topic, results, stored)).await
}

type Draft = Result<Message, Reject>;

fn drafts(topic: &Topic, events: bool, headers: &HeaderMap, body: &[u8], now_ms: u64) -> Result<Vec<Draft>, Reject> {
    let trace = draft::trace(headers);
    let with_trace = |mut message: Message| {
        message.trace = trace;
        message
    };
    let drafts: Vec<Draft> = if events {
        let events: Vec<cloudevents::Structured> = read::json(body)?;
        check_count(events.len())?;
        events.into_iter().map(|event| cloudevents::one(topic.clone(), event, now_ms).map(with_trace)).collect()
    } else {
        let draft::Batch { messages } = read::json(body)?;
        check_count(messages.len())?;
        messages.into_iter().map(|item| item.message(topic.clone(), trace, now_ms)).collect()
    };
    Ok(drafts)
}

fn check_count(count: usize) -> Result<(), Reject> {
    if (1..=limits::BATCH_MAX).contains(&count) {
        Ok(())
    } else {
        Err(Reject::InvalidBatch(format!("it has {count} messages; 1 to {} are accepted", limits::BATCH_MAX)))
    }
}

fn batch_answer(topic: &Topic, mut results: Vec<Option<ItemResult>>, stored: Stored) -> Result<Answer, Reject> {
    let all_asked = stored.len() == results.len();
    let stored: Vec<Result<MessageId, Reject>> = stored
        .into_iter()
        .map(|outcome| {
            outcome.map(|published| published.id).map_err(|error| Reject::Port { error, topic: Some(topic.clone()) })
        })
        .collect();
    let code = |outcome: &Result<MessageId, Reject>| outcome.as_ref().err().map(|reject| reject.problem().code());
    let one_reason = stored.windows(2).all(|pair| code(&pair[0]) == code(&pair[1]));
    let mut outcomes = stored.into_iter().peekable();
    // The broker's own reason, said once, with its status and its `Retry-After`.
    if all_asked && one_reason && outcomes.peek().is_some_and(Result::is_err) {
        return Err(outcomes.find_map(Result::err).unwrap_or(Reject::NotFound));
    }
    for result in results.iter_mut().filter(|result| result.is_none()) {
        *result = Some(match outcomes.next() {
            Some(Ok(id)) => ItemResult { id: Some(id), error: None },
            Some(Err(reject)) => ItemResult { id: None, error: Some(reject.problem()) },
            None => return Err(Reject::Internal("the publisher gave too few answers".into())),
        });
    }
    let results: Vec<ItemResult> = results.into_iter().flatten().collect();
    let complete = results.iter().all(|result| result.id.is_some());
    let status = if complete { StatusCode::ACCEPTED } else { StatusCode::MULTI_STATUS };
    Ok(Answer::new(status, None, json(&Results { results })?))
}

fn topic_of(text: &str, caller: &Caller) -> Result<Topic, Reject> {
    let topic: Topic = text.parse().map_err(|_| Reject::InvalidTopic(Topic::RULE))?;
    caller.may_publish_to(&topic)?;
    Ok(topic)
}

fn json(value: &impl serde::Serialize) -> Result<String, Reject> {
    serde_json::to_string(value).map_err(|error| Reject::Internal(error.into()))
}
