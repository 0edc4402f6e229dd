//! One subscription, one message: leases, attempts, settlements.

use super::{Line, Setup, bodies};
use crate::ErrorKind;
use crate::broker::{Receipt, Settlement};
use std::collections::BTreeSet;

pub(super) async fn is_delivered_once_and_then_forgotten(setup: &Setup) {
    let line = Line::new(setup).await;
    let message = line.message("one");
    let published = line.publish(message.clone()).await;
    assert!(!published.duplicate);
    assert_eq!(published.id, message.id);
    let delivery = line.next_for(1, 4 * setup.lease_ms).await.remove(0);
    assert_eq!(delivery.attempt, 1);
    assert_eq!(*delivery.message, message);
    line.done(delivery).await;
    line.stays_quiet_for(5 * setup.lease_ms, "an acknowledged message does not come again").await;
}

pub(super) async fn comes_again_when_its_lease_ends(setup: &Setup) {
    let line = Line::new(setup).await;
    let message = line.message("again");
    line.publish(message.clone()).await;
    let before_ms = line.now_ms();
    let first = line.next_for(1, setup.lease_ms).await.remove(0);
    let second = line.next_one().await;
    assert!(line.now_ms() >= before_ms + setup.lease_ms, "it came before its lease had ended");
    assert_eq!((first.attempt, second.attempt), (1, 2));
    assert_eq!(*second.message, message);
    let late = line.subscription.settle(first.receipt, Settlement::Done).await.unwrap_err();
    assert_eq!(late.kind, ErrorKind::Conflict, "{late}");
    line.done(second).await;
    line.stays_quiet("the second settlement counts").await;
}

pub(super) async fn comes_again_when_a_retry_is_due(setup: &Setup) {
    let line = Line::new(setup).await;
    line.publish(line.message("retry")).await;
    for attempt in 1..=3 {
        let delivery = line.next_one().await;
        assert_eq!(delivery.attempt, attempt);
        if attempt == 3 {
            line.done(delivery).await;
            break;
        }
        let at_ms = line.now_ms() + setup.lease_ms;
        line.settle(delivery, Settlement::RetryAt(at_ms)).await;
        let delivery = line.next_one().await;
        assert!(line.now_ms() >= at_ms, "it came {} ms too early", at_ms - line.now_ms());
        assert_eq!(delivery.attempt, attempt + 1);
        // A time that has passed is at once.
        line.settle(delivery, Settlement::HandBack(0)).await;
    }
    line.stays_quiet("it was acknowledged at last").await;
}

pub(super) async fn a_hand_back_does_not_count(setup: &Setup) {
    let line = Line::new(setup).await;
    line.publish(line.message("untried")).await;
    for _ in 0..3 {
        let delivery = line.next_one().await;
        assert_eq!(delivery.attempt, 1);
        line.settle(delivery, Settlement::HandBack(line.now_ms())).await;
    }
    let at_ms = line.now_ms() + setup.lease_ms;
    let delivery = line.next_one().await;
    line.settle(delivery, Settlement::HandBack(at_ms)).await;
    let delivery = line.next_one().await;
    assert!(line.now_ms() >= at_ms);
    assert_eq!(delivery.attempt, 1);
    line.settle(delivery, Settlement::RetryAt(line.now_ms())).await;
    let delivery = line.next_one().await;
    assert_eq!(delivery.attempt, 2);
    line.done(delivery).await;
}

pub(super) async fn an_extended_lease_holds(setup: &Setup) {
    let line = Line::new(setup).await;
    line.publish(line.message("long work")).await;
    let delivery = line.next_for(1, 4 * setup.lease_ms).await.remove(0);
    let from_ms = line.now_ms();
    line.subscription.extend(&delivery.receipt, 8 * setup.lease_ms).await.expect("a lease that lasts is extended");
    line.stays_quiet_for(6 * setup.lease_ms, "its lease was extended").await;
    let late = delivery;
    let again = line.next_one().await;
    assert!(line.now_ms() >= from_ms + 8 * setup.lease_ms);
    assert_eq!(again.attempt, 2);
    let error = line.subscription.extend(&late.receipt, setup.lease_ms).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "a lease that ended is not extended: {error}");
    line.done(again).await;
}

pub(super) async fn no_more_than_asked_for_are_leased(setup: &Setup) {
    let line = Line::new(setup).await;
    let all: BTreeSet<String> = (0..7).map(|n| n.to_string()).collect();
    line.publish_all(all.iter().map(|body| line.message(body)).collect()).await;
    let mut seen = BTreeSet::new();
    while seen.len() < all.len() {
        let some = line.next(3).await;
        seen.extend(bodies(&some));
        for delivery in some {
            line.done(delivery).await;
        }
    }
    assert_eq!(seen, all);
    line.stays_quiet("all were acknowledged").await;
}

const ROUNDS: usize = 40;

pub(super) async fn a_dropped_next_leaves_nothing_leased(setup: &Setup) {
    let line = Line::new(setup).await;
    // Dropped before anything was there, ...
    line.stays_quiet_for(1, "nothing was published").await;
    // ... and at any moment around a publish, the answer's arrival included.
    for round in 0..ROUNDS {
        line.publish(line.message(&round.to_string())).await;
        let next = line.subscription.next(1, line.long_ms());
        tokio::select! {
            biased;
            () = yields(round) => {}
            next = next => {
                let delivery = next.unwrap().remove(0);
                assert_eq!(delivery.attempt, 1);
                line.settle(delivery, Settlement::HandBack(0)).await;
            }
        }
    }
    let all = line.collect(ROUNDS).await;
    let seen: BTreeSet<String> = bodies(&all).into_iter().collect();
    assert_eq!(seen.len(), ROUNDS, "each of them comes, and none twice");
    for delivery in all {
        assert_eq!(delivery.attempt, 1, "a lease that nobody got does not count");
        line.done(delivery).await;
    }
}

async fn yields(times: usize) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

pub(super) async fn a_waiting_next_wakes_for_a_publish(setup: &Setup) {
    let line = Line::new(setup).await;
    let publish = async {
        setup.clock.sleep_until(line.now_ms() + 20).await;
        line.publish(line.message("at last")).await;
    };
    let (delivery, ()) = tokio::join!(line.next_one(), publish);
    line.done(delivery).await;
}

pub(super) async fn a_strange_receipt_settles_nothing(setup: &Setup) {
    let line = Line::new(setup).await;
    for token in ["", "nonsense", "1.2.3", "99999.99999.99999.0"] {
        let error = line.subscription.settle(Receipt::new(token), Settlement::Done).await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Invalid | ErrorKind::Conflict), "{error}");
    }
}
