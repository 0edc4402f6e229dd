//! Order, concurrency, fairness, leases while waiting.

use crate::world::{World, calm, eventually, one, orders, retry, stop, subscription};
use sandpost_dispatch::Config;
use sandpost_message::Verdict;
use std::sync::atomic::Ordering;

#[tokio::test]
async fn a_back_off_holds_its_ordering_key_and_no_other() {
    let world = World::new();
    let seen = world.answer("orders", |attempt| {
        let fails = attempt.message.attributes.iter().any(|(key, _)| key == "fails") && attempt.attempt == 1;
        if fails { retry() } else { Verdict::Ack.into() }
    });
    let running = world.start(one("orders", orders())).await;
    let keyed = |key: &str| Some(key.to_owned());
    let first = world
        .publish_with("orders", |message| {
            message.ordering_key = keyed("a");
            message.attributes.push(("fails".to_owned(), String::new()));
        })
        .await;
    let behind = world.publish_with("orders", |message| message.ordering_key = keyed("a")).await;
    let other = world.publish_with("orders", |message| message.ordering_key = keyed("b")).await;
    world.pass(9_999).await;
    let order = |seen: &crate::world::Seen| seen.lock().unwrap().iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
    assert_eq!(order(&seen), [first.id.clone(), other.id.clone()]);
    world.pass(1).await;
    world.until_empty().await;
    assert_eq!(order(&seen), [first.id.clone(), other.id, first.id, behind.id]);
    stop(running).await;
}

#[tokio::test]
async fn neither_a_subscription_nor_the_host_has_more_at_work_than_it_may() {
    let world = World::new();
    let (orders_gate, orders_seen) = world.gated("orders");
    let (mails_gate, mails_seen) = world.gated("mails");
    let mut subscriptions = one("orders", orders());
    subscriptions.extend(one("mails", subscription("mails")));
    for subscription in subscriptions.values_mut() {
        subscription.concurrency = 3;
    }
    let config = Config { concurrency_max: 5, ..Config::default() };
    let running = world.try_start(config, subscriptions).await.unwrap();
    for _ in 0..20 {
        world.publish("orders").await;
        world.publish("mails").await;
    }
    let begun = || (orders_seen.lock().unwrap().len(), mails_seen.lock().unwrap().len());
    let (mut orders_ended, mut mails_ended) = (0, 0);
    while world.broker.left() > 0 {
        calm().await;
        let (orders_begun, mails_begun) = begun();
        assert!(orders_begun - orders_ended <= 3, "{orders_begun} begun, {orders_ended} ended");
        assert!(mails_begun - mails_ended <= 3, "{mails_begun} begun, {mails_ended} ended");
        let at_work = orders_begun + mails_begun - orders_ended - mails_ended;
        assert!(at_work <= 5, "{at_work} at work");
        assert!(at_work == 5 || world.broker.left() < 6, "places are left unused: {at_work}");
        let reported: u64 = running.in_flight().iter().map(|(_, count)| *count).sum();
        assert_eq!(reported, at_work as u64);
        if orders_begun > orders_ended {
            orders_gate.add_permits(1);
            orders_ended += 1;
        }
        if mails_begun > mails_ended {
            mails_gate.add_permits(1);
            mails_ended += 1;
        }
        calm().await;
    }
    assert!(world.broker.asked.lock().unwrap().iter().all(|(_, max, _)| (1..=3).contains(max)));
    stop(running).await;
}

#[tokio::test]
async fn a_flood_on_one_subscription_does_not_starve_another() {
    let world = World::new();
    let (flood_gate, flood) = world.gated("orders");
    let (mails_gate, mails) = world.gated("mails");
    let mut subscriptions = one("orders", orders());
    subscriptions.extend(one("mails", subscription("mails")));
    let config = Config { concurrency_max: 2, ..Config::default() };
    let running = world.try_start(config, subscriptions).await.unwrap();
    for _ in 0..200 {
        world.publish("orders").await;
    }
    calm().await;
    assert_eq!(flood.lock().unwrap().len(), 2, "the flood has both places");
    for _ in 0..20 {
        world.publish("mails").await;
    }
    // Whoever is at work ends, one at a time: of the places that become free, each takes its half.
    let begun = || (flood.lock().unwrap().len() - 2, mails.lock().unwrap().len());
    while begun().0 + begun().1 < 24 {
        flood_gate.add_permits(1);
        calm().await;
        mails_gate.add_permits(1);
        calm().await;
    }
    let (of_the_flood, of_the_mails) = begun();
    assert!(of_the_mails >= 10, "{of_the_mails} mails began beside {of_the_flood} of the flood");
    assert!(of_the_flood >= 10, "{of_the_flood} of the flood began beside {of_the_mails} mails");
    stop(running).await;
}

#[tokio::test]
async fn what_waits_for_a_place_keeps_its_lease() {
    let world = World::new();
    let (gate, seen) = world.gated("orders");
    // The other plugin may take long, so that the host's only place is taken for long.
    let (slow_gate, slow) = (gate.clone(), crate::world::Seen::default());
    let noted = slow.clone();
    world.plugins.deploy("mails", "1.0.0", 600_000, move |attempt| {
        noted.lock().unwrap().push((attempt.message.id.clone(), attempt.attempt));
        let gate = slow_gate.clone();
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            Verdict::Ack.into()
        })
    });
    let mut subscriptions = one("orders", orders());
    subscriptions.extend(one("mails", subscription("mails")));
    let config = Config { concurrency_max: 1, ..Config::default() };
    let running = world.try_start(config, subscriptions).await.unwrap();
    world.publish("mails").await;
    eventually("the place is taken", || slow.lock().unwrap().len() == 1).await;
    let message = world.publish("orders").await;
    for _ in 0..60 {
        world.pass(5_000).await;
    }
    assert_eq!(world.broker.leased(), 2, "the waiting one's lease ran out");
    assert!(world.broker.extended.load(Ordering::SeqCst) > 10);
    gate.add_permits(2);
    world.until_empty().await;
    assert_eq!(*seen.lock().unwrap(), [(message.id, 1)]);
    stop(running).await;
}

#[tokio::test]
async fn one_pull_fetches_as_many_as_there_are_places_for() {
    let world = World::new();
    world.answer("orders", |_| Verdict::Ack.into());
    let running = world.start(one("orders", orders())).await;
    calm().await;
    assert_eq!(*world.broker.asked.lock().unwrap(), [("orders".parse().unwrap(), 16, 10_000 + 30_000)]);
    stop(running).await;
}
