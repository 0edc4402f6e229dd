//! The services in memory, with the failures that tests ask for. No more than dispatch calls.

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sandpost_message::{Digest, Message, MessageId, Outcome, PluginName, SubscriptionName, TimestampMs, Topic};
use sandpost_ports::broker::{Backlog, Broker, Delivery, Published, Receipt, Settlement, Subscription};
use sandpost_ports::clock::{Clock, ManualClock};
use sandpost_ports::health::Health;
use sandpost_ports::plugins::{Admission, Attempt, Handler, Identity, PluginInfo, Plugins};
use sandpost_ports::state::{
    Claim, DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetterStatus, DeadLetters, Deployment, Deployments,
    EffectKey, EffectState, Effects, Ledger, LedgerEntry, Owner, RecordedRequest, RequestClaim, Requests,
};
use sandpost_ports::{ErrorKind, PortError};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::Notify;

/// Counts down failures: the next `n` calls fail.
#[derive(Default)]
pub(crate) struct Failing(AtomicUsize);

impl Failing {
    pub(crate) fn next(&self, calls: usize) {
        self.0.store(calls, Ordering::SeqCst);
    }

    fn check(&self) -> Result<(), PortError> {
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok() { Err(PortError::new(ErrorKind::Unavailable, "down")) } else { Ok(()) }
    }
}

struct Entry {
    message: Arc<Message>,
    attempts: u32,
    visible_at_ms: TimestampMs,
    lease: Option<(u64, TimestampMs)>,
}

#[derive(Default)]
struct Queue {
    topic: Option<Topic>,
    entries: Vec<Entry>,
}

/// A settlement as the broker saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) message: MessageId,
    pub(crate) settlement: Settlement,
}

pub(crate) struct MemoryBroker {
    me: Weak<Self>,
    clock: ManualClock,
    queues: Mutex<BTreeMap<SubscriptionName, Queue>>,
    tokens: AtomicU64,
    wake: Notify,
    pub(crate) told: Mutex<Vec<Told>>,
    /// What pulls asked for: how many, and the lease.
    pub(crate) asked: Mutex<Vec<(SubscriptionName, usize, u64)>>,
    pub(crate) extended: AtomicUsize,
    pub(crate) failing_settles: Failing,
    pub(crate) failing_pulls: Failing,
    pub(crate) failing_subscribes: Failing,
    pub(crate) refuses_subscriptions: AtomicBool,
    /// What asking for the backlog fails with.
    pub(crate) backlog_fails: Mutex<Option<ErrorKind>>,
}

impl MemoryBroker {
    pub(crate) fn new(clock: ManualClock) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            clock,
            queues: Mutex::default(),
            tokens: AtomicU64::new(1),
            wake: Notify::new(),
            told: Mutex::default(),
            asked: Mutex::default(),
            extended: AtomicUsize::new(0),
            failing_settles: Failing::default(),
            failing_pulls: Failing::default(),
            failing_subscribes: Failing::default(),
            refuses_subscriptions: AtomicBool::new(false),
            backlog_fails: Mutex::new(None),
        })
    }

    /// Unsettled messages of all subscriptions.
    pub(crate) fn left(&self) -> usize {
        self.queues.lock().unwrap().values().map(|queue| queue.entries.len()).sum()
    }

    /// Messages that are leased now.
    pub(crate) fn leased(&self) -> usize {
        let now_ms = self.clock.now_ms();
        let queues = self.queues.lock().unwrap();
        queues
            .values()
            .flat_map(|queue| &queue.entries)
            .filter(|entry| entry.lease.is_some_and(|(_, until)| until > now_ms))
            .count()
    }

    /// As if earlier deliveries had been leased and lost.
    pub(crate) fn count_attempts(&self, attempts: u32) {
        for queue in self.queues.lock().unwrap().values_mut() {
            queue.entries.iter_mut().for_each(|entry| entry.attempts = attempts);
        }
    }

    fn lease(&self, name: &SubscriptionName, max: usize, lease_ms: u64) -> (Vec<Delivery>, TimestampMs) {
        let now_ms = self.clock.now_ms();
        let mut queues = self.queues.lock().unwrap();
        let Some(queue) = queues.get_mut(name) else { return (Vec::new(), u64::MAX) };
        let (mut taken, mut next_ms, mut keys) = (Vec::new(), u64::MAX, Vec::new());
        for entry in &mut queue.entries {
            if let Some(key) = &entry.message.ordering_key {
                if keys.contains(key) {
                    continue;
                }
                keys.push(key.clone());
            }
            let free_at_ms = entry.visible_at_ms.max(entry.lease.map_or(0, |(_, until)| until));
            if free_at_ms > now_ms {
                next_ms = next_ms.min(free_at_ms);
            } else if taken.len() < max {
                let token = self.tokens.fetch_add(1, Ordering::SeqCst);
                entry.lease = Some((token, now_ms + lease_ms));
                entry.attempts += 1;
                taken.push(Delivery {
                    message: Arc::clone(&entry.message),
                    attempt: entry.attempts,
                    receipt: Receipt::new(token.to_string()),
                });
            }
        }
        (taken, next_ms)
    }

    fn with_lease<T>(
        &self,
        name: &SubscriptionName,
        receipt: &Receipt,
        work: impl FnOnce(&mut Vec<Entry>, usize) -> T,
    ) -> Result<T, PortError> {
        let now_ms = self.clock.now_ms();
        let mut queues = self.queues.lock().unwrap();
        let entries = &mut queues.get_mut(name).unwrap().entries;
        let place = entries.iter().position(|entry| {
            entry.lease.is_some_and(|(token, until)| token.to_string() == receipt.token() && until > now_ms)
        });
        let place = place.ok_or_else(|| PortError::new(ErrorKind::Conflict, "the lease ran out"))?;
        Ok(work(entries, place))
    }
}

