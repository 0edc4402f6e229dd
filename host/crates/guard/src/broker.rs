//! The guard before a broker.
//!
//! Publishing is guarded. A subscription's settlements and extensions are measured and never refused: a lease that could
//! still be settled must not run out because publishing failed. Pulling waits as long as there is nothing, and dispatch
//! tries it again by itself: it is passed through.

use crate::connection::Connection;
use sandpost_message::{Message, SubscriptionName, Topic};
use sandpost_ports::PortError;
use sandpost_ports::broker::{Backlog, Broker, Delivery, Published, Receipt, Settlement, Subscription};
use sandpost_ports::health::{Health, PoolUse};
use sandpost_telemetry::events::connections::Operation;
use std::sync::Arc;

/// A broker behind its guard.
pub struct GuardedBroker {
    inner: Arc<dyn Broker>,
    connection: Arc<Connection>,
    publish: Operation,
    subscribe: Operation,
    backlog: Operation,
    settling: Arc<Settling>,
}

struct Settling {
    settle: Operation,
    extend: Operation,
}

struct GuardedSubscription {
    inner: Arc<dyn Subscription>,
    connection: Arc<Connection>,
    settling: Arc<Settling>,
}

impl GuardedBroker {
    /// Stands before `inner`.
    pub fn new(inner: Arc<dyn Broker>, connection: Arc<Connection>) -> Self {
        let settling =
            Arc::new(Settling { settle: connection.operation("settle"), extend: connection.operation("extend") });
        Self {
            inner,
            publish: connection.operation("publish"),
            subscribe: connection.operation("subscribe"),
            backlog: connection.operation("backlog"),
            connection,
            settling,
        }
    }
}

#[async_trait::async_trait]
impl Broker for GuardedBroker {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Published, PortError>> {
        let count = messages.len();
        self.connection.call_many(&self.publish, count, self.inner.publish(messages)).await
    }

    async fn subscribe(&self, name: &SubscriptionName, topic: &Topic) -> Result<Arc<dyn Subscription>, PortError> {
        let inner = self.connection.call(&self.subscribe, self.inner.subscribe(name, topic)).await?;
        let (connection, settling) = (self.connection.clone(), self.settling.clone());
        Ok(Arc::new(GuardedSubscription { inner, connection, settling }))
    }

    async fn backlog(&self, name: &SubscriptionName) -> Result<Backlog, PortError> {
        self.connection.call(&self.backlog, self.inner.backlog(name)).await
    }

    fn deduplicates(&self) -> bool {
        self.inner.deduplicates()
    }
}

#[async_trait::async_trait]
impl Subscription for GuardedSubscription {
    async fn next(&self, max: usize, lease_ms: u64) -> Result<Vec<Delivery>, PortError> {
        self.inner.next(max, lease_ms).await
    }

    async fn settle(&self, receipt: Receipt, settlement: Settlement) -> Result<(), PortError> {
        self.connection.go_on(&self.settling.settle, self.inner.settle(receipt, settlement)).await
    }

    async fn extend(&self, receipt: &Receipt, lease_ms: u64) -> Result<(), PortError> {
        self.connection.go_on(&self.settling.extend, self.inner.extend(receipt, lease_ms)).await
    }
}

#[async_trait::async_trait]
impl Health for GuardedBroker {
    async fn check(&self) -> Result<(), PortError> {
        self.connection.check(&*self.inner).await
    }

    fn pool(&self) -> Option<PoolUse> {
        self.inner.pool()
    }
}
