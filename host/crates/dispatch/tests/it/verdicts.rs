//! What each verdict and each fault comes to.

use crate::world::{DEADLINE_MS, START_MS, World, eventually, one, orders, reject, retry, stop};
use sandpost_message::{Fault, FaultKind, Outcome, Verdict};
use sandpost_ports::broker::Settlement;
use sandpost_ports::plugins::UnknownEffects;
use sandpost_ports::state::Step;
use std::sync::{Arc, Mutex};

#[tokio::test]
async fn an_acknowledged_message_is_done_and_its_steps_are_in_the_ledger() {
    let world = World::new();
    let seen = world.answer("orders", |_| Verdict::Ack.into());
    let running = world.start(one("orders", orders())).await;
    let message = world.publish("orders").await;
    world.until_empty().await;
    assert_eq!(*seen.lock().unwrap(), [(message.id.clone(), 1)]);
    assert_eq!(world.steps(&message), [Step::Started, Step::Acknowledged]);
    let last = world.state.ledger.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last.version.as_deref(), Some("1.0.0"));
    assert_eq!((last.attempt, last.trace_id), (Some(1), message.trace.trace_id()));
    stop(running).await;
}

#[tokio::test]
async fn a_retry_comes_back_exactly_when_its_back_off_is_over() {
    let world = World::new();
    let seen = world.answer("orders", |attempt| if attempt.attempt < 4 { retry() } else { Verdict::Ack.into() });
    let running = world.start(one("orders", orders())).await;
    let message = world.publish("orders").await;
    for (attempt, wait_ms) in [(1, 10_000), (2, 20_000), (3, 40_000)] {
        world.pass(0).await;
        assert_eq!(seen.lock().unwrap().len(), attempt);
        world.pass(wait_ms - 1).await;
        assert_eq!(seen.lock().unwrap().len(), attempt, "came before its time");
        world.pass(1).await;
        assert_eq!(seen.lock().unwrap().len(), attempt + 1, "did not come at its time");
    }
    world.until_empty().await;
    assert_eq!(seen.lock().unwrap().iter().map(|(_, attempt)| *attempt).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(world.steps(&message).last(), Some(&Step::Acknowledged));
    assert_eq!(world.broker.told.lock().unwrap()[0].settlement, Settlement::RetryAt(START_MS + 10_000));
    stop(running).await;
}

#[tokio::test]
async fn the_plugin_s_own_time_goes_before_the_back_off() {
    let world = World::new();
    world.answer("orders", |attempt| match attempt.attempt {
        1 => Verdict::Retry { reason: "throttled".to_owned(), after_ms: Some(1_234) }.into(),
        _ => Verdict::Ack.into(),
    });
    let running = world.start(one("orders", orders())).await;
    world.publish("orders").await;
    world.pass(1_234).await;
    world.until_empty().await;
    assert_eq!(world.broker.told.lock().unwrap()[0].settlement, Settlement::RetryAt(START_MS + 1_234));
    stop(running).await;
}

#[tokio::test]
async fn a_used_up_budget_is_a_dead_letter_with_all_that_is_needed_to_judge_it() {
    let world = World::new();
    let seen = world.answer("orders", |_| retry());
    let mut orders = orders();
    orders.retry.attempts_max = 3;
    let running = world.start(one("orders", orders)).await;
    let message = world.publish("orders").await;
    world.pass(10_000).await;
    world.pass(20_000).await;
    world.until_empty().await;
    assert_eq!(seen.lock().unwrap().len(), 3);
    let letter = world.letters().remove(0);
    assert_eq!((letter.cause.as_str(), letter.reason.as_str()), ("attempts-exhausted", "not now"));
    assert_eq!((letter.attempts, letter.version.as_deref()), (3, Some("1.0.0")));
    assert_eq!(letter.digest.unwrap().short(), "070707070707");
    assert_eq!((letter.trace_id, letter.dead_at_ms), (message.trace.trace_id(), START_MS + 30_000));
    assert_eq!(letter.message, message);
    assert_eq!(world.steps(&message).last(), Some(&Step::DeadLettered));
    stop(running).await;
}

#[tokio::test]
async fn a_rejected_message_is_a_dead_letter_at_once() {
    let world = World::new();
    let seen = world.answer("orders", |_| reject());
    let running = world.start(one("orders", orders())).await;
    world.publish("orders").await;
    world.until_empty().await;
    assert_eq!(seen.lock().unwrap().len(), 1);
    let letter = world.letters().remove(0);
    assert_eq!((letter.cause.as_str(), letter.reason.as_str(), letter.attempts), ("rejected", "never", 1));
    stop(running).await;
}

#[tokio::test]
async fn an_effect_of_unknown_outcome_is_held_for_a_person() {
    let world = World::new();
    let policies = Arc::new(Mutex::new(Vec::new()));
    let noted = policies.clone();
    world.answer("orders", move |attempt| {
        noted.lock().unwrap().push(attempt.unknown_effects);
        Outcome::Held { reason: "an e-mail".to_owned() }
    });
    let running = world.start(one("orders", orders())).await;
    world.publish("orders").await;
    world.until_empty().await;
    assert_eq!(world.letters()[0].cause, "outcome-unknown");
    assert_eq!(*policies.lock().unwrap(), [UnknownEffects::Hold]);
    stop(running).await;
}

#[tokio::test]
async fn every_fault_of_a_plugin_counts_as_a_retry_with_that_reason() {
    for kind in FaultKind::ALL {
        if matches!(kind, FaultKind::Stopped | FaultKind::NoInstance) {
            continue;
        }
        let world = World::new();
        world.answer("orders", move |_| Fault::new(kind, "details").into());
        let running = world.start(one("orders", orders())).await;
        world.publish("orders").await;
        world.pass(0).await;
        assert_eq!(world.broker.told.lock().unwrap()[0].settlement, Settlement::RetryAt(START_MS + 10_000), "{kind}");
        let last = world.state.ledger.lock().unwrap().last().cloned().unwrap();
        assert_eq!(last.detail.unwrap(), format!("in 10000 ms: {kind}: details"));
        stop(running).await;
    }
}

#[tokio::test]
async fn faults_that_are_not_the_plugin_s_do_not_count() {
    for kind in [FaultKind::Stopped, FaultKind::NoInstance] {
        let world = World::new();
        let seen = world.answer("orders", move |_| Fault::new(kind, "the host").into());
        let running = world.start(one("orders", orders())).await;
        let message = world.publish("orders").await;
        for _ in 0..10 {
            world.pass(5_000).await;
        }
        assert_eq!(seen.lock().unwrap().len(), 11, "{kind}");
        assert!(seen.lock().unwrap().iter().all(|(_, attempt)| *attempt == 1), "{kind}");
        world.answer("orders", |_| Verdict::Ack.into());
        world.pass(5_000).await;
        world.until_empty().await;
        assert_eq!(world.steps(&message).last(), Some(&Step::Acknowledged));
        stop(running).await;
    }
}

#[tokio::test]
async fn a_panic_in_a_handler_is_one_attempt_s_fault() {
    let world = World::new();
    world.answer(
        "orders",
        |attempt| if attempt.attempt == 1 { panic!("a bug of the host") } else { Verdict::Ack.into() },
    );
    let running = world.start(one("orders", orders())).await;
    let message = world.publish("orders").await;
    world.pass(10_000).await;
    world.until_empty().await;
    assert_eq!(world.steps(&message), [Step::Started, Step::RetryPlanned, Step::Started, Step::Acknowledged]);
    stop(running).await;
}

#[tokio::test]
async fn an_attempt_that_does_not_end_is_ended_under_its_lease() {
    let world = World::new();
    let (_never_opened, seen) = world.gated("orders");
    let running = world.start(one("orders", orders())).await;
    world.publish("orders").await;
    world.pass(DEADLINE_MS + 4_999).await;
    assert!(world.broker.told.lock().unwrap().is_empty());
    world.pass(1).await;
    let now_ms = START_MS + DEADLINE_MS + 5_000;
    eventually("the retry is planned", || !world.broker.told.lock().unwrap().is_empty()).await;
    assert_eq!(world.broker.told.lock().unwrap()[0].settlement, Settlement::RetryAt(now_ms + 10_000));
    assert_eq!(seen.lock().unwrap().len(), 1, "the lease ended before the attempt did");
    stop(running).await;
}

#[tokio::test]
async fn a_message_that_takes_the_host_down_each_time_is_not_tried_for_ever() {
    let world = World::new();
    let seen = world.answer("orders", |_| Verdict::Ack.into());
    // Opens the subscription, as the host that went down had.
    stop(world.start(one("orders", orders())).await).await;
    world.publish("orders").await;
    world.broker.count_attempts(5);
    let running = world.start(one("orders", orders())).await;
    world.until_empty().await;
    assert!(seen.lock().unwrap().is_empty());
    let letter = world.letters().remove(0);
    assert_eq!((letter.cause.as_str(), letter.attempts, letter.version), ("attempts-exhausted", 5, None));
    stop(running).await;
}
