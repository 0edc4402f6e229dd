//! Redis against the cache contract, alone and as a cluster.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use sandpost_ports::Secret;
use sandpost_ports::contract::cache;
use sandpost_redis::{Config, open};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract_alone() {
    let Some(server) = sandpost_services::redis() else { return };
    let config = Config { url: Some(Secret::new(server.url())), ..Config::default() };
    cache::check(open(&config).unwrap()).await;
    sandpost_services::checked("cache contract", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract_as_a_cluster() {
    let Some(server) = sandpost_services::redis_cluster() else { return };
    let config = Config { cluster_urls: vec![Secret::new(server.url())], ..Config::default() };
    cache::check(open(&config).unwrap()).await;
    sandpost_services::checked("cache contract", &server);
}
