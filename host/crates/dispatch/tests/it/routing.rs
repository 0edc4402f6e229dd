//! Which handler a message meets, and what happens where there is none.

use crate::world::{START_MS, World, calm, eventually, one, orders, stop};
use sandpost_message::Verdict;
use sandpost_ports::state::Step;
use std::sync::{Arc, Mutex};

#[tokio::test]
async fn messages_wait_unpulled_for_a_handler_that_comes_within_the_grace() {
    let world = World::new();
    let running = world.start(one("orders", orders())).await;
    let message = world.publish("orders").await;
    world.pass(599_999).await;
    assert!(world.broker.asked.lock().unwrap().is_empty(), "pulled without a handler");
    let seen = world.answer("orders", |_| Verdict::Ack.into());
    world.until_empty().await;
    assert_eq!(*seen.lock().unwrap(), [(message.id, 1)]);
    assert!(world.letters().is_empty());
    stop(running).await;
}

#[tokio::test]
async fn past_the_grace_messages_are_dead_letters_until_a_handler_is_live() {
    let world = World::new();
    let running = world.start(one("orders", orders())).await;
    world.publish("orders").await;
    world.pass(600_000).await;
    world.until_empty().await;
    let letter = world.letters().remove(0);
    assert_eq!((letter.cause.as_str(), letter.attempts, letter.version), ("no-handler", 0, None));
    assert_eq!(letter.dead_at_ms, START_MS + 600_000);
    assert!(letter.reason.contains("`orders`"), "{}", letter.reason);

    let seen = world.answer("orders", |_| Verdict::Ack.into());
    world.publish("orders").await;
    world.until_empty().await;
    assert_eq!((seen.lock().unwrap().len(), world.letters().len()), (1, 1));
    stop(running).await;
}

#[tokio::test]
async fn a_handler_that_goes_away_gives_its_messages_the_whole_grace() {
    let world = World::new();
    world.answer("orders", |_| Verdict::Ack.into());
    let running = world.start(one("orders", orders())).await;
    world.publish("orders").await;
    world.until_empty().await;
    // The loop waits in its pull now; the message finds no handler and goes back.
    world.plugins.remove("orders");
    let message = world.publish("orders").await;
    world.pass(599_000).await;
    assert_eq!(world.steps(&message), [Step::HandedBack]);
    assert!(world.letters().is_empty());
    let seen = world.answer("orders", |_| Verdict::Ack.into());
    world.until_empty().await;
    assert_eq!(*seen.lock().unwrap(), [(message.id, 1)], "the way back was counted as an attempt");
    stop(running).await;
}

#[tokio::test]
async fn a_message_at_work_ends_on_its_version_and_the_next_begins_on_the_new_one() {
    let world = World::new();
    let (gate, old) = world.gated("orders");
    let running = world.start(one("orders", orders())).await;
    let first = world.publish("orders").await;
    eventually("the first attempt begins", || old.lock().unwrap().len() == 1).await;
    let versions = Arc::new(Mutex::new(Vec::new()));
    let noted = versions.clone();
    world.plugins.deploy("orders", "2.0.0", 60_000, move |attempt| {
        noted.lock().unwrap().push(attempt.message.id.clone());
        Box::pin(async { Verdict::Ack.into() })
    });
    let second = world.publish("orders").await;
    eventually("the second ends", || world.steps(&second).contains(&Step::Acknowledged)).await;
    gate.add_permits(1);
    world.until_empty().await;
    let ledger = world.state.ledger.lock().unwrap().clone();
    let version = |id| ledger.iter().rfind(|entry| entry.message_id == id).unwrap().version.clone().unwrap();
    assert_eq!((version(first.id), version(second.id.clone())), ("1.0.0".to_owned(), "2.0.0".to_owned()));
    assert_eq!(*versions.lock().unwrap(), [second.id]);
    // It was pulled for the old one's deadline, which is shorter than the new one's.
    assert_eq!(world.broker.extended.load(std::sync::atomic::Ordering::SeqCst), 1);
    stop(running).await;
}

#[tokio::test]
async fn a_subscription_without_a_handler_does_not_hold_up_another() {
    let world = World::new();
    let mut subscriptions = one("orders", orders());
    subscriptions.extend(one("mails", crate::world::subscription("mails")));
    let seen = world.answer("mails", |_| Verdict::Ack.into());
    let running = world.start(subscriptions).await;
    world.publish("orders").await;
    world.publish("mails").await;
    eventually("the other one is handled", || seen.lock().unwrap().len() == 1).await;
    calm().await;
    assert_eq!(world.broker.left(), 1);
    stop(running).await;
}
