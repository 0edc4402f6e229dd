//! The port on Redis's commands.

use crate::bucket::Bucket;
use crate::config::Config;
use crate::copies::{Copies, KEYS_MAX, Keys, Written};
use crate::errors::Effect;
use crate::link::Link;
use crate::prefix;
use crate::requests::RedisRequests;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use redis::{FromRedisValue, Script, Value};
use sandpost_ports::PortError;
use sandpost_ports::cache::{Cache, Condition};
use sandpost_ports::health::Health;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Adds, and sets the time to live where this made the key. As text, because a script's numbers are floats.
const INCREMENT: &str = "
    local made = redis.call('EXISTS', KEYS[1]) == 0
    redis.call('INCRBY', KEYS[1], ARGV[1])
    if made then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
    return redis.call('GET', KEYS[1])";

/// Commands on their way at once where a cluster has to get them one by one.
const SIDE_BY_SIDE: usize = 64;

/// What `PTTL` says of a key without an end. Such a key was not made here; its end is as far away as can be said.
const NO_END: i64 = -1;

/// The cache.
pub struct RedisCache {
    link: Arc<Link>,
    batch_max: usize,
    increment: Script,
}

impl RedisCache {
    pub(crate) fn new(link: Arc<Link>, config: &Config) -> Self {
        Self { link, batch_max: config.batch_max, increment: Script::new(INCREMENT) }
    }

    /// The copies that are kept in this host now; none where none are kept. What is on its way out may be counted.
    pub fn copies(&self) -> Option<u64> {
        self.link.copies().map(Copies::count)
    }

    /// To be held over a write.
    fn written<'a>(&'a self, keys: Keys<'a>) -> Written<'a> {
        Written::new(self.link.copies(), keys)
    }

    /// What there are copies of from here; the rest from Redis, which says from then on when it changes.
    async fn get_and_keep(&self, copies: &Copies, keys: &[String]) -> Result<Vec<Option<Bytes>>, PortError> {
        let mut values: Vec<Option<Bytes>> = keys.iter().map(|key| copies.get(key)).collect();
        let asked: Vec<usize> = (0..keys.len()).filter(|place| values[*place].is_none()).collect();
        if asked.is_empty() {
            return Ok(values);
        }
        let seen: Vec<_> = asked.iter().map(|place| copies.see(&keys[*place])).collect();
        let asked_at = Instant::now();
        let (found, left): (Vec<Option<Vec<u8>>>, Vec<i64>) = self
            .link
            .call(Effect::Reads, async |mut line| {
                let mut pipeline = redis::pipe();
                // Of the next command alone.
                pipeline.cmd("CLIENT").arg("CACHING").arg("YES").ignore();
                let mget = pipeline.cmd("MGET");
                for place in &asked {
                    mget.arg(&keys[*place]);
                }
                for place in &asked {
                    pipeline.cmd("PTTL").arg(&keys[*place]);
                }
                let mut answers: Vec<Value> = pipeline.query_async(&mut line).await?;
                let left = answers.split_off(1.min(answers.len()));
                let found = answers.pop().unwrap_or(Value::Nil);
                Ok((FromRedisValue::from_redis_value(found)?, Vec::from_redis_value(Value::Array(left))?))
            })
            .await?;
        for (((place, seen), value), left_ms) in asked.into_iter().zip(seen).zip(found).zip(left) {
            let Some(value) = value.map(Bytes::from) else { continue };
            // Gone since, where it is none of both.
            let left = match left_ms {
                NO_END => Duration::MAX,
                left_ms => Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)),
            };
            copies.keep(&keys[place], seen, &value, asked_at, left);
            values[place] = Some(value);
        }
        Ok(values)
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// A bucket under this key, over the same connection.
    pub fn bucket(&self, key: String) -> Bucket {
        Bucket::new(self.link.clone(), key)
    }

    /// Publishers' requests under this prefix, over the same connection.
    pub fn requests(&self, prefix: String) -> RedisRequests {
        RedisRequests::new(self.link.clone(), prefix)
    }
}

#[async_trait::async_trait]
impl Cache for RedisCache {
    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Bytes>>, PortError> {
        if let Some(copies) = self.link.copies()
            && keys.len() <= KEYS_MAX
        {
            return self.get_and_keep(copies, keys).await;
        }
        let batch_max = self.batch_max;
        self.link
            .call(Effect::Reads, async |mut line| {
                let mut values = Vec::with_capacity(keys.len());
                for keys in keys.chunks(batch_max) {
                    let found: Vec<Option<Vec<u8>>> = redis::cmd("MGET").arg(keys).query_async(&mut line).await?;
                    values.extend(found.into_iter().map(|value| value.map(Bytes::from)));
                }
                Ok(values)
            })
            .await
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Duration, condition: Condition) -> Result<bool, PortError> {
        let ttl_ms = lifetime_ms(ttl)?;
        let _written = self.written(Keys::One(key));
        self.link
            .call(Effect::Writes, async |mut line| {
                let mut set = set(key, &value, ttl_ms);
                match condition {
                    Condition::Always => {}
                    Condition::IfAbsent => drop(set.arg("NX")),
                    Condition::IfPresent => drop(set.arg("XX")),
                }
                let written: Option<String> = set.query_async(&mut line).await?;
                Ok(written.is_some())
            })
            .await
    }

