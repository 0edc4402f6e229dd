//! The broker's and the state's contract, in a file and in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use sandpost_embedded_store::{Config, Store, open};
use sandpost_ports::clock::SystemClock;
use sandpost_ports::contract;
use std::sync::Arc;

async fn keeps_the_broker_contract(store: Store) {
    let clock = Arc::new(SystemClock);
    let setup = contract::broker::Setup { broker: Arc::new(store.clone()), clock, lease_ms: 250, patience_ms: 20_000 };
    contract::broker::check(&setup).await;
    store.close().await;
}

fn in_memory(config: &Config) -> Store {
    open(None, config, Arc::new(SystemClock)).unwrap()
}

fn in_a_file(folder: &tempfile::TempDir) -> Store {
    open(Some(&folder.path().join("store.db")), &Config::default(), Arc::new(SystemClock)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_keeps_the_broker_contract() {
    let folder = tempfile::tempdir().unwrap();
    keeps_the_broker_contract(in_a_file(&folder)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_the_broker_contract() {
    keeps_the_broker_contract(in_memory(&Config::default())).await;
}

/// One command a transaction, a short queue, and room for one body at a time: nothing depends on being batched. As many
/// wait on one line as the queue is long, so it is as long as the suite has consumers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_queue_keeps_the_broker_contract() {
    let config = Config { batch_max: 1, queue_max: 8, queue_max_bytes: 1, ..Config::default() };
    keeps_the_broker_contract(in_memory(&config)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_keeps_the_state_contract() {
    let folder = tempfile::tempdir().unwrap();
    let store = in_a_file(&folder);
    contract::state::check(Arc::new(store.clone())).await;
    // Again, over what the first time left.
    contract::state::check(Arc::new(store.clone())).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_the_state_contract() {
    contract::state::check(Arc::new(in_memory(&Config::default()))).await;
}
