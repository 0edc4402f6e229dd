//! Publishers' requests on a real server: the port's contract, two hosts, lost answers, and Redis away.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use sandpost_ports::contract::state::requests::{Forgets, check};
use sandpost_ports::state::{RecordedRequest, RequestClaim, Requests as _};
use sandpost_ports::{ErrorKind, Secret};
use sandpost_redis::{Config, RedisRequests, open};
use sandpost_services::{Proxy, Server};
use std::sync::Arc;
use std::time::{Duration, Instant};

const NOW_MS: u64 = 1_800_000_000_000;
const WINDOW_MS: u64 = 86_400_000;
const STALE_MS: u64 = 60_000;

fn host(url: &str) -> RedisRequests {
    host_with(url, 300)
}

fn host_with(url: &str, timeout_ms: u64) -> RedisRequests {
    let config = Config {
        url: Some(Secret::new(url)),
        connect_timeout_ms: timeout_ms,
        response_timeout_ms: timeout_ms,
        ..Config::default()
    };
    open(&config).unwrap().requests("requests:".to_owned())
}

async fn claim(host: &RedisRequests, key: &str, plan: &str, now_ms: u64) -> RequestClaim {
    host.claim_request(key, request(plan, now_ms), now_ms).await.unwrap()
}

fn request(plan: &str, now_ms: u64) -> RecordedRequest {
    RecordedRequest {
        fingerprint: vec![0, 255, 1],
        plan: plan.as_bytes().to_vec(),
        stale_at_ms: now_ms + STALE_MS,
        expires_at_ms: now_ms + WINDOW_MS,
    }
}

