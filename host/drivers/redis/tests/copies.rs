//! Copies in the host, on a real server: right after others' writes and one's own, gone with the connection and the entry.
//!
//! A copy grows 10 s old at most by itself; what is waited for here must come well before that.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use sandpost_ports::Secret;
use sandpost_ports::cache::{Cache as _, Condition};
use sandpost_ports::contract::cache;
use sandpost_ports::health::Health as _;
use sandpost_redis::{Config, RedisCache, open};
use sandpost_services::Proxy;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const TTL: Duration = Duration::from_mins(1);
const SOON: Duration = Duration::from_secs(4);

/// One whose times a busy machine does not use up.
fn host(url: String, client_side_cache_bytes: usize) -> Arc<RedisCache> {
    host_with(url, client_side_cache_bytes, 5_000)
}

fn host_with(url: String, client_side_cache_bytes: usize, timeout_ms: u64) -> Arc<RedisCache> {
    let config = Config {
        url: Some(Secret::new(url)),
        connect_timeout_ms: timeout_ms,
        response_timeout_ms: timeout_ms,
        client_side_cache_bytes,
        ..Config::default()
    };
    open(&config).unwrap()
}

async fn put(cache: &RedisCache, key: &str, value: &str) {
    assert!(cache.set(key, Bytes::from(value.to_owned()), TTL, Condition::Always).await.unwrap());
}

/// None where there is no such entry; an error's words where there was no answer.
async fn get(cache: &RedisCache, key: &str) -> Result<Option<String>, String> {
    let values = cache.get_many(&[key.to_owned()]).await.map_err(|error| error.to_string())?;
    Ok(values.into_iter().next().unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap()))
}

#[allow(clippy::unnecessary_wraps, reason = "what `get` is compared with")]
fn some(value: &str) -> Result<Option<String>, String> {
    Ok(Some(value.to_owned()))
}

