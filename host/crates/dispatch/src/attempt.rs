//! One delivery, from its place to its settlement.
//!
//! Invariants
//! - A message whose dead letter is kept is not tried again: it is settled.
//! - A delivery past the budget is not tried: the attempts before it took their hosts down, or what the last one came to
//!   could not be kept.
//! - An attempt ends: by itself, by the backstop after the handler's deadline, or by the cut of a stop. What was cut is
//!   handed back uncounted, because the host ended it and not the plugin.
//! - A panic of the host's own code inside a handler is that attempt's fault `host`, not the end of the task.

use crate::context::{Bound, is_hopeless, within};
use crate::retry::{self, Cause, Decision};
use crate::route::Found;
use crate::settle::{self, Ending};
use crate::subscription::{BACKSTOP_MS, Leased, lease_lost};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, FusedFuture as _, ready};
use sandpost_message::{Fault, FaultKind, Outcome};
use sandpost_ports::broker::Subscription;
use sandpost_ports::plugins::{Attempt, Handler, Identity};
use sandpost_ports::state::Step;
use sandpost_telemetry::events::dispatch::{StateFailed, record_outcome, record_version};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// How long a delivery waits that could not be checked because the state did not answer.
const STATE_WAIT_MS: u64 = 5_000;

/// How long a delivery waits that lost its handler between pull and attempt. The loop does not pull until one is live.
const NO_HANDLER_WAIT_MS: u64 = 1_000;

/// An attempt that ended.
struct Attempted<'a> {
    ending: Ending,
    /// Who tried; none where nobody did.
    by: Option<Identity>,
    /// The ledger's entry of the beginning, where it is not written yet.
    begun: BoxFuture<'a, ()>,
}

/// Tries the message and settles the delivery.
pub(crate) async fn run(bound: &Bound, queue: &dyn Subscription, mut leased: Leased) {
    if let Some(Attempted { ending, by, begun }) = attempt(bound, queue, &mut leased).await {
        settle::settle(bound, queue, leased, by.as_ref(), ending, begun).await;
    }
}

/// What to settle the delivery with, and who tried it; none where the lease is lost.
async fn attempt<'a>(bound: &'a Bound, queue: &dyn Subscription, leased: &mut Leased) -> Option<Attempted<'a>> {
    let shared = &*bound.shared;
    let policy = &bound.config.retry;
    let untried = |ending| Some(Attempted { ending, by: None, begun: ready(()).boxed() });
    let decided = |decision| untried(Ending::Decided(decision));
    let hand_back = |wait_ms: u64, reason: &str| {
        decided(Decision::HandBack { at_ms: shared.now_ms().saturating_add(wait_ms), reason: reason.to_owned() })
    };

    if leased.attempt > 1 {
        match shared.call(shared.services.state.held_dead_letter(&leased.message.id, &bound.name)).await {
            Ok(None) => {}
            Ok(Some(id)) => return untried(Ending::AlreadyDead(id)),
            Err(error) => {
                StateFailed { operation: "held-dead-letter", kind: error.kind.word(), error: &error }.emit();
                return hand_back(STATE_WAIT_MS, "the dead letters could not be read");
            }
        }
    }
    if leased.attempt > policy.attempts_max {
        let reason = format!(
            "{} attempts began, and no end of the last was kept: the host went down in it, or its dead letter could not be kept",
            leased.attempt - 1
        );
        return decided(Decision::DeadLetter { cause: Cause::AttemptsExhausted, reason });
    }
    let handler = match bound.route.look(shared.now_ms()) {
        Found::Live(handler) => handler,
        Found::Awaited { .. } => return hand_back(NO_HANDLER_WAIT_MS, "no handler is live"),
        Found::Missing => {
            let reason = format!("no version of plugin `{}` is live", bound.config.plugin);
            return decided(Decision::DeadLetter { cause: Cause::NoHandler, reason });
        }
    };
    record_version(&tracing::Span::current(), &handler.identity().version);

    if let Err(error) = leased.hold(bound, queue, handler.deadline_ms()).await {
        if is_hopeless(&error) {
            lease_lost(bound, leased, &error);
            return None;
        }
        return hand_back(0, "the lease could not be held");
    }

    let identity = handler.identity().clone();
    let started = settle::entry(bound, leased, Some(&identity), Step::Started, None);
    // Both at once. The handler does not wait for the ledger, nor does the settlement: what is left of the writing goes on
    // beside it, handed over before it.
    let mut begun = settle::record(bound, vec![started]).boxed().fuse();
    let handling = handle(bound, leased, &*handler);
    tokio::pin!(handling);
    let outcome = loop {
        tokio::select! {
            biased;
            () = &mut begun => {}
            outcome = &mut handling => break outcome,
        }
    };
    record_outcome(&tracing::Span::current(), &outcome);
    let ended = retry::Tried {
        attempt: leased.attempt,
        outcome: &outcome,
        now_ms: shared.now_ms(),
        due_ms: leased.due_ms(),
        random: rand::random(),
    };
    let ending = Ending::Decided(retry::decide(policy, &ended));
    // A fused future is pending for ever once it was answered.
    let begun = if begun.is_terminated() { ready(()).boxed() } else { begun.boxed() };
    Some(Attempted { ending, by: Some(identity), begun })
}

/// The handler's outcome, or why it has none.
async fn handle(bound: &Bound, leased: &Leased, handler: &dyn Handler) -> Outcome {
    let shared = &*bound.shared;
    let attempt = Attempt {
        message: Arc::clone(&leased.message),
        subscription: bound.name.clone(),
        attempt: leased.attempt,
        attempts_max: bound.config.retry.attempts_max,
        unknown_effects: bound.config.unknown_effects,
    };
    let limit_ms = handler.deadline_ms().saturating_add(BACKSTOP_MS);
    let handling = AssertUnwindSafe(handler.handle(attempt)).catch_unwind();
    let bounded = within(&*shared.services.clock, limit_ms, handling);
    tokio::select! {
        biased;
        ended = bounded => match ended {
            Some(Ok(outcome)) => outcome,
            // Without its runtime, which goes with the host, the host's code cannot but panic.
            Some(Err(_panic)) if shared.cut.is_cancelled() => Fault::new(FaultKind::Stopped, "the host stopped").into(),
            Some(Err(_panic)) => Fault::new(FaultKind::Host, "the host's own code panicked").into(),
            None => Fault::new(FaultKind::Deadline, format!("not ended within {limit_ms} ms")).into(),
        },
        () = shared.cut.cancelled() => Fault::new(FaultKind::Stopped, "the host stopped").into(),
    }
}
