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

use common::{PATIENCE, SHORT_MS, body, config, done, emulator, is_not_set_up, message, names, next, open, short};
use common::{until_ok, within};
use sandpost_message::{Message, SubscriptionName};
use sandpost_ports::ErrorKind;
use sandpost_ports::broker::Broker as _;
use sandpost_ports::health::Health as _;
use sandpost_pubsub::Config;
use sandpost_services::Proxy;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SUITE: &str = "faults, Pub/Sub";

/// How long the driver may take with [`short`]: its own limits, and what a busy machine adds to them.
const LIMIT: Duration = Duration::from_millis(SHORT_MS + 3_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_is_unavailable_and_ends_when_the_service_comes() {
    let Some(server) = emulator(SUITE) else { return };
    let proxy = Proxy::before(server.address());
    proxy.refuse();
    let pubsub = open(short(&proxy.address().to_string()));
    let (name, topic) = names();
    let error = within("a check", LIMIT, pubsub.check()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(!error.to_string().contains("127.0.0.1"), "a plugin may read it: {error}");
    let error = within("subscribing", LIMIT, pubsub.subscribe(&name, &topic)).await.err().expect("refused");
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    let sent = vec![message(&topic, "nothing was done")];
    let error = within("publishing", LIMIT, pubsub.publish(sent)).await.remove(0).unwrap_err();
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
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
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
async fn a_topic_that_is_listened_to_is_known_before_its_subscription_is_there() {
    let Some(server) = emulator(SUITE) else { return };
    let proxy = Proxy::before(server.address());
    proxy.refuse();
    let pubsub = open(config(&proxy.address().to_string()));
    let ((name, topic), (stranger, elsewhere)) = (names(), names());
    assert!(pubsub.subscribe(&name, &topic).await.is_err(), "the service is away");
    let publish = async |message: Message| pubsub.publish(vec![message]).await.remove(0);
    assert_eq!(publish(message(&topic, "away")).await.unwrap_err().kind, ErrorKind::Unavailable);

    // The service is back, and nobody has asked again for the subscription yet.
    proxy.pass();
    let unwell = within("an answer of the service", PATIENCE, async {
        loop {
            let error = pubsub.check().await.expect_err("the subscription is not there");
            if is_not_set_up(&error) {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(unwell.message.starts_with(&format!("subscription `{name}` is not set up yet: ")), "{unwell}");
    let only = |name: &SubscriptionName| Message { only: Some(name.clone()), ..message(&topic, "a replay") };
    for refused in [message(&topic, "too early"), only(&name)] {
        let error = publish(refused).await.unwrap_err();
        assert!(error.kind == ErrorKind::Unavailable && is_not_set_up(&error), "{error}");
    }
    for refused in [message(&elsewhere, "nobody's"), only(&stranger)] {
        let error = publish(refused).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    }

    let subscription = until_ok("subscribing", || pubsub.subscribe(&name, &topic)).await;
    pubsub.check().await.expect("all that was asked for is set up");
    publish(message(&topic, "first")).await.unwrap();
    publish(only(&name)).await.unwrap();
    let mut bodies = BTreeSet::new();
    for _ in 0..2 {
        let delivery = next(&*subscription).await;
        bodies.insert(body(&delivery));
        done(&*subscription, delivery).await;
    }
    assert_eq!(bodies, ["a replay", "first"].map(str::to_owned).into(), "what was refused was not stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_nobody_waited_for_is_known_too() {
    let Some(server) = emulator(SUITE) else { return };
    let proxy = Proxy::before(server.address());
    proxy.hold_answers();
    let pubsub = open(config(&proxy.address().to_string()));
    let (name, topic) = names();
    // As the host does, which serves HTTP after a while whether the broker has answered or not.
    let begun = tokio::time::timeout(Duration::from_millis(50), pubsub.subscribe(&name, &topic)).await;
    assert!(begun.is_err(), "no answer comes");
    proxy.cut();
    proxy.pass();
    let sent = vec![message(&topic, "too early")];
    let error = pubsub.publish(sent).await.remove(0).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert_eq!(pubsub.check().await.unwrap_err().kind, ErrorKind::Unavailable);
    until_ok("subscribing", || pubsub.subscribe(&name, &topic)).await;
    until_ok("health", || pubsub.check()).await;
    until_ok("publishing", || async { pubsub.publish(vec![message(&topic, "there")]).await.remove(0) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_listens_every_answer_is_for_now() {
    // Whatever is behind it: nothing is let through, so this needs no emulator.
    let proxy = Proxy::before(([127, 0, 0, 1], 1).into());
    proxy.refuse();
    let pubsub = open(config(&proxy.address().to_string()));
    let ((name, topic), (_, elsewhere)) = (names(), names());
    let error = pubsub.subscribe(&name, &topic).await.err().expect("nothing listens");
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    // Whether others listen to the second nobody can say, so it is not refused for good.
    for topic in [&topic, &elsewhere] {
        let error = pubsub.publish(vec![message(topic, "away")]).await.remove(0).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        assert!(!is_not_set_up(&error), "a circuit breaker has to count it: {error}");
    }
    let error = pubsub.check().await.unwrap_err();
    assert!(error.kind == ErrorKind::Unavailable && !is_not_set_up(&error) && !error.message.is_empty(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_network_ends_in_time_and_is_found_again() {
    let Some(server) = emulator(SUITE) else { return };
    let proxy = Proxy::before(server.address());
    let pubsub = open(short(&proxy.address().to_string()));
    let (name, topic) = names();
    let subscription = until_ok("subscribing", || pubsub.subscribe(&name, &topic)).await;
    pubsub.publish(vec![message(&topic, "before")]).await.remove(0).unwrap();
    let held = next(&*subscription).await;

    proxy.black_hole();
    let error =
        within("publishing", LIMIT, pubsub.publish(vec![message(&topic, "lost?")])).await.remove(0).unwrap_err();
    assert_eq!(error.kind, ErrorKind::UnknownOutcome, "it was sent and not answered: {error}");
    let error = within("a check", LIMIT, pubsub.check()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    let (other, elsewhere) = names();
    let error = within("subscribing", LIMIT, pubsub.subscribe(&other, &elsewhere)).await.err().expect("no answer");
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
                    assert!(error.is_transient(), "this host listens to it: {error}");
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
    // Only the end has a limit here; what is published has to be taken.
    let first = open(Config { call_timeout_ms: SHORT_MS, ..config(&server.url()) });
    let subscription = until_ok("subscribing", || first.subscribe(&name, &topic)).await;
    let bodies: BTreeSet<String> = (0..20).map(|number| number.to_string()).collect();
    let messages = bodies.iter().map(|body| message(&topic, body.clone())).collect();
    assert!(first.publish(messages).await.iter().all(Result::is_ok));
    let handled = next(&*subscription).await;
    let handled_body = body(&handled);
    done(&*subscription, handled).await;
    let _in_hand = next(&*subscription).await;
    within("the end", LIMIT, first.close()).await;
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
