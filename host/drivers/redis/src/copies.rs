//! Copies of what was read, kept in this host as long as Redis says that they are right: client-side caching.
//!
//! Redis remembers which keys this connection was told of (`CLIENT TRACKING`, for reads that ask for it) and says when one of
//! them changes. A copy that was said to be wrong is gone.
//!
//! Invariants
//! - An answer is kept only if nothing was said of its key since the question was put: the word that a value is wrong may
//!   overtake the value on its way through this host. So every question takes a [`Seen`] first, and [`Copies::keep`] compares.
//! - What this host writes itself is forgotten when the write has ended, however it ended ([`Written`]): who writes and then
//!   reads gets what was written, or something newer.
//! - With the connection goes every copy, because nobody says any more which are wrong.
//! - No copy outlives the entry's time to live, nor [`AGE_MAX`]: a connection that is dead and does not know it shows what is
//!   older at most that long.
//! - All of it stays within its bytes; the least recently used goes first.
//!
//! The client library (1.8.1) has such a cache too. It is not used: it keeps an answer whatever was said of its key meanwhile,
//! and does not forget what the host itself writes. `examples/hot_key.rs` counts what comes of that.
//!
//! Not here: a cluster, where each key's node would have to be listened to.

use bytes::Bytes;
use moka::policy::EvictionPolicy;
use moka::sync::Cache as Moka;
use redis::{FromRedisValue as _, PushInfo, PushKind, Value};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The oldest that a copy may be. Short, because it is all that bounds what a host sees that was cut off without a word; a key
/// that is read a thousand times a second costs Redis one answer in this time all the same.
pub(crate) const AGE_MAX: Duration = Duration::from_secs(10);

/// Keys of one read that copies are kept of. A read of more is a batch, not a hot key, and each copy costs a `PTTL`.
pub(crate) const KEYS_MAX: usize = 16;

/// A value of more than this part of all bytes is not kept: it would drive out everything else.
const VALUE_PART: usize = 8;

/// What an entry takes beside its key and value: moka's node, its place in two queues and a timer, two `Arc`s.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// Counters for what was said of keys. Two keys on one counter keep each other's answers from being kept now and then, and
/// nothing worse.
const STRIPES: usize = 256;

/// The copies of one connection.
pub(crate) struct Copies {
    entries: Moka<String, Copy>,
    value_max_bytes: usize,
    /// What was said so far, by the hash of the key. Held while a copy is written, so that nothing is said meanwhile.
    said: Vec<Mutex<u64>>,
    hasher: RandomState,
    /// Goes up with every connection that was lost. A copy of an earlier one is none.
    era: AtomicU64,
}

#[derive(Clone)]
struct Copy {
    value: Bytes,
    ends_at: Instant,
    era: u64,
}

/// What had been said when a question was put.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    said: u64,
    era: u64,
}

impl Copies {
    pub(crate) fn new(max_bytes: usize) -> Self {
        let entries = Moka::builder()
            .max_capacity(u64::try_from(max_bytes).unwrap_or(u64::MAX))
            .weigher(|key: &String, copy: &Copy| {
                u32::try_from(key.len() + copy.value.len() + ENTRY_OVERHEAD_BYTES).unwrap_or(u32::MAX)
            })
            .eviction_policy(EvictionPolicy::lru())
            .time_to_live(AGE_MAX)
            .build();
        Self {
            entries,
            value_max_bytes: max_bytes / VALUE_PART,
            said: (0..STRIPES).map(|_| Mutex::new(0)).collect(),
            hasher: RandomState::new(),
            era: AtomicU64::new(0),
        }
    }

    /// The copy, if there is one that is right as far as this host was told.
    pub(crate) fn get(&self, key: &str) -> Option<Bytes> {
        let copy = self.entries.get(key)?;
        (copy.era == self.era.load(Ordering::Acquire) && Instant::now() < copy.ends_at).then_some(copy.value)
    }

    /// Before a question about this key is put.
    pub(crate) fn see(&self, key: &str) -> Seen {
        // The era first: one that ends in between is an old one then.
        let era = self.era.load(Ordering::Acquire);
        Seen { said: *self.stripe(key), era }
    }

    /// Keeps an answer, unless something was said of its key since the question. `left` is what the entry has to live, counted
    /// from `asked_at`.
    pub(crate) fn keep(&self, key: &str, seen: Seen, value: &Bytes, asked_at: Instant, left: Duration) {
        if value.len() > self.value_max_bytes {
            return;
        }
        let ends_at = asked_at + left.min(AGE_MAX);
        let said = self.stripe(key);
        if *said == seen.said {
            self.entries.insert(key.to_owned(), Copy { value: value.clone(), ends_at, era: seen.era });
        }
    }

    /// Something was said of this key, or written to it.
    pub(crate) fn forget(&self, key: &str) {
        let mut said = self.stripe(key);
        *said = said.wrapping_add(1);
        self.entries.invalidate(key);
    }

    /// Nothing that is kept, and no answer to a question that was put before, is right any more.
    pub(crate) fn forget_all(&self) {
        self.era.fetch_add(1, Ordering::AcqRel);
        self.entries.invalidate_all();
    }

