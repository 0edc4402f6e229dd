//! The cache in memory: bounded in bytes, oldest use out first, gone when the host stops.
//!
//! Invariants
//! - Every operation on one key is atomic: whatever writes goes through moka's per-key lock.
//! - An entry is never seen after its time to live, whenever moka gets round to removing it: the value carries its end.
//! - An entry that was written stays unless memory runs out; the least recently used goes then (LRU and not moka's
//!   default, which may turn the newest away: a token that was just stored must be there to be redeemed).
//!
//! Not here: several hosts that share one cache. That is Redis.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

use bytes::Bytes;
use moka::Expiry;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache as Moka;
use sandpost_ports::cache::{Cache, Condition};
use sandpost_ports::health::Health;
use sandpost_ports::{ErrorKind, PortError};
use std::time::{Duration, Instant};

/// What an entry takes beside its key and value: moka's node, its place in two queues and a timer, two `Arc`s.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// The longest time to live that is kept to. Beyond it clocks overflow; nothing in memory lives that long.
const TTL_MAX: Duration = Duration::from_hours(10 * 365 * 24);

/// The cache in memory.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Keys, values and what is kept beside them. Default 67 108 864 (64 MiB): hundreds of thousands of small entries.
    pub memory_max_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { memory_max_bytes: 64 * 1024 * 1024 }
    }
}

/// The cache in memory. Clones are the same cache.
#[derive(Debug, Clone)]
pub struct MemoryCache {
    entries: Moka<String, Entry>,
    memory_max_bytes: u64,
}

#[derive(Debug, Clone)]
struct Entry {
    value: Bytes,
    /// Not seen from this moment on.
    ends_at: Instant,
}

/// An empty cache.
pub fn open(config: &Config) -> MemoryCache {
    let entries = Moka::builder()
        .max_capacity(config.memory_max_bytes)
        .weigher(|key: &String, entry: &Entry| u32::try_from(weight(key, &entry.value)).unwrap_or(u32::MAX))
        .eviction_policy(EvictionPolicy::lru())
        .expire_after(ByEntry)
        .build();
    MemoryCache { entries, memory_max_bytes: config.memory_max_bytes }
}

#[async_trait::async_trait]
impl Cache for MemoryCache {
    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Bytes>>, PortError> {
        Ok(keys.iter().map(|key| self.live(key).map(|entry| entry.value)).collect())
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Duration, condition: Condition) -> Result<bool, PortError> {
        let ends_at = end(ttl)?;
        self.check_size(key, &value)?;
        let value = compact(&value);
        self.change(key, |found| {
            let write = match condition {
                Condition::Always => true,
                Condition::IfAbsent => found.is_none(),
                Condition::IfPresent => found.is_some(),
            };
            (if write { Op::Put(Entry { value, ends_at }) } else { Op::Nop }, write)
        })
    }

    async fn set_many(&self, entries: Vec<(String, Bytes)>, ttl: Duration) -> Result<(), PortError> {
        let ends_at = end(ttl)?;
        for (key, value) in &entries {
            self.check_size(key, value)?;
        }
        for (key, value) in entries {
            let value = compact(&value);
            self.change(&key, |_| (Op::Put(Entry { value, ends_at }), ()))?;
        }
        Ok(())
    }

    async fn take(&self, key: &str) -> Result<Option<Bytes>, PortError> {
        self.change(key, |found| (Op::Remove, found.map(|entry| entry.value)))
    }

