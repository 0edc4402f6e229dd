//! What is Pub/Sub's own: strangers' messages, its count of deliveries, drift, and what a single publish takes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod common;

use common::{body, config, done, emulator, is_not_set_up, message, names, next, open, until_ok};
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::{Publisher, SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::model::Message as Carried;
use sandpost_message::Message;
use sandpost_ports::broker::{Broker as _, Settlement};
use sandpost_ports::clock::{Clock as _, SystemClock};
use sandpost_ports::health::Health as _;
use sandpost_ports::{ErrorKind, PortError};
use sandpost_pubsub::{Config, Manage, Severity};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const SUITE: &str = "what is Pub/Sub's own";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_message_has_the_services_id_and_its_bytes() {
    let Some(server) = emulator(SUITE) else { return };
    let pubsub = open(config(&server.url()));
    let (name, topic) = names();
    let subscription = until_ok("subscribing", || pubsub.subscribe(&name, &topic)).await;
    let publisher = Publisher::builder(format!("projects/tests/topics/{topic}"))
        .with_endpoint(format!("http://{}", server.url()))
        .with_credentials(anonymous::Builder::new().build())
        .build()
        .await
        .unwrap();
    let bytes = b"{\"notificationId\":\"n-1\",\"userId\":\"u-1\",\"type\":\"welcome\"}";
    let carried = Carried::new().set_data(&bytes[..]).set_attributes([("kind", "welcome")]);
    let id = publisher.publish(carried).await.unwrap();
    let delivery = next(&*subscription).await;
    assert_eq!((&delivery.message.body[..], delivery.message.id.as_str()), (&bytes[..], id.as_str()));
    assert_eq!(delivery.message.attributes, [("kind".to_owned(), "welcome".to_owned())]);
    assert_eq!(delivery.message.content_type, "application/json");
    done(&*subscription, delivery).await;
    pubsub.close().await;
    sandpost_services::checked(SUITE, &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_took_the_host_down_counts_where_the_service_counts() {
    let Some(server) = emulator(SUITE) else { return };
    // Without ordering: the emulator fails for ever on an ordered subscription with a dead-letter policy.
    let config = Config { dead_letter_topic: Some("dead".to_owned()), ordering: false, ..config(&server.url()) };
    let (name, topic) = names();
    let first = open(config.clone());
    let subscription = until_ok("subscribing", || first.subscribe(&name, &topic)).await;
    first.publish(vec![message(&topic, "poison")]).await.remove(0).unwrap();
    assert_eq!(next(&*subscription).await.attempt, 1);
    drop((first, subscription));
    let second = open(config);
    let subscription = until_ok("subscribing", || second.subscribe(&name, &topic)).await;
    let delivery = next(&*subscription).await;
    // Approximately: the emulator may have delivered to the first one's stream once more.
    assert_eq!(body(&delivery), "poison");
    assert!((2..=10).contains(&delivery.attempt), "{}", delivery.attempt);
    done(&*subscription, delivery).await;
    second.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_as_configured_is_found_and_left_alone() {
    let Some(server) = emulator(SUITE) else { return };
    let (name, topic) = names();
    let made = open(config(&server.url()));
    until_ok("subscribing", || made.subscribe(&name, &topic)).await;
    assert_eq!(made.verify(&[(name.clone(), topic.clone())]).await.unwrap(), []);
    made.close().await;

    let wanted = Config {
        manage: Some(Manage::Verify),
        dead_letter_topic: Some("nobody-listens".to_owned()),
        retention_s: 3_600,
        ..config(&server.url())
    };
    let pubsub = open(wanted);
    let (missing, elsewhere) = names();
    let bindings = [(name.clone(), topic.clone()), (missing.clone(), elsewhere.clone())];
    let of = |findings: &[sandpost_pubsub::Finding], subject: &str, severity| {
        findings.iter().filter(|found| found.subject == subject && found.severity == severity).count()
    };
    let findings = pubsub.verify(&bindings).await.unwrap();
    assert_eq!(of(&findings, name.as_str(), Severity::Drift), 2, "retention and dead letters: {findings:?}");
    assert_eq!(of(&findings, missing.as_str(), Severity::Error), 1, "{findings:?}");
    assert_eq!(of(&findings, "nobody-listens", Severity::Error), 1, "the topic is not there: {findings:?}");

    let topics = TopicAdmin::builder()
        .with_endpoint(format!("http://{}", server.url()))
        .with_credentials(anonymous::Builder::new().build())
        .build()
        .await
        .unwrap();
    topics.create_topic().set_name("projects/tests/topics/nobody-listens").send().await.unwrap();
    let findings = pubsub.verify(&bindings).await.unwrap();
    let about: Vec<String> =
        findings.iter().filter(|f| f.subject == "nobody-listens").map(ToString::to_string).collect();
    assert!(about.len() == 1 && about[0].contains("without a subscription"), "{about:?}");

    // Drift is no reason not to work; a subscription that is not there is waited for, not made.
    assert!(pubsub.subscribe(&name, &topic).await.is_ok());
    let error = pubsub.subscribe(&missing, &elsewhere).await.err().expect("nothing is made");
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert_eq!(pubsub.verify(&bindings).await.unwrap().len(), findings.len(), "nothing was changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_taken_that_a_missing_subscription_would_miss() {
    let Some(server) = emulator(SUITE) else { return };
    let ((name, topic), (missing, _)) = (names(), names());
    let somebody = open(config(&server.url()));
    until_ok("subscribing", || somebody.subscribe(&name, &topic)).await;
    let pubsub = open(Config { manage: Some(Manage::Verify), ..config(&server.url()) });
    let publish = async |message: Message| pubsub.publish(vec![message]).await.remove(0);
    until_ok("subscribing", || pubsub.subscribe(&name, &topic)).await;
    publish(message(&topic, "for the one")).await.unwrap();
    let error = pubsub.subscribe(&missing, &topic).await.err().expect("nothing is made");
    assert!(is_not_set_up(&error), "{error}");

    let error = pubsub.check().await.unwrap_err();
    let words = format!("subscription `{missing}` is not set up yet: subscription `{missing}` is not there");
    assert!(is_not_set_up(&error) && error.message.starts_with(&words), "{error}");
    let error = publish(message(&topic, "for both")).await.unwrap_err();
    assert!(error.kind == ErrorKind::Unavailable && is_not_set_up(&error), "{error}");
    publish(Message { only: Some(name.clone()), ..message(&topic, "for the one alone") }).await.unwrap();

    // Made by somebody: what is published is kept there, before this host has opened it.
    until_ok("subscribing", || somebody.subscribe(&missing, &topic)).await;
    publish(message(&topic, "for both")).await.unwrap();
    assert!(pubsub.check().await.is_err(), "it is not open here");
    pubsub.subscribe(&missing, &topic).await.unwrap();
    pubsub.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_was_deleted_is_missed_until_it_is_there_again() {
    let Some(server) = emulator(SUITE) else { return };
    let (name, topic) = names();
    let made = open(config(&server.url()));
    until_ok("subscribing", || made.subscribe(&name, &topic)).await;
    made.close().await;
    let pubsub = open(Config { manage: Some(Manage::Verify), ..config(&server.url()) });
    let subscription = until_ok("subscribing", || pubsub.subscribe(&name, &topic)).await;
    pubsub.check().await.unwrap();

    let subscriptions = SubscriptionAdmin::builder()
        .with_endpoint(format!("http://{}", server.url()))
        .with_credentials(anonymous::Builder::new().build())
        .build()
        .await
        .unwrap();
    let path = format!("projects/tests/subscriptions/{name}");
    subscriptions.delete_subscription().set_subscription(&path).send().await.unwrap();
    let missed = || async {
        let error = pubsub.check().await.err().filter(is_not_set_up);
        error.map(|_| ()).ok_or(PortError::new(ErrorKind::Other, "its stream has not found out yet"))
    };
    until_ok("the loss", missed).await;
    let error = pubsub.publish(vec![message(&topic, "lost")]).await.remove(0).unwrap_err();
    assert!(error.kind == ErrorKind::Unavailable && is_not_set_up(&error), "{error}");

    let topic_path = format!("projects/tests/topics/{topic}");
    subscriptions.create_subscription().set_name(path).set_topic(topic_path).send().await.unwrap();
    until_ok("the return", || pubsub.check()).await;
    pubsub.publish(vec![message(&topic, "there again")]).await.remove(0).unwrap();
    assert_eq!(body(&next(&*subscription).await), "there again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_offs_longer_than_the_services_deadline_stay_with_their_host() {
    let Some(server) = emulator(SUITE) else { return };
    let config = config(&server.url());
    let (name, topic) = names();
    let first = open(config.clone());
    let subscription = until_ok("subscribing", || first.subscribe(&name, &topic)).await;
    // Several: what the service delivers again may come to either host, and the one that holds it takes no notice.
    let mut left: BTreeSet<String> = (0..12).map(|number| number.to_string()).collect();
    let messages = left.iter().map(|body| message(&topic, body.clone())).collect();
    assert!(first.publish(messages).await.iter().all(Result::is_ok));
    let mut held = Vec::new();
    while held.len() < left.len() {
        held.push(next(&*subscription).await);
    }
    let second = open(config.clone());
    let elsewhere = until_ok("subscribing", || second.subscribe(&name, &topic)).await;
    let at_ms = SystemClock.now_ms() + u64::from(config.ack_deadline_s) * 1_000 + 4_000;
    for delivery in held {
        subscription.settle(delivery.receipt, Settlement::RetryAt(at_ms)).await.unwrap();
    }
    while !left.is_empty() {
        let again = tokio::select! {
            again = next(&*subscription) => again,
            stolen = next(&*elsewhere) => panic!("another host has {}", body(&stolen)),
        };
        assert!(left.remove(&body(&again)), "{} came twice", body(&again));
        assert_eq!(again.attempt, 2);
        assert!(SystemClock.now_ms() >= at_ms, "it came before its time");
        done(&*subscription, again).await;
    }
    first.close().await;
    second.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_publish_waits_for_no_others() {
    let Some(server) = emulator(SUITE) else { return };
    let pubsub = open(config(&server.url()));
    let (name, topic) = names();
    until_ok("subscribing", || pubsub.subscribe(&name, &topic)).await;
    // With the vendor's own batching none is faster than 10 ms; a busy machine makes many slow, not all.
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut best = Duration::MAX;
    while best >= Duration::from_millis(10) {
        assert!(Instant::now() < deadline, "the best took {best:?}");
        let begun = Instant::now();
        pubsub.publish(vec![message(&topic, "alone")]).await.remove(0).unwrap();
        best = best.min(begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delay_that_the_service_would_not_outlive_is_refused() {
    let Some(server) = emulator(SUITE) else { return };
    let pubsub = open(config(&server.url()));
    let (name, topic) = names();
    until_ok("subscribing", || pubsub.subscribe(&name, &topic)).await;
    let mut late = message(&topic, "in eight days");
    late.not_before_ms = late.published_at_ms + 8 * 24 * 60 * 60 * 1000;
    let error = pubsub.publish(vec![late]).await.remove(0).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
}
