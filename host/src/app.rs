//! The host, put together in the order in which a message meets the parts, and taken apart in the order in which it
//! leaves them.
//!
//! Invariants
//! - The port is bound before anything else is opened. HTTP is served before the plugins are live: what is published
//!   meanwhile is kept, and probes are answered.
//! - A stop lets in nothing new, then waits for what is at work: requests, attempts, effects, and last the disk.
//!
//! Not here: what any part does.

use crate::config::services::{BrokerDriver, EmailDriver, overruled, without_driver};
use crate::config::{self, Config, Deployment, Environment, GrantMode};
use crate::drivers::{self, Connections};
use crate::exit::{Exit, Expected, chain};
use crate::health::HealthBoard;
use crate::scratch::Scratch;
use crate::signals::Signals;
use crate::traces;
use sandpost_dispatch::{Dispatcher, Services};
use sandpost_ingress::{Ingress, Parts, Tokens};
use sandpost_interfaces::Ports;
use sandpost_interfaces::effects::Effects;
use sandpost_ports::clock::{Clock, SystemClock};
use sandpost_ports::publisher::Publisher;
use sandpost_runtime::{Artifacts, Deployer, Engine, Folder, FolderConfig, GrantPolicy, Options, Registry, Settings};
use sandpost_telemetry::Metrics;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How often what the metrics observed is folded; the exporter asks for a few seconds.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// How often artifacts that no deployment of the recent past refers to are deleted.
const ARTIFACTS_UPKEEP: Duration = Duration::from_hours(1);

/// How long the start waits for services before HTTP is served without them: those that are up answer within it.
const SERVICES_WAIT: Duration = Duration::from_secs(1);

/// How the host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// What was at work ended or was handed back.
    Gracefully,
    /// A second signal came first.
    AtOnce,
}

/// What is served.
#[derive(Debug, Clone)]
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    /// Topics that can be published to.
    pub(crate) topics: BTreeSet<String>,
}

/// Runs until a signal. `beside` runs with it and is dropped when the stop begins; its error stops the host.
pub(crate) async fn run<F>(
    config: Config,
    metrics: Metrics,
    beside: impl FnOnce(Serving) -> F,
) -> Result<Stopped, Expected>
where
    F: Future<Output = Result<(), Expected>> + Send + 'static,
{
    let mut signals =
        Signals::catch().map_err(|error| Expected::new(Exit::Bug, format!("failed to catch signals: {error}")))?;
    let grace = Duration::from_millis(config.shutdown_grace_ms);
    let mut host = Host::open(&config, metrics).await?;
    // Compiling can take long; a signal must not wait for it.
    let started = tokio::select! {
        started = host.start(&config) => started.map(|()| true),
        signal = signals.next() => {
            tracing::info!(signal, "Stopping before the plugins were live.");
            Ok(false)
        }
    };
    let ended = match started {
        Ok(false) => Ok(()),
        Err(error) => Err(error),
        Ok(true) => {
            let topics = config.subscriptions.values().map(|subscription| subscription.topic.to_string()).collect();
            let beside = beside(Serving { address: host.address, topics });
            tokio::select! {
                signal = signals.next() => {
                    tracing::info!(signal, grace_ms = config.shutdown_grace_ms, "Stopping; a second signal ends at once.");
                    Ok(())
                }
                error = until_error(beside) => Err(error),
                error = host.fault() => Err(error),
            }
        }
    };
    tokio::select! {
        () = host.stop(grace) => ended.map(|()| Stopped::Gracefully),
        signal = signals.next() => {
            tracing::warn!(signal, "Stopped at once; what was at work is delivered again.");
            Ok(Stopped::AtOnce)
        }
    }
}

/// What is up.
struct Host {
    address: SocketAddr,
    connections: Connections,
    ports: Arc<Ports>,
    clock: Arc<dyn Clock>,
    registry: Arc<Registry>,
    dispatch: Option<sandpost_dispatch::Running>,
    stopping: CancellationToken,
    /// Tasks that run until the stop; one that ends before is a fault.
    tasks: JoinSet<Result<(), Expected>>,
}

