//! Starts everything, and stops it: the loops of the subscriptions, the gauges, the housekeeping.

use crate::config::{Config, ConfigError, Subscriptions, validate};
use crate::context::{Bound, Counts, Shared, is_hopeless};
use crate::route::Route;
use crate::{gauges, housekeeping, subscription};
use sandpost_message::SubscriptionName;
use sandpost_ports::PortError;
use sandpost_ports::broker::Broker;
use sandpost_ports::clock::Clock;
use sandpost_ports::plugins::Plugins;
use sandpost_ports::state::State;
use sandpost_telemetry::events::dispatch::{PullFailed, StopBegun, StopEnded};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// What dispatch works with.
#[derive(Clone)]
pub struct Services {
    /// Where messages come from.
    pub broker: Arc<dyn Broker>,
    /// Ledger and dead letters.
    pub state: Arc<dyn State>,
    /// Who handles.
    pub plugins: Arc<dyn Plugins>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// The handlers' own threads, where attempts run: an attempt that is where its handler runs is not handed over twice.
    /// They need neither timers nor sockets. None: attempts run where the dispatcher was started.
    pub attempts: Option<Handle>,
}

/// Starts dispatch.
pub struct Dispatcher;

/// Dispatch at work. Dropped without [`stop`](Self::stop) it cuts everything off at once; the broker redelivers.
pub struct Running {
    shared: Arc<Shared>,
    subscriptions: Vec<Arc<Bound>>,
    _ends_with_us: [DropGuard; 2],
}

/// Why dispatch did not start. Nothing runs then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A key is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The broker will never open this subscription, for instance because the name is bound to another topic. A broker
    /// that is merely down is no error: its subscriptions are opened when it is up.
    #[error("the broker refuses subscription `{subscription}`")]
    Refused {
        /// Which one.
        subscription: SubscriptionName,
        /// Why.
        #[source]
        source: PortError,
    },
}

/// What became of the deliveries that were in flight when the stop began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopReport {
    /// They ended on their own: acknowledged, planned again, or kept as a dead letter.
    pub finished: u64,
    /// They were given back uncounted: cut off at the end of the grace, or never begun.
    pub handed_back: u64,
    /// The broker did not take their settlement, or the lease was lost: it will redeliver them.
    pub unsettled: u64,
}

impl Dispatcher {
    /// Checks the configuration, opens each subscription and begins to pull.
    ///
    /// Returns once every subscription is open or its first try has failed (at most 10 s): a message that is published
    /// after that finds the subscriptions there, unless the broker is down.
    pub async fn start(
        config: Config,
        subscriptions: Subscriptions,
        services: Services,
    ) -> Result<Running, StartError> {
        validate(&config, &subscriptions)?;
        let shared = Arc::new(Shared {
            places: Arc::new(Semaphore::new(config.concurrency_max)),
            services,
            config,
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
            counts: Counts::default(),
        });
        let opened = futures_util::future::join_all(subscriptions.into_iter().map(async |(name, config)| {
            let opened = shared.call(shared.services.broker.subscribe(&name, &config.topic)).await;
            (name, config, opened)
        }))
        .await;

        let mut ready = Vec::with_capacity(opened.len());
        for (name, config, opened) in opened {
            let queue = match opened {
                Ok(queue) => Some(queue),
                Err(source) if is_hopeless(&source) => {
                    return Err(StartError::Refused { subscription: name, source });
                }
                Err(error) => {
                    PullFailed { subscription: &name, wait_ms: 0, kind: error.kind.word(), error: &error }.emit();
                    None
                }
            };
            let plugins = Arc::clone(&shared.services.plugins);
            let bound = Arc::new(Bound {
                route: Route::new(name.clone(), config.plugin.clone(), config.handler_grace_ms, plugins),
                places: Arc::new(Semaphore::new(config.concurrency)),
                in_flight: AtomicU64::new(0),
                shared: Arc::clone(&shared),
                name,
                config,
            });
            ready.push((bound, queue));
        }

        let subscriptions: Vec<Arc<Bound>> = ready.iter().map(|(bound, _)| Arc::clone(bound)).collect();
        for (bound, queue) in ready {
            shared.tasks.spawn(subscription::run(bound, queue));
        }
        shared.tasks.spawn(gauges::run(Arc::clone(&shared), subscriptions.clone()));
        shared.tasks.spawn(housekeeping::run(Arc::clone(&shared), subscriptions.clone()));
        let guards = [shared.stopping.clone().drop_guard(), shared.cut.clone().drop_guard()];
        Ok(Running { shared, subscriptions, _ends_with_us: guards })
    }
}

impl Running {
    /// How many deliveries of each subscription are at work in this host now.
    pub fn in_flight(&self) -> Vec<(SubscriptionName, u64)> {
        let count = |bound: &Arc<Bound>| (bound.name.clone(), bound.in_flight.load(Ordering::Relaxed));
        self.subscriptions.iter().map(count).collect()
    }

    /// Stops pulling, lets what is at work end within the grace, then cuts off and hands back the rest.
    ///
    /// Returns when every task has ended. A broker or a state that does not answer can hold that up past the grace, by at
    /// most a few calls of 10 s each; whoever cannot wait drops the future, and the broker redelivers.
    pub async fn stop(self, grace: Duration) -> StopReport {
        let shared = &self.shared;
        let before = shared.counts.read();
        let in_flight = self.subscriptions.iter().map(|bound| bound.in_flight.load(Ordering::Relaxed)).sum();
        StopBegun { in_flight, grace }.emit();
        shared.stopping.cancel();
        shared.tasks.close();
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let until_ms = shared.now_ms().saturating_add(grace_ms);
        tokio::select! {
            biased;
            () = shared.tasks.wait() => {}
            () = shared.services.clock.sleep_until(until_ms) => {
                shared.cut.cancel();
                shared.tasks.wait().await;
            }
        }
        let after = shared.counts.read();
        let [finished, handed_back, unsettled] = [0, 1, 2].map(|kind| after[kind] - before[kind]);
        StopEnded { finished, handed_back, unsettled }.emit();
        StopReport { finished, handed_back, unsettled }
    }
}
