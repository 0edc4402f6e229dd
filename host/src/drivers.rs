//! The table of drivers: which one stands behind each port, and what they have in common once they are open.
//!
//! The only file of the host that names vendors. A new driver is a crate, a word in its configuration and an arm here.

use crate::config::{Config, Documents, Driver, Sql};
use crate::exit::{Exit, Expected, chain};
use sandpost_ingress::{Check, CheckRole};
use sandpost_message::ConnectionLabel;
use sandpost_ports::broker::{Broker, RecordedBroker};
use sandpost_ports::cache::Cache;
use sandpost_ports::clock::Clock;
use sandpost_ports::email::{EmailSender, Mailbox};
use sandpost_ports::health::Health;
use sandpost_ports::sql::Sql as SqlPort;
use sandpost_ports::state::State;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Everything that is open.
pub(crate) struct Connections {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) state: Arc<dyn State>,
    pub(crate) cache: Arc<dyn Cache>,
    pub(crate) email: Arc<dyn EmailSender>,
    /// Where mail is caught instead of sent.
    pub(crate) mailbox: Option<Arc<dyn Mailbox>>,
    pub(crate) sql: BTreeMap<ConnectionLabel, Arc<dyn SqlPort>>,
    pub(crate) documents: BTreeMap<ConnectionLabel, Arc<dyn sandpost_ports::documents::Documents>>,
    /// All of them once more, as probes see them.
    pub(crate) checks: Vec<Check>,
    store: sandpost_embedded_store::Store,
}

impl Connections {
    /// The broker that is the ledger too, where both are one store.
    pub(crate) fn recorded(&self) -> Arc<dyn RecordedBroker> {
        Arc::new(self.store.clone())
    }

    /// Each connection with its label, for the health board.
    pub(crate) fn labelled(&self) -> Vec<(String, Arc<dyn Health>)> {
        self.checks.iter().map(|check| (check.name.clone(), check.check.clone())).collect()
    }

    /// Writes out what is not on disk yet, and frees the files.
    pub(crate) async fn close(&self) {
        self.store.close().await;
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

    let Driver::Embedded = config.broker.driver;
    let store =
        sandpost_embedded_store::open(Some(&folder.join("store.sqlite")), &config.broker.embedded, clock.clone())
            .map_err(|error| failed("the store", error))?;
    let Driver::Embedded = config.cache.driver;
    let cache = Arc::new(sandpost_embedded_cache::open(&config.cache.embedded));
    let Driver::Embedded = config.email.driver;
    let mut catching = config.email.embedded.clone();
    catching.path.get_or_insert_with(|| folder.join("mail.sqlite"));
    let catcher =
        Arc::new(sandpost_embedded_email::open(catching, clock).map_err(|error| failed("the mail catcher", error))?);

    let mut checks = vec![
        check("state", CheckRole::State, Arc::new(store.clone())),
        check("broker", CheckRole::PubSub, Arc::new(store.clone())),
        check("cache", CheckRole::Cache, cache.clone()),
        check("email", CheckRole::Email, catcher.clone()),
    ];
    let mut sql = BTreeMap::<_, Arc<dyn SqlPort>>::new();
    for (label, one) in &config.sql {
        let opened = open_sql(one, in_folder(folder, "sql", label))
            .map_err(|error| failed(&format!("the database `{label}`"), error))?;
        checks.push(check(&format!("sql.{label}"), CheckRole::Database, opened.clone()));
        sql.insert(label.clone(), opened);
    }
    let mut documents = BTreeMap::<_, Arc<dyn sandpost_ports::documents::Documents>>::new();
    for (label, one) in &config.documents {
        let opened = open_documents(one, in_folder(folder, "documents", label))
            .map_err(|error| failed(&format!("the document database `{label}`"), error))?;
        checks.push(check(&format!("documents.{label}"), CheckRole::Documents, opened.clone()));
        let opened: Arc<dyn sandpost_ports::documents::Documents> = opened;
        for (collection, indexes) in &one.indexes {
            for index in indexes {
                opened.ensure_index(collection, index).await.map_err(|error| {
                    failed(&format!("an index of `{collection}` in the document database `{label}`"), error)
                })?;
            }
        }
        documents.insert(label.clone(), opened);
    }

    Ok(Connections {
        broker: Arc::new(store.clone()),
        state: Arc::new(store.clone()),
        cache,
        email: catcher.clone(),
        mailbox: Some(catcher),
        sql,
        documents,
        checks,
        store,
    })
}

/// The same on memory alone, for the trial of a plugin: nothing that a sample does is seen by anybody.
pub(crate) mod scratch {
    use super::{Arc, Cache, Clock, EmailSender, SqlPort};
    use sandpost_ports::documents::Documents;
    use sandpost_ports::{BoxError, PortError};

    pub(crate) fn store(clock: Arc<dyn Clock>) -> Result<sandpost_embedded_store::Store, BoxError> {
        Ok(sandpost_embedded_store::open(None, &sandpost_embedded_store::Config::default(), clock)?)
    }

    pub(crate) fn cache() -> Arc<dyn Cache> {
        Arc::new(sandpost_embedded_cache::open(&sandpost_embedded_cache::Config::default()))
    }

    pub(crate) fn email(clock: Arc<dyn Clock>) -> Result<Arc<dyn EmailSender>, BoxError> {
        Ok(Arc::new(sandpost_embedded_email::open(sandpost_embedded_email::Config::default(), clock)?))
    }

    pub(crate) async fn sql(scripts: &[&str]) -> Result<Arc<dyn SqlPort>, PortError> {
        let config = sandpost_embedded_sql::Config { readers: 1, ..sandpost_embedded_sql::Config::default() };
        let opened = sandpost_embedded_sql::open(&config)
            .map_err(|error| PortError::invalid("a scratch database cannot be made").because(error))?;
        for script in scripts {
            opened.execute_script(script).await?;
        }
        Ok(opened)
    }

    pub(crate) fn documents() -> Result<Arc<dyn Documents>, BoxError> {
        Ok(sandpost_embedded_documents::open(&sandpost_embedded_documents::Config::default())?)
    }
}

fn open_sql(
    config: &Sql,
    default: PathBuf,
) -> Result<Arc<sandpost_embedded_sql::SqliteSql>, sandpost_embedded_sql::OpenError> {
    let Driver::Embedded = config.driver;
    let mut config = config.embedded.clone();
    config.path.get_or_insert(default);
    sandpost_embedded_sql::open(&config)
}

fn open_documents(
    config: &Documents,
    default: PathBuf,
) -> Result<Arc<sandpost_embedded_documents::SqliteDocuments>, sandpost_embedded_documents::OpenError> {
    let Driver::Embedded = config.driver;
    let mut config = config.embedded.clone();
    config.path.get_or_insert(default);
    sandpost_embedded_documents::open(&config)
}

fn in_folder(folder: &Path, port: &str, label: &ConnectionLabel) -> PathBuf {
    folder.join(format!("{port}-{label}.sqlite"))
}

fn check(name: &str, role: CheckRole, check: Arc<dyn Health>) -> Check {
    Check { name: name.to_owned(), role, check }
}

fn failed(what: &str, error: impl std::error::Error) -> Expected {
    Expected::new(Exit::Unavailable, format!("failed to open {what}: {}", chain(&error)))
}
