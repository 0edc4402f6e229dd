//! What every cache keeps: run by each driver's tests against its own service.
//!
//! Keys are random, so the suite runs beside others and on a cache in use; it expects that the cache has room for a few
//! thousand small entries and forgets none of them meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a contract suite is a test, and a test fails by panicking"
)]

use super::random_name;
use crate::ErrorKind;
use crate::cache::{Cache, Condition};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// Long enough to outlast any check.
const LONG: Duration = Duration::from_hours(1);
/// Short enough to wait for; every driver keeps time to the millisecond.
const SHORT: Duration = Duration::from_millis(150);
/// When a wait is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tasks that do the same at once.
const CROWD: usize = 50;
/// How often they race: a fault of a few nanoseconds needs many tries to be seen.
const RACES: usize = 200;

/// Panics at the first promise that is not kept; the function's name says which.
pub async fn check(cache: Arc<dyn Cache>) {
    let c = &*cache;
    c.check().await.expect("the cache is not healthy");
    a_value_comes_back_byte_for_byte(c).await;
    many_are_answered_in_the_order_asked(c).await;
    conditions_hold(c).await;
    set_replaces_value_and_time_to_live(c).await;
    set_many_writes_all(c).await;
    take_gets_once(c).await;
    delete_counts_what_was_there(c).await;
    delete_prefix_touches_only_its_prefix(c).await;
    delete_prefix_takes_its_prefix_literally(c).await;
    delete_prefix_copes_with_many(c).await;
    an_entry_ends_with_its_time_to_live(c).await;
    expire_moves_the_end(c).await;
    ttl_tells_what_is_left(c).await;
    increment_counts_from_zero_and_keeps_the_first_end(c).await;
    increment_refuses_what_is_no_number_and_leaves_it(c).await;
    increment_refuses_overflow_and_leaves_it(c).await;
    an_expired_key_is_absent_for_every_condition(c).await;
    nonsense_is_invalid(c).await;
    increments_at_once_all_count(&cache).await;
    of_many_takers_one_gets_it(&cache).await;
    of_many_if_absent_one_writes(&cache).await;
}

async fn put(c: &dyn Cache, key: &str, value: &str) {
    assert!(c.set(key, value.to_owned().into(), LONG, Condition::Always).await.unwrap());
}

async fn get(c: &dyn Cache, key: &str) -> Option<String> {
    let found = c.get_many(&[key.to_owned()]).await.unwrap();
    assert_eq!(found.len(), 1);
    found.into_iter().next().flatten().map(|value| String::from_utf8(value.to_vec()).unwrap())
}

