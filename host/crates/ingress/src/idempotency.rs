//! Publishing once, however often it is asked for: `Idempotency-Key`, and work that outlives its caller.
//!
//! A key belongs to a caller and a topic. Before anything is stored the ids of the messages are recorded under it, so
//! that a host which takes the request over after another died stores the same messages, not further ones; each also
//! carries a dedupe key made from it.
//!
//! A failure that stored nothing forgets the key. One that may have stored something leaves it: after
//! `idempotency_stale_ms` a repetition is done again by the same plan.
//!
//! Where the store of keys does not answer, a request with a key is refused with 503 and nothing is stored: without the answer
//! it may be a repetition, and doing it again is what the caller sent a key against. One without a key goes on.
//!
//! Not here: what is kept and how (`ports::state::Requests`).

use crate::App;
use crate::edge::Slot;
use crate::read;
use crate::reject::Reject;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sandpost_message::{Digest, Message, MessageId, Topic};
use sandpost_ports::broker::Published;
use sandpost_ports::state::{RecordedRequest, RequestClaim, Step};
use sandpost_ports::{ErrorKind, PortError};
use sandpost_telemetry::events::ingress::{AnswerNotKept, MessageAccepted, publish_span, record_published};
use sandpost_telemetry::traces;
use sha2::{Digest as _, Sha256};
use tracing::Instrument as _;

const HEADER: &str = "idempotency-key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const KEY_MAX_BYTES: usize = 255;

/// A request that is to be done once.
pub(crate) struct Once {
    /// With caller and topic.
    key: String,
    fingerprint: Vec<u8>,
}

/// What a request is, for its fingerprint.
pub(crate) struct Asked<'a> {
    pub(crate) route: &'static str,
    pub(crate) caller: &'a str,
    pub(crate) topic: &'a Topic,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
}

impl Once {
    /// None where the caller sent no key.
    pub(crate) fn from(asked: &Asked<'_>) -> Result<Option<Self>, Reject> {
        let Some(key) = read::one(asked.headers, HEADER)? else { return Ok(None) };
        // The draft makes it a quoted string; most clients send it bare.
        let key = key.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(key);
        if !(1..=KEY_MAX_BYTES).contains(&key.len()) || !key.bytes().all(|b| (b'!'..=b'~').contains(&b)) {
            let rule = "is not 1 to 255 visible ASCII characters";
            return Err(Reject::InvalidHeader { name: HEADER.to_owned(), rule });
        }
        Ok(Some(Self { key: format!("{}/{}/{key}", asked.caller, asked.topic), fingerprint: asked.fingerprint() }))
    }

    /// The dedupe key of the message at this place.
    fn dedupe_key(&self, place: usize) -> String {
        format!("key/{}/{place}", Digest::from_bytes(Sha256::digest(&self.key).into()))
    }
}

impl Asked<'_> {
    /// Of everything that makes it this request: not of ids and traces, which differ when it is repeated.
    fn fingerprint(&self) -> Vec<u8> {
        let mut hash = Sha256::new();
        let mut put = |part: &[u8]| {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        };
        put(self.route.as_bytes());
        put(self.topic.as_str().as_bytes());
        let mut telling: Vec<(&str, &[u8])> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .filter(|(name, _)| *name == "content-type" || name.starts_with("sandpost-") || name.starts_with("ce-"))
            .collect();
        telling.sort_unstable();
        for (name, value) in telling {
            put(name.as_bytes());
            put(value);
        }
        put(self.body);
        hash.finalize().to_vec()
    }
}

/// What publishing is answered with; kept as it is for repetitions.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Answer {
    status: u16,
    location: Option<String>,
    body: String,
}

impl Answer {
    pub(crate) fn new(status: StatusCode, location: Option<String>, body: String) -> Self {
        Self { status: status.as_u16(), location, body }
    }

