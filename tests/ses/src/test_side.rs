//! The test's own side over HTTP, where the server runs as a program: what was sent, and what is to happen.

use crate::account::{Account, Sent, State};
use crate::{Answer, Shared};
use axum::extract::State as Of;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use std::collections::BTreeMap;

pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route("/_test/sent", get(sent))
        .route("/_test/calls", get(calls))
        .route("/_test/next", post(next))
        .route("/_test/account", get(account).put(change))
        .route("/_test/reset", post(reset))
}

/// The mails, in order.
async fn sent(Of(shared): Of<Shared>) -> Json<Vec<Sent>> {
    Json(shared.lock().sent.clone())
}

/// How often each operation was asked for.
async fn calls(Of(shared): Of<Shared>) -> Json<BTreeMap<String, u64>> {
    Json(shared.lock().calls.clone())
}

/// How the next `SendEmail` is answered.
async fn next(Of(shared): Of<Shared>, Json(answer): Json<Answer>) -> StatusCode {
    shared.lock().answers.push_back(answer);
    StatusCode::NO_CONTENT
}

async fn account(Of(shared): Of<Shared>) -> Json<Account> {
    Json(shared.lock().account.clone())
}

/// The whole account at once; what is left out has its default.
async fn change(Of(shared): Of<Shared>, Json(account): Json<Account>) -> StatusCode {
    shared.lock().account = account;
    StatusCode::NO_CONTENT
}

async fn reset(Of(shared): Of<Shared>) -> StatusCode {
    *shared.lock() = State::default();
    StatusCode::NO_CONTENT
}
