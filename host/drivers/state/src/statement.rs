//! One statement in the words that both databases understand, what is bound to it, and what comes back.
//!
//! Only three types travel: whole numbers of 64 bits, texts, bytes.

use crate::config::Dialect;
use crate::trouble::unreadable;
use sandpost_message::TimestampMs;
use sandpost_ports::PortError;
use sqlx::Row as _;
use sqlx::mysql::MySqlRow;
use sqlx::postgres::PgRow;
use std::error::Error;
use std::fmt::Write as _;
use std::str::FromStr;

/// `{p}` stands for the table prefix, `?` for a value.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    pub(crate) values: Vec<Value>,
}

/// What is bound.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

impl Statement {
    pub(crate) fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), values: Vec::new() }
    }

    #[must_use]
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// For one database: the prefix and the placeholders are filled in, and texts are made such that it takes them.
    pub(crate) fn render(mut self, dialect: Dialect, prefix: &str) -> Self {
        self.sql = self.sql.replace("{p}", prefix);
        if dialect == Dialect::Postgres {
            let mut numbered = String::with_capacity(self.sql.len() + self.values.len() * 2);
            for (place, part) in self.sql.split('?').enumerate() {
                if place > 0 {
                    // Writing to a string does not fail.
                    _ = write!(numbered, "${place}");
                }
                numbered.push_str(part);
            }
            self.sql = numbered;
            // Postgres keeps no NUL in a text. Where every byte counts, the column has bytes.
            for value in &mut self.values {
                if let Value::Text(Some(text)) = value
                    && text.contains('\0')
                {
                    *text = text.replace('\0', "\u{fffd}");
                }
            }
        }
        self
    }
}

impl From<u64> for Value {
    /// What does not fit is further off than anybody waits.
    fn from(value: u64) -> Self {
        Self::Int(Some(i64::try_from(value).unwrap_or(i64::MAX)))
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Int(Some(i64::try_from(value).unwrap_or(i64::MAX)))
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(Some(value))
    }
}

impl From<Option<u32>> for Value {
    fn from(value: Option<u32>) -> Self {
        Self::Int(value.map(i64::from))
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(Some(value.to_owned()))
    }
}

impl From<Option<&str>> for Value {
    fn from(value: Option<&str>) -> Self {
        Self::Text(value.map(str::to_owned))
    }
}

impl From<Option<String>> for Value {
    fn from(value: Option<String>) -> Self {
        Self::Text(value)
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(Some(value.to_owned()))
    }
}

impl From<Vec<u8>> for Value {
    fn from(value: Vec<u8>) -> Self {
        Self::Bytes(Some(value))
    }
}

impl From<Option<&[u8]>> for Value {
    fn from(value: Option<&[u8]>) -> Self {
        Self::Bytes(value.map(<[u8]>::to_owned))
    }
}

/// A row of either database. Columns count from 0.
pub(crate) enum Row {
    Mysql(MySqlRow),
    Postgres(PgRow),
}

macro_rules! column {
    ($row:expr, $column:expr) => {
        match $row {
            Row::Mysql(row) => row.try_get($column),
            Row::Postgres(row) => row.try_get($column),
        }
        .map_err(unreadable)
    };
}

impl Row {
    pub(crate) fn int(&self, column: usize) -> Result<i64, PortError> {
        column!(self, column)
    }

    pub(crate) fn time(&self, column: usize) -> Result<TimestampMs, PortError> {
        Ok(u64::try_from(self.int(column)?).unwrap_or(0))
    }

    pub(crate) fn maybe_u32(&self, column: usize) -> Result<Option<u32>, PortError> {
        let value: Option<i64> = column!(self, column)?;
        value.map(|value| u32::try_from(value).map_err(unreadable)).transpose()
    }

    pub(crate) fn text(&self, column: usize) -> Result<String, PortError> {
        column!(self, column)
    }

    pub(crate) fn maybe_text(&self, column: usize) -> Result<Option<String>, PortError> {
        column!(self, column)
    }

    pub(crate) fn bytes(&self, column: usize) -> Result<Vec<u8>, PortError> {
        column!(self, column)
    }

    pub(crate) fn maybe_bytes(&self, column: usize) -> Result<Option<Vec<u8>>, PortError> {
        column!(self, column)
    }

    /// A text that is kept as bytes.
    pub(crate) fn key(&self, column: usize) -> Result<String, PortError> {
        String::from_utf8(self.bytes(column)?).map_err(unreadable)
    }

    pub(crate) fn maybe_key(&self, column: usize) -> Result<Option<String>, PortError> {
        self.maybe_bytes(column)?.map(|bytes| String::from_utf8(bytes).map_err(unreadable)).transpose()
    }

    pub(crate) fn name<T>(&self, column: usize) -> Result<T, PortError>
    where
        T: FromStr,
        T::Err: Error + Send + Sync + 'static,
    {
        self.text(column)?.parse().map_err(unreadable)
    }

    pub(crate) fn maybe_name<T>(&self, column: usize) -> Result<Option<T>, PortError>
    where
        T: FromStr,
        T::Err: Error + Send + Sync + 'static,
    {
        self.maybe_text(column)?.map(|text| text.parse().map_err(unreadable)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_written_for_each_database() {
        let statement = Statement::new("UPDATE {p}t SET a = ?, b = ? WHERE c = ?").bind("x\0y").bind(1_u64).bind("z");
        let mysql = statement.clone().render(Dialect::Mysql, "sp_");
        assert_eq!(mysql.sql, "UPDATE sp_t SET a = ?, b = ? WHERE c = ?");
        let postgres = statement.render(Dialect::Postgres, "sp_");
        assert_eq!(postgres.sql, "UPDATE sp_t SET a = $1, b = $2 WHERE c = $3");
        assert!(matches!(&postgres.values[0], Value::Text(Some(text)) if text == "x\u{fffd}y"));
        assert!(matches!(&mysql.values[0], Value::Text(Some(text)) if text == "x\0y"));
    }
}
