//! Ports in memory for this crate's tests, and a call over them. Each can be told to fail.
//!
//! Not the embedded drivers: these can be stopped at any step, and looked into.

mod state;

pub(crate) use state::FakeState;

use crate::bindings::template::{Content, RenderError, Request};
use crate::call::ConnectionHealth;
use crate::effects::Effects;
use crate::{Call, CallLimits, Context, Grants, Ports, RenderScope, Templates};
use bytes::Bytes;
use sandpost_message::{Digest, Message, SubscriptionName, Topic};
use sandpost_ports::broker::{Backlog, Broker, Published, Subscription};
use sandpost_ports::cache::{Cache, Condition};
use sandpost_ports::clock::{Clock, ManualClock};
use sandpost_ports::documents::{self, Documents};
use sandpost_ports::email::{Address, EmailSender, Mail, SendError, SendingQuota};
use sandpost_ports::health::Health;
use sandpost_ports::plugins::{Attempt, Identity, UnknownEffects};
use sandpost_ports::publisher::Publisher;
use sandpost_ports::sql::{self, Sql};
use sandpost_ports::{ErrorKind, PortError};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

type Answer<T> = Result<T, PortError>;

pub(crate) fn port_error(kind: ErrorKind) -> PortError {
    PortError::new(kind, "as told").because("only for the operator")
}

/// A provider that counts, waits at a gate, and fails as told.
pub(crate) struct FakeEmail {
    pub(crate) mails: Mutex<Vec<Mail>>,
    pub(crate) fails: Mutex<VecDeque<SendError>>,
    pub(crate) deduplicates: AtomicBool,
    /// One permit a send; plenty unless a test takes them.
    pub(crate) gate: Semaphore,
    /// How many are, or were, at the gate.
    pub(crate) arrived: AtomicU64,
}

impl Default for FakeEmail {
    fn default() -> Self {
        Self {
            mails: Mutex::default(),
            fails: Mutex::default(),
            deduplicates: AtomicBool::new(false),
            gate: Semaphore::new(1000),
            arrived: AtomicU64::new(0),
        }
    }
}