#[async_trait]
impl Health for MemoryBroker {
    async fn check(&self) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Published, PortError>> {
        let mut queues = self.queues.lock().unwrap();
        let publish = |message: Message| {
            let message = Arc::new(message);
            for queue in queues.values_mut().filter(|queue| queue.topic.as_ref() == Some(&message.topic)) {
                queue.entries.push(Entry {
                    message: Arc::clone(&message),
                    attempts: 0,
                    visible_at_ms: message.not_before_ms,
                    lease: None,
                });
            }
            Ok(Published { id: message.id.clone(), duplicate: false })
        };
        let answers = messages.into_iter().map(publish).collect();
        self.wake.notify_waiters();
        answers
    }

    async fn subscribe(&self, name: &SubscriptionName, topic: &Topic) -> Result<Arc<dyn Subscription>, PortError> {
        if self.refuses_subscriptions.load(Ordering::SeqCst) {
            return Err(PortError::new(ErrorKind::Conflict, "bound to another topic"));
        }
        self.failing_subscribes.check()?;
        self.queues.lock().unwrap().entry(name.clone()).or_default().topic = Some(topic.clone());
        Ok(Arc::new(MemorySubscription { broker: self.me.upgrade().unwrap(), name: name.clone() }))
    }

    async fn backlog(&self, name: &SubscriptionName) -> Result<Backlog, PortError> {
        if let Some(kind) = *self.backlog_fails.lock().unwrap() {
            return Err(PortError::new(kind, "what waits is not known"));
        }
        let queues = self.queues.lock().unwrap();
        let entries = queues.get(name).map(|queue| &queue.entries[..]).unwrap_or_default();
        Ok(Backlog {
            ready: entries.len() as u64,
            oldest_published_at_ms: entries.iter().map(|entry| entry.message.published_at_ms).min(),
            ..Backlog::default()
        })
    }

    fn deduplicates(&self) -> bool {
        false
    }
}

struct MemorySubscription {
    broker: Arc<MemoryBroker>,
    name: SubscriptionName,
}

#[async_trait]
impl Subscription for MemorySubscription {
    async fn next(&self, max: usize, lease_ms: u64) -> Result<Vec<Delivery>, PortError> {
        self.broker.asked.lock().unwrap().push((self.name.clone(), max, lease_ms));
        self.broker.failing_pulls.check()?;
        loop {
            let woken = self.broker.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let (taken, next_ms) = self.broker.lease(&self.name, max, lease_ms);
            if !taken.is_empty() {
                return Ok(taken);
            }
            tokio::select! {
                () = woken => {}
                () = self.broker.clock.sleep_until(next_ms) => {}
            }
        }
    }

