//! What becomes of messages when the service is gone, dead, slow or forgetful: on the emulator, through the proxy.
//!
//! The emulator keeps everything in memory: after a restart it knows neither topics nor subscriptions nor messages. That a
//! message outlives a restart of the service can therefore not be seen here; that the host comes back to work is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod common;

use common::{PATIENCE, body, config, done, emulator, message, names, next, open, until_ok, within};
use sandpost_ports::ErrorKind;
use sandpost_ports::broker::Broker as _;
use sandpost_ports::health::Health as _;
use sandpost_services::Proxy;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SUITE: &str = "faults, Pub/Sub";

/// What the driver may take longer than its own limits, on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_is_unavailable_and_ends_when_the_service_comes() {
    let Some(server) = emulator(SUITE) else { return };
    let proxy = Proxy::before(server.address());
    proxy.refuse();
    let pubsub = open(config(&proxy.address().to_string()));
    let (name, topic) = names();
    let limit = Duration::from_secs(2) + SLACK;
    let error = within("a check", limit, pubsub.check()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(!error.to_string().contains("127.0.0.1"), "a plugin may read it: {error}");
    let error = within("subscribing", limit, pubsub.subscribe(&name, &topic)).await.err().expect("refused");
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    let sent = vec![message(&topic, "nothing was done")];
    let error = within("publishing", limit, pubsub.publish(sent)).await.remove(0).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");

    proxy.pass();
    let subscription = until_ok("subscribing", || pubsub.subscribe(&name, &topic)).await;
    pubsub.publish(vec![message(&topic, "there")]).await.remove(0).unwrap();
    let delivery = next(&*subscription).await;
    assert_eq!((body(&delivery).as_str(), delivery.attempt), ("there", 1));

    // Gone in the middle of it: the lease is this host's, and the acknowledgement follows or the message comes again.
    proxy.refuse();
    let begun = Instant::now();
    let error = pubsub.publish(vec![message(&topic, "perhaps")]).await.remove(0).unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    done(&*subscription, delivery).await;
    proxy.pass();
    until_ok("publishing", || async { pubsub.publish(vec![message(&topic, "again")]).await.remove(0) }).await;
    loop {
        let delivery = next(&*subscription).await;
        let text = body(&delivery);
        done(&*subscription, delivery).await;
        match text.as_str() {
            "again" => break,
            // Its outcome was unknown.
            "perhaps" => {}
            other => panic!("{other} was acknowledged"),
        }
    }
    sandpost_services::checked(SUITE, &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_network_ends_in_time_and_is_found_again() {
    let Some(server) = emulator(SUITE) else { return };
    let proxy = Proxy::before(server.address());
    let pubsub = open(config(&proxy.address().to_string()));
    let (name, topic) = names();
    let subscription = until_ok("subscribing", || pubsub.subscribe(&name, &topic)).await;
    pubsub.publish(vec![message(&topic, "before")]).await.remove(0).unwrap();
    let held = next(&*subscription).await;

    proxy.black_hole();
    let limit = Duration::from_secs(2) + SLACK;
    let error =
        within("publishing", limit, pubsub.publish(vec![message(&topic, "lost?")])).await.remove(0).unwrap_err();
    assert_eq!(error.kind, ErrorKind::UnknownOutcome, "it was sent and not answered: {error}");
    let error = within("a check", limit, pubsub.check()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    let (other, elsewhere) = names();
    let error = within("subscribing", limit, pubsub.subscribe(&other, &elsewhere)).await.err().expect("no answer");
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");

    proxy.cut();
    proxy.pass();
    until_ok("publishing", || async { pubsub.publish(vec![message(&topic, "after")]).await.remove(0) }).await;
    done(&*subscription, held).await;
    loop {
        let delivery = next(&*subscription).await;
        let text = body(&delivery);
        assert_ne!(text, "before", "it was acknowledged here");
        done(&*subscription, delivery).await;
        if text == "after" {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_while_connections_are_cut() {
    let Some(server) = emulator(SUITE) else { return };
    let proxy = Arc::new(Proxy::before(server.address()));
    let pubsub = open(config(&proxy.address().to_string()));
    let (name, topic) = names();
    let subscription = until_ok("subscribing", || pubsub.subscribe(&name, &topic)).await;
    let publishing = tokio::spawn({
        let (pubsub, proxy) = (Arc::clone(&pubsub), Arc::clone(&proxy));
        async move {
            let mut accepted = BTreeSet::new();
            for round in 0..30 {
                let bodies: Vec<String> = (0..10).map(|place| format!("{round}-{place}")).collect();
                let messages = bodies.iter().map(|body| message(&topic, body.clone())).collect();
                if round % 10 == 2 {
                    proxy.cut();
                }
                let answers = pubsub.publish(messages).await;
                accepted.extend(bodies.into_iter().zip(answers).filter_map(|(body, answer)| answer.ok().map(|_| body)));
            }
            accepted
        }
    });
    let mut seen = BTreeSet::new();
    let mut accepted = None;
    let mut publishing = publishing;
    within("every accepted message", 2 * PATIENCE, async {
        while accepted.as_ref().is_none_or(|accepted: &BTreeSet<String>| !accepted.is_subset(&seen)) {
            tokio::select! {
                delivery = next(&*subscription) => {
                    seen.insert(body(&delivery));
                    done(&*subscription, delivery).await;
                }
                all = &mut publishing, if accepted.is_none() => accepted = Some(all.unwrap()),
            }
        }
    })
    .await;
    assert!(accepted.is_some_and(|accepted| accepted.len() > 100), "most of them are accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_service_is_only_slow() {
    let Some(server) = emulator(SUITE) else { return };
    let proxy = Proxy::before(server.address());
    let pubsub = open(config(&proxy.address().to_string()));
    let (name, topic) = names();
    let subscription = until_ok("subscribing", || pubsub.subscribe(&name, &topic)).await;
    proxy.delay(Duration::from_millis(100));
    for number in 0..3 {
        pubsub.publish(vec![message(&topic, number.to_string())]).await.remove(0).unwrap();
        let delivery = next(&*subscription).await;
        assert_eq!((body(&delivery), delivery.attempt), (number.to_string(), 1));
        done(&*subscription, delivery).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emulator_that_forgot_everything_is_set_up_again() {
    let Some(server) = emulator(SUITE) else { return };
    if !server.can_restart() {
        return;
    }
    let pubsub = open(config(&server.url()));
    let (name, topic) = names();
    let subscription = until_ok("subscribing", || pubsub.subscribe(&name, &topic)).await;
    pubsub.publish(vec![message(&topic, "forgotten")]).await.remove(0).unwrap();
    done(&*subscription, next(&*subscription).await).await;
    server.kill();
    server.start();
    // Who has work in hand hears that its subscription is gone, or of nothing, and finds it again.
    let delivery = within("a message after the restart", PATIENCE, async {
        let publishing = async {
            loop {
                let answer = pubsub.publish(vec![message(&topic, "after")]).await.remove(0);
                if let Err(error) = answer {
                    assert!(error.is_transient() || error.kind == ErrorKind::Invalid, "{error}");
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        tokio::select! {
            delivery = next(&*subscription) => delivery,
            () = publishing => unreachable!("it never ends"),
        }
    })
    .await;
    assert_eq!(body(&delivery), "after");
    done(&*subscription, delivery).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_gives_back_what_was_not_handled() {
    let Some(server) = emulator(SUITE) else { return };
    let (name, topic) = names();
    let first = open(config(&server.url()));
    let subscription = until_ok("subscribing", || first.subscribe(&name, &topic)).await;
    let bodies: BTreeSet<String> = (0..20).map(|number| number.to_string()).collect();
    let messages = bodies.iter().map(|body| message(&topic, body.clone())).collect();
    assert!(first.publish(messages).await.iter().all(Result::is_ok));
    let handled = next(&*subscription).await;
    let handled_body = body(&handled);
    done(&*subscription, handled).await;
    let _in_hand = next(&*subscription).await;
    within("the end", Duration::from_secs(2) + SLACK, first.close()).await;
    let error = subscription.next(1, 1_000).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");

    // The acknowledgement was on its way when the stop began, and arrived; everything else is there for the next host.
    let second = open(config(&server.url()));
    let subscription = until_ok("subscribing", || second.subscribe(&name, &topic)).await;
    let mut left = bodies;
    left.remove(&handled_body);
    while !left.is_empty() {
        let delivery = next(&*subscription).await;
        assert!(left.remove(&body(&delivery)), "{} is not owed", body(&delivery));
        done(&*subscription, delivery).await;
    }
    second.close().await;
}
