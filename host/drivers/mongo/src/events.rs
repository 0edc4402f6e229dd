//! What the client tells about itself: connections of the pool, servers that come and go, and whether a call has got as
//! far as a connection.
//!
//! Events carry addresses; the log lines here do not.

use mongodb::ServerType;
use mongodb::event::EventHandler;
use mongodb::event::cmap::CmapEvent;
use mongodb::event::sdam::SdamEvent;
use sandpost_ports::health::PoolUse;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

tokio::task_local! {
    /// How often the call that runs in this task was given a connection; see [`Attempts`].
    static ATTEMPTS: Arc<AtomicU32>;
}

/// How often one call was given a connection.
///
/// The client asks its pool in the task of the call, and sends nothing before it has a connection. So nought means that
/// nothing was sent, and two that the first try failed and the client tried again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attempts(Arc<AtomicU32>);

impl Attempts {
    pub(crate) async fn of<T>(&self, call: impl Future<Output = T>) -> T {
        ATTEMPTS.scope(Arc::clone(&self.0), call).await
    }

    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How the pools of all servers stand together.
#[derive(Debug, Default)]
pub(crate) struct PoolCounts {
    open: AtomicI64,
    in_use: AtomicI64,
}

impl PoolCounts {
    pub(crate) fn pool_use(&self, max: u32) -> PoolUse {
        let read = |count: &AtomicI64| u64::try_from(count.load(Ordering::Relaxed)).unwrap_or(0);
        let in_use = read(&self.in_use);
        PoolUse { in_use, idle: read(&self.open).saturating_sub(in_use), max: max.into() }
    }
}

/// Counts connections and notes which call got one.
pub(crate) fn pool_handler(counts: Arc<PoolCounts>) -> EventHandler<CmapEvent> {
    EventHandler::callback(move |event| match event {
        CmapEvent::ConnectionCreated(_) => {
            counts.open.fetch_add(1, Ordering::Relaxed);
        }
        CmapEvent::ConnectionClosed(_) => {
            counts.open.fetch_sub(1, Ordering::Relaxed);
        }
        CmapEvent::ConnectionCheckedOut(_) => {
            counts.in_use.fetch_add(1, Ordering::Relaxed);
            // A cursor that is closed asks for a connection outside any call.
            ATTEMPTS.try_with(|attempts| attempts.fetch_add(1, Ordering::Relaxed)).ok();
        }
        CmapEvent::ConnectionCheckedIn(_) => {
            counts.in_use.fetch_sub(1, Ordering::Relaxed);
        }
        CmapEvent::PoolCleared(_) => tracing::debug!("The pool of a server was cleared."),
        _ => {}
    })
}

/// Logs a server that comes or goes. The client looks for a lost one by itself: at once, then every `heartbeat_ms`, and
/// every half second while a call waits for it.
pub(crate) fn server_handler() -> EventHandler<SdamEvent> {
    EventHandler::callback(|event| {
        let SdamEvent::ServerDescriptionChanged(change) = event else { return };
        let (before, now) = (&change.previous_description, &change.new_description);
        let is_known = |kind: ServerType| kind != ServerType::Unknown;
        match (is_known(before.server_type()), is_known(now.server_type())) {
            (false, true) => tracing::info!(role = %now.server_type(), "Connected to a MongoDB server."),
            (true, true) if before.server_type() != now.server_type() => {
                tracing::info!(role = %now.server_type(), before = %before.server_type(), "A MongoDB server changed its role.");
            }
            (true, false) => tracing::warn!("A MongoDB server was lost; trying again until it is back."),
            (false, false) if before.error().is_none() && now.error().is_some() => {
                tracing::warn!("A MongoDB server cannot be reached; trying again until it can.");
            }
            _ => {}
        }
    })
}
