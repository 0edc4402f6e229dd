//! The clients, and whether the service can be reached.
//!
//! A look at the service every few seconds finds what the vendor's streams do not: a connection on which nothing arrives
//! any more and nothing fails. After a look that got no answer all clients are made anew; once the service answers again,
//! every stream is opened again at once, where the vendor's own back-off would wait for up to a minute.
//!
//! Invariant: what is made here costs no round trip. Nothing fails because the service is down before it is asked something.

use crate::Config;
use crate::errors::{is_code, of_read, within};
use google_cloud_auth::credentials::{Builder, Credentials, anonymous};
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::retry_policy::{NeverRetry, RetryPolicyExt as _};
use google_cloud_pubsub::client::{BasePublisher, Subscriber, SubscriptionAdmin, TopicAdmin};
use sandpost_ports::{ErrorKind, PortError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Waits between looks at a service that is gone.
const LOST_WAIT_MIN: Duration = Duration::from_millis(200);
const LOST_WAIT_MAX: Duration = Duration::from_secs(5);

/// A topic that need not be there: the service's word that it is not is an answer.
const NOBODYS_TOPIC: &str = "sandpost-health";

/// One set of clients, over connections of their own.
pub(crate) struct Clients {
    /// Counts the sets.
    pub(crate) generation: u64,
    pub(crate) topics: TopicAdmin,
    pub(crate) subscriptions: SubscriptionAdmin,
    pub(crate) subscriber: Subscriber,
    pub(crate) publisher: BasePublisher,
}

pub(crate) struct Connection {
    pub(crate) config: Config,
    credentials: Credentials,
    clients: tokio::sync::Mutex<(u64, Option<Arc<Clients>>)>,
    /// A subscription that is there, for looks.
    known: Mutex<Option<String>>,
    back: watch::Sender<u64>,
    look: Notify,
}

impl Connection {
    pub(crate) fn new(config: Config) -> Result<Self, crate::OpenError> {
        let credentials = if config.emulator_host.is_some() {
            anonymous::Builder::new().build()
        } else {
            Builder::default().build().map_err(|error| crate::OpenError::Credentials(error.into()))?
        };
        Ok(Self {
            config,
            credentials,
            clients: tokio::sync::Mutex::default(),
            known: Mutex::default(),
            back: watch::Sender::new(0),
            look: Notify::new(),
        })
    }

    /// The clients of now.
    pub(crate) async fn clients(&self) -> Result<Arc<Clients>, PortError> {
        let mut slot = self.clients.lock().await;
        if let Some(clients) = &slot.1 {
            return Ok(Arc::clone(clients));
        }
        let clients = Arc::new(
            self.build(slot.0)
                .await
                .map_err(|error| PortError::new(ErrorKind::Other, "the connection cannot be set up").because(error))?,
        );
        slot.1 = Some(Arc::clone(&clients));
        Ok(clients)
    }

    async fn build(&self, generation: u64) -> Result<Clients, google_cloud_gax::client_builder::Error> {
        let endpoint = match (&self.config.emulator_host, &self.config.endpoint) {
            (Some(host), _) => Some(format!("http://{}", host.reveal())),
            (None, Some(endpoint)) => Some(endpoint.reveal().to_owned()),
            (None, None) => None,
        };
        // Tries again are this driver's, because only it knows what may be asked twice. Each request ends in time.
        let once = || NeverRetry.with_time_limit(self.config.call_timeout());
        let publish_once = NeverRetry.with_time_limit(Duration::from_millis(self.config.publish_timeout_ms));
        let mut topics = TopicAdmin::builder().with_credentials(self.credentials.clone()).with_retry_policy(once());
        let mut subscriptions =
            SubscriptionAdmin::builder().with_credentials(self.credentials.clone()).with_retry_policy(once());
        let mut subscriber = Subscriber::builder().with_credentials(self.credentials.clone());
        let mut publisher =
            BasePublisher::builder().with_credentials(self.credentials.clone()).with_retry_policy(publish_once);
        if let Some(endpoint) = endpoint {
            topics = topics.with_endpoint(&endpoint);
            subscriptions = subscriptions.with_endpoint(&endpoint);
            subscriber = subscriber.with_endpoint(&endpoint);
            publisher = publisher.with_endpoint(&endpoint);
        }
        Ok(Clients {
            generation,
            topics: topics.build().await?,
            subscriptions: subscriptions.build().await?,
            subscriber: subscriber.build().await?,
            publisher: publisher.build().await?,
        })
    }

    /// The next caller gets new clients, over new connections.
    async fn renew(&self) {
        let mut slot = self.clients.lock().await;
        *slot = (slot.0 + 1, None);
    }

    /// Names a subscription that is there.
    pub(crate) fn know(&self, path: String) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(path);
    }

    /// Changes each time that the service is back.
    pub(crate) fn back(&self) -> watch::Receiver<u64> {
        self.back.subscribe()
    }

    /// Something got no answer: look now.
    pub(crate) fn doubt(&self) {
        self.look.notify_one();
    }

    /// One round trip. That something is not there, or that the account may not see it, is an answer.
    pub(crate) async fn round_trip(&self) -> Result<(), PortError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let asking = async {
            let clients = self.clients().await?;
            let answer = if let Some(path) = known {
                clients.subscriptions.get_subscription().set_subscription(path).send().await.map(drop)
            } else {
                let path = self.config.topic_path(NOBODYS_TOPIC);
                clients.topics.get_topic().set_topic(path).send().await.map(drop)
            };
            match answer {
                Err(error) if is_code(&error, Code::NotFound) || is_code(&error, Code::PermissionDenied) => Ok(()),
                answer => answer.map_err(of_read),
            }
        };
        within(self.config.call_timeout(), asking).await
    }
}

/// Looks at the service for as long as it is polled.
pub(crate) async fn watch_over(connection: Arc<Connection>) {
    let mut was_there: Option<bool> = None;
    let mut wait = LOST_WAIT_MIN;
    loop {
        match connection.round_trip().await {
            Ok(()) => {
                match was_there {
                    None => tracing::info!("Connected to Pub/Sub."),
                    Some(false) => {
                        tracing::info!("Connected to Pub/Sub again.");
                        connection.back.send_modify(|count| *count += 1);
                    }
                    Some(true) => {}
                }
                was_there = Some(true);
                wait = LOST_WAIT_MIN;
                let interval = Duration::from_millis(connection.config.probe_interval_ms);
                tokio::select! {
                    () = tokio::time::sleep(interval) => {}
                    () = connection.look.notified() => {}
                }
            }
            Err(error) => {
                if was_there != Some(false) {
                    let source = error.source.as_deref().map(tracing::field::display);
                    tracing::warn!(%error, source, "Lost the connection to Pub/Sub; reconnecting.");
                }
                was_there = Some(false);
                connection.renew().await;
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LOST_WAIT_MAX);
            }
        }
    }
}
