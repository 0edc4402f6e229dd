//! `GET /v1/plugins`: what is live, what was refused.

use crate::App;
use crate::stamp::rfc3339;
use axum::Json;
use axum::extract::State;
use sandpost_ports::plugins::PluginInfo;

/// Every plugin, by name.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct PluginsView {
    plugins: Vec<PluginView>,
}

/// One plugin. Both parts are there where a newer version was refused and the old one goes on.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct PluginView {
    name: String,
    /// The version that serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<LiveView>,
    /// Why the newest version does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<RefusedView>,
}

/// The version that serves.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct LiveView {
    version: String,
    /// The sha256 of the artifact.
    digest: String,
    /// RFC 3339, UTC, milliseconds.
    deployed_at: String,
    /// Whether it handles messages.
    handler: bool,
    /// The templates that it renders.
    templates: Vec<String>,
    /// What it may touch, a line each.
    grants: Vec<String>,
    /// Attempts at work now.
    in_flight: u64,
}

/// A version that did not go live.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct RefusedView {
    /// The sha256 of the artifact, where it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// RFC 3339, UTC, milliseconds.
    refused_at: String,
    /// Which step it failed, and why.
    reason: String,
}

impl From<PluginInfo> for PluginView {
    fn from(plugin: PluginInfo) -> Self {
        Self {
            name: plugin.name.into(),
            live: plugin.live.map(|live| LiveView {
                version: live.version,
                digest: live.digest.into(),
                deployed_at: rfc3339(live.deployed_at_ms),
                handler: live.handler,
                templates: live.templates,
                grants: live.grants,
                in_flight: live.in_flight,
            }),
            refused: plugin.refused.map(|refused| RefusedView {
                digest: refused.digest.map(String::from),
                refused_at: rfc3339(refused.refused_at_ms),
                reason: refused.reason,
            }),
        }
    }
}

/// List the plugins
#[utoipa::path(
    get, path = "/v1/plugins", tag = "plugins",
    responses((status = 200, description = "What is live and what was refused", body = PluginsView)),
)]
pub(crate) async fn list(State(app): State<App>) -> Json<PluginsView> {
    Json(PluginsView { plugins: app.plugins.list().into_iter().map(PluginView::from).collect() })
}
