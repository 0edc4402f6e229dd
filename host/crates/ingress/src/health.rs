//! `/healthz`, `/readyz`, `/health`: whether the host runs, and whether its services would take work.
//!
//! The bodies are those of the origin documents, byte for byte: probes out there read them. `?verbose=1` keeps the
//! envelope and shows a status, a latency or a message for each kind of service, under the origin documents' names.
//!
//! All checks run together, each within its own time, so that one failure never hides another. An answer is reused for
//! a moment, and one round of checks runs at a time, however many probes ask.
//!
//! E-mail, the host's own state and plugins show only in the verbose form; of those only the state decides readiness,
//! as a part of `database`: mail that cannot be sent now is tried again, but without state nothing can be accepted.

use crate::read::Asked;
use crate::{App, Config};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use futures_util::future::join_all;
use sandpost_message::PluginName;
use sandpost_ports::health::Health as Port;
use sandpost_ports::plugins::Plugins;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// One connection to ask.
#[derive(Clone)]
pub struct Check {
    /// Its label, for messages.
    pub name: String,
    /// Which kind of service it is.
    pub role: CheckRole,
    /// The round trip.
    pub check: Arc<dyn Port>,
}

/// Which kind of service a connection leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckRole {
    /// SQL.
    Database,
    /// Documents.
    Documents,
    /// Cache.
    Cache,
    /// The broker.
    PubSub,
    /// A provider of e-mail.
    Email,
    /// The host's own state.
    State,
}

/// The checks with their last answer.
pub(crate) struct Health {
    checks: Vec<Check>,
    plugins: Arc<dyn Plugins>,
    /// What subscriptions are bound to.
    handlers: Vec<PluginName>,
    timeout: Duration,
    reuse: Duration,
    /// Held while the checks run: whoever asks meanwhile gets the answer of that round.
    last: Mutex<Option<(Instant, Arc<Report>)>>,
}

/// What one round of checks found.
struct Report {
    findings: Vec<(CheckRole, Finding)>,
}

/// What is known of one kind of service.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
struct Finding {
    /// `ok` or `error`.
    status: &'static str,
    /// Milliseconds; the slowest of its kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<u64>,
    /// Why it is an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl Finding {
    fn ok(latency: u64) -> Self {
        Self { status: "ok", latency: Some(latency), message: None }
    }

    fn error(message: String) -> Self {
        Self { status: "error", latency: None, message: Some(message) }
    }

    fn is_ok(&self) -> bool {
        self.message.is_none()
    }
}

/// `ok`, and the host runs.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct Alive {
    status: &'static str,
}

/// Whether the host would take work, in short or, with `verbose`, at length.
#[derive(serde::Serialize, utoipa::ToSchema)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "made once an answer and written at once")]
pub(crate) enum Readiness {
    /// In short.
    Short(Ready),
    /// At length.
    Verbose(ReadyVerbose),
}

/// Whether the host would take work.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct Ready {
    /// `ready` or `not_ready`.
    status: &'static str,
    checks: Checks,
}

/// `ok` or `error` each.
#[derive(serde::Serialize, utoipa::ToSchema)]
struct Checks {
    database: &'static str,
    cache: &'static str,
    pubsub: &'static str,
}

/// The same with what is known of each kind of service.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct ReadyVerbose {
    /// `ready` or `not_ready`.
    status: &'static str,
    checks: VerboseChecks,
}

/// `mysql` and `mongodb` are the origin documents' names of the SQL and document databases, whichever they are.
#[derive(serde::Serialize, utoipa::ToSchema)]
struct VerboseChecks {
    mysql: Finding,
    mongodb: Finding,
    redis: Finding,
    pubsub: Finding,
    /// The provider of e-mail, whichever it is.
    ses: Finding,
    plugins: Finding,
    /// The host's own state.
    state: Finding,
}

/// How to answer.
#[derive(serde::Deserialize)]
pub(crate) struct ReadyQuery {
    verbose: Option<String>,
}

impl Health {
    pub(crate) fn new(
        checks: Vec<Check>,
        plugins: Arc<dyn Plugins>,
        handlers: Vec<PluginName>,
        config: &Config,
    ) -> Self {
        let timeout = Duration::from_millis(config.health_timeout_ms);
        let reuse = Duration::from_millis(config.health_cache_ms);
        Self { checks, plugins, handlers, timeout, reuse, last: Mutex::new(None) }
    }

