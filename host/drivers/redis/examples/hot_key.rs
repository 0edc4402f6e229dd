//! What a copy in the host is worth, on a real server: reads of a hot key with and without, reads that find no copy, and reads of
//! a key that another writes all the time. Beside it how often the client library's own cache shows something old.
//!
//! `cargo run -p sandpost-redis --example hot_key`, with `SANDPOST_TEST_REDIS_URL` for a server that is there, else with
//! `redis-server` of this machine. Not here: a benchmark with floors and machines, which is `cargo xtask bench`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a program to be looked at")]

use bytes::Bytes;
use sandpost_ports::Secret;
use sandpost_ports::cache::{Cache as _, Condition};
use sandpost_redis::{Config, RedisCache, open};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const TTL: Duration = Duration::from_mins(10);
const READS: u32 = 20_000;
/// How long a key is read and written at once.
const SPELL: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let Some(server) = sandpost_services::redis() else {
        println!("There is no Redis: install redis-server, or name one in SANDPOST_TEST_REDIS_URL.");
        return;
    };
    println!("{} {}, {READS} reads each, 200 bytes a value", server.kind(), server.version());
    let host = |client_side_cache_bytes| {
        let config = Config { url: Some(Secret::new(server.url())), client_side_cache_bytes, ..Config::default() };
        open(&config).unwrap()
    };
    let (plain, near) = (host(0), host(16 << 20));
    let value = Bytes::from(vec![b'v'; 200]);
    let spread: Vec<String> = (0..READS).map(|number| format!("spread:{number}")).collect();
    let hot = vec!["hot".to_owned()];
    for key in spread.iter().chain(&hot) {
        plain.set(key, value.clone(), TTL, Condition::Always).await.unwrap();
    }

    for tasks in [1, 64] {
        println!("\n{tasks} at a time");
        row("a hot key, from Redis", read(&plain, tasks, &hot).await);
        row("a hot key, from a copy", read(&near, tasks, &hot).await);
        // Each key once: no read finds a copy, and each makes one.
        let fresh = host(16 << 20);
        row("each key once, from Redis", read(&plain, tasks, &spread).await);
        row("each key once, with a copy made", read(&fresh, tasks, &spread).await);
        for (what, cache) in [("from Redis", &plain), ("with copies", &near)] {
            let (reads, writes) = read_while_written(cache, tasks, &plain, &value).await;
            let each = SPELL.as_secs_f64() * 1e6 / reads;
            let what = format!("a key written {writes:.0} times a second, {what}");
            println!("  {what:<55} {each:>8.1} µs a read {:>9.0} reads a second", reads / SPELL.as_secs_f64());
        }
    }
    println!("\nwrite, then read at once, 2000 times, while three others read: reads that show what was before");
    println!("  copies of this driver               {}", stale_own(&near).await);
    println!("  the client library's own cache      {}", stale_library(&server.url()).await);
}

fn row(what: &str, took: Duration) {
    let each = took.as_secs_f64() / f64::from(READS);
    println!("  {what:<55} {:>8.1} µs a read {:>9.0} reads a second", each * 1e6, 1.0 / each);
}

/// All reads, spread over so many tasks.
async fn read(cache: &Arc<RedisCache>, tasks: u32, keys: &[String]) -> Duration {
    let begun = Instant::now();
    let mut reading = tokio::task::JoinSet::new();
    for task in 0..tasks {
        let (cache, keys) = (cache.clone(), keys.to_vec());
        reading.spawn(async move {
            for number in (task..READS).step_by(tasks as usize) {
                let key = &keys[number as usize % keys.len()];
                assert!(cache.get_many(std::slice::from_ref(key)).await.unwrap()[0].is_some());
            }
        });
    }
    reading.join_all().await;
    begun.elapsed()
}

/// Reads of the hot key, and writes of it a second by another connection, while both go on for a spell.
async fn read_while_written(cache: &Arc<RedisCache>, tasks: u32, other: &Arc<RedisCache>, value: &Bytes) -> (f64, f64) {
    let until = Instant::now() + SPELL;
    let mut reading = tokio::task::JoinSet::new();
    for _ in 0..tasks {
        let cache = cache.clone();
        reading.spawn(async move {
            let mut reads = 0_u32;
            while Instant::now() < until {
                cache.get_many(&["hot".to_owned()]).await.unwrap();
                reads += 1;
                // A read that a copy answers never waits by itself, and the writer is to have its turn.
                tokio::task::yield_now().await;
            }
            reads
        });
    }
    let mut writes = 0_u32;
    while Instant::now() < until {
        other.set("hot", value.clone(), TTL, Condition::Always).await.unwrap();
        writes += 1;
    }
    let reads: u32 = reading.join_all().await.into_iter().sum();
    (f64::from(reads), f64::from(writes) / SPELL.as_secs_f64())
}

const ROUNDS: u32 = 2_000;

async fn stale_own(cache: &Arc<RedisCache>) -> u32 {
    let done = Arc::new(AtomicBool::new(false));
    let mut others = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (cache, done) = (cache.clone(), done.clone());
        others.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                cache.get_many(&["own".to_owned()]).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
    }
    let mut stale = 0;
    for round in 0..ROUNDS {
        let value = Bytes::from(round.to_string());
        cache.set("own", value.clone(), TTL, Condition::Always).await.unwrap();
        stale += u32::from(cache.get_many(&["own".to_owned()]).await.unwrap()[0].as_ref() != Some(&value));
    }
    done.store(true, Ordering::Relaxed);
    others.join_all().await;
    stale
}

async fn stale_library(url: &str) -> u32 {
    let separator = if url.contains('?') { '&' } else { '?' };
    let client = redis::Client::open(format!("{url}{separator}protocol=resp3")).unwrap();
    let settings = redis::AsyncConnectionConfig::new().set_cache_config(redis::caching::CacheConfig::new());
    let line = client.get_multiplexed_async_connection_with_config(&settings).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let mut others = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (mut line, done) = (line.clone(), done.clone());
        others.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                redis::cmd("GET").arg("library").query_async::<Option<u32>>(&mut line).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
    }
    let (mut line, mut stale) = (line, 0);
    for round in 0..ROUNDS {
        redis::cmd("SET").arg("library").arg(round).query_async::<()>(&mut line).await.unwrap();
        let seen: Option<u32> = redis::cmd("GET").arg("library").query_async(&mut line).await.unwrap();
        stale += u32::from(seen != Some(round));
    }
    done.store(true, Ordering::Relaxed);
    others.join_all().await;
    stale
}
