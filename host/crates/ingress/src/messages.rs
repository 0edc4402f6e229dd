//! `GET /v1/messages/{id}`: what happened to a message, step by step.

use crate::App;
use crate::read::Segment;
use crate::reject::{Reject, Thing};
use crate::stamp::rfc3339;
use axum::Json;
use axum::extract::State;
use sandpost_message::MessageId;
use sandpost_ports::state::LedgerEntry;

/// A message's history.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct History {
    /// The message.
    id: String,
    /// The trace that all its steps share; of the first, where a repetition brought another.
    trace_id: String,
    /// In the order of time.
    steps: Vec<StepView>,
}

/// One step.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct StepView {
    /// RFC 3339, UTC, milliseconds.
    at: String,
    /// What happened: `accepted`, `started`, `acknowledged`, `retry-planned`, `dead-lettered`, `effect-sent`, …
    step: &'static str,
    /// On which subscription.
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription: Option<String>,
    /// In which attempt, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    /// Which plugin was at work.
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// The sha256 of its artifact.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// More in words: a reason, a provider's id, a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl From<LedgerEntry> for StepView {
    fn from(entry: LedgerEntry) -> Self {
        Self {
            at: rfc3339(entry.at_ms),
            step: entry.step.word(),
            subscription: entry.subscription.map(String::from),
            attempt: entry.attempt,
            plugin: entry.plugin.map(String::from),
            version: entry.version,
            digest: entry.digest.map(String::from),
            detail: entry.detail,
        }
    }
}

/// Show what happened to a message
#[utoipa::path(
    get, path = "/v1/messages/{id}", tag = "messages",
    params(("id" = String, Path, description = "As publishing answered it")),
    responses((status = 200, description = "Every step that the ledger keeps", body = History)),
)]
pub(crate) async fn history(State(app): State<App>, Segment(id): Segment) -> Result<Json<History>, Reject> {
    let id: MessageId = id.parse().map_err(|_| Reject::Unknown(Thing::Message))?;
    let mut entries = app.state.history(&id).await?;
    // Steps are written by whoever takes them, and not always in the order in which they were taken.
    entries.sort_by_key(|entry| (entry.at_ms, entry.attempt, entry.step.rank()));
    let trace_id = entries.first().ok_or(Reject::Unknown(Thing::Message))?.trace_id.clone();
    Ok(Json(History { id: id.into(), trace_id, steps: entries.into_iter().map(StepView::from).collect() }))
}
