//! `/v1/dead-letters…`: look at what ended without an acknowledgement, send it back, or discard it.
//!
//! A replay in its steps: the status says so, the message is published for its subscription alone, the dead letter goes.
//! Wherever the host dies in between, the dead letter is still there, and the same request again goes on: no step loses
//! the message. Both carry one dedupe key; a broker that does not look at it on a message for one subscription stores
//! the message twice, and the handler sees it once more, as it may with any redelivery. A replay that fails meanwhile
//! makes a dead letter with an id of its own, which the last step does not touch
//! (`ports::state::DeadLetters::add_dead_letter`).

use crate::App;
use crate::auth::Caller;
use crate::edge::Slot;
use crate::idempotency::outliving;
use crate::mailbox::page_limit;
use crate::read::{Asked, ContentType, Segment};
use crate::reject::{Reject, Thing};
use crate::stamp::rfc3339;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sandpost_message::{Message, SubscriptionName, Topic};
use sandpost_ports::state::{DeadLetter, DeadLetterFilter, DeadLetterStatus, LedgerEntry, Step};
use sandpost_ports::{ErrorKind, PortError};
use sandpost_telemetry::events::ingress::{AnswerNotKept, DeadLetterSettled};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 500;
/// The cause of a dead letter that waits for a decision about an effect.
const OUTCOME_UNKNOWN: &str = "outcome-unknown";

/// Which dead letters.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    subscription: Option<SubscriptionName>,
    topic: Option<Topic>,
    cause: Option<String>,
    limit: Option<usize>,
    before: Option<String>,
}

/// How to replay.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplayQuery {
    #[serde(rename = "unknown-effects")]
    unknown_effects: Option<Decision>,
}

/// What to do about effects of which nobody knows whether they were done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Decision {
    SendAgain,
    TreatAsDone,
}

/// A page of dead letters, newest first.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct DeadLettersView {
    dead_letters: Vec<DeadLetterView>,
    /// The next page's `before`; none at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A dead letter.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct DeadLetterView {
    id: String,
    /// Where it was being handled.
    subscription: String,
    /// RFC 3339, UTC, milliseconds.
    dead_at: String,
    /// A stable word: `rejected`, `attempts-exhausted`, `no-handler`, `outcome-unknown`.
    cause: String,
    /// The last attempt's reason.
    reason: String,
    attempts: u32,
    plugin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// The sha256 of the artifact.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    trace_id: String,
    /// `held`, or `replaying` where a replay was begun and not ended: replay it again.
    status: &'static str,
    message: MessageView,
}

/// The message of a dead letter.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct MessageView {
    id: String,
    topic: String,
    /// RFC 3339, UTC, milliseconds.
    published_at: String,
    content_type: String,
    attributes: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ordering_key: Option<String>,
    body_bytes: usize,
    /// The body where it is JSON. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    body: Option<Box<RawValue>>,
    /// The body where it is not. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// The message is on its way back.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct Replayed {
    /// The message's id; it is the same as before.
    id: String,
}

impl DeadLetterView {
    fn new(letter: DeadLetter, with_body: bool) -> Self {
        Self {
            id: letter.id,
            subscription: letter.subscription.into(),
            dead_at: rfc3339(letter.dead_at_ms),
            cause: letter.cause,
            reason: letter.reason,
            attempts: letter.attempts,
            plugin: letter.plugin.into(),
            version: letter.version,
            digest: letter.digest.map(String::from),
            trace_id: letter.trace_id,
            status: match letter.status {
                DeadLetterStatus::Held => "held",
                DeadLetterStatus::Replaying => "replaying",
            },
            message: MessageView::new(letter.message, with_body),
        }
    }
}

impl MessageView {
    fn new(message: Message, with_body: bool) -> Self {
        let json = ContentType::parse(&message.content_type)
            .is_ok_and(|found| found.is_json())
            .then(|| std::str::from_utf8(&message.body).ok().and_then(|text| serde_json::from_str(text).ok()))
            .flatten()
            .filter(|_| with_body);
        Self {
            id: message.id.into(),
            topic: message.topic.into(),
            published_at: rfc3339(message.published_at_ms),
            content_type: message.content_type,
            attributes: message.attributes.into_iter().collect(),
            ordering_key: message.ordering_key,
            body_bytes: message.body.len(),
            body_base64: (with_body && json.is_none()).then(|| STANDARD.encode(&message.body)),
            body: json,
        }
    }
}

/// List dead letters
#[utoipa::path(
    get, path = "/v1/dead-letters", tag = "dead letters",
    params(
        ("subscription" = Option<String>, Query, description = "Only of this subscription", min_length = 3, max_length = 255, pattern = "^[A-Za-z][A-Za-z0-9._-]*$"),
        ("topic" = Option<String>, Query, description = "Only of this topic", min_length = 3, max_length = 255, pattern = "^[A-Za-z][A-Za-z0-9._-]*$"),
        ("cause" = Option<String>, Query, description = "Only with this cause"),
        ("limit" = Option<usize>, Query, description = "Default 50", minimum = 1, maximum = 500),
        ("before" = Option<String>, Query, description = "Only older ones than this id"),
    ),
    responses((status = 200, description = "Newest first, without bodies", body = DeadLettersView)),
)]
pub(crate) async fn list(
    State(app): State<App>,
    Asked(query): Asked<ListQuery>,
) -> Result<Json<DeadLettersView>, Reject> {
    let limit = page_limit(query.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let filter = DeadLetterFilter { subscription: query.subscription, topic: query.topic, cause: query.cause };
    let letters = app.state.dead_letters(&filter, query.before.as_deref(), limit).await?;
    let next = (letters.len() >= limit).then(|| letters.last().map(|letter| letter.id.clone())).flatten();
    let dead_letters = letters.into_iter().map(|letter| DeadLetterView::new(letter, false)).collect();
    Ok(Json(DeadLettersView { dead_letters, next }))
}

/// Show one dead letter with its message
#[utoipa::path(
    get, path = "/v1/dead-letters/{id}", tag = "dead letters",
    params(("id" = String, Path, description = "As the list has it")),
    responses((status = 200, description = "The dead letter", body = DeadLetterView)),
)]
pub(crate) async fn one(State(app): State<App>, Segment(id): Segment) -> Result<Json<DeadLetterView>, Reject> {
    Ok(Json(DeadLetterView::new(find(&app, &id).await?, true)))
}

