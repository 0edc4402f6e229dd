//! Services for the trial of a plugin: the embedded drivers on memory alone, holding what the sample says.
//!
//! Invariant: nothing that a sample does reaches a service of the host.

use crate::drivers::scratch::{self, Services};
use crate::health::HealthBoard;
use bytes::Bytes;
use sandpost_interfaces::Ports;
use sandpost_interfaces::effects::Effects;
use sandpost_message::{ConnectionLabel, Message, SubscriptionName, Topic};
use sandpost_ports::broker::{Backlog, Broker, Published, Subscription};
use sandpost_ports::cache::Condition;
use sandpost_ports::clock::Clock;
use sandpost_ports::email::Address;
use sandpost_ports::health::Health;
use sandpost_ports::publisher::Publisher;
use sandpost_ports::sql::Sql;
use sandpost_ports::{BoxError, ErrorKind, PortError};
use sandpost_runtime::ScratchPorts;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Makes scratch services with the settings of the host's own.
pub(crate) struct Scratch {
    clock: Arc<dyn Clock>,
    cache_prefix: String,
    cache_default_ttl: Duration,
    default_sender: Address,
    mail_limits: sandpost_mail::Limits,
    io: Handle,
}

impl Scratch {
    /// As these are set, on memory.
    pub(crate) fn like(ports: &Ports) -> Self {
        // A sample that sends must not fail because the operator left the default sender out.
        let nobody = Address { name: None, address: "trial@sandpost.invalid".to_owned() };
        Self {
            clock: ports.clock.clone(),
            cache_prefix: ports.cache_prefix.clone(),
            cache_default_ttl: ports.cache_default_ttl,
            default_sender: ports.default_sender.clone().unwrap_or(nobody),
            mail_limits: ports.mail_limits.clone(),
            io: ports.io.clone(),
        }
    }
}

#[async_trait::async_trait]
impl ScratchPorts for Scratch {
    async fn open(&self, wanted: sandpost_runtime::Scratch<'_>) -> Result<Arc<Ports>, PortError> {
        let (clock, sql, documents) = (
            self.clock.clone(),
            labels(wanted.grants.sql.iter().map(|grant| &grant.connection)),
            labels(wanted.grants.documents.iter().map(|grant| &grant.connection)),
        );
        // Not on the thread of whoever waits: opening blocks.
        let opened = tokio::task::spawn_blocking(move || scratch::open(&clock, sql, documents));
        let Services { store, cache, email, sql, documents } =
            opened.await.unwrap_or_else(|error| Err(error.into())).map_err(unmade)?;
        let broker: Arc<dyn Broker> = Arc::new(AnyTopic(store.clone()));
        for (key, value) in &wanted.given.cache {
            let key = format!("{}{}{key}", self.cache_prefix, wanted.cache_scope);
            let value = Bytes::from(value.clone());
            cache.set(&key, value, self.cache_default_ttl, Condition::Always).await?;
        }
        for given in &wanted.given.sql {
            if let Some(opened) = sql.get(&given.connection) {
                opened.execute_script(&given.script).await?;
            }
        }
        for given in &wanted.given.documents {
            if let Some(opened) = documents.get(&given.connection) {
                let document = given.json().ok_or_else(|| PortError::invalid("a given document is not JSON"))?;
                opened.insert(&given.collection, vec![document]).await?;
            }
        }
        let run_id = sandpost_message::MessageId::new().to_string();
        let effects = Effects::new(store.clone(), self.clock.clone(), self.io.clone(), run_id, Duration::from_secs(10));
        Ok(Arc::new(Ports {
            publisher: Publisher::new(broker.clone(), store.clone(), self.clock.clone()),
            broker,
            state: store,
            clock: self.clock.clone(),
            cache,
            cache_prefix: self.cache_prefix.clone(),
            cache_default_ttl: self.cache_default_ttl,
            email,
            default_sender: Some(self.default_sender.clone()),
            mail_limits: self.mail_limits.clone(),
            sql: sql.into_iter().map(|(label, opened)| (label, opened as Arc<dyn Sql>)).collect(),
            documents,
            health: Arc::new(HealthBoard::default()),
            effects: Arc::new(effects),
            io: self.io.clone(),
        }))
    }
}

/// A broker on which every topic has a listener: which ones there are is the operator's business, not the sample's.
struct AnyTopic(Arc<dyn Broker>);

#[async_trait::async_trait]
impl Health for AnyTopic {
    async fn check(&self) -> Result<(), PortError> {
        self.0.check().await
    }
}

#[async_trait::async_trait]
impl Broker for AnyTopic {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Published, PortError>> {
        for topic in messages.iter().map(|message| &message.topic).collect::<BTreeSet<_>>() {
            // A topic's name is a subscription's name; a failure shows in the publish itself.
            if let Ok(listener) = topic.as_str().parse() {
                self.0.subscribe(&listener, topic).await.ok();
            }
        }
        self.0.publish(messages).await
    }

    async fn subscribe(&self, name: &SubscriptionName, topic: &Topic) -> Result<Arc<dyn Subscription>, PortError> {
        self.0.subscribe(name, topic).await
    }

    async fn backlog(&self, name: &SubscriptionName) -> Result<Backlog, PortError> {
        self.0.backlog(name).await
    }

    fn deduplicates(&self) -> bool {
        self.0.deduplicates()
    }
}

fn labels<'a>(named: impl Iterator<Item = &'a ConnectionLabel>) -> BTreeSet<ConnectionLabel> {
    named.cloned().collect()
}

fn unmade(error: BoxError) -> PortError {
    PortError::new(ErrorKind::Other, "the services for a sample cannot be made").because(error)
}
