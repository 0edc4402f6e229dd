//! The table of drivers: which one stands behind each port, and what they have in common once they are open.
//!
//! The only file of the host that names vendors. A new driver is a crate, a word in `config::services` and an arm here.
//!
//! Invariants
//! - Opening asks no service: a host starts with all of them down. Only a configuration that cannot work is an error.
//! - Every connection to a real service has its guard (`sandpost_guard`), but for the shared state, without which nothing can
//!   go on anyway; an embedded one has none.
//!
//! What `sandpost doctor` asks the services is in `probe`, mail that Redis paces in `pace`.

#[cfg(all(feature = "redis", feature = "ses"))]
mod pace;
mod probe;
mod redis;

use crate::config::services::{
    BrokerDriver, CacheDriver, DocumentsDriver, EmailDriver, SqlDriver, StateDriver, Word as _,
};
use crate::config::{self, Config};
use crate::exit::{Exit, Expected, chain};
use sandpost_embedded_store::Store;
use sandpost_guard::{Connection, GuardedBroker, GuardedDocuments, GuardedEmail, GuardedSql};
use sandpost_ingress::{Check, CheckRole};
use sandpost_message::ConnectionLabel;
use sandpost_ports::broker::{Broker, RecordedBroker};
use sandpost_ports::cache::{Cache, CacheServer};
use sandpost_ports::clock::Clock;
use sandpost_ports::documents::{Documents, Index};
use sandpost_ports::email::{EmailSender, Mailbox};
use sandpost_ports::health::Health;
use sandpost_ports::sql::Sql as SqlPort;
use sandpost_ports::state::{Requests, State};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use probe::probe;

/// Between two tries to make the indexes of a document database that is down.
const INDEX_RETRY: Duration = Duration::from_secs(5);

/// Everything that is open.
pub(crate) struct Connections {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) state: Arc<dyn State>,
    /// Publishers' requests: the state's, or those that hosts share through the cache.
    pub(crate) requests: Arc<dyn Requests>,
    pub(crate) cache: Arc<dyn Cache>,
    /// The server behind it, where it is Redis.
    pub(crate) cache_server: Option<Arc<dyn CacheServer>>,
    pub(crate) email: Arc<dyn EmailSender>,
    /// Where mail is caught instead of sent.
    pub(crate) mailbox: Option<Arc<dyn Mailbox>>,
    pub(crate) sql: BTreeMap<ConnectionLabel, Arc<dyn SqlPort>>,
    pub(crate) documents: BTreeMap<ConnectionLabel, Arc<dyn Documents>>,
    /// All of them once more, as probes see them.
    pub(crate) checks: Vec<Check>,
    /// The same for the health board.
    pub(crate) watched: Vec<Watched>,
    store: Store,
    /// Whether broker and state are both that store, and so a message and its step one commit.
    one_store: bool,
    closing: Vec<Closing>,
}

/// One connection, as the health board looks at it.
#[derive(Clone)]
pub(crate) struct Watched {
    pub(crate) name: String,
    pub(crate) driver: &'static str,
    pub(crate) health: Arc<dyn Health>,
}

/// What is done with a connection at the end.
type Closing = Box<dyn Fn() -> futures_util::future::BoxFuture<'static, ()> + Send + Sync>;

impl Connections {
    /// The broker that is the ledger too, where both are one store.
    pub(crate) fn recorded(&self) -> Option<Arc<dyn RecordedBroker>> {
        self.one_store.then(|| Arc::new(self.store.clone()) as Arc<dyn RecordedBroker>)
    }

    /// Writes out what is not on disk yet, and frees the files.
    pub(crate) async fn close(&self) {
        for closing in &self.closing {
            closing().await;
        }
        self.store.close().await;
    }
}

/// What is opened one after the other.
struct Opening<'a> {
    config: &'a Config,
    checks: Vec<Check>,
    watched: Vec<Watched>,
}

