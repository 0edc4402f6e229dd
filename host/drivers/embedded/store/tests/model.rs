//! The way of deliveries, against a model that fits on a page: any sequence of publishes, leases, settlements, waits and
//! restarts leaves the store where it leaves the model.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use sandpost_embedded_store::{Config, Store, open};
use sandpost_message::{Message, SubscriptionName, Topic};
use sandpost_ports::ErrorKind;
use sandpost_ports::broker::{Backlog, Broker, Receipt, Settlement, Subscription};
use sandpost_ports::clock::{Clock, ManualClock};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;

#[derive(Debug, Clone)]
enum Op {
    Publish { key: Option<u8>, delay_ms: u64, count: usize },
    Next { max: usize, lease_ms: u64 },
    DroppedNext { wait_us: u64, wait_ms: u64 },
    Settle { which: prop::sample::Index, how: How },
    Extend { which: prop::sample::Index, lease_ms: u64 },
    Wait { ms: u64 },
    Reopen,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Done,
    RetryIn(u64),
    HandBackIn(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let delay = || prop_oneof![2 => Just(0), 1 => 1..200_u64];
    let how = prop_oneof![
        4 => Just(How::Done),
        1 => delay().prop_map(How::RetryIn),
        1 => delay().prop_map(How::HandBackIn),
    ];
    let op = prop_oneof![
        6 => (prop::option::weighted(0.4, 0..3_u8), delay(), 1..5_usize)
            .prop_map(|(key, delay_ms, count)| Op::Publish { key, delay_ms, count }),
        5 => (1..4_usize, 50..300_u64).prop_map(|(max, lease_ms)| Op::Next { max, lease_ms }),
        1 => (0..3_000_u64, prop_oneof![Just(0), 1..150_u64])
            .prop_map(|(wait_us, wait_ms)| Op::DroppedNext { wait_us, wait_ms }),
        5 => (any::<prop::sample::Index>(), how).prop_map(|(which, how)| Op::Settle { which, how }),
        1 => (any::<prop::sample::Index>(), 1..300_u64).prop_map(|(which, lease_ms)| Op::Extend { which, lease_ms }),
        3 => (1..150_u64).prop_map(|ms| Op::Wait { ms }),
        1 => Just(Op::Reopen),
    ];
    prop::collection::vec(op, 1..80)
}

/// One unsettled message.
#[derive(Debug)]
struct Row {
    body: String,
    key: Option<u8>,
    published_at_ms: u64,
    not_before_ms: u64,
    /// None while it is behind another of its key.
    visible_at_ms: Option<u64>,
    lease: Option<usize>,
    attempt: u32,
}

/// All of them, in publish order.
#[derive(Debug, Default)]
struct Model {
    rows: Vec<Row>,
    leases: usize,
}

impl Model {
    fn publish(&mut self, body: String, key: Option<u8>, now_ms: u64, not_before_ms: u64) {
        let behind = key.is_some() && self.rows.iter().any(|row| row.key == key);
        let visible_at_ms = (!behind).then(|| not_before_ms.max(now_ms));
        let row = Row { body, key, published_at_ms: now_ms, not_before_ms, visible_at_ms, lease: None, attempt: 0 };
        self.rows.push(row);
    }

    /// What is due, the longest due first; each with its new lease.
    fn lease(&mut self, max: usize, now_ms: u64, lease_ms: u64) -> Vec<(String, u32, usize)> {
        let visible = |row: &Row| row.visible_at_ms.filter(|visible_at_ms| *visible_at_ms <= now_ms);
        let mut due: Vec<_> = (0..self.rows.len()).filter(|place| visible(&self.rows[*place]).is_some()).collect();
        due.sort_by_key(|place| (self.rows[*place].visible_at_ms, *place));
        due.truncate(max);
        due.into_iter()
            .map(|place| {
                self.leases += 1;
                let row = &mut self.rows[place];
                (row.visible_at_ms, row.lease) = (Some(now_ms + lease_ms), Some(self.leases));
                row.attempt += 1;
                (row.body.clone(), row.attempt, self.leases)
            })
            .collect()
    }

    fn leased(&self, lease: usize, now_ms: u64) -> Option<usize> {
        let lasts = |row: &Row| row.lease == Some(lease) && row.visible_at_ms > Some(now_ms);
        self.rows.iter().position(lasts)
    }

    fn settle(&mut self, lease: usize, how: How, now_ms: u64) -> bool {
        let Some(place) = self.leased(lease, now_ms) else { return false };
        let row = &mut self.rows[place];
        row.lease = None;
        match how {
            How::RetryIn(ms) => row.visible_at_ms = Some(now_ms + ms),
            How::HandBackIn(ms) => {
                row.visible_at_ms = Some(now_ms + ms);
                row.attempt -= 1;
            }
            How::Done => {
                let key = self.rows.remove(place).key;
                if let Some(next) = self.rows.iter_mut().find(|row| key.is_some() && row.key == key) {
                    next.visible_at_ms = Some(next.not_before_ms.max(next.published_at_ms.min(now_ms)));
                }
            }
        }
        true
    }

    fn reopen(&mut self, now_ms: u64) {
        for row in self.rows.iter_mut().filter(|row| row.lease.is_some()) {
            row.lease = None;
            row.visible_at_ms = row.visible_at_ms.map(|visible_at_ms| visible_at_ms.min(now_ms));
        }
    }