#[async_trait::async_trait]
impl Health for FakeEmail {
    async fn check(&self) -> Answer<()> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl EmailSender for FakeEmail {
    async fn send(&self, mail: &Mail) -> Result<String, SendError> {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        if let Some(error) = self.fails.lock().unwrap().pop_front() {
            return Err(error);
        }
        let mut mails = self.mails.lock().unwrap();
        mails.push(mail.clone());
        Ok(format!("mail-{}", mails.len()))
    }

    async fn quota(&self) -> Answer<SendingQuota> {
        Ok(SendingQuota { per_day: 200.0, sent_today: 1.0, per_second: 1.0 })
    }

    fn deduplicates(&self) -> bool {
        self.deduplicates.load(Ordering::SeqCst)
    }
}

/// A broker that keeps what is published.
#[derive(Default)]
pub(crate) struct FakeBroker {
    pub(crate) messages: Mutex<Vec<Message>>,
    pub(crate) fails: Mutex<VecDeque<PortError>>,
    pub(crate) deduplicates: AtomicBool,
}

#[async_trait::async_trait]
impl Health for FakeBroker {
    async fn check(&self) -> Answer<()> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl Broker for FakeBroker {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Answer<Published>> {
        let each = messages.into_iter().map(|message| {
            if let Some(error) = self.fails.lock().unwrap().pop_front() {
                return Err(error);
            }
            let mut stored = self.messages.lock().unwrap();
            let known = stored.iter().find(|earlier| {
                self.deduplicates() && message.dedupe_key.is_some() && earlier.dedupe_key == message.dedupe_key
            });
            if let Some(earlier) = known {
                return Ok(Published { id: earlier.id.clone(), duplicate: true });
            }
            stored.push(message.clone());
            Ok(Published { id: message.id, duplicate: false })
        });
        each.collect()
    }

    async fn subscribe(&self, _: &SubscriptionName, _: &Topic) -> Answer<Arc<dyn Subscription>> {
        Err(port_error(ErrorKind::Unsupported))
    }

    async fn backlog(&self, _: &SubscriptionName) -> Answer<Backlog> {
        Err(port_error(ErrorKind::Unsupported))
    }

    fn deduplicates(&self) -> bool {
        self.deduplicates.load(Ordering::SeqCst)
    }
}

/// A cache without time.
#[derive(Default)]
pub(crate) struct FakeCache(pub(crate) Mutex<BTreeMap<String, (Bytes, Duration)>>);

#[async_trait::async_trait]
impl Health for FakeCache {
    async fn check(&self) -> Answer<()> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl Cache for FakeCache {
    async fn get_many(&self, keys: &[String]) -> Answer<Vec<Option<Bytes>>> {
        let entries = self.0.lock().unwrap();
        Ok(keys.iter().map(|key| entries.get(key).map(|(value, _)| value.clone())).collect())
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Duration, condition: Condition) -> Answer<bool> {
        let mut entries = self.0.lock().unwrap();
        let write = match condition {
            Condition::Always => true,
            Condition::IfAbsent => !entries.contains_key(key),
            Condition::IfPresent => entries.contains_key(key),
        };
        if write {
            entries.insert(key.to_owned(), (value, ttl));
        }
        Ok(write)
    }

    async fn set_many(&self, entries: Vec<(String, Bytes)>, ttl: Duration) -> Answer<()> {
        self.0.lock().unwrap().extend(entries.into_iter().map(|(key, value)| (key, (value, ttl))));
        Ok(())
    }

    async fn take(&self, key: &str) -> Answer<Option<Bytes>> {
        Ok(self.0.lock().unwrap().remove(key).map(|(value, _)| value))
    }

    async fn delete(&self, keys: &[String]) -> Answer<u64> {
        let mut entries = self.0.lock().unwrap();
        Ok(keys.iter().filter(|key| entries.remove(*key).is_some()).count() as u64)
    }

    async fn delete_prefix(&self, prefix: &str) -> Answer<u64> {
        let mut entries = self.0.lock().unwrap();
        let before = entries.len();
        entries.retain(|key, _| !key.starts_with(prefix));
        Ok((before - entries.len()) as u64)
    }

    async fn exists(&self, key: &str) -> Answer<bool> {
        Ok(self.0.lock().unwrap().contains_key(key))
    }

    async fn expire(&self, key: &str, ttl: Duration) -> Answer<bool> {
        Ok(self.0.lock().unwrap().get_mut(key).map(|entry| entry.1 = ttl).is_some())
    }

    async fn ttl(&self, key: &str) -> Answer<Option<Duration>> {
        Ok(self.0.lock().unwrap().get(key).map(|entry| entry.1))
    }

    async fn increment(&self, _: &str, _: i64, _: Duration) -> Answer<i64> {
        Err(port_error(ErrorKind::Invalid))
    }
}

/// A database that says yes, and remembers how it was asked.
#[derive(Default)]
pub(crate) struct FakeSql {
    pub(crate) asked: Mutex<Vec<(sql::Access, sql::StatementLimits)>>,
    pub(crate) open: Arc<AtomicU64>,
}

#[async_trait::async_trait]
impl Health for FakeSql {
    async fn check(&self) -> Answer<()> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl Sql for FakeSql {
    async fn query(
        &self,
        access: sql::Access,
        statement: &str,
        _: Vec<sql::Value>,
        limits: sql::StatementLimits,
    ) -> Answer<sql::Rows> {
        self.asked.lock().unwrap().push((access, limits));
        if statement == "fail" {
            return Err(port_error(ErrorKind::Other));
        }
        Ok(sql::Rows::default())
    }

    async fn execute(
        &self,
        access: sql::Access,
        _: &str,
        _: Vec<sql::Value>,
        limits: sql::StatementLimits,
    ) -> Answer<sql::Done> {
        self.asked.lock().unwrap().push((access, limits));
        Ok(sql::Done::default())
    }

    async fn begin(&self, _: sql::Access) -> Answer<Box<dyn sql::Transaction>> {
        self.open.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(FakeTransaction(self.open.clone())))
    }
}

struct FakeTransaction(Arc<AtomicU64>);

impl Drop for FakeTransaction {
    fn drop(&mut self) {
        // As drivers do: it needs the runtime.
        tokio::runtime::Handle::current();
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait::async_trait]
impl sql::Transaction for FakeTransaction {
    async fn query(&mut self, _: &str, _: Vec<sql::Value>, _: sql::StatementLimits) -> Answer<sql::Rows> {
        Ok(sql::Rows::default())
    }

