//! What the tests of this driver share.

#![allow(dead_code, reason = "each test binary uses some of it")]

use sandpost_message::{Message, MessageId, SubscriptionName, Topic};
use sandpost_ports::broker::{Delivery, NotSetUp, Settlement, Subscription};
use sandpost_ports::clock::{Clock as _, SystemClock};
use sandpost_ports::{PortError, Secret};
use sandpost_pubsub::{Config, PubSub};
use sandpost_services::Server;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// How long something may take that is owed. The emulator goes on delivering to streams that were reset, and misses each of
/// those deliveries only when its ack deadline of 60 s is over, more than once in a row where it is unlucky.
pub(crate) const PATIENCE: Duration = Duration::from_secs(200);

/// How long a publish or a call may take in [`short`].
pub(crate) const SHORT_MS: u64 = 2_000;

/// An emulator of its own.
pub(crate) fn emulator(suite: &str) -> Option<Server> {
    sandpost_services::pubsub_emulator(suite)
}

/// With times that a test can wait for.
pub(crate) fn config(address: &str) -> Config {
    rustls::crypto::ring::default_provider().install_default().ok();
    Config {
        project: Some("tests".to_owned()),
        emulator_host: Some(Secret::new(address)),
        retry_min_s: 0,
        retry_max_s: 0,
        ack_deadline_s: 10,
        publish_timeout_ms: 10_000,
        call_timeout_ms: 10_000,
        probe_interval_ms: 500,
        ..Config::default()
    }
}

/// For a test of how long something takes at most.
pub(crate) fn short(address: &str) -> Config {
    Config { publish_timeout_ms: SHORT_MS, call_timeout_ms: SHORT_MS, ..config(address) }
}

pub(crate) fn open(config: Config) -> Arc<PubSub> {
    sandpost_pubsub::open(config, Arc::new(SystemClock)).expect("it opens, whether the service is there or not")
}

pub(crate) fn names() -> (SubscriptionName, Topic) {
    let id = MessageId::new();
    (format!("subscription-{id}").parse().unwrap(), format!("topic-{id}").parse().unwrap())
}

pub(crate) fn message(topic: &Topic, body: impl Into<String>) -> Message {
    Message::new(topic.clone(), body.into(), SystemClock.now_ms())
}

pub(crate) fn body(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.message.body).into_owned()
}

/// Whether a subscription is missing, and not the service.
pub(crate) fn is_not_set_up(error: &PortError) -> bool {
    error.source.as_ref().is_some_and(|source| source.is::<NotSetUp>())
}

pub(crate) async fn within<T>(what: &str, limit: Duration, future: impl Future<Output = T>) -> T {
    let Ok(value) = tokio::time::timeout(limit, future).await else { panic!("{what} did not come within {limit:?}") };
    value
}

/// Tries until it succeeds.
pub(crate) async fn until_ok<T, Call>(what: &str, mut call: impl FnMut() -> Call) -> T
where
    Call: Future<Output = Result<T, PortError>>,
{
    within(what, PATIENCE, async {
        loop {
            match call().await {
                Ok(value) => return value,
                Err(error) => {
                    eprintln!("{what}: {error}: {:?}", error.source);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    })
    .await
}

/// The next one; what the stream reports meanwhile is passed over, as dispatch does.
pub(crate) async fn next(subscription: &dyn Subscription) -> Delivery {
    until_ok("a delivery", || subscription.next(1, 60_000)).await.remove(0)
}

pub(crate) async fn done(subscription: &dyn Subscription, delivery: Delivery) {
    subscription.settle(delivery.receipt, Settlement::Done).await.expect("a lease that lasts is settled");
}
