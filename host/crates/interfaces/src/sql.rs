//! `sql`: statements and transactions on the databases that a plugin was granted, by label.
//!
//! Invariants
//! - The grant is checked when a connection is opened; what it says of access goes with every statement.
//! - A statement's time is the plugin's limit or what is left of the call, whichever is less.
//! - A transaction that the call leaves behind is dropped with it, and so rolled back.

use crate::bindings::Error;
use crate::bindings::sql::{Column, Done, Host, HostConnection, HostTransaction, Rows, Value};
use crate::call::{Call, CallError, sum};
use sandpost_message::ConnectionLabel;
use sandpost_ports::sql as port;
use std::sync::Arc;
use wasmtime::component::Resource;

const SQL: &str = "sql";

type Answer<T> = wasmtime::Result<Result<T, Error>>;

/// An opened database, in a call's table.
pub struct Connection {
    label: ConnectionLabel,
    sql: Arc<dyn port::Sql>,
    access: port::Access,
}

/// An open transaction, in a call's table. Dropped, it rolls back.
pub struct Transaction {
    label: ConnectionLabel,
    transaction: Box<dyn port::Transaction>,
}

impl Host for Call {}

impl HostConnection for Call {
    async fn open(&mut self, label: String) -> Answer<Resource<Connection>> {
        let entered = self.enter(SQL, "connection.open", label.len())?;
        let answer = self.open_sql(&label);
        self.leave(entered, answer, |_| 0)
    }

    async fn query(&mut self, this: Resource<Connection>, statement: String, parameters: Vec<Value>) -> Answer<Rows> {
        let entered = self.enter(SQL, "connection.query", statement.len().saturating_add(values_size(&parameters)))?;
        let answer = match self.checked(parameters) {
            Ok(parameters) => {
                let Connection { label, sql, access } = self.table.get(&this)?;
                let limits = self.scope.statement_limits();
                let answer = self.scope.on_io(sql.query(*access, &statement, parameters, limits)).await;
                answer.map(from_rows).map_err(|error| error.on(label).into())
            }
            Err(error) => Err(error),
        };
        self.leave(entered, answer, rows_size)
    }

    async fn execute(&mut self, this: Resource<Connection>, statement: String, parameters: Vec<Value>) -> Answer<Done> {
        let entered =
            self.enter(SQL, "connection.execute", statement.len().saturating_add(values_size(&parameters)))?;
        let answer = match self.checked(parameters) {
            Ok(parameters) => {
                let Connection { label, sql, access } = self.table.get(&this)?;
                let limits = self.scope.statement_limits();
                let answer = self.scope.on_io(sql.execute(*access, &statement, parameters, limits)).await;
                answer.map(from_done).map_err(|error| error.on(label).into())
            }
            Err(error) => Err(error),
        };
        self.leave(entered, answer, |_| 0)
    }

    async fn begin(&mut self, this: Resource<Connection>) -> Answer<Resource<Transaction>> {
        let entered = self.enter(SQL, "connection.begin", 0)?;
        let Connection { label, sql, access } = self.table.get(&this)?;
        let (label, sql, access) = (label.clone(), sql.clone(), *access);
        let answer = match self.scope.on_io(sql.begin(access)).await {
            Ok(transaction) => self.keep(Transaction { label, transaction }),
            Err(error) => Err(error.on(&label).into()),
        };
        self.leave(entered, answer, |_| 0)
    }

