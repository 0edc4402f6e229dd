//! A small server that answers as SES v2 does, for tests. It sends nothing, records everything, and fails as told.
//!
//! REST-JSON as the service speaks it: `SendEmail` (simple and raw), `GetAccount`, the suppression list, identities and
//! configuration sets, with the errors' names in `x-amzn-errortype`. Beside it what credentials come from: STS
//! (`AssumeRole`, with and without web identity), the container's endpoint and the instance metadata (v2). And the test's own
//! side: what was sent, and what the next sends are answered with, by methods here or over HTTP under `/_test`.
//!
//! What holds as at the service
//! - A sender has to be verified; in the sandbox the recipients too. A suppressed recipient is accepted, counted against the
//!   quota and not delivered to.
//! - Over the rate is `TooManyRequestsException`, over the day's quota `LimitExceededException`; recipients count.
//! - Sending twice is two mails: nothing is deduplicated.
//!
//! Not here: checking signatures (only whose key it is), templates, bulk sending, events.

mod account;
mod answer;
mod credentials;
mod email;
mod serve;
mod test_side;

pub use account::{Account, Identity, Sent, Suppressed};
pub use answer::{Answer, ERRORS};

use account::State;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinHandle;

/// A running server. Dropped, it ends, and all its connections with it.
pub struct Ses {
    address: SocketAddr,
    state: Shared,
    serving: JoinHandle<()>,
}

/// What all requests share.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ses {
    /// On a free port of 127.0.0.1, with `example.com` verified and 50 000 recipients a day, 1000 a second.
    pub async fn start() -> std::io::Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// At this address.
    pub async fn start_at(address: SocketAddr) -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state = Shared::default();
        let router = email::routes().merge(credentials::routes()).merge(test_side::routes()).with_state(state.clone());
        let serving = tokio::spawn(serve::serve(listener, router));
        Ok(Self { address, state, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same, for `AWS_ENDPOINT_URL_SESV2`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was sent, in order.
    pub fn sent(&self) -> Vec<Sent> {
        self.state.lock().sent.clone()
    }

    /// How the next `SendEmail` is answered; each answer once, in the order given.
    pub fn next(&self, answer: Answer) {
        self.state.lock().answers.push_back(answer);
    }

    /// Changes the account, the identities, the suppression list.
    pub fn change<T>(&self, change: impl FnOnce(&mut Account) -> T) -> T {
        change(&mut self.state.lock().account)
    }

    /// How often each operation was asked for, by its name (`SendEmail`, `GetAccount`, `AssumeRole`, …).
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.state.lock().calls.clone()
    }

    /// How often this one was.
    pub fn calls_of(&self, operation: &str) -> u64 {
        self.state.lock().calls.get(operation).copied().unwrap_or(0)
    }

    /// Waits for the end of serving, which is the end of the program that called it.
    pub async fn forever(mut self) {
        // Cancelled or failed: either way it serves no more.
        drop((&mut self.serving).await);
    }
}

impl Drop for Ses {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
