//! A broker in memory, with the faults of one over a network.
//!
//! Durable: messages, their order, attempts counted. With the embedded kind, leases are not: a crash of the host frees them.
//! Deliveries of different ordering keys come in any order.

use crate::facts::Settled;
use crate::sim::{Life, Sim};
use async_trait::async_trait;
use sandpost_message::{Message, MessageId, SubscriptionName, TimestampMs, Topic};
use sandpost_ports::broker::{Backlog, Broker, Delivery, Published, Receipt, Settlement, Subscription};
use sandpost_ports::health::Health;
use sandpost_ports::{ErrorKind, PortError};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

struct Entry {
    message: Arc<Message>,
    attempts: u32,
    visible_at_ms: TimestampMs,
    lease: Option<Lease>,
}

struct Lease {
    token: String,
    until_ms: TimestampMs,
    host: u64,
}

struct Queue {
    topic: Topic,
    entries: Vec<Entry>,
}

/// A message that was stored, and for whom.
pub(crate) struct Stored {
    pub(crate) message: Arc<Message>,
    pub(crate) subscriptions: Vec<SubscriptionName>,
}

#[derive(Default)]
struct Kept {
    queues: BTreeMap<SubscriptionName, Queue>,
    known: HashMap<String, MessageId>,
    log: Vec<Stored>,
    tokens: u64,
}

/// The service itself; outlives every host.
pub(crate) struct Store {
    sim: Arc<Sim>,
    deduplicates: bool,
    kept: Mutex<Kept>,
    wake: Notify,
}

