//! What a message's way over Pub/Sub takes, one at a time: from before its publish until it is there, by the client library alone
//! and by this driver. The first is the floor: what the service, or its emulator, and the library need.
//!
//! `cargo run --release -p sandpost-pubsub --example hop`, with `PUBSUB_EMULATOR_HOST` for an emulator that is there, else with
//! one of this machine. Not here: a benchmark with machines and other floors, which is `cargo xtask bench`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a program to be looked at")]

use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::{BasePublisher, Subscriber, SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::model::Message as Carried;
use sandpost_message::{Message, Topic};
use sandpost_ports::Secret;
use sandpost_ports::broker::{Broker as _, Settlement};
use sandpost_ports::clock::{Clock as _, SystemClock};
use sandpost_pubsub::{Config, open};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MESSAGES: usize = 300;
/// Not measured: connections are made, and a Java program gets warm.
const WARM_UP: usize = 100;
/// Between two, so that none waits behind another.
const PAUSE: Duration = Duration::from_millis(5);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let Some(server) = sandpost_services::pubsub() else {
        println!("There is no emulator; see docs/services/pubsub.md.");
        return;
    };
    rustls::crypto::ring::default_provider().install_default().ok();
    println!("{} {}, {MESSAGES} messages each, one at a time", server.kind(), server.version());
    let config =
        Config { project: Some("hop".to_owned()), emulator_host: Some(Secret::new(server.url())), ..Config::default() };
    let pubsub = open(config, Arc::new(SystemClock)).unwrap();
    let endpoint = format!("http://{}", server.url());
    let credentials = anonymous::Builder::new().build();
    let (topic, subscription) = ("projects/hop/topics/floor", "projects/hop/subscriptions/floor");
    let topics = TopicAdmin::builder().with_credentials(credentials.clone()).with_endpoint(&endpoint);
    topics.build().await.unwrap().create_topic().set_name(topic).send().await.unwrap();
    let subscriptions = SubscriptionAdmin::builder().with_credentials(credentials.clone()).with_endpoint(&endpoint);
    let creation = subscriptions.build().await.unwrap().create_subscription();
    creation.set_name(subscription).set_topic(topic).send().await.unwrap();
    let publisher = BasePublisher::builder().with_credentials(credentials.clone()).with_endpoint(&endpoint);
    let publisher = publisher.build().await.unwrap();
    let publisher = publisher.publisher(topic);
    let publisher = publisher.set_delay_threshold(Duration::ZERO).build();
    let subscriber =
        Subscriber::builder().with_credentials(credentials).with_endpoint(&endpoint).build().await.unwrap();
    let mut stream = subscriber.subscribe(subscription).build();
    let (mut published, mut arrived) = (Vec::new(), Vec::new());
    for _ in 0..WARM_UP + MESSAGES {
        let begun = Instant::now();
        publisher.publish(Carried::new().set_data("hop")).await.unwrap();
        published.push(begun.elapsed());
        let (_message, handler) = stream.next().await.unwrap().unwrap();
        arrived.push(begun.elapsed());
        handler.ack();
        tokio::time::sleep(PAUSE).await;
    }
    row("client library: published", &published);
    row("client library: there", &arrived);

    let topic: Topic = "ours".parse().unwrap();
    let subscription = pubsub.subscribe(&"ours".parse().unwrap(), &topic).await.unwrap();
    let (mut published, mut arrived) = (Vec::new(), Vec::new());
    for _ in 0..WARM_UP + MESSAGES {
        let begun = Instant::now();
        let message = Message::new(topic.clone(), "hop", SystemClock.now_ms());
        pubsub.publish(vec![message]).await.remove(0).unwrap();
        published.push(begun.elapsed());
        let delivery = subscription.next(1, 60_000).await.unwrap().remove(0);
        arrived.push(begun.elapsed());
        subscription.settle(delivery.receipt, Settlement::Done).await.unwrap();
        tokio::time::sleep(PAUSE).await;
    }
    row("this driver: published", &published);
    row("this driver: there", &arrived);
}

fn row(what: &str, took: &[Duration]) {
    let mut took = took[WARM_UP..].to_vec();
    took.sort_unstable();
    let at = |share: usize| took[took.len() * share / 100].as_secs_f64() * 1e3;
    println!("  {what:<30} p50 {:>7.2} ms, p99 {:>7.2} ms", at(50), at(99));
}
