//! Redis that is not there, does not answer, is slow, goes away in the middle, or does not know the host.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use sandpost_ports::cache::{Cache, Condition};
use sandpost_ports::health::Health;
use sandpost_ports::{ErrorKind, PortError, Secret};
use sandpost_redis::{Config, RedisCache, open};
use sandpost_services::{Proxy, Server};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

const TTL: Duration = Duration::from_mins(1);
const PATIENCE: Duration = Duration::from_secs(20);

fn behind(server: &Server, proxy: &Proxy, timeout_ms: u64) -> Arc<RedisCache> {
    opened(server.url_at(proxy.address()), timeout_ms)
}

/// With ample times: what is not to go wrong.
fn direct(server: &Server) -> Arc<RedisCache> {
    opened(server.url(), 10_000)
}

fn opened(url: String, timeout_ms: u64) -> Arc<RedisCache> {
    let config = Config {
        url: Some(Secret::new(url)),
        connect_timeout_ms: timeout_ms,
        response_timeout_ms: timeout_ms,
        ..Config::default()
    };
    open(&config).unwrap()
}

async fn write(cache: &RedisCache) -> Result<bool, PortError> {
    cache.set("faults", Bytes::from_static(b"v"), TTL, Condition::Always).await
}

async fn number(cache: &RedisCache, key: &str) -> i64 {
    let values = cache.get_many(&[key.to_owned()]).await.unwrap();
    values[0].as_ref().map_or(0, |value| std::str::from_utf8(value).unwrap().parse().unwrap())
}

