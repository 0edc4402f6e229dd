//! One call of a plugin, from the host's side: whose it is, what it may cost, what it has open.
//!
//! A [`Call`] lives in the store of one instance and ends with it. Over a limit of calls or bytes the guest is ended
//! with a [`Fault`]; every other failure is a typed answer that the guest can act on.
//!
//! Invariants
//! - Futures of ports are polled inside the I/O runtime's context ([`Ports::io`]), whatever thread the guest runs on,
//!   so that their sockets and timers belong to it.
//! - What a call left open is dropped inside that context too: a transaction rolls back.

use crate::bindings::types;
use crate::effects::Effects;
use crate::grants::Grants;
use crate::templates::Templates;
use sandpost_message::{ConnectionLabel, Fault, FaultKind, TimestampMs, Topic};
use sandpost_ports::broker::Broker;
use sandpost_ports::cache::Cache;
use sandpost_ports::clock::Clock;
use sandpost_ports::documents::Documents;
use sandpost_ports::email::{Address, EmailSender};
use sandpost_ports::plugins::{Attempt, Identity};
use sandpost_ports::publisher::Publisher;
use sandpost_ports::sql::{Sql, StatementLimits};
use sandpost_ports::state::State;
use sandpost_ports::{ErrorKind, PortError};
use sandpost_telemetry::events::interfaces as events;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{self, Poll};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use wasmtime::component::ResourceTable;

/// What the host has behind its interfaces. One a host, shared by all plugins.
pub struct Ports {
    /// Publishes with the ledger beside it; over `broker`.
    pub publisher: Publisher,
    /// Asked whether it deduplicates by itself.
    pub broker: Arc<dyn Broker>,
    /// The ledger and the effects.
    pub state: Arc<dyn State>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// The cache of all plugins.
    pub cache: Arc<dyn Cache>,
    /// Put before every key, with its separator; what this host shares a cache server by. May be empty.
    pub cache_prefix: String,
    /// The time to live of a cache entry whose plugin named none.
    pub cache_default_ttl: Duration,
    /// The provider of e-mail.
    pub email: Arc<dyn EmailSender>,
    /// Who sends where the plugin names no sender.
    pub default_sender: Option<Address>,
    /// How large a mail may be.
    pub mail_limits: sandpost_mail::Limits,
    /// The relational databases.
    pub sql: BTreeMap<ConnectionLabel, Arc<dyn Sql>>,
    /// The document databases.
    pub documents: BTreeMap<ConnectionLabel, Arc<dyn Documents>>,
    /// What was last seen of each connection.
    pub health: Arc<dyn ConnectionHealth>,
    /// Effects at work, which outlive their guests.
    pub effects: Arc<Effects>,
    /// The I/O runtime.
    pub io: Handle,
}

/// What the host last saw of its connections. It answers from memory: no call reaches a service.
pub trait ConnectionHealth: Send + Sync {
    /// Each connection with the time its last check took, or with why it failed. By label.
    fn connections(&self) -> Vec<(String, Result<Duration, String>)>;
}

/// What every call of one deployment shares.
pub struct Context {
    /// Which version of which plugin.
    pub identity: Identity,
    /// What it may touch.
    pub grants: Grants,
    /// What the operator set for it.
    pub config: Vec<(String, String)>,
    /// Put between the host's prefix and the plugin's key, with its separator: `"<plugin>:"`, or empty where plugins
    /// share their entries.
    pub cache_scope: String,
    /// What one call may cost.
    pub limits: CallLimits,
    /// What lies behind.
    pub ports: Arc<Ports>,
    /// The template plugin that is live.
    pub templates: Arc<dyn Templates>,
    /// Its calls are a trial's: what lies behind is scratch, so that nothing of it counts as sent, published or read.
    pub trial: bool,
}

