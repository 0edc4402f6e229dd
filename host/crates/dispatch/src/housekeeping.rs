//! Forgets what is old: ledger entries, effects, publishers' requests. In small steps, so that no store is held up.
//!
//! Invariant: no effect is forgotten whose message may still be tried. An effect is claimed after its message was published,
//! so nothing younger than the oldest unsettled message of any subscription is forgotten; where a broker cannot say how old
//! that is, nothing that it might still keep; and where it does not answer, no effect is.
//!
//! Many hosts over one store do this side by side: it does no harm, and needs no leader.

use crate::context::{Bound, Shared};
use sandpost_message::TimestampMs;
use sandpost_ports::{ErrorKind, PortError};
use sandpost_telemetry::events::dispatch::{Housekept, StateFailed};
use std::sync::Arc;

/// Records of one step: one short write.
const BATCH: usize = 1_000;

/// Steps of one round and kind. What is left waits for the next round.
const BATCHES_MAX: u32 = 100;

/// The longest that a broker which cannot count its messages keeps one: Google Pub/Sub's longest retention, 31 days
/// (its documentation of `messageRetentionDuration`, read in November 2026).
const KEPT_BY_BROKERS_MS_MAX: u64 = 31 * 24 * 60 * 60 * 1000;

/// Runs until the stop.
pub(crate) async fn run(shared: Arc<Shared>, subscriptions: Vec<Arc<Bound>>) {
    while shared.pause(shared.config.housekeeping_interval_ms).await {
        if shared.until_stop(round(&shared, &subscriptions)).await.is_none() {
            return;
        }
    }
}

async fn round(shared: &Shared, subscriptions: &[Arc<Bound>]) {
    let state = &*shared.services.state;
    let now_ms = shared.now_ms();
    let ledger_before_ms = now_ms.saturating_sub(shared.config.ledger_keep_ms);
    let ledger = forget(shared, "forget-ledger", || state.forget_before(ledger_before_ms, BATCH)).await;
    let effects = match effects_before(shared, subscriptions, now_ms).await {
        Some(before_ms) => forget(shared, "forget-effects", || state.forget_effects_before(before_ms, BATCH)).await,
        None => 0,
    };
    let requests = forget(shared, "forget-requests", || state.forget_requests(now_ms, BATCH)).await;
    if ledger + effects + requests > 0 {
        Housekept { ledger, effects, requests }.emit();
    }
}

/// Before when effects may be forgotten; none where it is not known.
async fn effects_before(shared: &Shared, subscriptions: &[Arc<Bound>], now_ms: TimestampMs) -> Option<TimestampMs> {
    let mut before_ms = now_ms.saturating_sub(shared.config.effects_keep_ms);
    for bound in subscriptions {
        let oldest_ms = match shared.call(shared.services.broker.backlog(&bound.name)).await {
            Ok(backlog) => backlog.oldest_published_at_ms.unwrap_or(before_ms),
            Err(error) if error.kind == ErrorKind::Unsupported => now_ms.saturating_sub(KEPT_BY_BROKERS_MS_MAX),
            Err(_) => return None,
        };
        before_ms = before_ms.min(oldest_ms);
    }
    Some(before_ms)
}

/// Calls until there is nothing left, or enough was done for one round; how many were forgotten.
async fn forget<Call>(shared: &Shared, operation: &'static str, mut call: impl FnMut() -> Call) -> u64
where
    Call: Future<Output = Result<u64, PortError>>,
{
    let mut forgotten = 0_u64;
    for _ in 0..BATCHES_MAX {
        match shared.call(call()).await {
            Ok(0) => break,
            Ok(count) => forgotten = forgotten.saturating_add(count),
            Err(error) => {
                StateFailed { operation, kind: error.kind.word(), error: &error }.emit();
                break;
            }
        }
        tokio::task::yield_now().await;
    }
    forgotten
}
