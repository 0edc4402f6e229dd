//! The way to Redis: one server or a cluster, shared by all calls.
//!
//! Commands go over it side by side; none of them may block it. Every call ends.
//!
//! Not here: how one server's connection is made again (`server`); a cluster's client does that itself.

use crate::config::{Config, OpenError};
use crate::copies::Copies;
use crate::errors::{Effect, failed, is_sent_away, unanswered};
use crate::server::{Server, is_gone};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::caching::{CacheConfig, CacheMode};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Cmd, Pipeline, ProtocolVersion, PushInfo, RedisError, RedisFuture, RedisResult, Value,
};
use sandpost_ports::PortError;
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// How often a command goes to a cluster again that a node sent away.
const SENT_AWAY_MAX: u32 = 2;

/// The way to Redis.
pub(crate) struct Link {
    to: To,
    call_timeout: Duration,
    seen: AtomicU8,
    /// Where this host keeps copies of what it read.
    copies: Option<Arc<Copies>>,
}

enum To {
    One(Arc<Server>),
    Many { client: Box<ClusterClient>, connection: OnceCell<ClusterConnection>, wait: Duration },
}

/// A connection for one call. Clones of it share the same sockets.
#[derive(Clone)]
pub(crate) enum Line {
    One { number: u64, connection: MultiplexedConnection },
    Many { cluster: ClusterConnection, wait: Duration },
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
            let mut settings = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(config.connect_timeout()))
                .set_response_timeout(Some(config.response_timeout()));
            if let Some(copies) = copies.clone() {
                // The client's own cache is opened for one thing: each new connection then begins with `CLIENT TRACKING ON
                // OPTIN`. No command opts in to it, so it keeps nothing.
                let tracking = CacheConfig::new().set_mode(CacheMode::OptIn).set_size(NonZeroUsize::MIN);
                settings = settings.set_cache_config(tracking).set_push_sender(move |push: PushInfo| {
                    copies.hear(&push);
                    Ok::<(), Infallible>(())
                });
            }
            To::One(Server::new(client, settings, config))
        } else {
            // The client would also send again what may have been done, and a write must not be done twice.
            let mut builder = ClusterClient::builder(nodes)
                .connection_timeout(config.connect_timeout())
                .response_timeout(config.response_timeout())
                .retries(0);
            if let Some(authorities) = authorities {
                builder = builder.certs(authorities);
            }
            let client = builder.build().map_err(OpenError::Client)?;
            let wait = Duration::from_millis(config.reconnect_min_ms);
            To::Many { client: Box::new(client), connection: OnceCell::new(), wait }
        };
        let call_timeout = Duration::from_millis(config.call_timeout_ms);
        Ok(Self { to, call_timeout, seen: AtomicU8::new(NOTHING_YET), copies })
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
        let line = match self.line().await {
            Ok(line) => line,
            // Nothing was sent.
            Err(error) => {
                let answer = Err(error);
                self.watch::<T>(&answer);
                return answer.map_err(|error| failed(error, Effect::Reads));
            }
        };
        let number = line.number();
        // Each of its commands has its own time; this is for a call of many.
        let Ok(answer) = timeout(self.call_timeout, call(line)).await else { return Err(unanswered(effect)) };
        if let (To::One(server), Some(number), Err(error)) = (&self.to, number, &answer)
            && is_gone(error)
        {
            // Before the copies go: a copy that is made after that is of the next connection.
            server.replace(number);
        }
        self.watch(&answer);
        answer.map_err(|error| failed(error, effect))
    }

    /// A connection, perhaps one that has yet to be made.
    async fn line(&self) -> RedisResult<Line> {
        match &self.to {
            To::One(server) => {
                let (number, connection) = server.connection().await?;
                Ok(Line::One { number, connection })
            }
            To::Many { client, connection, wait } => {
                let making = connection.get_or_try_init(|| client.get_async_connection());
                let made = timeout(self.call_timeout, making).await.map_err(std::io::Error::from)??;
                Ok(Line::Many { cluster: made.clone(), wait: *wait })
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
                tracing::warn!(error, "Redis is gone; it is tried again until it is there.");
            }
            _ => {}
        }
    }
}

impl Line {
    /// Whether commands over several keys have to be sent one by one.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self, Self::Many { .. })
    }

    /// Which connection to one server it is.
    fn number(&self) -> Option<u64> {
        match self {
            Self::One { number, .. } => Some(*number),
            Self::Many { .. } => None,
        }
    }
}

impl ConnectionLike for Line {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One { connection, .. } => connection.req_packed_command(cmd),
            Self::Many { cluster, wait } => Box::pin(async move {
                for _ in 0..SENT_AWAY_MAX {
                    match cluster.req_packed_command(cmd).await {
                        // The client learns meanwhile where it belongs.
                        Err(error) if is_sent_away(&error) => tokio::time::sleep(*wait).await,
                        answer => return answer,
                    }
                }
                cluster.req_packed_command(cmd).await
            }),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One { connection, .. } => connection.req_packed_commands(pipeline, offset, count),
            Self::Many { cluster, .. } => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One { connection, .. } => connection.get_db(),
            Self::Many { cluster, .. } => cluster.get_db(),
        }
    }
}