    async fn drop(&mut self, this: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl HostTransaction for Call {
    async fn query(&mut self, this: Resource<Transaction>, statement: String, parameters: Vec<Value>) -> Answer<Rows> {
        let entered = self.enter(SQL, "transaction.query", statement.len().saturating_add(values_size(&parameters)))?;
        let answer = match self.checked(parameters) {
            Ok(parameters) => {
                let limits = self.scope.statement_limits();
                let Transaction { label, transaction } = self.table.get_mut(&this)?;
                let answer = self.scope.on_io(transaction.query(&statement, parameters, limits)).await;
                answer.map(from_rows).map_err(|error| error.on(label).into())
            }
            Err(error) => Err(error),
        };
        self.leave(entered, answer, rows_size)
    }

    async fn execute(
        &mut self,
        this: Resource<Transaction>,
        statement: String,
        parameters: Vec<Value>,
    ) -> Answer<Done> {
        let entered =
            self.enter(SQL, "transaction.execute", statement.len().saturating_add(values_size(&parameters)))?;
        let answer = match self.checked(parameters) {
            Ok(parameters) => {
                let limits = self.scope.statement_limits();
                let Transaction { label, transaction } = self.table.get_mut(&this)?;
                let answer = self.scope.on_io(transaction.execute(&statement, parameters, limits)).await;
                answer.map(from_done).map_err(|error| error.on(label).into())
            }
            Err(error) => Err(error),
        };
        self.leave(entered, answer, |_| 0)
    }

    async fn commit(&mut self, this: Resource<Transaction>) -> Answer<()> {
        let entered = self.enter(SQL, "transaction.commit", 0)?;
        let Transaction { label, transaction } = self.table.delete(this)?;
        let answer = self.scope.on_io(transaction.commit()).await.map_err(|error| error.on(&label).into());
        self.leave(entered, answer, |()| 0)
    }

    async fn rollback(&mut self, this: Resource<Transaction>) -> Answer<()> {
        let entered = self.enter(SQL, "transaction.rollback", 0)?;
        let Transaction { label, transaction } = self.table.delete(this)?;
        let answer = self.scope.on_io(transaction.rollback()).await.map_err(|error| error.on(&label).into());
        self.leave(entered, answer, |()| 0)
    }

    async fn drop(&mut self, this: Resource<Transaction>) -> wasmtime::Result<()> {
        let Transaction { label, transaction } = self.table.delete(this)?;
        let entered = self.enter(SQL, "transaction.drop", 0)?;
        let answer = self.scope.on_io(transaction.rollback()).await.map_err(|error| error.on(&label).into());
        // A destructor has nobody to answer; the report is in the log.
        self.leave(entered, answer, |()| 0).map(drop)
    }
}

impl Call {
    fn open_sql(&mut self, label: &str) -> Result<Resource<Connection>, CallError> {
        let label: ConnectionLabel =
            label.parse().map_err(|error: sandpost_message::NameError| CallError::invalid(error.to_string()))?;
        let access = self.scope.grants().may_open_sql(&label).map_err(CallError::Denied)?;
        let sql = self.scope.ports().sql.get(&label).cloned().ok_or_else(|| no_such_connection(&label))?;
        self.keep(Connection { label, sql, access })
    }

    /// Puts a resource into the call's table, within its bound.
    pub(crate) fn keep<T: Send + 'static>(&mut self, resource: T) -> Result<Resource<T>, CallError> {
        let limit = self.scope.limits().resources_max;
        self.table
            .push(resource)
            .map_err(|_| CallError::exceeded(format!("more than {limit} connections, transactions and cursors open")))
    }

    /// The parameters as the port has them, if there are not too many.
    fn checked(&self, parameters: Vec<Value>) -> Result<Vec<port::Value>, CallError> {
        let (count, limit) = (parameters.len(), self.scope.limits().parameters_max);
        if count > limit {
            return Err(CallError::exceeded(format!("{count} parameters; at most {limit}")));
        }
        Ok(parameters.into_iter().map(to_value).collect())
    }
}

/// A grant names a connection that the host does not have: the operator's to mend.
pub(crate) fn no_such_connection(label: &ConnectionLabel) -> CallError {
    CallError::invalid(format!("this host has no such connection: `{label}`"))
}

fn to_value(value: Value) -> port::Value {
    match value {
        Value::Null => port::Value::Null,
        Value::Boolean(value) => port::Value::Boolean(value),
        Value::Int64(value) => port::Value::Int64(value),
        Value::Uint64(value) => port::Value::UInt64(value),
        Value::Float64(value) => port::Value::Float64(value),
        Value::Decimal(value) => port::Value::Decimal(value),
        Value::Text(value) => port::Value::Text(value),
        Value::Bytes(value) => port::Value::Bytes(value),
        Value::Date(value) => port::Value::Date(value),
        Value::Time(value) => port::Value::Time(value),
        Value::Datetime(value) => port::Value::DateTime(value),
        Value::Timestamp(value) => port::Value::Timestamp(value),
        Value::Json(value) => port::Value::Json(value),
    }
}

fn from_value(value: port::Value) -> Value {
    match value {
        port::Value::Null => Value::Null,
        port::Value::Boolean(value) => Value::Boolean(value),
        port::Value::Int64(value) => Value::Int64(value),
        port::Value::UInt64(value) => Value::Uint64(value),
        port::Value::Float64(value) => Value::Float64(value),
        port::Value::Decimal(value) => Value::Decimal(value),
        port::Value::Text(value) => Value::Text(value),
        port::Value::Bytes(value) => Value::Bytes(value),
        port::Value::Date(value) => Value::Date(value),
        port::Value::Time(value) => Value::Time(value),
        port::Value::DateTime(value) => Value::Datetime(value),
        port::Value::Timestamp(value) => Value::Timestamp(value),
        port::Value::Json(value) => Value::Json(value),
    }
}

fn from_rows(rows: port::Rows) -> Rows {
    Rows {
        columns: rows.columns.into_iter().map(|port::Column { name, kind }| Column { name, kind }).collect(),
        rows: rows.rows.into_iter().map(|row| row.into_iter().map(from_value).collect()).collect(),
    }
}

fn from_done(done: port::Done) -> Done {
    Done { affected: done.affected, last_insert_id: done.last_insert_id }
}

fn rows_size(rows: &Rows) -> usize {
    let columns = sum(rows.columns.iter().map(|column| column.name.len() + column.kind.len()));
    columns.saturating_add(sum(rows.rows.iter().map(|row| values_size(row))))
}

fn values_size(values: &[Value]) -> usize {
    sum(values.iter().map(|value| match value {
        Value::Null | Value::Boolean(_) => 1,
        Value::Int64(_) | Value::Uint64(_) | Value::Float64(_) => 8,
        Value::Bytes(bytes) => bytes.len(),
        Value::Decimal(text)
        | Value::Text(text)
        | Value::Date(text)
        | Value::Time(text)
        | Value::Datetime(text)
        | Value::Timestamp(text)
        | Value::Json(text) => text.len(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_went() {
        let all = vec![
            port::Value::Null,
            port::Value::Boolean(true),
            port::Value::Int64(-1),
            port::Value::UInt64(u64::MAX),
            port::Value::Float64(0.1),
            port::Value::Decimal("0.10".into()),
            port::Value::Text("ü".into()),
            port::Value::Bytes(vec![0, 255]),
            port::Value::Date("2026-01-31".into()),
            port::Value::Time("-12:00:00".into()),
            port::Value::DateTime("2026-01-31T00:00:00".into()),
            port::Value::Timestamp("2026-01-31T00:00:00Z".into()),
            port::Value::Json("{}".into()),
        ];
        let back: Vec<_> = all.iter().cloned().map(from_value).map(to_value).collect();
        assert_eq!(back, all);
    }
}
