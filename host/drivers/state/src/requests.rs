//! Publishers' requests by idempotency key: one row each, changed only as it was read.

use crate::effects::contended;
use crate::schema::KEY_MAX_BYTES;
use crate::statement::Statement;
use crate::{Oldest, SharedState};
use sandpost_message::TimestampMs;
use sandpost_ports::state::{RecordedRequest, RequestClaim, Requests};
use sandpost_ports::{ErrorKind, PortError};

/// How often a claim begins anew because the row changed between being read and being written to.
const ROUNDS_MAX: usize = 16;

#[async_trait::async_trait]
impl Requests for SharedState {
    async fn claim_request(
        &self,
        key: &str,
        request: RecordedRequest,
        now_ms: TimestampMs,
    ) -> Result<RequestClaim, PortError> {
        if key.len() > KEY_MAX_BYTES {
            return Err(PortError::invalid("the key of a request is longer than 1024 bytes"));
        }
        for _ in 0..ROUNDS_MAX {
            let insert = Statement::new(
                "INSERT INTO {p}requests (request_key, fingerprint, plan, stale_at_ms, expires_at_ms) \
                 VALUES (?, ?, ?, ?, ?)",
            )
            .bind(key.as_bytes())
            .bind(request.fingerprint.as_slice())
            .bind(request.plan.as_slice())
            .bind(request.stale_at_ms)
            .bind(request.expires_at_ms);
            if self.database.insert_new(insert).await? {
                return Ok(RequestClaim::Fresh);
            }
            let select = Statement::new(
                "SELECT fingerprint, plan, stale_at_ms, expires_at_ms, answer FROM {p}requests WHERE request_key = ?",
            );
            let rows = self.database.query(select.bind(key.as_bytes())).await?;
            let Some(row) = rows.first() else { continue };
            let (stale_at_ms, expires_at_ms) = (row.int(2)?, row.int(3)?);
            if row.time(3)? <= now_ms {
                let replace = Statement::new(
                    "UPDATE {p}requests SET fingerprint = ?, plan = ?, stale_at_ms = ?, expires_at_ms = ?, \
                     answer = NULL WHERE request_key = ? AND expires_at_ms = ? AND stale_at_ms = ?",
                )
                .bind(request.fingerprint.as_slice())
                .bind(request.plan.as_slice())
                .bind(request.stale_at_ms)
                .bind(request.expires_at_ms)
                .bind(key.as_bytes())
                .bind(expires_at_ms)
                .bind(stale_at_ms);
                if self.database.execute(replace).await? > 0 {
                    return Ok(RequestClaim::Fresh);
                }
                continue;
            }
            if row.bytes(0)? != request.fingerprint {
                return Ok(RequestClaim::Mismatch);
            }
            if let Some(answer) = row.maybe_bytes(4)? {
                return Ok(RequestClaim::Answered(answer));
            }
            if row.time(2)? > now_ms {
                return Ok(RequestClaim::InFlight);
            }
            // The times are the new caller's, the plan stays: a third one must wait for the second.
            let resume = Statement::new(
                "UPDATE {p}requests SET stale_at_ms = ?, expires_at_ms = ? \
                 WHERE request_key = ? AND stale_at_ms = ? AND expires_at_ms = ? AND answer IS NULL",
            )
            .bind(request.stale_at_ms)
            .bind(request.expires_at_ms)
            .bind(key.as_bytes())
            .bind(stale_at_ms)
            .bind(expires_at_ms);
            if self.database.execute(resume).await? > 0 {
                return Ok(RequestClaim::Resumed { plan: row.bytes(1)? });
            }
        }
        Err(contended())
    }

    async fn answer_request(&self, key: &str, answer: Vec<u8>) -> Result<(), PortError> {
        let update = Statement::new("UPDATE {p}requests SET answer = ? WHERE request_key = ?");
        if self.database.execute(update.bind(answer).bind(key.as_bytes())).await? == 0 {
            return Err(PortError::new(ErrorKind::Conflict, "the request is not known"));
        }
        Ok(())
    }

    async fn abandon_request(&self, key: &str) -> Result<(), PortError> {
        let delete = Statement::new("DELETE FROM {p}requests WHERE request_key = ? AND answer IS NULL");
        self.database.execute(delete.bind(key.as_bytes())).await.map(drop)
    }

    async fn forget_requests(&self, now_ms: TimestampMs, max: usize) -> Result<u64, PortError> {
        let oldest =
            Oldest { table: "requests", id: "request_key", condition: "expires_at_ms <= ?", age: "expires_at_ms" };
        self.forget(oldest, now_ms, max).await
    }
}
