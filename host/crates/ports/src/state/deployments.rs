//! Deployments: which artifact of a plugin is live, and which were before.

use crate::PortError;
use sandpost_message::{Digest, PluginName, TimestampMs};

/// Where deployments are kept.
#[async_trait::async_trait]
pub trait Deployments: Send + Sync {
    /// Appends: from now on this one is the plugin's live artifact.
    async fn record_deployment(&self, deployment: Deployment) -> Result<(), PortError>;

    /// A plugin's deployments, newest first, at most `limit`.
    async fn deployments(&self, plugin: &PluginName, limit: usize) -> Result<Vec<Deployment>, PortError>;

    /// The newest of every plugin.
    async fn live_deployments(&self) -> Result<Vec<Deployment>, PortError>;
}

/// One switch of a plugin to an artifact.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Deployment {
    /// Which plugin.
    pub plugin: PluginName,
    /// The manifest's version.
    pub version: String,
    /// The artifact.
    pub digest: Digest,
    /// When it went live.
    pub deployed_at_ms: TimestampMs,
    /// What caused it: `start`, `file`, …
    pub cause: String,
}
