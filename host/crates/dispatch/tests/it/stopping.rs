//! Stopping in the middle of work: what can end ends, the rest is handed back, and nothing is lost.

use crate::world::{START_MS, World, calm, eventually, one, orders, stop, subscription};
use sandpost_dispatch::{Config, StopReport};
use sandpost_message::Verdict;
use sandpost_ports::broker::Settlement;
use sandpost_ports::state::Step;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn what_is_at_work_ends_within_the_grace_and_nothing_new_begins() {
    let world = World::new();
    let (gate, seen) = world.gated("orders");
    let running = world.start(one("orders", orders())).await;
    for _ in 0..20 {
        world.publish("orders").await;
    }
    eventually("all places are taken", || seen.lock().unwrap().len() == 16).await;
    let stopping = tokio::spawn(running.stop(Duration::from_secs(30)));
    calm().await;
    assert!(!stopping.is_finished());
    gate.add_permits(100);
    assert_eq!(stopping.await.unwrap(), StopReport { finished: 16, handed_back: 0, unsettled: 0 });
    assert_eq!((seen.lock().unwrap().len(), world.broker.left(), world.broker.leased()), (16, 4, 0));
}

#[tokio::test]
async fn what_does_not_end_within_the_grace_is_handed_back_uncounted() {
    let world = World::new();
    let (gate, seen) = world.gated("orders");
    let running = world.start(one("orders", orders())).await;
    let message = world.publish("orders").await;
    eventually("it is at work", || seen.lock().unwrap().len() == 1).await;
    let stopping = tokio::spawn(running.stop(Duration::from_secs(3)));
    world.pass(2_999).await;
    assert!(!stopping.is_finished());
    world.pass(1).await;
    assert_eq!(stopping.await.unwrap(), StopReport { finished: 0, handed_back: 1, unsettled: 0 });
    let told = world.broker.told.lock().unwrap().clone();
    // Not at once: what the attempt had handed over goes on to its end first.
    assert_eq!(told[0].settlement, Settlement::HandBack(START_MS + 3_000 + 5_000));
    assert_eq!(world.steps(&message), [Step::Started, Step::HandedBack]);

    // The next host does it, as the first attempt.
    gate.add_permits(1);
    let running = world.start(one("orders", orders())).await;
    world.pass(5_000).await;
    world.until_empty().await;
    assert_eq!(seen.lock().unwrap().last(), Some(&(message.id, 1)));
    stop(running).await;
}

#[tokio::test]
async fn what_was_pulled_and_has_no_place_yet_is_handed_back_at_once() {
    let world = World::new();
    let (gate, seen) = world.gated("mails");
    let (_, orders_seen) = world.gated("orders");
    let mut subscriptions = one("orders", orders());
    subscriptions.extend(one("mails", subscription("mails")));
    let config = Config { concurrency_max: 1, ..Config::default() };
    let running = world.try_start(config, subscriptions).await.unwrap();
    world.publish("mails").await;
    eventually("the place is taken", || seen.lock().unwrap().len() == 1).await;
    let message = world.publish("orders").await;
    eventually("the other is pulled", || world.broker.leased() == 2).await;
    let stopping = tokio::spawn(running.stop(Duration::from_secs(30)));
    calm().await;
    assert_eq!(world.steps(&message), [Step::HandedBack]);
    assert_eq!(world.broker.told.lock().unwrap()[0].settlement, Settlement::HandBack(START_MS));
    gate.add_permits(1);
    assert_eq!(stopping.await.unwrap(), StopReport { finished: 1, handed_back: 1, unsettled: 0 });
    assert!(orders_seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_broker_that_takes_no_settlement() {
    let world = World::new();
    let (_gate, seen) = world.gated("orders");
    let running = world.start(one("orders", orders())).await;
    world.publish("orders").await;
    eventually("it is at work", || seen.lock().unwrap().len() == 1).await;
    world.broker.failing_settles.next(1_000);
    let stopping = tokio::spawn(running.stop(Duration::ZERO));
    eventually("it is stopped", || stopping.is_finished()).await;
    assert_eq!(stopping.await.unwrap(), StopReport { finished: 0, handed_back: 0, unsettled: 1 });
    assert_eq!(world.broker.left(), 1);
}

#[tokio::test]
async fn no_task_outlives_a_stop_or_a_drop() {
    for dropped in [false, true] {
        let world = World::new();
        let (_gate, seen) = world.gated("orders");
        let running = world.start(one("orders", orders())).await;
        world.publish("orders").await;
        eventually("it is at work", || seen.lock().unwrap().len() == 1).await;
        if dropped {
            drop(running);
        } else {
            stop(running).await;
        }
        // Every task holds the services; the test itself and the broker's own handle are what is left.
        eventually("the services are let go", || Arc::strong_count(&world.state) == 1).await;
        assert_eq!(world.broker.leased(), 0);
    }
}

#[tokio::test]
async fn an_idle_dispatch_stops_at_once() {
    let world = World::new();
    world.answer("orders", |_| Verdict::Ack.into());
    let running = world.start(one("orders", orders())).await;
    world.publish("orders").await;
    world.until_empty().await;
    let report = running.stop(Duration::from_secs(30)).await;
    assert_eq!(report, StopReport { finished: 0, handed_back: 0, unsettled: 0 });
}