    async fn execute(&mut self, _: &str, _: Vec<sql::Value>, _: sql::StatementLimits) -> Answer<sql::Done> {
        Ok(sql::Done::default())
    }

    async fn commit(self: Box<Self>) -> Answer<()> {
        Ok(())
    }

    async fn rollback(self: Box<Self>) -> Answer<()> {
        Ok(())
    }
}

/// Collections that are always empty.
#[derive(Default)]
pub(crate) struct FakeDocuments {
    pub(crate) finds: Mutex<Vec<documents::FindOptions>>,
}

struct Empty;

#[async_trait::async_trait]
impl documents::DocumentCursor for Empty {
    async fn next(&mut self, _: usize, _: usize) -> Answer<Vec<serde_json::Value>> {
        Ok(Vec::new())
    }
}

#[async_trait::async_trait]
impl Health for FakeDocuments {
    async fn check(&self) -> Answer<()> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl Documents for FakeDocuments {
    async fn insert(&self, _: &str, documents: Vec<serde_json::Value>) -> Answer<Vec<serde_json::Value>> {
        Ok(documents.into_iter().map(|document| document["_id"].clone()).collect())
    }

    async fn find(
        &self,
        _: &str,
        _: serde_json::Value,
        options: documents::FindOptions,
    ) -> Answer<Box<dyn documents::DocumentCursor>> {
        self.finds.lock().unwrap().push(options);
        Ok(Box::new(Empty))
    }

    async fn update(
        &self,
        _: &str,
        _: serde_json::Value,
        _: serde_json::Value,
        _: documents::UpdateOptions,
    ) -> Answer<documents::Updated> {
        Ok(documents::Updated::default())
    }

    async fn replace_one(
        &self,
        _: &str,
        _: serde_json::Value,
        _: serde_json::Value,
        _: bool,
    ) -> Answer<documents::Updated> {
        Ok(documents::Updated::default())
    }

    async fn find_one_and_update(
        &self,
        _: &str,
        _: serde_json::Value,
        _: serde_json::Value,
        _: bool,
        _: documents::ReturnDocument,
    ) -> Answer<Option<serde_json::Value>> {
        Ok(None)
    }

    async fn delete(&self, _: &str, _: serde_json::Value, _: bool) -> Answer<u64> {
        Ok(0)
    }

    async fn count(&self, _: &str, _: serde_json::Value) -> Answer<u64> {
        Ok(0)
    }

    async fn aggregate(&self, _: &str, _: Vec<serde_json::Value>) -> Answer<Box<dyn documents::DocumentCursor>> {
        Ok(Box::new(Empty))
    }

    async fn ensure_index(&self, _: &str, _: &documents::Index) -> Answer<()> {
        Ok(())
    }
}

struct FakeTemplates;

#[async_trait::async_trait]
impl Templates for FakeTemplates {
    async fn render(&self, request: Request, _: RenderScope) -> Result<Content, RenderError> {
        match request.name.as_str() {
            "welcome" => Ok(Content { subject: "Welcome".into(), html: "<p>Hello</p>".into(), text: None }),
            other => Err(RenderError::UnknownTemplate(other.to_owned())),
        }
    }
}

struct FakeHealth;

impl ConnectionHealth for FakeHealth {
    fn connections(&self) -> Vec<(String, Result<Duration, String>)> {
        vec![("cache".into(), Ok(Duration::from_millis(2))), ("email".into(), Err("no answer".into()))]
    }
}

/// Everything that a call needs, to be looked into.
pub(crate) struct World {
    pub(crate) state: Arc<FakeState>,
    pub(crate) email: Arc<FakeEmail>,
    pub(crate) broker: Arc<FakeBroker>,
    pub(crate) cache: Arc<FakeCache>,
    pub(crate) sql: Arc<FakeSql>,
    pub(crate) documents: Arc<FakeDocuments>,
    pub(crate) clock: ManualClock,
    pub(crate) effects: Arc<Effects>,
    pub(crate) grants: Grants,
    pub(crate) cache_scope: String,
    pub(crate) limits: CallLimits,
    pub(crate) unknown_effects: UnknownEffects,
    message: Arc<Message>,
}

/// Grants of everything that the fakes have.
pub(crate) const ALL: &str = r#"
    cache     = [{ prefix = "", access = "read-write" }]
    publish   = ["*"]
    email     = [{ from = "*@example.com" }, { from = "default" }]
    sql       = [{ connection = "main", access = "read-write" }]
    documents = [{ connection = "main", collection = "*", access = "read-write" }]
    templates = true
    health    = true
"#;

impl World {
    /// In the test's own runtime.
    pub(crate) fn new() -> Self {
        Self::with_timeout(Duration::from_secs(30))
    }