/// What one call of a plugin may cost. A call handles one message.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallLimits {
    /// Host calls; one more ends the guest. Default 1000.
    pub host_calls_max: u64,
    /// Bytes in arguments and answers together; one more ends the guest. Default 16 777 216 (16 MiB).
    pub host_bytes_max: u64,
    /// Bytes of log lines; what is over is dropped, with one line that says so. Default 65 536 (64 KiB).
    pub log_max_bytes: u64,
    /// Keys of one cache call. Default 1000.
    pub cache_keys_max: usize,
    /// Bytes of one cache value. Default 1 048 576 (1 MiB).
    pub cache_value_max_bytes: usize,
    /// Rows of one SQL result; one more is `exceeded`. Default 1000.
    pub rows_max: usize,
    /// Parameters of one SQL statement. Default 1000.
    pub parameters_max: usize,
    /// Bytes of one result: SQL rows, or one batch of documents. Default 4 194 304 (4 MiB).
    pub result_max_bytes: usize,
    /// Time of one SQL statement in the database; less where the call's deadline is nearer. Default 5000.
    pub statement_timeout_ms: u64,
    /// Documents of one batch of a cursor, and of one `insert-many`. Default 100.
    pub documents_batch_max: usize,
    /// Documents that one `find` returns where the plugin named no limit, and the most that it can name. Default 1000.
    pub find_max: u32,
    /// Bytes of one document, filter, update or pipeline stage. Default 1 048 576 (1 MiB).
    pub document_max_bytes: usize,
    /// Levels of one document. Default 64.
    pub document_depth_max: usize,
    /// Connections, transactions, collections and cursors open at once. Default 64.
    pub resources_max: usize,
    /// Messages published. Default 100.
    pub publishes_max: u64,
    /// Messages in a row that were each published by the handler of the one before, counted from the service's: publishing
    /// while the last of them is handled is `exceeded`. It ends plugins that answer each other, or themselves, without end.
    /// Default 16; from 256 on there is no bound.
    pub hops_max: u64,
    /// E-mails sent. Default 100.
    pub emails_max: u64,
    /// E-mails of one `send-many`, and publishes of one `publish-many` to a broker that does not deduplicate, that are
    /// handed over at the same time. Default 8.
    pub effects_parallel: usize,
}

impl Default for CallLimits {
    fn default() -> Self {
        Self {
            host_calls_max: 1000,
            host_bytes_max: 16 * 1024 * 1024,
            log_max_bytes: 64 * 1024,
            cache_keys_max: 1000,
            cache_value_max_bytes: 1024 * 1024,
            rows_max: 1000,
            parameters_max: 1000,
            result_max_bytes: 4 * 1024 * 1024,
            statement_timeout_ms: 5000,
            documents_batch_max: 100,
            find_max: 1000,
            document_max_bytes: 1024 * 1024,
            document_depth_max: 64,
            resources_max: 64,
            publishes_max: 100,
            hops_max: 16,
            emails_max: 100,
            effects_parallel: 8,
        }
    }
}

/// What is known of a call once it has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallReport {
    /// Why the message must not be tried again until an operator decided: the outcome of one of its effects is unknown,
    /// and the subscription says hold. The message becomes a dead letter with cause `outcome-unknown`, whatever the
    /// guest's verdict was.
    pub held: Option<String>,
    /// Set where a provider takes nothing at all for now. A verdict to retry is then held back and not counted.
    pub postponed: Option<Postponed>,
    /// How often the guest called the host.
    pub host_calls: u64,
    /// Bytes in arguments and answers.
    pub host_bytes: u64,
    /// Transactions that were neither committed nor rolled back; they are rolled back now.
    pub open_transactions: usize,
}

/// A provider takes nothing at all for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postponed {
    /// Why, in words.
    pub reason: String,
    /// When it may be worth another look.
    pub after_ms: u64,
}

/// The host's side of one instance. See the module.
pub struct Call {
    pub(crate) scope: Arc<Scope>,
    pub(crate) table: ResourceTable,
    pub(crate) budget: Budget,
    pub(crate) held: Option<String>,
    pub(crate) postponed: Option<Postponed>,
}

