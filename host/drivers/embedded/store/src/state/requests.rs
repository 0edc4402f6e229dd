//! Publishers' requests by idempotency key.

use crate::row::{int, length, time};
use crate::store::Store;
use rusqlite::{OptionalExtension, params};
use sandpost_message::TimestampMs;
use sandpost_ports::state::{RecordedRequest, RequestClaim, Requests};
use sandpost_ports::{ErrorKind, PortError};

#[async_trait::async_trait]
impl Requests for Store {
    async fn claim_request(
        &self,
        key: &str,
        request: RecordedRequest,
        now_ms: TimestampMs,
    ) -> Result<RequestClaim, PortError> {
        let key = key.to_owned();
        self.write(move |work| {
            let found = work
                .conn
                .prepare_cached(
                    "SELECT fingerprint, plan, stale_at_ms, answer FROM requests WHERE key = ?1 AND expires_at_ms > ?2",
                )?
                .query_row(params![key, int(now_ms)], |row| {
                    let found: (Vec<u8>, Vec<u8>, i64, Option<Vec<u8>>) =
                        (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
                    Ok(found)
                })
                .optional()?;
            let Some((fingerprint, plan, stale_at_ms, answer)) = found else {
                work.conn
                    .prepare_cached(
                        "INSERT OR REPLACE INTO requests (key, fingerprint, plan, stale_at_ms, expires_at_ms, answer)
                         VALUES (?1, ?2, ?3, ?4, ?5, NULL)",
                    )?
                    .execute(params![
                        key,
                        request.fingerprint,
                        request.plan,
                        int(request.stale_at_ms),
                        int(request.expires_at_ms)
                    ])?;
                return Ok(RequestClaim::Fresh);
            };
            if fingerprint != request.fingerprint {
                return Ok(RequestClaim::Mismatch);
            }
            if let Some(answer) = answer {
                return Ok(RequestClaim::Answered(answer));
            }
            if time(stale_at_ms) > now_ms {
                return Ok(RequestClaim::InFlight);
            }
            // The times are the new caller's, the plan stays: a third one must wait for the second.
            work.conn
                .prepare_cached("UPDATE requests SET stale_at_ms = ?2, expires_at_ms = ?3 WHERE key = ?1")?
                .execute(params![key, int(request.stale_at_ms), int(request.expires_at_ms)])?;
            Ok(RequestClaim::Resumed { plan })
        })
        .await
    }

    async fn answer_request(&self, key: &str, answer: Vec<u8>) -> Result<(), PortError> {
        let key = key.to_owned();
        self.write(move |work| {
            let mut update = work.conn.prepare_cached("UPDATE requests SET answer = ?2 WHERE key = ?1")?;
            if update.execute(params![key, answer])? == 0 {
                return Err(PortError::new(ErrorKind::Conflict, "the request is not known").into());
            }
            Ok(())
        })
        .await
    }

    async fn abandon_request(&self, key: &str) -> Result<(), PortError> {
        let key = key.to_owned();
        self.write(move |work| {
            work.conn.prepare_cached("DELETE FROM requests WHERE key = ?1 AND answer IS NULL")?.execute([&key])?;
            Ok(())
        })
        .await
    }

    async fn forget_requests(&self, now_ms: TimestampMs, max: usize) -> Result<u64, PortError> {
        self.write(move |work| {
            let forgotten = work
                .conn
                .prepare_cached(
                    "DELETE FROM requests WHERE key IN (SELECT key FROM requests INDEXED BY requests_age
                     WHERE expires_at_ms <= ?1 ORDER BY expires_at_ms LIMIT ?2)",
                )?
                .execute([int(now_ms), length(max)])?;
            Ok(u64::try_from(forgotten).unwrap_or(u64::MAX))
        })
        .await
    }
}
