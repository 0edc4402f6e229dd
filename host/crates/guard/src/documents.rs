//! The guard before a document database.

use crate::connection::Connection;
use sandpost_ports::PortError;
use sandpost_ports::documents::{
    DocumentCursor, Documents, FindOptions, Index, ReturnDocument, UpdateOptions, Updated,
};
use sandpost_ports::health::{Health, PoolUse};
use sandpost_telemetry::events::connections::Operation;
use serde_json::Value;
use std::sync::Arc;

/// A document database behind its guard.
pub struct GuardedDocuments {
    inner: Arc<dyn Documents>,
    connection: Arc<Connection>,
    insert: Operation,
    find: Operation,
    update: Operation,
    replace_one: Operation,
    find_one_and_update: Operation,
    delete: Operation,
    count: Operation,
    aggregate: Operation,
    ensure_index: Operation,
    next: Arc<Operation>,
}

struct GuardedCursor {
    inner: Box<dyn DocumentCursor>,
    connection: Arc<Connection>,
    next: Arc<Operation>,
}

impl GuardedDocuments {
    /// Stands before `inner`.
    pub fn new(inner: Arc<dyn Documents>, connection: Arc<Connection>) -> Self {
        Self {
            inner,
            insert: connection.operation("insert"),
            find: connection.operation("find"),
            update: connection.operation("update"),
            replace_one: connection.operation("replace-one"),
            find_one_and_update: connection.operation("find-one-and-update"),
            delete: connection.operation("delete"),
            count: connection.operation("count"),
            aggregate: connection.operation("aggregate"),
            ensure_index: connection.operation("ensure-index"),
            next: Arc::new(connection.operation("next")),
            connection,
        }
    }

    fn cursor(&self, inner: Box<dyn DocumentCursor>) -> Box<dyn DocumentCursor> {
        Box::new(GuardedCursor { inner, connection: self.connection.clone(), next: self.next.clone() })
    }
}

#[async_trait::async_trait]
impl Documents for GuardedDocuments {
    async fn insert(&self, collection: &str, documents: Vec<Value>) -> Result<Vec<Value>, PortError> {
        self.connection.call(&self.insert, self.inner.insert(collection, documents)).await
    }

    async fn find(
        &self,
        collection: &str,
        filter: Value,
        options: FindOptions,
    ) -> Result<Box<dyn DocumentCursor>, PortError> {
        let work = self.inner.find(collection, filter, options);
        Ok(self.cursor(self.connection.call(&self.find, work).await?))
    }

    async fn update(
        &self,
        collection: &str,
        filter: Value,
        update: Value,
        options: UpdateOptions,
    ) -> Result<Updated, PortError> {
        self.connection.call(&self.update, self.inner.update(collection, filter, update, options)).await
    }

    async fn replace_one(
        &self,
        collection: &str,
        filter: Value,
        replacement: Value,
        upsert: bool,
    ) -> Result<Updated, PortError> {
        let work = self.inner.replace_one(collection, filter, replacement, upsert);
        self.connection.call(&self.replace_one, work).await
    }

    async fn find_one_and_update(
        &self,
        collection: &str,
        filter: Value,
        update: Value,
        upsert: bool,
        returned: ReturnDocument,
    ) -> Result<Option<Value>, PortError> {
        let work = self.inner.find_one_and_update(collection, filter, update, upsert, returned);
        self.connection.call(&self.find_one_and_update, work).await
    }

    async fn delete(&self, collection: &str, filter: Value, many: bool) -> Result<u64, PortError> {
        self.connection.call(&self.delete, self.inner.delete(collection, filter, many)).await
    }

    async fn count(&self, collection: &str, filter: Value) -> Result<u64, PortError> {
        self.connection.call(&self.count, self.inner.count(collection, filter)).await
    }

    async fn aggregate(&self, collection: &str, pipeline: Vec<Value>) -> Result<Box<dyn DocumentCursor>, PortError> {
        let work = self.inner.aggregate(collection, pipeline);
        Ok(self.cursor(self.connection.call(&self.aggregate, work).await?))
    }

    async fn ensure_index(&self, collection: &str, index: &Index) -> Result<(), PortError> {
        self.connection.call(&self.ensure_index, self.inner.ensure_index(collection, index)).await
    }
}

#[async_trait::async_trait]
impl DocumentCursor for GuardedCursor {
    async fn next(&mut self, documents_max: usize, batch_max_bytes: usize) -> Result<Vec<Value>, PortError> {
        self.connection.go_on(&self.next, self.inner.next(documents_max, batch_max_bytes)).await
    }
}

#[async_trait::async_trait]
impl Health for GuardedDocuments {
    async fn check(&self) -> Result<(), PortError> {
        self.connection.check(&*self.inner).await
    }

    fn pool(&self) -> Option<PoolUse> {
        self.inner.pool()
    }
}
