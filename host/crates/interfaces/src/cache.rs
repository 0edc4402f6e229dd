//! `cache`: the plugin's keys over the host's cache. A key on the server is host prefix, then scope, then the plugin's
//! own; the plugin sees its own alone.
//!
//! Not here: eviction and bounds of the whole cache (the driver).

use crate::bindings::Error;
use crate::bindings::cache::{Condition, Host};
use crate::call::{Call, CallError, Scope, sum};
use crate::grants::{CACHE_KEY_MAX_BYTES, is_cache_key};
use bytes::Bytes;
use sandpost_ports::cache as port;
use sandpost_telemetry::events::interfaces as events;
use std::time::Duration;

const CACHE: &str = "cache";

/// The longest time to live: one year. A cache is no store.
const TTL_MAX: Duration = Duration::from_hours(365 * 24);

type Answer<T> = wasmtime::Result<Result<T, Error>>;

impl Host for Call {
    async fn get(&mut self, key: String) -> Answer<Option<Vec<u8>>> {
        let entered = self.enter(CACHE, "get", key.len())?;
        let answer = self.scope.cache_get(&[key]).await.map(|values| values.into_iter().next().flatten());
        self.leave(entered, answer, |value| value.as_ref().map_or(0, Vec::len))
    }

    async fn get_many(&mut self, keys: Vec<String>) -> Answer<Vec<Option<Vec<u8>>>> {
        let entered = self.enter(CACHE, "get-many", sum(keys.iter().map(String::len)))?;
        let answer = self.scope.cache_get(&keys).await;
        self.leave(entered, answer, |values| sum(values.iter().flatten().map(Vec::len)))
    }

    async fn set(&mut self, key: String, value: Vec<u8>, ttl: Option<u64>, condition: Condition) -> Answer<bool> {
        let entered = self.enter(CACHE, "set", key.len().saturating_add(value.len()))?;
        let answer = self.scope.cache_set(&key, value, ttl, condition).await;
        self.leave(entered, answer, |_| 0)
    }

    async fn set_many(&mut self, entries: Vec<(String, Vec<u8>)>, ttl: Option<u64>) -> Answer<()> {
        let bytes = sum(entries.iter().map(|(key, value)| key.len().saturating_add(value.len())));
        let entered = self.enter(CACHE, "set-many", bytes)?;
        let answer = self.scope.cache_set_many(entries, ttl).await;
        self.leave(entered, answer, |()| 0)
    }

    async fn take(&mut self, key: String) -> Answer<Option<Vec<u8>>> {
        let entered = self.enter(CACHE, "take", key.len())?;
        let answer = self.scope.cache_take(&key).await;
        self.leave(entered, answer, |value| value.as_ref().map_or(0, Vec::len))
    }

    async fn delete(&mut self, keys: Vec<String>) -> Answer<u64> {
        let entered = self.enter(CACHE, "delete", sum(keys.iter().map(String::len)))?;
        let answer = self.scope.cache_delete(&keys).await;
        self.leave(entered, answer, |_| 0)
    }

    async fn delete_prefix(&mut self, prefix: String) -> Answer<u64> {
        let entered = self.enter(CACHE, "delete-prefix", prefix.len())?;
        let answer = self.scope.cache_delete_prefix(&prefix).await;
        self.leave(entered, answer, |_| 0)
    }

    async fn exists(&mut self, key: String) -> Answer<bool> {
        let entered = self.enter(CACHE, "exists", key.len())?;
        let scope = self.scope.clone();
        let answer = match scope.readable(&key) {
            Ok(whole) => scope.on_io(scope.ports().cache.exists(&whole)).await.map_err(CallError::from),
            Err(error) => Err(error),
        };
        self.leave(entered, answer, |_| 0)
    }

    async fn expire(&mut self, key: String, ttl: u64) -> Answer<bool> {
        let entered = self.enter(CACHE, "expire", key.len())?;
        let scope = self.scope.clone();
        let answer = match scope.writable(&key) {
            Ok(whole) => {
                scope.on_io(scope.ports().cache.expire(&whole, scope.ttl(Some(ttl)))).await.map_err(CallError::from)
            }
            Err(error) => Err(error),
        };
        self.leave(entered, answer, |_| 0)
    }

    async fn ttl(&mut self, key: String) -> Answer<Option<u64>> {
        let entered = self.enter(CACHE, "ttl", key.len())?;
        let scope = self.scope.clone();
        let answer = match scope.readable(&key) {
            Ok(whole) => scope.on_io(scope.ports().cache.ttl(&whole)).await.map_err(CallError::from),
            Err(error) => Err(error),
        };
        let answer = answer.map(|left| left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)));
        self.leave(entered, answer, |_| 0)
    }

    async fn increment(&mut self, key: String, by: i64, ttl: Option<u64>) -> Answer<i64> {
        let entered = self.enter(CACHE, "increment", key.len())?;
        let scope = self.scope.clone();
        let answer = match scope.writable(&key) {
            Ok(whole) => {
                scope.on_io(scope.ports().cache.increment(&whole, by, scope.ttl(ttl))).await.map_err(CallError::from)
            }
            Err(error) => Err(error),
        };
        self.leave(entered, answer, |_| 0)
    }
}

