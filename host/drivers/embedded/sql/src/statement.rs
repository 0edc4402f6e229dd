//! Runs one statement on one connection, within its limits, so that a failure leaves nothing behind.
//!
//! Invariants
//! - On a connection that can write, a statement runs inside a transaction or a savepoint of its own: whatever goes
//!   wrong, the limits on the result included, undoes it.
//! - The time is watched from inside SQLite, every [`STEPS_BETWEEN_LOOKS`] virtual machine steps.
//!
//! Not here: which connection (`worker`), transactions across calls (`database`).

use crate::authorizer::Verdicts;
use crate::errors;
use crate::values::{self, Declared};
use rusqlite::{Connection, Statement};
use sandpost_ports::sql::{Column, Done, Rows, StatementLimits, Value};
use sandpost_ports::{ErrorKind, PortError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Some tens of microseconds of SQLite's work: often enough for a limit in milliseconds, too rare to cost anything.
const STEPS_BETWEEN_LOOKS: i32 = 1_000;

/// Longest time a statement may ask for. A bound only so that a deadline can always be computed.
const TIMEOUT_MAX: Duration = Duration::from_hours(24);

/// A statement and all that it may cost.
pub(crate) struct Request {
    pub(crate) statement: String,
    pub(crate) parameters: Vec<Value>,
    pub(crate) limits: StatementLimits,
    /// Whether the rows are wanted; if not, the statement is run to its end and they are dropped one by one.
    pub(crate) rows_wanted: bool,
    /// Set once nobody waits for the answer any more.
    pub(crate) given_up: Arc<AtomicBool>,
}

/// What a statement did; `rows` is empty where they were not wanted.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) rows: Rows,
    pub(crate) done: Done,
}

/// Where a statement stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Around {
    /// Nothing around it: it is committed by itself.
    Nothing,
    /// In a transaction that goes on after it.
    Transaction,
}

/// Runs a statement on a connection that can only read.
pub(crate) fn read(connection: &Connection, verdicts: &Verdicts, request: Request) -> Result<Outcome, PortError> {
    let _watch = Watch::start(connection, &request)?;
    run(connection, verdicts, request)
}

/// As [`read`], but hands the request back where the statement would write. `readonly` is SQLite's own word about the
/// compiled statement; a wrong one would fail on this connection and change nothing.
pub(crate) fn read_or_return(
    connection: &Connection,
    verdicts: &Verdicts,
    request: Request,
) -> Result<Result<Outcome, Request>, PortError> {
    let _watch = Watch::start(connection, &request)?;
    if prepare(connection, verdicts, &request.statement)?.readonly() {
        run(connection, verdicts, request).map(Ok)
    } else {
        Ok(Err(request))
    }
}

/// Runs a statement on the connection that can write: wholly or not at all.
pub(crate) fn write(
    connection: &Connection,
    verdicts: &Verdicts,
    request: Request,
    around: Around,
) -> Result<Outcome, PortError> {
    let (open, close, undo) = match around {
        Around::Nothing => ("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"),
        Around::Transaction => ("SAVEPOINT statement", "RELEASE statement", "ROLLBACK TO statement; RELEASE statement"),
    };
    own(connection, verdicts, open).map_err(|error| errors::of_statement(error, verdicts))?;
    let outcome = {
        let watch = Watch::start(connection, &request)?;
        let outcome = run(connection, verdicts, request);
        drop(watch);
        outcome
    };
    let closed = match outcome {
        Ok(outcome) => match own(connection, verdicts, close) {
            Ok(()) => return Ok(outcome),
            Err(error) => errors::of_commit(error, verdicts),
        },
        Err(error) => error,
    };
    // SQLite has rolled back by itself after some errors (a full disk, an interrupt); then there is nothing to undo.
    if !connection.is_autocommit() {
        own(connection, verdicts, undo).map_err(|error| errors::of_statement(error, verdicts))?;
    }
    Err(closed)
}