    /// The same, with this time for a hand-over.
    pub(crate) fn with_timeout(timeout: Duration) -> Self {
        let state = Arc::new(FakeState::default());
        let clock = ManualClock::at(1_000_000);
        let io = tokio::runtime::Handle::current();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let effects = Effects::new(state.clone(), shared, io, "run-1", timeout);
        Self {
            state,
            email: Arc::default(),
            broker: Arc::default(),
            cache: Arc::default(),
            sql: Arc::default(),
            documents: Arc::default(),
            clock,
            effects: Arc::new(effects),
            grants: toml::from_str(ALL).unwrap(),
            cache_scope: "mailer:".into(),
            limits: CallLimits::default(),
            unknown_effects: UnknownEffects::Hold,
            message: Arc::new(Message::new("orders".parse().unwrap(), "{}", 1)),
        }
    }

    pub(crate) fn attempt(&self, attempt: u32) -> Attempt {
        Attempt {
            message: self.message.clone(),
            subscription: "orders-mail".parse().unwrap(),
            attempt,
            attempts_max: 5,
            unknown_effects: self.unknown_effects,
        }
    }

    /// The same ports, at another message.
    pub(crate) fn with_another_message(mut self) -> Self {
        self.message = Arc::new(Message::new("orders".parse().unwrap(), "{}", 1));
        self
    }

    pub(crate) fn identity() -> Identity {
        Identity { plugin: "mailer".parse().unwrap(), version: "1.0.0".into(), digest: Digest::from_bytes([1; 32]) }
    }

    /// The host's side of the nth attempt at the message.
    pub(crate) fn call(&self, attempt: u32) -> Call {
        self.call_with(Some(self.attempt(attempt)))
    }

    pub(crate) fn call_with(&self, attempt: Option<Attempt>) -> Call {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let ports = Ports {
            publisher: Publisher::new(self.broker.clone(), self.state.clone(), clock.clone()),
            broker: self.broker.clone(),
            state: self.state.clone(),
            clock,
            cache: self.cache.clone(),
            cache_prefix: "host:".into(),
            cache_default_ttl: Duration::from_mins(1),
            email: self.email.clone(),
            default_sender: Some(Address { name: None, address: "noreply@example.com".into() }),
            mail_limits: sandpost_mail::Limits::default(),
            sql: BTreeMap::from([("main".parse().unwrap(), self.sql.clone() as Arc<dyn Sql>)]),
            documents: BTreeMap::from([("main".parse().unwrap(), self.documents.clone() as Arc<dyn Documents>)]),
            health: Arc::new(FakeHealth),
            effects: self.effects.clone(),
            io: tokio::runtime::Handle::current(),
        };
        let context = Context {
            identity: Self::identity(),
            grants: self.grants.clone(),
            config: vec![("greeting".into(), "hello".into())],
            cache_scope: self.cache_scope.clone(),
            limits: self.limits.clone(),
            ports: Arc::new(ports),
            templates: Arc::new(FakeTemplates),
            trial: false,
        };
        Call::new(Arc::new(context), attempt, self.clock.now_ms() + 10_000)
    }

    /// Waits until nothing is at work behind the calls.
    pub(crate) async fn settled(&self) {
        wait_until(|| self.effects.at_work() == 0).await;
    }
}

/// Polls; a test that never gets there fails after five seconds.
pub(crate) async fn wait_until(condition: impl Fn() -> bool) {
    let since = std::time::Instant::now();
    while !condition() {
        assert!(since.elapsed() < Duration::from_secs(5), "the condition never came true");
        tokio::task::yield_now().await;
    }
}
