//! What is forgotten, and what is not.

use crate::world::{START_MS, World, one, orders, stop};
use sandpost_message::Verdict;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const KEEP_MS: u64 = 7 * DAY_MS;
const ROUND_MS: u64 = 60_000;

#[tokio::test]
async fn old_records_are_forgotten_after_their_time() {
    let world = World::new();
    world.answer("orders", |_| Verdict::Ack.into());
    let running = world.start(one("orders", orders())).await;
    let message = world.publish("orders").await;
    world.until_empty().await;
    world.pass(ROUND_MS).await;
    let now_ms = START_MS + ROUND_MS;
    assert_eq!(
        *world.state.forgotten.lock().unwrap(),
        [("ledger", now_ms - KEEP_MS), ("effects", now_ms - KEEP_MS), ("requests", now_ms)]
    );
    assert_eq!(world.steps(&message).len(), 2);
    world.pass(KEEP_MS).await;
    assert!(world.steps(&message).is_empty());
    stop(running).await;
}

#[tokio::test]
async fn no_effect_of_a_message_that_is_still_on_its_way_is_forgotten() {
    let world = World::new();
    // Nobody handles it, and the grace is as long as can be: it is on its way for longer than effects are kept.
    let mut orders = orders();
    orders.handler_grace_ms = KEEP_MS;
    let running = world.start(one("orders", orders)).await;
    world.pass(KEEP_MS - 1_000).await;
    let message = world.publish("orders").await;
    world.plugins.deploy("orders", "1.0.0", 10_000, |_| Box::pin(async { crate::world::retry() }));
    world.pass(0).await;
    world.plugins.remove("orders");
    world.state.forgotten.lock().unwrap().clear();
    world.pass(KEEP_MS - 1_000).await;
    world.pass(KEEP_MS).await;
    let asked = world.state.forgotten.lock().unwrap().clone();
    let before = asked.iter().filter(|(what, _)| *what == "effects").map(|(_, before_ms)| *before_ms);
    assert!(before.clone().count() > 0);
    assert!(world.broker.left() == 0 || before.max().unwrap() <= message.published_at_ms);
    stop(running).await;
}