impl Scope {
    async fn cache_get(&self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, CallError> {
        self.check_count(keys.len())?;
        let whole = keys.iter().map(|key| self.readable(key)).collect::<Result<Vec<_>, _>>()?;
        if whole.is_empty() {
            return Ok(Vec::new());
        }
        let values = self.on_io(self.ports().cache.get_many(&whole)).await?;
        let hits = values.iter().flatten().count() as u64;
        if !self.context.trial {
            events::CacheRead { hits, misses: (whole.len() as u64).saturating_sub(hits) }.emit();
        }
        Ok(values.into_iter().map(|value| value.map(Vec::from)).collect())
    }

    async fn cache_set(
        &self,
        key: &str,
        value: Vec<u8>,
        ttl: Option<u64>,
        condition: Condition,
    ) -> Result<bool, CallError> {
        let whole = self.writable(key)?;
        self.check_value(&value)?;
        let condition = match condition {
            Condition::Always => port::Condition::Always,
            Condition::IfAbsent => port::Condition::IfAbsent,
            Condition::IfPresent => port::Condition::IfPresent,
        };
        Ok(self.on_io(self.ports().cache.set(&whole, Bytes::from(value), self.ttl(ttl), condition)).await?)
    }

    async fn cache_set_many(&self, entries: Vec<(String, Vec<u8>)>, ttl: Option<u64>) -> Result<(), CallError> {
        self.check_count(entries.len())?;
        let mut whole = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            self.check_value(&value)?;
            whole.push((self.writable(&key)?, Bytes::from(value)));
        }
        if whole.is_empty() {
            return Ok(());
        }
        Ok(self.on_io(self.ports().cache.set_many(whole, self.ttl(ttl))).await?)
    }

    async fn cache_take(&self, key: &str) -> Result<Option<Vec<u8>>, CallError> {
        // Taking tells what was there: both verbs are needed, and a grant that writes reads too.
        let whole = self.writable(key)?;
        Ok(self.on_io(self.ports().cache.take(&whole)).await?.map(Vec::from))
    }

    async fn cache_delete(&self, keys: &[String]) -> Result<u64, CallError> {
        self.check_count(keys.len())?;
        let whole = keys.iter().map(|key| self.writable(key)).collect::<Result<Vec<_>, _>>()?;
        if whole.is_empty() {
            return Ok(0);
        }
        Ok(self.on_io(self.ports().cache.delete(&whole)).await?)
    }

    async fn cache_delete_prefix(&self, prefix: &str) -> Result<u64, CallError> {
        let whole = self.writable(prefix)?;
        Ok(self.on_io(self.ports().cache.delete_prefix(&whole)).await?)
    }

    fn readable(&self, key: &str) -> Result<String, CallError> {
        self.whole(key, |grants| grants.may_read_cache(key))
    }

    fn writable(&self, key: &str) -> Result<String, CallError> {
        self.whole(key, |grants| grants.may_write_cache(key))
    }

    /// The key as the server has it, if it may be used so.
    fn whole(&self, key: &str, check: impl FnOnce(&crate::Grants) -> Result<(), String>) -> Result<String, CallError> {
        if !is_cache_key(key) {
            return Err(CallError::invalid(format!(
                "a cache key or prefix is 1 to {CACHE_KEY_MAX_BYTES} bytes without control characters"
            )));
        }
        check(self.grants()).map_err(CallError::Denied)?;
        Ok(format!("{}{}{key}", self.ports().cache_prefix, self.context.cache_scope))
    }

    fn ttl(&self, ttl_ms: Option<u64>) -> Duration {
        ttl_ms.map_or(self.ports().cache_default_ttl, Duration::from_millis).min(TTL_MAX)
    }

    fn check_count(&self, keys: usize) -> Result<(), CallError> {
        let limit = self.limits().cache_keys_max;
        if keys > limit {
            Err(CallError::exceeded(format!("{keys} keys in one call; at most {limit}")))
        } else {
            Ok(())
        }
    }

    fn check_value(&self, value: &[u8]) -> Result<(), CallError> {
        let (size, limit) = (value.len(), self.limits().cache_value_max_bytes);
        if size > limit {
            return Err(CallError::exceeded(format!("a cache value of {size} bytes; at most {limit}")));
        }
        Ok(())
    }
}