impl Opening<'_> {
    fn guard(&self, name: &str, driver: &'static str) -> Arc<Connection> {
        Arc::new(Connection::new(name, driver, self.config.breaker.clone()))
    }

    /// Enters a connection where probes and the health board find it.
    fn add(&mut self, name: &str, role: CheckRole, driver: &'static str, health: Arc<dyn Health>) {
        self.checks.push(Check { name: name.to_owned(), role, check: health.clone() });
        self.watched.push(Watched { name: name.to_owned(), driver, health });
    }
}

/// Opens all connections of the configuration. The folder is made where it is missing.
pub(crate) async fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Connections, Expected> {
    let folder = &config.data_dir;
    std::fs::create_dir_all(folder).map_err(|error| {
        Expected::new(Exit::Config, format!("failed to make the data folder: {error}"))
            .detail(format!("--> {}", folder.display()))
            .hint("`data_dir` or SANDPOST_DATA_DIR names another one")
    })?;
    let mut opening = Opening { config, checks: Vec::new(), watched: Vec::new() };

    let store =
        sandpost_embedded_store::open(Some(&folder.join("store.sqlite")), &config.broker.embedded, clock.clone())
            .map_err(|error| failed("the store", error))?;
    let mut closing = Vec::<Closing>::new();
    let driver = config.state.driver;
    let (state, health): (Arc<dyn State>, Arc<dyn Health>) = match driver {
        StateDriver::Embedded => (Arc::new(store.clone()), Arc::new(store.clone())),
        StateDriver::Shared => shared_state(config, &mut closing)?,
    };
    opening.add("state", CheckRole::State, driver.word(), health);

    let driver = config.broker.driver;
    let broker: Arc<dyn Broker> = match driver {
        BrokerDriver::Embedded => Arc::new(store.clone()),
        BrokerDriver::Pubsub => {
            let opened = pubsub(config, clock.clone(), &mut closing)?;
            Arc::new(GuardedBroker::new(opened, opening.guard("broker", driver.word())))
        }
    };
    opening.add("broker", CheckRole::PubSub, driver.word(), broker.clone());

    let driver = config.cache.driver;
    let (mut pace, mut cache_server) = (None, None);
    let mut requests: Arc<dyn Requests> = state.clone();
    let cache: Arc<dyn Cache> = match driver {
        CacheDriver::Embedded => Arc::new(sandpost_embedded_cache::open(&config.cache.embedded)),
        CacheDriver::Redis => {
            let opened = redis::open(config, &opening)?;
            pace = opened.pace;
            cache_server = Some(opened.server);
            requests = opened.requests.unwrap_or(requests);
            opened.cache
        }
    };
    opening.add("cache", CheckRole::Cache, driver.word(), cache.clone());

    let driver = config.email.driver;
    let mut mailbox: Option<Arc<dyn Mailbox>> = None;
    let email: Arc<dyn EmailSender> = match driver {
        EmailDriver::Embedded => {
            let mut catching = config.email.embedded.clone();
            catching.path.get_or_insert_with(|| folder.join("mail.sqlite"));
            let catcher = sandpost_embedded_email::open(catching, clock.clone())
                .map_err(|error| failed("the mail catcher", error))?;
            let catcher = Arc::new(catcher);
            mailbox = Some(catcher.clone());
            catcher
        }
        EmailDriver::Null => Arc::new(sandpost_mail::Discard),
        EmailDriver::Ses | EmailDriver::Smtp => {
            let provider = provider(config, pace).await?;
            Arc::new(GuardedEmail::new(provider, opening.guard("email", driver.word())))
        }
    };
    opening.add("email", CheckRole::Email, driver.word(), email.clone());
    let policy = sandpost_mail::Policy::parse(config.email.redirect_to.as_deref(), config.email.allowlist.as_deref())
        .map_err(|error| config::wrong(&format!("`email.redirect_to` or `email.allowlist`: {error}")))?;
    let email = sandpost_mail::Detour::before(email, policy);

    let mut sql = BTreeMap::<_, Arc<dyn SqlPort>>::new();
    for (label, one) in &config.sql {
        let (name, driver) = (format!("sql.{label}"), one.driver);
        let opened: Arc<dyn SqlPort> = match driver {
            SqlDriver::Embedded => {
                let mut embedded = one.embedded.clone();
                embedded.path.get_or_insert(in_folder(folder, "sql", label));
                sandpost_embedded_sql::open(&embedded)
                    .map_err(|error| failed(&format!("the database `{label}`"), error))?
            }
            SqlDriver::Mysql => {
                Arc::new(GuardedSql::new(mysql(label, one, &mut closing)?, opening.guard(&name, driver.word())))
            }
            SqlDriver::Postgres => {
                Arc::new(GuardedSql::new(postgres(label, one, &mut closing)?, opening.guard(&name, driver.word())))
            }
        };
        opening.add(&name, CheckRole::Database, driver.word(), opened.clone());
        sql.insert(label.clone(), opened);
    }

    let mut documents = BTreeMap::<_, Arc<dyn Documents>>::new();
    for (label, one) in &config.documents {
        let (name, driver) = (format!("documents.{label}"), one.driver);
        let opened: Arc<dyn Documents> = match driver {
            DocumentsDriver::Embedded => {
                let mut embedded = one.embedded.clone();
                embedded.path.get_or_insert(in_folder(folder, "documents", label));
                let opened = sandpost_embedded_documents::open(&embedded)
                    .map_err(|error| failed(&format!("the document database `{label}`"), error))?;
                for (collection, index) in indexes(&one.indexes) {
                    opened.ensure_index(collection, index).await.map_err(|error| {
                        failed(&format!("an index of `{collection}` in the document database `{label}`"), error)
                    })?;
                }
                opened
            }
            DocumentsDriver::Mongo => {
                let opened: Arc<dyn Documents> =
                    Arc::new(GuardedDocuments::new(mongo(label, one)?, opening.guard(&name, driver.word())));
                let making = tokio::spawn(make_indexes(name.clone(), opened.clone(), one.indexes.clone()));
                closing.push(Box::new(move || {
                    making.abort();
                    Box::pin(std::future::ready(()))
                }));
                opened
            }
        };
        opening.add(&name, CheckRole::Documents, driver.word(), opened.clone());
        documents.insert(label.clone(), opened);
    }

    let Opening { checks, watched, .. } = opening;
    Ok(Connections {
        broker,
        state,
        requests,
        cache,
        cache_server,
        email,
        mailbox,
        sql,
        documents,
        checks,
        watched,
        store,
        one_store: config.broker.driver == BrokerDriver::Embedded && config.state.driver == StateDriver::Embedded,
        closing,
    })
}

