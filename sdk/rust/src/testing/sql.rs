//! A database that answers as the test says.

use super::Service;
use super::state::{State, call};
use crate::error::HostError;
use crate::sql::{Column, Done, Rows, Value};
use std::cell::RefCell;
use std::rc::Rc;

/// What one database answers, and what it was asked.
#[derive(Debug, Default)]
pub(super) struct DatabaseState {
    scripts: Vec<Scripted>,
    statements: Vec<(String, Vec<Value>)>,
}

#[derive(Debug)]
struct Scripted {
    statement: String,
    parameters: Option<Vec<Value>>,
    answer: Answer,
}

#[derive(Debug, Clone)]
enum Answer {
    Rows(Rows),
    Done(Done),
    Error(HostError),
}

/// A database to script. See [`Host::sql`](super::Host::sql).
#[derive(Debug, Clone)]
pub struct Database {
    state: Rc<RefCell<State>>,
    label: String,
}

impl Database {
    pub(super) fn new(state: Rc<RefCell<State>>, label: &str) -> Self {
        Self { state, label: label.to_owned() }
    }

    /// What a statement that contains this text answers. White space does not count; the last that matches is taken.
    /// A statement that nobody scripted is an error.
    pub fn when(&self, statement: &str) -> Script<'_> {
        Script { database: self, statement: squeeze(statement), parameters: None }
    }

    /// All statements with their parameters, in order, `BEGIN`, `COMMIT` and `ROLLBACK` among them.
    pub fn statements(&self) -> Vec<(String, Vec<Value>)> {
        let state = self.state.borrow();
        state.sql.get(&self.label).map(|database| database.statements.clone()).unwrap_or_default()
    }
}

/// A statement that waits for its answer.
#[derive(Debug)]
#[must_use = "it answers nothing before `returns`, `changes` or `fails`"]
pub struct Script<'a> {
    database: &'a Database,
    statement: String,
    parameters: Option<Vec<Value>>,
}

impl Script<'_> {
    /// Only with these parameters: `params![…]`.
    pub fn with(mut self, parameters: Vec<Value>) -> Self {
        self.parameters = Some(parameters);
        self
    }

    /// A query answers these rows: `rows![…]`.
    pub fn returns(self, rows: Rows) {
        self.answer(Answer::Rows(rows));
    }

    /// A change affects so many rows.
    pub fn changes(self, affected: u64) {
        self.answer(Answer::Done(Done { affected, last_insert_id: None }));
    }

    /// It fails.
    pub fn fails(self, error: HostError) {
        self.answer(Answer::Error(error));
    }

    fn answer(self, answer: Answer) {
        let mut state = self.database.state.borrow_mut();
        let database = state.sql.entry(self.database.label.clone()).or_default();
        database.scripts.push(Scripted { statement: self.statement, parameters: self.parameters, answer });
    }
}

/// Rows of JSON objects; the columns are the first one's keys.
#[doc(hidden)]
pub fn rows_of(objects: &[serde_json::Value]) -> Rows {
    let names: Vec<String> = match objects.first() {
        Some(serde_json::Value::Object(first)) => first.keys().cloned().collect(),
        _ => Vec::new(),
    };
    let row = |object: &serde_json::Value| names.iter().map(|name| value(&object[name.as_str()])).collect();
    let rows = objects.iter().map(row).collect();
    let columns = names.iter().map(|name| Column { name: name.clone(), kind: String::new() }).collect();
    Rows { columns, rows }
}

fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Boolean(*value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::Int64(value),
            (None, Some(value)) => Value::UInt64(value),
            (None, None) => Value::Float64(number.as_f64().unwrap_or_default()),
        },
        serde_json::Value::String(text) => Value::Text(text.clone()),
        other => Value::Json(other.to_string()),
    }
}

pub(crate) struct Connection {
    label: String,
}

pub(crate) struct Transaction {
    label: String,
    ended: bool,
}

impl Connection {
    pub(crate) fn open(label: &str) -> Result<Self, HostError> {
        call(Service::Sql, |_| Ok(Self { label: label.to_owned() }))
    }

    pub(crate) fn query(&self, statement: &str, parameters: &[Value]) -> Result<Rows, HostError> {
        query(&self.label, statement, parameters)
    }

    pub(crate) fn execute(&self, statement: &str, parameters: &[Value]) -> Result<Done, HostError> {
        execute(&self.label, statement, parameters)
    }

    pub(crate) fn begin(&self) -> Result<Transaction, HostError> {
        note(&self.label, "BEGIN")?;
        Ok(Transaction { label: self.label.clone(), ended: false })
    }
}

impl Transaction {
    pub(crate) fn query(&self, statement: &str, parameters: &[Value]) -> Result<Rows, HostError> {
        query(&self.label, statement, parameters)
    }

    pub(crate) fn execute(&self, statement: &str, parameters: &[Value]) -> Result<Done, HostError> {
        execute(&self.label, statement, parameters)
    }

    pub(crate) fn commit(mut self) -> Result<(), HostError> {
        self.ended = true;
        note(&self.label, "COMMIT")
    }

    pub(crate) fn rollback(mut self) -> Result<(), HostError> {
        self.ended = true;
        note(&self.label, "ROLLBACK")
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.ended {
            // A host that is gone or told to fail has rolled back by itself.
            drop(note(&self.label, "ROLLBACK"));
        }
    }
}

fn note(label: &str, statement: &str) -> Result<(), HostError> {
    call(Service::Sql, |state| {
        let database = state.sql.entry(label.to_owned()).or_default();
        database.statements.push((statement.to_owned(), Vec::new()));
        Ok(())
    })
}

fn query(label: &str, statement: &str, parameters: &[Value]) -> Result<Rows, HostError> {
    match answer(label, statement, parameters)? {
        Answer::Rows(rows) => Ok(rows),
        Answer::Done(_) => Ok(Rows::default()),
        Answer::Error(error) => Err(error),
    }
}

fn execute(label: &str, statement: &str, parameters: &[Value]) -> Result<Done, HostError> {
    match answer(label, statement, parameters)? {
        Answer::Rows(_) => Ok(Done::default()),
        Answer::Done(done) => Ok(done),
        Answer::Error(error) => Err(error),
    }
}

fn answer(label: &str, statement: &str, parameters: &[Value]) -> Result<Answer, HostError> {
    call(Service::Sql, |state| {
        let database = state.sql.entry(label.to_owned()).or_default();
        database.statements.push((statement.to_owned(), parameters.to_vec()));
        let squeezed = squeeze(statement);
        let fits = |script: &&Scripted| {
            squeezed.contains(&script.statement)
                && script.parameters.as_ref().is_none_or(|expected| expected.as_slice() == parameters)
        };
        let found = database.scripts.iter().rev().find(fits).map(|script| script.answer.clone());
        let unknown = || HostError::Invalid(format!("the test scripted no answer on `{label}` to: {squeezed}"));
        found.ok_or_else(unknown)
    })
}

fn squeeze(statement: &str) -> String {
    statement.split_whitespace().collect::<Vec<_>>().join(" ")
}
