//! The loop of one subscription: waits for a handler and for free places, pulls no more than fits, hands each delivery to
//! a task of its own.
//!
//! Invariants
//! - A pull asks for no more than the subscription's free places, and for no more than the host has free, but one. Where the
//!   handler admits one at a time, it asks for one, and nothing else of the subscription is at work. What was asked for before
//!   the handler said so is begun all the same.
//! - The host's places are taken one at a time, in the order of asking over all subscriptions: a flood on one waits in the
//!   same line as a single message on another. What was pulled and waits in that line keeps its lease.
//! - An error of the broker never ends the loop; only the stop does.

use crate::attempt;
use crate::context::{Bound, CALL_MS_MAX, Ended, InFlight, Waits, is_hopeless};
use crate::retry::Decision;
use crate::route::Ready;
use crate::settle::{self, Ending};
use futures_util::future::join_all;
use sandpost_message::{Message, TimestampMs};
use sandpost_ports::PortError;
use sandpost_ports::broker::{Delivery, Receipt, Subscription};
use sandpost_telemetry::events::dispatch::{PullFailed, SettleFailed, attempt_span};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument as _;

/// How much longer a lease is than what is done under it.
pub(crate) const LEASE_MARGIN_MS: u64 = 30_000;

/// How much of the margin has to be left when an attempt begins.
const LEASE_SLACK_MS: u64 = 20_000;

/// How long after its deadline an attempt is ended that the handler itself did not end.
pub(crate) const BACKSTOP_MS: u64 = 5_000;

/// How often waiting deliveries are looked after.
const LEASE_LOOK_MS: u64 = 5_000;

/// What a delivery that no handler is there for needs, apart from the margin: making it a dead letter.
const GIVE_UP_MS: u64 = 30_000;

// An attempt that ran into the backstop still has time to be settled.
const _: () = assert!(BACKSTOP_MS + CALL_MS_MAX < LEASE_SLACK_MS);
// A waiting delivery is looked after before its slack is gone.
const _: () = assert!(LEASE_LOOK_MS < LEASE_MARGIN_MS - LEASE_SLACK_MS);

/// How soon it is asked again whether it has to be one message at a time: another version can have come meanwhile.
const ONE_LOOK_MS: u64 = 100;

/// Waits after a failed pull: a broker that restarts is found soon, one that is down is not hammered.
const PULL_WAIT_MS_MIN: u64 = 100;
const PULL_WAIT_MS_MAX: u64 = 30_000;

/// The longest wait between two tries to open a subscription. Shorter than for a pull: until it is open its topic takes
/// no message, and the host is not ready.
const OPEN_WAIT_MS_MAX: u64 = 5_000;

/// A delivery, with what is known of its lease.
pub(crate) struct Leased {
    pub(crate) message: Arc<Message>,
    pub(crate) attempt: u32,
    pub(crate) receipt: Receipt,
    pub(crate) until_ms: TimestampMs,
}

/// The two places that an attempt takes; given back together.
pub(crate) struct Places {
    _own: OwnedSemaphorePermit,
    _host: OwnedSemaphorePermit,
}

impl Leased {
    /// When the message could first be delivered.
    pub(crate) fn due_ms(&self) -> TimestampMs {
        self.message.published_at_ms.max(self.message.not_before_ms)
    }

    /// Makes sure that work of this length can begin now and be settled under the lease.
    pub(crate) async fn hold(
        &mut self,
        bound: &Bound,
        queue: &dyn Subscription,
        work_ms: u64,
    ) -> Result<(), PortError> {
        let now_ms = bound.shared.now_ms();
        if self.until_ms.saturating_sub(now_ms) >= work_ms.saturating_add(LEASE_SLACK_MS) {
            return Ok(());
        }
        let lease_ms = work_ms.saturating_add(LEASE_MARGIN_MS);
        bound.shared.call(queue.extend(&self.receipt, lease_ms)).await?;
        self.until_ms = now_ms.saturating_add(lease_ms);
        Ok(())
    }
}

/// Runs until the stop. `opened` is the subscription where it could be opened at the start.
pub(crate) async fn run(bound: Arc<Bound>, opened: Option<Arc<dyn Subscription>>) {
    let queue = match opened {
        Some(queue) => queue,
        None => match open(&bound).await {
            Some(queue) => queue,
            None => return,
        },
    };
    let shared = &*bound.shared;
    let mut waits = Waits::new(PULL_WAIT_MS_MIN..=PULL_WAIT_MS_MAX);
    while let Some(Ok(own)) = shared.until_stop(Arc::clone(&bound.places).acquire_owned()).await {
        // Only this loop takes the subscription's places, so what is free now is free when the pull is answered.
        let free = bound.places.available_permits() + 1;
        // Asked after that: what has ended, and made these places free, has had its say in it.
        let Some(ready) = bound.route.ready(shared).await else { break };
        let (work_ms, one) = match ready {
            Ready::Handle { deadline_ms, one } => (deadline_ms, one),
            Ready::GiveUp => (GIVE_UP_MS, false),
        };
        if one && free < bound.config.concurrency {
            drop(own);
            if !until_none_is_at_work(&bound).await {
                break;
            }
            continue;
        }
        let max = if one { 1 } else { free.min(shared.places.available_permits().max(1)) };
        let lease_ms = work_ms.saturating_add(LEASE_MARGIN_MS);
        let Some(pulled) = shared.until_stop(queue.next(max, lease_ms)).await else { break };
        match pulled {
            Ok(deliveries) if deliveries.is_empty() => {
                // Not what the port promises; without a wait it would be a loop that does nothing but turn.
                if !shared.pause(PULL_WAIT_MS_MIN).await {
                    break;
                }
            }
            Ok(deliveries) => {
                waits.reset();
                let until_ms = shared.now_ms().saturating_add(lease_ms);
                let waiting = deliveries
                    .into_iter()
                    .map(|Delivery { message, attempt, receipt }| Leased { message, attempt, receipt, until_ms })
                    .collect();
                if !hand_out(&bound, &queue, waiting, own, work_ms).await {
                    break;
                }
            }
            Err(error) => {
                drop(own);
                let wait_ms = waits.next_ms();
                PullFailed { subscription: &bound.name, wait_ms, kind: error.kind.word(), error: &error }.emit();
                if !shared.pause(wait_ms).await {
                    break;
                }
            }
        }
    }
}

