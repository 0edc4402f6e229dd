//! Ports in memory that watch what reaches them: whatever was not granted is a finding.
//!
//! They answer as services do, fail when they are told to, and carry a cause that no plugin may ever read.

use bytes::Bytes;
use sandpost_message::{PluginName, SubscriptionName, Topic};
use sandpost_ports::broker::{Backlog, Broker, Published, Subscription};
use sandpost_ports::documents::{
    DocumentCursor, Documents, FindOptions, Index, ReturnDocument, UpdateOptions, Updated,
};
use sandpost_ports::email::{EmailSender, Mail, SendError, SendingQuota};
use sandpost_ports::health::Health;
use sandpost_ports::plugins::{Handler, PluginInfo, Plugins};
use sandpost_ports::sql::{Access, Done, Rows, Sql, StatementLimits, Transaction, Value};
use sandpost_ports::{ErrorKind, PortError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

type Answer<T> = Result<T, PortError>;

/// In the cause of every failure; for the operator alone.
pub(crate) const SECRET: &str = "s3cret-cause-at-10.0.0.7";

/// What the watched ports share.
#[derive(Default)]
pub(crate) struct Watch {
    /// Whether the ports answer with failures.
    pub(crate) failing: AtomicBool,
    /// Messages that reached the broker.
    pub(crate) published: AtomicU64,
    /// Mails that reached the provider.
    pub(crate) sent: AtomicU64,
}

impl Watch {
    fn answer<T>(&self, value: T) -> Answer<T> {
        if self.failing.load(Ordering::Relaxed) {
            return Err(PortError::new(ErrorKind::Unavailable, "not reachable").because(SECRET));
        }
        Ok(value)
    }
}

/// A host without plugins.
pub(crate) struct NoPlugins;

#[async_trait::async_trait]
impl Plugins for NoPlugins {
    fn handler(&self, _: &PluginName) -> Option<Arc<dyn Handler>> {
        None
    }

    async fn changed(&self) {
        std::future::pending::<()>().await;
    }

    fn list(&self) -> Vec<PluginInfo> {
        Vec::new()
    }
}

/// Takes messages to `orders` and `mail-…`.
pub(crate) struct WatchedBroker(pub(crate) Arc<Watch>);

#[async_trait::async_trait]
impl Health for WatchedBroker {
    async fn check(&self) -> Answer<()> {
        self.0.answer(())
    }
}

#[async_trait::async_trait]
impl Broker for WatchedBroker {
    async fn publish(&self, messages: Vec<sandpost_message::Message>) -> Vec<Answer<Published>> {
        let each = messages.into_iter().map(|message| {
            let topic = message.topic.as_str();
            assert!(topic == "orders" || topic.starts_with("mail-"), "published to `{topic}` without a grant");
            assert_eq!(message.validate(), Ok(()), "a broker gets what it can take");
            let published = self.0.answer(Published { id: message.id, duplicate: false })?;
            self.0.published.fetch_add(1, Ordering::Relaxed);
            Ok(published)
        });
        each.collect()
    }

    async fn subscribe(&self, _: &SubscriptionName, _: &Topic) -> Answer<Arc<dyn Subscription>> {
        Err(PortError::unsupported("subscriptions"))
    }

    async fn backlog(&self, _: &SubscriptionName) -> Answer<Backlog> {
        self.0.answer(Backlog::default())
    }

    fn deduplicates(&self) -> bool {
        true
    }
}

/// Takes mails from the granted senders.
pub(crate) struct WatchedEmail(pub(crate) Arc<Watch>);

#[async_trait::async_trait]
impl Health for WatchedEmail {
    async fn check(&self) -> Answer<()> {
        self.0.answer(())
    }
}

#[async_trait::async_trait]
impl EmailSender for WatchedEmail {
    async fn send(&self, mail: &Mail) -> Result<String, SendError> {
        let from = mail.sender.address.as_str();
        let granted =
            from == "noreply@example.com" || from.split_once('@').is_some_and(|(_, d)| d == "news.example.com");
        assert!(granted, "sent from `{from}` without a grant");
        self.0.answer(())?;
        Ok(format!("mail-{}", self.0.sent.fetch_add(1, Ordering::Relaxed)))
    }

    async fn quota(&self) -> Answer<SendingQuota> {
        self.0.answer(SendingQuota { per_day: 200.0, sent_today: 1.0, per_second: 1.0 })
    }

    fn deduplicates(&self) -> bool {
        false
    }
}

/// A database. `granted` is none for one that nobody may reach.
pub(crate) struct WatchedSql {
    pub(crate) watch: Arc<Watch>,
    pub(crate) granted: Option<Access>,
}

impl WatchedSql {
    fn look(&self, access: Access, limits: Option<StatementLimits>) {
        assert_eq!(Some(access), self.granted, "a database without this grant");
        if let Some(limits) = limits {
            assert!(limits.rows_max > 0 && limits.timeout_ms <= 10_000, "{limits:?}");
        }
    }
}

#[async_trait::async_trait]
impl Health for WatchedSql {
    async fn check(&self) -> Answer<()> {
        self.watch.answer(())
    }
}

#[async_trait::async_trait]
impl Sql for WatchedSql {
    async fn query(&self, access: Access, _: &str, parameters: Vec<Value>, limits: StatementLimits) -> Answer<Rows> {
        self.look(access, Some(limits));
        // What came in goes out: each kind of value makes the way twice.
        let columns = parameters.iter().map(|_| sandpost_ports::sql::Column { name: "v".into(), kind: String::new() });
        self.watch.answer(Rows { columns: columns.collect(), rows: vec![parameters] })
    }

    async fn execute(&self, access: Access, _: &str, _: Vec<Value>, limits: StatementLimits) -> Answer<Done> {
        self.look(access, Some(limits));
        self.watch.answer(Done::default())
    }

    async fn begin(&self, access: Access) -> Answer<Box<dyn Transaction>> {
        self.look(access, None);
        self.watch.answer(Box::new(Open(self.watch.clone())) as Box<dyn Transaction>)
    }
}

struct Open(Arc<Watch>);

impl Drop for Open {
    fn drop(&mut self) {
        // As drivers do: rolling back needs the runtime.
        tokio::runtime::Handle::current();
    }
}

#[async_trait::async_trait]
impl Transaction for Open {
    async fn query(&mut self, _: &str, _: Vec<Value>, _: StatementLimits) -> Answer<Rows> {
        self.0.answer(Rows::default())
    }

    async fn execute(&mut self, _: &str, _: Vec<Value>, _: StatementLimits) -> Answer<Done> {
        self.0.answer(Done::default())
    }

    async fn commit(self: Box<Self>) -> Answer<()> {
        self.0.answer(())
    }

    async fn rollback(self: Box<Self>) -> Answer<()> {
        self.0.answer(())
    }
}

/// Collections: `notifications` may be written, `log-…` may be read. `granted` is false for a database that nobody may
/// reach.
pub(crate) struct WatchedDocuments {
    pub(crate) watch: Arc<Watch>,
    pub(crate) granted: bool,
}

impl WatchedDocuments {
    fn reads<T>(&self, name: &str, value: T) -> Answer<T> {
        assert!(self.granted && (name == "notifications" || name.starts_with("log-")), "read `{name}` without a grant");
        self.watch.answer(value)
    }

    fn writes<T>(&self, name: &str, value: T) -> Answer<T> {
        assert!(self.granted && name == "notifications", "wrote `{name}` without a grant");
        self.watch.answer(value)
    }
}

struct Some3(u8);

#[async_trait::async_trait]
impl DocumentCursor for Some3 {
    async fn next(&mut self, _: usize, _: usize) -> Answer<Vec<serde_json::Value>> {
        self.0 = self.0.saturating_add(1);
        Ok((self.0 <= 3).then(|| serde_json::json!({ "_id": self.0 })).into_iter().collect())
    }
}

#[async_trait::async_trait]
impl Health for WatchedDocuments {
    async fn check(&self) -> Answer<()> {
        self.watch.answer(())
    }
}

#[async_trait::async_trait]
impl Documents for WatchedDocuments {
    async fn insert(&self, name: &str, documents: Vec<serde_json::Value>) -> Answer<Vec<serde_json::Value>> {
        self.writes(name, documents.into_iter().map(|document| document["_id"].clone()).collect())
    }

    async fn find(&self, name: &str, _: serde_json::Value, options: FindOptions) -> Answer<Box<dyn DocumentCursor>> {
        assert!(options.limit.is_some(), "a find is bounded");
        self.reads(name, Box::new(Some3(0)) as Box<dyn DocumentCursor>)
    }

    async fn update(
        &self,
        name: &str,
        filter: serde_json::Value,
        update: serde_json::Value,
        _: UpdateOptions,
    ) -> Answer<Updated> {
        code(&filter);
        code(&update);
        self.writes(name, Updated::default())
    }

    async fn replace_one(&self, name: &str, _: serde_json::Value, _: serde_json::Value, _: bool) -> Answer<Updated> {
        self.writes(name, Updated::default())
    }

    async fn find_one_and_update(
        &self,
        name: &str,
        _: serde_json::Value,
        _: serde_json::Value,
        _: bool,
        _: ReturnDocument,
    ) -> Answer<Option<serde_json::Value>> {
        self.writes(name, None)
    }

    async fn delete(&self, name: &str, filter: serde_json::Value, _: bool) -> Answer<u64> {
        code(&filter);
        self.writes(name, 0)
    }

    async fn count(&self, name: &str, filter: serde_json::Value) -> Answer<u64> {
        code(&filter);
        self.reads(name, 0)
    }

    async fn aggregate(&self, name: &str, pipeline: Vec<serde_json::Value>) -> Answer<Box<dyn DocumentCursor>> {
        for stage in &pipeline {
            code(stage);
            for foreign in ["\"$out\":", "\"$merge\":", "\"$lookup\":", "\"$graphLookup\":", "\"$unionWith\":"] {
                assert!(!stage.to_string().contains(foreign), "a pipeline reaches past its collection: {stage}");
            }
        }
        self.reads(name, Box::new(Some3(0)) as Box<dyn DocumentCursor>)
    }

    async fn ensure_index(&self, _: &str, _: &Index) -> Answer<()> {
        Err(PortError::unsupported("indexes"))
    }
}

/// No code gets to a database.
fn code(value: &serde_json::Value) {
    for operator in ["\"$where\":", "\"$function\":", "\"$accumulator\":"] {
        assert!(!value.to_string().contains(operator), "code reaches the database: {value}");
    }
}

/// A cache whose keys are all in the plugin's scope; those below `shared:` may only be read.
pub(crate) struct WatchedCache {
    pub(crate) watch: Arc<Watch>,
    pub(crate) cache: sandpost_embedded_cache::MemoryCache,
}

impl WatchedCache {
    fn reads(&self, key: &str) -> Answer<()> {
        let own = key.strip_prefix("host:mailer:").unwrap_or_else(|| panic!("`{key}` is out of scope"));
        assert!(own.starts_with("user:") || own.starts_with("shared:"), "read `{own}` without a grant");
        self.watch.answer(())
    }

    fn writes(&self, key: &str) -> Answer<()> {
        assert!(key.starts_with("host:mailer:user:"), "wrote `{key}` without a grant");
        self.watch.answer(())
    }
}

#[async_trait::async_trait]
impl Health for WatchedCache {
    async fn check(&self) -> Answer<()> {
        self.watch.answer(())
    }
}

#[async_trait::async_trait]
impl sandpost_ports::cache::Cache for WatchedCache {
    async fn get_many(&self, keys: &[String]) -> Answer<Vec<Option<Bytes>>> {
        keys.iter().try_for_each(|key| self.reads(key))?;
        self.cache.get_many(keys).await
    }

    async fn set(
        &self,
        key: &str,
        value: Bytes,
        ttl: std::time::Duration,
        condition: sandpost_ports::cache::Condition,
    ) -> Answer<bool> {
        self.writes(key)?;
        self.cache.set(key, value, ttl, condition).await
    }

    async fn set_many(&self, entries: Vec<(String, Bytes)>, ttl: std::time::Duration) -> Answer<()> {
        entries.iter().try_for_each(|(key, _)| self.writes(key))?;
        self.cache.set_many(entries, ttl).await
    }

    async fn take(&self, key: &str) -> Answer<Option<Bytes>> {
        self.writes(key)?;
        self.cache.take(key).await
    }

    async fn delete(&self, keys: &[String]) -> Answer<u64> {
        keys.iter().try_for_each(|key| self.writes(key))?;
        self.cache.delete(keys).await
    }

    async fn delete_prefix(&self, prefix: &str) -> Answer<u64> {
        self.writes(prefix)?;
        self.cache.delete_prefix(prefix).await
    }

    async fn exists(&self, key: &str) -> Answer<bool> {
        self.reads(key)?;
        self.cache.exists(key).await
    }

    async fn expire(&self, key: &str, ttl: std::time::Duration) -> Answer<bool> {
        self.writes(key)?;
        self.cache.expire(key, ttl).await
    }

    async fn ttl(&self, key: &str) -> Answer<Option<std::time::Duration>> {
        self.reads(key)?;
        self.cache.ttl(key).await
    }

    async fn increment(&self, key: &str, by: i64, ttl: std::time::Duration) -> Answer<i64> {
        self.writes(key)?;
        self.cache.increment(key, by, ttl).await
    }
}
