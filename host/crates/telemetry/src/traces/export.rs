//! The way to the collector: a bounded queue, and one thread that empties it, a batch at a time, over HTTP.
//!
//! Invariants
//! - Nobody waits for the collector but this thread: a full queue drops the span that would go in, and counts it.
//! - What can be tried again is, with waits between, for [`KEEP_TRYING`]; then the batch is dropped and counted. Which
//!   answers those are is OTLP's own list (<https://opentelemetry.io/docs/specs/otlp/#otlphttp-response>).
//! - A collector that is away is one line, then one a minute with what was lost by then, and one when it is back.
//! - A stop gives each batch one more try, within a time.

use super::settings::Settings;
use super::spans::text;
use crate::events::traces::{ExportFailed, ExportResumed, SpansExported, SpansLost};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use ureq::http::{HeaderName, HeaderValue};
use ureq::tls::{RootCerts, TlsConfig};

/// A second or two of a busy host; at about a kilobyte each, what a collector may be behind without a loss.
const QUEUE_SPANS_MAX: usize = 8192;

/// Spans of one request, as the specification's batch processor has it.
const BATCH_SPANS_MAX: usize = 512;

/// How long a batch waits to become full.
const BATCH_WAIT: Duration = Duration::from_secs(1);

/// Between two tries of one batch: doubling from the least to the longest.
const TRY_WAIT_MIN: Duration = Duration::from_secs(1);
const TRY_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long one batch is tried. Longer than the restart of a collector.
const KEEP_TRYING: Duration = Duration::from_mins(2);

/// At most one line in this time about a collector that is away.
const LINE_EVERY: Duration = Duration::from_mins(1);

/// The most of an answer that is read; it says how many spans were refused and why.
const ANSWER_MAX_BYTES: u64 = 64 * 1024;

/// How long `doctor` waits for a collector.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// After its end the thread may still be in the last answer; this much later nobody waits for it any more.
const END_SLACK: Duration = Duration::from_millis(250);

/// Spans that ended and wait.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    lost: AtomicU64,
}

#[derive(Default)]
struct State {
    spans: VecDeque<Span>,
    /// Set by the stop: until when batches are tried.
    end_by: Option<Instant>,
    ended: bool,
}

/// Starts the thread.
pub(super) fn start(settings: &Settings) -> std::io::Result<Arc<Queue>> {
    let queue = Arc::new(Queue::default());
    let worker = Worker::new(settings, queue.clone());
    std::thread::Builder::new().name("sandpost-traces".to_owned()).spawn(move || worker.run())?;
    Ok(queue)
}

/// Asks the collector with a request that holds no span.
pub(super) fn probe(settings: &Settings) -> Result<String, String> {
    let collector = Collector::of(settings);
    match collector.post(&ExportTraceServiceRequest::default().encode_to_vec(), PROBE_TIMEOUT.min(settings.timeout)) {
        Ok(_) => Ok(settings.describe()),
        Err(failure) => Err(format!("{}: {}", settings.describe(), failure.what)),
    }
}

impl Queue {
    /// Takes a span, or drops it where there is no place. Never waits.
    pub(super) fn push(&self, span: Span) {
        let mut state = self.lock();
        if state.ended || state.spans.len() >= QUEUE_SPANS_MAX {
            let reason = if state.ended { "stopped" } else { "queue-full" };
            drop(state);
            return self.lose(reason, 1);
        }
        state.spans.push_back(span);
        let count = state.spans.len();
        drop(state);
        // The first wakes whoever waits for one, the last of a batch whoever waits for it to be full.
        if count == 1 || count == BATCH_SPANS_MAX {
            self.changed.notify_all();
        }
    }

