//! Settles one delivery: turns what was decided into what the broker is told.
//!
//! The only module that acknowledges. Everything before it may run twice, because a broker redelivers whatever was not
//! settled; nothing after it may fail the message again.
//!
//! Invariants
//! - A dead letter is durable before the broker forgets the message.
//! - The ledger's entry is handed over first and the settlement right behind it, so that a store that keeps both can
//!   commit them together. The ledger's failure is not the message's.
//! - A settlement that fails is tried again while the lease lasts, then left to redelivery: the message comes again under
//!   the same id.
//!
//! Not here: what to decide (`retry`).

use crate::context::{Bound, CALL_MS_MAX, Ended, Waits, between, is_hopeless};
use crate::retry::{Cause, Decision};
use crate::subscription::Leased;
use sandpost_message::TimestampMs;
use sandpost_ports::PortError;
use sandpost_ports::broker::{Receipt, Settlement, Subscription};
use sandpost_ports::plugins::Identity;
use sandpost_ports::state::{DeadLetter, DeadLetterId, DeadLetterStatus, LedgerEntry, Step};
use sandpost_telemetry::events::dispatch::{
    DeadLettered, DeliveryOutcome, HandedBack, RetryPlanned, SettleFailed, Settled, StateFailed, record_unsettled,
    settle_span,
};
use tracing::Instrument as _;

/// Waits between tries of one settlement.
const SETTLE_WAIT_MS_MIN: u64 = 100;
const SETTLE_WAIT_MS_MAX: u64 = 5_000;

/// What a delivery is settled with.
pub(crate) enum Ending {
    /// What follows from the attempt.
    Decided(Decision),
    /// Nothing was tried, because this dead letter is kept already.
    AlreadyDead(DeadLetterId),
}

/// What the ledger and the broker are told.
struct Plan {
    outcome: DeliveryOutcome,
    step: Step,
    detail: Option<String>,
    settlement: Settlement,
}

/// Settles the delivery. `by` is the version that tried it, `begun` what is still to be written of its beginning.
pub(crate) async fn settle(
    bound: &Bound,
    queue: &dyn Subscription,
    leased: Leased,
    by: Option<&Identity>,
    ending: Ending,
    begun: impl Future<Output = ()>,
) {
    let shared = &*bound.shared;
    let plan = plan(bound, &leased, by, ending).await;
    let recorded = entry(bound, &leased, by, plan.step, plan.detail);
    let (token, settlement) = (leased.receipt.token(), plan.settlement);
    let telling = while_leased(
        bound,
        leased.until_ms,
        // The one place where a receipt is made again: the same lease, after the broker did not take the settlement.
        || queue.settle(Receipt::new(token), settlement),
        |error, given_up| {
            let (subscription, message_id) = (&bound.name, &leased.message.id);
            SettleFailed { subscription, message_id, given_up, kind: error.kind.word(), error }.emit();
        },
    );
    let told = async { tokio::join!(biased; begun, record(bound, vec![recorded]), telling) };
    let span = settle_span(plan.outcome);
    let ((), (), told) = told.instrument(span.clone()).await;
    if let Err(error) = &told {
        record_unsettled(&span, error.kind.word());
    }
    drop(span);
    let ended = match (told, plan.outcome) {
        (Err(_reported), _) => Ended::Unsettled,
        (Ok(()), DeliveryOutcome::HandBack) => Ended::HandedBack,
        (Ok(()), DeliveryOutcome::Ack | DeliveryOutcome::Retry | DeliveryOutcome::DeadLetter) => Ended::Finished,
    };
    if ended != Ended::Unsettled {
        Settled {
            topic: &bound.config.topic,
            subscription: &bound.name,
            message_id: &leased.message.id,
            attempt: leased.attempt,
            outcome: plan.outcome,
            age: between(leased.due_ms(), shared.now_ms()),
        }
        .emit();
    }
    shared.counts.count(ended);
}

/// What to tell; keeps the dead letter where it is one.
async fn plan(bound: &Bound, leased: &Leased, by: Option<&Identity>, ending: Ending) -> Plan {
    let now_ms = bound.shared.now_ms();
    match ending {
        Ending::Decided(Decision::Ack) => {
            Plan { outcome: DeliveryOutcome::Ack, step: Step::Acknowledged, detail: None, settlement: Settlement::Done }
        }
        Ending::Decided(Decision::RetryAt { at_ms, reason }) => retry(bound, leased, at_ms, &reason, now_ms),
        Ending::Decided(Decision::HandBack { at_ms, reason }) => hand_back(bound, leased, at_ms, reason),
        Ending::Decided(Decision::DeadLetter { cause, reason }) => {
            match keep_dead_letter(bound, leased, by, cause, &reason, now_ms).await {
                Ok(()) => dead_lettered(format!("{}: {reason}", cause.word())),
                Err(_reported) => {
                    // It may be kept nevertheless: an error can be a lost answer. A counted delivery looks for it first, and is
                    // not handled beside it; one that was counted before need not be counted again.
                    let at_ms = bound.shared.now_ms().saturating_add(bound.config.retry.backoff_max_ms);
                    let reason = format!("its dead letter could not be kept: {reason}");
                    if by.is_some() || leased.attempt == 1 {
                        retry(bound, leased, at_ms, &reason, now_ms)
                    } else {
                        hand_back(bound, leased, at_ms, reason)
                    }
                }
            }
        }
        Ending::AlreadyDead(id) => dead_lettered(format!("kept before, as {id}")),
    }
}

