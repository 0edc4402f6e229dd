//! Google Pub/Sub as the broker, over Google's own crate.
//!
//! A stream a subscription brings messages into this host (`feed`); handlers lease them from there (`queue`). What
//! is known of a message beside its body travels as attributes (`wire`).
//!
//! Invariants
//! - A message that was acknowledged here is acknowledged at the service, or delivered again by it; never the other way round.
//! - A retry, a hand-back and a lease that ended are this host's own: the service's lease is held meanwhile, its count of
//!   deliveries does not rise, and its own back-off does not come on top.
//! - Nothing at the service is ever changed or deleted; what is missing is made in development alone (`admin`).
//! - The service may be down when this is opened, and go and come at any time.
//! - What this host listens to is known from the first `subscribe` on (`wanted`): a message that a subscription would miss,
//!   because it is not set up yet, is refused for now, never stored without it.
//!
//! Attempts are counted by this host. What the service counts (it does where the subscription has a dead-letter policy) is
//! where that count begins, so an attempt that took the host down counts then, and only then; so does a message's being
//! given back by a stop. Without such a policy a message that comes to another host begins at 1.
//!
//! Not here: deduplication by key (the host's effects ledger has it), what waits at the service (its own monitoring has it).
//!
//! A TLS provider has to be installed for the process before [`open`]: Google's crates panic where there is none.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod admin;
mod config;
mod connection;
mod errors;
mod feed;
mod publish;
mod queue;
mod subscription;
mod wanted;
mod wire;

pub use admin::{Finding, Severity};
pub use config::{Config, Manage, OpenError};

use connection::Connection;
use errors::within;
use publish::Outgoing;
use sandpost_message::{Message, SubscriptionName, Topic};
use sandpost_ports::PortError;
use sandpost_ports::broker::{Backlog, Broker, Published, Subscription};
use sandpost_ports::clock::Clock;
use sandpost_ports::health::Health;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use subscription::Line;
use tokio::task::JoinHandle;
use wanted::Wanted;

/// The broker. Dropped without [`PubSub::close`] it gives back what it can, while the runtime lasts.
pub struct PubSub {
    connection: Arc<Connection>,
    outgoing: Outgoing,
    clock: Arc<dyn Clock>,
    wanted: Arc<Wanted>,
    lines: Mutex<HashMap<SubscriptionName, Open>>,
    /// One subscription is opened at a time: two of one name are one.
    opening: tokio::sync::Mutex<()>,
    watching: JoinHandle<()>,
}

struct Open {
    line: Arc<Line>,
    feeding: JoinHandle<()>,
}

/// Opens the broker without a round trip, from within a runtime. Fails only where the configuration cannot work.
pub fn open(config: Config, clock: Arc<dyn Clock>) -> Result<Arc<PubSub>, OpenError> {
    config.validate()?;
    let runtime = tokio::runtime::Handle::try_current().map_err(|_none| OpenError::NoRuntime)?;
    let connection = Arc::new(Connection::new(config)?);
    let watching = runtime.spawn(connection::watch_over(Arc::clone(&connection)));
    let wanted = Arc::new(Wanted::default());
    Ok(Arc::new(PubSub {
        outgoing: Outgoing::new(Arc::clone(&connection), Arc::clone(&wanted)),
        connection,
        clock,
        wanted,
        lines: Mutex::default(),
        opening: tokio::sync::Mutex::default(),
        watching,
    }))
}

impl PubSub {
    /// Compares the service with the configuration, for these subscriptions: what is missing, what has drifted, a dead-letter
    /// topic that nobody listens to. Changes nothing, in development neither. Fails where the service cannot be asked.
    pub async fn verify(&self, bindings: &[(SubscriptionName, Topic)]) -> Result<Vec<Finding>, PortError> {
        let limit = self.connection.config.call_timeout() * u32::try_from(bindings.len() + 1).unwrap_or(u32::MAX);
        within(limit, admin::verify(&self.connection, bindings)).await
    }

    /// Ends all streams: acknowledgements still on their way are sent, everything else goes back to the service, to be
    /// delivered again after its back-off. Takes `call_timeout_ms` at most. For the end of the program, after dispatch.
    pub async fn close(&self) {
        let open: Vec<Open> = self.lines().drain().map(|(_, open)| open).collect();
        for Open { line, .. } in &open {
            line.begin_close();
        }
        for Open { line, feeding } in open {
            // It ends by itself, in bounded time.
            if feeding.await.is_err() {
                tracing::warn!(subscription = %line.name, "The stream did not end in order.");
            }
        }
        self.watching.abort();
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<SubscriptionName, Open>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, name: &SubscriptionName) -> Option<Arc<Line>> {
        self.lines().get(name).map(|open| Arc::clone(&open.line))
    }
}

impl Drop for PubSub {
    fn drop(&mut self) {
        self.watching.abort();
        for (_, Open { line, feeding }) in self.lines().drain() {
            feeding.abort();
            line.begin_close();
            line.queue().clear();
        }
    }
}

#[async_trait::async_trait]
impl Health for PubSub {
    async fn check(&self) -> Result<(), PortError> {
        self.connection.round_trip().await?;
        self.wanted.check()
    }
}

#[async_trait::async_trait]
impl Broker for PubSub {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Published, PortError>> {
        self.outgoing.publish(messages, self.clock.now_ms()).await
    }

    async fn subscribe(&self, name: &SubscriptionName, topic: &Topic) -> Result<Arc<dyn Subscription>, PortError> {
        // Before any waiting: whoever asked may be gone by then, and messages of the topic come all the same.
        self.wanted.want(name, topic)?;
        let _one = self.opening.lock().await;
        if let Some(line) = self.opened(name) {
            return Ok(line);
        }
        let limit = self.connection.config.call_timeout();
        let there = within(limit, Box::pin(admin::ensure(&self.connection, name, topic))).await;
        self.wanted.came_to(name, &there);
        there.inspect_err(|error| {
            if error.is_transient() {
                self.connection.doubt();
            }
        })?;
        let line = Arc::new(Line::new(name.clone(), topic.clone(), Arc::clone(&self.clock), limit));
        let feeding =
            tokio::spawn(feed::feed(Arc::clone(&line), Arc::clone(&self.connection), Arc::clone(&self.wanted)));
        self.lines().insert(name.clone(), Open { line: Arc::clone(&line), feeding });
        Ok(line)
    }

    /// Always [`ErrorKind::Unsupported`](sandpost_ports::ErrorKind): the service tells it to its monitoring alone.
    async fn backlog(&self, _name: &SubscriptionName) -> Result<Backlog, PortError> {
        Err(PortError::unsupported(
            "Pub/Sub does not tell what waits; its monitoring does, as `num_undelivered_messages`",
        ))
    }

    fn deduplicates(&self) -> bool {
        false
    }
}