    /// Waits until everything was tried, at most so long.
    pub(super) fn end(&self, within: Duration) {
        let mut state = self.lock();
        state.end_by = Some(Instant::now() + within);
        self.changed.notify_all();
        let waiting = self.changed.wait_timeout_while(state, within + END_SLACK, |state| !state.ended);
        let (mut state, _timed_out) = waiting.unwrap_or_else(PoisonError::into_inner);
        state.ended = true;
        let left = state.spans.len();
        drop(state);
        self.lose("stopped", left);
    }

    /// Waits for the next batch; none once the stop has come and nothing is left.
    pub(super) fn next_batch(&self) -> Option<Vec<Span>> {
        let mut state = self.lock();
        while state.spans.is_empty() {
            if state.end_by.is_some() || state.ended {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let filling = self.changed.wait_timeout_while(state, BATCH_WAIT, |state| {
            state.spans.len() < BATCH_SPANS_MAX && state.end_by.is_none()
        });
        let (mut state, _timed_out) = filling.unwrap_or_else(PoisonError::into_inner);
        let count = state.spans.len().min(BATCH_SPANS_MAX);
        Some(state.spans.drain(..count).collect())
    }

    /// Waits so long, or until the stop.
    fn pause(&self, wait: Duration) {
        let waiting = self.changed.wait_timeout_while(self.lock(), wait, |state| state.end_by.is_none());
        drop(waiting);
    }

    fn end_by(&self) -> Option<Instant> {
        self.lock().end_by
    }

    fn ended(&self) {
        let mut state = self.lock();
        state.ended = true;
        let left = std::mem::take(&mut state.spans).len();
        drop(state);
        self.lose("stopped", left);
        self.changed.notify_all();
    }

    fn lose(&self, reason: &'static str, count: usize) {
        if count > 0 {
            self.lost.fetch_add(count as u64, Ordering::Relaxed);
            SpansLost { reason, count: count as u64 }.emit();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread.
struct Worker {
    queue: Arc<Queue>,
    collector: Collector,
    timeout: Duration,
    resource: Resource,
    reports: Reports,
}

impl Worker {
    fn new(settings: &Settings, queue: Arc<Queue>) -> Self {
        let attributes = settings.resource.iter().map(|(name, value)| text(name, value)).collect();
        Self {
            queue,
            collector: Collector::of(settings),
            timeout: settings.timeout,
            resource: Resource { attributes, ..Resource::default() },
            reports: Reports::default(),
        }
    }

    fn run(mut self) {
        while let Some(batch) = self.queue.next_batch() {
            self.deliver(batch);
        }
        self.queue.ended();
    }

    /// Tries until it is taken, cannot be taken, or is not worth it any more.
    fn deliver(&mut self, batch: Vec<Span>) {
        let count = batch.len();
        let body = request(&self.resource, batch);
        let (began, mut wait) = (Instant::now(), TRY_WAIT_MIN);
        loop {
            let end_by = self.queue.end_by();
            let timeout = match end_by {
                None => self.timeout,
                Some(end_by) => self.timeout.min(end_by.saturating_duration_since(Instant::now())),
            };
            if timeout.is_zero() {
                return self.queue.lose("stopped", count);
            }
            match self.collector.post(&body, timeout) {
                Ok(Taken { refused }) => {
                    let refused = refused.min(count);
                    SpansExported { count: (count - refused) as u64 }.emit();
                    self.queue.lose("refused", refused);
                    self.reports.taken(self.queue.lost.load(Ordering::Relaxed));
                    return;
                }
                Err(failure) => {
                    let given_up = !failure.passes || end_by.is_some() || began.elapsed() >= KEEP_TRYING;
                    if given_up {
                        self.queue.lose(failure.kind, count);
                    }
                    self.reports.failed(&failure, self.queue.lost.load(Ordering::Relaxed));
                    if given_up {
                        return;
                    }
                    self.queue.pause(failure.retry_after.unwrap_or_default().max(spread(wait)).min(TRY_WAIT_MAX));
                    wait = (wait * 2).min(TRY_WAIT_MAX);
                }
            }
        }
    }
}

/// Lines, so many and no more.
#[derive(Default)]
struct Reports {
    failing: bool,
    said: Option<Instant>,
    lost_said: u64,
}

impl Reports {
    fn failed(&mut self, failure: &Failure, lost: u64) {
        let line = self.due();
        ExportFailed { kind: failure.kind, error: &failure.what, lost, line }.emit();
        self.failing = true;
        self.spoken(line, lost);
    }

    fn taken(&mut self, lost: u64) {
        if std::mem::take(&mut self.failing) {
            ExportResumed { lost }.emit();
            self.lost_said = lost;
        } else if lost > self.lost_said && self.due() {
            // The collector takes what comes, but less than there is.
            ExportFailed { kind: "behind", error: "the collector does not keep up", lost, line: true }.emit();
            self.spoken(true, lost);
        }
    }

    fn due(&self) -> bool {
        self.said.is_none_or(|said| said.elapsed() >= LINE_EVERY)
    }

    fn spoken(&mut self, line: bool, lost: u64) {
        if line {
            self.said = Some(Instant::now());
            self.lost_said = lost;
        }
    }
}

/// Somewhere between half of it and all of it: many hosts do not come back in one instant.
fn spread(wait: Duration) -> Duration {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    wait / 2 + wait / 2 * (nanos / 1000 % 1000) / 1000
}

fn request(resource: &Resource, spans: Vec<Span>) -> Vec<u8> {
    let scope = InstrumentationScope {
        name: "sandpost".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_spans = ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() };
    let resource_spans =
        ResourceSpans { resource: Some(resource.clone()), scope_spans: vec![scope_spans], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec()
}

/// One connection to the collector, kept open between requests.
struct Collector {
    agent: ureq::Agent,
    endpoint: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The collector took a request, but for so many spans.
struct Taken {
    refused: usize,
}

/// Why it did not.
struct Failure {
    /// A word of a closed list, for labels.
    kind: &'static str,
    /// For the operator.
    what: String,
    /// Whether it may pass.
    passes: bool,
    retry_after: Option<Duration>,
}

impl Collector {
    fn of(settings: &Settings) -> Self {
        let mut tls = TlsConfig::builder();
        if let Some(authorities) = &settings.authorities {
            tls = tls.root_certs(RootCerts::new_with_certs(authorities));
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // What is secret in the headers is for this address alone.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("sandpost/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls.build())
            .build()
            .into();
        Self { agent, endpoint: settings.endpoint.clone(), headers: settings.headers.clone() }
    }

    fn post(&self, body: &[u8], timeout: Duration) -> Result<Taken, Failure> {
        let mut request = self.agent.post(&self.endpoint).config().timeout_global(Some(timeout)).build();
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut answer =
            request.content_type("application/x-protobuf").send(body).map_err(|error| unanswered(&error))?;
        let status = answer.status();
        if !status.is_success() {
            let passes = matches!(status.as_u16(), 429 | 502..=504);
            let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
            return Err(Failure {
                kind: if passes { "unavailable" } else { "rejected" },
                what: format!("the collector answered {}", status.as_u16()),
                passes,
                retry_after: retry_after.map(Duration::from_secs),
            });
        }
        // An answer that cannot be read was an answer all the same.
        let told = answer.body_mut().with_config().limit(ANSWER_MAX_BYTES).read_to_vec().unwrap_or_default();
        let told = ExportTraceServiceResponse::decode(&*told).unwrap_or_default();
        let refused = told.partial_success.map_or(0, |partly| partly.rejected_spans);
        Ok(Taken { refused: usize::try_from(refused).unwrap_or(0) })
    }
}

fn unanswered(error: &ureq::Error) -> Failure {
    let kind = match error {
        ureq::Error::Timeout(_) => "timeout",
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => "tls",
        _ => "unreachable",
    };
    Failure { kind, what: error.to_string(), passes: true, retry_after: None }
}

#[cfg(test)]
mod tests;