impl Host {
    /// Binds the port, opens the connections and serves HTTP: from here on messages are accepted, and wait.
    async fn open(config: &Config, metrics: Metrics) -> Result<Self, Expected> {
        let listener = bind(config.http.listen).await?;
        let address = listener
            .local_addr()
            .map_err(|error| Expected::new(Exit::Bug, format!("failed to read the bound address: {error}")))?;
        let tokens = Tokens::resolve(&config.http, config::environment)
            .map_err(|error| Expected::new(Exit::Config, format!("failed to read config: {error}")))?;
        warn_about(config);

        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let connections = drivers::open(config, clock.clone()).await?;
        // A topic exists from now on. What the broker refuses for good, dispatch says below, and what it does not answer
        // dispatch tries again: a broker that is down keeps nobody from serving HTTP.
        let subscribing = config
            .subscriptions
            .iter()
            .map(|(name, subscription)| connections.broker.subscribe(name, &subscription.topic));
        let subscribing = futures_util::future::join_all(subscribing);
        match config.broker.driver {
            BrokerDriver::Embedded => drop(subscribing.await),
            BrokerDriver::Pubsub => drop(tokio::time::timeout(SERVICES_WAIT, subscribing).await),
        }
        let health = Arc::new(HealthBoard::default());
        let health_timeout = Duration::from_millis(config.http.health_timeout_ms);
        health.look(&connections.watched, health_timeout.min(SERVICES_WAIT)).await;
        let ports = Arc::new(ports(config, &connections, clock.clone(), health.clone())?);
        let registry = Registry::new(clock.clone());

        let stopping = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let ingress = Ingress::new(Parts {
            config: config.http.clone(),
            tokens,
            service: config.service.clone(),
            publisher: ports.publisher.clone(),
            state: connections.state.clone(),
            requests: connections.requests.clone(),
            plugins: registry.clone(),
            handlers: config.subscriptions.values().map(|subscription| subscription.plugin.clone()).collect(),
            mailbox: connections.mailbox.clone(),
            cache_server: connections.cache_server.clone(),
            checks: connections.checks.clone(),
            clock: clock.clone(),
            render_metrics: Arc::new({
                let metrics = metrics.clone();
                move || metrics.render()
            }),
        });
        let until_stop = stopping.clone().cancelled_owned();
        tasks.spawn(async move {
            sandpost_ingress::serve(listener, ingress, until_stop)
                .await
                .map_err(|error| Expected::new(Exit::Config, format!("failed to serve HTTP: {}", chain(&error))))
        });
        tasks.spawn(every(METRICS_UPKEEP, stopping.clone(), move || {
            metrics.upkeep();
            std::future::ready(())
        }));
        let watched: Arc<[_]> = connections.watched.clone().into();
        tasks.spawn(every(Duration::from_millis(config.health_interval_ms), stopping.clone(), move || {
            let (watched, health) = (watched.clone(), health.clone());
            async move { health.look(&watched, health_timeout).await }
        }));
        Ok(Self { address, connections, ports, clock, registry, dispatch: None, stopping, tasks })
    }

    /// Brings the plugins to life, then begins to deliver.
    async fn start(&mut self, config: &Config) -> Result<(), Expected> {
        let engine = engine(config)?;
        let attempts = engine.threads();
        let (folder, deployer) = plugins(config, engine, self.ports.clone(), self.registry.clone()).await?;
        let services = Services {
            broker: self.connections.broker.clone(),
            state: self.connections.state.clone(),
            plugins: self.registry.clone(),
            clock: self.clock.clone(),
            attempts,
        };
        let dispatch = Dispatcher::start(config.dispatch.clone(), config.subscriptions.clone(), services)
            .await
            .map_err(|error| Expected::new(Exit::Config, format!("failed to start dispatch: {}", chain(&error))))?;
        self.dispatch = Some(dispatch);
        let until_stop = self.stopping.clone().cancelled_owned();
        self.tasks.spawn(async move {
            folder.watch(until_stop).await;
            Ok(())
        });
        self.tasks.spawn(every(ARTIFACTS_UPKEEP, self.stopping.clone(), move || {
            let deployer = deployer.clone();
            async move {
                if let Err(error) = deployer.prune().await {
                    tracing::warn!(error = chain(&error), "Old artifacts were not deleted; tried again later.");
                }
            }
        }));
        tracing::info!(address = %self.address, "Ready.");
        Ok(())
    }