/// What of a call does not change; effects take it along, because they can outlive the call.
pub(crate) struct Scope {
    pub(crate) context: Arc<Context>,
    pub(crate) attempt: Option<Attempt>,
    pub(crate) deadline_at_ms: TimestampMs,
    /// How often the host computed for long on the guest's behalf.
    long_works: AtomicU64,
}

/// What was spent so far.
#[derive(Default)]
pub(crate) struct Budget {
    calls: u64,
    bytes: u64,
    pub(crate) log_bytes: u64,
    pub(crate) log_dropped: bool,
    pub(crate) publishes: u64,
    pub(crate) publish_calls: u64,
    pub(crate) emails: u64,
    pub(crate) places: HashMap<Topic, Places>,
    reported: u32,
}

/// Places of publishes to one topic, in the order of the calls. A publish that failed keeps its place for the same message,
/// so that the guest's own second try has the same key as its first. Another message never gets it: after a failure it
/// would go under the key of the one that failed, and a later attempt would take one for the other.
#[derive(Default)]
pub(crate) struct Places {
    next: u64,
    /// Fingerprint of the message, place.
    free: BTreeSet<(u64, u64)>,
}

impl Places {
    pub(crate) fn take(&mut self, fingerprint: u64) -> u64 {
        let kept = self.free.range((fingerprint, 0)..=(fingerprint, u64::MAX)).next().copied();
        if let Some(kept) = kept {
            self.free.remove(&kept);
            return kept.1;
        }
        self.next += 1;
        self.next
    }

    pub(crate) fn give_back(&mut self, fingerprint: u64, place: u64) {
        self.free.insert((fingerprint, place));
    }
}

/// Failures and refusals of one call that get a log line of their own; further ones are only counted.
const REPORTS_MAX: u32 = 8;

/// Why a host call did not do what was asked.
#[derive(Debug)]
pub(crate) enum CallError {
    /// No grant covers it; says which one would.
    Denied(String),
    /// Anything else.
    Port(PortError),
}

impl CallError {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Port(PortError::invalid(message))
    }

    pub(crate) fn exceeded(message: impl Into<String>) -> Self {
        Self::Port(PortError::new(ErrorKind::Exceeded, message))
    }

    /// The word in metrics.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::Port(error) => error.kind.word(),
        }
    }
}

impl From<PortError> for CallError {
    fn from(error: PortError) -> Self {
        Self::Port(error)
    }
}

impl From<CallError> for types::Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Denied(grant) => Self::Denied(format!("not granted: {grant}")),
            CallError::Port(error) => {
                let text = error.to_string();
                match error.kind {
                    ErrorKind::Invalid => Self::Invalid(text),
                    ErrorKind::Conflict => Self::Conflict(text),
                    ErrorKind::Unavailable => Self::Unavailable(text),
                    ErrorKind::UnknownOutcome => Self::UnknownOutcome(text),
                    ErrorKind::Exceeded => Self::Exceeded(text),
                    ErrorKind::Unsupported => Self::Unsupported(text),
                    ErrorKind::Other => Self::Other(text),
                }
            }
        }
    }
}

/// A host call at work.
#[derive(Clone, Copy)]
#[must_use = "a call that was entered is left"]
pub(crate) struct Entered {
    interface: &'static str,
    operation: &'static str,
    since: Instant,
}