impl Store {
    pub(crate) fn new(sim: Arc<Sim>, deduplicates: bool) -> Arc<Self> {
        Arc::new(Self { sim, deduplicates, kept: Mutex::default(), wake: Notify::new() })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn left(&self) -> usize {
        self.kept().queues.values().map(|queue| queue.entries.len()).sum()
    }

    /// What is left, for a failure's text.
    pub(crate) fn describe(&self) -> String {
        let kept = self.kept();
        let mut text = String::new();
        for (name, queue) in &kept.queues {
            for entry in &queue.entries {
                let message = self.sim.name("m", entry.message.id.as_str());
                let wait = entry.visible_at_ms.saturating_sub(self.sim.now_ms());
                let attempts = entry.attempts;
                write!(text, " {message} on {name}: attempts {attempts}, due in {wait} ms;").ok();
            }
        }
        text
    }

    pub(crate) fn holds(&self, message: &MessageId, subscription: &SubscriptionName) -> bool {
        let kept = self.kept();
        kept.queues.get(subscription).is_some_and(|queue| queue.entries.iter().any(|e| e.message.id == *message))
    }

    /// Everything that was ever stored, in order.
    pub(crate) fn log<T>(&self, look: impl FnOnce(&[Stored]) -> T) -> T {
        look(&self.kept().log)
    }

    /// The leases of a host that crashed, where they were in its memory.
    pub(crate) fn forget_leases(&self, host: u64) {
        for queue in self.kept().queues.values_mut() {
            for entry in &mut queue.entries {
                entry.lease.take_if(|lease| lease.host == host);
            }
        }
        self.wake.notify_waiters();
    }

    /// Loses one lease that lasts, of a message without a key.
    pub(crate) fn lose_a_lease(&self) {
        let mut kept = self.kept();
        let now_ms = self.sim.now_ms();
        let mut leased: Vec<(&SubscriptionName, &mut Entry)> = kept
            .queues
            .iter_mut()
            .flat_map(|(name, queue)| queue.entries.iter_mut().map(move |entry| (name, entry)))
            .filter(|(_, e)| {
                e.message.ordering_key.is_none() && e.lease.as_ref().is_some_and(|lease| lease.until_ms > now_ms)
            })
            .collect();
        if leased.is_empty() {
            return;
        }
        let place = self.sim.chance(|c| c.below(leased.len() as u64));
        let (name, entry) = &mut leased[usize::try_from(place).unwrap_or(0)];
        entry.lease = None;
        let id = entry.message.id.clone();
        self.sim.trace(format_args!("broker loses the lease of {} on {name}", self.sim.name("m", id.as_str())));
        self.sim.facts().loose.insert((id, (*name).clone()));
        drop(kept);
        self.wake.notify_waiters();
    }

    fn publish(&self, messages: Vec<Message>, refused: &[bool]) -> Vec<Result<Published, PortError>> {
        let mut kept = self.kept();
        let kept = &mut *kept;
        let mut answers = Vec::with_capacity(messages.len());
        for (message, refused) in messages.into_iter().zip(refused) {
            if *refused {
                answers.push(Err(PortError::new(ErrorKind::Unavailable, "no room now")));
                continue;
            }
            let known = message.dedupe_key.as_ref().filter(|_| self.deduplicates);
            if let Some(id) = known.and_then(|key| kept.known.get(key)) {
                answers.push(Ok(Published { id: id.clone(), duplicate: true }));
                continue;
            }
            let to: Vec<SubscriptionName> = kept
                .queues
                .iter()
                .filter(|(_, queue)| queue.topic == message.topic)
                .map(|(name, _)| name.clone())
                .collect();
            if to.is_empty() {
                answers.push(Err(PortError::invalid("no subscription listens to this topic")));
                continue;
            }
            if let Some(key) = known {
                kept.known.insert(key.clone(), message.id.clone());
            }
            let id = message.id.clone();
            let what = String::from_utf8_lossy(&message.body).into_owned();
            self.sim.trace(format_args!("broker stores {} ({what})", self.sim.name("m", id.as_str())));
            {
                let mut facts = self.sim.facts();
                facts.provided.insert(id.to_string());
                *facts.published.entry(what.clone()).or_default() += 1;
                if let Some(key) = &message.dedupe_key {
                    facts.keys.entry(what).or_default().insert(key.clone());
                }
            }
            let message = Arc::new(message);
            for name in &to {
                if let Some(queue) = kept.queues.get_mut(name) {
                    queue.entries.push(Entry {
                        message: Arc::clone(&message),
                        attempts: 0,
                        visible_at_ms: message.not_before_ms,
                        lease: None,
                    });
                }
            }
            kept.log.push(Stored { message, subscriptions: to });
            answers.push(Ok(Published { id, duplicate: false }));
        }
        self.wake.notify_waiters();
        answers
    }

    /// Leases what can be leased, or says when there may be something.
    fn lease(&self, name: &SubscriptionName, max: usize, lease_ms: u64, host: u64) -> (Vec<Delivery>, TimestampMs) {
        let now_ms = self.sim.now_ms();
        let mut kept = self.kept();
        let kept = &mut *kept;
        let Some(queue) = kept.queues.get_mut(name) else { return (Vec::new(), u64::MAX) };
        let (mut free, mut next_ms, mut keys) = (Vec::new(), u64::MAX, Vec::new());
        for (place, entry) in queue.entries.iter().enumerate() {
            if let Some(key) = &entry.message.ordering_key {
                if keys.contains(&key) {
                    continue;
                }
                keys.push(key);
            }
            let free_at_ms = entry.visible_at_ms.max(entry.lease.as_ref().map_or(0, |lease| lease.until_ms));
            if free_at_ms > now_ms {
                next_ms = next_ms.min(free_at_ms);
            } else {
                free.push(place);
            }
        }
        let mut taken = Vec::new();
        while taken.len() < max && !free.is_empty() {
            let choice = self.sim.chance(|c| c.below(free.len() as u64));
            let entry = &mut queue.entries[free.swap_remove(usize::try_from(choice).unwrap_or(0))];
            kept.tokens += 1;
            let token = kept.tokens.to_string();
            entry.lease = Some(Lease { token: token.clone(), until_ms: now_ms + lease_ms, host });
            entry.attempts += 1;
            let message = self.sim.name("m", entry.message.id.as_str());
            self.sim.trace(format_args!("h{host} leases {message} on {name}, attempt {}", entry.attempts));
            taken.push(Delivery {
                message: Arc::clone(&entry.message),
                attempt: entry.attempts,
                receipt: Receipt::new(token),
            });
        }
        (taken, next_ms)
    }

    fn leased<'a>(&self, queue: &'a mut Queue, token: &str) -> Result<(usize, &'a mut Entry), PortError> {
        let now_ms = self.sim.now_ms();
        let held = |entry: &Entry| entry.lease.as_ref().is_some_and(|l| l.token == token && l.until_ms > now_ms);
        let found = queue.entries.iter_mut().enumerate().find(|(_, entry)| held(entry));
        found.ok_or_else(|| PortError::new(ErrorKind::Conflict, "the lease is over"))
    }

    fn settle(&self, name: &SubscriptionName, token: &str, settlement: Settlement) -> Result<(), PortError> {
        let mut kept = self.kept();
        let Some(queue) = kept.queues.get_mut(name) else { return Err(PortError::invalid("no such subscription")) };
        let (place, entry) = self.leased(queue, token)?;
        let (id, attempt, at_ms) = (entry.message.id.clone(), entry.attempts, self.sim.now_ms());
        let message = self.sim.name("m", id.as_str());
        entry.lease = None;
        match settlement {
            Settlement::Done => drop(queue.entries.remove(place)),
            Settlement::RetryAt(at_ms) => entry.visible_at_ms = at_ms,
            Settlement::HandBack(at_ms) => {
                entry.attempts -= 1;
                entry.visible_at_ms = at_ms;
            }
        }
        let word = match settlement {
            Settlement::Done => "done".to_owned(),
            Settlement::RetryAt(until_ms) => format!("retry in {}", until_ms.saturating_sub(at_ms)),
            Settlement::HandBack(until_ms) => format!("hand back, in {}", until_ms.saturating_sub(at_ms)),
        };
        self.sim.trace(format_args!("broker settles {message} on {name}, attempt {attempt}: {word}"));
        {
            let mut facts = self.sim.facts();
            let turn = facts.turn();
            facts.settled.push(Settled { spot: (id, name.clone()), attempt, at_ms, turn, settlement });
        }
        drop(kept);
        self.wake.notify_waiters();
        Ok(())
    }
}

