//! The client behind the port: made by the first call, shared by all, bounded in connections and in time.
//!
//! Invariants
//! - A call has a permit before it asks the client for anything, and there are as many permits as connections. So a full
//!   pool is told apart from a slow server, and nothing was sent by a call that found it full.
//! - A call that is given up drops its connection; the client opens another.

use crate::config::Settings;
use crate::errors::{self, Work};
use crate::events::{self, Attempts, PoolCounts};
use mongodb::bson::Document;
use mongodb::options::ClientOptions;
use mongodb::{Client, Collection, Database};
use sandpost_ports::health::PoolUse;
use sandpost_ports::{ErrorKind, PortError};
use std::sync::Arc;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

/// What the server's log calls this client.
const APP_NAME: &str = "sandpost";

/// The client and what bounds it.
pub(crate) struct Connection {
    pub(crate) settings: Settings,
    client: OnceCell<Client>,
    permits: Semaphore,
    counts: Arc<PoolCounts>,
}

impl Connection {
    pub(crate) fn new(settings: Settings) -> Self {
        let permits = Semaphore::new(usize::try_from(settings.pool_max_connections).unwrap_or(Semaphore::MAX_PERMITS));
        Self { settings, client: OnceCell::new(), permits, counts: Arc::default() }
    }

    /// Runs one call on a collection.
    pub(crate) async fn on_collection<T, F>(
        &self,
        collection: &str,
        work: Work,
        call: impl FnOnce(Collection<Document>) -> F,
    ) -> Result<T, PortError>
    where
        F: Future<Output = mongodb::error::Result<T>>,
    {
        self.run(work, |database| call(database.collection(collection))).await
    }

    /// Runs one call: a permit, the client, the call itself, each bounded.
    pub(crate) async fn run<T, F>(&self, work: Work, call: impl FnOnce(Database) -> F) -> Result<T, PortError>
    where
        F: Future<Output = mongodb::error::Result<T>>,
    {
        let Ok(permit) = timeout(self.settings.pool_wait_max, self.permits.acquire()).await else {
            return Err(PortError::new(ErrorKind::Unavailable, "every connection of the pool is in use"));
        };
        let permit = permit.map_err(|_| PortError::new(ErrorKind::Unavailable, "the pool is closed"))?;
        let deadline = Instant::now() + self.settings.socket_timeout;
        let client = timeout_at(deadline, self.client.get_or_try_init(|| self.open()))
            .await
            .map_err(|_| errors::timed_out(Work::Read, 0))??;
        let attempts = Attempts::default();
        let answer = timeout_at(deadline, attempts.of(call(client.database(&self.settings.database)))).await;
        drop(permit);
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(errors::port_error(&error, work, attempts.count())),
            Err(_) => Err(errors::timed_out(work, attempts.count())),
        }
    }

    /// How the pool stands.
    pub(crate) fn pool_use(&self) -> PoolUse {
        self.counts.pool_use(self.settings.pool_max_connections)
    }

    /// Makes the client. It waits for a name server where the URL is `mongodb+srv`, and for nothing else.
    async fn open(&self) -> Result<Client, PortError> {
        let settings = &self.settings;
        let looked_up = timeout(settings.server_selection_timeout, ClientOptions::parse(settings.url.clone())).await;
        let mut options = match looked_up {
            Ok(Ok(options)) => options,
            Ok(Err(error)) => return Err(errors::port_error(&error, Work::Read, 0)),
            Err(_) => return Err(PortError::new(ErrorKind::Unavailable, "the name server did not answer")),
        };
        options.app_name.get_or_insert_with(|| APP_NAME.to_owned());
        options.max_pool_size = Some(settings.pool_max_connections);
        options.min_pool_size = options.min_pool_size.map(|least| least.min(settings.pool_max_connections));
        options.server_selection_timeout = Some(settings.server_selection_timeout);
        options.connect_timeout = Some(settings.connect_timeout);
        options.heartbeat_freq = Some(settings.heartbeat);
        options.cmap_event_handler = Some(events::pool_handler(Arc::clone(&self.counts)));
        options.sdam_event_handler = Some(events::server_handler());
        Client::with_options(options).map_err(|error| errors::port_error(&error, Work::Read, 0))
    }
}
