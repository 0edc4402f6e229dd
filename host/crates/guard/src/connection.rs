//! One guarded connection: its name, its driver, its breaker, and how a call on it is made.

use crate::breaker::{Breaker, BreakerConfig, Permit, Refused};
use sandpost_ports::broker::NotSetUp;
use sandpost_ports::email::SendError;
use sandpost_ports::health::Health;
use sandpost_ports::{ErrorKind, PortError};
use sandpost_telemetry::events::connections::{Operation, OperationOutcome};
use tokio::time::Instant;

/// What all operations of a connection share. Two ports of one service may share it.
#[derive(Debug)]
pub struct Connection {
    name: String,
    driver: &'static str,
    breaker: Breaker,
}

impl Connection {
    /// `name` as in the configuration (`cache`, `sql.main`), `driver` the word in it.
    pub fn new(name: &str, driver: &'static str, breaker: BreakerConfig) -> Self {
        Self { name: name.to_owned(), driver, breaker: Breaker::new(name, driver, breaker) }
    }

    /// Its name and its driver, as labels.
    pub(crate) fn labels(&self) -> (&str, &'static str) {
        (&self.name, self.driver)
    }

    /// One kind of operation, ready to be measured.
    pub fn operation(&self, operation: &'static str) -> Operation {
        Operation::new(&self.name, self.driver, operation)
    }

    /// Makes a call, unless the breaker is open.
    pub async fn call<T, E: Answer>(
        &self,
        operation: &Operation,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        match self.admit() {
            Ok(permit) => measured(permit, operation, work).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a call that belongs to something already begun: measured and counted, never refused.
    pub(crate) async fn go_on<T, E: Answer>(
        &self,
        operation: &Operation,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        measured(self.breaker.let_through(), operation, work).await
    }

    /// As [`call`](Self::call), for calls that answer for each of their parts: it failed where all of them did.
    pub(crate) async fn call_many<T>(
        &self,
        operation: &Operation,
        parts: usize,
        work: impl Future<Output = Vec<Result<T, PortError>>>,
    ) -> Vec<Result<T, PortError>> {
        let Ok(permit) = self.admit() else {
            return (0..parts).map(|_| Err(refusal())).collect();
        };
        let mut clock = Clock::start(operation);
        let answers = work.await;
        let worst = answers.iter().find_map(|answer| answer.as_ref().err());
        let outcome = worst.map_or(OperationOutcome::Ok, |error| of_kind(error.kind));
        let failed = !answers.is_empty() && answers.iter().all(|answer| answer.as_ref().is_err_and(is_failure));
        clock.stop(outcome);
        permit.ended(failed);
        answers
    }

    /// Asks the service how it is, whatever the breaker says: an answer is what tells that an outage is over.
    pub(crate) async fn check(&self, driver: &(impl Health + ?Sized)) -> Result<(), PortError> {
        match driver.check().await {
            Ok(()) => {
                self.breaker.answered();
                Ok(())
            }
            Err(mut error) => {
                if !is_failure(&error) {
                    self.breaker.answered();
                } else if self.breaker.is_open() {
                    error.message.push_str("; the circuit breaker is open: calls are refused until it answers");
                }
                Err(error)
            }
        }
    }

    fn admit(&self) -> Result<Permit<'_>, PortError> {
        self.breaker.admit().map_err(|Refused| refusal())
    }
}

/// What a call answers while the breaker is open.
fn refusal() -> PortError {
    PortError::new(
        ErrorKind::Unavailable,
        "the circuit breaker is open, because the last calls failed; nothing was done",
    )
}

/// Why a call failed, as metrics and breaker see it.
pub trait Answer: From<PortError> {
    /// What it was, and whether it says that the service is not there.
    fn outcome(&self) -> (OperationOutcome, bool);
}

impl Answer for PortError {
    fn outcome(&self) -> (OperationOutcome, bool) {
        (of_kind(self.kind), is_failure(self))
    }
}

impl Answer for SendError {
    fn outcome(&self) -> (OperationOutcome, bool) {
        match self {
            Self::Rejected { .. } => (OperationOutcome::Rejected, false),
            Self::Throttled { .. } => (OperationOutcome::Throttled, false),
            Self::Paused { .. } => (OperationOutcome::Paused, false),
            Self::Suppressed => (OperationOutcome::Suppressed, false),
            Self::Port(error) => error.outcome(),
        }
    }
}

fn of_kind(kind: ErrorKind) -> OperationOutcome {
    match kind {
        ErrorKind::Invalid => OperationOutcome::Invalid,
        ErrorKind::Conflict => OperationOutcome::Conflict,
        ErrorKind::Unavailable => OperationOutcome::Unavailable,
        ErrorKind::UnknownOutcome => OperationOutcome::UnknownOutcome,
        ErrorKind::Exceeded => OperationOutcome::Exceeded,
        ErrorKind::Unsupported => OperationOutcome::Unsupported,
        ErrorKind::Other => OperationOutcome::Other,
    }
}

/// Whether it says that the service is not there.
fn is_failure(error: &PortError) -> bool {
    match error.kind {
        ErrorKind::Unavailable => !error.source.as_ref().is_some_and(|source| source.is::<NotSetUp>()),
        ErrorKind::UnknownOutcome => true,
        ErrorKind::Invalid | ErrorKind::Conflict | ErrorKind::Exceeded | ErrorKind::Unsupported | ErrorKind::Other => {
            false
        }
    }
}

async fn measured<T, E: Answer>(
    permit: Permit<'_>,
    operation: &Operation,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let mut clock = Clock::start(operation);
    let answer = work.await;
    let (outcome, failed) = match &answer {
        Ok(_) => (OperationOutcome::Ok, false),
        Err(error) => error.outcome(),
    };
    clock.stop(outcome);
    permit.ended(failed);
    answer
}

/// Measures a call, also one that is dropped before its answer.
struct Clock<'a> {
    operation: &'a Operation,
    began: Instant,
    stopped: bool,
}

impl<'a> Clock<'a> {
    fn start(operation: &'a Operation) -> Self {
        Self { operation, began: Instant::now(), stopped: false }
    }

    fn stop(&mut self, outcome: OperationOutcome) {
        self.stopped = true;
        self.operation.ended(outcome, self.began.elapsed());
    }
}

impl Drop for Clock<'_> {
    fn drop(&mut self) {
        if !self.stopped {
            self.operation.ended(OperationOutcome::CutOff, self.began.elapsed());
        }
    }
}
