//! HTTP in: publishing, looking things up, replaying, health, metrics.
//!
//! A request meets the files in this order: `serve` (connection) → `edge` (id, limits, who may) → `publish`, `messages`,
//! `mailbox`, `plugins`, `dead_letters`, `redis`, `health` or `observe` → `reject` where it is refused.
//!
//! Invariants
//! - 202 is said only once the message is durable (`ports::publisher`).
//! - A route and its description are one piece: `/openapi.json` lists what is served, nothing else.
//! - `auth::RULES` has a rule for every route, `reject` alone chooses status codes for refusals.
//! - Everything that a caller sends is bounded: head, body, time, requests and connections at one time.
//!
//! Not here: what becomes of a message (`dispatch`), the services (`ports`), reading configuration (the host).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod auth;
mod cloudevents;
mod config;
mod dead_letters;
mod draft;
mod edge;
mod health;
mod idempotency;
mod mailbox;
mod messages;
mod observe;
mod plugins;
mod publish;
mod read;
mod redis;
mod reject;
mod serve;
mod stamp;

pub use auth::{Role, Tokens, TopicPattern};
pub use config::{Config, ConfigError, TokenConfig};
pub use edge::Peer;
pub use health::{Check, CheckRole};
pub use serve::{ServeError, serve};

use axum::Router;
use axum::routing::MethodRouter;
use sandpost_message::PluginName;
use sandpost_ports::cache::CacheServer;
use sandpost_ports::clock::Clock;
use sandpost_ports::email::Mailbox;
use sandpost_ports::plugins::Plugins;
use sandpost_ports::publisher::Publisher;
use sandpost_ports::state::{Requests, State};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Writes all metrics in Prometheus's text format.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What HTTP is made of.
pub struct Parts {
    /// Valid: [`Config::validate`] said so.
    pub config: Config,
    /// The tokens of that configuration, looked up.
    pub tokens: Tokens,
    /// The host's configured name; the realm that callers are told.
    pub service: String,
    /// Where messages go.
    pub publisher: Publisher,
    /// Ledger and dead letters.
    pub state: Arc<dyn State>,
    /// Publishers' requests by `Idempotency-Key`: the state's, or another store that hosts share.
    pub requests: Arc<dyn Requests>,
    /// What `/v1/plugins` lists.
    pub plugins: Arc<dyn Plugins>,
    /// The plugins that subscriptions are bound to; `/readyz?verbose=1` says which of them are not live.
    pub handlers: Vec<PluginName>,
    /// The mail catcher, where mail is caught.
    pub mailbox: Option<Arc<dyn Mailbox>>,
    /// The server behind the cache, where that is Redis; `/api/admin/redis/stats` shows its figures.
    pub cache_server: Option<Arc<dyn CacheServer>>,
    /// What `/readyz` asks.
    pub checks: Vec<Check>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What `/metrics` shows.
    pub render_metrics: RenderMetrics,
}

/// The HTTP side of one host. Cheap to clone.
#[derive(Clone)]
pub struct Ingress {
    app: App,
}

/// What every handler gets.
type App = Arc<Inner>;

struct Inner {
    config: Config,
    tokens: Tokens,
    service: String,
    publisher: Publisher,
    state: Arc<dyn State>,
    requests: Arc<dyn Requests>,
    plugins: Arc<dyn Plugins>,
    mailbox: Option<Arc<dyn Mailbox>>,
    cache_server: Option<Arc<dyn CacheServer>>,
    health: health::Health,
    clock: Arc<dyn Clock>,
    render_metrics: RenderMetrics,
    /// The description as it is served.
    openapi: bytes::Bytes,
    /// A permit for each request at work.
    slots: Arc<Semaphore>,
    /// What goes on when its caller is gone: publishing, replaying.
    work: TaskTracker,
    /// Ends what still works after the grace.
    end: CancellationToken,
}

impl Ingress {
    /// Of these parts.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            config,
            tokens,
            service,
            publisher,
            state,
            requests,
            plugins,
            handlers,
            mailbox,
            cache_server,
            checks,
            clock,
            render_metrics,
        } = parts;
        // The description is made of constants and strings: writing it cannot fail.
        let openapi = serde_json::to_vec(&openapi()).unwrap_or_default().into();
        Self {
            app: Arc::new(Inner {
                health: health::Health::new(checks, plugins.clone(), handlers, &config),
                slots: Arc::new(Semaphore::new(config.requests_max)),
                service: service.chars().filter(|c| c.is_ascii_alphanumeric() || "-_. ".contains(*c)).collect(),
                config,
                tokens,
                publisher,
                state,
                requests,
                plugins,
                mailbox,
                cache_server,
                clock,
                render_metrics,
                openapi,
                work: TaskTracker::new(),
                end: CancellationToken::new(),
            }),
        }
    }

    /// Every route. A request has to carry its [`Peer`] where there are no tokens; [`serve`] puts it there.
    pub fn router(&self) -> Router {
        let (router, _described) = api().split_for_parts();
        router
            .fallback(edge::not_found)
            .method_not_allowed_fallback(edge::not_found)
            .layer(axum::middleware::from_fn_with_state(self.app.clone(), edge::edge))
            .with_state(self.app.clone())
    }
}

/// The description of every route, as `/openapi.json` serves it.
pub fn openapi() -> utoipa::openapi::OpenApi {
    observe::describe(api().split_for_parts().1)
}

fn api() -> OpenApiRouter<App> {
    let api = observe::base();
    let mut router = OpenApiRouter::with_openapi(api);
    // One body limit, ours, which answers with a problem.
    let all: Vec<(_, _, MethodRouter<App>)> = vec![
        routes!(publish::publish),
        routes!(publish::publish_batch),
        routes!(messages::history),
        routes!(mailbox::list),
        routes!(mailbox::one),
        routes!(plugins::list),
        routes!(dead_letters::list),
        routes!(dead_letters::one, dead_letters::discard),
        routes!(dead_letters::replay),
        routes!(redis::stats),
        routes!(health::healthz),
        routes!(health::readyz),
        routes!(health::health),
        routes!(observe::metrics),
        routes!(observe::openapi_json),
    ];
    for routes in all {
        router = router.routes(routes);
    }
    router
}
