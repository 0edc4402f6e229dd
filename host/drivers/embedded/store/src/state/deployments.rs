//! Deployments of each plugin, newest last.

use crate::row::{int, length, name, time};
use crate::store::Store;
use rusqlite::{Row, params};
use sandpost_message::PluginName;
use sandpost_ports::PortError;
use sandpost_ports::state::{Deployment, Deployments};

/// Deployments that are kept of one plugin. A plugin that is rebuilt every ten minutes keeps a week.
const KEPT_MAX: i64 = 1_000;

#[async_trait::async_trait]
impl Deployments for Store {
    async fn record_deployment(&self, deployment: Deployment) -> Result<(), PortError> {
        self.write(move |work| {
            let n = work.ids.take(&work.conn, 1)?;
            work.conn
                .prepare_cached(
                    "INSERT INTO deployments (n, plugin, version, digest, deployed_at_ms, cause)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![
                    n,
                    deployment.plugin.as_str(),
                    deployment.version,
                    deployment.digest.as_str(),
                    int(deployment.deployed_at_ms),
                    deployment.cause,
                ])?;
            work.conn
                .prepare_cached(
                    "DELETE FROM deployments WHERE plugin = ?1 AND n <=
                     (SELECT n FROM deployments WHERE plugin = ?1 ORDER BY n DESC LIMIT 1 OFFSET ?2)",
                )?
                .execute(params![deployment.plugin.as_str(), KEPT_MAX])?;
            Ok(())
        })
        .await
    }

    async fn deployments(&self, plugin: &PluginName, limit: usize) -> Result<Vec<Deployment>, PortError> {
        let plugin = plugin.clone();
        self.read(move |conn| {
            conn.prepare_cached(
                "SELECT plugin, version, digest, deployed_at_ms, cause FROM deployments
                 WHERE plugin = ?1 ORDER BY n DESC LIMIT ?2",
            )?
            .query_map(params![plugin.as_str(), length(limit)], deployment)?
            .collect()
        })
        .await
    }

    async fn live_deployments(&self) -> Result<Vec<Deployment>, PortError> {
        self.read(|conn| {
            conn.prepare_cached(
                "SELECT plugin, version, digest, deployed_at_ms, cause FROM deployments
                 WHERE n IN (SELECT max(n) FROM deployments GROUP BY plugin) ORDER BY plugin",
            )?
            .query_map([], deployment)?
            .collect()
        })
        .await
    }
}

fn deployment(row: &Row<'_>) -> rusqlite::Result<Deployment> {
    Ok(Deployment {
        plugin: name(row, 0)?,
        version: row.get(1)?,
        digest: name(row, 2)?,
        deployed_at_ms: time(row.get(3)?),
        cause: row.get(4)?,
    })
}