/// The broker as one host reaches it.
pub(crate) struct SimBroker {
    pub(crate) store: Arc<Store>,
    pub(crate) life: Arc<Life>,
}

#[async_trait]
impl Health for SimBroker {
    async fn check(&self) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait]
impl Broker for SimBroker {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Published, PortError>> {
        let (count, store) = (messages.len(), Arc::clone(&self.store));
        let rates = store.sim.rates();
        let refused: Vec<bool> = (0..count).map(|_| store.sim.chance(|c| c.in_thousand(rates.refused))).collect();
        let call = self.store.sim.call(&self.life, "publish", move || store.publish(messages, &refused));
        match call.await {
            Ok(answers) => answers,
            Err(error) => (0..count).map(|_| Err(PortError::new(error.kind, error.message.clone()))).collect(),
        }
    }

    async fn subscribe(&self, name: &SubscriptionName, topic: &Topic) -> Result<Arc<dyn Subscription>, PortError> {
        let (store, key, topic) = (Arc::clone(&self.store), name.clone(), topic.clone());
        let make = move || {
            store.kept().queues.entry(key).or_insert_with(|| Queue { topic, entries: Vec::new() });
        };
        self.store.sim.call(&self.life, "subscribe", make).await?;
        let (store, life) = (Arc::clone(&self.store), Arc::clone(&self.life));
        Ok(Arc::new(SimSubscription { store, life, name: name.clone() }))
    }

    async fn backlog(&self, name: &SubscriptionName) -> Result<Backlog, PortError> {
        let (store, name) = (Arc::clone(&self.store), name.clone());
        let look = move || {
            let kept = store.kept();
            let entries = kept.queues.get(&name).map(|queue| &queue.entries[..]).unwrap_or_default();
            Backlog {
                ready: entries.len() as u64,
                oldest_published_at_ms: entries.iter().map(|entry| entry.message.published_at_ms).min(),
                ..Backlog::default()
            }
        };
        self.store.sim.call(&self.life, "backlog", look).await
    }

    fn deduplicates(&self) -> bool {
        self.store.deduplicates
    }
}

struct SimSubscription {
    store: Arc<Store>,
    life: Arc<Life>,
    name: SubscriptionName,
}

#[async_trait]
impl Subscription for SimSubscription {
    async fn next(&self, max: usize, lease_ms: u64) -> Result<Vec<Delivery>, PortError> {
        let sim = &self.store.sim;
        let work = async {
            sim.pause().await;
            sim.event(&self.life);
            loop {
                let woken = self.store.wake.notified();
                tokio::pin!(woken);
                woken.as_mut().enable();
                let rates = sim.rates();
                if sim.chance(|c| c.in_thousand(rates.refused)) {
                    return Err(PortError::new(ErrorKind::Unavailable, "refused"));
                }
                // From here to the end there is no wait: a dropped future leaves nothing leased.
                let (taken, next_ms) = self.store.lease(&self.name, max, lease_ms, self.life.number);
                if !taken.is_empty() {
                    sim.event(&self.life);
                    if sim.chance(|c| c.in_thousand(rates.reply_lost)) {
                        sim.trace(format_args!("h{} next: the connection broke", self.life.number));
                        return Err(PortError::new(ErrorKind::UnknownOutcome, "the connection broke"));
                    }
                    return Ok(taken);
                }
                let wait = Duration::from_millis(next_ms.saturating_sub(sim.now_ms()).min(86_400_000));
                tokio::select! {
                    biased;
                    () = woken => {}
                    () = tokio::time::sleep(wait) => {}
                }
            }
        };
        self.life.live(work).await
    }

    async fn settle(&self, receipt: Receipt, settlement: Settlement) -> Result<(), PortError> {
        let (store, name) = (Arc::clone(&self.store), self.name.clone());
        let tell = move || store.settle(&name, receipt.token(), settlement);
        self.store.sim.call(&self.life, "settle", tell).await?
    }

    async fn extend(&self, receipt: &Receipt, lease_ms: u64) -> Result<(), PortError> {
        let (store, name, token) = (Arc::clone(&self.store), self.name.clone(), receipt.token().to_owned());
        let extend = move || {
            let until_ms = store.sim.now_ms() + lease_ms;
            let mut kept = store.kept();
            let Some(queue) = kept.queues.get_mut(&name) else { return Err(PortError::invalid("no subscription")) };
            let (_, entry) = store.leased(queue, &token)?;
            if let Some(lease) = &mut entry.lease {
                lease.until_ms = until_ms;
            }
            Ok(())
        };
        self.store.sim.call(&self.life, "extend", extend).await?
    }
}
