//! The connection: one server or a cluster, shared by all calls, made when it is needed and made again when it was lost.
//!
//! Commands go over it side by side; none of them may block it.

use crate::config::{Config, OpenError};
use crate::copies::Copies;
use crate::errors::{Effect, failed};
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::caching::{CacheConfig, CacheMode};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, Pipeline, ProtocolVersion, PushInfo, RedisError, RedisFuture, RedisResult, Value};
use sandpost_ports::PortError;
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::sync::OnceCell;

/// Tries to connect that one call waits for, beside the first. The next call begins anew.
const RETRIES: usize = 2;

/// The way to Redis.
pub(crate) struct Link {
    to: To,
    seen: AtomicU8,
    /// Where this host keeps copies of what it read.
    copies: Option<Arc<Copies>>,
}

enum To {
    One(Box<ConnectionManager>),
    Many { client: Box<ClusterClient>, connection: OnceCell<ClusterConnection> },
}

/// A connection for one call. Clones of it share the same sockets.
#[derive(Clone)]
pub(crate) enum Line {
    One(ConnectionManager),
    Many(ClusterConnection),
}

/// What was last seen, so that each change is said once.
const NOTHING_YET: u8 = 0;
const THERE: u8 = 1;
const GONE: u8 = 2;

impl Link {
    pub(crate) fn new(config: &Config) -> Result<Self, OpenError> {
        let mut nodes = config.nodes()?;
        let authorities = config.authorities(&nodes)?;
        let copies =
            (config.client_side_cache_bytes > 0).then(|| Arc::new(Copies::new(config.client_side_cache_bytes)));
        let to = if config.cluster_urls.is_empty() {
            let mut node = nodes.remove(0);
            if copies.is_some() {
                // The older protocol has no way to be told of anything unasked.
                let settings = node.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
                node = node.set_redis_settings(settings);
            }
            let client = match authorities {
                Some(authorities) => redis::Client::build_with_tls(node, authorities),
                None => redis::Client::open(node),
            };
            let client = client.map_err(OpenError::Client)?;
            let mut settings = ConnectionManagerConfig::new()
                .set_connection_timeout(Some(config.connect_timeout()))
                .set_response_timeout(Some(config.response_timeout()))
                .set_number_of_retries(RETRIES)
                .set_min_delay(std::time::Duration::from_millis(config.reconnect_min_ms))
                .set_max_delay(std::time::Duration::from_millis(config.reconnect_max_ms));
            if let Some(copies) = copies.clone() {
                // The client's own cache is opened for one thing: each new connection then begins with `CLIENT TRACKING ON
                // OPTIN`. No command opts in to it, so it keeps nothing.
                let tracking = CacheConfig::new().set_mode(CacheMode::OptIn).set_size(NonZeroUsize::MIN);
                settings = settings.set_cache_config(tracking).set_push_sender(move |push: PushInfo| {
                    copies.hear(&push);
                    Ok::<(), Infallible>(())
                });
            }
            let manager = ConnectionManager::new_lazy_with_config(client, settings).map_err(OpenError::Client)?;
            To::One(Box::new(manager))
        } else {
            let mut builder = ClusterClient::builder(nodes)
                .connection_timeout(config.connect_timeout())
                .response_timeout(config.response_timeout())
                .retries(u32::try_from(RETRIES).unwrap_or(2))
                .min_retry_wait(config.reconnect_min_ms)
                .max_retry_wait(config.reconnect_max_ms);
            if let Some(authorities) = authorities {
                builder = builder.certs(authorities);
            }
            let client = builder.build().map_err(OpenError::Client)?;
            To::Many { client: Box::new(client), connection: OnceCell::new() }
        };
        Ok(Self { to, seen: AtomicU8::new(NOTHING_YET), copies })
    }

    /// What this host keeps copies in, where it does.
    pub(crate) fn copies(&self) -> Option<&Copies> {
        self.copies.as_deref()
    }

    /// Whether it is many servers.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.to, To::Many { .. })
    }

    /// Runs one call over the connection, and says what its failure means.
    pub(crate) async fn call<T, F>(&self, effect: Effect, call: impl FnOnce(Line) -> F) -> Result<T, PortError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let answer = match self.line().await {
            Ok(line) => call(line).await,
            // Nothing was sent.
            Err(error) => {
                let answer = Err(error);
                self.watch::<T>(&answer);
                return answer.map_err(|error| failed(error, Effect::Reads));
            }
        };
        self.watch(&answer);
        answer.map_err(|error| failed(error, effect))
    }

    /// A connection, perhaps one that has yet to be made.
    async fn line(&self) -> RedisResult<Line> {
        match &self.to {
            To::One(manager) => Ok(Line::One((**manager).clone())),
            To::Many { client, connection } => {
                let made = connection.get_or_try_init(|| client.get_async_connection()).await?;
                Ok(Line::Many(made.clone()))
            }
        }
    }

    /// Says when Redis went away and when it came back.
    fn watch<T>(&self, answer: &RedisResult<T>) {
        let lost = answer.as_ref().err().is_some_and(is_gone);
        if lost && let Some(copies) = &self.copies {
            copies.forget_all();
        }
        let now = if lost { GONE } else { THERE };
        let before = self.seen.swap(now, Ordering::Relaxed);
        match (before, now) {
            (NOTHING_YET | GONE, THERE) => tracing::info!("Redis is there."),
            (NOTHING_YET | THERE, GONE) => {
                let error = answer.as_ref().err().map(RedisError::category);
                tracing::warn!(error, "Redis is gone; each call tries again.");
            }
            _ => {}
        }
    }
}

fn is_gone(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_connection_refusal() || error.is_timeout()
}

impl Line {
    /// Whether commands over several keys have to be sent one by one.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self, Self::Many(_))
    }
}

impl ConnectionLike for Line {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(cmd),
            Self::Many(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Many(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Many(connection) => connection.get_db(),
        }
    }
}
