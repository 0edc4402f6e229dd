//! The guards before fakes that answer as they are told.

use crate::{BreakerConfig, Connection, GuardedBroker, GuardedCache, GuardedEmail, GuardedSql};
use bytes::Bytes;
use sandpost_message::{Message, SubscriptionName, Topic};
use sandpost_ports::broker::{Backlog, Broker, NotSetUp, Published, Subscription};
use sandpost_ports::cache::{Cache, Condition};
use sandpost_ports::email::{EmailSender, Mail, MailOrigin, ProviderId, SendError, SendingQuota};
use sandpost_ports::health::Health;
use sandpost_ports::sql::{Access, Done, Rows, Sql, StatementLimits, Transaction, Value};
use sandpost_ports::{ErrorKind, PortError};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Answers every call with this failure, or well; counts them.
#[derive(Default)]
struct Fake {
    failure: Mutex<Option<ErrorKind>>,
    calls: AtomicU64,
}

impl Fake {
    fn be(&self, failure: Option<ErrorKind>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    fn answer(&self) -> Result<(), PortError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match *self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(kind) => Err(PortError::new(kind, "the service said so")),
        }
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

#[async_trait::async_trait]
impl Health for Fake {
    async fn check(&self) -> Result<(), PortError> {
        self.answer()
    }
}

#[async_trait::async_trait]
impl Cache for Fake {
    async fn get_many(&self, _: &[String]) -> Result<Vec<Option<Bytes>>, PortError> {
        self.answer().map(|()| Vec::new())
    }
    async fn set(&self, _: &str, _: Bytes, _: Duration, _: Condition) -> Result<bool, PortError> {
        self.answer().map(|()| true)
    }
    async fn set_many(&self, _: Vec<(String, Bytes)>, _: Duration) -> Result<(), PortError> {
        self.answer()
    }
    async fn take(&self, _: &str) -> Result<Option<Bytes>, PortError> {
        self.answer().map(|()| None)
    }
    async fn delete(&self, _: &[String]) -> Result<u64, PortError> {
        self.answer().map(|()| 0)
    }
    async fn delete_prefix(&self, _: &str) -> Result<u64, PortError> {
        self.answer().map(|()| 0)
    }
    /// Never answers.
    async fn exists(&self, _: &str) -> Result<bool, PortError> {
        std::future::pending().await
    }
    async fn expire(&self, _: &str, _: Duration) -> Result<bool, PortError> {
        self.answer().map(|()| true)
    }
    async fn ttl(&self, _: &str) -> Result<Option<Duration>, PortError> {
        self.answer().map(|()| None)
    }
    async fn increment(&self, _: &str, _: i64, _: Duration) -> Result<i64, PortError> {
        self.answer().map(|()| 1)
    }
}

#[async_trait::async_trait]
impl EmailSender for Fake {
    async fn send(&self, mail: &Mail) -> Result<ProviderId, SendError> {
        if mail.key == "throttled" {
            return Err(SendError::Throttled { after_ms: None });
        }
        self.answer()?;
        Ok("sent".to_owned())
    }
    async fn quota(&self) -> Result<SendingQuota, PortError> {
        self.answer().map(|()| SendingQuota { per_day: 1.0, sent_today: 0.0, per_second: 1.0 })
    }
    fn deduplicates(&self) -> bool {
        false
    }
}

/// Where it fails, a subscription is missing; for the topic `away` the service is.
#[async_trait::async_trait]
impl Broker for Fake {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Published, PortError>> {
        let answer = |message: Message| match self.answer() {
            Ok(()) => Ok(Published { id: message.id, duplicate: false }),
            Err(error) if message.topic.as_str() == "away" => Err(error),
            Err(error) => Err(error.because(NotSetUp)),
        };
        messages.into_iter().map(answer).collect()
    }
    async fn subscribe(&self, _: &SubscriptionName, _: &Topic) -> Result<Arc<dyn Subscription>, PortError> {
        Err(PortError::new(ErrorKind::Unavailable, "nobody made it").because(NotSetUp))
    }
    async fn backlog(&self, _: &SubscriptionName) -> Result<Backlog, PortError> {
        self.answer().map(|()| Backlog::default())
    }
    fn deduplicates(&self) -> bool {
        false
    }
}

struct Statements(Arc<Fake>);

#[async_trait::async_trait]
impl Health for Statements {
    async fn check(&self) -> Result<(), PortError> {
        self.0.answer()
    }
}

#[async_trait::async_trait]
impl Sql for Statements {
    async fn query(&self, _: Access, _: &str, _: Vec<Value>, _: StatementLimits) -> Result<Rows, PortError> {
        self.0.answer().map(|()| Rows::default())
    }
    async fn execute(&self, _: Access, _: &str, _: Vec<Value>, _: StatementLimits) -> Result<Done, PortError> {
        self.0.answer().map(|()| Done::default())
    }
    async fn begin(&self, _: Access) -> Result<Box<dyn Transaction>, PortError> {
        self.0.answer()?;
        Ok(Box::new(Statements(self.0.clone())))
    }
}

#[async_trait::async_trait]
impl Transaction for Statements {
    async fn query(&mut self, _: &str, _: Vec<Value>, _: StatementLimits) -> Result<Rows, PortError> {
        self.0.answer().map(|()| Rows::default())
    }
    async fn execute(&mut self, _: &str, _: Vec<Value>, _: StatementLimits) -> Result<Done, PortError> {
        self.0.answer().map(|()| Done::default())
    }
    async fn commit(self: Box<Self>) -> Result<(), PortError> {
        self.0.answer()
    }
    async fn rollback(self: Box<Self>) -> Result<(), PortError> {
        self.0.answer()
    }
}

const LIMITS: StatementLimits = StatementLimits { rows_max: 1, result_max_bytes: 1, timeout_ms: 1 };

fn connection(name: &str) -> Arc<Connection> {
    let config = BreakerConfig { failures: 3, window_ms: 10_000, open_ms: 1_000 };
    Arc::new(Connection::new(name, "fake", config))
}

fn mail(key: &str) -> Mail {
    let address = sandpost_ports::email::Address { name: None, address: "a@example.com".into() };
    Mail {
        key: key.into(),
        sender: address.clone(),
        to: vec![address],
        cc: Vec::new(),
        bcc: Vec::new(),
        subject: String::new(),
        html: None,
        text: String::new(),
        mime: Bytes::new(),
        tags: Vec::new(),
        origin: MailOrigin { plugin: "p".parse().unwrap(), message_id: None, template: None, locale: None },
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_down_is_left_alone_until_it_answers() {
    let fake = Arc::new(Fake::default());
    let cache = GuardedCache::new(fake.clone(), connection("cache"));
    fake.be(Some(ErrorKind::Unavailable));
    for _ in 0..3 {
        assert_eq!(cache.take("k").await.unwrap_err().message, "the service said so");
    }
    let refused = cache.take("k").await.unwrap_err();
    assert_eq!((refused.kind, fake.calls()), (ErrorKind::Unavailable, 3), "the service is not asked");
    assert!(refused.message.starts_with("the circuit breaker is open"), "{refused}");

    let unwell = cache.check().await.unwrap_err();
    assert!(unwell.message.contains("the circuit breaker is open"), "{unwell}");
    fake.be(None);
    cache.check().await.unwrap();
    assert_eq!(cache.take("k").await.unwrap(), None, "what a health check found is used at once");
    cache.take("k").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_health_check_one_call_sees_after_a_while() {
    let fake = Arc::new(Fake::default());
    let cache = GuardedCache::new(fake.clone(), connection("cache"));
    fake.be(Some(ErrorKind::UnknownOutcome));
    for _ in 0..3 {
        assert_eq!(cache.take("k").await.unwrap_err().kind, ErrorKind::UnknownOutcome, "passed on as it is");
    }
    fake.be(None);
    assert_eq!(cache.take("k").await.unwrap_err().kind, ErrorKind::Unavailable);
    tokio::time::advance(Duration::from_secs(1)).await;
    cache.take("k").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_no_outage_whatever_it_says() {
    let fake = Arc::new(Fake::default());
    let cache = GuardedCache::new(fake.clone(), connection("cache"));
    for kind in [ErrorKind::Invalid, ErrorKind::Conflict, ErrorKind::Exceeded, ErrorKind::Unsupported, ErrorKind::Other]
    {
        fake.be(Some(kind));
        for _ in 0..10 {
            assert_eq!(cache.increment("k", 1, Duration::ZERO).await.unwrap_err().kind, kind);
        }
    }
    let email = GuardedEmail::new(Arc::new(Fake::default()), connection("email"));
    for _ in 0..10 {
        assert!(matches!(email.send(&mail("throttled")).await, Err(SendError::Throttled { .. })));
    }
    assert_eq!(email.send(&mail("k")).await.unwrap(), "sent");
}

#[tokio::test(start_paused = true)]
async fn a_missing_subscription_is_no_outage() {
    let fake = Arc::new(Fake::default());
    let broker = GuardedBroker::new(fake.clone(), connection("broker"));
    let publish = async |topic: &str| {
        let message = Message::new(topic.parse().unwrap(), "{}", 0);
        broker.publish(vec![message]).await.remove(0).map_err(|error| error.message)
    };
    fake.be(Some(ErrorKind::Unavailable));
    for _ in 0..10 {
        assert_eq!(publish("missing").await.unwrap_err(), "the service said so");
        let (name, topic) = ("mailer".parse().unwrap(), "missing".parse().unwrap());
        assert_eq!(broker.subscribe(&name, &topic).await.err().unwrap().message, "nobody made it");
    }
    for _ in 0..3 {
        assert_eq!(publish("away").await.unwrap_err(), "the service said so");
    }
    assert!(publish("away").await.unwrap_err().starts_with("the circuit breaker is open"), "that is one");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_is_no_failure() {
    let cache = GuardedCache::new(Arc::new(Fake::default()), connection("cache"));
    for _ in 0..10 {
        tokio::time::timeout(Duration::from_millis(10), cache.exists("k")).await.unwrap_err();
    }
    cache.take("k").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_was_begun_may_end() {
    let fake = Arc::new(Fake::default());
    let sql = GuardedSql::new(Arc::new(Statements(fake.clone())), connection("sql.main"));
    let mut begun = sql.begin(Access::ReadWrite).await.unwrap();
    fake.be(Some(ErrorKind::Unavailable));
    for _ in 0..3 {
        sql.query(Access::ReadOnly, "", Vec::new(), LIMITS).await.unwrap_err();
    }
    assert!(sql.begin(Access::ReadWrite).await.is_err());
    fake.be(None);
    begun.execute("", Vec::new(), LIMITS).await.unwrap();
    begun.commit().await.unwrap();
}