    fn backlog(&self, now_ms: u64) -> Backlog {
        let mut backlog =
            Backlog { oldest_published_at_ms: self.rows.first().map(|row| row.published_at_ms), ..Backlog::default() };
        for row in &self.rows {
            match row.visible_at_ms {
                Some(visible_at_ms) if visible_at_ms <= now_ms => backlog.ready += 1,
                Some(_) if row.lease.is_some() => backlog.in_flight += 1,
                _ => backlog.held += 1,
            }
        }
        backlog
    }
}

struct Real {
    path: PathBuf,
    clock: ManualClock,
    store: Store,
    subscription: Arc<dyn Subscription>,
}

fn topic() -> Topic {
    "orders".parse().unwrap()
}

fn name() -> SubscriptionName {
    "orders-handler".parse().unwrap()
}

impl Real {
    async fn open(path: PathBuf, clock: ManualClock) -> Self {
        let store = open(Some(&path), &Config::default(), Arc::new(clock.clone())).unwrap();
        let subscription = store.subscribe(&name(), &topic()).await.unwrap();
        Self { path, clock, store, subscription }
    }

    async fn reopen(self) -> Self {
        self.store.close().await;
        Self::open(self.path, self.clock).await
    }
}

async fn run(ops: Vec<Op>) {
    let folder = tempfile::tempdir().unwrap();
    let mut real = Real::open(folder.path().join("store.db"), ManualClock::at(1_000_000)).await;
    let mut model = Model::default();
    let mut receipts: Vec<(usize, Receipt)> = Vec::new();
    for (number, op) in ops.into_iter().enumerate() {
        let now_ms = real.clock.now_ms();
        match op {
            Op::Publish { key, delay_ms, count } => {
                let not_before_ms = if delay_ms == 0 { 0 } else { now_ms + delay_ms };
                let mut messages = Vec::new();
                for place in 0..count {
                    let body = format!("{number}.{place}");
                    let ordering_key = key.map(|key| key.to_string());
                    messages.push(Message {
                        ordering_key,
                        not_before_ms,
                        ..Message::new(topic(), body.clone(), now_ms)
                    });
                    model.publish(body, key, now_ms, not_before_ms);
                }
                for published in real.store.publish(messages).await {
                    published.unwrap();
                }
            }
            Op::Next { max, lease_ms } => {
                let expected = model.lease(max, now_ms, lease_ms);
                // With nothing due it would wait; that nothing is due the backlog below agrees on.
                if !expected.is_empty() {
                    let deliveries = real.subscription.next(max, lease_ms).await.unwrap();
                    let got: Vec<_> = deliveries.iter().map(|d| (&d.message.body[..], d.attempt)).collect();
                    let wanted: Vec<_> =
                        expected.iter().map(|(body, attempt, _)| (body.as_bytes(), *attempt)).collect();
                    assert_eq!(got, wanted);
                    let leases = expected.into_iter().map(|(_, _, lease)| lease);
                    receipts.extend(leases.zip(deliveries.into_iter().map(|delivery| delivery.receipt)));
                }
            }
            Op::DroppedNext { wait_us, wait_ms } => {
                let mut next = real.subscription.next(3, 100);
                // Polled once, so that it asks; then given time in which the answer arrives, or not; never read.
                let asked = std::future::poll_fn(|context| Poll::Ready(next.as_mut().poll(context))).await;
                if let Poll::Ready(taken) = asked {
                    // On a full machine the answer was there at once, and so it is taken.
                    let leases = model.lease(3, now_ms, 100).into_iter().map(|(_, _, lease)| lease);
                    receipts.extend(leases.zip(taken.unwrap().into_iter().map(|delivery| delivery.receipt)));
                    continue;
                }
                std::thread::sleep(std::time::Duration::from_micros(wait_us));
                real.clock.advance(wait_ms);
                drop(next);
            }
            Op::Settle { which, how } => {
                if receipts.is_empty() {
                    continue;
                }
                let (lease, receipt) = receipts.swap_remove(which.index(receipts.len()));
                let settlement = match how {
                    How::Done => Settlement::Done,
                    How::RetryIn(ms) => Settlement::RetryAt(now_ms + ms),
                    How::HandBackIn(ms) => Settlement::HandBack(now_ms + ms),
                };
                let settled = real.subscription.settle(receipt, settlement).await;
                assert_eq!(settled.as_ref().err().map(|error| error.kind), conflict(!model.settle(lease, how, now_ms)));
            }
            Op::Extend { which, lease_ms } => {
                if receipts.is_empty() {
                    continue;
                }
                let (lease, receipt) = &receipts[which.index(receipts.len())];
                let extended = real.subscription.extend(receipt, lease_ms).await;
                let place = model.leased(*lease, now_ms);
                assert_eq!(extended.as_ref().err().map(|error| error.kind), conflict(place.is_none()));
                if let Some(place) = place {
                    model.rows[place].visible_at_ms = Some(now_ms + lease_ms);
                }
            }
            Op::Wait { ms } => real.clock.advance(ms),
            Op::Reopen => {
                real = real.reopen().await;
                model.reopen(now_ms);
            }
        }
        let backlog = real.store.backlog(&name()).await.unwrap();
        assert_eq!(backlog, model.backlog(real.clock.now_ms()), "after step {number}");
    }
    real.store.close().await;
}

fn conflict(is_one: bool) -> Option<ErrorKind> {
    is_one.then_some(ErrorKind::Conflict)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_store_goes_where_the_model_goes(ops in ops()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(ops));
    }
}
