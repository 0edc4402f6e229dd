//! Whether a connection can do its work now.

use crate::PortError;

/// One round trip to the service, as cheap as the service allows, that proves it would take work: `SELECT 1`, `PING`.
#[async_trait::async_trait]
pub trait Health: Send + Sync {
    /// Answers, or says why not. The caller bounds the time (`health_timeout_ms`) and caches the answer.
    async fn check(&self) -> Result<(), PortError>;
}
