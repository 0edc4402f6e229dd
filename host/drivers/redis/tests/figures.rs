//! What a real server counts.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use sandpost_ports::cache::{Cache as _, CacheServer as _, Condition};
use sandpost_ports::{ErrorKind, Secret};
use sandpost_redis::{Config, open};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_figures_are_the_servers_own() {
    let Some(server) = sandpost_services::redis() else { return };
    let cache = open(&Config { url: Some(Secret::new(server.url())), ..Config::default() }).unwrap();
    let before = cache.figures().await.unwrap();
    let number = |figures: &std::collections::BTreeMap<String, String>, name: &str| -> u64 {
        figures[name].parse().unwrap_or_else(|_| panic!("{name} is {:?}", figures[name]))
    };
    let key = "figures".to_owned();
    cache.set(&key, Bytes::from_static(b"v"), Duration::from_mins(1), Condition::Always).await.unwrap();
    cache.get_many(&[key, "figures of nothing".to_owned()]).await.unwrap();
    let after = cache.figures().await.unwrap();
    for (name, more) in [("keyspace_hits", 1), ("keyspace_misses", 1), ("total_commands_processed", 5)] {
        let grown = number(&after.stats, name) - number(&before.stats, name);
        assert!(grown >= more, "{name} grew by {grown}");
    }
    assert!(number(&after.memory, "used_memory") > 0);
    assert!(number(&after.clients, "connected_clients") >= 1);
    assert!(!after.stats.contains_key("used_memory") && !after.memory.contains_key("keyspace_hits"));
    let all = format!("{after:?}");
    assert!(!all.contains("127.0.0.1") && !all.contains("figures"), "{all}");
    if server.can_restart() {
        server.stop();
        assert_eq!(cache.figures().await.unwrap_err().kind, ErrorKind::Unavailable);
        server.start();
        // A call may still get the error of a reconnect that was given up meanwhile.
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(error) = cache.figures().await {
            assert!(Instant::now() < deadline, "it stays away: {error}");
            tokio::task::yield_now().await;
        }
    }
    sandpost_services::checked("cache figures", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_has_none_as_a_whole() {
    let Some(server) = sandpost_services::redis_cluster() else { return };
    let cache = open(&Config { cluster_urls: vec![Secret::new(server.url())], ..Config::default() }).unwrap();
    let error = cache.figures().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    sandpost_services::checked("cache figures", &server);
}