    /// What the connection says without being asked.
    pub(crate) fn hear(&self, push: &PushInfo) {
        match push.kind {
            PushKind::Invalidate => match push.data.first() {
                Some(Value::Array(keys)) => {
                    for key in keys {
                        match String::from_redis_value_ref(key) {
                            Ok(key) => self.forget(&key),
                            // Nothing that was read here has such a key.
                            Err(_) => self.forget_all(),
                        }
                    }
                }
                // The whole database was emptied.
                _ => self.forget_all(),
            },
            PushKind::Disconnection => self.forget_all(),
            _ => {}
        }
    }

    /// The copies that there are, for tests and measurements; what is on its way out may be counted.
    pub(crate) fn count(&self) -> u64 {
        self.entries.run_pending_tasks();
        self.entries.entry_count()
    }

    fn stripe(&self, key: &str) -> std::sync::MutexGuard<'_, u64> {
        let hash = usize::try_from(self.hasher.hash_one(key) % (STRIPES as u64)).unwrap_or(0);
        self.said[hash].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets what was written, when it is dropped: after the write was answered, failed, or was given up.
pub(crate) struct Written<'a> {
    copies: Option<&'a Copies>,
    keys: Keys<'a>,
}

/// What is written.
pub(crate) enum Keys<'a> {
    One(&'a str),
    Many(&'a [String]),
    These(Vec<String>),
    /// Nobody knows which.
    Any,
}

impl<'a> Written<'a> {
    pub(crate) fn new(copies: Option<&'a Copies>, keys: Keys<'a>) -> Self {
        Self { copies, keys }
    }
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        let Some(copies) = self.copies else { return };
        match &self.keys {
            Keys::One(key) => copies.forget(key),
            Keys::Many(keys) => keys.iter().for_each(|key| copies.forget(key)),
            Keys::These(keys) => keys.iter().for_each(|key| copies.forget(key)),
            Keys::Any => copies.forget_all(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    fn said(keys: &[&str]) -> PushInfo {
        let keys = keys.iter().map(|key| Value::BulkString(key.as_bytes().to_vec())).collect();
        PushInfo { kind: PushKind::Invalidate, data: vec![Value::Array(keys)] }
    }

    fn keep(copies: &Copies, key: &str, value: &'static str) {
        copies.keep(key, copies.see(key), &Bytes::from_static(value.as_bytes()), Instant::now(), LONG);
    }

    #[test]
    fn what_was_said_to_be_wrong_is_gone_and_nothing_else() {
        let copies = Copies::new(1 << 20);
        keep(&copies, "a", "1");
        keep(&copies, "b", "2");
        assert_eq!((copies.get("a"), copies.get("b")), (Some("1".into()), Some("2".into())));
        copies.hear(&said(&["a", "never read"]));
        assert_eq!((copies.get("a"), copies.get("b")), (None, Some("2".into())));
        copies.hear(&PushInfo { kind: PushKind::Invalidate, data: vec![Value::Nil] });
        assert_eq!(copies.get("b"), None);
        keep(&copies, "b", "3");
        copies.hear(&PushInfo { kind: PushKind::Disconnection, data: vec![] });
        assert_eq!(copies.get("b"), None);
    }

    #[test]
    fn an_answer_that_was_overtaken_is_not_kept() {
        let copies = Copies::new(1 << 20);
        let asked_at = Instant::now();
        let seen = copies.see("a");
        copies.hear(&said(&["a"]));
        copies.keep("a", seen, &Bytes::from_static(b"old"), asked_at, LONG);
        assert_eq!(copies.get("a"), None);
        let seen = copies.see("a");
        copies.forget_all();
        copies.keep("a", seen, &Bytes::from_static(b"of a lost connection"), asked_at, LONG);
        assert_eq!(copies.get("a"), None);
        let seen = copies.see("a");
        drop(Written::new(Some(&copies), Keys::One("a")));
        copies.keep("a", seen, &Bytes::from_static(b"before the write"), asked_at, LONG);
        assert_eq!(copies.get("a"), None);
    }

    #[test]
    fn no_copy_outlives_its_entry_and_all_stay_within_their_bytes() {
        let copies = Copies::new(64 * 1024);
        let value = Bytes::from(vec![0; 1024]);
        copies.keep("short", copies.see("short"), &value, Instant::now(), Duration::ZERO);
        assert_eq!(copies.get("short"), None);
        let long_ago = Instant::now().checked_sub(AGE_MAX).unwrap();
        copies.keep("old", copies.see("old"), &value, long_ago, LONG);
        assert_eq!(copies.get("old"), None);
        copies.keep("large", copies.see("large"), &Bytes::from(vec![0; 9 * 1024]), Instant::now(), LONG);
        assert_eq!(copies.get("large"), None);
        for number in 0..1_000 {
            let key = number.to_string();
            copies.keep(&key, copies.see(&key), &value, Instant::now(), LONG);
        }
        let kept = copies.count();
        assert!((1..=64 * 1024 / (1024 + 256)).contains(&kept), "{kept}");
    }
}
