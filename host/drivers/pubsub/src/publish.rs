//! From the host to the service: batches of what is queued, without waiting for more.
//!
//! A request that failed is made again while there is time, also where it may have been carried out: at worst the message is
//! there twice, under one id, as any redelivery. What is still open at the end has the kind of what is known of it:
//! [`ErrorKind::Unavailable`] only where no request ever left.
//!
//! Invariants
//! - Messages of one key that are published in one call arrive in their order, whatever failed in between.
//! - A publisher serves a bounded number of keys: the vendor's keeps a task for each until it is dropped.

use crate::admin::subscriptions_of;
use crate::connection::{Clients, Connection};
use crate::errors::{is_code, kind_of, not_set_up, within, words_of};
use crate::wanted::Wanted;
use crate::wire;
use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::client::Publisher;
use google_cloud_pubsub::error::PublishError;
use google_cloud_pubsub::model::Message as Carried;
use sandpost_message::{Message, SubscriptionName, Topic};
use sandpost_ports::broker::Published;
use sandpost_ports::{ErrorKind, PortError};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Keys that one publisher serves; then it is replaced.
const KEYS_MAX: usize = 10_000;

/// Waits between tries.
const WAIT_MIN: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(1);

/// By how much a delay has to be shorter than the service keeps a message.
const RETENTION_MARGIN_MS: u64 = 60 * 60 * 1000;

pub(crate) struct Outgoing {
    connection: Arc<Connection>,
    wanted: Arc<Wanted>,
    lines: Mutex<HashMap<Topic, Line>>,
    known: Mutex<HashMap<Topic, Known>>,
}

struct Line {
    generation: u64,
    publisher: Arc<Publisher>,
    keys: HashSet<String>,
}

/// Which subscriptions a topic has. None: the account may not see them.
#[derive(Clone)]
struct Known {
    subscriptions: Option<Arc<HashSet<String>>>,
    since: Instant,
}

/// One message on its way.
struct Pending {
    place: usize,
    carried: Carried,
    topic: Topic,
    /// Whether a try may have been carried out.
    left: bool,
    error: Option<PortError>,
}

impl Outgoing {
    pub(crate) fn new(connection: Arc<Connection>, wanted: Arc<Wanted>) -> Self {
        Self { connection, wanted, lines: Mutex::default(), known: Mutex::default() }
    }

    pub(crate) async fn publish(&self, messages: Vec<Message>, now_ms: u64) -> Vec<Result<Published, PortError>> {
        let until = Instant::now() + Duration::from_millis(self.connection.config.publish_timeout_ms);
        let published: Vec<Published> =
            messages.iter().map(|message| Published { id: message.id.clone(), duplicate: false }).collect();
        let mut answers: Vec<Result<(), PortError>> = Vec::with_capacity(messages.len());
        let mut pending = Vec::with_capacity(messages.len());
        for (place, message) in messages.into_iter().enumerate() {
            let admitted = self.admit(&message, now_ms).await;
            if admitted.is_ok() {
                let carried = wire::encode(&message);
                pending.push(Pending { place, carried, topic: message.topic, left: false, error: None });
            }
            answers.push(admitted);
        }
        for open in self.send(pending, until).await {
            let nothing = || PortError::new(ErrorKind::UnknownOutcome, "the service did not answer in time");
            let mut error = open.error.unwrap_or_else(nothing);
            if open.left && error.kind == ErrorKind::Unavailable {
                error.kind = ErrorKind::UnknownOutcome;
            }
            if let Some(answer) = answers.get_mut(open.place) {
                *answer = Err(error);
            }
        }
        answers.into_iter().zip(published).map(|(answer, published)| answer.map(|()| published)).collect()
    }

    /// Whether somebody listens to it, and it can wait as long as it is to. Where a subscription of this host's would miss it,
    /// because the service does not have it yet, the answer is for now only.
    async fn admit(&self, message: &Message, now_ms: u64) -> Result<(), PortError> {
        let config = &self.connection.config;
        let delay_max_ms = (u64::from(config.retention_s) * 1000).saturating_sub(RETENTION_MARGIN_MS);
        if message.not_before_ms.saturating_sub(now_ms) > delay_max_ms {
            let words = format!("Pub/Sub forgets a message before that time; the longest delay is {delay_max_ms} ms");
            return Err(PortError::unsupported(words));
        }
        let only = message.only.as_ref().map(|name| config.subscription_path(name.as_str()));
        let wanted = self.wanted.of(&message.topic, message.only.as_ref());
        let misses = |known: &Option<Arc<HashSet<String>>>| {
            let there = |name: &SubscriptionName| {
                known.as_ref().is_some_and(|paths| paths.contains(&config.subscription_path(name.as_str())))
            };
            wanted.iter().any(|(name, open)| !open && !there(name))
        };
        let listens = |known: &Option<Arc<HashSet<String>>>| {
            !misses(known)
                && match (known, &only) {
                    (None, _) => true,
                    (Some(paths), None) => !paths.is_empty(),
                    (Some(paths), Some(only)) => paths.contains(only),
                }
        };
        let cached = lock(&self.known).get(&message.topic).cloned();
        let fresh = Duration::from_millis(config.subscriptions_cache_ms);
        if cached.is_some_and(|known| known.since.elapsed() < fresh && listens(&known.subscriptions)) {
            return Ok(());
        }
        let known = self.look(&message.topic).await?;
        if listens(&known) {
            return Ok(());
        }
        if !wanted.is_empty() {
            return Err(missed(&message.topic));
        }
        Err(PortError::invalid(match &message.only {
            Some(only) => format!("topic `{}` has no subscription `{only}`", message.topic),
            None => format!("no subscription listens to topic `{}`", message.topic),
        }))
    }