impl Call {
    /// For one instance of this deployment. `attempt` is none where no message is handled (a template, a start): effects then
    /// go straight to the ports. `deadline_at_ms` is when the runtime ends the guest.
    pub fn new(context: Arc<Context>, attempt: Option<Attempt>, deadline_at_ms: TimestampMs) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(context.limits.resources_max);
        Self {
            scope: Arc::new(Scope { context, attempt, deadline_at_ms, long_works: AtomicU64::new(0) }),
            table,
            budget: Budget::default(),
            held: None,
            postponed: None,
        }
    }

    /// Ends the call: what it left open is rolled back. Effects that are being handed over go on.
    pub fn finish(mut self) -> CallReport {
        let open_transactions = self.table.iter_mut().filter(|entry| entry.is::<crate::sql::Transaction>()).count();
        if open_transactions > 0 {
            let (plugin, version, message_id, trace_id) = self.scope.ids();
            events::TransactionLeftOpen { plugin, version, message_id, trace_id, count: open_transactions }.emit();
        }
        CallReport {
            held: self.held.take(),
            postponed: self.postponed.take(),
            host_calls: self.budget.calls,
            host_bytes: self.budget.bytes,
            open_transactions,
        }
    }

    /// Which deployment the call belongs to.
    pub fn context(&self) -> &Arc<Context> {
        &self.scope.context
    }

    /// Counts a host call and the bytes of its arguments.
    pub(crate) fn enter(
        &mut self,
        interface: &'static str,
        operation: &'static str,
        bytes: usize,
    ) -> wasmtime::Result<Entered> {
        let limit = self.scope.context.limits.host_calls_max;
        if self.budget.calls >= limit {
            let detail = format!("more than {limit} host calls (host_calls_max); the last was {interface}.{operation}");
            return Err(Fault::new(FaultKind::HostCalls, detail).into());
        }
        self.budget.calls += 1;
        self.count_bytes(interface, operation, bytes)?;
        Ok(Entered { interface, operation, since: Instant::now() })
    }

    /// Ends a host call: counts the answer's bytes, reports it, and turns a failure into the guest's error.
    pub(crate) fn leave<T>(
        &mut self,
        entered: Entered,
        answer: Result<T, CallError>,
        size: impl FnOnce(&T) -> usize,
    ) -> wasmtime::Result<Result<T, types::Error>> {
        match answer {
            Ok(value) => {
                let bytes = size(&value);
                self.leave_as(entered, "ok", bytes)?;
                Ok(Ok(value))
            }
            Err(error) => {
                self.report(&entered, &error);
                let word = error.word();
                let error = types::Error::from(error);
                self.leave_as(entered, word, 0)?;
                Ok(Err(error))
            }
        }
    }

    /// As [`Self::leave`], for interfaces with errors of their own.
    pub(crate) fn leave_as(&mut self, entered: Entered, outcome: &'static str, bytes: usize) -> wasmtime::Result<()> {
        let Entered { interface, operation, since } = entered;
        events::HostCall { interface, operation, outcome, duration: since.elapsed() }.emit();
        self.count_bytes(interface, operation, bytes)
    }

    /// Tells the operator why a host call failed, for the first few of each call.
    pub(crate) fn report(&mut self, entered: &Entered, error: &CallError) {
        let (plugin, version, message_id, trace_id) = self.scope.ids();
        let quiet = self.budget.reported >= REPORTS_MAX;
        self.budget.reported = self.budget.reported.saturating_add(1);
        let Entered { interface, operation, .. } = *entered;
        match error {
            CallError::Denied(grant) => {
                events::CallDenied { plugin, version, message_id, trace_id, interface, operation, grant, quiet }.emit();
            }
            CallError::Port(error) if !quiet => events::CallFailed {
                plugin,
                version,
                message_id,
                trace_id,
                interface,
                operation,
                kind: error.kind.word(),
                error,
            }
            .emit(),
            CallError::Port(_) => {}
        }
    }

    fn count_bytes(&mut self, interface: &str, operation: &str, bytes: usize) -> wasmtime::Result<()> {
        let limit = self.scope.context.limits.host_bytes_max;
        self.budget.bytes = self.budget.bytes.saturating_add(bytes as u64);
        if self.budget.bytes > limit {
            let detail =
                format!("more than {limit} bytes to and from the host (host_bytes_max), in {interface}.{operation}");
            return Err(Fault::new(FaultKind::HostBytes, detail).into());
        }
        Ok(())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // A driver's transaction may have to reach its runtime to roll back.
        let scope = self.scope.clone();
        let _inside = scope.context.ports.io.enter();
        drop(std::mem::take(&mut self.table));
    }
}