    async fn settle(&self, receipt: Receipt, settlement: Settlement) -> Result<(), PortError> {
        // As over a network: others run before the answer comes.
        tokio::task::yield_now().await;
        self.broker.failing_settles.check()?;
        self.broker.with_lease(&self.name, &receipt, |entries, place| {
            let message = entries[place].message.id.clone();
            self.broker.told.lock().unwrap().push(Told { message, settlement });
            let entry = &mut entries[place];
            entry.lease = None;
            match settlement {
                Settlement::Done => drop(entries.remove(place)),
                Settlement::RetryAt(at_ms) => entry.visible_at_ms = at_ms,
                Settlement::HandBack(at_ms) => {
                    entry.attempts -= 1;
                    entry.visible_at_ms = at_ms;
                }
            }
        })?;
        self.broker.wake.notify_waiters();
        Ok(())
    }

    async fn extend(&self, receipt: &Receipt, lease_ms: u64) -> Result<(), PortError> {
        self.broker.extended.fetch_add(1, Ordering::SeqCst);
        let until_ms = self.broker.clock.now_ms() + lease_ms;
        self.broker.with_lease(&self.name, receipt, |entries, place| {
            if let Some((_, until)) = &mut entries[place].lease {
                *until = until_ms;
            }
        })
    }
}

/// The state: ledger and dead letters as they are, of the rest only what housekeeping asked for.
#[derive(Default)]
pub(crate) struct MemoryState {
    pub(crate) ledger: Mutex<Vec<LedgerEntry>>,
    pub(crate) letters: Mutex<Vec<DeadLetter>>,
    /// What was asked to be forgotten: what, before when.
    pub(crate) forgotten: Mutex<Vec<(&'static str, TimestampMs)>>,
    pub(crate) failing_records: Failing,
    pub(crate) failing_letters: Failing,
    /// These are kept, and the answer is lost.
    pub(crate) letters_without_answer: Failing,
    pub(crate) failing_looks: Failing,
}

#[async_trait]
impl Health for MemoryState {
    async fn check(&self) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait]
impl Ledger for MemoryState {
    async fn record(&self, entries: Vec<LedgerEntry>) -> Result<(), PortError> {
        self.failing_records.check()?;
        self.ledger.lock().unwrap().extend(entries);
        Ok(())
    }

    async fn history(&self, message: &MessageId) -> Result<Vec<LedgerEntry>, PortError> {
        let ledger = self.ledger.lock().unwrap();
        Ok(ledger.iter().filter(|entry| entry.message_id == *message).cloned().collect())
    }

    async fn forget_before(&self, before_ms: TimestampMs, max: usize) -> Result<u64, PortError> {
        self.forgotten.lock().unwrap().push(("ledger", before_ms));
        let mut ledger = self.ledger.lock().unwrap();
        let before = ledger.len();
        let mut left = max;
        ledger.retain(|entry| {
            let forget = entry.at_ms < before_ms && left > 0;
            left -= usize::from(forget);
            !forget
        });
        Ok((before - ledger.len()) as u64)
    }
}

#[async_trait]
impl DeadLetters for MemoryState {
    async fn add_dead_letter(&self, letter: DeadLetter) -> Result<(), PortError> {
        self.failing_letters.check()?;
        let mut letters = self.letters.lock().unwrap();
        if !letters.iter().any(|l| l.message.id == letter.message.id && l.subscription == letter.subscription) {
            letters.push(letter);
        }
        self.letters_without_answer.check()
    }

    async fn held_dead_letter(
        &self,
        message: &MessageId,
        subscription: &SubscriptionName,
    ) -> Result<Option<DeadLetterId>, PortError> {
        self.failing_looks.check()?;
        let letters = self.letters.lock().unwrap();
        let found = letters.iter().find(|l| l.message.id == *message && l.subscription == *subscription);
        Ok(found.filter(|l| l.status == DeadLetterStatus::Held).map(|l| l.id.clone()))
    }

    async fn dead_letters(
        &self,
        _: &DeadLetterFilter,
        _: Option<&str>,
        _: usize,
    ) -> Result<Vec<DeadLetter>, PortError> {
        Ok(self.letters.lock().unwrap().clone())
    }

    async fn dead_letter(&self, id: &str) -> Result<Option<DeadLetter>, PortError> {
        Ok(self.letters.lock().unwrap().iter().find(|l| l.id == id).cloned())
    }

    async fn set_dead_letter_status(&self, _: &str, _: DeadLetterStatus) -> Result<bool, PortError> {
        not_asked_for()
    }

    async fn remove_dead_letter(&self, _: &str) -> Result<bool, PortError> {
        not_asked_for()
    }

