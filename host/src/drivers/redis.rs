//! The cache's Redis, and what it is there for beside the cache: the pace of mail that several hosts send, and the requests of
//! their publishers.
//!
//! One connection serves all of it. What is not the cache lies under `sandpost:` behind the cache's prefix.
//!
//! Not here: what each is (`sandpost_redis`), who else paces mail (`pace`).

use super::Opening;
use crate::config::Config;
use crate::exit::Expected;
use sandpost_ports::cache::{Cache, CacheServer};
use sandpost_ports::state::Requests;
use std::sync::Arc;

/// What the host has of it.
pub(super) struct OfRedis {
    pub(super) cache: Arc<dyn Cache>,
    pub(super) server: Arc<dyn CacheServer>,
    /// None where the state has them.
    pub(super) requests: Option<Arc<dyn Requests>>,
    pub(super) pace: Option<SharedPace>,
}

#[cfg(all(feature = "redis", feature = "ses"))]
pub(super) type SharedPace = Arc<dyn sandpost_ses::Pace>;

/// Of a build that lacks one of the two: there is none.
#[cfg(not(all(feature = "redis", feature = "ses")))]
pub(super) type SharedPace = std::convert::Infallible;

#[cfg(feature = "redis")]
pub(super) fn cache(config: &Config) -> Result<Arc<sandpost_redis::RedisCache>, Expected> {
    sandpost_redis::open(&config.cache.redis).map_err(|error| super::wrong("cache.redis", &error))
}

#[cfg(feature = "redis")]
pub(super) fn open(config: &Config, opening: &Opening<'_>) -> Result<OfRedis, Expected> {
    let redis = cache(config)?;
    let guard = opening.guard("cache", DRIVER);
    Ok(OfRedis {
        pace: pace(config, opening, &redis),
        requests: requests(config, &redis, &guard),
        server: Arc::new(sandpost_guard::GuardedCacheServer::new(redis.clone(), guard.clone())),
        cache: Arc::new(sandpost_guard::GuardedCache::new(redis, guard)),
    })
}

/// A state that hosts share keeps them too, and durably; one of this host alone does not show them to the others.
#[cfg(feature = "redis")]
fn requests(
    config: &Config,
    redis: &sandpost_redis::RedisCache,
    guard: &Arc<sandpost_guard::Connection>,
) -> Option<Arc<dyn Requests>> {
    use crate::config::services::StateDriver;
    match (config.cache.idempotency, config.state.driver) {
        (true, StateDriver::Embedded) => {
            tracing::info!("Idempotency keys lie in the cache, which hosts share.");
            let requests = Arc::new(redis.requests(key(config, "request:")));
            Some(Arc::new(sandpost_guard::GuardedRequests::new(requests, guard.clone())))
        }
        (_, StateDriver::Shared) | (false, _) => None,
    }
}

/// The bucket that all hosts of the same cache take from, where this one sends by SES.
#[cfg(all(feature = "redis", feature = "ses"))]
fn pace(config: &Config, opening: &Opening<'_>, redis: &sandpost_redis::RedisCache) -> Option<SharedPace> {
    if config.email.driver != crate::config::services::EmailDriver::Ses {
        return None;
    }
    let bucket = redis.bucket(key(config, &format!("bucket:{}", config.email.ses.rate_bucket)));
    Some(Arc::new(super::pace::SharedPace::new(bucket, opening.guard("email.bucket", DRIVER))))
}

#[cfg(all(feature = "redis", not(feature = "ses")))]
fn pace(_: &Config, _: &Opening<'_>, _: &sandpost_redis::RedisCache) -> Option<SharedPace> {
    None
}

/// The word of the driver, as in the configuration.
#[cfg(feature = "redis")]
const DRIVER: &str = "redis";

/// A key of the host's own.
#[cfg(feature = "redis")]
fn key(config: &Config, name: &str) -> String {
    format!("{}sandpost:{name}", config.cache.key_prefix)
}

#[cfg(not(feature = "redis"))]
pub(super) fn cache(_: &Config) -> Result<Arc<dyn Cache>, Expected> {
    super::absent("redis")
}

#[cfg(not(feature = "redis"))]
pub(super) fn open(_: &Config, _: &Opening<'_>) -> Result<OfRedis, Expected> {
    super::absent("redis")
}