impl Scope {
    pub(crate) fn ports(&self) -> &Ports {
        &self.context.ports
    }

    pub(crate) fn grants(&self) -> &Grants {
        &self.context.grants
    }

    pub(crate) fn limits(&self) -> &CallLimits {
        &self.context.limits
    }

    /// Plugin, version, message and trace, as log lines name them.
    pub(crate) fn ids(&self) -> (&str, &str, Option<&str>, Option<String>) {
        let identity = &self.context.identity;
        let message = self.attempt.as_ref().map(|attempt| &attempt.message);
        (
            identity.plugin.as_str(),
            &identity.version,
            message.map(|message| message.id.as_str()),
            message.map(|message| message.trace.trace_id()),
        )
    }

    /// What is left of the call.
    pub(crate) fn remaining_ms(&self) -> u64 {
        self.deadline_at_ms.saturating_sub(self.ports().clock.now_ms())
    }

    /// The limits of one SQL statement that begins now.
    pub(crate) fn statement_limits(&self) -> StatementLimits {
        let limits = self.limits();
        StatementLimits {
            rows_max: limits.rows_max,
            result_max_bytes: limits.result_max_bytes,
            timeout_ms: limits.statement_timeout_ms.min(self.remaining_ms()),
        }
    }

    /// Work of the host on a guest's behalf that can be long. After some the thread is given away before there is more, so
    /// that whoever asks for much is seen to compute for long, and meets its deadline; not in the middle of one thing, so
    /// that the first of two equal mails is the one that is sent.
    pub(crate) async fn in_turns<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut seen = 0;
        // Again where another of the same call was first.
        while seen != self.long_works.load(Ordering::Relaxed) {
            seen = self.long_works.load(Ordering::Relaxed);
            give_way().await;
        }
        // Not the system's own: in the simulation this one stands still, and the same seed gives the same trace there.
        let since = tokio::time::Instant::now();
        let done = work();
        if since.elapsed() >= LONG_WORK {
            self.long_works.fetch_add(1, Ordering::Relaxed);
        }
        done
    }

    /// Polls a port's future inside the I/O runtime, without a hop to one of its threads.
    pub(crate) async fn on_io<F: Future>(&self, future: F) -> F::Output {
        on_io(&self.ports().io, future).await
    }
}

/// Polls a future inside a runtime's context, and drops it there too: what is cut off may have to give a connection
/// back.
pub(crate) async fn on_io<F: Future>(io: &Handle, future: F) -> F::Output {
    struct Inside<'a, F> {
        io: &'a Handle,
        future: Option<Pin<Box<F>>>,
    }

    impl<F: Future> Future for Inside<'_, F> {
        type Output = F::Output;

        fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<F::Output> {
            let _inside = self.io.enter();
            match &mut self.future {
                Some(future) => future.as_mut().poll(context),
                None => Poll::Pending,
            }
        }
    }

    impl<F> Drop for Inside<'_, F> {
        fn drop(&mut self) {
            let _inside = self.io.enter();
            drop(self.future.take());
        }
    }

    Inside { io, future: Some(Box::pin(future)) }.await
}

/// What the host computes on a guest's behalf before it gives its thread away. Half of the tick in which a guest gives its own
/// away.
const LONG_WORK: Duration = Duration::from_millis(1);

/// Pending once. Wakes itself, where tokio's own would be woken by its scheduler: a collection of futures counts only those
/// that do, and gives way only after some of them.
async fn give_way() {
    let mut given = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Adds lengths up without overflow.
pub(crate) fn sum(lengths: impl IntoIterator<Item = usize>) -> usize {
    lengths.into_iter().fold(0, usize::saturating_add)
}

/// The length of a text that may be left out.
pub(crate) fn len(text: Option<&String>) -> usize {
    text.map_or(0, String::len)
}
