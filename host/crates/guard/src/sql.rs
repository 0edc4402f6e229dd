//! The guard before a relational database.
//!
//! A transaction that was begun may end, whatever the breaker says meanwhile: its statements are measured, never refused.

use crate::connection::Connection;
use sandpost_ports::PortError;
use sandpost_ports::health::{Health, PoolUse};
use sandpost_ports::sql::{Access, Done, Rows, Sql, StatementLimits, Transaction, Value};
use sandpost_telemetry::events::connections::Operation;
use std::sync::Arc;

/// A database behind its guard.
pub struct GuardedSql {
    inner: Arc<dyn Sql>,
    connection: Arc<Connection>,
    operations: Arc<Operations>,
}

struct Operations {
    query: Operation,
    execute: Operation,
    begin: Operation,
    commit: Operation,
    rollback: Operation,
}

struct GuardedTransaction {
    inner: Box<dyn Transaction>,
    connection: Arc<Connection>,
    operations: Arc<Operations>,
}

impl GuardedSql {
    /// Stands before `inner`.
    pub fn new(inner: Arc<dyn Sql>, connection: Arc<Connection>) -> Self {
        let operations = Arc::new(Operations {
            query: connection.operation("query"),
            execute: connection.operation("execute"),
            begin: connection.operation("begin"),
            commit: connection.operation("commit"),
            rollback: connection.operation("rollback"),
        });
        Self { inner, connection, operations }
    }
}

#[async_trait::async_trait]
impl Sql for GuardedSql {
    async fn query(
        &self,
        access: Access,
        statement: &str,
        parameters: Vec<Value>,
        limits: StatementLimits,
    ) -> Result<Rows, PortError> {
        let work = self.inner.query(access, statement, parameters, limits);
        self.connection.call(&self.operations.query, work).await
    }

    async fn execute(
        &self,
        access: Access,
        statement: &str,
        parameters: Vec<Value>,
        limits: StatementLimits,
    ) -> Result<Done, PortError> {
        let work = self.inner.execute(access, statement, parameters, limits);
        self.connection.call(&self.operations.execute, work).await
    }

    async fn begin(&self, access: Access) -> Result<Box<dyn Transaction>, PortError> {
        let inner = self.connection.call(&self.operations.begin, self.inner.begin(access)).await?;
        let (connection, operations) = (self.connection.clone(), self.operations.clone());
        Ok(Box::new(GuardedTransaction { inner, connection, operations }))
    }
}

#[async_trait::async_trait]
impl Transaction for GuardedTransaction {
    async fn query(
        &mut self,
        statement: &str,
        parameters: Vec<Value>,
        limits: StatementLimits,
    ) -> Result<Rows, PortError> {
        let work = self.inner.query(statement, parameters, limits);
        self.connection.go_on(&self.operations.query, work).await
    }

    async fn execute(
        &mut self,
        statement: &str,
        parameters: Vec<Value>,
        limits: StatementLimits,
    ) -> Result<Done, PortError> {
        let work = self.inner.execute(statement, parameters, limits);
        self.connection.go_on(&self.operations.execute, work).await
    }

    async fn commit(self: Box<Self>) -> Result<(), PortError> {
        let Self { inner, connection, operations } = *self;
        connection.go_on(&operations.commit, inner.commit()).await
    }

    async fn rollback(self: Box<Self>) -> Result<(), PortError> {
        let Self { inner, connection, operations } = *self;
        connection.go_on(&operations.rollback, inner.rollback()).await
    }
}

#[async_trait::async_trait]
impl Health for GuardedSql {
    async fn check(&self) -> Result<(), PortError> {
        self.connection.check(&*self.inner).await
    }

    fn pool(&self) -> Option<PoolUse> {
        self.inner.pool()
    }
}
