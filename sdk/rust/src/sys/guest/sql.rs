//! The WIT interface `sql`.

use super::handler::sandpost::plugin::sql as wit;
use crate::error::HostError;
use crate::sql::{Column, Done, Rows, Value};

pub(crate) struct Connection(wit::Connection);
pub(crate) struct Transaction(wit::Transaction);

impl Connection {
    pub(crate) fn open(label: &str) -> Result<Self, HostError> {
        Ok(Self(wit::Connection::open(label)?))
    }

    pub(crate) fn query(&self, statement: &str, parameters: &[Value]) -> Result<Rows, HostError> {
        Ok(rows(self.0.query(statement, &parameters_of(parameters))?))
    }

    pub(crate) fn execute(&self, statement: &str, parameters: &[Value]) -> Result<Done, HostError> {
        Ok(done(self.0.execute(statement, &parameters_of(parameters))?))
    }

    pub(crate) fn begin(&self) -> Result<Transaction, HostError> {
        Ok(Transaction(self.0.begin()?))
    }
}

impl Transaction {
    pub(crate) fn query(&self, statement: &str, parameters: &[Value]) -> Result<Rows, HostError> {
        Ok(rows(self.0.query(statement, &parameters_of(parameters))?))
    }

    pub(crate) fn execute(&self, statement: &str, parameters: &[Value]) -> Result<Done, HostError> {
        Ok(done(self.0.execute(statement, &parameters_of(parameters))?))
    }

    pub(crate) fn commit(self) -> Result<(), HostError> {
        Ok(wit::Transaction::commit(self.0)?)
    }

    pub(crate) fn rollback(self) -> Result<(), HostError> {
        Ok(wit::Transaction::rollback(self.0)?)
    }
}

fn rows(rows: wit::Rows) -> Rows {
    Rows {
        columns: rows.columns.into_iter().map(|column| Column { name: column.name, kind: column.kind }).collect(),
        rows: rows.rows.into_iter().map(|row| row.into_iter().map(value).collect()).collect(),
    }
}

fn done(done: wit::Done) -> Done {
    Done { affected: done.affected, last_insert_id: done.last_insert_id }
}

fn value(value: wit::Value) -> Value {
    match value {
        wit::Value::Null => Value::Null,
        wit::Value::Boolean(inner) => Value::Boolean(inner),
        wit::Value::Int64(inner) => Value::Int64(inner),
        wit::Value::Uint64(inner) => Value::UInt64(inner),
        wit::Value::Float64(inner) => Value::Float64(inner),
        wit::Value::Decimal(inner) => Value::Decimal(inner),
        wit::Value::Text(inner) => Value::Text(inner),
        wit::Value::Bytes(inner) => Value::Bytes(inner),
        wit::Value::Date(inner) => Value::Date(inner),
        wit::Value::Time(inner) => Value::Time(inner),
        wit::Value::Datetime(inner) => Value::DateTime(inner),
        wit::Value::Timestamp(inner) => Value::Timestamp(inner),
        wit::Value::Json(inner) => Value::Json(inner),
    }
}

fn parameters_of(values: &[Value]) -> Vec<wit::Value> {
    values.iter().cloned().map(parameter).collect()
}

fn parameter(value: Value) -> wit::Value {
    match value {
        Value::Null => wit::Value::Null,
        Value::Boolean(inner) => wit::Value::Boolean(inner),
        Value::Int64(inner) => wit::Value::Int64(inner),
        Value::UInt64(inner) => wit::Value::Uint64(inner),
        Value::Float64(inner) => wit::Value::Float64(inner),
        Value::Decimal(inner) => wit::Value::Decimal(inner),
        Value::Text(inner) => wit::Value::Text(inner),
        Value::Bytes(inner) => wit::Value::Bytes(inner),
        Value::Date(inner) => wit::Value::Date(inner),
        Value::Time(inner) => wit::Value::Time(inner),
        Value::DateTime(inner) => wit::Value::Datetime(inner),
        Value::Timestamp(inner) => wit::Value::Timestamp(inner),
        Value::Json(inner) => wit::Value::Json(inner),
    }
}
