//! The plugins that are live, as the rest of the host sees them: who handles, and what is deployed.
//!
//! `runtime` implements it over wasmtime; tests implement it over closures. `dispatch` and `ingress` know no other.

use sandpost_message::{Digest, Message, Outcome, PluginName, SubscriptionName, TimestampMs};
use std::sync::Arc;

/// The deployments of this moment.
#[async_trait::async_trait]
pub trait Plugins: Send + Sync {
    /// The handler of this plugin that is live now. Whoever holds it ends its work on that version, whatever is deployed
    /// meanwhile.
    fn handler(&self, plugin: &PluginName) -> Option<Arc<dyn Handler>>;

    /// Returns when a deployment changed after this call.
    async fn changed(&self);

    /// Every plugin that is live or was refused, by name.
    fn list(&self) -> Vec<PluginInfo>;
}

/// One version of a plugin that handles messages.
#[async_trait::async_trait]
pub trait Handler: Send + Sync {
    /// Which one it is.
    fn identity(&self) -> &Identity;

    /// The longest that one attempt can take, the host's own part included. A lease has to be longer.
    fn deadline_ms(&self) -> u64;

    /// How many further attempts may begin now. Asked before messages are pulled; nothing that is at work depends on it.
    fn admission(&self) -> Admission;

    /// Handles one delivery. Never panics for what a guest did; dropped, it ends the guest and its host calls, but an
    /// effect that was being handed over goes on to its end.
    async fn handle(&self, attempt: Attempt) -> Outcome;
}

/// How many further attempts of a handler may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// As many as there are places.
    Free,
    /// One at a time: how it ends shows how it goes on.
    One,
    /// None for now: its calls computed for long and failed.
    Rest {
        /// When to ask again; more than 0.
        wait_ms: u64,
    },
}

/// Which plugin, exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub plugin: PluginName,
    /// The manifest's version.
    pub version: String,
    /// The artifact.
    pub digest: Digest,
}

/// One delivery, as a handler needs it.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The message.
    pub message: Arc<Message>,
    /// On whose behalf.
    pub subscription: SubscriptionName,
    /// 1 on the first delivery.
    pub attempt: u32,
    /// The retry budget.
    pub attempts_max: u32,
    /// What to do about an effect that was being handed over when a host died.
    pub unknown_effects: UnknownEffects,
}

/// What a subscription says about effects whose outcome nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownEffects {
    /// Do not do it again: the message becomes a dead letter, and an operator decides.
    #[default]
    Hold,
    /// Do it again, at the risk of doing it twice.
    SendAgain,
}

/// A plugin for people: what `GET /v1/plugins` and `sandpost plugins` show.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PluginInfo {
    /// Its name.
    pub name: PluginName,
    /// What is live; none where every version was refused so far.
    pub live: Option<LivePlugin>,
    /// Why the newest version did not go live, if it did not.
    pub refused: Option<Refusal>,
}

/// The version that serves.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LivePlugin {
    /// The manifest's version.
    pub version: String,
    /// The artifact.
    pub digest: Digest,
    /// When it went live.
    pub deployed_at_ms: TimestampMs,
    /// Whether it exports `handler`.
    pub handler: bool,
    /// The templates that it exports, by name.
    pub templates: Vec<String>,
    /// What it may touch, a line each, as `sandpost explain` prints it.
    pub grants: Vec<String>,
    /// How many attempts are at work on it now.
    pub in_flight: u64,
}

/// A version that did not go live.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Refusal {
    /// The artifact, as far as it could be read.
    pub digest: Option<Digest>,
    /// When.
    pub refused_at_ms: TimestampMs,
    /// Which step it failed, and why.
    pub reason: String,
}