    async fn delete(&self, keys: &[String]) -> Result<u64, PortError> {
        keys.iter().map(|key| self.remove(key)).sum()
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64, PortError> {
        if prefix.is_empty() {
            return Err(PortError::invalid("an empty prefix would delete everything"));
        }
        let (cache, prefix) = (self.clone(), prefix.to_owned());
        let walk = move || {
            let keys = cache.entries.iter().map(|(key, _)| key).filter(|key| key.starts_with(&prefix));
            keys.map(|key| cache.remove(&key)).sum()
        };
        // Walks every key there is, so not on a thread that serves others. Begun by the runtime, because a thread that the
        // caller's started would inherit its priority, which may be a low one.
        let walked = tokio::spawn(async move { tokio::task::spawn_blocking(walk).await });
        walked
            .await
            .flatten()
            .map_err(|error| PortError::new(ErrorKind::Other, "the cache is shutting down").because(error))?
    }

    async fn exists(&self, key: &str) -> Result<bool, PortError> {
        Ok(self.live(key).is_some())
    }

    async fn expire(&self, key: &str, ttl: Duration) -> Result<bool, PortError> {
        let ends_at = end(ttl).ok();
        self.change(key, |found| match (found, ends_at) {
            (None, _) => (Op::Nop, false),
            (Some(entry), Some(ends_at)) => (Op::Put(Entry { ends_at, ..entry }), true),
            // No time left is gone at once, as in Redis.
            (Some(_), None) => (Op::Remove, true),
        })
    }

    async fn ttl(&self, key: &str) -> Result<Option<Duration>, PortError> {
        Ok(self.live(key).map(|entry| entry.ends_at.saturating_duration_since(Instant::now())))
    }

    async fn increment(&self, key: &str, by: i64, ttl: Duration) -> Result<i64, PortError> {
        let ends_at = end(ttl)?;
        self.check_size(key, &Bytes::from_static(b"-9223372036854775808"))?;
        self.change(key, |found| {
            let number = match &found {
                None => Some(0),
                Some(entry) => decimal(&entry.value),
            };
            let sum = match number {
                None => Err(PortError::invalid("the value is not a decimal 64-bit number")),
                Some(number) => {
                    number.checked_add(by).ok_or_else(|| PortError::invalid("the sum would not be a 64-bit number"))
                }
            };
            match sum {
                Ok(sum) => {
                    let ends_at = found.map_or(ends_at, |entry| entry.ends_at);
                    (Op::Put(Entry { value: sum.to_string().into(), ends_at }), Ok(sum))
                }
                Err(error) => (Op::Nop, Err(error)),
            }
        })?
    }
}

#[async_trait::async_trait]
impl Health for MemoryCache {
    async fn check(&self) -> Result<(), PortError> {
        // Memory of this process: it is there as long as the question can be asked.
        Ok(())
    }
}

impl MemoryCache {
    fn live(&self, key: &str) -> Option<Entry> {
        self.entries.get(key).filter(Entry::is_live)
    }

    /// The one way to write: decides by what is there, under the key's lock.
    fn change<T>(&self, key: &str, decide: impl FnOnce(Option<Entry>) -> (Op<Entry>, T)) -> Result<T, PortError> {
        let mut answer = None;
        let slot = &mut answer;
        self.entries.entry_by_ref(key).and_compute_with(move |found| {
            let stored = found.map(moka::Entry::into_value);
            let was_stored = stored.is_some();
            let (op, decided) = decide(stored.filter(Entry::is_live));
            *slot = Some(decided);
            match op {
                // Nothing to remove: moka counts on there being something.
                Op::Remove if !was_stored => Op::Nop,
                op => op,
            }
        });
        // moka calls the closure exactly once.
        answer.ok_or_else(|| PortError::new(ErrorKind::Other, "the cache did not decide"))
    }

    fn remove(&self, key: &str) -> Result<u64, PortError> {
        self.change(key, |found| (Op::Remove, u64::from(found.is_some())))
    }

    fn check_size(&self, key: &str, value: &Bytes) -> Result<(), PortError> {
        // moka would take it and drop it without a word.
        if weight(key, value) as u64 > self.memory_max_bytes || weight(key, value) > u32::MAX as usize {
            return Err(PortError::new(
                ErrorKind::Exceeded,
                format!("the entry is larger than the whole cache ({} bytes)", self.memory_max_bytes),
            ));
        }
        Ok(())
    }
}

impl Entry {
    fn is_live(&self) -> bool {
        Instant::now() < self.ends_at
    }
}

/// Tells moka when it may drop an entry; the entry knows.
#[derive(Debug)]
struct ByEntry;

impl Expiry<String, Entry> for ByEntry {
    fn expire_after_create(&self, _: &String, entry: &Entry, created_at: Instant) -> Option<Duration> {
        Some(entry.ends_at.saturating_duration_since(created_at))
    }

    fn expire_after_update(
        &self,
        _: &String,
        entry: &Entry,
        updated_at: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.ends_at.saturating_duration_since(updated_at))
    }
}

fn end(ttl: Duration) -> Result<Instant, PortError> {
    if ttl.is_zero() {
        return Err(PortError::invalid("the time to live is zero"));
    }
    let now = Instant::now();
    Ok(now.checked_add(ttl.min(TTL_MAX)).unwrap_or(now))
}

