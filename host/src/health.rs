//! What the host last saw of its connections: looked at every few seconds, answered from memory.
//!
//! Readiness makes its own checks (`ingress::health`); this is for plugins, which must not be able to make the host
//! call a service by asking how it is. On the same round the use of each pool is written into the metrics.

use crate::drivers::Watched;
use sandpost_interfaces::ConnectionHealth;
use sandpost_telemetry::events::connections::PoolUse;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Every connection with its last state.
#[derive(Default)]
pub(crate) struct HealthBoard {
    seen: Mutex<BTreeMap<String, Result<Duration, String>>>,
}

impl HealthBoard {
    /// Looks at all connections together, each for at most `timeout`.
    pub(crate) async fn look(&self, connections: &[Watched], timeout: Duration) {
        for Watched { name, driver, health } in connections {
            if let Some(pool) = health.pool() {
                PoolUse { connection: name, driver, in_use: pool.in_use, idle: pool.idle, max: pool.max }.emit();
            }
        }
        let looks = connections.iter().map(|Watched { name, health, .. }| async move {
            let since = Instant::now();
            let state = match tokio::time::timeout(timeout, health.check()).await {
                Ok(Ok(())) => Ok(since.elapsed()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {} ms", timeout.as_millis())),
            };
            (name.clone(), state)
        });
        let states = futures_util::future::join_all(looks).await;
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).extend(states);
    }
}

impl ConnectionHealth for HealthBoard {
    fn connections(&self) -> Vec<(String, Result<Duration, String>)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|(label, state)| (label.clone(), state.clone())).collect()
    }
}
