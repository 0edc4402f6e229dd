//! What happens to the driver when the server or the network goes wrong: each ends in the right error or goes on, in
//! bounded time, and nothing that was acknowledged is lost.
//!
//! Wrong passwords, full pools, retries and killed operations are in `protocol`, where the server says what it is told to.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::until;
use sandpost_mongo::{Config, MongoDocuments, open};
use sandpost_ports::documents::Documents as _;
use sandpost_ports::health::Health as _;
use sandpost_ports::{ErrorKind, Secret};
use sandpost_services::{Proxy, Server};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Longest that anything below may take: the sum of its own bounds and some air.
const BOUND: Duration = Duration::from_secs(12);

fn config(url: &str) -> Config {
    rustls::crypto::ring::default_provider().install_default().ok();
    Config {
        url: Some(Secret::new(url)),
        database: Some(format!("faults_{}", std::process::id())),
        server_selection_timeout_ms: Some(1_000),
        connect_timeout_ms: Some(1_000),
        socket_timeout_ms: Some(3_000),
        heartbeat_ms: 500,
        ..Config::default()
    }
}

fn behind_a_proxy(server: &Server) -> (Proxy, Arc<MongoDocuments>) {
    sandpost_services::checked("documents faults", server);
    let proxy = Proxy::before(server.address());
    let documents = open(&config(&server.url_at(proxy.address()))).unwrap();
    (proxy, documents)
}

async fn insert(documents: &MongoDocuments, id: &str) -> Result<(), ErrorKind> {
    documents.insert("faults", vec![json!({"_id": id})]).await.map(|_| ()).map_err(|error| error.kind)
}