fn indexes(of: &BTreeMap<String, Vec<Index>>) -> impl Iterator<Item = (&String, &Index)> {
    of.iter().flat_map(|(collection, indexes)| indexes.iter().map(move |index| (collection, index)))
}

/// Makes what is missing as soon as the database is there. What it refuses for good is said once.
async fn make_indexes(name: String, documents: Arc<dyn Documents>, wanted: BTreeMap<String, Vec<Index>>) {
    for (collection, index) in indexes(&wanted) {
        while let Err(error) = documents.ensure_index(collection, index).await {
            if !error.is_transient() {
                tracing::error!(connection = name, collection, error = chain(&error), "An index cannot be made.");
                break;
            }
            tracing::debug!(connection = name, collection, error = chain(&error), "An index is made later.");
            tokio::time::sleep(INDEX_RETRY).await;
        }
    }
}

/// What `config` was checked for before: it names no driver that is not in the build.
fn absent<T>(word: &str) -> Result<T, Expected> {
    config::services::check_built("driver", word)?;
    Err(Expected::new(Exit::Bug, format!("the driver `{word}` is in the build and has no arm in the table of drivers")))
}

#[cfg(feature = "pubsub")]
fn pubsub(config: &Config, clock: Arc<dyn Clock>, closing: &mut Vec<Closing>) -> Result<Arc<dyn Broker>, Expected> {
    let opened =
        sandpost_pubsub::open(config.broker.pubsub.clone(), clock).map_err(|error| wrong("broker.pubsub", &error))?;
    let broker = opened.clone();
    closing.push(Box::new(move || {
        let broker = broker.clone();
        Box::pin(async move { broker.close().await })
    }));
    Ok(opened)
}

