//! Redis as the cache: one server, or a cluster. Over the same connection, what several hosts share: a bucket that paces them,
//! and the requests of their publishers.
//!
//! Keys come whole: prefix and scope were put on before, so that a team's keys of before stay readable.
//!
//! Invariants
//! - Opening never waits for Redis and never fails because it is down: the first call asks for a connection, and one that was
//!   lost is made again, for ever, whether anybody calls or not.
//! - Every call ends: waiting for a connection, each answer and the whole have a time.
//! - A write whose answer did not come is [`ErrorKind::UnknownOutcome`](sandpost_ports::ErrorKind); a read is
//!   [`ErrorKind::Unavailable`](sandpost_ports::ErrorKind), because reading twice does no harm.
//! - Nothing here blocks a connection that others share: no `BLPOP`, no `SUBSCRIBE`, no `KEYS`.
//! - A copy that this host keeps of an entry is right as far as Redis told it; by default it keeps none.
//!
//! Needs Redis 6.2 or newer (`GETDEL`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod bucket;
mod cache;
mod config;
mod copies;
mod errors;
mod figures;
mod link;
mod prefix;
mod requests;
mod server;

pub use bucket::{Bucket, Turn};
pub use cache::RedisCache;
pub use config::{Config, OpenError};
pub use requests::RedisRequests;

use std::sync::Arc;

/// Prepares the cache; the first call connects.
///
/// Fails where the configuration cannot work: no address, or one that cannot be read. Must be called inside a Tokio
/// runtime, on which the connection then lives. With a `rediss://` address the process needs a rustls provider.
pub fn open(config: &Config) -> Result<Arc<RedisCache>, OpenError> {
    Ok(Arc::new(RedisCache::new(Arc::new(link::Link::new(config)?), config)))
}
