//! Encrypted connections, and whom they trust.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use sandpost_ports::cache::{Cache as _, Condition};
use sandpost_ports::contract::cache;
use sandpost_ports::{ErrorKind, Secret};
use sandpost_redis::{Config, open};
use sandpost_services::Server;
use std::time::Duration;

fn config(server: &Server, host: &str, trusted: bool) -> Config {
    // As the program does. Another test may have been first.
    rustls::crypto::ring::default_provider().install_default().ok();
    Config {
        url: Some(Secret::new(server.url().replace("localhost", host))),
        tls_ca_file: server.authority().filter(|_| trusted).map(Into::into),
        connect_timeout_ms: 1_000,
        ..Config::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract_encrypted() {
    let Some(server) = sandpost_services::redis_with_tls() else { return };
    cache::check(open(&config(&server, "localhost", true)).unwrap()).await;
    sandpost_services::checked("cache contract, encrypted", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_nobody_vouches_for_is_not_used() {
    let Some(server) = sandpost_services::redis_with_tls() else { return };
    for (host, trusted) in [("localhost", false), ("127.0.0.1", true)] {
        let cache = open(&config(&server, host, trusted)).unwrap();
        // A write too: it was not sent, so its outcome is known.
        let read = cache.get_many(&["key".to_owned()]).await.unwrap_err();
        let write = cache.set("key", Bytes::new(), Duration::from_mins(1), Condition::Always).await.unwrap_err();
        for error in [read, write] {
            assert_eq!(error.kind, ErrorKind::Unavailable, "{host}, authority known: {trusted}: {error:?}");
            assert!(error.message.contains("certificate"), "{error:?}");
        }
    }
}
