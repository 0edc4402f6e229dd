//! A relational database by its label: statements with `?` placeholders on every database, rows into structs by serde.
//!
//! ```
//! use sandpost_sdk::prelude::*;
//! use sandpost_sdk::params;
//! use sandpost_sdk::sql::Connection;
//!
//! #[derive(Deserialize)]
//! struct User {
//!     id: String,
//!     name: Option<String>,
//! }
//!
//! # use sandpost_sdk::rows;
//! # let host = sandpost_sdk::testing::Host::new();
//! # let sql = host.sql("main");
//! # sql.when("SELECT id, name FROM users").returns(rows![{"id": "u1", "name": null}]);
//! # sql.when("UPDATE").changes(1);
//! # sql.when("INSERT").changes(1);
//! # fn work(id: &str) -> Result<()> {
//! let connection = Connection::open("main")?;
//! let user: Option<User> =
//!     connection.query("SELECT id, name FROM users WHERE id = ?", params![id])?.first_as()?;
//! let user = user.or_reject("there is no such user")?;
//!
//! connection.transaction(|tx| {
//!     tx.execute("UPDATE users SET seen = seen + 1 WHERE id = ?", params![&user.id])?;
//!     tx.execute("INSERT INTO visits (user_id) VALUES (?)", params![&user.id])?;
//!     Ok::<_, Error>(())
//! })?;
//! # Ok(()) }
//! # work("u1").unwrap();
//! # assert_eq!(sql.statements().last().unwrap().0, "COMMIT");
//! ```

use crate::error::HostError;
use crate::sys;
use serde::de::DeserializeOwned;
use std::fmt;

mod row;
mod value;

pub use value::Value;

type Result<T> = std::result::Result<T, HostError>;

/// Parameters for a statement, in the order of its `?`: anything that is `Into<Value>`, `Option`s too.
///
/// ```
/// use sandpost_sdk::params;
/// use sandpost_sdk::sql::Value;
///
/// let name: Option<&str> = None;
/// assert_eq!(params!["u1", 7, name], vec![Value::Text("u1".into()), Value::Int64(7), Value::Null]);
/// ```
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        ::std::vec::Vec::<$crate::sql::Value>::from([$($crate::sql::Value::from($value)),*])
    };
}

/// A database. Opening it is free: the host has the connections.
pub struct Connection(sys::sql::Connection);

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    /// The database that the host knows by this label.
    pub fn open(label: &str) -> Result<Self> {
        sys::sql::Connection::open(label).map(Self)
    }

    /// Runs one statement that answers rows.
    pub fn query(&self, statement: &str, parameters: impl AsRef<[Value]>) -> Result<Rows> {
        self.0.query(statement, parameters.as_ref())
    }

    /// Runs one statement that changes something.
    pub fn execute(&self, statement: &str, parameters: impl AsRef<[Value]>) -> Result<Done> {
        self.0.execute(statement, parameters.as_ref())
    }

    /// Runs `work` in a transaction: all of it is kept where it returns `Ok`, none of it otherwise.
    pub fn transaction<T, E: From<HostError>>(
        &self,
        work: impl FnOnce(&Transaction) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let transaction = self.begin()?;
        // On an error it is dropped, which rolls back.
        let value = work(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }

    /// Begins a transaction to commit by hand; [`Connection::transaction`] cannot forget to.
    pub fn begin(&self) -> Result<Transaction> {
        self.0.begin().map(Transaction)
    }
}

/// Statements that happen together or not at all. Dropped without a commit, it is rolled back.
pub struct Transaction(sys::sql::Transaction);

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").finish_non_exhaustive()
    }
}

impl Transaction {
    /// Runs one statement that answers rows.
    pub fn query(&self, statement: &str, parameters: impl AsRef<[Value]>) -> Result<Rows> {
        self.0.query(statement, parameters.as_ref())
    }

    /// Runs one statement that changes something.
    pub fn execute(&self, statement: &str, parameters: impl AsRef<[Value]>) -> Result<Done> {
        self.0.execute(statement, parameters.as_ref())
    }

    /// Keeps all of it, durably.
    pub fn commit(self) -> Result<()> {
        self.0.commit()
    }

    /// Keeps none of it.
    pub fn rollback(self) -> Result<()> {
        self.0.rollback()
    }
}

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// As the statement names it.
    pub name: String,
    /// The database's own word for the type.
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

impl Rows {
    /// Every row as a `T`: a struct whose fields are the columns' names, or a tuple in their order. Columns that a
    /// struct does not have are left out.
    ///
    /// Texts, dates and decimals read as `String` and decimals as numbers too; 0 and 1 read as `bool`, because SQLite
    /// and MySQL have no other; JSON reads as what it holds.
    pub fn rows_as<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        self.rows.iter().map(|row| row::read(&self.columns, row)).collect()
    }

    /// The first row, if there is one.
    pub fn first_as<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        self.rows.first().map(|row| row::read(&self.columns, row)).transpose()
    }

    /// The first column of the first row: a count, a sum. [`HostError::Decode`] where there is no row.
    pub fn scalar<T: DeserializeOwned>(&self) -> Result<T> {
        let missing = || HostError::Decode("the statement answered no row".to_owned());
        let (value,): (T,) = self.first_as()?.ok_or_else(missing)?;
        Ok(value)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done {
    /// Rows that were changed.
    pub affected: u64,
    /// The key that the database gave the last new row, where it gives one.
    pub last_insert_id: Option<u64>,
}