async fn ask<T: redis::FromRedisValue>(server: &Server, words: &[&str]) -> T {
    let client = redis::Client::open(server.url()).unwrap();
    let mut line = client.get_multiplexed_async_connection().await.unwrap();
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(&mut line).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract_alone() {
    let Some(server) = sandpost_services::redis() else { return };
    check(Arc::new(host(&server.url())), Forgets::ByItself).await;
    sandpost_services::checked("requests contract", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract_as_a_cluster() {
    let Some(server) = sandpost_services::redis_cluster() else { return };
    let config = Config { cluster_urls: vec![Secret::new(server.url())], ..Config::default() };
    check(Arc::new(open(&config).unwrap().requests("requests:".to_owned())), Forgets::ByItself).await;
    sandpost_services::checked("requests contract", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_share_a_window_and_neither_gives_up_what_the_other_holds() {
    let Some(server) = sandpost_services::redis() else { return };
    let (a, b) = (host(&server.url()), host(&server.url()));
    assert_eq!(claim(&a, "shared", "of a", NOW_MS).await, RequestClaim::Fresh);
    assert_eq!(claim(&b, "shared", "of b", NOW_MS).await, RequestClaim::InFlight);
    // Taken for dead, and taken over: then it is b's, and a, which failed late, must not give it up.
    let resumed = RequestClaim::Resumed { plan: b"of a".to_vec() };
    assert_eq!(claim(&b, "shared", "of b", NOW_MS + STALE_MS).await, resumed);
    a.abandon_request("shared").await.unwrap();
    assert_eq!(claim(&a, "shared", "again", NOW_MS + STALE_MS).await, RequestClaim::InFlight);
    // The first answer stays.
    b.answer_request("shared", b"first".to_vec()).await.unwrap();
    a.answer_request("shared", b"second".to_vec()).await.unwrap();
    b.abandon_request("shared").await.unwrap();
    assert_eq!(claim(&a, "shared", "", NOW_MS + WINDOW_MS).await, RequestClaim::Answered(b"first".to_vec()));

    // Redis removes it by itself, a minute after the last claim's window.
    let left_ms: u64 = ask(&server, &["PTTL", "requests:shared"]).await;
    assert!((WINDOW_MS..=WINDOW_MS + 60_000).contains(&left_ms), "{left_ms}");
    // What is no request stops nobody in silence.
    ask::<()>(&server, &["SET", "requests:spoilt", "nonsense"]).await;
    a.claim_request("spoilt", request("plan", NOW_MS), NOW_MS).await.unwrap_err();
    let long = "k".repeat(1025);
    let error = a.claim_request(&long, request("plan", NOW_MS), NOW_MS).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    sandpost_services::checked("requests of two hosts", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_answer_was_lost_is_not_taken_for_anothers() {
    let Some(server) = sandpost_services::redis() else { return };
    let proxy = Proxy::before(server.address());
    let host = host_with(&server.url_at(proxy.address()), 10_000);
    for round in 0..5 {
        let key = format!("lost-{round}");
        assert_eq!(claim(&host, &format!("warm-{round}"), "plan", NOW_MS).await, RequestClaim::Fresh);
        proxy.hold_answers();
        let claiming = host.claim_request(&key, request("plan", NOW_MS), NOW_MS);
        let cutting = async {
            let deadline = Instant::now() + Duration::from_secs(5);
            while !ask::<bool>(&server, &["EXISTS", &format!("requests:{key}")]).await {
                assert!(Instant::now() < deadline, "the claim does not arrive");
            }
            // It is claimed on the server; the answer goes down with its connection.
            proxy.cut();
            proxy.pass();
        };
        let (claimed, ()) = tokio::join!(claiming, cutting);
        assert_eq!(claimed.unwrap(), RequestClaim::Fresh, "the second try knows its own claim");
        assert_eq!(claim(&host, &key, "another", NOW_MS).await, RequestClaim::InFlight);
        // The same for one that was taken over.
        let now_ms = NOW_MS + STALE_MS;
        proxy.hold_answers();
        let claiming = host.claim_request(&key, request("mine", now_ms), now_ms);
        let cutting = async {
            let deadline = Instant::now() + Duration::from_secs(5);
            let stale = (now_ms + STALE_MS).to_string();
            while ask::<String>(&server, &["HGET", &format!("requests:{key}"), "stale_at_ms"]).await != stale {
                assert!(Instant::now() < deadline, "the claim does not arrive");
            }
            proxy.cut();
            proxy.pass();
        };
        let (claimed, ()) = tokio::join!(claiming, cutting);
        assert_eq!(claimed.unwrap(), RequestClaim::Resumed { plan: b"plan".to_vec() });
    }
    sandpost_services::checked("requests with lost answers", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_is_an_error_and_never_a_fresh_key() {
    let Some(server) = sandpost_services::redis() else { return };
    let proxy = Proxy::before(server.address());
    let host = host(&server.url_at(proxy.address()));
    assert_eq!(claim(&host, "away", "plan", NOW_MS).await, RequestClaim::Fresh);
    host.answer_request("away", b"done".to_vec()).await.unwrap();
    for fault in [Proxy::hold_answers, Proxy::black_hole, Proxy::refuse] {
        fault(&proxy);
        proxy.cut();
        let asked = host.claim_request("away", request("again", NOW_MS), NOW_MS);
        let kind = tokio::time::timeout(Duration::from_secs(10), asked).await.unwrap().unwrap_err().kind;
        assert!(matches!(kind, ErrorKind::Unavailable | ErrorKind::UnknownOutcome), "{kind}");
        proxy.pass();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match host.claim_request("away", request("again", NOW_MS), NOW_MS).await {
                Ok(claimed) => break assert_eq!(claimed, RequestClaim::Answered(b"done".to_vec())),
                Err(error) => assert!(Instant::now() < deadline, "it stays away: {error}"),
            }
        }
    }
    if server.can_restart() {
        server.kill();
        server.start();
        // The connection of before is lost; the second try makes another.
        let answered = RequestClaim::Answered(b"done".to_vec());
        assert_eq!(claim(&host, "away", "again", NOW_MS).await, answered, "a server that keeps what it took");
    }
    sandpost_services::checked("requests faults", &server);
}