#[cfg(not(feature = "pubsub"))]
fn pubsub(_: &Config, _: Arc<dyn Clock>, _: &mut Vec<Closing>) -> Result<Arc<dyn Broker>, Expected> {
    absent("pubsub")
}

/// The same twice, as what it does and as what it is looked at.
type OpenedState = (Arc<dyn State>, Arc<dyn Health>);

#[cfg(feature = "shared")]
fn shared_state(config: &Config, closing: &mut Vec<Closing>) -> Result<OpenedState, Expected> {
    let opened = sandpost_shared_state::open(&config.state.shared).map_err(|error| wrong("state.shared", &error))?;
    let state = opened.clone();
    closing.push(Box::new(move || {
        let state = state.clone();
        Box::pin(async move { state.close().await })
    }));
    Ok((opened.clone(), opened))
}

#[cfg(not(feature = "shared"))]
fn shared_state(_: &Config, _: &mut Vec<Closing>) -> Result<OpenedState, Expected> {
    absent("shared")
}

/// The bucket is the one that several hosts share.
#[cfg(all(feature = "redis", feature = "ses"))]
fn shared_pace(pace: Option<redis::SharedPace>) -> Option<Arc<dyn sandpost_ses::Pace>> {
    pace
}

#[cfg(all(not(feature = "redis"), feature = "ses"))]
fn shared_pace(_: Option<redis::SharedPace>) -> Option<Arc<dyn sandpost_ses::Pace>> {
    None
}

#[cfg(feature = "ses")]
async fn ses(config: &Config, pace: Option<redis::SharedPace>) -> Result<Arc<sandpost_ses::Ses>, Expected> {
    let mut ses = config.email.ses.clone();
    if ses.from_address.is_none() {
        let from = config.email.from.as_deref().and_then(|from| sandpost_mail::parse_address(from).ok());
        ses.from_address = from.map(|from| from.address);
    }
    sandpost_ses::open(ses, shared_pace(pace)).await.map_err(|error| wrong("email.ses", &error))
}

#[cfg_attr(not(feature = "ses"), expect(clippy::unused_async, reason = "opening SES waits, for the profile's files"))]
#[cfg_attr(not(feature = "ses"), expect(unused_variables, reason = "no other provider is paced here"))]
async fn provider(config: &Config, pace: Option<redis::SharedPace>) -> Result<Arc<dyn EmailSender>, Expected> {
    match config.email.driver {
        #[cfg(feature = "ses")]
        EmailDriver::Ses => Ok(ses(config, pace).await?),
        #[cfg(feature = "smtp")]
        EmailDriver::Smtp => {
            Ok(sandpost_smtp::open(config.email.smtp.clone()).map_err(|error| wrong("email.smtp", &error))?)
        }
        other => absent(other.word()),
    }
}

#[cfg(feature = "mysql")]
fn mysql(
    label: &ConnectionLabel,
    config: &config::Sql,
    closing: &mut Vec<Closing>,
) -> Result<Arc<dyn SqlPort>, Expected> {
    let opened = sandpost_sql::open_mysql(&config.mysql);
    Ok(to_be_closed(opened.map_err(|error| wrong(&format!("sql.{label}.mysql"), &error))?, closing))
}

#[cfg(not(feature = "mysql"))]
fn mysql(_: &ConnectionLabel, _: &config::Sql, _: &mut Vec<Closing>) -> Result<Arc<dyn SqlPort>, Expected> {
    absent("mysql")
}

#[cfg(feature = "postgres")]
fn postgres(
    label: &ConnectionLabel,
    config: &config::Sql,
    closing: &mut Vec<Closing>,
) -> Result<Arc<dyn SqlPort>, Expected> {
    let opened = sandpost_sql::open_postgres(&config.postgres);
    Ok(to_be_closed(opened.map_err(|error| wrong(&format!("sql.{label}.postgres"), &error))?, closing))
}