/// Send a dead letter's message back to its subscription
///
/// With its id, its attempts counted afresh. Where the cause is `outcome-unknown`, a decision is needed: `send-again`
/// does the effect again, at the risk of doing it twice; `treat-as-done` takes it for done.
#[utoipa::path(
    post, path = "/v1/dead-letters/{id}/replay", tag = "dead letters",
    params(
        ("id" = String, Path, description = "As the list has it"),
        ("unknown-effects" = Option<String>, Query, description = "`send-again` or `treat-as-done`", pattern = "^(send-again|treat-as-done)$"),
    ),
    responses((status = 202, description = "On its way", body = Replayed)),
)]
pub(crate) async fn replay(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Extension(slot): Extension<Slot>,
    Segment(id): Segment,
    Asked(query): Asked<ReplayQuery>,
) -> Result<(StatusCode, Json<Replayed>), Reject> {
    let task = {
        let app = app.clone();
        async move { replay_one(&app, &caller, &id, query.unknown_effects).await }
    };
    let id = outliving(&app, slot, task).await??;
    Ok((StatusCode::ACCEPTED, Json(Replayed { id })))
}

async fn replay_one(app: &App, caller: &Caller, id: &str, decision: Option<Decision>) -> Result<String, Reject> {
    let letter = find(app, id).await?;
    if letter.cause == OUTCOME_UNKNOWN && decision.is_none() {
        return Err(Reject::UnknownEffects);
    }
    // From here on a redelivery of its message is tried, not settled by this dead letter.
    if !app.state.set_dead_letter_status(id, DeadLetterStatus::Replaying).await? {
        return Err(Reject::Unknown(Thing::DeadLetter));
    }
    if let Some(decision) = decision {
        let done = decision == Decision::TreatAsDone;
        app.state.resolve_unknown(&letter.message.id, &letter.subscription, done).await?;
    }
    let message = Message {
        only: Some(letter.subscription.clone()),
        dedupe_key: Some(format!("replay/{id}")),
        not_before_ms: 0,
        // Somebody decided: what ended a chain without end has its say anew.
        hops: 0,
        ..letter.message.clone()
    };
    let topic = message.topic.clone();
    let detail = format!("dead letter {id}, by {}", caller.name);
    let answer = app.publisher.publish(vec![message], Step::Replayed, Some(&detail)).await.into_iter().next();
    let unanswered = || Err(PortError::new(ErrorKind::UnknownOutcome, "the broker gave no answer"));
    if let Err(error) = answer.unwrap_or_else(unanswered) {
        match error.kind {
            // It may be on its way: replaying it again is safe, holding it back is not.
            ErrorKind::UnknownOutcome | ErrorKind::Other => {}
            ErrorKind::Invalid
            | ErrorKind::Conflict
            | ErrorKind::Unavailable
            | ErrorKind::Exceeded
            | ErrorKind::Unsupported => {
                app.state.set_dead_letter_status(id, DeadLetterStatus::Held).await?;
            }
        }
        return Err(Reject::Port { error, topic: Some(topic) });
    }
    // Not there any more: the replay has failed already, and its new dead letter took the place.
    app.state.remove_dead_letter(id).await?;
    DeadLetterSettled { action: "replayed", dead_letter: id, message_id: &letter.message.id, caller: &caller.name }
        .emit();
    Ok(letter.message.id.into())
}

/// Discard a dead letter
#[utoipa::path(
    delete, path = "/v1/dead-letters/{id}", tag = "dead letters",
    params(("id" = String, Path, description = "As the list has it")),
    responses((status = 204, description = "It is gone for good; the ledger says by whom")),
)]
pub(crate) async fn discard(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Segment(id): Segment,
) -> Result<StatusCode, Reject> {
    let letter = find(&app, &id).await?;
    if !app.state.remove_dead_letter(&id).await? {
        return Err(Reject::Unknown(Thing::DeadLetter));
    }
    let entry = LedgerEntry {
        message_id: letter.message.id.clone(),
        at_ms: app.clock.now_ms(),
        step: Step::Discarded,
        subscription: Some(letter.subscription),
        attempt: None,
        plugin: Some(letter.plugin),
        version: None,
        digest: None,
        trace_id: letter.trace_id,
        detail: Some(format!("dead letter {id}, by {}", caller.name)),
    };
    // It is gone; an error now would say that it is not.
    if let Err(error) = app.state.record(vec![entry]).await {
        AnswerNotKept { error: &error }.emit();
    }
    DeadLetterSettled { action: "discarded", dead_letter: &id, message_id: &letter.message.id, caller: &caller.name }
        .emit();
    Ok(StatusCode::NO_CONTENT)
}

async fn find(app: &App, id: &str) -> Result<DeadLetter, Reject> {
    app.state.dead_letter(id).await?.ok_or(Reject::Unknown(Thing::DeadLetter))
}