fn dead_lettered(detail: String) -> Plan {
    Plan {
        outcome: DeliveryOutcome::DeadLetter,
        step: Step::DeadLettered,
        detail: Some(detail),
        settlement: Settlement::Done,
    }
}

fn retry(bound: &Bound, leased: &Leased, at_ms: TimestampMs, reason: &str, now_ms: TimestampMs) -> Plan {
    let (subscription, message_id) = (&bound.name, &leased.message.id);
    let wait_ms = at_ms.saturating_sub(now_ms);
    RetryPlanned { subscription, message_id, attempt: leased.attempt, wait_ms, reason }.emit();
    Plan {
        outcome: DeliveryOutcome::Retry,
        step: Step::RetryPlanned,
        detail: Some(format!("in {wait_ms} ms: {reason}")),
        settlement: Settlement::RetryAt(at_ms),
    }
}

fn hand_back(bound: &Bound, leased: &Leased, at_ms: TimestampMs, reason: String) -> Plan {
    HandedBack { subscription: &bound.name, message_id: &leased.message.id, reason: &reason }.emit();
    Plan {
        outcome: DeliveryOutcome::HandBack,
        step: Step::HandedBack,
        detail: Some(reason),
        settlement: Settlement::HandBack(at_ms),
    }
}

async fn keep_dead_letter(
    bound: &Bound,
    leased: &Leased,
    by: Option<&Identity>,
    cause: Cause,
    reason: &str,
    dead_at_ms: TimestampMs,
) -> Result<(), PortError> {
    let letter = DeadLetter {
        id: uuid::Uuid::now_v7().to_string(),
        message: (*leased.message).clone(),
        subscription: bound.name.clone(),
        dead_at_ms,
        cause: cause.word().to_owned(),
        reason: reason.to_owned(),
        // Without a version nobody tried this delivery; only those before it count.
        attempts: if by.is_some() { leased.attempt } else { leased.attempt.saturating_sub(1) },
        plugin: bound.config.plugin.clone(),
        version: by.map(|identity| identity.version.clone()),
        digest: by.map(|identity| identity.digest.clone()),
        trace_id: leased.message.trace.trace_id(),
        status: DeadLetterStatus::Held,
    };
    // Some of the lease is left for telling the broker.
    let until_ms = leased.until_ms.saturating_sub(CALL_MS_MAX);
    let keep = || bound.shared.services.state.add_dead_letter(letter.clone());
    while_leased(bound, until_ms, keep, |error, _given_up| {
        StateFailed { operation: "add-dead-letter", kind: error.kind.word(), error }.emit();
    })
    .await?;
    DeadLettered {
        subscription: &bound.name,
        message_id: &letter.message.id,
        trace_id: &letter.trace_id,
        plugin: &letter.plugin,
        version: letter.version.as_deref(),
        digest: letter.digest.as_ref(),
        cause: cause.word(),
        reason,
        attempts: letter.attempts,
        wanted: cause == Cause::Rejected,
    }
    .emit();
    Ok(())
}

/// Writes to the ledger. A failure is reported and goes no further.
pub(crate) async fn record(bound: &Bound, entries: Vec<LedgerEntry>) {
    if let Err(error) = bound.shared.call(bound.shared.services.state.record(entries)).await {
        StateFailed { operation: "record", kind: error.kind.word(), error: &error }.emit();
    }
}

/// A step of this delivery, now.
pub(crate) fn entry(
    bound: &Bound,
    leased: &Leased,
    by: Option<&Identity>,
    step: Step,
    detail: Option<String>,
) -> LedgerEntry {
    LedgerEntry {
        message_id: leased.message.id.clone(),
        at_ms: bound.shared.now_ms(),
        step,
        subscription: Some(bound.name.clone()),
        attempt: Some(leased.attempt),
        plugin: Some(bound.config.plugin.clone()),
        version: by.map(|identity| identity.version.clone()),
        digest: by.map(|identity| identity.digest.clone()),
        trace_id: leased.message.trace.trace_id(),
        detail,
    }
}

/// Calls until it succeeds, cannot succeed, or would outlive the time. After the cut of a stop there is one more try, at
/// once. `failed` hears of every failure, and whether it was the last.
async fn while_leased<Call>(
    bound: &Bound,
    until_ms: TimestampMs,
    mut call: impl FnMut() -> Call,
    failed: impl Fn(&PortError, bool),
) -> Result<(), PortError>
where
    Call: Future<Output = Result<(), PortError>>,
{
    let shared = &*bound.shared;
    let mut waits = Waits::new(SETTLE_WAIT_MS_MIN..=SETTLE_WAIT_MS_MAX);
    let mut last = false;
    loop {
        let Err(error) = shared.call(call()).await else { return Ok(()) };
        let again_ms = shared.now_ms().saturating_add(waits.next_ms());
        let given_up = last || is_hopeless(&error) || again_ms >= until_ms;
        failed(&error, given_up);
        if given_up {
            return Err(error);
        }
        tokio::select! {
            biased;
            () = shared.services.clock.sleep_until(again_ms) => {}
            () = shared.cut.cancelled() => last = true,
        }
    }
}