/// A connection past the driver.
async fn admin(server: &Server) -> redis::aio::MultiplexedConnection {
    let settings = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection_with_config(&settings).await.unwrap()
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

/// Polls until it is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Ends within the times of the configuration.
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
    assert_eq!(soon(write(&cache)).await.unwrap_err().kind, ErrorKind::Unavailable);
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

/// Takes each connection and ends it at once; says when they came. Noted before it ends, so a wait after the end is never seen
/// shorter than it was.
async fn ends_each_at_once() -> (String, Arc<Mutex<Vec<Instant>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let tries = Arc::new(Mutex::new(Vec::new()));
    let noted = tries.clone();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            noted.lock().unwrap().push(Instant::now());
            drop(connection);
        }
    });
    (url, tries)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_is_away_it_is_tried_in_steps_that_no_call_shortens_and_no_silence_ends() {
    let (url, tries) = ends_each_at_once().await;
    let (min_ms, max_ms) = (50, 200);
    let config = Config {
        url: Some(Secret::new(url)),
        connect_timeout_ms: 500,
        reconnect_min_ms: min_ms,
        reconnect_max_ms: max_ms,
        ..Config::default()
    };
    let cache = open(&config).unwrap();
    let count = || tries.lock().unwrap().len();
    assert_eq!(count(), 0, "opening asks for nothing");
    let done = Arc::new(AtomicBool::new(false));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (cache, done) = (cache.clone(), done.clone());
        callers.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(soon(write(&cache)).await.unwrap_err().kind, ErrorKind::Unavailable, "nothing was sent");
                tokio::task::yield_now().await;
            }
        });
    }
    until("it is tried under calls", || count() >= 8).await;
    done.store(true, Ordering::Relaxed);
    callers.join_all().await;
    let before = count();
    until("it is tried where nobody calls", || count() >= before + 4).await;
    let tries = tries.lock().unwrap();
    for (wait, step) in tries.windows(2).map(|pair| pair[1] - pair[0]).zip(1..) {
        let least = Duration::from_millis((step * min_ms).min(max_ms));
        assert!(wait >= least, "{wait:?} after try {step}, of {} tries", tries.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_connected_to_again_before_anybody_calls() {
    let Some(server) = sandpost_services::redis() else { return };
    let proxy = Proxy::before(server.address());
    let cache = behind(&server, &proxy, 5_000);
    recovers(&cache).await;
    for _ in 0..3 {
        proxy.refuse();
        assert!(soon(write(&cache)).await.is_err(), "the loss is noticed");
        let before = proxy.accepted();
        proxy.pass();
        until("somebody connects", || proxy.open() == 1).await;
        recovers(&cache).await;
        assert_eq!(proxy.accepted() - before, 1, "what was connected is used");
    }
    sandpost_services::checked("cache that comes back", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_cut_off_is_unknown_and_was_done_once_or_not_at_all() {
    let Some(server) = sandpost_services::redis() else { return };
    let proxy = Proxy::before(server.address());
    let (cache, direct) = (behind(&server, &proxy, 5_000), direct(&server));
    let mut done = cache.increment("cut", 1, TTL).await.unwrap();
    for _ in 0..5 {
        // Carried out, and its answer lost.
        proxy.hold_answers();
        let (outcome, ()) = tokio::join!(soon(cache.increment("cut", 1, TTL)), async {
            let deadline = Instant::now() + PATIENCE;
            while number(&direct, "cut").await == done {
                assert!(Instant::now() < deadline, "it does not arrive");
            }
            proxy.cut();
            proxy.pass();
        });
        assert_eq!(outcome.unwrap_err().kind, ErrorKind::UnknownOutcome);
        done += 1;
        recovers(&cache).await;
        assert_eq!(number(&direct, "cut").await, done, "it was not sent again");

        // Lost on its way.
        proxy.black_hole();
        let (outcome, ()) = tokio::join!(soon(cache.increment("cut", 1, TTL)), async {
            proxy.cut();
            proxy.pass();
        });
        assert_eq!(outcome.unwrap_err().kind, ErrorKind::UnknownOutcome);
        recovers(&cache).await;
        assert_eq!(number(&direct, "cut").await, done, "it did not come later");
    }
    sandpost_services::checked("cache writes that are cut off", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_in_drops_is_whole_or_not_there() {
    let Some(server) = sandpost_services::redis() else { return };
    let proxy = Proxy::before(server.address());
    let (cache, direct) = (behind(&server, &proxy, 10_000), direct(&server));
    let put = async |cache: &RedisCache, value: &Bytes| cache.set("drops", value.clone(), TTL, Condition::Always).await;
    let (old, new): (Bytes, Bytes) = ((0..4_096_u32).map(|n| n.to_le_bytes()[0]).collect(), vec![7; 4_096].into());
    recovers(&cache).await;
    // In time: some dozens of pieces there and back.
    proxy.trickle(64, Duration::from_millis(1));
    assert!(put(&cache, &old).await.unwrap());
    assert_eq!(cache.get_many(&["drops".to_owned()]).await.unwrap(), [Some(old.clone())]);
    proxy.pass();

    // Too slow.
    let hasty = behind(&server, &proxy, 300);
    recovers(&hasty).await;
    proxy.trickle(1, Duration::from_millis(20));
    assert_eq!(soon(put(&hasty, &new)).await.unwrap_err().kind, ErrorKind::UnknownOutcome);
    assert_eq!(soon(hasty.get_many(&["drops".to_owned()])).await.unwrap_err().kind, ErrorKind::Unavailable);
    // What there is of the command by now changes nothing.
    assert_eq!(direct.get_many(&["drops".to_owned()]).await.unwrap(), [Some(old.clone())]);
    proxy.pass();
    recovers(&hasty).await;
    // The rest of it may still have come.
    let there = direct.get_many(&["drops".to_owned()]).await.unwrap().remove(0).unwrap();
    assert!(there == old || there == new, "{} bytes", there.len());
    sandpost_services::checked("cache by drops", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_the_server_ends_under_load_cost_what_was_under_way_and_double_nothing() {
    let Some(server) = sandpost_services::redis() else { return };
    ended_under_load(&server, direct(&server)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_do_connections_that_a_clusters_node_ends() {
    let Some(server) = sandpost_services::redis_cluster() else { return };
    let config = Config {
        cluster_urls: vec![Secret::new(server.url())],
        connect_timeout_ms: 10_000,
        response_timeout_ms: 10_000,
        ..Config::default()
    };
    ended_under_load(&server, open(&config).unwrap()).await;
}

async fn ended_under_load(server: &Server, cache: Arc<RedisCache>) {
    if !server.can_restart() {
        return sandpost_services::not_checked("cache and CLIENT KILL", "the given server has connections of others");
    }
    let mut admin = admin(server).await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let (cache, stop, answered) = (cache.clone(), stop.clone(), answered.clone());
        load.spawn(async move {
            let key = format!("killed:{writer}");
            let (mut done, mut unknown) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                match soon(cache.increment(&key, 1, TTL)).await {
                    Ok(_) => {
                        done += 1;
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) if error.kind == ErrorKind::UnknownOutcome => unknown += 1,
                    Err(error) => assert_eq!(error.kind, ErrorKind::Unavailable, "{error:?}"),
                }
            }
            (key, done, unknown)
        });
    }
    for kill in 1..=20 {
        let before = answered.load(Ordering::Relaxed);
        until("the load goes on", || answered.load(Ordering::Relaxed) > before + 20).await;
        let killed: u64 = redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"]).query_async(&mut admin).await.unwrap();
        assert!(killed > 0, "none at kill {kill}");
    }
    let before = answered.load(Ordering::Relaxed);
    until("the load goes on", || answered.load(Ordering::Relaxed) > before + 20).await;
    stop.store(true, Ordering::Relaxed);
    let mut lost = 0;
    recovers(&cache).await;
    for (key, done, unknown) in load.join_all().await {
        let there = number(&cache, &key).await;
        assert!((done..=done + unknown).contains(&there), "{key} is {there}; {done} answered, {unknown} unknown");
        lost += unknown;
    }
    assert!(lost > 0, "no kill was noticed");
    sandpost_services::checked("cache connections that are killed", server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_busy_with_a_script_is_unavailable_until_that_ends() {
    let Some(server) = sandpost_services::redis() else { return };
    if !server.can_restart() {
        return sandpost_services::not_checked("cache that is busy", "others ask the given server too");
    }
    let cache = opened(server.url(), 1_000);
    let (mut admin, mut busy) = (admin(&server).await, admin(&server).await);
    redis::cmd("CONFIG").arg(&["SET", "lua-time-limit", "50"]).query_async::<()>(&mut admin).await.unwrap();
    // Ample time for what is not to go wrong.
    let direct = direct(&server);
    let before = direct.increment("busy", 1, TTL).await.unwrap();
    recovers(&cache).await;
    let script =
        tokio::spawn(
            async move { redis::cmd("EVAL").arg(&["while true do end", "0"]).query_async::<()>(&mut busy).await },
        );
    // Not answered at first; then it says why.
    let deadline = Instant::now() + PATIENCE;
    loop {
        match soon(cache.set("busy:other", Bytes::new(), TTL, Condition::Always)).await {
            Err(error) if error.kind == ErrorKind::Unavailable && error.message.contains("busy") => break,
            Err(error) => {
                assert!(matches!(error.kind, ErrorKind::Unavailable | ErrorKind::UnknownOutcome), "{error:?}");
            }
            Ok(_) => {}
        }
        assert!(Instant::now() < deadline, "the script does not begin");
    }
    assert_eq!(
        soon(cache.increment("busy", 1, TTL)).await.unwrap_err().kind,
        ErrorKind::Unavailable,
        "nothing was done"
    );
    assert_eq!(soon(cache.exists("busy")).await.unwrap_err().kind, ErrorKind::Unavailable);
    redis::cmd("SCRIPT").arg("KILL").query_async::<()>(&mut admin).await.unwrap();
    script.await.unwrap().unwrap_err();
    recovers(&cache).await;
    assert_eq!(direct.increment("busy", 1, TTL).await.unwrap(), before + 1);
    sandpost_services::checked("cache that is busy", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_no_room_for_another_connection_is_unavailable_until_there_is() {
    let Some(server) = sandpost_services::redis() else { return };
    if !server.can_restart() {
        return sandpost_services::not_checked("cache at maxclients", "others connect to the given server too");
    }
    let (inside, outside) = (direct(&server), opened(server.url(), 1_000));
    recovers(&inside).await;
    let mut admin = admin(&server).await;
    let mut room = async |clients: &str| {
        redis::cmd("CONFIG").arg(&["SET", "maxclients", clients]).query_async::<()>(&mut admin).await.unwrap();
    };
    room("1").await;
    for _ in 0..3 {
        let error = soon(write(&outside)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error:?}");
        let error = soon(outside.check()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error:?}");
    }
    assert!(write(&inside).await.unwrap(), "who is in stays in");
    room("1000").await;
    recovers(&outside).await;
    sandpost_services::checked("cache at maxclients", &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_many_commands_ends_in_the_time_of_one_call() {
    let Some(server) = sandpost_services::redis() else { return };
    let proxy = Proxy::before(server.address());
    let config = Config {
        url: Some(Secret::new(server.url_at(proxy.address()))),
        connect_timeout_ms: 5_000,
        response_timeout_ms: 5_000,
        call_timeout_ms: 1_000,
        batch_max: 1,
        ..Config::default()
    };
    let cache = open(&config).unwrap();
    let keys: Vec<String> = (0..100).map(|number| format!("many:{number}")).collect();
    let entries = keys.iter().map(|key| (key.clone(), Bytes::from_static(b"v"))).collect();
    direct(&server).set_many(entries, TTL).await.unwrap();
    recovers(&cache).await;
    // Each answer comes in its time; all of them would take 10 s.
    proxy.delay(Duration::from_millis(50));
    assert_eq!(soon(cache.get_many(&keys)).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(soon(cache.delete_prefix("many:")).await.unwrap_err().kind, ErrorKind::UnknownOutcome);
    proxy.pass();
    assert_eq!(proxy.accepted(), 1, "the connection is as good as before");
    recovers(&cache).await;
    sandpost_services::checked("cache calls of many commands", &server);
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
