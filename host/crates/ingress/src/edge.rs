//! Around every request: its id, its limits, whether it may, and the shape of its answer.
//!
//! Not here: limits of a connection (`serve`), how a body is read (`read`).

use crate::App;
use crate::auth::{self, Access, Caller};
use crate::draft;
use crate::reject::{Pending, Reject};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use sandpost_message::MessageId;
use sandpost_telemetry::events::ingress::{AccessDenied, RequestFailed, RequestFinished, record_status, request_span};
use std::any::Any;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tracing::Instrument as _;

/// Who is at the other end of the connection. In the extensions of every request that [`serve`](crate::serve) takes.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The place of one request under the ceiling. Work that goes on without its caller keeps it.
#[derive(Clone)]
pub(crate) struct Slot {
    _permit: Option<Arc<OwnedSemaphorePermit>>,
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_MAX_BYTES: usize = 128;
/// The label of a request that no route matches. Its path is the caller's, and there is no end of those.
const UNMATCHED: &str = "unmatched";

/// The outermost layer.
pub(crate) async fn edge(
    State(app): State<App>,
    matched: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let request_id = request_id(request.headers());
    let route = matched.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
    let method = method_word(request.method());
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let span = request_span(&request_id, method, route, draft::callers_trace(request.headers()).as_ref());

    let within = Duration::from_millis(app.config.request_timeout_ms);
    let work = AssertUnwindSafe(gate(&app, route, request, next)).catch_unwind();
    let (caller, mut response) = match tokio::time::timeout(within, work).instrument(span.clone()).await {
        Ok(Ok((caller, answer))) => (caller, answer.unwrap_or_else(IntoResponse::into_response)),
        Ok(Err(panic)) => (None, Reject::Internal(panic_words(panic.as_ref()).into()).into_response()),
        Err(_) => (None, Reject::TookTooLong.into_response()),
    };
    let caller = caller.as_ref().map(|caller| &*caller.name);

    if let Some(Pending { problem, cause, denied }) = response.extensions_mut().remove() {
        if let Some(cause) = cause {
            let fault = response.status() == axum::http::StatusCode::INTERNAL_SERVER_ERROR;
            let cause: &(dyn std::error::Error + 'static) = &**cause;
            RequestFailed { code: problem.code(), request_id: &request_id, cause, fault }.emit();
        }
        if let Some(reason) = denied {
            AccessDenied { reason, route, caller, peer }.emit();
        }
        *response.body_mut() = problem.to_bytes(&request_id).into();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    }
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(value) = HeaderValue::try_from(&request_id) {
        headers.insert(REQUEST_ID, value);
    }
    record_status(&span, response.status().as_u16());
    let seconds = started.elapsed().as_secs_f64();
    RequestFinished { route, method, status: response.status().as_u16(), seconds, caller, request_id: &request_id }
        .emit();
    response
}

/// Where no route is, or no such method on it. [`gate`] answers both before; this is the last word should it not.
pub(crate) async fn not_found() -> Reject {
    Reject::NotFound
}

async fn gate(app: &App, route: &str, mut request: Request, next: Next) -> (Option<Caller>, Result<Response, Reject>) {
    let admitted = admit(app, route, &request);
    let (caller, access) = match admitted {
        Ok(admitted) => admitted,
        Err(reject) => return (None, Err(reject)),
    };
    // Probes get their answer from a host at its ceiling too; else an orchestrator would end it for being busy.
    let permit = if matches!(access, Access::Open | Access::Metrics) {
        None
    } else {
        match app.slots.clone().try_acquire_owned() {
            Ok(permit) => Some(Arc::new(permit)),
            Err(_) => return (Some(caller), Err(Reject::Overloaded)),
        }
    };
    request.extensions_mut().insert(Slot { _permit: permit });
    request.extensions_mut().insert(caller.clone());
    (Some(caller), Ok(next.run(request).await))
}

fn admit(app: &App, route: &str, request: &Request) -> Result<(Caller, Access), Reject> {
    if app.tokens.is_open() {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
        auth::only_local(peer, request.headers(), request.uri())?;
    }
    let access = match auth::rule(request.method(), route)? {
        Access::Metrics if app.config.metrics_open => Access::Open,
        access => access,
    };
    let caller = app.tokens.admit(access, request.headers(), &app.service)?;
    Ok((caller, access))
}

/// The caller's own id where it is fit for a log line and a header; else a new one.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| (1..=REQUEST_ID_MAX_BYTES).contains(&id.len()))
        .filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b)))
        .map_or_else(|| MessageId::new().to_string(), str::to_owned)
}

fn method_word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

pub(crate) fn panic_words(panic: &(dyn Any + Send)) -> String {
    let words = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without words");
    format!("a handler panicked: {words}")
}
