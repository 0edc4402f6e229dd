//! Refreshes the gauges: what waits, what is at work, what is dead. What cannot be read now keeps its last value.

use crate::context::{Bound, Shared, between};
use sandpost_telemetry::events::dispatch::{Backlog, DeadLetterCount, InFlight, StateFailed};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Runs until the stop.
pub(crate) async fn run(shared: Arc<Shared>, subscriptions: Vec<Arc<Bound>>) {
    loop {
        if shared.until_stop(refresh(&shared, &subscriptions)).await.is_none() {
            return;
        }
        if !shared.pause(shared.config.metrics_interval_ms).await {
            return;
        }
    }
}

async fn refresh(shared: &Shared, subscriptions: &[Arc<Bound>]) {
    let dead = shared.call(shared.services.state.count_dead_letters()).await;
    if let Err(error) = &dead {
        StateFailed { operation: "count-dead-letters", kind: error.kind.word(), error }.emit();
    }
    for bound in subscriptions {
        InFlight { subscription: &bound.name, count: bound.in_flight.load(Ordering::Relaxed) }.emit();
        if let Ok(counts) = &dead {
            // A subscription without any is not in the answer.
            let count = counts.iter().find(|(name, _)| *name == bound.name).map_or(0, |(_, count)| *count);
            DeadLetterCount { subscription: &bound.name, count }.emit();
        }
        // A broker that does not answer shows in its pulls and in the health page; it is not reported a third time.
        if let Ok(backlog) = shared.call(shared.services.broker.backlog(&bound.name)).await {
            let now_ms = shared.now_ms();
            Backlog {
                subscription: &bound.name,
                ready: backlog.ready,
                leased: backlog.in_flight,
                held: backlog.held,
                oldest: between(backlog.oldest_published_at_ms.unwrap_or(now_ms), now_ms),
            }
            .emit();
        }
    }
}