fn weight(key: &str, value: &Bytes) -> usize {
    key.len().saturating_add(value.len()).saturating_add(ENTRY_OVERHEAD_BYTES)
}

/// A copy of its own: a slice of a large buffer would keep the whole of it, and the bound would not hold.
fn compact(value: &Bytes) -> Bytes {
    Bytes::copy_from_slice(value)
}

/// As Redis reads one: no plus, no leading zeros, no spaces.
fn decimal(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const HOUR: Duration = Duration::from_hours(1);

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn keeps_the_contract() {
        sandpost_ports::contract::cache::check(Arc::new(open(&Config::default()))).await;
    }

    #[tokio::test]
    async fn memory_is_bounded_and_the_oldest_goes_first() {
        let cache = open(&Config { memory_max_bytes: 100_000 });
        for number in 0..1_000 {
            cache.set(&format!("k{number}"), vec![7; 1_000].into(), HOUR, Condition::Always).await.unwrap();
            cache.entries.run_pending_tasks();
        }
        assert!(cache.entries.weighted_size() <= 100_000, "{}", cache.entries.weighted_size());
        assert!(cache.exists("k999").await.unwrap());
        assert!(!cache.exists("k0").await.unwrap());
    }

    #[tokio::test]
    async fn what_can_never_fit_is_refused() {
        let cache = open(&Config { memory_max_bytes: 1_000 });
        let error = cache.set("k", vec![0; 1_000].into(), HOUR, Condition::Always).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Exceeded);
        let error = cache.set_many(vec![("k".to_owned(), vec![0; 1_000].into())], HOUR).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Exceeded);
    }

    #[tokio::test]
    async fn a_slice_does_not_keep_its_buffer() {
        let cache = open(&Config::default());
        let buffer = Bytes::from(vec![1; 10_000]);
        cache.set("k", buffer.slice(..1), HOUR, Condition::Always).await.unwrap();
        assert!(buffer.is_unique());
    }

    /// The contract's crowd seldom meets inside an operation that takes a microsecond; four threads in step do.
    #[test]
    fn threads_that_race_for_one_key_never_both_win() {
        const ROUNDS: usize = 10_000;
        let cache = open(&Config::default());
        let step = std::sync::Barrier::new(4);
        let race = |thread: usize| -> (usize, usize) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (mut taken, mut written) = (0, 0);
            runtime.block_on(async {
                for round in 0..ROUNDS {
                    if round.is_multiple_of(1_000) {
                        step.wait();
                    }
                    let key = (round % 1_000).to_string();
                    written += usize::from(cache.set(&key, "v".into(), HOUR, Condition::IfAbsent).await.unwrap());
                    if (round + thread).is_multiple_of(2) {
                        taken += usize::from(cache.take(&key).await.unwrap().is_some());
                    }
                    if round.is_multiple_of(4) {
                        cache.increment("sum", 1, HOUR).await.unwrap();
                    }
                }
            });
            (taken, written)
        };
        let (mut taken, mut written) = (0, 0);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let race = &race;
                    scope.spawn(move || race(thread))
                })
                .collect();
            for thread in threads {
                let (took, wrote) = thread.join().unwrap();
                taken += took;
                written += wrote;
            }
        });
        let left = (0..1_000).filter(|key| cache.live(&key.to_string()).is_some()).count();
        assert_eq!(written, taken + left, "what was written once was taken twice, or lost");
        assert_eq!(cache.live("sum").unwrap().value, ROUNDS.to_string());
    }

    #[test]
    fn numbers_are_read_as_redis_reads_them() {
        for (text, number) in
            [("0", 0), ("-7", -7), ("9223372036854775807", i64::MAX), ("-9223372036854775808", i64::MIN)]
        {
            assert_eq!(decimal(text.as_bytes()), Some(number));
        }
        for text in ["", "-", "+1", "01", " 1", "1 ", "1.0", "-0", "9223372036854775808", "a", "\u{ff11}"] {
            assert_eq!(decimal(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_configuration_has_a_default_and_refuses_unknown_keys() {
        assert_eq!(serde_json::from_str::<Config>("{}").unwrap().memory_max_bytes, 67_108_864);
        assert!(serde_json::from_str::<Config>("{\"memory\": 1}").is_err());
    }
}
