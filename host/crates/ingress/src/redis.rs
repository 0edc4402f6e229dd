//! `GET /api/admin/redis/stats`: what the cache's Redis counts, at the path and in the shape of the origin documents' services,
//! so that dashboards of before go on.
//!
//! Not here: what Sandpost itself measures of the cache, which is in `/metrics`.

use crate::App;
use crate::reject::{Reject, Thing};
use axum::Json;
use axum::extract::State;
use sandpost_ports::cache::CacheFigures;
use std::collections::BTreeMap;

/// Fields of Redis's `INFO` by section, each under Redis's own name and as Redis words it.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct RedisStats {
    /// As `keyspace_hits`.
    stats: BTreeMap<String, String>,
    /// As `used_memory`.
    memory: BTreeMap<String, String>,
    /// As `connected_clients`.
    clients: BTreeMap<String, String>,
}

impl From<CacheFigures> for RedisStats {
    fn from(figures: CacheFigures) -> Self {
        let CacheFigures { stats, memory, clients } = figures;
        Self { stats, memory, clients }
    }
}

/// Show what the cache's Redis counts
#[utoipa::path(
    get, path = "/api/admin/redis/stats", tag = "cache",
    responses(
        (status = 200, description = "Fields of Redis's INFO, all as text", body = RedisStats),
        (status = 404, description = "The cache is not Redis"),
        (status = 501, description = "The cache is a cluster, which has no figures as a whole"),
    ),
)]
pub(crate) async fn stats(State(app): State<App>) -> Result<Json<RedisStats>, Reject> {
    let server = app.cache_server.as_ref().ok_or(Reject::Unknown(Thing::Redis))?;
    Ok(Json(server.figures().await?.into()))
}
