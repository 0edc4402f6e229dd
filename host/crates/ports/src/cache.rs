//! The cache: bytes by key, with a time to live.
//!
//! Keys are whole here: prefix and scope were put on by `interfaces`. A cache may forget anything at any time.

use crate::PortError;
use crate::health::Health;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;

/// When a write takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Whatever is there.
    Always,
    /// Only where the key does not exist.
    IfAbsent,
    /// Only where it does.
    IfPresent,
}

/// Bytes by key. Every operation on one key is atomic.
#[async_trait::async_trait]
pub trait Cache: Health {
    /// In the order of `keys`.
    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Bytes>>, PortError>;

    /// Whether it was written. Replaces value and time to live.
    async fn set(&self, key: &str, value: Bytes, ttl: Duration, condition: Condition) -> Result<bool, PortError>;

    /// Writes all of them; not atomic over the keys.
    async fn set_many(&self, entries: Vec<(String, Bytes)>, ttl: Duration) -> Result<(), PortError>;

    /// Gets and deletes in one step: of two callers, one gets the value.
    async fn take(&self, key: &str) -> Result<Option<Bytes>, PortError>;

    /// How many of them there were.
    async fn delete(&self, keys: &[String]) -> Result<u64, PortError>;

    /// Deletes what begins with `prefix`; how many. Entries written meanwhile may stay.
    async fn delete_prefix(&self, prefix: &str) -> Result<u64, PortError>;

    /// Whether the key is there.
    async fn exists(&self, key: &str) -> Result<bool, PortError>;

    /// Sets the time to live from now; whether the key was there.
    async fn expire(&self, key: &str, ttl: Duration) -> Result<bool, PortError>;

    /// What is left to live; none where there is no such key.
    async fn ttl(&self, key: &str) -> Result<Option<Duration>, PortError>;

    /// Adds to the decimal number under the key, 0 where there is none, and returns the sum.
    ///
    /// `ttl` counts only where this call made the key. [`ErrorKind::Invalid`](crate::ErrorKind) where the value is no
    /// decimal 64-bit number or the sum would not be one; the value then stays.
    async fn increment(&self, key: &str, by: i64, ttl: Duration) -> Result<i64, PortError>;
}

/// The server behind a cache, where there is one, as its operators look at it. Not for plugins.
#[async_trait::async_trait]
pub trait CacheServer: Send + Sync {
    /// What it counts now. Without addresses and without keys.
    async fn figures(&self) -> Result<CacheFigures, PortError>;
}

/// The figures of a cache's server under the server's own names, in its own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheFigures {
    /// Commands, hits and misses, what expired and was evicted.
    pub stats: BTreeMap<String, String>,
    /// What it takes, and may take.
    pub memory: BTreeMap<String, String>,
    /// Who is connected, by number.
    pub clients: BTreeMap<String, String>,
}
