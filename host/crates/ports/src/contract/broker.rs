//! What every broker keeps: run by each driver's tests against a real instance.
//!
//! Each check makes topics and subscriptions of its own, under random names, so the suite runs on a broker in use. It
//! waits by the clock of [`Setup`], which must run: most checks end when the broker does what it owes, and have
//! [`Setup::patience_ms`] until they fail; only the proofs that something does *not* happen take their full time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a contract suite is a test, and a test fails by panicking"
)]

mod delivery;
mod load;
mod ordering;
mod publishing;

use super::random_name;
use crate::broker::{Broker, Delivery, Published, Settlement, Subscription};
use crate::clock::Clock;
use sandpost_message::{Message, SubscriptionName, TimestampMs, Topic};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// What the suite runs against.
#[derive(Clone)]
pub struct Setup {
    /// The broker.
    pub broker: Arc<dyn Broker>,
    /// The broker's clock, or one that runs with it.
    pub clock: Arc<dyn Clock>,
    /// The shortest lease that the broker keeps, and by how much its times may be late.
    pub lease_ms: u64,
    /// How long something may take that is owed at once.
    pub patience_ms: u64,
}

type Check<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Runs all checks, side by side.
pub async fn check(setup: &Setup) {
    setup.broker.check().await.expect("a broker that is there is healthy");
    let mut checks: Vec<Check<'_>> = vec![
        Box::pin(delivery::is_delivered_once_and_then_forgotten(setup)),
        Box::pin(delivery::comes_again_when_its_lease_ends(setup)),
        Box::pin(delivery::comes_again_when_a_retry_is_due(setup)),
        Box::pin(delivery::a_hand_back_does_not_count(setup)),
        Box::pin(delivery::an_extended_lease_holds(setup)),
        Box::pin(delivery::no_more_than_asked_for_are_leased(setup)),
        Box::pin(delivery::a_dropped_next_leaves_nothing_leased(setup)),
        Box::pin(delivery::a_waiting_next_wakes_for_a_publish(setup)),
        Box::pin(delivery::a_strange_receipt_settles_nothing(setup)),
        Box::pin(ordering::one_of_a_key_is_out_at_a_time_in_publish_order(setup)),
        Box::pin(ordering::a_back_off_holds_its_key_and_no_other(setup)),
        Box::pin(ordering::a_lost_lease_holds_its_key(setup)),
        Box::pin(ordering::a_freed_key_wakes_a_waiting_next(setup)),
        Box::pin(publishing::each_subscription_gets_its_own(setup)),
        Box::pin(publishing::a_later_subscription_starts_empty(setup)),
        Box::pin(publishing::only_goes_to_one(setup)),
        Box::pin(publishing::a_replay_is_delivered_afresh(setup)),
        Box::pin(publishing::a_topic_without_subscriptions_is_refused(setup)),
        Box::pin(publishing::a_name_is_bound_to_one_topic(setup)),
        Box::pin(publishing::a_known_dedupe_key_stores_nothing(setup)),
        Box::pin(publishing::nothing_comes_before_its_time(setup)),
        Box::pin(publishing::a_message_arrives_as_it_was_published(setup)),
        Box::pin(publishing::a_backlog_is_counted(setup)),
        Box::pin(load::every_message_is_acknowledged_exactly_once(setup)),
    ];
    // All on this task: a check that fails ends the run with its own line.
    std::future::poll_fn(|context| {
        checks.retain_mut(|check| check.as_mut().poll(context).is_pending());
        if checks.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    setup.broker.check().await.expect("a broker whose subscriptions are all set up is healthy");
}

/// A topic with one subscription, both new.
struct Line {
    setup: Setup,
    topic: Topic,
    name: SubscriptionName,
    subscription: Arc<dyn Subscription>,
}

impl Line {
    async fn new(setup: &Setup) -> Self {
        Self::on(setup, random_name("topic").parse().unwrap()).await
    }

    async fn on(setup: &Setup, topic: Topic) -> Self {
        let name: SubscriptionName = random_name("subscription").parse().unwrap();
        let subscription = setup.broker.subscribe(&name, &topic).await.expect("a new subscription is made");
        Self { setup: setup.clone(), topic, name, subscription }
    }

    fn message(&self, body: &str) -> Message {
        Message::new(self.topic.clone(), body.to_owned(), self.now_ms())
    }

    fn keyed(&self, key: &str, body: &str) -> Message {
        Message { ordering_key: Some(key.to_owned()), ..self.message(body) }
    }

    async fn publish(&self, message: Message) -> Published {
        let mut answers = self.setup.broker.publish(vec![message]).await;
        assert_eq!(answers.len(), 1, "one answer a message");
        answers.remove(0).expect("a topic with a subscription takes messages")
    }

    /// Publishes them one after the other, so that their order is known on every broker.
    async fn publish_all(&self, messages: Vec<Message>) {
        for message in messages {
            self.publish(message).await;
        }
    }

    /// The next ones, within the patience. Leased for longer than any check takes.
    async fn next(&self, max: usize) -> Vec<Delivery> {
        self.next_for(max, self.long_ms()).await
    }

    async fn next_for(&self, max: usize, lease_ms: u64) -> Vec<Delivery> {
        let deliveries = self.within("a delivery", self.subscription.next(max, lease_ms)).await.expect("next answers");
        assert!((1..=max).contains(&deliveries.len()), "asked for up to {max}, got {}", deliveries.len());
        deliveries
    }

    async fn next_one(&self) -> Delivery {
        self.next(1).await.remove(0)
    }

    /// Takes until there are so many.
    async fn collect(&self, count: usize) -> Vec<Delivery> {
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(self.next(count - all.len()).await);
        }
        all
    }

    async fn settle(&self, delivery: Delivery, settlement: Settlement) {
        self.subscription.settle(delivery.receipt, settlement).await.expect("a lease that lasts is settled");
    }

    async fn done(&self, delivery: Delivery) {
        self.settle(delivery, Settlement::Done).await;
    }

    /// Fails where something is delivered within the time of a lease.
    async fn stays_quiet(&self, why: &str) {
        self.stays_quiet_for(self.setup.lease_ms, why).await;
    }

    async fn stays_quiet_for(&self, time_ms: u64, why: &str) {
        let until_ms = self.now_ms() + time_ms;
        tokio::select! {
            next = self.subscription.next(1, self.long_ms()) => {
                let delivery = next.expect("next answers").remove(0);
                panic!("{why}, but {:?} came, attempt {}", delivery.message.body, delivery.attempt);
            }
            () = self.setup.clock.sleep_until(until_ms) => {}
        }
    }

    async fn within<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        let until_ms = self.now_ms() + self.setup.patience_ms;
        tokio::select! {
            value = future => value,
            () = self.setup.clock.sleep_until(until_ms) => panic!("{what} did not come within the patience"),
        }
    }

    fn now_ms(&self) -> TimestampMs {
        self.setup.clock.now_ms()
    }

    fn long_ms(&self) -> u64 {
        2 * self.setup.patience_ms + 10 * self.setup.lease_ms
    }
}

/// What was delivered, as text, in order.
fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|delivery| String::from_utf8_lossy(&delivery.message.body).into_owned()).collect()
}