    /// Returns when a part of the host ended that must not.
    async fn fault(&mut self) -> Expected {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => Expected::new(Exit::Bug, format!("a part of the host ended: {error}")),
            Some(Ok(Ok(()))) | None => Expected::new(Exit::Bug, "a part of the host ended by itself"),
        }
    }

    /// Lets nothing new in, waits for what is at work, and closes.
    async fn stop(&mut self, grace: Duration) {
        self.stopping.cancel();
        let deliveries = async {
            if let Some(dispatch) = self.dispatch.take() {
                let report = dispatch.stop(grace).await;
                tracing::info!(
                    finished = report.finished,
                    handed_back = report.handed_back,
                    unsettled = report.unsettled,
                    "Deliveries ended."
                );
            }
        };
        let tasks = async { while self.tasks.join_next().await.is_some() {} };
        tokio::join!(deliveries, tasks);
        self.ports.effects.drain().await;
        self.connections.close().await;
        tracing::info!("Stopped.");
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Expected> {
    TcpListener::bind(address).await.map_err(|error| {
        Expected::new(Exit::Unavailable, format!("failed to listen on {address}: {error}"))
            .hint("another program may have the port; `http.listen` or SANDPOST_LISTEN names another one")
    })
}

fn warn_about(config: &Config) {
    for (variable, driver) in without_driver(&config::environment) {
        tracing::warn!(variable, driver, "Set, but this build does not have the driver: the embedded one is used.");
    }
    if let Some(variable) = traces::in_vain(&config::environment) {
        tracing::warn!(variable, "Set, but this build does not export traces; `--features otlp` does.");
    }
    for (taken, left) in overruled(&config::environment) {
        tracing::warn!("{taken} and {left} differ; {taken} is taken.");
    }
    if config.environment == Environment::Production {
        match config.email.driver {
            EmailDriver::Embedded => tracing::warn!("Mail is kept in the catcher; none leaves the host."),
            EmailDriver::Null => tracing::warn!("Mail is thrown away."),
            EmailDriver::Ses | EmailDriver::Smtp => {}
        }
    }
    if config.email.redirect_to.is_some() || config.email.allowlist.is_some() {
        tracing::warn!("Not everybody gets mail: `email.redirect_to` or `email.allowlist` is set.");
    }
}

fn ports(
    config: &Config,
    connections: &Connections,
    clock: Arc<dyn Clock>,
    health: Arc<HealthBoard>,
) -> Result<Ports, Expected> {
    let default_sender =
        match &config.email.from {
            None => None,
            Some(from) => Some(sandpost_mail::parse_address(from).map_err(|error| {
                Expected::new(Exit::Config, format!("failed to read config: `email.from`: {error}"))
            })?),
        };
    let io = Handle::current();
    let run_id = sandpost_message::MessageId::new().to_string();
    let timeout = Duration::from_millis(config.effect_timeout_ms);
    let mut publisher = Publisher::new(connections.broker.clone(), connections.state.clone(), clock.clone());
    if let Some(both) = connections.recorded() {
        publisher = publisher.recorded_by(both);
    }
    Ok(Ports {
        publisher,
        broker: connections.broker.clone(),
        state: connections.state.clone(),
        effects: Arc::new(Effects::new(connections.state.clone(), clock.clone(), io.clone(), run_id, timeout)),
        clock,
        cache: connections.cache.clone(),
        cache_prefix: config.cache.key_prefix.clone(),
        cache_default_ttl: Duration::from_secs(config.cache.default_ttl_seconds),
        email: connections.email.clone(),
        default_sender,
        mail_limits: config.email.limits.clone(),
        sql: connections.sql.clone(),
        documents: connections.documents.clone(),
        health,
        io,
    })
}

fn engine(config: &Config) -> Result<Arc<Engine>, Expected> {
    let engine = Engine::new(config.runtime.clone(), Handle::current());
    engine.map(Arc::new).map_err(|error| not_started("the engine", &error))
}

/// Deploys what lies in the folder.
async fn plugins(
    config: &Config,
    engine: Arc<Engine>,
    ports: Arc<Ports>,
    registry: Arc<Registry>,
) -> Result<(Folder, Arc<Deployer>), Expected> {
    let Deployment { directory, settle_ms, rescan_ms, artifact_max_bytes, compile_parallel, trial_max_ms, grants } =
        &config.deployment;
    std::fs::create_dir_all(directory).map_err(|error| not_started("plugins", &error))?;
    let artifacts = Artifacts::open(&config.data_dir.join("artifacts"), engine, *artifact_max_bytes)
        .map_err(|error| not_started("the artifacts' folder", &error))?;
    let scratch = Arc::new(Scratch::like(&ports));
    let options = Options {
        grants: match grants {
            GrantMode::Requested => GrantPolicy::RequestedAreGiven,
            GrantMode::Configured => GrantPolicy::Configured(
                config.plugins.iter().map(|(name, plugin)| (name.clone(), plugin.grants.clone())).collect(),
            ),
        },
        settings: config
            .plugins
            .iter()
            .map(|(name, plugin)| {
                let settings = Settings { config: plugin.config.clone(), cache_scope: plugin.cache_scope.clone() };
                (name.clone(), settings)
            })
            .collect(),
        compile_parallel: *compile_parallel,
        trial_max_ms: *trial_max_ms,
    };
    let deployer = Arc::new(Deployer::new(registry, Arc::new(artifacts), ports, scratch, options));
    let folder = FolderConfig { path: directory.clone(), settle_ms: *settle_ms, rescan_ms: *rescan_ms };
    let folder = Folder::open(folder, deployer.clone()).await.map_err(|error| not_started("plugins", &error))?;
    Ok((folder, deployer))
}

fn not_started(what: &str, error: &dyn std::error::Error) -> Expected {
    Expected::new(Exit::Config, format!("failed to start {what}: {}", chain(error)))
}

/// Does something again and again until the stop.
async fn every<F: Future<Output = ()>>(
    period: Duration,
    stopping: CancellationToken,
    mut what: impl FnMut() -> F,
) -> Result<(), Expected> {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            _ = ticks.tick() => what().await,
        }
    }
}

/// Ends with an error only; what runs beside the host may well be done before it.
async fn until_error(beside: impl Future<Output = Result<(), Expected>>) -> Expected {
    match beside.await {
        Err(error) => error,
        Ok(()) => std::future::pending().await,
    }
}
