//! What is forgotten, and what is not.

use crate::world::{START_MS, World, one, orders, stop};
use sandpost_dispatch::Config;
use sandpost_message::Verdict;
use sandpost_ports::ErrorKind;

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
    world.answer("orders", |_| Verdict::Ack.into());
    let config = Config { effects_keep_ms: 200_000, ..Config::default() };
    let running = world.try_start(config, one("orders", orders())).await.unwrap();
    // On its way for far longer than effects are kept.
    let due_ms = START_MS + 3_600_000;
    world.publish_with("orders", |message| message.not_before_ms = due_ms).await;
    let effects_before = || {
        let mut forgotten = world.state.forgotten.lock().unwrap();
        let before = forgotten.iter().rfind(|(what, _)| *what == "effects").map(|(_, before_ms)| *before_ms);
        forgotten.clear();
        before
    };
    world.pass(due_ms - START_MS - 1).await;
    assert_eq!(effects_before(), Some(START_MS));
    world.pass(1).await;
    world.until_empty().await;
    world.pass(ROUND_MS).await;
    assert_eq!(effects_before(), Some(due_ms + ROUND_MS - 200_000));
    stop(running).await;
}

#[tokio::test]
async fn where_a_broker_cannot_count_nothing_that_it_may_still_keep_is_forgotten() {
    let world = World::new();
    let running = world.start(one("orders", orders())).await;
    let round = async |fails| {
        *world.broker.backlog_fails.lock().unwrap() = Some(fails);
        world.state.forgotten.lock().unwrap().clear();
        world.pass(ROUND_MS).await;
        let forgotten = world.state.forgotten.lock().unwrap();
        forgotten.iter().find(|(what, _)| *what == "effects").map(|(_, before_ms)| *before_ms)
    };
    // One that does not answer may still say so later.
    assert_eq!(round(ErrorKind::Unavailable).await, None);
    // The longest that a message is kept by a broker of that kind, far longer than effects are kept otherwise.
    assert_eq!(round(ErrorKind::Unsupported).await, Some(START_MS + 2 * ROUND_MS - 31 * DAY_MS));
    stop(running).await;
}
