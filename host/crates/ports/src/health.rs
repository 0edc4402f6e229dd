//! Whether a connection can do its work now, and how much of its pool is in use.

use crate::PortError;

/// One round trip to the service, as cheap as the service allows, that proves it would take work: `SELECT 1`, `PING`.
#[async_trait::async_trait]
pub trait Health: Send + Sync {
    /// Answers, or says why not. The caller bounds the time (`health_timeout_ms`) and caches the answer.
    async fn check(&self) -> Result<(), PortError>;

    /// How the pool stands now, without asking the service; none where one connection serves all.
    fn pool(&self) -> Option<PoolUse> {
        None
    }
}

/// How much of a pool is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUse {
    /// Connections at work.
    pub in_use: u64,
    /// Connections that are open and wait for work.
    pub idle: u64,
    /// The most that may be open.
    pub max: u64,
}
