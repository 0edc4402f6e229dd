//! Broker and state that fail: nothing is lost, and every message ends once.

use crate::world::{START_MS, World, calm, eventually, one, orders, reject, stop};
use sandpost_dispatch::{Config, StartError};
use sandpost_message::Verdict;
use sandpost_ports::broker::Settlement;
use sandpost_ports::state::Step;
use std::sync::atomic::Ordering;

/// More failures than tries fit into any lease.
const ALWAYS: usize = 1_000_000;

#[tokio::test]
async fn a_settlement_that_fails_is_tried_again_under_the_same_lease() {
    let world = World::new();
    let seen = world.answer("orders", |_| Verdict::Ack.into());
    let running = world.start(one("orders", orders())).await;
    world.broker.failing_settles.next(3);
    world.publish("orders").await;
    world.pass(100).await;
    world.pass(200).await;
    assert_eq!(world.broker.left(), 1);
    world.pass(400).await;
    world.until_empty().await;
    assert_eq!(seen.lock().unwrap().len(), 1);
    stop(running).await;
}

#[tokio::test]
async fn a_settlement_that_fails_for_the_whole_lease_is_left_to_redelivery() {
    let world = World::new();
    let seen = world.answer("orders", |_| Verdict::Ack.into());
    let running = world.start(one("orders", orders())).await;
    world.broker.failing_settles.next(ALWAYS);
    let message = world.publish("orders").await;
    for _ in 0..39 {
        world.pass(1_000).await;
    }
    assert_eq!(seen.lock().unwrap().len(), 1);
    world.broker.failing_settles.next(0);
    world.pass(1_000).await;
    world.until_empty().await;
    assert_eq!(*seen.lock().unwrap(), [(message.id.clone(), 1), (message.id, 2)]);
    assert_eq!(world.broker.told.lock().unwrap().len(), 1);
    assert!(world.letters().is_empty());
    stop(running).await;
}

#[tokio::test]
async fn a_redelivery_after_its_dead_letter_was_kept_is_settled_without_being_tried() {
    let world = World::new();
    let seen = world.answer("orders", |_| reject());
    let running = world.start(one("orders", orders())).await;
    world.broker.failing_settles.next(ALWAYS);
    let message = world.publish("orders").await;
    eventually("the dead letter is kept", || world.letters().len() == 1).await;
    for _ in 0..39 {
        world.pass(1_000).await;
    }
    world.broker.failing_settles.next(0);
    world.pass(1_000).await;
    world.until_empty().await;
    assert_eq!((seen.lock().unwrap().len(), world.letters().len()), (1, 1));
    assert_eq!(world.letters()[0].attempts, 1);
    let expected = [Step::Started, Step::DeadLettered, Step::DeadLettered];
    assert_eq!(world.steps(&message), expected);
    stop(running).await;
}

#[tokio::test]
async fn the_broker_forgets_nothing_whose_dead_letter_could_not_be_kept() {
    let world = World::new();
    let seen = world.answer("orders", |_| reject());
    let running = world.start(one("orders", orders())).await;
    world.state.failing_letters.next(ALWAYS);
    world.publish("orders").await;
    for _ in 0..31 {
        world.pass(1_000).await;
    }
    assert!(world.letters().is_empty());
    let told = world.broker.told.lock().unwrap().clone();
    assert!(
        matches!(told[..], [ref only] if matches!(only.settlement, Settlement::RetryAt(at) if at > START_MS)),
        "{told:?}"
    );
    world.state.failing_letters.next(0);
    world.pass(600_000).await;
    world.until_empty().await;
    let letter = world.letters().remove(0);
    // The cause of then, not that tries were used up.
    assert_eq!((letter.cause.as_str(), letter.attempts), ("rejected", 2));
    assert_eq!(seen.lock().unwrap().len(), 2);
    stop(running).await;
}

/// Found by seed 90569 of the simulation.
#[tokio::test]
async fn a_message_whose_dead_letter_was_kept_though_the_answer_was_lost_is_not_handled_again() {
    let world = World::new();
    let seen = world.answer("orders", |_| reject());
    let running = world.start(one("orders", orders())).await;
    world.state.letters_without_answer.next(ALWAYS);
    let message = world.publish("orders").await;
    for _ in 0..31 {
        world.pass(1_000).await;
    }
    assert_eq!((world.letters().len(), world.broker.left()), (1, 1));
    world.state.letters_without_answer.next(0);
    world.pass(600_000).await;
    world.until_empty().await;
    assert_eq!((seen.lock().unwrap().len(), world.letters().len()), (1, 1));
    assert_eq!(world.steps(&message), [Step::Started, Step::RetryPlanned, Step::DeadLettered]);
    stop(running).await;
}

#[tokio::test]
async fn a_ledger_that_fails_does_not_fail_the_message() {
    let world = World::new();
    world.answer("orders", |_| Verdict::Ack.into());
    let running = world.start(one("orders", orders())).await;
    world.state.failing_records.next(ALWAYS);
    world.publish("orders").await;
    world.until_empty().await;
    stop(running).await;
}

#[tokio::test]
async fn a_redelivery_waits_while_it_cannot_be_known_whether_it_is_dead() {
    let world = World::new();
    let seen = world.answer("orders", |_| Verdict::Ack.into());
    stop(world.start(one("orders", orders())).await).await;
    world.publish("orders").await;
    world.broker.count_attempts(1);
    world.state.failing_looks.next(2);
    let running = world.start(one("orders", orders())).await;
    calm().await;
    assert!(seen.lock().unwrap().is_empty());
    world.pass(5_000).await;
    world.pass(5_000).await;
    world.until_empty().await;
    assert_eq!(seen.lock().unwrap().iter().map(|(_, attempt)| *attempt).collect::<Vec<_>>(), [2]);
    stop(running).await;
}

#[tokio::test]
async fn a_broker_that_fails_to_answer_is_asked_again_ever_more_slowly() {
    let world = World::new();
    world.answer("orders", |_| Verdict::Ack.into());
    world.broker.failing_pulls.next(4);
    let running = world.start(one("orders", orders())).await;
    world.publish("orders").await;
    for (pulls, wait_ms) in [(1, 100), (2, 200), (3, 400), (4, 800)] {
        world.pass(wait_ms - 1).await;
        assert_eq!(world.broker.asked.lock().unwrap().len(), pulls);
        world.pass(1).await;
    }
    world.until_empty().await;
    stop(running).await;
}

#[tokio::test]
async fn a_broker_that_is_down_at_the_start_is_opened_when_it_is_up() {
    let world = World::new();
    world.answer("orders", |_| Verdict::Ack.into());
    world.broker.failing_subscribes.next(2);
    let running = world.start(one("orders", orders())).await;
    world.pass(100).await;
    world.publish("orders").await;
    world.until_empty().await;
    stop(running).await;
}

#[tokio::test]
async fn a_subscription_that_the_broker_will_never_open_keeps_dispatch_from_starting() {
    let world = World::new();
    world.broker.refuses_subscriptions.store(true, Ordering::SeqCst);
    let started = world.try_start(Config::default(), one("orders", orders())).await;
    assert!(matches!(started, Err(StartError::Refused { subscription, .. }) if subscription.as_str() == "orders"));
    let mut wrong = orders();
    wrong.concurrency = 0;
    assert!(matches!(world.try_start(Config::default(), one("orders", wrong)).await, Err(StartError::Config(_))));
}
