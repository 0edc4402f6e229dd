//! Redis that is not there, does not answer, is slow, goes away in the middle, or does not know the host.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use sandpost_ports::cache::{Cache, Condition};
use sandpost_ports::health::Health;
use sandpost_ports::{ErrorKind, PortError, Secret};
use sandpost_redis::{Config, RedisCache, open};
use sandpost_services::{Proxy, Server};
use std::sync::Arc;
use std::time::{Duration, Instant};

const TTL: Duration = Duration::from_mins(1);
const PATIENCE: Duration = Duration::from_secs(20);

fn behind(server: &Server, proxy: &Proxy, timeout_ms: u64) -> Arc<RedisCache> {
    let config = Config {
        url: Some(Secret::new(server.url_at(proxy.address()))),
        connect_timeout_ms: timeout_ms,
        response_timeout_ms: timeout_ms,
        ..Config::default()
    };
    open(&config).unwrap()
}

async fn write(cache: &RedisCache) -> Result<bool, PortError> {
    cache.set("faults", Bytes::from_static(b"v"), TTL, Condition::Always).await
}

/// It works again by itself.
async fn recovers(cache: &RedisCache) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = write(cache).await {
        assert!(Instant::now() < deadline, "it stays away: {error}");
        tokio::task::yield_now().await;
    }
    cache.check().await.unwrap();
}

/// Ends within the times of the configuration, three tries to connect among them.
async fn soon<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(5), call).await.expect("it ends in bounded time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_ends_in_its_error_and_passes() {
    let Some(server) = sandpost_services::redis() else { return };
    let proxy = Proxy::before(server.address());
    proxy.refuse();
    let cache = behind(&server, &proxy, 300);
    // Down from the start: opening was no error, calls are, and nothing was done.
    let error = soon(write(&cache)).await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Unavailable | ErrorKind::UnknownOutcome), "{error:?}");
    assert_eq!(soon(cache.check()).await.unwrap_err().kind, ErrorKind::Unavailable);
    proxy.pass();
    recovers(&cache).await;

    // No answer: a write may have been done, a read was not.
    proxy.hold_answers();
    assert_eq!(soon(write(&cache)).await.unwrap_err().kind, ErrorKind::UnknownOutcome);
    assert_eq!(soon(cache.exists("faults")).await.unwrap_err().kind, ErrorKind::Unavailable);
    proxy.pass();
    recovers(&cache).await;

    proxy.black_hole();
    assert!(soon(cache.exists("faults")).await.is_err());
    proxy.pass();
    recovers(&cache).await;

    // Reset in the middle, again and again: the connection is made anew by whoever comes next.
    for _ in 0..5 {
        proxy.cut();
        recovers(&cache).await;
    }

    // Slow, but in time: one that a busy machine does not use up.
    let patient = behind(&server, &proxy, 5_000);
    recovers(&patient).await;
    proxy.delay(Duration::from_millis(50));
    let written = tokio::time::timeout(PATIENCE, write(&patient)).await.expect("it ends in bounded time");
    assert!(written.unwrap());
    proxy.pass();
    sandpost_services::checked("cache faults", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_under_load_is_survived_and_what_was_written_is_there() {
    let Some(server) = sandpost_services::redis() else { return };
    if !server.can_restart() {
        sandpost_services::not_checked("cache restart", "the server was given, and is not the test's to restart");
        return;
    }
    let cache = open(&Config { url: Some(Secret::new(server.url())), ..Config::default() }).unwrap();
    let load = tokio::spawn({
        let cache = cache.clone();
        async move {
            let mut written = Vec::new();
            let deadline = Instant::now() + PATIENCE;
            let mut failed = 0;
            // Until it has seen the restart from both sides.
            for n in 0_u32.. {
                let key = format!("load:{n}");
                match cache.set(&key, Bytes::from(key.clone()), TTL, Condition::Always).await {
                    Ok(_) => written.push(key),
                    Err(_) => failed += 1,
                }
                let after = failed > 0 && written.len() > 200;
                if after && cache.check().await.is_ok() || Instant::now() > deadline {
                    break;
                }
            }
            (written, failed)
        }
    });
    let deadline = Instant::now() + PATIENCE;
    while !cache.exists("load:100").await.unwrap() {
        assert!(Instant::now() < deadline, "the load does not come along");
    }
    let server = tokio::task::spawn_blocking(move || {
        server.kill();
        server.start();
        server
    })
    .await
    .unwrap();
    let (written, failed) = load.await.unwrap();
    assert!(failed > 0, "the restart was not seen");
    recovers(&cache).await;
    for key in &written {
        assert!(cache.exists(key).await.unwrap(), "{key} was answered with Ok");
    }
    sandpost_services::checked("cache restart", &server);
}

#[tokio::test]
async fn a_wrong_password_is_said_without_it() {
    let Some(server) = sandpost_services::redis() else { return };
    let config = Config { url: Some(Secret::new(server.url_with_wrong_password())), ..Config::default() };
    let error = open(&config).unwrap().check().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("credentials"), "{error}");
    sandpost_services::checked("cache credentials", &server);
}