/// Polls until it is so, sooner than a copy would go by its age.
async fn soon(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract_with_copies() {
    let Some(server) = sandpost_services::redis() else { return };
    cache::check(host(server.url(), 1 << 20)).await;
    sandpost_services::checked("cache contract with copies", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_key_is_answered_from_here_until_somebody_writes_it() {
    let Some(server) = sandpost_services::redis() else { return };
    let proxy = Proxy::before(server.address());
    let (near, other) = (host(server.url_at(proxy.address()), 1 << 20), host(server.url(), 0));
    put(&other, "hot", "1").await;
    assert_eq!(get(&near, "hot").await, some("1"));
    assert_eq!(near.copies(), Some(1));
    assert_eq!(other.copies(), None);
    // Redis says nothing at all now, and is not asked.
    proxy.hold_answers();
    assert_eq!(get(&near, "hot").await, some("1"));
    proxy.pass();
    // Every way in which another one can change it.
    put(&other, "hot", "2").await;
    soon("a write of another is seen", async || get(&near, "hot").await == some("2")).await;
    other.increment("hot", 3, TTL).await.unwrap();
    soon("an increment of another is seen", async || get(&near, "hot").await == some("5")).await;
    other.delete(&["hot".to_owned()]).await.unwrap();
    soon("a deletion by another is seen", async || get(&near, "hot").await == Ok(None)).await;
    put(&other, "hot", "6").await;
    assert_eq!(get(&near, "hot").await, some("6"), "that there was none is not kept");
    other.delete_prefix("ho").await.unwrap();
    soon("a deletion of the prefix is seen", async || get(&near, "hot").await == Ok(None)).await;
    put(&other, "hot", "7").await;
    assert_eq!(get(&near, "hot").await, some("7"));
    if !server.can_restart() {
        return sandpost_services::not_checked(
            "copies and FLUSHALL",
            "the server was given, and is not the test's to empty",
        );
    }
    let client = redis::Client::open(server.url()).unwrap();
    let mut line = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("FLUSHALL").query_async::<()>(&mut line).await.unwrap();
    soon("that all is gone is seen", async || get(&near, "hot").await == Ok(None)).await;
    sandpost_services::checked("copies", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_writes_and_then_reads_gets_what_was_written() {
    let Some(server) = sandpost_services::redis() else { return };
    let near = host(server.url(), 1 << 20);
    let done = Arc::new(AtomicBool::new(false));
    // Others in the same host fetch the key all the time, so that there is always an answer on its way.
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (near, done) = (near.clone(), done.clone());
        readers.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                get(&near, "own").await.unwrap();
                tokio::task::yield_now().await;
            }
        });
    }
    for round in 0..2_000_u32 {
        let value = round.to_string();
        put(&near, "own", &value).await;
        assert_eq!(get(&near, "own").await, some(&value));
        if round % 7 == 0 {
            assert!(near.take("own").await.unwrap().is_some());
            assert_eq!(get(&near, "own").await, Ok(None));
        }
        if round % 11 == 0 {
            near.set_many(vec![("own".to_owned(), Bytes::from_static(b"many"))], TTL).await.unwrap();
            assert_eq!(get(&near, "own").await, some("many"));
        }
    }
    done.store(true, Ordering::Relaxed);
    readers.join_all().await;
    sandpost_services::checked("copies", &server);
}

/// Writes of each key.
const LAST: u64 = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hosts_see_never_goes_back_and_all_come_to_the_last() {
    let Some(server) = sandpost_services::redis() else { return };
    let writer = host(server.url(), 0);
    let keys: Vec<String> = (0..8).map(|number| format!("going:{number}")).collect();
    for key in &keys {
        put(&writer, key, "0").await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let hosts = [host(server.url(), 1 << 20), host(server.url(), 1 << 20)];
    let mut readers = tokio::task::JoinSet::new();
    for near in &hosts {
        let (near, done, keys) = (near.clone(), done.clone(), keys.clone());
        readers.spawn(async move {
            let mut seen = vec![0; keys.len()];
            while !done.load(Ordering::Relaxed) {
                for (key, seen) in keys.iter().zip(&mut seen) {
                    let value: u64 = get(&near, key).await.unwrap().unwrap().parse().unwrap();
                    assert!(value >= *seen, "{key} was {seen} and is {value}");
                    *seen = value;
                }
                tokio::task::yield_now().await;
            }
        });
    }
    for number in 1..=LAST {
        for key in &keys {
            put(&writer, key, &number.to_string()).await;
        }
    }
    for near in &hosts {
        for key in &keys {
            soon("the last value is seen", async || get(near, key).await == some(&LAST.to_string())).await;
        }
    }
    done.store(true, Ordering::Relaxed);
    readers.join_all().await;
    sandpost_services::checked("copies", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_overtaken_by_a_write_does_not_stay() {
    let Some(server) = sandpost_services::redis() else { return };
    if !server.can_restart() {
        return sandpost_services::not_checked("copies and overtaken answers", "others ask the given server too");
    }
    let proxy = Proxy::before(server.address());
    let (near, other) = (host(server.url_at(proxy.address()), 1 << 20), host(server.url(), 0));
    let client = redis::Client::open(server.url()).unwrap();
    let mut line = client.get_multiplexed_async_connection().await.unwrap();
    get(&near, "warm").await.unwrap();
    for round in 0..20 {
        redis::cmd("CONFIG").arg("RESETSTAT").query_async::<()>(&mut line).await.unwrap();
        let key = format!("overtaken:{round}");
        put(&other, &key, "old").await;
        proxy.hold_answers();
        let asking = tokio::spawn({
            let (near, key) = (near.clone(), key.clone());
            async move { get(&near, &key).await }
        });
        // Redis answered "old" once it was read; then it is written, and answer and word of it come together.
        soon("Redis is asked", async || {
            let calls: String = redis::cmd("INFO").arg("commandstats").query_async(&mut line).await.unwrap();
            calls_of(&calls, "mget") == 1
        })
        .await;
        put(&other, &key, "new").await;
        proxy.pass();
        assert_eq!(asking.await.unwrap(), some("old"));
        soon("the new value is seen", async || get(&near, &key).await == some("new")).await;
        // Not once the new and then the old again.
        for _ in 0..10 {
            assert_eq!(get(&near, &key).await, some("new"));
        }
    }
    sandpost_services::checked("copies", &server);
}

fn calls_of(commandstats: &str, command: &str) -> u64 {
    let line = commandstats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.and_then(|rest| rest.split(',').next()).and_then(|calls| calls.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_connection_goes_every_copy() {
    let Some(server) = sandpost_services::redis() else { return };
    let proxy = Proxy::before(server.address());
    let near = host_with(server.url_at(proxy.address()), 1 << 20, 500);
    let other = host(server.url(), 0);
    for round in 0..5 {
        let (old, new) = (format!("old {round}"), format!("new {round}"));
        put(&other, "lost", &old).await;
        soon("the value is seen", async || get(&near, "lost").await == some(&old)).await;
        assert_eq!(get(&near, "lost").await, some(&old));
        proxy.refuse();
        proxy.cut();
        put(&other, "lost", &new).await;
        // Not the copy: what nobody vouches for is not shown.
        soon("the loss is noticed", async || get(&near, "lost").await.is_err()).await;
        assert!(get(&near, "lost").await.is_err(), "nor later");
        proxy.pass();
        soon("it is there again", async || match get(&near, "lost").await {
            Ok(value) => {
                assert_eq!(value.as_ref(), Some(&new), "a copy of the lost connection");
                true
            }
            Err(_) => false,
        })
        .await;
        // The new connection is told of changes as the first was.
        assert_eq!(near.copies(), Some(1));
        put(&other, "lost", "told").await;
        soon("a write over the new connection is seen", async || get(&near, "lost").await == some("told")).await;
    }
    // A connection that is dead and says nothing: the first call without an answer tells.
    put(&other, "lost", "old").await;
    soon("the value is seen", async || get(&near, "lost").await == some("old")).await;
    proxy.black_hole();
    put(&other, "lost", "new").await;
    assert!(near.check().await.is_err());
    assert!(get(&near, "lost").await.is_err());
    proxy.pass();
    sandpost_services::checked("copies of a lost connection", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_ends_with_its_entry() {
    let Some(server) = sandpost_services::redis() else { return };
    let near = host(server.url(), 1 << 20);
    let lives = Duration::from_millis(300);
    near.set("short", Bytes::from_static(b"v"), lives, Condition::Always).await.unwrap();
    let since = Instant::now();
    assert_eq!(near.get_many(&["short".to_owned()]).await.unwrap().len(), 1);
    soon("it ends", async || {
        let over = since.elapsed() > lives + Duration::from_millis(1);
        let value = get(&near, "short").await.unwrap();
        assert!(!over || value.is_none(), "seen after its end");
        over
    })
    .await;
    // One whose life is made shorter by another, too.
    let other = host(server.url(), 0);
    put(&other, "shortened", "v").await;
    assert_eq!(get(&near, "shortened").await, some("v"));
    other.expire("shortened", Duration::from_millis(1)).await.unwrap();
    soon("its new end is seen", async || get(&near, "shortened").await == Ok(None)).await;
    sandpost_services::checked("copies", &server);
}
