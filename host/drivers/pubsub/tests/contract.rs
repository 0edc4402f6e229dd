//! Google Pub/Sub against the broker's contract, on the emulator.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod common;

use sandpost_ports::clock::SystemClock;
use sandpost_ports::contract::broker;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_contract() {
    let Some(server) = common::emulator("broker contract, Pub/Sub") else { return };
    let pubsub = common::open(common::config(&server.url()));
    let clock = Arc::new(SystemClock);
    broker::check(&broker::Setup { broker: pubsub.clone(), clock, lease_ms: 250, patience_ms: 20_000 }).await;
    pubsub.close().await;
    sandpost_services::checked("broker contract, Pub/Sub", &server);
}
