//! What is pulled for a handler that rests, or that takes one message at a time.

use crate::world::{DEADLINE_MS, World, calm, eventually, one, orders, stop};
use sandpost_message::Verdict;
use sandpost_ports::plugins::Admission;
use sandpost_ports::state::Step;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

const REST: Admission = Admission::Rest { wait_ms: 1_000 };

#[tokio::test]
async fn nothing_is_pulled_during_a_rest_and_all_of_it_after() {
    let world = World::new();
    let admission = world.plugins.deploy("orders", "1.0.0", DEADLINE_MS, |_| Box::pin(async { Verdict::Ack.into() }));
    *admission.lock().unwrap() = REST;
    let running = world.start(one("orders", orders())).await;
    let messages = [world.publish("orders").await, world.publish("orders").await];
    for _ in 0..10 {
        world.pass(1_000).await;
    }
    assert!(world.broker.asked.lock().unwrap().is_empty(), "pulled during a rest");
    *admission.lock().unwrap() = Admission::Free;
    world.pass(1_000).await;
    world.until_empty().await;
    for message in messages {
        assert_eq!(world.steps(&message), [Step::Started, Step::Acknowledged], "and its first attempt is its first");
    }
    stop(running).await;
}

#[tokio::test]
async fn another_version_ends_a_rest_at_once() {
    let world = World::new();
    let admission = world.plugins.deploy("orders", "1.0.0", DEADLINE_MS, |_| Box::pin(async { Verdict::Ack.into() }));
    *admission.lock().unwrap() = REST;
    let running = world.start(one("orders", orders())).await;
    world.publish("orders").await;
    calm().await;
    let seen = world.answer("orders", |_| Verdict::Ack.into());
    // The clock stands still.
    world.until_empty().await;
    assert_eq!(seen.lock().unwrap().len(), 1);
    stop(running).await;
}

#[tokio::test]
async fn one_at_a_time_is_one_at_a_time_until_the_handler_says_otherwise() {
    let world = World::new();
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (opened, counted) = (gate.clone(), begun.clone());
    let admission = world.plugins.deploy("orders", "1.0.0", DEADLINE_MS, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        let opened = opened.clone();
        Box::pin(async move {
            opened.acquire().await.unwrap().forget();
            Verdict::Ack.into()
        })
    });
    *admission.lock().unwrap() = Admission::One;
    let mut subscription = orders();
    subscription.concurrency = 4;
    let running = world.start(one("orders", subscription)).await;
    for _ in 0..12 {
        world.publish("orders").await;
    }
    for ended in 0..3 {
        eventually("the next begins", || begun.load(Ordering::SeqCst) == ended + 1).await;
        // Time alone does not let another one begin beside it.
        world.pass(1_000).await;
        assert_eq!(begun.load(Ordering::SeqCst), ended + 1);
        gate.add_permits(1);
    }
    eventually("the fourth begins", || begun.load(Ordering::SeqCst) == 4).await;
    *admission.lock().unwrap() = Admission::Free;
    world.pass(1_000).await;
    assert_eq!(begun.load(Ordering::SeqCst), 3 + 4, "all places are used again, though none has ended");
    gate.add_permits(20);
    world.until_empty().await;
    stop(running).await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_rest_to_end() {
    let world = World::new();
    for admission in [REST, Admission::One] {
        let changed = world.plugins.deploy("orders", "1.0.0", DEADLINE_MS, |_| Box::pin(std::future::pending()));
        *changed.lock().unwrap() = admission;
        let running = world.start(one("orders", orders())).await;
        world.publish("orders").await;
        world.publish("orders").await;
        calm().await;
        // The clock stands still: what waits for a time waits for ever.
        stop(running).await;
    }
}
