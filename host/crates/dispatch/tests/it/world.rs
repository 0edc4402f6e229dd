//! All the fakes together, and the helpers with which tests read as what they say.

use crate::fakes::{MemoryBroker, MemoryState, ScriptedPlugins};
use futures_util::future::BoxFuture;
use sandpost_dispatch::{
    Config, Dispatcher, RetryPolicy, Running, Services, StartError, SubscriptionConfig, Subscriptions,
};
use sandpost_message::{Message, MessageId, Outcome, TimestampMs, Verdict};
use sandpost_ports::broker::Broker as _;
use sandpost_ports::clock::{Clock as _, ManualClock};
use sandpost_ports::plugins::Attempt;
use sandpost_ports::state::{DeadLetter, Step};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

pub(crate) const START_MS: TimestampMs = 1_700_000_000_000;
pub(crate) const DEADLINE_MS: u64 = 10_000;

/// Turns after which what has not happened never will.
const TURNS_MAX: usize = 20_000;

pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) broker: Arc<MemoryBroker>,
    pub(crate) state: Arc<MemoryState>,
    pub(crate) plugins: Arc<ScriptedPlugins>,
}

/// What attempts were made: message and number.
pub(crate) type Seen = Arc<Mutex<Vec<(MessageId, u32)>>>;

impl World {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::at(START_MS);
        Self { broker: MemoryBroker::new(clock.clone()), state: Arc::default(), plugins: Arc::default(), clock }
    }

    pub(crate) async fn start(&self, subscriptions: Subscriptions) -> Running {
        self.try_start(Config::default(), subscriptions).await.unwrap()
    }

    pub(crate) async fn try_start(&self, config: Config, subscriptions: Subscriptions) -> Result<Running, StartError> {
        let services = Services {
            broker: self.broker.clone(),
            state: self.state.clone(),
            plugins: self.plugins.clone(),
            clock: Arc::new(self.clock.clone()),
            attempts: None,
        };
        Dispatcher::start(config, subscriptions, services).await
    }

    /// A plugin that answers each attempt by this, at once. What it saw is returned.
    pub(crate) fn answer(&self, plugin: &str, verdict: impl Fn(&Attempt) -> Outcome + Send + Sync + 'static) -> Seen {
        let seen = Seen::default();
        let noted = seen.clone();
        self.plugins.deploy(plugin, "1.0.0", DEADLINE_MS, move |attempt| {
            noted.lock().unwrap().push((attempt.message.id.clone(), attempt.attempt));
            let outcome = verdict(&attempt);
            Box::pin(async move { outcome })
        });
        seen
    }

    /// A plugin whose attempts wait for a turn each, and then acknowledge. With what it saw begin.
    pub(crate) fn gated(&self, plugin: &str) -> (Arc<Semaphore>, Seen) {
        let (gate, seen) = (Arc::new(Semaphore::new(0)), Seen::default());
        let (opened, noted) = (gate.clone(), seen.clone());
        self.plugins.deploy(plugin, "1.0.0", DEADLINE_MS, move |attempt| -> BoxFuture<'static, Outcome> {
            noted.lock().unwrap().push((attempt.message.id.clone(), attempt.attempt));
            let opened = opened.clone();
            Box::pin(async move {
                opened.acquire().await.unwrap().forget();
                Verdict::Ack.into()
            })
        });
        (gate, seen)
    }

    pub(crate) async fn publish(&self, topic: &str) -> Message {
        self.publish_with(topic, |_| ()).await
    }

    pub(crate) async fn publish_with(&self, topic: &str, change: impl FnOnce(&mut Message)) -> Message {
        let mut message = Message::new(topic.parse().unwrap(), "{}", self.clock.now_ms());
        change(&mut message);
        self.broker.publish(vec![message.clone()]).await.remove(0).unwrap();
        message
    }

    pub(crate) fn steps(&self, message: &Message) -> Vec<Step> {
        let ledger = self.state.ledger.lock().unwrap();
        ledger.iter().filter(|entry| entry.message_id == message.id).map(|entry| entry.step).collect()
    }

    pub(crate) fn letters(&self) -> Vec<DeadLetter> {
        self.state.letters.lock().unwrap().clone()
    }

    /// Moves the clock by this, and lets everybody act on it.
    pub(crate) async fn pass(&self, ms: u64) {
        calm().await;
        self.clock.advance(ms);
        calm().await;
    }

    pub(crate) async fn until_empty(&self) {
        eventually("every message is settled", || self.broker.left() == 0).await;
    }
}

pub(crate) fn one(name: &str, subscription: SubscriptionConfig) -> Subscriptions {
    [(name.parse().unwrap(), subscription)].into()
}

/// `orders` to the plugin `orders`, without jitter.
pub(crate) fn orders() -> SubscriptionConfig {
    subscription("orders")
}

pub(crate) fn subscription(name: &str) -> SubscriptionConfig {
    SubscriptionConfig {
        retry: RetryPolicy { jitter: 0.0, ..RetryPolicy::default() },
        ..SubscriptionConfig::new(name.parse().unwrap(), name.parse().unwrap())
    }
}

pub(crate) fn retry() -> Outcome {
    Verdict::Retry { reason: "not now".to_owned(), after_ms: None }.into()
}

pub(crate) fn reject() -> Outcome {
    Verdict::Reject { reason: "never".to_owned() }.into()
}

/// Looks until it is so.
pub(crate) async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..TURNS_MAX {
        if so() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("did not happen: {what}");
}

/// Lets every task run until it waits.
pub(crate) async fn calm() {
    for _ in 0..300 {
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn stop(running: Running) {
    running.stop(Duration::ZERO).await;
}
