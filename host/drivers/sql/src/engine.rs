//! What the two databases do differently, as one trait: connecting, the words around a statement, values, errors.
//!
//! Not here: which connection, how long, and what a failure means for it (`pool`, `database`).

use crate::config::{Config, OpenError, Settings};
use crate::fault::{Fault, Meaning};
use crate::statement::{Checked, Place};
use sandpost_ports::PortError;
use sandpost_ports::sql::{Access, Done, Rows, StatementLimits, Value};
use std::time::Duration;

/// One kind of database. A value of it is an address with all that is needed to connect.
pub(crate) trait Engine: Sized + Send + Sync + 'static {
    /// The word in logs.
    const WORD: &'static str;

    /// A connection, and what is known of its session.
    type Session: Send + Sync + 'static;

    /// Whether making, changing and dropping tables commits by itself.
    const COMMITS_DEFINITIONS: bool;

    /// Reads the configuration.
    fn settings(config: &Config) -> Result<Settings, OpenError>;

    /// The primary, and the replica where there is one. Asks no server.
    fn targets(settings: &Settings) -> Result<(Self, Option<Self>), OpenError>;

    /// Connects and sets the session up. The caller bounds the time.
    fn connect(&self) -> impl Future<Output = Result<Self::Session, sqlx::Error>> + Send;

    /// What the server calls a connection.
    type Id: Send + 'static;

    /// What the server calls this one.
    fn id(session: &Self::Session) -> Self::Id;

    /// One round trip.
    fn ping(session: &mut Self::Session) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Tells the server, over this connection, to end another one of the same account.
    fn kill(session: &mut Self::Session, id: Self::Id) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Says goodbye.
    fn close(session: Self::Session) -> impl Future<Output = ()> + Send;

    /// What a plugin's statement is, and whether it may be sent.
    fn check(statement: &str, access: Access, place: Place) -> Result<Checked, PortError>;

    /// Opens a transaction, and tells the session how long its next statement may take. One round trip.
    fn begin(
        session: &mut Self::Session,
        access: Access,
        limit: Duration,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// As [`begin`](Self::begin), for a statement that commits by itself.
    fn begin_alone(
        session: &mut Self::Session,
        limit: Duration,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Before each statement of an open transaction: its time, and a point to come back to.
    fn mark(session: &mut Self::Session, limit: Duration) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Undoes what was done since [`mark`](Self::mark); the transaction goes on.
    fn undo(session: &mut Self::Session) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Makes what was done durable.
    fn commit(session: &mut Self::Session) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Rolls back what is open, and takes away whatever a statement could have left in the session.
    fn tidy(session: &mut Self::Session) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Runs one statement.
    fn run(
        session: &mut Self::Session,
        checked: &Checked,
        parameters: &[Value],
        limits: StatementLimits,
        rows_wanted: bool,
    ) -> impl Future<Output = Result<Outcome, Fault>> + Send;

    /// Forgets prepared statements, because a table has another shape now.
    fn forget(session: &mut Self::Session) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// What an error of the database's means.
    fn meaning(error: &dyn sqlx::error::DatabaseError) -> Meaning;
}

/// What a statement did; `rows` is empty where they were not wanted.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) rows: Rows,
    pub(crate) done: Done,
}

/// Takes in the rows of a result, within its limits.
#[derive(Debug)]
pub(crate) struct Taking {
    limits: StatementLimits,
    size_bytes: usize,
    pub(crate) rows: Vec<Vec<Value>>,
}

impl Taking {
    pub(crate) fn new(limits: StatementLimits) -> Self {
        Self { limits, size_bytes: 0, rows: Vec::new() }
    }

    /// Takes one row; `values` is not asked for more than fits.
    pub(crate) fn take(&mut self, values: impl Iterator<Item = Result<Value, PortError>>) -> Result<(), Fault> {
        if self.rows.len() >= self.limits.rows_max {
            return Err(Fault::exceeded(format!("the result has more than {} rows", self.limits.rows_max)));
        }
        let mut row = Vec::with_capacity(values.size_hint().0);
        for value in values {
            let value = value.map_err(Fault::Midway)?;
            self.size_bytes = self.size_bytes.saturating_add(value.size_bytes());
            if self.size_bytes > self.limits.result_max_bytes {
                return Err(Fault::exceeded(format!(
                    "the result has more than {} bytes",
                    self.limits.result_max_bytes
                )));
            }
            row.push(value);
        }
        self.rows.push(row);
        Ok(())
    }
}

/// The number of placeholders and of values must be the same, and is looked at before anything is sent.
pub(crate) fn same_count(placeholders: usize, parameters: usize) -> Result<(), Fault> {
    if placeholders == parameters {
        return Ok(());
    }
    Err(Fault::Refused(PortError::invalid(format!(
        "the statement has {placeholders} placeholders, and {parameters} parameters were given"
    ))))
}