    async fn report(&self) -> Arc<Report> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((at, report)) = &*last
            && (*at >= asked || at.elapsed() < self.reuse)
        {
            return report.clone();
        }
        let report = Arc::new(Report { findings: join_all(self.checks.iter().map(|check| self.run(check))).await });
        *last = Some((Instant::now(), report.clone()));
        report
    }

    async fn run(&self, check: &Check) -> (CheckRole, Finding) {
        let started = Instant::now();
        let finding = match tokio::time::timeout(self.timeout, check.check.check()).await {
            Ok(Ok(())) => Finding::ok(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)),
            Ok(Err(error)) => Finding::error(format!("{}: {}", check.name, error.message)),
            Err(_) => Finding::error(format!("{}: Timeout", check.name)),
        };
        (check.role, finding)
    }

    fn of_plugins(&self) -> Finding {
        let refused = self.plugins.list().into_iter().filter(|plugin| plugin.live.is_none()).map(|plugin| plugin.name);
        let missing = self.handlers.iter().filter(|name| self.plugins.handler(name).is_none()).cloned();
        let without: BTreeSet<String> = refused.chain(missing).map(String::from).collect();
        let without: Vec<String> = without.into_iter().collect();
        if without.is_empty() {
            Finding::ok(0)
        } else {
            Finding::error(format!("no version is live: {}", without.join(", ")))
        }
    }
}

impl Report {
    /// The worst of these kinds; `ok` where there is none of them.
    fn of(&self, roles: &[CheckRole]) -> Finding {
        let mut worst = Finding::ok(0);
        for (_, finding) in self.findings.iter().filter(|(role, _)| roles.contains(role)) {
            if !worst.is_ok() {
                break;
            }
            if !finding.is_ok() || finding.latency > worst.latency {
                worst = finding.clone();
            }
        }
        worst
    }
}

/// Whether the host runs
///
/// Asks no service: a host whose services are down is not dead.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, description = "It runs", body = Alive)))]
pub(crate) async fn healthz() -> Response {
    answer(StatusCode::OK, &Alive { status: "ok" })
}

/// Whether the host would take work
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    params(("verbose" = Option<String>, Query, description = "`1` for status, latency and message of each kind of service")),
    responses(
        (status = 200, description = "It would", body = Readiness),
        (status = 503, description = "It would not", body = Readiness),
    ),
)]
pub(crate) async fn readyz(State(app): State<App>, Asked(query): Asked<ReadyQuery>) -> Response {
    let verbose = query.verbose.is_some_and(|value| value != "0" && value != "false");
    ready(&app, verbose).await
}

/// Whether the host would take work
///
/// The same as `/readyz`.
#[utoipa::path(
    get, path = "/health", tag = "health",
    params(("verbose" = Option<String>, Query, description = "As for `/readyz`")),
    responses(
        (status = 200, description = "It would", body = Readiness),
        (status = 503, description = "It would not", body = Readiness),
    ),
)]
pub(crate) async fn health(State(app): State<App>, Asked(query): Asked<ReadyQuery>) -> Response {
    let verbose = query.verbose.is_some_and(|value| value != "0" && value != "false");
    ready(&app, verbose).await
}

async fn ready(app: &App, verbose: bool) -> Response {
    use CheckRole as R;
    let report = app.health.report().await;
    let database = report.of(&[R::Database, R::Documents, R::State]);
    let (cache, pubsub) = (report.of(&[R::Cache]), report.of(&[R::PubSub]));
    let is_ready = [&database, &cache, &pubsub].iter().all(|finding| finding.is_ok());
    let (code, status) =
        if is_ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not_ready") };
    if verbose {
        let checks = VerboseChecks {
            mysql: report.of(&[R::Database]),
            mongodb: report.of(&[R::Documents]),
            redis: cache,
            pubsub,
            ses: report.of(&[R::Email]),
            plugins: app.health.of_plugins(),
            state: report.of(&[R::State]),
        };
        return answer(code, &Readiness::Verbose(ReadyVerbose { status, checks }));
    }
    let checks = Checks { database: database.status, cache: cache.status, pubsub: pubsub.status };
    answer(code, &Readiness::Short(Ready { status, checks }))
}

fn answer(status: StatusCode, body: &impl serde::Serialize) -> Response {
    // Words and numbers alone: this cannot fail.
    let body = serde_json::to_vec(body).unwrap_or_default();
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}
