//! A cluster of several nodes: keys on all of them, and one that goes away.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use sandpost_ports::cache::{Cache as _, Condition};
use sandpost_ports::contract::cache;
use sandpost_ports::{ErrorKind, Secret};
use sandpost_redis::{Config, open};
use sandpost_services::Server;
use std::time::{Duration, Instant};

const TTL: Duration = Duration::from_mins(10);
/// Until the others have agreed that a master is gone, its replica stands in for it, and the client has seen that.
const FAILOVER_WITHIN: Duration = Duration::from_mins(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract_over_several_nodes_and_over_a_failover() {
    let Some(nodes) = sandpost_services::redis_cluster_of_four() else { return };
    // Neither the master that will go nor its replica: both are found through the others.
    let cluster_urls = nodes[1..3].iter().map(|node| Secret::new(node.url())).collect();
    let config = Config { cluster_urls, ..Config::default() };
    cache::check(open(&config).unwrap()).await;
    sandpost_services::checked("cache contract, several nodes", &nodes[0]);

    let cache = open(&config).unwrap();
    let keys: Vec<String> = (0..60).map(|number| format!("failover-{number}")).collect();
    for key in &keys {
        assert!(cache.set(key, Bytes::from(key.clone()), TTL, Condition::Always).await.unwrap());
    }
    until_replicated(&nodes[0]);
    nodes[0].kill();
    let end = Instant::now() + FAILOVER_WITHIN;
    for key in &keys {
        let found = loop {
            match cache.get_many(std::slice::from_ref(key)).await {
                Ok(mut found) => break found.remove(0),
                Err(error) => {
                    assert_eq!(error.kind, ErrorKind::Unavailable, "{error:?}");
                    assert!(Instant::now() < end, "`{key}` does not come back: {error:?}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        assert_eq!(found.as_deref(), Some(key.as_bytes()), "what was there before is there after");
    }
    for key in &keys {
        assert!(cache.set(key, Bytes::from_static(b"after"), TTL, Condition::IfPresent).await.unwrap());
    }
    sandpost_services::checked("cache, a master's failover", &nodes[1]);
}

/// A replica is told later than the client is: what a master acknowledged is lost with it until then.
fn until_replicated(master: &Server) {
    let mut connection = redis::Client::open(master.url()).unwrap().get_connection().unwrap();
    let end = Instant::now() + FAILOVER_WITHIN;
    loop {
        let state: String = redis::cmd("INFO").arg("replication").query(&mut connection).unwrap();
        let number = |after: &str| {
            let digits = state.split(after).nth(1)?.split(|letter: char| !letter.is_ascii_digit()).next()?;
            digits.parse::<u64>().ok()
        };
        if number(",offset=").zip(number("master_repl_offset:")).is_some_and(|(replica, own)| replica >= own) {
            return;
        }
        assert!(Instant::now() < end, "the replica does not follow: {state}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
