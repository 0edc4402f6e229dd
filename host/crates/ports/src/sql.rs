//! A relational database: statements with `?` placeholders, rows of typed values, transactions across calls.

use crate::PortError;
use crate::health::Health;

/// What statements may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Nothing may change; enforced by the session, not by reading the statement.
    ReadOnly,
    /// Rows and tables may change.
    ReadWrite,
}

/// What one statement may cost. Every number is enforced by the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatementLimits {
    /// Rows of a result; one more is [`ErrorKind::Exceeded`](crate::ErrorKind), never a cut result.
    pub rows_max: usize,
    /// Bytes of all values of a result.
    pub result_max_bytes: usize,
    /// Time in the database, which is told to end the statement too.
    pub timeout_ms: u64,
}

/// One database.
#[async_trait::async_trait]
pub trait Sql: Health {
    /// Runs one statement that answers rows.
    async fn query(
        &self,
        access: Access,
        statement: &str,
        parameters: Vec<Value>,
        limits: StatementLimits,
    ) -> Result<Rows, PortError>;

    /// Runs one statement that changes something.
    async fn execute(
        &self,
        access: Access,
        statement: &str,
        parameters: Vec<Value>,
        limits: StatementLimits,
    ) -> Result<Done, PortError>;

    /// Begins a transaction on a connection of its own. Dropped without a commit, it is rolled back.
    async fn begin(&self, access: Access) -> Result<Box<dyn Transaction>, PortError>;
}

/// Statements that happen together or not at all.
#[async_trait::async_trait]
pub trait Transaction: Send + Sync {
    /// As [`Sql::query`].
    async fn query(
        &mut self,
        statement: &str,
        parameters: Vec<Value>,
        limits: StatementLimits,
    ) -> Result<Rows, PortError>;

    /// As [`Sql::execute`].
    async fn execute(
        &mut self,
        statement: &str,
        parameters: Vec<Value>,
        limits: StatementLimits,
    ) -> Result<Done, PortError>;

    /// All of it, durably.
    async fn commit(self: Box<Self>) -> Result<(), PortError>;

    /// None of it.
    async fn rollback(self: Box<Self>) -> Result<(), PortError>;
}

/// One value, without loss. Texts of temporal values are as the WIT has them (`wit/sql.wit`).
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// True or false.
    Boolean(bool),
    /// A signed integer.
    Int64(i64),
    /// An unsigned one.
    UInt64(u64),
    /// A binary fraction.
    Float64(f64),
    /// Digits as they are, no rounding.
    Decimal(String),
    /// UTF-8.
    Text(String),
    /// Anything.
    Bytes(Vec<u8>),
    /// `YYYY-MM-DD`
    Date(String),
    /// `[-]HHH:MM:SS[.ffffff]`
    Time(String),
    /// `YYYY-MM-DDTHH:MM:SS[.ffffff]`, no zone
    DateTime(String),
    /// RFC 3339, UTC
    Timestamp(String),
    /// JSON text.
    Json(String),
}

impl Value {
    /// What it counts for against [`StatementLimits::result_max_bytes`]: a text its length, a number eight.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Null | Self::Boolean(_) => 1,
            Self::Int64(_) | Self::UInt64(_) | Self::Float64(_) => 8,
            Self::Bytes(bytes) => bytes.len(),
            Self::Decimal(text)
            | Self::Text(text)
            | Self::Date(text)
            | Self::Time(text)
            | Self::DateTime(text)
            | Self::Timestamp(text)
            | Self::Json(text) => text.len(),
        }
    }
}

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// As the statement names it.
    pub name: String,
    /// The database's own word for the type; empty where it has none.
    pub kind: String,
}

/// A whole result.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rows {
    /// In the order of the statement.
    pub columns: Vec<Column>,
    /// Each as long as `columns`.
    pub rows: Vec<Vec<Value>>,
}

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done {
    /// Rows that were changed.
    pub affected: u64,
    /// The key that the database gave the last new row, where it gives one.
    pub last_insert_id: Option<u64>,
}