    fn into_response(self, replayed: bool) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::ACCEPTED);
        let mut response = (status, [(header::CONTENT_TYPE, "application/json")], self.body).into_response();
        if let Some(location) = self.location.and_then(|location| HeaderValue::try_from(location).ok()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        if replayed {
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// What the broker said, a line a message.
pub(crate) type Stored = Vec<Result<Published, PortError>>;

/// Publishes, and answers once it is durable. `answer` words what came of it.
pub(crate) async fn publish(
    app: &App,
    slot: Slot,
    once: Option<Once>,
    messages: Vec<Message>,
    answer: impl FnOnce(Stored) -> Result<Answer, Reject> + Send + 'static,
) -> Result<Response, Reject> {
    let task = {
        let app = app.clone();
        async move { claimed(&app, once, messages, answer).await }
    };
    outliving(app, slot, task).await?
}

/// Does work to its end whether or not its caller waits for it, with the caller's place under the ceiling. It ends with
/// the host, after the grace.
pub(crate) async fn outliving<T: Send + 'static>(
    app: &App,
    slot: Slot,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Reject> {
    use tracing::Instrument as _;
    let end = app.end.clone();
    let task = app.work.spawn(
        async move {
            let _slot = slot;
            end.run_until_cancelled(work).await
        }
        .in_current_span(),
    );
    match task.await {
        Ok(Some(done)) => Ok(done),
        Ok(None) => Err(PortError::new(ErrorKind::UnknownOutcome, "the host stopped").into()),
        Err(error) => Err(Reject::Internal(error.into())),
    }
}

async fn claimed(
    app: &App,
    once: Option<Once>,
    mut messages: Vec<Message>,
    answer: impl FnOnce(Stored) -> Result<Answer, Reject>,
) -> Result<Response, Reject> {
    let Some(once) = once else {
        let stored = store(app, messages).await;
        return answer(stored).map(|answer| answer.into_response(false));
    };
    let now_ms = app.clock.now_ms();
    let ids: Vec<&MessageId> = messages.iter().map(|message| &message.id).collect();
    let request = RecordedRequest {
        fingerprint: once.fingerprint.clone(),
        plan: serde_json::to_vec(&ids).map_err(|error| Reject::Internal(error.into()))?,
        stale_at_ms: now_ms.saturating_add(app.config.idempotency_stale_ms),
        expires_at_ms: now_ms.saturating_add(app.config.idempotency_window_ms),
    };
    match app.requests.claim_request(&once.key, request, now_ms).await.map_err(Reject::IdempotencyUnavailable)? {
        RequestClaim::Fresh => {}
        RequestClaim::Resumed { plan } => {
            let ids: Vec<MessageId> = serde_json::from_slice(&plan).map_err(|error| Reject::Internal(error.into()))?;
            if ids.len() != messages.len() {
                return Err(Reject::Internal("a recorded plan has another number of messages".into()));
            }
            for (message, id) in messages.iter_mut().zip(ids) {
                message.id = id;
            }
        }
        RequestClaim::Answered(kept) => {
            let kept: Answer = serde_json::from_slice(&kept).map_err(|error| Reject::Internal(error.into()))?;
            return Ok(kept.into_response(true));
        }
        RequestClaim::Mismatch => return Err(Reject::IdempotencyMismatch),
        RequestClaim::InFlight => {
            return Err(Reject::IdempotencyInFlight { retry_after_s: app.config.idempotency_stale_ms.div_ceil(1000) });
        }
    }
    for (place, message) in messages.iter_mut().enumerate() {
        message.dedupe_key.get_or_insert_with(|| once.dedupe_key(place));
    }

    let stored = store(app, messages).await;
    let unknown = |outcome: &Result<Published, PortError>| {
        outcome.as_ref().is_err_and(|error| match error.kind {
            // `Other` says nothing about what was done.
            ErrorKind::UnknownOutcome | ErrorKind::Other => true,
            ErrorKind::Invalid
            | ErrorKind::Conflict
            | ErrorKind::Unavailable
            | ErrorKind::Exceeded
            | ErrorKind::Unsupported => false,
        })
    };
    let (any_unknown, any_stored) = (stored.iter().any(unknown), stored.iter().any(Result::is_ok));
    let answer = answer(stored);
    if any_unknown {
        return answer.map(|answer| answer.into_response(false));
    }
    let kept = match &answer {
        Ok(answer) if any_stored => match serde_json::to_vec(answer) {
            Ok(bytes) => app.requests.answer_request(&once.key, bytes).await,
            Err(error) => Err(PortError::new(ErrorKind::Other, "an answer cannot be written").because(error)),
        },
        _ => app.requests.abandon_request(&once.key).await,
    };
    // Not the caller's: what it asked for is done, or is not, and the answer says so.
    if let Err(error) = kept {
        AnswerNotKept { error: &error }.emit();
    }
    answer.map(|answer| answer.into_response(false))
}

async fn store(app: &App, mut messages: Vec<Message>) -> Stored {
    let about: Vec<_> = messages.iter().map(|message| (message.topic.clone(), message.trace.trace_id())).collect();
    let span = messages
        .first()
        .map_or_else(tracing::Span::none, |first| publish_span(&first.topic, &first.trace, messages.len()));
    // What comes later, on whatever host, goes on where the message was stored.
    if let Some(position) = traces::position(&span) {
        for message in &mut messages {
            message.trace = position;
        }
    }
    let stored = app.publisher.publish(messages, Step::Accepted, None).instrument(span.clone()).await;
    let alone = match &*stored {
        [Ok(Published { id, .. })] => Some(id),
        _ => None,
    };
    let failed = stored.iter().find_map(|outcome| outcome.as_ref().err()).map(|error| error.kind.word());
    record_published(&span, alone, failed);
    for ((topic, trace_id), outcome) in about.iter().zip(&stored) {
        if let Ok(Published { id, duplicate }) = outcome {
            MessageAccepted { topic, message_id: id, trace_id, duplicate: *duplicate }.emit();
        }
    }
    stored
}