    fn is_wanted(&self, topic: &Topic) -> bool {
        !self.wanted.of(topic, None).is_empty()
    }

    async fn look(&self, topic: &Topic) -> Result<Option<Arc<HashSet<String>>>, PortError> {
        let config = &self.connection.config;
        let asking = async {
            let clients = self.connection.clients().await?;
            subscriptions_of(&clients, &config.topic_path(topic.as_str())).await
        };
        let subscriptions = match within(config.call_timeout(), asking).await {
            Ok(paths) => Some(Arc::new(paths)),
            // Not there.
            Err(error) if error.kind == ErrorKind::Invalid => Some(Arc::default()),
            Err(error) if error.kind == ErrorKind::Other => {
                tracing::debug!(%topic, %error, "Cannot see who listens; publishing all the same.");
                None
            }
            Err(error) => {
                self.connection.doubt();
                return Err(error);
            }
        };
        let since = Instant::now();
        lock(&self.known).insert(topic.clone(), Known { subscriptions: subscriptions.clone(), since });
        Ok(subscriptions)
    }

    /// Those that did not get through.
    async fn send(&self, mut pending: Vec<Pending>, until: Instant) -> Vec<Pending> {
        let mut refused = Vec::new();
        let mut wait = WAIT_MIN;
        loop {
            pending = self.try_once(pending, until, &mut refused).await;
            if pending.is_empty() || Instant::now() + wait >= until {
                break;
            }
            sleep(wait).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
        if !pending.is_empty() {
            self.connection.doubt();
        }
        refused.extend(pending);
        refused
    }

    /// Those that may be tried again. What the service refuses goes to `refused`.
    async fn try_once(&self, mut pending: Vec<Pending>, until: Instant, refused: &mut Vec<Pending>) -> Vec<Pending> {
        let clients = match self.connection.clients().await {
            Ok(clients) => clients,
            Err(error) => {
                if let Some(first) = pending.first_mut() {
                    first.error.get_or_insert(error);
                }
                return pending;
            }
        };
        let sent: Vec<_> = pending
            .into_iter()
            .map(|one| {
                let publisher = self.publisher(&clients, &one.topic, &one.carried.ordering_key);
                let answer = publisher.publish(one.carried.clone());
                (one, publisher, answer)
            })
            .collect();
        let mut again = Vec::new();
        for (mut one, publisher, answer) in sent {
            let error = match timeout_at(until, answer).await {
                Ok(Ok(_service_id)) => continue,
                Ok(Err(error)) => error,
                Err(_elapsed) => {
                    one.left = true;
                    let words = "the service did not answer in time";
                    one.error = Some(PortError::new(ErrorKind::UnknownOutcome, words));
                    again.push(one);
                    continue;
                }
            };
            if !one.carried.ordering_key.is_empty() {
                publisher.resume_publish(one.carried.ordering_key.clone());
            }
            let (kind, words) = match &error {
                // Gone since the look. Not tried again here: the topic comes back before its subscriptions.
                PublishError::Rpc(error) if is_code(error, Code::NotFound) && self.is_wanted(&one.topic) => {
                    lock(&self.known).remove(&one.topic);
                    one.error = Some(missed(&one.topic));
                    refused.push(one);
                    continue;
                }
                PublishError::Rpc(error) => (kind_of(error), words_of(error)),
                PublishError::OrderingKeyPaused => (ErrorKind::Unavailable, "an earlier message of its key failed"),
                _ => (ErrorKind::UnknownOutcome, "the connection was given up"),
            };
            one.left |= kind == ErrorKind::UnknownOutcome;
            one.error = Some(PortError::new(kind, words).because(error));
            match kind {
                ErrorKind::Unavailable | ErrorKind::UnknownOutcome => again.push(one),
                ErrorKind::Invalid
                | ErrorKind::Conflict
                | ErrorKind::Exceeded
                | ErrorKind::Unsupported
                | ErrorKind::Other => {
                    // Perhaps the topic is gone.
                    lock(&self.known).remove(&one.topic);
                    refused.push(one);
                }
            }
        }
        again
    }

    fn publisher(&self, clients: &Clients, topic: &Topic, key: &str) -> Arc<Publisher> {
        let mut lines = lock(&self.lines);
        let current = lines.get_mut(topic).filter(|line| line.generation == clients.generation);
        if let Some(line) = current {
            let known = key.is_empty() || line.keys.contains(key);
            if known || line.keys.len() < KEYS_MAX {
                if !known {
                    line.keys.insert(key.to_owned());
                }
                return Arc::clone(&line.publisher);
            }
        }
        let config = &self.connection.config;
        let publisher = clients
            .publisher
            .publisher(config.topic_path(topic.as_str()))
            .set_message_count_threshold(config.batch_messages_max)
            .set_byte_threshold(config.batch_bytes_max)
            .set_delay_threshold(Duration::ZERO)
            .build();
        let publisher = Arc::new(publisher);
        let keys = HashSet::from_iter((!key.is_empty()).then(|| key.to_owned()));
        let line = Line { generation: clients.generation, publisher: Arc::clone(&publisher), keys };
        lines.insert(topic.clone(), line);
        publisher
    }
}

/// In words that a plugin may read; `check` names the subscription.
fn missed(topic: &Topic) -> PortError {
    not_set_up(format!("a subscription to topic `{topic}` is not set up yet"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
