//! The guard before a provider of e-mail.

use crate::connection::Connection;
use sandpost_ports::PortError;
use sandpost_ports::email::{EmailSender, Mail, ProviderId, SendError, SendingQuota};
use sandpost_ports::health::{Health, PoolUse};
use sandpost_telemetry::events::connections::{Operation, QuotaSeen};
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

    /// Writes into the metrics what is known of the account, after every look at it.
    fn show(&self) {
        let Some(SendingQuota { per_day, sent_today, per_second }) = self.inner.quota_seen() else { return };
        let (connection, driver) = self.connection.labels();
        QuotaSeen { connection, driver, per_day, sent_today, per_second }.emit();
    }
}

#[async_trait::async_trait]
impl EmailSender for GuardedEmail {
    async fn send(&self, mail: &Mail) -> Result<ProviderId, SendError> {
        self.connection.call(&self.send, self.inner.send(mail)).await
    }

    async fn quota(&self) -> Result<SendingQuota, PortError> {
        let answer = self.connection.call(&self.quota, self.inner.quota()).await;
        self.show();
        answer
    }

    fn quota_seen(&self) -> Option<SendingQuota> {
        self.inner.quota_seen()
    }

    fn deduplicates(&self) -> bool {
        self.inner.deduplicates()
    }
}

#[async_trait::async_trait]
impl Health for GuardedEmail {
    async fn check(&self) -> Result<(), PortError> {
        let answer = self.connection.check(&*self.inner).await;
        self.show();
        answer
    }

    fn pool(&self) -> Option<PoolUse> {
        self.inner.pool()
    }
}