    async fn count_dead_letters(&self) -> Result<Vec<(SubscriptionName, u64)>, PortError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Effects for MemoryState {
    async fn claim(
        &self,
        _: &EffectKey,
        _: &Owner,
        _: &MessageId,
        _: &SubscriptionName,
        _: TimestampMs,
    ) -> Result<Claim, PortError> {
        not_asked_for()
    }

    async fn advance(&self, _: &EffectKey, _: &Owner, _: EffectState) -> Result<(), PortError> {
        not_asked_for()
    }

    async fn release(&self, _: &EffectKey, _: &Owner) -> Result<(), PortError> {
        not_asked_for()
    }

    async fn effects_of(
        &self,
        _: &MessageId,
        _: &SubscriptionName,
    ) -> Result<Vec<(EffectKey, EffectState)>, PortError> {
        not_asked_for()
    }

    async fn resolve_unknown(&self, _: &MessageId, _: &SubscriptionName, _: bool) -> Result<u64, PortError> {
        not_asked_for()
    }

    async fn forget_effects_before(&self, before_ms: TimestampMs, _: usize) -> Result<u64, PortError> {
        self.forgotten.lock().unwrap().push(("effects", before_ms));
        Ok(0)
    }
}

#[async_trait]
impl Requests for MemoryState {
    async fn claim_request(&self, _: &str, _: RecordedRequest, _: TimestampMs) -> Result<RequestClaim, PortError> {
        not_asked_for()
    }

    async fn answer_request(&self, _: &str, _: Vec<u8>) -> Result<(), PortError> {
        not_asked_for()
    }

    async fn abandon_request(&self, _: &str) -> Result<(), PortError> {
        not_asked_for()
    }

    async fn forget_requests(&self, now_ms: TimestampMs, _: usize) -> Result<u64, PortError> {
        self.forgotten.lock().unwrap().push(("requests", now_ms));
        Ok(0)
    }
}

#[async_trait]
impl Deployments for MemoryState {
    async fn record_deployment(&self, _: Deployment) -> Result<(), PortError> {
        not_asked_for()
    }

    async fn deployments(&self, _: &PluginName, _: usize) -> Result<Vec<Deployment>, PortError> {
        not_asked_for()
    }

    async fn live_deployments(&self) -> Result<Vec<Deployment>, PortError> {
        not_asked_for()
    }
}

fn not_asked_for<T>() -> Result<T, PortError> {
    Err(PortError::unsupported("not what dispatch asks of the state"))
}

/// What a handler in a test does with an attempt.
pub(crate) type Script = dyn Fn(Attempt) -> BoxFuture<'static, Outcome> + Send + Sync;

struct ScriptedHandler {
    identity: Identity,
    deadline_ms: u64,
    admission: Arc<Mutex<Admission>>,
    script: Box<Script>,
}

#[async_trait]
impl Handler for ScriptedHandler {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    fn admission(&self) -> Admission {
        *self.admission.lock().unwrap()
    }

    async fn handle(&self, attempt: Attempt) -> Outcome {
        (self.script)(attempt).await
    }
}

/// The deployments, as a test changes them.
#[derive(Default)]
pub(crate) struct ScriptedPlugins {
    live: Mutex<HashMap<PluginName, Arc<dyn Handler>>>,
    changed: Notify,
}

impl ScriptedPlugins {
    /// What is deployed admits without a bound; what is returned changes what this version admits.
    pub(crate) fn deploy(
        &self,
        plugin: &str,
        version: &str,
        deadline_ms: u64,
        script: impl Fn(Attempt) -> BoxFuture<'static, Outcome> + Send + Sync + 'static,
    ) -> Arc<Mutex<Admission>> {
        let plugin: PluginName = plugin.parse().unwrap();
        let identity =
            Identity { plugin: plugin.clone(), version: version.to_owned(), digest: Digest::from_bytes([7; 32]) };
        let admission = Arc::new(Mutex::new(Admission::Free));
        let handler =
            Arc::new(ScriptedHandler { identity, deadline_ms, admission: admission.clone(), script: Box::new(script) });
        self.live.lock().unwrap().insert(plugin, handler);
        self.changed.notify_waiters();
        admission
    }

    pub(crate) fn remove(&self, plugin: &str) {
        self.live.lock().unwrap().remove(plugin);
        self.changed.notify_waiters();
    }
}

#[async_trait]
impl Plugins for ScriptedPlugins {
    fn handler(&self, plugin: &PluginName) -> Option<Arc<dyn Handler>> {
        self.live.lock().unwrap().get(plugin).cloned()
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    fn list(&self) -> Vec<PluginInfo> {
        Vec::new()
    }
}
