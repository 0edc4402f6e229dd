//! Many at once.

use super::{Line, Setup, bodies};
use crate::broker::Settlement;
use sandpost_message::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const PUBLISHERS: usize = 8;
const BATCHES: usize = 10;
const BATCH: usize = 10;
const CONSUMERS: usize = 6;
const KEYS: usize = 5;
const ALL: usize = PUBLISHERS * BATCHES * BATCH;

pub(super) async fn every_message_is_acknowledged_exactly_once(setup: &Setup) {
    let line = Arc::new(Line::new(setup).await);
    let left = Arc::new(AtomicUsize::new(ALL));
    let consumers: Vec<_> =
        (0..CONSUMERS).map(|number| tokio::spawn(consume(Arc::clone(&line), Arc::clone(&left), number))).collect();
    let publishers: Vec<_> = (0..PUBLISHERS).map(|number| tokio::spawn(publish(Arc::clone(&line), number))).collect();
    for publisher in publishers {
        publisher.await.expect("publishers do not fail");
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for consumer in consumers {
        for body in consumer.await.expect("consumers do not fail") {
            *seen.entry(body).or_default() += 1;
        }
    }
    assert_eq!(seen.len(), ALL, "every message was acknowledged");
    assert!(seen.values().all(|times| *times == 1), "and none of them twice");
    line.stays_quiet("nothing is left").await;
}

async fn publish(line: Arc<Line>, number: usize) {
    for batch in 0..BATCHES {
        let messages: Vec<Message> = (0..BATCH)
            .map(|place| {
                let body = format!("{number}-{batch}-{place}");
                // Half of them share a few keys, over all publishers.
                if place % 2 == 0 { line.keyed(&(place % KEYS).to_string(), &body) } else { line.message(&body) }
            })
            .collect();
        for answer in line.setup.broker.publish(messages).await {
            assert!(!answer.expect("the broker takes it").duplicate);
        }
    }
}

async fn consume(line: Arc<Line>, left: Arc<AtomicUsize>, number: usize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    while left.load(Ordering::SeqCst) > 0 {
        // The last ones are with somebody else: looks again, so that nobody waits for ever.
        let until_ms = line.now_ms() + 50;
        let deliveries = tokio::select! {
            next = line.subscription.next(1 + number, line.long_ms()) => next.expect("next answers"),
            () = line.setup.clock.sleep_until(until_ms) => continue,
        };
        for (body, delivery) in bodies(&deliveries).into_iter().zip(deliveries) {
            assert_eq!(delivery.attempt, 1, "no lease has ended");
            line.subscription.settle(delivery.receipt, Settlement::Done).await.expect("the lease lasts");
            left.fetch_sub(1, Ordering::SeqCst);
            acknowledged.push(body);
        }
    }
    acknowledged
}
