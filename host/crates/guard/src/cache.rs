//! The guard before a cache.

use crate::connection::Connection;
use bytes::Bytes;
use sandpost_ports::PortError;
use sandpost_ports::cache::{Cache, CacheFigures, CacheServer, Condition};
use sandpost_ports::health::{Health, PoolUse};
use sandpost_telemetry::events::connections::Operation;
use std::sync::Arc;
use std::time::Duration;

/// A cache behind its guard.
pub struct GuardedCache {
    inner: Arc<dyn Cache>,
    connection: Arc<Connection>,
    get_many: Operation,
    set: Operation,
    set_many: Operation,
    take: Operation,
    delete: Operation,
    delete_prefix: Operation,
    exists: Operation,
    expire: Operation,
    ttl: Operation,
    increment: Operation,
}

impl GuardedCache {
    /// Stands before `inner`.
    pub fn new(inner: Arc<dyn Cache>, connection: Arc<Connection>) -> Self {
        Self {
            inner,
            get_many: connection.operation("get-many"),
            set: connection.operation("set"),
            set_many: connection.operation("set-many"),
            take: connection.operation("take"),
            delete: connection.operation("delete"),
            delete_prefix: connection.operation("delete-prefix"),
            exists: connection.operation("exists"),
            expire: connection.operation("expire"),
            ttl: connection.operation("ttl"),
            increment: connection.operation("increment"),
            connection,
        }
    }
}

#[async_trait::async_trait]
impl Cache for GuardedCache {
    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Bytes>>, PortError> {
        self.connection.call(&self.get_many, self.inner.get_many(keys)).await
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Duration, condition: Condition) -> Result<bool, PortError> {
        self.connection.call(&self.set, self.inner.set(key, value, ttl, condition)).await
    }

    async fn set_many(&self, entries: Vec<(String, Bytes)>, ttl: Duration) -> Result<(), PortError> {
        self.connection.call(&self.set_many, self.inner.set_many(entries, ttl)).await
    }

    async fn take(&self, key: &str) -> Result<Option<Bytes>, PortError> {
        self.connection.call(&self.take, self.inner.take(key)).await
    }

    async fn delete(&self, keys: &[String]) -> Result<u64, PortError> {
        self.connection.call(&self.delete, self.inner.delete(keys)).await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64, PortError> {
        self.connection.call(&self.delete_prefix, self.inner.delete_prefix(prefix)).await
    }

    async fn exists(&self, key: &str) -> Result<bool, PortError> {
        self.connection.call(&self.exists, self.inner.exists(key)).await
    }

    async fn expire(&self, key: &str, ttl: Duration) -> Result<bool, PortError> {
        self.connection.call(&self.expire, self.inner.expire(key, ttl)).await
    }

    async fn ttl(&self, key: &str) -> Result<Option<Duration>, PortError> {
        self.connection.call(&self.ttl, self.inner.ttl(key)).await
    }

    async fn increment(&self, key: &str, by: i64, ttl: Duration) -> Result<i64, PortError> {
        self.connection.call(&self.increment, self.inner.increment(key, by, ttl)).await
    }
}

#[async_trait::async_trait]
impl Health for GuardedCache {
    async fn check(&self) -> Result<(), PortError> {
        self.connection.check(&*self.inner).await
    }

    fn pool(&self) -> Option<PoolUse> {
        self.inner.pool()
    }
}

/// The server behind a cache, behind its guard.
pub struct GuardedCacheServer {
    inner: Arc<dyn CacheServer>,
    connection: Arc<Connection>,
    figures: Operation,
}

impl GuardedCacheServer {
    /// Stands before `inner`.
    pub fn new(inner: Arc<dyn CacheServer>, connection: Arc<Connection>) -> Self {
        Self { inner, figures: connection.operation("figures"), connection }
    }
}

#[async_trait::async_trait]
impl CacheServer for GuardedCacheServer {
    async fn figures(&self) -> Result<CacheFigures, PortError> {
        self.connection.call(&self.figures, self.inner.figures()).await
    }
}
