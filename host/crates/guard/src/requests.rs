//! The guard before publishers' requests, where they lie in a service that has other uses too.

use crate::connection::Connection;
use sandpost_message::TimestampMs;
use sandpost_ports::PortError;
use sandpost_ports::state::{RecordedRequest, RequestClaim, Requests};
use sandpost_telemetry::events::connections::Operation;
use std::sync::Arc;

/// Requests behind their guard.
pub struct GuardedRequests {
    inner: Arc<dyn Requests>,
    connection: Arc<Connection>,
    claim: Operation,
    answer: Operation,
    abandon: Operation,
    forget: Operation,
}

impl GuardedRequests {
    /// Stands before `inner`.
    pub fn new(inner: Arc<dyn Requests>, connection: Arc<Connection>) -> Self {
        Self {
            inner,
            claim: connection.operation("claim-request"),
            answer: connection.operation("answer-request"),
            abandon: connection.operation("abandon-request"),
            forget: connection.operation("forget-requests"),
            connection,
        }
    }
}

#[async_trait::async_trait]
impl Requests for GuardedRequests {
    async fn claim_request(
        &self,
        key: &str,
        request: RecordedRequest,
        now_ms: TimestampMs,
    ) -> Result<RequestClaim, PortError> {
        self.connection.call(&self.claim, self.inner.claim_request(key, request, now_ms)).await
    }

    /// What was claimed may end.
    async fn answer_request(&self, key: &str, answer: Vec<u8>) -> Result<(), PortError> {
        self.connection.go_on(&self.answer, self.inner.answer_request(key, answer)).await
    }

    /// What was claimed may end.
    async fn abandon_request(&self, key: &str) -> Result<(), PortError> {
        self.connection.go_on(&self.abandon, self.inner.abandon_request(key)).await
    }

    async fn forget_requests(&self, now_ms: TimestampMs, max: usize) -> Result<u64, PortError> {
        self.connection.call(&self.forget, self.inner.forget_requests(now_ms, max)).await
    }
}