async fn gone(c: &dyn Cache, key: &str) {
    let deadline = Instant::now() + PATIENCE;
    while c.exists(key).await.unwrap() {
        assert!(Instant::now() < deadline, "{key} outlived its time to live by {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn a_value_comes_back_byte_for_byte(c: &dyn Cache) {
    let key = random_name("bytes");
    assert_eq!(c.get_many(std::slice::from_ref(&key)).await.unwrap(), [None]);
    assert!(!c.exists(&key).await.unwrap());
    for value in [Bytes::new(), Bytes::from((0..=255).collect::<Vec<u8>>()), Bytes::from(vec![7; 100_000])] {
        assert!(c.set(&key, value.clone(), LONG, Condition::Always).await.unwrap());
        assert_eq!(c.get_many(std::slice::from_ref(&key)).await.unwrap(), [Some(value)]);
        assert!(c.exists(&key).await.unwrap());
    }
    // A key is any text.
    for odd in [" ", "a b\r\nDEL c", "ção 🔥", "*", "{x}", "\u{0}"] {
        let key = format!("{}{odd}", random_name("odd"));
        put(c, &key, odd).await;
        assert_eq!(get(c, &key).await.as_deref(), Some(odd));
    }
}

async fn many_are_answered_in_the_order_asked(c: &dyn Cache) {
    let prefix = random_name("many");
    let keys: Vec<String> = (0..20).map(|i| format!("{prefix}:{i}")).collect();
    for (i, key) in keys.iter().enumerate().filter(|(i, _)| i % 2 == 0) {
        put(c, key, &i.to_string()).await;
    }
    let mut asked: Vec<String> = keys.iter().rev().cloned().collect();
    asked.push(keys[4].clone());
    asked.push(keys[4].clone());
    let mut expected: Vec<Option<Bytes>> =
        (0..20).rev().map(|i| (i % 2 == 0).then(|| Bytes::from(i.to_string()))).collect();
    expected.extend([Some(Bytes::from("4")), Some(Bytes::from("4"))]);
    assert_eq!(c.get_many(&asked).await.unwrap(), expected);
    assert_eq!(c.get_many(&[]).await.unwrap(), Vec::<Option<Bytes>>::new());
}

async fn conditions_hold(c: &dyn Cache) {
    let key = random_name("condition");
    let set = async |value: &str, condition| c.set(&key, value.to_owned().into(), LONG, condition).await.unwrap();
    assert!(!set("1", Condition::IfPresent).await);
    assert_eq!(get(c, &key).await, None);
    assert!(set("2", Condition::IfAbsent).await);
    assert!(!set("3", Condition::IfAbsent).await);
    assert_eq!(get(c, &key).await.as_deref(), Some("2"));
    assert!(set("4", Condition::IfPresent).await);
    assert_eq!(get(c, &key).await.as_deref(), Some("4"));
    assert!(set("5", Condition::Always).await);
    assert_eq!(get(c, &key).await.as_deref(), Some("5"));
}

async fn set_replaces_value_and_time_to_live(c: &dyn Cache) {
    let key = random_name("replace");
    c.set(&key, "short".into(), SHORT, Condition::Always).await.unwrap();
    put(c, &key, "long").await;
    assert!(c.ttl(&key).await.unwrap().unwrap() > SHORT);
    // A write that did not take place leaves the time to live as well.
    assert!(!c.set(&key, "x".into(), SHORT, Condition::IfAbsent).await.unwrap());
    assert!(c.ttl(&key).await.unwrap().unwrap() > SHORT);
    assert!(c.set(&key, "x".into(), SHORT, Condition::IfPresent).await.unwrap());
    gone(c, &key).await;
}

async fn set_many_writes_all(c: &dyn Cache) {
    let prefix = random_name("setmany");
    put(c, &format!("{prefix}:1"), "old").await;
    let entries: Vec<(String, Bytes)> =
        (0..100).map(|i| (format!("{prefix}:{i}"), Bytes::from(i.to_string()))).collect();
    c.set_many(entries.clone(), LONG).await.unwrap();
    let keys: Vec<String> = entries.iter().map(|(key, _)| key.clone()).collect();
    let values: Vec<Option<Bytes>> = entries.into_iter().map(|(_, value)| Some(value)).collect();
    assert_eq!(c.get_many(&keys).await.unwrap(), values);
    assert!(c.ttl(&keys[0]).await.unwrap().unwrap() <= LONG);
    c.set_many(vec![], LONG).await.unwrap();
    // The last of two for one key stays.
    let twice = vec![(keys[0].clone(), Bytes::from("a")), (keys[0].clone(), Bytes::from("b"))];
    c.set_many(twice, LONG).await.unwrap();
    assert_eq!(get(c, &keys[0]).await.as_deref(), Some("b"));
}

async fn take_gets_once(c: &dyn Cache) {
    let key = random_name("take");
    assert_eq!(c.take(&key).await.unwrap(), None);
    put(c, &key, "v").await;
    assert_eq!(c.take(&key).await.unwrap(), Some("v".into()));
    assert_eq!(c.take(&key).await.unwrap(), None);
    assert!(!c.exists(&key).await.unwrap());
}

async fn delete_counts_what_was_there(c: &dyn Cache) {
    let (one, two, other) = (random_name("del"), random_name("del"), random_name("del"));
    put(c, &one, "1").await;
    put(c, &two, "2").await;
    put(c, &other, "3").await;
    assert_eq!(c.delete(&[one.clone(), random_name("never"), two.clone()]).await.unwrap(), 2);
    assert_eq!(c.delete(&[one.clone(), two]).await.unwrap(), 0);
    assert_eq!(c.delete(&[]).await.unwrap(), 0);
    assert_eq!(c.delete(&[other.clone(), other.clone()]).await.unwrap(), 1);
    assert_eq!(get(c, &one).await, None);
}

async fn delete_prefix_touches_only_its_prefix(c: &dyn Cache) {
    let prefix = random_name("prefix");
    for key in ["", ":", ":a", ":b", "x", ":a:b"] {
        put(c, &format!("{prefix}{key}"), "v").await;
    }
    let other = format!("x{prefix}:a");
    put(c, &other, "v").await;
    assert_eq!(c.delete_prefix(&format!("{prefix}:")).await.unwrap(), 4);
    assert_eq!(c.delete_prefix(&format!("{prefix}:")).await.unwrap(), 0);
    for key in [prefix.clone(), format!("{prefix}x"), other] {
        assert!(c.exists(&key).await.unwrap(), "{key} was deleted as well");
    }
    for key in [":", ":a", ":b", ":a:b"] {
        assert!(!c.exists(&format!("{prefix}{key}")).await.unwrap(), "{key} is still there");
    }
    assert_eq!(c.delete_prefix(&prefix).await.unwrap(), 2);
}

async fn delete_prefix_takes_its_prefix_literally(c: &dyn Cache) {
    let prefix = random_name("pattern");
    for pattern in ["*", "?", "[ab]", "\\", "%", "_", "."] {
        let (inside, outside) = (format!("{prefix}{pattern}:k"), format!("{prefix}a:k"));
        put(c, &inside, "v").await;
        put(c, &outside, "v").await;
        assert_eq!(c.delete_prefix(&format!("{prefix}{pattern}")).await.unwrap(), 1, "{pattern}");
        assert!(c.exists(&outside).await.unwrap(), "{pattern} was taken for a pattern");
    }
}

async fn delete_prefix_copes_with_many(c: &dyn Cache) {
    let prefix = random_name("manyprefix");
    let entries = (0..2_500).map(|i| (format!("{prefix}:{i}"), Bytes::from("v"))).collect();
    c.set_many(entries, LONG).await.unwrap();
    assert_eq!(c.delete_prefix(&prefix).await.unwrap(), 2_500);
    assert!(!c.exists(&format!("{prefix}:1")).await.unwrap());
}

async fn an_entry_ends_with_its_time_to_live(c: &dyn Cache) {
    let (key, stays) = (random_name("ttl"), random_name("ttl"));
    let started = Instant::now();
    c.set(&key, "v".into(), SHORT, Condition::Always).await.unwrap();
    put(c, &stays, "v").await;
    if get(c, &key).await.is_none() {
        assert!(started.elapsed() >= SHORT, "it ended before its time");
    }
    gone(c, &key).await;
    assert!(started.elapsed() >= SHORT, "it ended before its time");
    assert_eq!(get(c, &key).await, None);
    assert_eq!(c.take(&key).await.unwrap(), None);
    assert_eq!(c.delete(std::slice::from_ref(&key)).await.unwrap(), 0);
    assert!(!c.expire(&key, LONG).await.unwrap());
    assert_eq!(c.ttl(&key).await.unwrap(), None);
    assert!(c.exists(&stays).await.unwrap());
}

async fn expire_moves_the_end(c: &dyn Cache) {
    let key = random_name("expire");
    assert!(!c.expire(&key, LONG).await.unwrap());
    assert!(!c.exists(&key).await.unwrap(), "expire made the key");
    put(c, &key, "v").await;
    // Not so short that it could end before it is moved.
    let sooner = Duration::from_mins(1);
    assert!(c.expire(&key, sooner).await.unwrap());
    assert!(c.ttl(&key).await.unwrap().unwrap() <= sooner);
    assert!(c.expire(&key, LONG).await.unwrap());
    assert!(c.ttl(&key).await.unwrap().unwrap() > sooner);
    assert_eq!(get(c, &key).await.as_deref(), Some("v"));
    assert!(c.expire(&key, SHORT).await.unwrap());
    gone(c, &key).await;
    put(c, &key, "v").await;
    assert!(c.expire(&key, Duration::ZERO).await.unwrap());
    assert!(!c.exists(&key).await.unwrap(), "a time to live of nothing ends at once");
}

async fn ttl_tells_what_is_left(c: &dyn Cache) {
    let key = random_name("left");
    assert_eq!(c.ttl(&key).await.unwrap(), None);
    put(c, &key, "v").await;
    let left = c.ttl(&key).await.unwrap().unwrap();
    assert!(left <= LONG && left + PATIENCE > LONG, "{left:?}");
    let year = Duration::from_hours(365 * 24);
    c.set(&key, "v".into(), year, Condition::Always).await.unwrap();
    assert!(c.ttl(&key).await.unwrap().unwrap() + PATIENCE > year);
}

async fn increment_counts_from_zero_and_keeps_the_first_end(c: &dyn Cache) {
    let key = random_name("count");
    assert_eq!(c.increment(&key, 5, LONG).await.unwrap(), 5);
    assert_eq!(c.increment(&key, -7, SHORT).await.unwrap(), -2);
    assert_eq!(c.increment(&key, 0, SHORT).await.unwrap(), -2);
    assert_eq!(get(c, &key).await.as_deref(), Some("-2"), "the number is decimal text");
    assert!(c.ttl(&key).await.unwrap().unwrap() > SHORT, "the second call set the time to live");
    put(c, &key, "41").await;
    assert_eq!(c.increment(&key, 1, SHORT).await.unwrap(), 42);
    let fresh = random_name("count");
    c.increment(&fresh, 1, SHORT).await.unwrap();
    gone(c, &fresh).await;
    assert_eq!(c.increment(&fresh, 1, LONG).await.unwrap(), 1, "it counted on after its end");
}

async fn increment_refuses_what_is_no_number_and_leaves_it(c: &dyn Cache) {
    let key = random_name("nan");
    for value in ["", "a", "1.5", " 1", "1 ", "0x1", "9223372036854775808", "1e3"] {
        put(c, &key, value).await;
        assert_eq!(c.increment(&key, 1, LONG).await.unwrap_err().kind, ErrorKind::Invalid, "{value:?}");
        assert_eq!(get(c, &key).await.as_deref(), Some(value));
    }
}

async fn increment_refuses_overflow_and_leaves_it(c: &dyn Cache) {
    let key = random_name("overflow");
    for (start, by) in [(i64::MAX, 1), (i64::MIN, -1), (1, i64::MAX), (-2, i64::MIN)] {
        put(c, &key, &start.to_string()).await;
        assert_eq!(c.increment(&key, by, LONG).await.unwrap_err().kind, ErrorKind::Invalid, "{start} + {by}");
        assert_eq!(get(c, &key).await, Some(start.to_string()));
    }
    put(c, &key, &(i64::MAX - 1).to_string()).await;
    assert_eq!(c.increment(&key, 1, LONG).await.unwrap(), i64::MAX);
}

async fn an_expired_key_is_absent_for_every_condition(c: &dyn Cache) {
    let key = random_name("expired");
    c.set(&key, "v".into(), SHORT, Condition::Always).await.unwrap();
    gone(c, &key).await;
    assert!(!c.set(&key, "v".into(), LONG, Condition::IfPresent).await.unwrap());
    c.set(&key, "v".into(), SHORT, Condition::Always).await.unwrap();
    gone(c, &key).await;
    assert!(c.set(&key, "v".into(), LONG, Condition::IfAbsent).await.unwrap());
}

async fn nonsense_is_invalid(c: &dyn Cache) {
    let key = random_name("nonsense");
    let kind = |result: Result<(), crate::PortError>| result.unwrap_err().kind;
    let zero = Duration::ZERO;
    assert_eq!(kind(c.set(&key, "v".into(), zero, Condition::Always).await.map(drop)), ErrorKind::Invalid);
    assert_eq!(kind(c.set_many(vec![(key.clone(), "v".into())], zero).await), ErrorKind::Invalid);
    assert_eq!(kind(c.increment(&key, 1, zero).await.map(drop)), ErrorKind::Invalid);
    assert!(!c.exists(&key).await.unwrap());
    put(c, &key, "v").await;
    assert_eq!(kind(c.delete_prefix("").await.map(drop)), ErrorKind::Invalid);
    assert!(c.exists(&key).await.unwrap());
}

async fn increments_at_once_all_count(cache: &Arc<dyn Cache>) {
    let key = random_name("atonce");
    let sums = crowd(cache, {
        let key = key.clone();
        move |c, _| {
            let key = key.clone();
            async move {
                let mut sums = Vec::new();
                for _ in 0..20 {
                    sums.push(c.increment(&key, 1, LONG).await.unwrap());
                }
                sums
            }
        }
    })
    .await;
    let mut sums: Vec<i64> = sums.into_iter().flatten().collect();
    sums.sort_unstable();
    let all = i64::try_from(CROWD * 20).unwrap();
    assert_eq!(sums, (1..=all).collect::<Vec<_>>(), "two calls got the same sum, or one was lost");
    assert_eq!(get(&**cache, &key).await, Some(all.to_string()));
}

async fn of_many_takers_one_gets_it(cache: &Arc<dyn Cache>) {
    let prefix = random_name("takers");
    let keys: Arc<Vec<String>> = Arc::new((0..RACES).map(|i| format!("{prefix}:{i}")).collect());
    cache.set_many(keys.iter().map(|key| (key.clone(), Bytes::from("token"))).collect(), LONG).await.unwrap();
    let got = crowd(cache, move |c, _| {
        let keys = Arc::clone(&keys);
        async move {
            let mut got = Vec::new();
            for key in keys.iter() {
                if c.take(key).await.unwrap().is_some() {
                    got.push(key.clone());
                }
            }
            got
        }
    })
    .await;
    let mut got: Vec<String> = got.into_iter().flatten().collect();
    got.sort_unstable();
    let taken = got.len();
    got.dedup();
    assert_eq!((got.len(), taken), (RACES, RACES), "a value was taken twice, or got lost");
}

async fn of_many_if_absent_one_writes(cache: &Arc<dyn Cache>) {
    let prefix = random_name("absent");
    let wrote = crowd(cache, {
        let prefix = prefix.clone();
        move |c, task| {
            let prefix = prefix.clone();
            async move {
                let mut wrote = Vec::new();
                for race in 0..RACES {
                    let key = format!("{prefix}:{race}");
                    if c.set(&key, task.to_string().into(), LONG, Condition::IfAbsent).await.unwrap() {
                        wrote.push((key, task.to_string()));
                    }
                }
                wrote
            }
        }
    })
    .await;
    let wrote: Vec<(String, String)> = wrote.into_iter().flatten().collect();
    assert_eq!(wrote.len(), RACES, "two wrote one key, or none did");
    for (key, value) in wrote {
        assert_eq!(get(&**cache, &key).await, Some(value), "it holds what somebody wrote who was told no");
    }
}

async fn crowd<T, F>(cache: &Arc<dyn Cache>, task: impl Fn(Arc<dyn Cache>, usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let start = Arc::new(Barrier::new(CROWD));
    let mut tasks = JoinSet::new();
    for number in 0..CROWD {
        let (start, task) = (Arc::clone(&start), task(Arc::clone(cache), number));
        tasks.spawn(async move {
            start.wait().await;
            task.await
        });
    }
    tasks.join_all().await
}