/// Waits until every place of the subscription is free, or it is time to ask again; false once the stop has begun.
async fn until_none_is_at_work(bound: &Bound) -> bool {
    let shared = &*bound.shared;
    let again_ms = shared.now_ms().saturating_add(ONE_LOOK_MS);
    let all = u32::try_from(bound.config.concurrency).unwrap_or(u32::MAX);
    tokio::select! {
        biased;
        () = shared.stopping.cancelled() => false,
        _all = bound.places.acquire_many(all) => true,
        () = shared.services.clock.sleep_until(again_ms) => true,
    }
}

/// Opens the subscription, trying until it succeeds; none once the stop has begun.
async fn open(bound: &Bound) -> Option<Arc<dyn Subscription>> {
    let shared = &*bound.shared;
    let mut waits = Waits::new(PULL_WAIT_MS_MIN..=OPEN_WAIT_MS_MAX);
    loop {
        let opening = shared.call(shared.services.broker.subscribe(&bound.name, &bound.config.topic));
        match shared.until_stop(opening).await? {
            Ok(queue) => return Some(queue),
            Err(error) => {
                let wait_ms = waits.next_ms();
                PullFailed { subscription: &bound.name, wait_ms, kind: error.kind.word(), error: &error }.emit();
                if !shared.pause(wait_ms).await {
                    return None;
                }
            }
        }
    }
}

/// Gives each delivery a task as soon as it has its two places. False once the stop has begun; what had no place by then is
/// handed back.
async fn hand_out(
    bound: &Arc<Bound>,
    queue: &Arc<dyn Subscription>,
    mut waiting: VecDeque<Leased>,
    own: OwnedSemaphorePermit,
    work_ms: u64,
) -> bool {
    let shared = &bound.shared;
    let mut first = Some(own);
    while !waiting.is_empty() {
        let Some(host) = next_place(bound, queue, &mut waiting, work_ms).await else {
            join_all(waiting.into_iter().map(|leased| hand_back(bound, queue, leased))).await;
            return false;
        };
        let own = match first.take() {
            Some(own) => own,
            // At once, unless the broker gave more than it was asked for.
            None => match Arc::clone(&bound.places).acquire_owned().await {
                Ok(own) => own,
                Err(_closed) => return false,
            },
        };
        // Nothing is left where the leases were lost meanwhile.
        let Some(leased) = waiting.pop_front() else { break };
        let message = Arc::clone(&leased.message);
        let (plugin, attempt) = (&bound.config.plugin, leased.attempt);
        let span = attempt_span(&message.id, &bound.name, plugin, attempt, &message.trace, &message.topic);
        let places = Places { _own: own, _host: host };
        let in_flight = InFlight::begin(bound);
        let (bound, queue) = (Arc::clone(bound), Arc::clone(queue));
        shared.spawn_attempt(
            async move {
                attempt::run(&bound, &*queue, leased).await;
                drop((places, in_flight));
            }
            .instrument(span),
        );
    }
    true
}

/// One of the host's places; none once the stop has begun. Keeps the leases of those who wait, and lets go of those whose
/// lease is lost.
async fn next_place(
    bound: &Bound,
    queue: &Arc<dyn Subscription>,
    waiting: &mut VecDeque<Leased>,
    work_ms: u64,
) -> Option<OwnedSemaphorePermit> {
    let shared = &*bound.shared;
    let place = Arc::clone(&shared.places).acquire_owned();
    tokio::pin!(place);
    loop {
        let look_ms = shared.now_ms().saturating_add(LEASE_LOOK_MS);
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return None,
            place = &mut place => return place.ok(),
            () = shared.services.clock.sleep_until(look_ms) => {}
        }
        let mut kept = VecDeque::with_capacity(waiting.len());
        for mut leased in waiting.drain(..) {
            match leased.hold(bound, &**queue, work_ms).await {
                Ok(()) => kept.push_back(leased),
                Err(error) if is_hopeless(&error) => {
                    lease_lost(bound, &leased, &error);
                }
                // There is slack for another try at the next look.
                Err(_transient) => kept.push_back(leased),
            }
        }
        *waiting = kept;
    }
}

async fn hand_back(bound: &Bound, queue: &Arc<dyn Subscription>, leased: Leased) {
    let decision = Decision::HandBack { at_ms: bound.shared.now_ms(), reason: "the host stopped".to_owned() };
    settle::settle(bound, &**queue, leased, None, Ending::Decided(decision), std::future::ready(())).await;
}

/// Says that somebody else has the message, or will have it.
pub(crate) fn lease_lost(bound: &Bound, leased: &Leased, error: &PortError) {
    bound.shared.counts.count(Ended::Unsettled);
    SettleFailed {
        subscription: &bound.name,
        message_id: &leased.message.id,
        given_up: true,
        kind: error.kind.word(),
        error,
    }
    .emit();
}