/// Runs one of the driver's own statements, which the authorizer would refuse to anybody else.
pub(crate) fn own(connection: &Connection, verdicts: &Verdicts, statements: &str) -> rusqlite::Result<()> {
    verdicts.as_own(|| connection.execute_batch(statements))
}

fn prepare<'c>(connection: &'c Connection, verdicts: &Verdicts, statement: &str) -> Result<Statement<'c>, PortError> {
    verdicts.reset();
    connection.prepare(statement).map_err(|error| errors::of_statement(error, verdicts))
}

fn run(connection: &Connection, verdicts: &Verdicts, request: Request) -> Result<Outcome, PortError> {
    let Request { statement, parameters, limits, rows_wanted, given_up: _ } = request;
    let mut prepared = prepare(connection, verdicts, &statement)?;
    if prepared.parameter_count() != parameters.len() {
        return Err(PortError::invalid(format!(
            "the statement has {} placeholders, and {} parameters were given",
            prepared.parameter_count(),
            parameters.len()
        )));
    }
    for (index, parameter) in parameters.into_iter().enumerate() {
        prepared
            .raw_bind_parameter(index + 1, values::to_stored(parameter)?)
            .map_err(|error| errors::of_statement(error, verdicts))?;
    }
    let columns: Vec<Column> = prepared
        .columns()
        .iter()
        .map(|column| Column { name: column.name().to_owned(), kind: column.decl_type().unwrap_or("").to_owned() })
        .collect();
    let declared: Vec<Declared> = columns.iter().map(|column| Declared::of(&column.kind)).collect();

    let changes_before = connection.total_changes();
    let mut outcome = Outcome { rows: Rows { columns, rows: Vec::new() }, done: Done::default() };
    let mut size_bytes = 0usize;
    let mut stepping = prepared.raw_query();
    while let Some(row) = stepping.next().map_err(|error| errors::of_statement(error, verdicts))? {
        if !rows_wanted {
            continue;
        }
        if outcome.rows.rows.len() >= limits.rows_max {
            return Err(PortError::new(
                ErrorKind::Exceeded,
                format!("the result has more than {} rows", limits.rows_max),
            ));
        }
        let mut values = Vec::with_capacity(declared.len());
        for (index, declared) in declared.iter().enumerate() {
            let stored = row.get_ref(index).map_err(|error| errors::of_statement(error, verdicts))?;
            let value = values::from_stored(stored, *declared)
                .map_err(|error| errors::of_statement(rusqlite::Error::Utf8Error(index, error), verdicts))?;
            size_bytes = size_bytes.saturating_add(value.size_bytes());
            if size_bytes > limits.result_max_bytes {
                return Err(PortError::new(
                    ErrorKind::Exceeded,
                    format!("the result has more than {} bytes", limits.result_max_bytes),
                ));
            }
            values.push(value);
        }
        outcome.rows.rows.push(values);
    }
    drop(stepping);
    drop(prepared);
    // `changes` keeps the number of the statement before where this one was no INSERT, UPDATE or DELETE.
    if connection.total_changes() > changes_before {
        outcome.done.affected = connection.changes();
    }
    if verdicts.has_inserted() {
        outcome.done.last_insert_id = u64::try_from(connection.last_insert_rowid()).ok();
    }
    Ok(outcome)
}

/// Ends a statement that takes too long or that nobody waits for. Off again when dropped.
struct Watch<'c>(&'c Connection);

impl<'c> Watch<'c> {
    fn start(connection: &'c Connection, request: &Request) -> Result<Self, PortError> {
        let deadline = Instant::now() + Duration::from_millis(request.limits.timeout_ms).min(TIMEOUT_MAX);
        let given_up = Arc::clone(&request.given_up);
        let is_over = move || given_up.load(Ordering::Relaxed) || Instant::now() >= deadline;
        connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(is_over)).map_err(|error| {
            PortError::new(ErrorKind::Other, "the time of a statement cannot be watched").because(error)
        })?;
        Ok(Self(connection))
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        // Fails only for a connection that is not ours, and this one is.
        self.0.progress_handler(STEPS_BETWEEN_LOOKS, None::<fn() -> bool>).ok();
    }
}