#[cfg(not(feature = "postgres"))]
fn postgres(_: &ConnectionLabel, _: &config::Sql, _: &mut Vec<Closing>) -> Result<Arc<dyn SqlPort>, Expected> {
    absent("postgres")
}

#[cfg(any(feature = "mysql", feature = "postgres"))]
fn to_be_closed(database: Arc<dyn sandpost_sql::Database>, closing: &mut Vec<Closing>) -> Arc<dyn SqlPort> {
    let closed = database.clone();
    closing.push(Box::new(move || {
        let database = closed.clone();
        Box::pin(async move { database.close().await })
    }));
    database
}

#[cfg(feature = "mongo")]
fn mongo(label: &ConnectionLabel, config: &config::Documents) -> Result<Arc<dyn Documents>, Expected> {
    let opened = sandpost_mongo::open(&config.mongo);
    Ok(opened.map_err(|error| wrong(&format!("documents.{label}.mongo"), &error))?)
}

#[cfg(not(feature = "mongo"))]
fn mongo(_: &ConnectionLabel, _: &config::Documents) -> Result<Arc<dyn Documents>, Expected> {
    absent("mongo")
}

/// The same on memory alone, for the trial of a plugin: nothing that a sample does is seen by anybody.
pub(crate) mod scratch {
    use super::{Arc, BTreeMap, Cache, Clock, ConnectionLabel, Documents, EmailSender, Store};
    use sandpost_embedded_sql::SqliteSql;
    use sandpost_ports::BoxError;
    use std::collections::BTreeSet;

    pub(crate) struct Services {
        pub(crate) store: Arc<Store>,
        pub(crate) cache: Arc<dyn Cache>,
        pub(crate) email: Arc<dyn EmailSender>,
        pub(crate) sql: BTreeMap<ConnectionLabel, Arc<SqliteSql>>,
        pub(crate) documents: BTreeMap<ConnectionLabel, Arc<dyn Documents>>,
    }

    /// With these connections. Blocks for some milliseconds.
    pub(crate) fn open(
        clock: &Arc<dyn Clock>,
        sql: BTreeSet<ConnectionLabel>,
        documents: BTreeSet<ConnectionLabel>,
    ) -> Result<Services, BoxError> {
        let of_sql = sandpost_embedded_sql::Config { readers: 1, ..sandpost_embedded_sql::Config::default() };
        let of_documents = sandpost_embedded_documents::Config::default();
        // Nobody waits for what a sample left behind.
        let of_store = sandpost_embedded_store::Config { close_wait_ms: 100, ..Default::default() };
        let store = sandpost_embedded_store::open(None, &of_store, clock.clone())?;
        let email = sandpost_embedded_email::open(sandpost_embedded_email::Config::default(), clock.clone())?;
        let mut services = Services {
            store: Arc::new(store),
            cache: Arc::new(sandpost_embedded_cache::open(&sandpost_embedded_cache::Config::default())),
            email: Arc::new(email),
            sql: BTreeMap::new(),
            documents: BTreeMap::new(),
        };
        for label in sql {
            services.sql.insert(label, sandpost_embedded_sql::open(&of_sql)?);
        }
        for label in documents {
            services.documents.insert(label, sandpost_embedded_documents::open(&of_documents)?);
        }
        Ok(services)
    }
}

fn in_folder(folder: &Path, port: &str, label: &ConnectionLabel) -> PathBuf {
    folder.join(format!("{port}-{label}.sqlite"))
}

fn failed(what: &str, error: impl std::error::Error) -> Expected {
    Expected::new(Exit::Unavailable, format!("failed to open {what}: {}", chain(&error)))
}

/// A driver's configuration cannot work.
#[cfg(feature = "tls")]
fn wrong(table: &str, error: &dyn std::error::Error) -> Expected {
    Expected::new(Exit::Config, format!("failed to read config: [{table}]: {}", chain(error)))
}