async fn count(documents: &MongoDocuments, id: &str) -> Result<u64, ErrorKind> {
    documents.count("faults", json!({"_id": id})).await.map_err(|error| error.kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_unavailable_until_it_comes() {
    let Some(server) = sandpost_services::mongo() else { return };
    let (proxy, documents) = behind_a_proxy(&server);
    proxy.refuse();
    let started = Instant::now();
    assert_eq!(documents.check().await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(insert(&documents, "down").await, Err(ErrorKind::Unavailable));
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    proxy.pass();
    until("it is well again", async || documents.check().await.is_ok()).await;
    assert_eq!(count(&documents, "down").await, Ok(0), "nothing was done");
    insert(&documents, "up").await.unwrap();

    proxy.refuse();
    assert_ne!(insert(&documents, "gone").await, Ok(()));
    until("it is known to be away", async || count(&documents, "up").await == Err(ErrorKind::Unavailable)).await;
    proxy.pass();
    until("it is back", async || count(&documents, "up").await == Ok(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_in_the_middle_leaves_a_write_unknown_and_a_read_unavailable_or_done() {
    let Some(server) = sandpost_services::mongo() else { return };
    let (proxy, documents) = behind_a_proxy(&server);
    // Past the proxy, which holds its answers: sees when the request has gone through.
    let direct = open(&config(&server.url())).unwrap();
    insert(&documents, "before").await.unwrap();
    until("it is seen", async || count(&direct, "before").await == Ok(1)).await;
    proxy.hold_answers();
    let (outcome, ()) = tokio::join!(insert(&documents, "cut"), async {
        until("the request went through", async || count(&direct, "cut").await == Ok(1)).await;
        proxy.cut();
        proxy.pass();
    });
    // A server that is a replica set is asked again under the same number, and then it is known.
    assert!(matches!(outcome, Err(ErrorKind::UnknownOutcome) | Ok(())), "{outcome:?}");
    until("it goes on", async || count(&documents, "before").await == Ok(1)).await;
    assert_eq!(count(&documents, "cut").await, Ok(1), "the request went through; only the answer was lost");
    proxy.hold_answers();
    let (outcome, ()) = tokio::join!(count(&documents, "before"), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.cut();
        proxy.pass();
    });
    assert!(matches!(outcome, Err(ErrorKind::Unavailable) | Ok(1)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_bounded() {
    let Some(server) = sandpost_services::mongo() else { return };
    let (proxy, documents) = behind_a_proxy(&server);
    insert(&documents, "first").await.unwrap();
    proxy.hold_answers();
    let started = Instant::now();
    assert_eq!(insert(&documents, "unanswered").await, Err(ErrorKind::UnknownOutcome));
    assert_eq!(count(&documents, "first").await, Err(ErrorKind::Unavailable));
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    proxy.cut();
    proxy.pass();
    until("it goes on", async || count(&documents, "first").await == Ok(1)).await;

    // Where the connection itself gets no answer, nothing was sent.
    let (proxy, documents) = behind_a_proxy(&server);
    proxy.black_hole();
    let started = Instant::now();
    assert_eq!(insert(&documents, "lost").await, Err(ErrorKind::Unavailable));
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    proxy.cut();
    proxy.pass();
    until("it goes on", async || count(&documents, "lost").await == Ok(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_answer_is_waited_for() {
    let Some(server) = sandpost_services::mongo() else { return };
    let (proxy, documents) = behind_a_proxy(&server);
    documents.check().await.unwrap();
    proxy.delay(Duration::from_millis(150));
    let started = Instant::now();
    insert(&documents, "slow").await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(300));
    proxy.pass();
    proxy.trickle(64, Duration::from_millis(5));
    assert_eq!(count(&documents, "slow").await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_under_load_loses_nothing_that_was_acknowledged() {
    let Some(server) = sandpost_services::mongo() else { return };
    if !server.can_restart() {
        sandpost_services::not_checked("documents faults: restart under load", "the server belongs to somebody else");
        return;
    }
    let documents = open(&config(&server.url())).unwrap();
    documents.check().await.unwrap();
    let ends = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (documents, ends) = (Arc::clone(&documents), Arc::clone(&ends));
            tokio::spawn(async move {
                let (mut acknowledged, mut refused, mut unknown) = (Vec::new(), Vec::new(), 0);
                for number in 0.. {
                    let id = format!("{writer}-{number}");
                    match insert(&documents, &id).await {
                        Ok(()) => acknowledged.push(id),
                        Err(ErrorKind::Unavailable) => refused.push(id),
                        Err(ErrorKind::UnknownOutcome) => unknown += 1,
                        Err(other) => panic!("{other}"),
                    }
                    if ends.load(Ordering::Relaxed) && acknowledged.len() > 20 {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                (acknowledged, refused, unknown)
            })
        })
        .collect();
    until("work is done", async || documents.count("faults", json!({})).await.is_ok_and(|count| count > 50)).await;
    let server = tokio::task::spawn_blocking(move || {
        server.stop();
        server.start();
        server
    })
    .await
    .unwrap();
    until("it is well again", async || documents.check().await.is_ok()).await;
    ends.store(true, Ordering::Relaxed);
    let mut kept = HashSet::new();
    let options = sandpost_ports::documents::FindOptions::default();
    let mut results = Vec::new();
    for writer in writers {
        results.push(tokio::time::timeout(Duration::from_secs(30), writer).await.unwrap().unwrap());
    }
    let mut cursor = documents.find("faults", json!({}), options).await.unwrap();
    loop {
        let batch = cursor.next(1_000, 1 << 20).await.unwrap();
        if batch.is_empty() {
            break;
        }
        kept.extend(batch.into_iter().map(|document| document["_id"].as_str().unwrap().to_owned()));
    }
    let mut outcomes = (0, 0, 0);
    for (acknowledged, refused, unknown) in results {
        assert!(acknowledged.iter().all(|id| kept.contains(id)), "what was acknowledged is there");
        assert!(refused.iter().all(|id| !kept.contains(id)), "of what was unavailable nothing was done");
        outcomes = (outcomes.0 + acknowledged.len(), outcomes.1 + refused.len(), outcomes.2 + unknown);
    }
    assert!(outcomes.1 + outcomes.2 > 0, "the restart was noticed: {outcomes:?}");
    drop(server);
}