    async fn set_many(&self, entries: Vec<(String, Bytes)>, ttl: Duration) -> Result<(), PortError> {
        let ttl_ms = lifetime_ms(ttl)?;
        let batch_max = self.batch_max;
        let keys =
            if self.link.copies().is_some() { entries.iter().map(|(key, _)| key.clone()).collect() } else { vec![] };
        let _written = self.written(Keys::These(keys));
        self.link
            .call(Effect::Writes, async |mut line| {
                if line.is_cluster() {
                    // The last of two for one key stays: they would race here.
                    let last: std::collections::HashMap<String, Bytes> = entries.into_iter().collect();
                    return stream::iter(last)
                        .map(|(key, value)| {
                            let mut line = line.clone();
                            async move { set(&key, &value, ttl_ms).query_async::<()>(&mut line).await }
                        })
                        .buffer_unordered(SIDE_BY_SIDE)
                        .try_collect()
                        .await;
                }
                for entries in entries.chunks(batch_max) {
                    let mut pipeline = redis::pipe();
                    for (key, value) in entries {
                        pipeline.add_command(set(key, value, ttl_ms)).ignore();
                    }
                    pipeline.query_async::<()>(&mut line).await?;
                }
                Ok(())
            })
            .await
    }

    async fn take(&self, key: &str) -> Result<Option<Bytes>, PortError> {
        let _written = self.written(Keys::One(key));
        self.link
            .call(Effect::Writes, async |mut line| {
                let value: Option<Vec<u8>> = redis::cmd("GETDEL").arg(key).query_async(&mut line).await?;
                Ok(value.map(Bytes::from))
            })
            .await
    }

    async fn delete(&self, keys: &[String]) -> Result<u64, PortError> {
        let batch_max = self.batch_max;
        let _written = self.written(Keys::Many(keys));
        self.link
            .call(Effect::Writes, async |mut line| {
                let mut deleted = 0;
                for keys in keys.chunks(batch_max) {
                    deleted += redis::cmd("UNLINK").arg(keys).query_async::<u64>(&mut line).await?;
                }
                Ok(deleted)
            })
            .await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64, PortError> {
        if prefix.is_empty() {
            return Err(PortError::invalid("an empty prefix would delete everything"));
        }
        let batch_max = self.batch_max;
        let _written = self.written(Keys::Any);
        self.link.call(Effect::Writes, async |line| prefix::delete(line, prefix, batch_max).await).await
    }

    async fn exists(&self, key: &str) -> Result<bool, PortError> {
        self.link.call(Effect::Reads, async |mut line| redis::cmd("EXISTS").arg(key).query_async(&mut line).await).await
    }

    async fn expire(&self, key: &str, ttl: Duration) -> Result<bool, PortError> {
        let ttl_ms = millis(ttl);
        let _written = self.written(Keys::One(key));
        self.link
            .call(Effect::Writes, async |mut line| {
                redis::cmd("PEXPIRE").arg(key).arg(ttl_ms).query_async(&mut line).await
            })
            .await
    }

    async fn ttl(&self, key: &str) -> Result<Option<Duration>, PortError> {
        let left_ms: i64 = self
            .link
            .call(Effect::Reads, async |mut line| redis::cmd("PTTL").arg(key).query_async(&mut line).await)
            .await?;
        Ok(match left_ms {
            NO_END => Some(Duration::from_millis(u64::MAX)),
            left_ms => u64::try_from(left_ms).ok().map(Duration::from_millis),
        })
    }

    async fn increment(&self, key: &str, by: i64, ttl: Duration) -> Result<i64, PortError> {
        let ttl_ms = lifetime_ms(ttl)?;
        let _written = self.written(Keys::One(key));
        self.link
            .call(Effect::Writes, async |mut line| {
                self.increment.prepare_invoke().key(key).arg(by).arg(ttl_ms).invoke_async(&mut line).await
            })
            .await
    }
}

#[async_trait::async_trait]
impl Health for RedisCache {
    async fn check(&self) -> Result<(), PortError> {
        self.link.call(Effect::Reads, async |mut line| redis::cmd("PING").query_async::<()>(&mut line).await).await
    }
}

impl fmt::Debug for RedisCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCache").finish_non_exhaustive()
    }
}

fn set(key: &str, value: &Bytes, ttl_ms: i64) -> redis::Cmd {
    let mut set = redis::cmd("SET");
    set.arg(key).arg(&value[..]).arg("PX").arg(ttl_ms);
    set
}

/// What Redis takes for a time to live: at least a millisecond.
fn lifetime_ms(ttl: Duration) -> Result<i64, PortError> {
    if ttl.is_zero() {
        return Err(PortError::invalid("a time to live of nothing writes nothing"));
    }
    Ok(millis(ttl).max(1))
}

/// Redis adds it to the time of now, and refuses what does not fit then.
fn millis(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 4)
}
