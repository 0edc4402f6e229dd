//! What the server counts, from `INFO`: the sections `stats`, `memory` and `clients`.
//!
//! Not on a cluster: each node has figures of its own, and there is no one answer.

use crate::cache::RedisCache;
use crate::errors::Effect;
use sandpost_ports::PortError;
use sandpost_ports::cache::{CacheFigures, CacheServer};
use std::collections::BTreeMap;

/// Fields of a section that are taken. Redis 7 has 80 in its longest.
const FIELDS_MAX: usize = 500;

#[async_trait::async_trait]
impl CacheServer for RedisCache {
    async fn figures(&self) -> Result<CacheFigures, PortError> {
        if self.link().is_cluster() {
            return Err(PortError::unsupported("a cluster has no figures as a whole; ask each node for its `INFO`"));
        }
        self.link()
            .call(Effect::Reads, async |mut line| {
                let mut pipeline = redis::pipe();
                for section in ["stats", "memory", "clients"] {
                    pipeline.cmd("INFO").arg(section);
                }
                let (stats, memory, clients): (String, String, String) = pipeline.query_async(&mut line).await?;
                Ok(CacheFigures { stats: fields(&stats), memory: fields(&memory), clients: fields(&clients) })
            })
            .await
    }
}

/// `name:value` a line; a line that begins with `#` is the section's title.
fn fields(section: &str) -> BTreeMap<String, String> {
    section
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .take(FIELDS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_read_as_it_is_written() {
        let read = fields("# Clients\r\nconnected_clients:1\r\n\r\nodd:a:b\r\nnothing\r\n");
        let expected = [("connected_clients", "1"), ("odd", "a:b")];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        let long: Vec<String> = (0..FIELDS_MAX + 5).map(|n| format!("f{n}:0\r\n")).collect();
        assert_eq!(fields(&long.concat()).len(), FIELDS_MAX);
    }
}
