//! Deployments of each plugin, in the order in which the database counted them.

use crate::SharedState;
use crate::statement::{Row, Statement};
use sandpost_message::PluginName;
use sandpost_ports::PortError;
use sandpost_ports::state::{Deployment, Deployments};

const SELECT: &str = "SELECT plugin, version, digest, deployed_at_ms, cause FROM {p}deployments";

#[async_trait::async_trait]
impl Deployments for SharedState {
    async fn record_deployment(&self, deployment: Deployment) -> Result<(), PortError> {
        let insert = Statement::new(
            "INSERT INTO {p}deployments (plugin, version, digest, deployed_at_ms, cause) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(deployment.plugin.as_str())
        .bind(deployment.version.as_str())
        .bind(deployment.digest.as_str())
        .bind(deployment.deployed_at_ms)
        .bind(deployment.cause.as_str());
        // In a table of its own, because MySQL deletes from none that it selects from.
        let forget = Statement::new(
            "DELETE FROM {p}deployments WHERE plugin = ? AND n <= (SELECT n FROM (SELECT n FROM {p}deployments \
             WHERE plugin = ? ORDER BY n DESC LIMIT 1 OFFSET ?) AS past)",
        )
        .bind(deployment.plugin.as_str())
        .bind(deployment.plugin.as_str())
        .bind(self.deployments_kept_max);
        self.database.transaction(vec![insert, forget]).await
    }

    async fn deployments(&self, plugin: &PluginName, limit: usize) -> Result<Vec<Deployment>, PortError> {
        let select = Statement::new(format!("{SELECT} WHERE plugin = ? ORDER BY n DESC LIMIT ?"));
        let rows = self.database.query(select.bind(plugin.as_str()).bind(limit)).await?;
        rows.iter().map(deployment).collect()
    }

    async fn live_deployments(&self) -> Result<Vec<Deployment>, PortError> {
        let select =
            format!("{SELECT} WHERE n IN (SELECT MAX(n) FROM {{p}}deployments GROUP BY plugin) ORDER BY plugin");
        self.database.query(Statement::new(select)).await?.iter().map(deployment).collect()
    }
}

fn deployment(row: &Row) -> Result<Deployment, PortError> {
    Ok(Deployment {
        plugin: row.name(0)?,
        version: row.text(1)?,
        digest: row.name(2)?,
        deployed_at_ms: row.time(3)?,
        cause: row.text(4)?,
    })
}
