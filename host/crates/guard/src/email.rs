//! The guard before a provider of e-mail.

use crate::connection::Connection;
use sandpost_ports::PortError;
use sandpost_ports::email::{EmailSender, Mail, ProviderId, SendError, SendingQuota};
use sandpost_ports::health::{Health, PoolUse};
use sandpost_telemetry::events::connections::Operation;
use std::sync::Arc;

/// A provider behind its guard.
pub struct GuardedEmail {
    inner: Arc<dyn EmailSender>,
    connection: Arc<Connection>,
    send: Operation,
    quota: Operation,
}

impl GuardedEmail {
    /// Stands before `inner`.
    pub fn new(inner: Arc<dyn EmailSender>, connection: Arc<Connection>) -> Self {
        Self { inner, send: connection.operation("send"), quota: connection.operation("quota"), connection }
    }
}

#[async_trait::async_trait]
impl EmailSender for GuardedEmail {
    async fn send(&self, mail: &Mail) -> Result<ProviderId, SendError> {
        self.connection.call(&self.send, self.inner.send(mail)).await
    }

    async fn quota(&self) -> Result<SendingQuota, PortError> {
        self.connection.call(&self.quota, self.inner.quota()).await
    }

    fn deduplicates(&self) -> bool {
        self.inner.deduplicates()
    }
}

#[async_trait::async_trait]
impl Health for GuardedEmail {
    async fn check(&self) -> Result<(), PortError> {
        self.connection.check(&*self.inner).await
    }

    fn pool(&self) -> Option<PoolUse> {
        self.inner.pool()
    }
}
