//! The bucket on a real server: shared by hosts, by the server's clock, gone by itself, with Redis away.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use sandpost_ports::{ErrorKind, Secret};
use sandpost_redis::{Bucket, Config, Turn, open};
use sandpost_services::{Proxy, Server};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_mins(1);

/// One host's connection to the bucket of this name.
fn host(server: &Server, name: &str) -> Bucket {
    let config = Config { url: Some(Secret::new(server.url())), ..Config::default() };
    open(&config).unwrap().bucket(format!("bucket:{name}"))
}

/// It works, again or at last.
async fn comes(bucket: &Bucket) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = bucket.take(1, 1_000.0, LONG).await {
        assert!(Instant::now() < deadline, "it stays away: {error}");
        tokio::task::yield_now().await;
    }
}

/// Whether a turn comes after this many milliseconds, less what went by since the turn before it was taken.
fn is_after(turn: Turn, ms: u64, since: Instant) -> bool {
    let (latest, gone) = (Duration::from_millis(ms), since.elapsed());
    matches!(turn, Turn::After(wait) if wait <= latest && wait + gone >= latest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_take_turns_out_of_one_bucket() {
    let Some(server) = sandpost_services::redis() else { return };
    let (a, b) = (host(&server, "turns"), host(&server, "turns"));
    let since = Instant::now();
    assert_eq!(a.take(1, 10.0, LONG).await.unwrap(), Turn::After(Duration::ZERO));
    assert!(is_after(b.take(1, 10.0, LONG).await.unwrap(), 100, since));
    assert!(is_after(a.take(50, 10.0, LONG).await.unwrap(), 200, since));
    assert!(is_after(b.take(1, 10.0, LONG).await.unwrap(), 5_200, since));
    // Who would wait too long takes nothing.
    let short = Duration::from_millis(100);
    for bucket in [&a, &b, &a] {
        match bucket.take(1, 10.0, short).await.unwrap() {
            Turn::NotBefore(wait) => assert!(wait <= Duration::from_millis(5_300) && wait > short, "{wait:?}"),
            other @ Turn::After(_) => panic!("{other:?}"),
        }
    }
    assert!(is_after(a.take(1, 10.0, LONG).await.unwrap(), 5_300, since));
    // What was waited out is free, and not sooner.
    let (waiting, since) = (host(&server, "waiting"), Instant::now());
    waiting.take(1, 5.0, LONG).await.unwrap();
    let deadline = since + Duration::from_secs(20);
    while let Turn::NotBefore(wait) = waiting.take(1, 5.0, Duration::ZERO).await.unwrap() {
        assert!(wait <= Duration::from_millis(200) && Instant::now() < deadline, "{wait:?}");
    }
    assert!(since.elapsed() >= Duration::from_millis(200), "{:?}", since.elapsed());
    // Another name is another line.
    assert_eq!(host(&server, "others").take(1, 10.0, LONG).await.unwrap(), Turn::After(Duration::ZERO));
    assert_eq!(a.take(1, 0.0, LONG).await.unwrap_err().kind, ErrorKind::Invalid);
    sandpost_services::checked("bucket", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_get_a_turn_each() {
    let Some(server) = sandpost_services::redis() else { return };
    let hosts = [host(&server, "rivals"), host(&server, "rivals"), host(&server, "rivals")];
    // A turn is 10 s here, so that what goes by meanwhile does not matter.
    let mut tasks = tokio::task::JoinSet::new();
    for bucket in hosts {
        tasks.spawn(async move {
            let takes = (0..20).map(|_| bucket.take(1, 0.1, Duration::from_hours(1)));
            futures_util::future::join_all(takes).await
        });
    }
    let mut waits: Vec<u128> = tasks
        .join_all()
        .await
        .into_iter()
        .flatten()
        .map(|turn| match turn.unwrap() {
            Turn::After(wait) => wait.as_millis().div_ceil(10_000),
            other @ Turn::NotBefore(_) => panic!("{other:?}"),
        })
        .collect();
    waits.sort_unstable();
    assert_eq!(waits, (0..60).collect::<Vec<u128>>(), "one turn for each, none twice");
    sandpost_services::checked("bucket", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bucket_goes_by_the_servers_clock_and_ends_by_itself() {
    let Some(server) = sandpost_services::redis() else { return };
    let bucket = host(&server, "clock");
    let client = redis::Client::open(server.url()).unwrap();
    let mut line = client.get_multiplexed_async_connection().await.unwrap();
    bucket.take(5, 1.0, LONG).await.unwrap();
    let left_ms: u64 = redis::cmd("PTTL").arg("bucket:clock").query_async(&mut line).await.unwrap();
    assert!((5_000..=6_000).contains(&left_ms), "{left_ms}");

    // As it was written by a server whose clock was an hour ahead: the line is as long as it was, not an hour longer.
    let (seconds, _): (u64, u64) = redis::cmd("TIME").query_async(&mut line).await.unwrap();
    let ahead = (seconds + 3_600) * 1_000_000;
    let kept = format!("{} {ahead}", ahead + 5_000_000);
    redis::cmd("SET").arg("bucket:clock").arg(kept).query_async::<()>(&mut line).await.unwrap();
    match bucket.take(1, 1.0, LONG).await.unwrap() {
        Turn::After(wait) => assert!(wait <= Duration::from_secs(5), "{wait:?}"),
        other @ Turn::NotBefore(_) => panic!("{other:?}"),
    }
    // What somebody else wrote there is no bucket, and stops nobody for good.
    redis::cmd("SET").arg("bucket:clock").arg("nonsense").query_async::<()>(&mut line).await.unwrap();
    assert_eq!(bucket.take(1, 1.0, LONG).await.unwrap(), Turn::After(Duration::ZERO));
    // A server that forgot its scripts is told them again.
    redis::cmd("SCRIPT").arg("FLUSH").query_async::<()>(&mut line).await.unwrap();
    bucket.take(1, 1.0, LONG).await.unwrap();
    sandpost_services::checked("bucket", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_away_is_an_error_and_comes_back() {
    let Some(server) = sandpost_services::redis() else { return };
    let proxy = Proxy::before(server.address());
    let url = server.url_at(proxy.address());
    let config =
        Config { url: Some(Secret::new(url)), connect_timeout_ms: 300, response_timeout_ms: 300, ..Config::default() };
    let bucket = open(&config).unwrap().bucket("bucket:faults".to_owned());
    comes(&bucket).await;
    for fault in [Proxy::hold_answers, Proxy::black_hole, Proxy::refuse] {
        fault(&proxy);
        proxy.cut();
        let error = tokio::time::timeout(Duration::from_secs(5), bucket.take(1, 1_000.0, LONG)).await.unwrap();
        let kind = error.unwrap_err().kind;
        assert!(matches!(kind, ErrorKind::Unavailable | ErrorKind::UnknownOutcome), "{kind}");
        proxy.pass();
        comes(&bucket).await;
    }
    sandpost_services::checked("bucket faults", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_a_bucket_too() {
    let Some(server) = sandpost_services::redis_cluster() else { return };
    let config = Config { cluster_urls: vec![Secret::new(server.url())], ..Config::default() };
    let bucket = open(&config).unwrap().bucket("bucket:cluster".to_owned());
    let since = Instant::now();
    assert_eq!(bucket.take(1, 1.0, LONG).await.unwrap(), Turn::After(Duration::ZERO));
    assert!(is_after(bucket.take(1, 1.0, LONG).await.unwrap(), 1_000, since));
    sandpost_services::checked("bucket", &server);
}
